/// An exact sum of numbers: what was added is never rounded, so the sum is a function of the multiset alone, in any order and
/// any grouping, and one rounding at the end gives what Python's `math.fsum` returns.
///
/// Numbers of everyday size (from about 10^-6, with all of their bits, to 2^53) are summed in one 128-bit integer, without an allocation.
/// What does not fit there goes to a fixed-point number in chunks of 32 bits, each kept in a 64-bit word, so that many numbers can be added
/// before carries must be propagated (Radford M. Neal, "Fast exact summation using small and large superaccumulators", 2015,
/// arXiv:1505.05571); only the chunks in use are kept. Sums form a group: `subtract` undoes.
public struct ExactSum: Hashable, Sendable {
    /// Multiples of 2^-72: half of the sum, the other half is in the chunks.
    @usableFromInline var near: Int128 = 0
    /// `chunks[i]` counts multiples of 2^(32 · (base + i)).
    private var chunks: [Int64] = []
    private var base: Int = 0
    /// How many numbers may still be added before a carry could be lost.
    private var slack = Self.slackMax

    // Every addition changes a word by less than 2^32.
    private static let slackMax = 1 << 30
    @usableFromInline static let nearExponent = -72

    public init() {}

    public static func == (a: ExactSum, b: ExactSum) -> Bool {
        if a.chunks.isEmpty, b.chunks.isEmpty { return a.near == b.near }
        let a = a.canonical
        let b = b.canonical
        return a.chunks == b.chunks && (a.chunks.isEmpty || a.base == b.base)
    }

    public func hash(into hasher: inout Hasher) {
        let canonical = self.canonical
        hasher.combine(canonical.chunks)
        if !canonical.chunks.isEmpty { hasher.combine(canonical.base) }
    }

    /// Adds a finite number. Columns hold no others; what a damaged leaf gives is left out.
    @inlinable public mutating func add(_ value: Double) {
        let bits = value.bitPattern
        // The number is its significand · 2^(exponent − 1075): how far that lies above the unit of `near`.
        let shift = Int((bits >> 52) & 0x7ff) &- 1_075 &- Self.nearExponent
        if UInt(bitPattern: shift) <= 72 {
            let significand = Int128(truncatingIfNeeded: bits & 0xf_ffff_ffff_ffff | 1 << 52) &<< Int128(truncatingIfNeeded: shift)
            let (sum, overflow) = near.addingReportingOverflow(bits >> 63 == 0 ? significand : 0 &- significand)
            if !overflow {
                near = sum
                return
            }
        }
        if bits << 1 != 0 { addAny(value, timesPowerOfTwo: 0) }
    }

    /// Adds a finite number, times a power of two.
    public mutating func add(_ value: Double, timesPowerOfTwo shift: Int) { addAny(value, timesPowerOfTwo: shift) }

    @usableFromInline @inline(never) mutating func addAny(_ value: Double, timesPowerOfTwo shift: Int) {
        let bits = value.bitPattern
        let rawExponent = Int((bits >> 52) & 0x7ff)
        if rawExponent == 0x7ff { return }
        var significand = bits & 0xf_ffff_ffff_ffff
        if rawExponent == 0 {
            if significand == 0 { return }
        } else {
            significand |= 1 << 52
        }
        // value = significand · 2^(max(rawExponent, 1) − 1075)
        add(significand: UInt128(significand), exponent: max(rawExponent, 1) - 1_075 + shift, isNegative: value < 0)
    }

    @inlinable public mutating func add(_ value: Int64) {
        if value.magnitude < 1 << 53 {
            let (sum, overflow) = near.addingReportingOverflow(Int128(value) &<< 72)
            if !overflow {
                near = sum
                return
            }
        }
        addAny(value)
    }

    @usableFromInline @inline(never) mutating func addAny(_ value: Int64) {
        add(significand: UInt128(value.magnitude), exponent: 0, isNegative: value < 0)
    }

    /// Adds the exact square of a finite number.
    public mutating func addSquare(_ value: Double) {
        let bits = value.bitPattern
        let rawExponent = Int((bits >> 52) & 0x7ff)
        if rawExponent == 0x7ff { return }
        let significand = (bits & 0xf_ffff_ffff_ffff) | (rawExponent == 0 ? 0 : 1 << 52)
        if significand == 0 { return }
        add(
            significand: UInt128(significand) * UInt128(significand), exponent: 2 * (max(rawExponent, 1) - 1_075),
            isNegative: false)
    }

    public mutating func addSquare(_ value: Int64) {
        if value == 0 { return }
        let magnitude = UInt128(value.magnitude)
        add(significand: magnitude * magnitude, exponent: 0, isNegative: false)
    }

    /// Adds a number times a power of two.
    mutating func add(multiple: UInt128, ofPowerOfTwo exponent: Int) {
        if multiple != 0 { add(significand: multiple, exponent: exponent, isNegative: false) }
    }

    /// Nothing is in the chunks or in the near half.
    var isEmptyForm: Bool { near == 0 && chunks.isEmpty }

