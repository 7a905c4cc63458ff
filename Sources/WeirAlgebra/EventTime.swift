/// A moment: whole microseconds since the Unix epoch, UTC. Negative before 1970.
public struct EventTime: Hashable, Comparable, Sendable {
    /// Microseconds since 1970-01-01T00:00:00Z.
    public var microseconds: Int64

    public init(microseconds: Int64) {
        self.microseconds = microseconds
    }

    public static func < (a: EventTime, b: EventTime) -> Bool { a.microseconds < b.microseconds }

    /// Before every event.
    public static let distantPast = EventTime(microseconds: .min)
    /// After every event.
    public static let distantFuture = EventTime(microseconds: .max)

    /// The years 0 to 9999, which RFC 3339 can say. Times of events lie in them, so that arithmetic on them stays far from the ends
    /// of 64 bits.
    public static let ofEvents: ClosedRange<EventTime> =
        EventTime(microseconds: -62_167_219_200_000_000)...EventTime(microseconds: 253_402_300_799_999_999)

    /// This moment moved by a number of microseconds; stops at the ends of the range instead of trapping.
    public func advanced(by microseconds: Int64) -> EventTime {
        let (sum, overflow) = self.microseconds.addingReportingOverflow(microseconds)
        if overflow { return microseconds < 0 ? .distantPast : .distantFuture }
        return EventTime(microseconds: sum)
    }

    /// The largest multiple of `step` microseconds that is not after this moment (rounds toward −∞).
    ///
    /// - Precondition: `step > 0`.
    public func floored(to step: Int64) -> EventTime {
        let remainder = microseconds % step
        return advanced(by: remainder < 0 ? -(remainder + step) : -remainder)
    }
}

extension Int64 {
    /// The sum; the end of the range where it lies outside.
    package func addingClamped(_ other: Int64) -> Int64 {
        let (sum, overflow) = addingReportingOverflow(other)
        return overflow ? (other > 0 ? .max : .min) : sum
    }

    /// The difference; the end of the range where it lies outside.
    package func subtractingClamped(_ other: Int64) -> Int64 {
        let (difference, overflow) = subtractingReportingOverflow(other)
        return overflow ? (other > 0 ? .min : .max) : difference
    }
}

extension Duration {
    public static func minutes(_ n: Int) -> Duration { .seconds(60 * Int64(n)) }
    public static func hours(_ n: Int) -> Duration { .seconds(3_600 * Int64(n)) }
    public static func days(_ n: Int) -> Duration { .seconds(86_400 * Int64(n)) }
    public static func weeks(_ n: Int) -> Duration { .days(7 * n) }

    /// Whole microseconds, or nil where the duration is no whole number of them or too long for 64 bits.
    public var wholeMicroseconds: Int64? {
        let (seconds, attoseconds) = components
        let (micro, rest) = attoseconds.quotientAndRemainder(dividingBy: 1_000_000_000_000)
        let (scaled, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000)
        let (sum, overflow2) = scaled.addingReportingOverflow(micro)
        return rest == 0 && !overflow && !overflow2 ? sum : nil
    }
}
