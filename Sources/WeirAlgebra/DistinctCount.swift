/// The set of values, by their 64-bit hashes: exact up to a bound, beyond it a HyperLogLog sketch of the same hashes. Which of
/// the two it is depends on the set alone.
public struct DistinctAccumulation<Input: HashableColumn>: Accumulation {
    @inlinable public static var usesIDs: Bool { false }
    public enum Partial: Sendable, Hashable {
        /// Ascending.
        case hashes([UInt64])
        case sketch(HyperLogLog)
    }
    public let bound: Int

    public init(exactUpTo bound: Int = Limits.exactDistinct) {
        self.bound = max(0, min(bound, Self.boundMax))
    }

    static var boundMax: Int { 100_000 }

    public var signature: String { "distinct(\(bound))" }
    @inlinable public var empty: Partial { .hashes([]) }

    @inlinable public func add(_ input: Input, at position: EventPosition, to partial: inout Partial) {
        let hash = input.stableHash
        switch partial {
        case .sketch(var sketch):
            partial = empty  // so that the registers are not copied
            sketch.insert(hash)
            partial = .sketch(sketch)
        case .hashes(var hashes):
            partial = empty
            let index = lowerBound(hashes, hash)
            if index == hashes.count || hashes[index] != hash { hashes.insert(hash, at: index) }
            partial = bounded(hashes)
        }
    }

    @inlinable func lowerBound(_ hashes: [UInt64], _ hash: UInt64) -> Int {
        var low = 0
        var high = hashes.count
        while low < high {
            let middle = (low + high) / 2
            if hashes[middle] < hash { low = middle + 1 } else { high = middle }
        }
        return low
    }

    @usableFromInline func bounded(_ hashes: [UInt64]) -> Partial {
        if hashes.count <= bound { return .hashes(hashes) }
        var sketch = HyperLogLog()
        for hash in hashes { sketch.insert(hash) }
        return .sketch(sketch)
    }

    public func merge(_ other: Partial, into partial: inout Partial) {
        switch (partial, other) {
        case (.sketch(var a), .sketch(let b)):
            a.formUnion(b)
            partial = .sketch(a)
        case (.sketch(var sketch), .hashes(let hashes)), (.hashes(let hashes), .sketch(var sketch)):
            for hash in hashes { sketch.insert(hash) }
            partial = .sketch(sketch)
        case (.hashes(let a), .hashes(let b)):
            var union: [UInt64] = []
            union.reserveCapacity(a.count + b.count)
            var (i, j) = (0, 0)
            while i < a.count || j < b.count {
                let next = j == b.count || (i < a.count && a[i] <= b[j]) ? a[i] : b[j]
                if i < a.count, a[i] == next { i += 1 }
                if j < b.count, b[j] == next { j += 1 }
                union.append(next)
            }
            partial = bounded(union)
        }
    }

    public func encode(_ partial: Partial, into writer: inout ByteWriter) {
        switch partial {
        case .hashes(let hashes):
            writer.write(UInt8(0))
            writer.writeVarint(UInt64(hashes.count))
            for hash in hashes { writer.write(hash) }
        case .sketch(let sketch):
            writer.write(UInt8(1))
            sketch.encode(into: &writer)
        }
    }

    public func decode(_ reader: inout ByteReader) throws(FormatError) -> Partial {
        if try reader.read(UInt8.self) != 0 { return .sketch(try HyperLogLog(decoding: &reader)) }
        let count = try reader.readCount(unit: 8)
        guard count <= bound else { throw FormatError("\(count) hashes, where at most \(bound) are kept") }
        var hashes: [UInt64] = []
        hashes.reserveCapacity(count)
        for _ in 0..<count {
            let hash = try reader.read(UInt64.self)
            if let last = hashes.last, last >= hash { throw FormatError("hashes that are out of order") }
            hashes.append(hash)
        }
        return .hashes(hashes)
    }
}

