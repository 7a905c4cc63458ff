/// Counts of values in bins whose bounds grow by the factor 1.01 / 0.99, so that any value of a bin is within 1 % of the bin's
/// middle: DDSketch (Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees",
/// VLDB 2019, arXiv:1908.10693).
///
/// The range of bins is fixed, whatever values come: magnitudes from 2^-30 to 2^50 have bins of their own, smaller and larger
/// ones share the outermost. That is the whole rule of collapsing, so the sketch is a function of the multiset of values.
public struct QuantileAccumulation<Input: SketchableColumn>: Accumulation {
    @inlinable public static var usesIDs: Bool { false }
    public typealias Partial = QuantileSketch

    public init() {}
    public var signature: String { "quantile_sketch" }
    public var empty: QuantileSketch { QuantileSketch() }
    public func add(_ input: Input, at position: EventPosition, to partial: inout QuantileSketch) {
        partial.insert(input.sketchValue)
    }
    public func merge(_ other: QuantileSketch, into partial: inout QuantileSketch) { partial.merge(other) }
    public func encode(_ partial: QuantileSketch, into writer: inout ByteWriter) { partial.encode(into: &writer) }
    public func decode(_ reader: inout ByteReader) throws(FormatError) -> QuantileSketch { try QuantileSketch(decoding: &reader) }
}

public struct QuantileSketch: Sendable, Hashable {
    struct Bin: Sendable, Hashable {
        /// 0 for zero; ±(1 + index in the table of bounds) for the rest.
        var number: Int32
        var count: UInt64
    }
    /// Ascending by number, which is ascending by value.
    private var bins: [Bin] = []

    init() {}

    /// - Parameter counts: of values in fixed bins, ascending by number.
    package init(counts: some Sequence<(number: Int32, count: UInt64)>) {
        bins = counts.map { Bin(number: $0.number, count: $0.count) }
    }

    var count: UInt64 { bins.reduce(0) { $0 &+ $1.count } }

    mutating func insert(_ value: Double) { add(Bin(number: SketchBins.number(of: value), count: 1)) }

    private mutating func add(_ bin: Bin) {
        var low = 0
        var high = bins.count
        while low < high {
            let middle = (low + high) / 2
            if bins[middle].number < bin.number { low = middle + 1 } else { high = middle }
        }
        if low < bins.count, bins[low].number == bin.number { bins[low].count &+= bin.count } else { bins.insert(bin, at: low) }
    }

    mutating func merge(_ other: QuantileSketch) {
        if bins.isEmpty { bins = other.bins } else { for bin in other.bins { add(bin) } }
    }

    /// The middle of the bin that holds the value of rank floor(q · (n − 1)); nil without values.
    @usableFromInline package func quantile(_ q: Double) -> Double? {
        let count = self.count
        guard count > 0 else { return nil }
        // As a Double a damaged count may be 2^64.
        let rank = UInt64(exactly: (q * Double(count - 1)).rounded(.down)) ?? .max
        var seen: UInt64 = 0
        for bin in bins {
            seen &+= bin.count
            if seen > rank { return SketchBins.middle(of: bin.number) }
        }
        return bins.last.map { SketchBins.middle(of: $0.number) }
    }

    func encode(into writer: inout ByteWriter) {
        writer.writeVarint(UInt64(bins.count))
        var previous: Int64 = 0
        for bin in bins {
            writer.writeSignedVarint(Int64(bin.number) - previous)
            writer.writeVarint(bin.count)
            previous = Int64(bin.number)
        }
    }

    init(decoding reader: inout ByteReader) throws(FormatError) {
        let count = try reader.readCount(unit: 2)
        var previous: Int64 = 0
        for index in 0..<count {
            let (number, overflow) = previous.addingReportingOverflow(try reader.readSignedVarint())
            guard !overflow, number.magnitude <= UInt64(SketchBins.count), index == 0 || number > previous else {
                throw FormatError("a bin out of order or out of range")
            }
            bins.append(Bin(number: Int32(number), count: try reader.readVarint()))
            previous = number
        }
    }
}

/// The fixed bins: bin `i` of the table holds magnitudes in (bounds[i − 1], bounds[i]].
package enum SketchBins {
    private static let lowest = -1_040
    private static let highest = 1_733
    /// gamma^lowest … gamma^highest, the same on every platform.
    private static let bounds: [Double] = (lowest...highest).map { FixedPoint.powGamma($0) }
    package static var count: Int { highest - lowest + 1 }

    private static let partsPerOctave = 64
    /// For each 64th of each power of two, from that of the first bound to that of the last, the first bound that is not below it. A 64th is
    /// shorter than a bin, so that at most one bound lies inside of it.
    private static let firstBounds: [Int16] = {
        let octaves = bounds[0].exponent...bounds[bounds.count - 1].exponent
        var index = 0
        return octaves.flatMap { octave in
            (0..<partsPerOctave).map { part in
                let start = Double(sign: .plus, exponent: Int(octave), significand: 1 + Double(part) / Double(partsPerOctave))
                while index < bounds.count - 1, bounds[index] < start { index += 1 }
                return Int16(index)
            }
        }
    }()
    private static let firstPart = part(of: bounds[0])
    private static func part(of magnitude: Double) -> Int { Int(magnitude.bitPattern >> 46) }

    /// 0 for zero; ±(1 + index of the first bound that is not below the magnitude), or of the last bound.
    package static func number(of value: Double) -> Int32 {
        if value == 0 { return 0 }
        let magnitude = abs(value)
        let part = Self.part(of: magnitude) - (firstPart & ~(partsPerOctave - 1))
        let index: Int
        if part < 0 {
            index = 0
        } else if part >= firstBounds.count {
            index = count - 1
        } else {
            let first = Int(firstBounds[part])
            index = first < count - 1 && bounds[first] < magnitude ? first + 1 : first
        }
        return value < 0 ? -Int32(index + 1) : Int32(index + 1)
    }

    /// The largest value of a bin; infinite for the last.
    package static func upperEnd(of number: Int32) -> Double {
        if number == 0 { return 0 }
        if number > 0 { return Int(number) < count ? bounds[Int(number) - 1] : .infinity }
        return number == -1 ? -.leastNonzeroMagnitude : (-bounds[Int(-number) - 2]).nextDown
    }

    static func middle(of number: Int32) -> Double {
        if number == 0 { return 0 }
        // 2 γ^i / (γ + 1), which is 1 % away from both ends of the bin; with γ = 1.01 / 0.99 that is 0.99 γ^i.
        let middle = bounds[min(Int(number.magnitude) - 1, bounds.count - 1)] * 0.99
        return number < 0 ? -middle : middle
    }
}

/// The `q` quantile with a relative error of at most 1 % (for magnitudes between 2^-30 and 2^50, and zero); null without events.
public struct Quantile<Input: SketchableColumn>: Aggregation {
    public let q: Double

    /// - Precondition: `q` is between 0 and 1.
    public init(_ q: Double) {
        precondition((0...1).contains(q), "a quantile is between 0 and 1")
        self.q = q
    }

    public var accumulator: QuantileAccumulation<Input> { QuantileAccumulation() }
    public var signature: String { "quantile(\(q))" }
    @inlinable public func value(of partial: QuantileSketch, at time: EventTime) -> AggregateResult<Double> {
        partial.quantile(q).map { .value($0) } ?? .null
    }
}
