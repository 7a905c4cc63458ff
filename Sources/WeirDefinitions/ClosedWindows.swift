import WeirAlgebra

/// That a view's tumbling, hopping and session windows are written down when they close: to the history, and to a topic where
/// one is named.
///
/// ```swift
/// struct StoreTraffic: FeatureView {
///     static var closedWindows: ClosedWindows? { ClosedWindows(allowedLateness: .minutes(5), topic: "store-traffic") }
///     …
/// }
/// ```
///
/// A window closes when the stream's watermark passes its end and `allowedLateness`; a session, when the watermark is more than
/// the gap and `allowedLateness` behind its last event. Then it is written once, as revision 0. An event that is accepted
/// later writes revision n + 1 to the history; the topic keeps revision 0.
public struct ClosedWindows: Hashable, Sendable {
    /// What goes to the topic.
    public enum Emission: String, Hashable, Sendable {
        /// Each window once, when it closes.
        case final
        /// A window's values so far with every event, also after it has closed.
        case updates
    }

    public var allowedLateness: Duration
    /// How long after a window has closed a late event still revises it; nil: always. A later one counts in the history's events
    /// and every lookup, but leaves the
    /// closed window as it is; the counter `late for a closed window` says how often.
    public var revisionsFor: Duration?
    public var topic: String?
    public var emits: Emission

    public init(allowedLateness: Duration = .zero, revisionsFor: Duration? = nil, topic: String? = nil, emits: Emission = .final) {
        self.allowedLateness = allowedLateness
        self.revisionsFor = revisionsFor
        self.topic = topic
        self.emits = emits
    }
}

/// The same as the engine sees it. Microseconds.
package struct ClosedWindowPlan: Sendable, Hashable {
    package let allowedLateness: Int64
    package let revisionsFor: Int64?
    package let topic: String?
    package let emits: ClosedWindows.Emission
    /// The view's windows that close, as indices.
    package let windows: [Int]

    init(_ policy: ClosedWindows, view: String, windows: [Window]) throws(DefinitionError) {
        func microseconds(_ duration: Duration, _ what: String) throws(DefinitionError) -> Int64 {
            guard let whole = duration.wholeMicroseconds, whole >= 0 else {
                throw DefinitionError("\(view): \(what) of its closed windows must be a whole number of microseconds, not negative")
            }
            return whole
        }
        allowedLateness = try microseconds(policy.allowedLateness, "allowedLateness")
        revisionsFor = try policy.revisionsFor.map { duration throws(DefinitionError) in try microseconds(duration, "revisionsFor") }
        topic = policy.topic
        emits = policy.emits
        self.windows = windows.indices.filter { index in
            switch windows[index].kind {
            case .tumbling(closed: false), .hopping, .session: true
            case .tumbling(closed: true), .sliding, .lifetime, .following: false
            }
        }
        if self.windows.isEmpty {
            throw DefinitionError(
                "\(view): closedWindows needs a tumbling, hopping or session window; the view's windows end at the time asked for and never close"
            )
        }
        if policy.emits == .updates, policy.topic == nil {
            throw DefinitionError("\(view): closed windows that emit updates need a topic")
        }
        for index in self.windows {
            if case .hopping(let every) = windows[index].kind, let length = windows[index].length,
                length / every > Limits.windowsPerEventMax
            {
                throw DefinitionError(
                    "\(view): an event would be in \(length / every) windows of \(windows[index].signature); closed windows allow \(Limits.windowsPerEventMax)"
                )
            }
        }
    }
}
