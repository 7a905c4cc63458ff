/// Forward decay (Cormode, Shkapenyuk, Srivastava, Xu, "Forward decay: a practical time decay model for streaming systems",
/// ICDE 2009): a value weighs `2^((t − L) / halfLife)` with `L = floor(t, halfLife)`, rounded once, and the product is rounded
/// once. The power of two `2^(L / halfLife)` goes into the exact sum's exponent, so terms are added without rounding and no
/// weight ever grows out of range.
public struct DecayedSumAccumulation: Accumulation {
    @inlinable public static var usesIDs: Bool { false }
    public enum Partial: Sendable, Hashable {
        case none
        /// `lowest` and `highest` are the half-lives since the epoch of the terms.
        case sum(ExactSum, lowest: Int64, highest: Int64)
        /// Terms further apart than `spanMax` half-lives: a sum that is not kept.
        case beyondLimit
    }
    /// Half-lives between the earliest and the latest term.
    public static let spanMax: Int64 = 65_536

    /// Microseconds.
    public let halfLife: Int64

    /// - Precondition: positive.
    public init(halfLife: Int64) {
        precondition(halfLife > 0, "a half-life must be a positive whole number of microseconds")
        self.halfLife = halfLife
    }

    public typealias Input = Double
    public var signature: String { "decayed(\(halfLife))" }
    public var empty: Partial { .none }

    func period(_ time: EventTime) -> (number: Int64, rest: Int64) {
        let (quotient, remainder) = time.microseconds.quotientAndRemainder(dividingBy: halfLife)
        return remainder < 0 ? (quotient - 1, remainder + halfLife) : (quotient, remainder)
    }

    public func add(_ input: Double, at position: EventPosition, to partial: inout Partial) {
        let (number, rest) = period(position.time)
        var sum = ExactSum()
        sum.add(FixedPoint.pow2(rest, over: halfLife) * input, timesPowerOfTwo: Int(number))
        merge(.sum(sum, lowest: number, highest: number), into: &partial)
    }

    public func merge(_ other: Partial, into partial: inout Partial) {
        switch (partial, other) {
        case (_, .none), (.beyondLimit, _): break
        case (.none, _): partial = other
        case (_, .beyondLimit): partial = .beyondLimit
        case (.sum(var sum, let lowest, let highest), .sum(let others, let othersLowest, let othersHighest)):
            let low = min(lowest, othersLowest)
            let high = max(highest, othersHighest)
            let (span, overflow) = high.subtractingReportingOverflow(low)
            if overflow || span > Self.spanMax {
                partial = .beyondLimit
            } else {
                sum.add(others)
                partial = .sum(sum, lowest: low, highest: high)
            }
        }
    }

    public func encode(_ partial: Partial, into writer: inout ByteWriter) {
        switch partial {
        case .none: writer.write(UInt8(0))
        case .beyondLimit: writer.write(UInt8(2))
        case .sum(let sum, let lowest, let highest):
            writer.write(UInt8(1))
            writer.writeSignedVarint(lowest)
            writer.writeVarint(UInt64(highest - lowest))
            sum.encode(into: &writer)
        }
    }

    public func decode(_ reader: inout ByteReader) throws(FormatError) -> Partial {
        switch try reader.read(UInt8.self) {
        case 0: return .none
        case 2: return .beyondLimit
        case 1:
            let lowest = try reader.readSignedVarint()
            let span = try reader.readVarint()
            guard span <= UInt64(Self.spanMax) else { throw FormatError("a decayed sum over \(span) half-lives") }
            let (highest, overflow) = lowest.addingReportingOverflow(Int64(span))
            // Beyond every event time, however short the half-life.
            let times: ClosedRange<Int64> = -(1 << 60)...(1 << 60)
            guard !overflow, times.contains(lowest), times.contains(highest) else { throw FormatError("a decayed sum out of range") }
            return .sum(try ExactSum(decoding: &reader, timesPowersOfTwo: lowest...highest), lowest: lowest, highest: highest)
        default: throw FormatError("not a decayed sum")
        }
    }
}

/// The sum in which a value weighs `2^(−age / halfLife)`; 0 without events; null with status LIMIT where the terms are more than
/// 65,536 half-lives apart, OVERFLOW beyond Double's range.
public struct DecayedSum: Aggregation {
    public let accumulator: DecayedSumAccumulation

    public init(halfLife: Int64) { accumulator = DecayedSumAccumulation(halfLife: halfLife) }

    public var signature: String { "decayed_sum(\(accumulator.halfLife))" }

    public func value(of partial: DecayedSumAccumulation.Partial, at time: EventTime) -> AggregateResult<Double> {
        switch partial {
        case .none: return .value(0)
        case .beyondLimit: return .limit
        case .sum(let sum, _, _):
            let (number, rest) = accumulator.period(time)
            guard let scaled = sum.roundedDouble(scaledByPowerOfTwo: -Int(number)) else { return .overflow }
            // 2^(−rest / halfLife)
            let weight = rest == 0 ? 1 : FixedPoint.pow2(accumulator.halfLife - rest, over: accumulator.halfLife) / 2
            return .value(scaled * weight)
        }
    }
}
