/// Decides which of one thread's requests belong to a sample: at random, without a clock and without anything shared. SplitMix64 (Steele,
/// Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
package struct Sampler: Sendable {
    /// Below it a random number takes a request; nil takes all.
    private let threshold: UInt64?
    private var state = UInt64.random(in: .min ... .max)

    /// - Parameter rate: the share of requests that is taken, from 0 to 1.
    package init(rate: Double) {
        threshold = rate >= 1 ? nil : UInt64(max(0, rate) * 0x1p64)
    }

    package mutating func takes() -> Bool {
        guard let threshold else { return true }
        if threshold == 0 { return false }
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31) < threshold
    }
}
