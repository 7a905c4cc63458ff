import WeirAlgebra
import WeirRecords

/// Features of one entity, computed from one stream.
///
/// ```swift
/// struct HouseholdSpend: FeatureView {
///     typealias Subject = Household
///     static func key(of purchase: Purchase) -> Household.ID? { purchase.household }
///
///     let avgPrice28d = Aggregate.mean(\.price, over: .sliding(.days(28)))
///     let spend1h = Aggregate.sum(\.price, over: .sliding(.hours(1)))
/// }
/// ```
public protocol FeatureView: Sendable {
    associatedtype Subject: Entity
    associatedtype Source: Event

    /// The view's wire name; by default the snake_case of the type's name.
    static var name: String { get }

    /// Tells definitions of the view apart that look the same: raise it when something inside of a closure changes (a filter, the key, a
    /// computed property, a derived feature), and the store is built anew. 1 by default, at least 1.
    ///
    /// Two views of the same name and different revisions are two views, side by side: clients name one as `view@2`. The name alone is the
    /// latest revision's.
    static var revision: Int { get }

    /// Which entity an event is about; nil where it is about none, and then the view does not see it.
    static func key(of event: Source) -> Subject.ID?

    /// How long an event counts: at a time `t` the view sees events of `[t − timeToLive, t)` alone. nil (the default): all.
    ///
    /// It cuts the windows that have no length of their own: `.lifetime` (so also `first` and `last` without a window), and a `.session`
    /// that goes on for longer. A window whose length is declared must fit in, wherever it begins: `.sliding(W)`, `.tumbling(W)` and
    /// `.session(gap: W)` need W, `.hopping(W, every: h)` needs W + h, `.tumbling(W).previous` 2 W; a longer one is refused at start, and
    /// so are labels.
    ///
    /// An entity whose events are all older is unknown: empty values, NOT_FOUND. The rule holds to the microsecond, alike online, for the
    /// session's events, and in training sets; the online store keeps the view's events for as long, and lets go of them then. It is part
    /// of the view's definition: another one takes a rebuild. A lookup costs one more search, for the entity's latest event.
    static var timeToLive: Duration? { get }

    /// Whether and how windows are written down when they close. nil (the default): not.
    static var closedWindows: ClosedWindows? { get }

    /// A topic that gets an entity's features whenever they change: once for all events of it that a commit takes, as of its latest
    /// event, which counts. nil (the default): none. It costs a read of the entity's events from the history.
    static var updatesTopic: String? { get }

    init()
}

extension FeatureView {
    public static var name: String { wireName(String(describing: Self.self)) }
    public static var revision: Int { 1 }
    public static var timeToLive: Duration? { nil }
    public static var closedWindows: ClosedWindows? { nil }
    public static var updatesTopic: String? { nil }
    public typealias Aggregate = Aggregations<Source>

    /// What the stores name the view by.
    static var storedName: String { revision == 1 ? name : "\(name)@\(revision)" }
}

/// A definition that cannot work, found at start: which one, what is wrong, what would be right.
public struct DefinitionError: Error, Hashable, CustomStringConvertible {
    public var description: String

    public init(_ description: String) {
        self.description = description
    }
}