    /// The magnitude in units of 2^-72, where the sum has this form.
    var nearMagnitude: UInt128? { chunks.isEmpty ? near.magnitude : nil }

    /// The magnitude in units of 2^exponent, which is a multiple of 32; nil where the sum is negative, no multiple of them, or too large.
    func magnitude(inUnitsOfPowerOfTwo exponent: Int) -> Wide? {
        let sum = canonical
        guard let last = sum.chunks.last else { return Wide() }
        let first = sum.base - exponent / 32
        guard last >= 0, first >= 0, first + sum.chunks.count <= 8 else { return nil }
        var result = Wide()
        for (index, chunk) in sum.chunks.enumerated() {
            let part = Wide(UInt128(chunk), shiftedLeft: 32 * (first + index))
            result.high |= part.high
            result.low |= part.low
        }
        return result
    }

    private mutating func add(significand: UInt128, exponent: Int, isNegative: Bool) {
        let chunk = exponent >> 5
        let shift = exponent & 31
        // Up to 128 + 31 bits: the low 96 after the shift, then the rest, chunk by chunk.
        let low = UInt64(truncatingIfNeeded: significand & 0xffff_ffff) << UInt64(shift)
        var rest = significand >> 32
        prepare(chunk, chunk + 5)
        var index = chunk - base
        let sign: Int64 = isNegative ? -1 : 1
        chunks[index] += sign * Int64(low & 0xffff_ffff)
        var carry = low >> 32
        while rest != 0 || carry != 0 {
            index += 1
            let part = (UInt64(truncatingIfNeeded: rest & 0xffff_ffff) << UInt64(shift)) + carry
            chunks[index] += sign * Int64(part & 0xffff_ffff)
            carry = part >> 32
            rest >>= 32
        }
        slack -= 1
    }

    /// Makes room for chunks `low..<high` and for another addition.
    private mutating func prepare(_ low: Int, _ high: Int) {
        if slack == 0 { propagateCarries() }
        if chunks.isEmpty {
            base = low
            chunks = Array(repeating: 0, count: high - low)
            return
        }
        if low < base {
            chunks.insert(contentsOf: repeatElement(0, count: base - low), at: 0)
            base = low
        }
        if high - base > chunks.count { chunks.append(contentsOf: repeatElement(0, count: high - base - chunks.count)) }
    }

    public mutating func add(_ other: ExactSum) { combine(other, 1) }
    public mutating func subtract(_ other: ExactSum) { combine(other, -1) }

    private mutating func combine(_ other: ExactSum, _ sign: Int64) {
        let (sum, overflow) =
            sign > 0 ? near.addingReportingOverflow(other.near) : near.subtractingReportingOverflow(other.near)
        if !overflow {
            near = sum
            if other.chunks.isEmpty { return }
        }
        // Where the near halves do not fit together the other one goes to the chunks, and so do its own chunks.
        var rest = other
        if !overflow { rest.near = 0 }
        let other = rest.canonical
        if other.chunks.isEmpty { return }
        propagateCarries()
        prepare(other.base, other.base + other.chunks.count + 1)
        for (index, chunk) in other.chunks.enumerated() { chunks[other.base - base + index] += sign * chunk }
        slack = Self.slackMax - 1
    }

    /// Afterwards every chunk but the last is in 0..<2^32, and the last one carries the sign.
    private mutating func propagateCarries() {
        slack = Self.slackMax
        guard !chunks.isEmpty else { return }
        for index in 0..<chunks.count - 1 {
            let carry = chunks[index] >> 32
            chunks[index] &= 0xffff_ffff
            chunks[index + 1] += carry
        }
        while let last = chunks.last, last < -(1 << 31) || last >= 1 << 31 {
            chunks[chunks.count - 1] &= 0xffff_ffff
            chunks.append(last >> 32)
        }
    }

    /// The one form that a sum has: all of it in chunks, carries propagated, no zeros at the ends, the last chunk a signed 32-bit number.
    private var canonical: ExactSum {
        var sum = self
        if near != 0 {
            sum.near = 0
            sum.add(significand: near.magnitude, exponent: Self.nearExponent, isNegative: near < 0)
        }
        sum.propagateCarries()
        while let last = sum.chunks.last {
            // A last chunk of 0 or −1 is not needed where the one below can carry the sign by itself.
            if last == 0, sum.chunks.count == 1 || sum.chunks[sum.chunks.count - 2] < 1 << 31 {
                sum.chunks.removeLast()
            } else if last == -1, sum.chunks.count > 1, sum.chunks[sum.chunks.count - 2] >= 1 << 31 {
                sum.chunks.removeLast()
                sum.chunks[sum.chunks.count - 1] -= 1 << 32
            } else {
                break
            }
        }
        let zeros = sum.chunks.prefix { $0 == 0 }.count
        sum.chunks.removeFirst(zeros)
        sum.base += zeros
        if sum.chunks.isEmpty { sum.base = 0 }
        return sum
    }

    public var isZero: Bool { chunks.isEmpty ? near == 0 : canonical.chunks.isEmpty }