/// HyperLogLog with 2^12 registers (standard error 1.6 %): Flajolet, Fusy, Gandouet, Meunier (2007), with the estimator of
/// Otmar Ertl, "New cardinality estimation algorithms for HyperLogLog sketches" (2017, arXiv:1702.01284), algorithm 6: it
/// needs no correction tables and, of floating-point functions, the square root alone.
public struct HyperLogLog: Sendable, Hashable {
    private static let precision = 12
    private static let size = 1 << precision
    private static let rankMax = 64 - precision + 1
    private var registers = [UInt8](repeating: 0, count: size)

    init() {}

    @usableFromInline mutating func insert(_ hash: UInt64) {
        let index = Int(hash >> UInt64(64 - Self.precision))
        let rest = (hash << UInt64(Self.precision)) | (1 << UInt64(Self.precision - 1))
        let rank = UInt8(rest.leadingZeroBitCount + 1)
        if rank > registers[index] { registers[index] = rank }
    }

    mutating func formUnion(_ other: HyperLogLog) {
        for index in registers.indices where other.registers[index] > registers[index] { registers[index] = other.registers[index] }
    }

    @usableFromInline var estimate: Int {
        let m = Double(Self.size)
        var counts = [Int](repeating: 0, count: Self.rankMax + 1)
        for register in registers { counts[Int(register)] += 1 }
        var z = m * Self.tau(1 - Double(counts[Self.rankMax]) / m)
        for rank in (1..<Self.rankMax).reversed() { z = 0.5 * (z + Double(counts[rank])) }
        z += m * Self.sigma(Double(counts[0]) / m)
        // 1 / (2 ln 2)
        return Int((0.721_347_520_444_481_7 * m * m / z).rounded(.toNearestOrEven))
    }

    private static func sigma(_ x: Double) -> Double {
        if x == 1 { return .infinity }
        var (x, y, z) = (x, 1.0, x)
        while true {
            x *= x
            let before = z
            z += x * y
            y += y
            if z == before { return z }
        }
    }

    private static func tau(_ x: Double) -> Double {
        if x == 0 || x == 1 { return 0 }
        var (x, y, z) = (x, 1.0, 1 - x)
        while true {
            x = x.squareRoot()
            let before = z
            y *= 0.5
            z -= (1 - x) * (1 - x) * y
            if z == before { return z / 3 }
        }
    }

    /// Four registers of six bits in three bytes.
    func encode(into writer: inout ByteWriter) {
        for index in stride(from: 0, to: Self.size, by: 4) {
            var word: UInt32 = 0
            for offset in 0..<4 { word |= UInt32(registers[index + offset]) << UInt32(6 * offset) }
            writer.write(UInt8(word & 0xff))
            writer.write(UInt8(word >> 8 & 0xff))
            writer.write(UInt8(word >> 16))
        }
    }

    init(decoding reader: inout ByteReader) throws(FormatError) {
        let raw = try reader.readRaw(Self.size / 4 * 3)
        for group in 0..<Self.size / 4 {
            let word = UInt32(raw[3 * group]) | UInt32(raw[3 * group + 1]) << 8 | UInt32(raw[3 * group + 2]) << 16
            for offset in 0..<4 {
                let rank = UInt8(word >> UInt32(6 * offset) & 0x3f)
                guard Int(rank) <= Self.rankMax else { throw FormatError("a register of \(rank)") }
                registers[4 * group + offset] = rank
            }
        }
    }
}

/// How many different values there are; 0 without events.
public struct DistinctCount<Input: HashableColumn>: Aggregation {
    public let accumulator: DistinctAccumulation<Input>

    public init(exactUpTo bound: Int = Limits.exactDistinct) { accumulator = DistinctAccumulation(exactUpTo: bound) }

    public var signature: String { "distinct_count(\(accumulator.bound))" }

    @inlinable public func value(of partial: DistinctAccumulation<Input>.Partial, at time: EventTime) -> AggregateResult<Int> {
        switch partial {
        case .hashes(let hashes): .value(hashes.count)
        case .sketch(let sketch): .value(sketch.estimate)
        }
    }
}
