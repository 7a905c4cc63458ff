/// How far a stream is complete: no event before the watermark is expected any more.
///
/// Each input (a partition, a file, the push log) has the watermark `latest event time − disorder`. The stream's is the smallest
/// of those that are not idle, the largest where all are; it never goes back. An input that has given nothing yet holds the
/// stream's back until it counts as idle: its timer starts before its first event.
///
/// These are the semantics of Apache Flink's per-partition watermarks.
package struct Watermarks<Input: Hashable & Sendable>: Sendable {
    private struct State {
        var watermark: Int64?
        /// On a clock that never goes back; nil until the first look at it.
        var lastActivity: Int64?
        var isIdle = false
    }

    /// Microseconds that events may come out of order inside an input.
    package let disorder: Int64
    /// An input is idle when it gave nothing for longer than this; nil: never.
    package let idleTimeout: Int64?
    private var numbers: [Input: Int] = [:]
    private var states: [State?] = []
    /// The stream's watermark; nil while an input holds it back that has given nothing yet.
    package private(set) var combined: Int64?

    /// - Precondition: `idleTimeout` is positive.
    package init(disorder: Int64 = 0, idleTimeout: Int64? = nil, combined: Int64? = nil) {
        precondition(idleTimeout.map { $0 > 0 } ?? true, "an idle timeout must be positive")
        self.disorder = disorder
        self.idleTimeout = idleTimeout
        self.combined = combined
    }

    package var isIdle: Bool { states.contains { $0 != nil } && states.allSatisfy { $0?.isIdle ?? true } }

    package func watermark(of input: Input) -> Int64? { state(input)?.watermark }
    package func isIdle(_ input: Input) -> Bool { state(input)?.isIdle ?? false }

    private func state(_ input: Input) -> State? { numbers[input].flatMap { states[$0] } }

    /// Makes an input known, with the watermark that it had when it was last seen; returns its number, for `observe`.
    @discardableResult
    package mutating func add(_ input: Input, watermark: Int64? = nil, isIdle: Bool = false) -> Int {
        if let number = numbers[input] {
            if states[number] == nil { states[number] = State(watermark: watermark, isIdle: isIdle) }
            return number
        }
        numbers[input] = states.count
        states.append(State(watermark: watermark, isIdle: isIdle))
        return states.count - 1
    }

    /// The stream's watermark stays where it is until the next event moves it.
    package mutating func remove(_ input: Input) {
        if let number = numbers[input] { states[number] = nil }
    }

    /// An event came from an input.
    ///
    /// - Parameters:
    ///   - number: what `add` returned.
    ///   - countsForTime: false for an event so far ahead that its time cannot be trusted; the input is active all the same.
    package mutating func observe(_ number: Int, eventTime: Int64, now: Int64, countsForTime: Bool = true) {
        var isNew = combined == nil || states[number]!.isIdle
        states[number]!.lastActivity = now
        states[number]!.isIdle = false
        if countsForTime {
            let (time, overflow) = eventTime.subtractingReportingOverflow(disorder)
            if !overflow, time > states[number]!.watermark ?? .min {
                states[number]!.watermark = time
                isNew = true
            }
        }
        if isNew { combine() }
    }

    /// An input is there, though it has given no event.
    package mutating func wake(_ number: Int, now: Int64) {
        states[number]!.lastActivity = now
        states[number]!.isIdle = false
    }

    package mutating func markIdle(_ input: Input) {
        let number = add(input)
        guard !states[number]!.isIdle else { return }
        states[number]!.isIdle = true
        combine()
    }

    /// Looks at the clock: inputs that gave nothing for longer than the timeout become idle.
    package mutating func check(now: Int64) {
        guard let idleTimeout else { return }
        var isChanged = false
        for number in states.indices {
            guard let state = states[number], !state.isIdle else { continue }
            // A clock that went back starts the timer anew.
            if let last = state.lastActivity, last <= now {
                guard now - last > idleTimeout else { continue }
                states[number]!.isIdle = true
                isChanged = true
            } else {
                states[number]!.lastActivity = now
            }
        }
        if isChanged { combine() }
    }

    private mutating func combine() {
        var least: Int64?
        var greatest: Int64?
        for case let state? in states {
            if let watermark = state.watermark { greatest = max(greatest ?? .min, watermark) }
            if state.isIdle { continue }
            // An input that has given nothing yet holds all back.
            guard let watermark = state.watermark else { return }
            least = min(least ?? .max, watermark)
        }
        guard let next = least ?? greatest else { return }
        combined = max(combined ?? .min, next)
    }
}
