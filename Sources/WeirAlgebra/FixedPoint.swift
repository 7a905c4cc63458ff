/// Powers of two in integer arithmetic: the same bits on every platform, where `libm` differs.
enum FixedPoint {
    /// Fixed-point numbers here have 120 fractional bits.
    private static let fractionBits = 120
    private static let one: UInt128 = 1 << 120
    private static let ln2: UInt128 = (0xb1_7217_f7d1_cf79 << 64 | 0xabc9_e3b3_9803_f2f7)
    /// log2(1.01 / 0.99).
    private static let log2Gamma: UInt128 = (0x7_6308_4381_f27b << 64 | 0xb70f_3b32_03b0_dcbf)

    private static func multiply(_ a: UInt128, _ b: UInt128) -> UInt128 {
        let (high, low) = a.multipliedFullWidth(by: b)
        return (high << 8) | (low >> 120)
    }

    /// 2^fraction for 0 ≤ fraction < 1: the exponential series of fraction · ln 2, to some 2^-115.
    private static func power(fraction: UInt128) -> UInt128 {
        let x = multiply(fraction, ln2)
        var sum = one
        var term = one
        var n: UInt128 = 1
        while true {
            term = multiply(term, x) / n
            if term == 0 { return sum }
            sum += term
            n += 1
        }
    }

    /// The nearest Double of a number in [1, 2], ties to even.
    private static func rounded(_ value: UInt128) -> Double {
        let shift: UInt128 = 68
        var significand = UInt64(truncatingIfNeeded: value >> shift)
        let rest = value & ((1 << shift) - 1)
        let half: UInt128 = 1 << (shift - 1)
        if rest > half || (rest == half && significand & 1 == 1) { significand += 1 }
        return Double(significand) / 4_503_599_627_370_496
    }

    /// 2^(numerator / denominator), rounded once.
    ///
    /// - Precondition: `0 <= numerator < denominator`.
    static func pow2(_ numerator: Int64, over denominator: Int64) -> Double {
        precondition(0 <= numerator && numerator < denominator)
        let wide = UInt128(numerator)
        let (fraction, _) = UInt128(denominator).dividingFullWidth((wide >> 8, wide << 120))
        return rounded(power(fraction: fraction))
    }

    /// (1.01 / 0.99)^exponent, rounded once.
    static func powGamma(_ exponent: Int) -> Double {
        let magnitude = UInt128(exponent.magnitude) * log2Gamma
        var whole = Int(magnitude >> 120)
        var fraction = magnitude & (one - 1)
        if exponent < 0 {
            whole = -whole
            if fraction != 0 {
                whole -= 1
                fraction = one - fraction
            }
        }
        return Double(sign: .plus, exponent: whole, significand: rounded(power(fraction: fraction)))
    }
}
