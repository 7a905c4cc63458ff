/// A natural number of any size: enough arithmetic to round an exact quotient once.
struct BigMagnitude {
    /// 32-bit words, lowest first, without zeros at the top.
    private(set) var words: [UInt32]

    init(words: [UInt32] = []) {
        self.words = words
        trim()
    }

    init(_ value: UInt64) {
        self.init(words: [UInt32(truncatingIfNeeded: value), UInt32(value >> 32)])
    }

    var isZero: Bool { words.isEmpty }

    var bitWidth: Int { words.isEmpty ? 0 : 32 * words.count - words[words.count - 1].leadingZeroBitCount }

    private mutating func trim() {
        while words.last == 0 { words.removeLast() }
    }

    func bit(_ index: Int) -> Bool {
        index >= 0 && index / 32 < words.count && words[index / 32] & (1 << UInt32(index % 32)) != 0
    }

    /// Whether any bit below `index` is set.
    func hasBits(below index: Int) -> Bool {
        guard index > 0 else { return false }
        let whole = min(index / 32, words.count)
        if words[..<whole].contains(where: { $0 != 0 }) { return true }
        return whole < words.count && words[whole] & ((1 << UInt32(index % 32)) - 1) != 0
    }

    func shiftedLeft(_ bits: Int) -> BigMagnitude {
        if isZero || bits == 0 { return self }
        var result = Array(repeating: UInt32(0), count: bits / 32)
        let shift = UInt64(bits % 32)
        var carry: UInt64 = 0
        for word in words {
            let part = (UInt64(word) << shift) | carry
            result.append(UInt32(truncatingIfNeeded: part))
            carry = part >> 32
        }
        result.append(UInt32(carry))
        return BigMagnitude(words: result)
    }

    static func * (a: BigMagnitude, b: BigMagnitude) -> BigMagnitude {
        if a.isZero || b.isZero { return BigMagnitude() }
        var result = Array(repeating: UInt32(0), count: a.words.count + b.words.count)
        for (i, x) in a.words.enumerated() {
            var carry: UInt64 = 0
            for (j, y) in b.words.enumerated() {
                let part = UInt64(x) * UInt64(y) + UInt64(result[i + j]) + carry
                result[i + j] = UInt32(truncatingIfNeeded: part)
                carry = part >> 32
            }
            result[i + b.words.count] = UInt32(carry)
        }
        return BigMagnitude(words: result)
    }

    static func < (a: BigMagnitude, b: BigMagnitude) -> Bool {
        if a.words.count != b.words.count { return a.words.count < b.words.count }
        for index in a.words.indices.reversed() where a.words[index] != b.words[index] { return a.words[index] < b.words[index] }
        return false
    }

    /// - Precondition: `other` is not larger.
    func subtracting(_ other: BigMagnitude) -> BigMagnitude {
        var result = words
        var borrow: Int64 = 0
        for index in result.indices {
            var part = Int64(result[index]) - borrow - (index < other.words.count ? Int64(other.words[index]) : 0)
            borrow = part < 0 ? 1 : 0
            if part < 0 { part += 1 << 32 }
            result[index] = UInt32(part)
        }
        precondition(borrow == 0, "the difference would be negative")
        return BigMagnitude(words: result)
    }

    /// Quotient and whether there is a remainder, by one bit at a time: quotients here have some seventy bits.
    func divided(by divisor: BigMagnitude) -> (quotient: BigMagnitude, hasRemainder: Bool) {
        var rest = self
        var quotient: [UInt32] = []
        var shift = bitWidth - divisor.bitWidth
        if shift < 0 { return (BigMagnitude(), !isZero) }
        quotient = Array(repeating: 0, count: shift / 32 + 1)
        var shifted = divisor.shiftedLeft(shift)
        while shift >= 0 {
            if !(rest < shifted) {
                rest = rest.subtracting(shifted)
                quotient[shift / 32] |= 1 << UInt32(shift % 32)
            }
            shifted.halve()
            shift -= 1
        }
        return (BigMagnitude(words: quotient), !rest.isZero)
    }

    private mutating func halve() {
        var carry: UInt32 = 0
        for index in words.indices.reversed() {
            let word = words[index]
            words[index] = (word >> 1) | (carry << 31)
            carry = word & 1
        }
        trim()
    }

    /// This number times 2^exponent, rounded to nearest, ties to even; nil beyond Double's range.
    ///
    /// - Parameter isInexact: something more than zero and less than one unit of this number was cut off below.
    func roundedDouble(exponent: Int, isInexact: Bool) -> Double? {
        if isZero { return 0 }
        // The exponent of the lowest bit that a Double of this size keeps.
        let top = bitWidth - 1 + exponent
        let lowest = max(top - 52, -1_074)
        let cut = lowest - exponent
        var significand: UInt64 = 0
        if cut <= 0 {
            for index in words.indices { significand |= UInt64(words[index]) << UInt64(32 * index) }
            significand <<= UInt64(-cut)
        } else {
            for bit in 0..<54 where self.bit(cut + bit) { significand |= 1 << UInt64(bit) }
            let half = bit(cut - 1)
            let below = hasBits(below: cut - 1) || isInexact
            if half && (below || significand & 1 == 1) { significand += 1 }
        }
        // Rounding up may carry into the next power of two; the conversion is exact either way.
        let value = Double(sign: .plus, exponent: lowest, significand: Double(significand))
        return value.isFinite ? value : nil
    }
}

/// The sample's variance from exact sums: `(n Σx² − (Σx)²) / (n (n − 1))`, rounded once. nil beyond Double's range.
///
/// - Precondition: `count >= 2`.
package func exactVariance(count: UInt64, sum: ExactSum, squares: ExactSum) -> Double? {
    let n = BigMagnitude(count)
    let (linear, linearExponent, _) = sum.exact
    let (square, squareExponent, _) = squares.exact
    var minuend = n * square
    var subtrahend = linear * linear
    var exponent = 2 * linearExponent
    if linear.isZero {
        exponent = squareExponent
    } else if squareExponent < exponent {
        subtrahend = subtrahend.shiftedLeft(exponent - squareExponent)
        exponent = squareExponent
    } else {
        minuend = minuend.shiftedLeft(squareExponent - exponent)
    }
    // By Cauchy and Schwarz never negative, but for sums that are damaged.
    if minuend < subtrahend { return nil }
    let numerator = minuend.subtracting(subtrahend)
    if numerator.isZero { return 0 }
    let divisor = n * BigMagnitude(count - 1)
    // Enough bits for a quotient of at least 64.
    let shift = max(0, 64 + divisor.bitWidth - numerator.bitWidth)
    let (quotient, hasRemainder) = numerator.shiftedLeft(shift).divided(by: divisor)
    return quotient.roundedDouble(exponent: exponent - shift, isInexact: hasRemainder)
}
