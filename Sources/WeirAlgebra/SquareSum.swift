/// The exact sum of squares: what `ExactSum` is for the numbers themselves, and stored as one.
///
/// The squares of numbers of everyday size (whose lowest bit is at least 2^-80, and that are below 2^45) are summed in one 256-bit integer,
/// without an allocation.
public struct SquareSum: Hashable, Sendable {
    /// Multiples of 2^-160: half of the sum, the other half is `far`.
    private var near = Wide()
    private var far = ExactSum()

    private static let nearExponent = -160

    public init() {}

    public static func == (a: SquareSum, b: SquareSum) -> Bool { a.sum == b.sum }
    public func hash(into hasher: inout Hasher) { hasher.combine(sum) }

    /// Adds the square of a finite number; what a damaged leaf gives besides is left out.
    public mutating func add(squareOf value: Double) {
        let bits = value.bitPattern
        // The square's lowest bit: how far it lies above the unit of `near`.
        let shift = 2 * (Int((bits >> 52) & 0x7ff) &- 1_075) &- Self.nearExponent
        if UInt(bitPattern: shift) <= 144 {
            let significand = UInt128(bits & 0xf_ffff_ffff_ffff | 1 << 52)
            if near.add(Wide(significand &* significand, shiftedLeft: shift)) { return }
        }
        far.addSquare(value)
    }

    public mutating func add(squareOf value: Int64) {
        let magnitude = UInt128(value.magnitude)
        if magnitude < 1 << 45, near.add(Wide(magnitude &* magnitude, shiftedLeft: 160)) { return }
        far.addSquare(value)
    }

    public mutating func add(_ other: SquareSum) {
        if near.add(other.near) {
            far.add(other.far)
        } else {
            far.add(other.sum)
        }
    }

    /// All of it.
    package var sum: ExactSum {
        var sum = far
        sum.add(multiple: near.low, ofPowerOfTwo: Self.nearExponent)
        sum.add(multiple: near.high, ofPowerOfTwo: Self.nearExponent + 128)
        return sum
    }

    public func encode(into writer: inout ByteWriter) { sum.encode(into: &writer) }

    public init(decoding reader: inout ByteReader) throws(FormatError) {
        far = try ExactSum(decoding: &reader)
        if let near = far.magnitude(inUnitsOfPowerOfTwo: Self.nearExponent) {
            self.near = near
            far = ExactSum()
        }
    }

    /// The sample's variance, `(n Σx² − (Σx)²) / (n (n − 1))`, rounded once. nil beyond Double's range.
    ///
    /// - Precondition: `count >= 2`.
    func variance(count: UInt64, sum: ExactSum) -> Double? {
        nearVariance(count: count, sum: sum) ?? exactVariance(count: count, sum: sum, squares: self.sum)
    }

    /// The same in 256 bits; nil where it does not fit.
    package func nearVariance(count: UInt64, sum: ExactSum) -> Double? {
        // (Σx)² is counted in 2^-144, Σx² in 2^-160.
        guard far.isEmptyForm, let linear = sum.nearMagnitude, linear >> 119 == 0, let minuend = near.multiplied(by: count) else {
            return nil
        }
        let (high, low) = linear.multipliedFullWidth(by: linear)
        let subtrahend = Wide(high: high << 16 | low >> 112, low: low << 16)
        // By Cauchy and Schwarz never negative, but for sums that are damaged.
        guard let numerator = minuend.subtracting(subtrahend) else { return nil }
        if numerator.isZero { return 0 }
        let divisor = UInt128(count) * UInt128(count - 1)
        let shift = numerator.leadingZeroBitCount
        let dividend = numerator.shiftedLeft(shift)
        // At least 127 bits of quotient.
        let (first, rest) = dividend.high.quotientAndRemainder(dividingBy: divisor)
        let (second, remainder) = divisor.dividingFullWidth((rest, dividend.low))
        return Wide(high: first, low: second).rounded(exponent: Self.nearExponent - shift, isInexact: remainder != 0)
    }
}

/// A 256-bit natural number.
struct Wide: Hashable, Sendable {
    var high: UInt128 = 0
    var low: UInt128 = 0

    init(high: UInt128 = 0, low: UInt128 = 0) {
        self.high = high
        self.low = low
    }

    /// - Parameter shift: at least 0; what reaches beyond 256 bits is lost.
    init(_ value: UInt128, shiftedLeft shift: Int) {
        if shift >= 128 {
            high = value << UInt128(shift - 128)
        } else {
            low = value << UInt128(shift)
            high = value >> UInt128(128 - shift)
        }
    }

    var isZero: Bool { high == 0 && low == 0 }

    var leadingZeroBitCount: Int { high == 0 ? 128 + low.leadingZeroBitCount : high.leadingZeroBitCount }

    /// False where the sum does not fit; nothing is added then.
    mutating func add(_ other: Wide) -> Bool {
        let (low, carry) = self.low.addingReportingOverflow(other.low)
        let (sum, overflow) = high.addingReportingOverflow(other.high)
        let (high, further) = sum.addingReportingOverflow(carry ? 1 : 0)
        if overflow || further { return false }
        self.low = low
        self.high = high
        return true
    }

    /// nil where the difference would be negative.
    func subtracting(_ other: Wide) -> Wide? {
        if high < other.high || (high == other.high && low < other.low) { return nil }
        let (low, borrow) = self.low.subtractingReportingOverflow(other.low)
        return Wide(high: high &- other.high &- (borrow ? 1 : 0), low: low)
    }

    /// nil where the product does not fit.
    func multiplied(by factor: UInt64) -> Wide? {
        let (carry, low) = self.low.multipliedFullWidth(by: UInt128(factor))
        let (top, high) = self.high.multipliedFullWidth(by: UInt128(factor))
        let (sum, overflow) = high.addingReportingOverflow(carry)
        return top != 0 || overflow ? nil : Wide(high: sum, low: low)
    }

    func shiftedLeft(_ shift: Int) -> Wide {
        var result = Wide(low, shiftedLeft: shift)
        if shift < 128 { result.high |= high << UInt128(shift) }
        return result
    }

    /// This number times 2^exponent, rounded to nearest, ties to even; far from the ends of Double's range.
    ///
    /// - Parameter isInexact: something more than zero and less than one unit of this number was cut off below.
    func rounded(exponent: Int, isInexact: Bool) -> Double {
        let shift = leadingZeroBitCount
        let top = shiftedLeft(shift)
        // The upper 53 bits, and what is below them.
        var significand = UInt64(truncatingIfNeeded: top.high >> 75)
        let rest = top.high & ((1 << 75) - 1)
        let half: UInt128 = 1 << 74
        let isAbove = rest > half || (rest == half && (top.low != 0 || isInexact))
        if isAbove || (rest == half && significand & 1 == 1) { significand += 1 }
        return Double(significand) * Double(sign: .plus, exponent: exponent - shift + 203, significand: 1)
    }
}