    /// The magnitude as a big integer times 2^exponent, and the sign.
    var exact: (magnitude: BigMagnitude, exponent: Int, isNegative: Bool) {
        var sum = canonical
        guard let last = sum.chunks.last else { return (BigMagnitude(), 0, false) }
        let isNegative = last < 0
        if isNegative {
            for index in sum.chunks.indices { sum.chunks[index] = -sum.chunks[index] }
            sum.propagateCarries()
        }
        return (BigMagnitude(words: sum.chunks.map { UInt32(truncatingIfNeeded: $0) }), 32 * sum.base, isNegative)
    }

    /// The sum times a power of two, rounded once to the nearest Double, ties to even. nil beyond Double's range.
    public func roundedDouble(scaledByPowerOfTwo shift: Int = 0) -> Double? {
        if chunks.isEmpty, shift == 0 { return roundedNear }
        let (magnitude, exponent, isNegative) = exact
        guard let value = magnitude.roundedDouble(exponent: exponent + shift, isInexact: false) else { return nil }
        return isNegative ? -value : value
    }

    /// The near half as a number: far from the ends of Double's range.
    private var roundedNear: Double {
        let magnitude = near.magnitude
        let surplus = 128 - magnitude.leadingZeroBitCount - 53
        var significand = UInt64(truncatingIfNeeded: magnitude)
        var exponent = Self.nearExponent
        if surplus > 0 {
            significand = UInt64(truncatingIfNeeded: magnitude &>> UInt128(truncatingIfNeeded: surplus))
            let half: UInt128 = 1 &<< UInt128(truncatingIfNeeded: surplus - 1)
            let rest = magnitude & (half &+ (half &- 1))
            if rest > half || (rest == half && significand & 1 == 1) { significand += 1 }
            exponent += surplus
        }
        let value = Double(significand) * Double(sign: .plus, exponent: exponent, significand: 1)
        return near < 0 ? -value : value
    }

    /// The sum as an integer; nil where it is none or does not fit.
    public var int64: Int64? {
        if chunks.isEmpty {
            let whole = near >> 72
            return whole << 72 == near ? Int64(truncatingIfNeeded: whole) : nil
        }
        let sum = canonical
        if sum.chunks.isEmpty { return 0 }
        guard sum.base >= 0, sum.base + sum.chunks.count <= 3 else { return nil }
        var value: Int128 = 0
        for (index, chunk) in sum.chunks.enumerated() { value += Int128(chunk) << Int128(32 * (sum.base + index)) }
        return Int64(exactly: value)
    }

    // MARK: Stored form: base as signed varint, number of chunks as varint, then each chunk as u32.

    public func encode(into writer: inout ByteWriter) {
        let sum = canonical
        writer.writeVarint(UInt64(sum.chunks.count))
        if sum.chunks.isEmpty { return }
        writer.writeSignedVarint(Int64(sum.base))
        for chunk in sum.chunks { writer.write(UInt32(truncatingIfNeeded: chunk)) }
    }

    /// - Parameter exponents: the powers of two that the terms were added with. A stored sum that reaches beyond what such terms
    ///   can reach is refused: merging it would take any amount of memory.
    public init(decoding reader: inout ByteReader, timesPowersOfTwo exponents: ClosedRange<Int64> = 0...0) throws(FormatError) {
        let count = try reader.readCount(unit: 4)
        if count == 0 { return }
        let base = try reader.readSignedVarint()
        // Squares of doubles reach from 2^-2150 to 2^2050, and 2^63 of them 64 bits further.
        let lowest = (exponents.lowerBound - 2_176) >> 5
        let highest = (exponents.upperBound + 2_144) >> 5
        guard base >= lowest, base <= highest, Int64(count) <= highest - base + 1 else {
            throw FormatError("a sum of \(count) chunks from \(base), which no sum reaches")
        }
        let start = reader
        if try readNear(&reader, count: count, base: Int(base)) { return }
        reader = start
        self.base = Int(base)
        chunks.reserveCapacity(count)
        for index in 0..<count {
            let word = try reader.read(UInt32.self)
            chunks.append(index == count - 1 ? Int64(Int32(bitPattern: word)) : Int64(word))
        }
    }

    /// Reads chunks into the near half; false where they do not fit there.
    private mutating func readNear(_ reader: inout ByteReader, count: Int, base: Int) throws(FormatError) -> Bool {
        guard base >= -3, base + count <= 2 else { return false }
        var sum: Int128 = 0
        for index in 0..<count {
            let word = try reader.read(UInt32.self)
            let chunk = Int128(index == count - 1 ? Int64(Int32(bitPattern: word)) : Int64(word))
            let shift = 32 * (base + index) - Self.nearExponent
            if shift < 0 {
                guard chunk & ((1 << Int128(-shift)) - 1) == 0 else { return false }
                sum += chunk >> Int128(-shift)
            } else {
                guard chunk.magnitude >> UInt128(126 - shift) == 0 else { return false }
                sum += chunk << Int128(shift)
            }
        }
        near = sum
        return true
    }
}
