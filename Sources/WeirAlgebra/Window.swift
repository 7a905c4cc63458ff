/// Which of an entity's events count at a time `t`. See `docs/CONCEPTS.md` for the table.
public struct Window: Hashable, Sendable {
    public enum Kind: Hashable, Sendable {
        case sliding
        /// The tail moves in steps of `every` microseconds.
        case hopping(every: Int64)
        /// `closed` asks for the last closed window instead of the running one.
        case tumbling(closed: Bool)
        /// The length is the gap.
        case session
        case lifetime
        /// What happens from the time on: a label's.
        case following
    }

    public let kind: Kind
    /// Microseconds; 0 for `lifetime`. An impossible length (not positive, not whole) is kept as nil and refused at start.
    public let length: Int64?
    /// Microseconds by which tumbling and hopping windows are aligned off the epoch. An impossible one is kept as nil.
    public let offset: Int64?
    let everyIsImpossible: Bool

    private init(_ kind: Kind, _ length: Int64?, offset: Int64? = 0, everyIsImpossible: Bool = false) {
        self.kind = kind
        self.length = length
        self.offset = offset
        self.everyIsImpossible = everyIsImpossible
    }

    /// `[t − length, t)`, exact to the microsecond.
    public static func sliding(_ length: Duration) -> Window { Window(.sliding, length.wholeMicroseconds) }

    /// `[floor(t − length, every), t)`: cheaper to keep than a sliding window, since its tail moves in steps.
    ///
    /// - Parameter offset: moves the steps off the epoch; shorter than `every`.
    public static func hopping(_ length: Duration, every: Duration, offset: Duration = .zero) -> Window {
        Window(
            .hopping(every: every.wholeMicroseconds ?? 0), length.wholeMicroseconds, offset: offset.wholeMicroseconds,
            everyIsImpossible: every.wholeMicroseconds == nil)
    }

    /// `[floor(t, length), t)`: the running window, aligned to the epoch in UTC.
    ///
    /// - Parameter offset: moves the windows off the epoch, as for days of another time zone: `.hours(-8)`; shorter than the window.
    public static func tumbling(_ length: Duration, offset: Duration = .zero) -> Window {
        Window(.tumbling(closed: false), length.wholeMicroseconds, offset: offset.wholeMicroseconds)
    }

    /// The last closed window of a tumbling one: `[floor(t, length) − length, floor(t, length))`.
    public var previous: Window {
        if case .tumbling = kind { return Window(.tumbling(closed: true), length, offset: offset) }
        return Window(kind, nil)
    }

    /// The events of the session that is open at `t`: consecutive events at most `gap` apart, the last at most `gap` before `t`.
    public static func session(gap: Duration) -> Window { Window(.session, gap.wholeMicroseconds) }

    /// Everything before `t`.
    public static let lifetime = Window(.lifetime, 0)

    /// `[t, t + length)`: what is to be predicted. Of label views alone, whose values only a training set has.
    public static func following(_ length: Duration) -> Window { Window(.following, length.wholeMicroseconds) }

    /// What is impossible about this window, in words; nil for a possible one.
    public var problem: String? {
        if kind == .lifetime { return nil }
        guard let length else {
            return "its length must be a whole number of microseconds (and only a tumbling window has a .previous)"
        }
        if length <= 0 { return "its length must be positive" }
        if case .hopping(let every) = kind {
            if everyIsImpossible { return "every must be a whole number of microseconds" }
            if every <= 0 { return "every must be positive" }
            if every > length { return "every must not be longer than the window" }
        }
        guard let offset else { return "its offset must be a whole number of microseconds" }
        if offset.magnitude >= UInt64(alignment ?? length) {
            return "its offset must be shorter than \(kind == .tumbling(closed: false) ? "the window" : "every")"
        }
        return nil
    }

    /// The length of the grid that tumbling and hopping windows are aligned to.
    private var alignment: Int64? {
        switch kind {
        case .hopping(let every): every
        case .tumbling: length
        case .sliding, .session, .lifetime, .following: nil
        }
    }

    /// The start of the grid's step that holds a time.
    private func aligned(_ time: EventTime) -> EventTime {
        guard let alignment else { return time }
        let offset = offset ?? 0
        return time.advanced(by: -offset).floored(to: alignment).advanced(by: offset)
    }

    /// The fixed windows that hold an event, earliest first: `[k · every, k · every + length)` of a hopping window, the one
    /// window of a tumbling one. Empty for windows that move with the time asked for.
    public func windows(containing time: EventTime) -> [Range<Int64>] {
        guard let alignment, let length, length > 0, alignment > 0 else { return [] }
        var start = aligned(time).microseconds
        var windows: [Range<Int64>] = []
        let before = time.microseconds.subtractingClamped(length)
        while start > before {
            windows.append(start..<start.addingClamped(length))
            let (previous, overflow) = start.subtractingReportingOverflow(alignment)
            if overflow { break }
            start = previous
        }
        return windows.reversed()
    }

    /// The half-open span of time that counts at `t`. nil for a session, whose start the events decide.
    public func bounds(at t: EventTime) -> (start: EventTime, end: EventTime)? {
        let length = self.length ?? 0
        switch kind {
        case .sliding: return (t.advanced(by: -length), t)
        case .hopping: return (aligned(t.advanced(by: -length)), t)
        case .tumbling(closed: false): return (aligned(t), t)
        case .tumbling(closed: true):
            let end = aligned(t)
            return (end.advanced(by: -length), end)
        case .session: return nil
        case .lifetime: return (.distantPast, t)
        case .following: return (t, t.advanced(by: length))
        }
    }

    /// The longest time, in microseconds, that an event may lie before `t` and still count, whatever `t` is; nil for a session, whose
    /// start the events decide, for everything, and for what follows.
    package var reach: Int64? {
        let length = self.length ?? 0
        return switch kind {
        case .sliding, .tumbling(closed: false): length
        case .hopping(let every): length.addingClamped(every)
        case .tumbling(closed: true): length.addingClamped(length)
        case .session, .lifetime, .following: nil
        }
    }

    /// A stable text, part of the view's fingerprint; lengths in microseconds.
    public var signature: String {
        let length = self.length ?? 0
        let shift = offset == 0 ? "" : ",offset \(offset ?? 0)"
        switch kind {
        case .sliding: return "sliding(\(length))"
        case .hopping(let every): return "hopping(\(length),\(every)\(shift))"
        case .tumbling(let closed): return "tumbling(\(length)\(shift))" + (closed ? ".previous" : "")
        case .session: return "session(\(length))"
        case .lifetime: return "lifetime"
        case .following: return "following(\(length))"
        }
    }
}
