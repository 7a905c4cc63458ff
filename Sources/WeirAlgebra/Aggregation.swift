/// Where an event stands in the total order of its entity: event time, then id, compared as UTF-8 bytes.
///
/// It borrows the id from the event that is being added and must not outlive the call that it was passed to.
public struct EventPosition {
    public let time: EventTime
    @usableFromInline let id: UnsafeRawBufferPointer

    @inlinable public init(time: EventTime, id: UnsafeRawBufferPointer) {
        self.time = time
        self.id = id
    }

    /// A copy of the id's UTF-8 bytes.
    @inlinable public var idBytes: [UInt8] { [UInt8](id) }

    @inlinable public func withIDBytes<R>(_ body: (UnsafeRawBufferPointer) -> R) -> R { body(id) }
}

/// The mergeable half of an aggregation: how events become a partial, and partials become one.
///
/// A partial is a function of the *set* of events that were added to it and of nothing else. That is what makes a value
/// independent of arrival order, batches, tiles and shards, and it is what these laws say; `WeirTesting` checks them:
///
/// - `merge(a, empty) = merge(empty, a) = a` (identity),
/// - `merge(a, merge(b, c)) = merge(merge(a, b), c)` (associativity),
/// - `merge(a, b) = merge(b, a)` (commutativity),
/// - adding an event equals merging the partial of that event alone,
/// - equal partials have equal bytes, and `decode(encode(p)) = p`.
///
/// Two features of a view whose accumulations are equal (`==`) over the same column and filter share their stored partials.
public protocol Accumulation: Hashable, Sendable {
    /// The type of the column. One of the types that a column is stored as: `Double`, `Int64`, `Bool`, `Text`.
    associatedtype Input: ColumnValue
    associatedtype Partial: Sendable

    /// A stable name with parameters, such as `sum` or `last(5)`: part of the view's fingerprint.
    var signature: String { get }

    /// Whether `add` looks at the position's id, which takes time to read; true unless said otherwise.
    static var usesIDs: Bool { get }

    /// Whether events are best added latest first, where there is a choice; false unless said otherwise. It never shows in a partial.
    var prefersLatestFirst: Bool { get }

    /// Whether `isSettled` can be true; false unless said otherwise.
    static var canSettle: Bool { get }

    /// Whether no event at `time` or further in the preferred direction (later, or earlier where `prefersLatestFirst`) can change the
    /// partial, so that those need not be looked at; false unless said otherwise.
    func isSettled(_ partial: Partial, at time: EventTime) -> Bool

    /// The partial of no events.
    var empty: Partial { get }

    func add(_ input: Input, at position: EventPosition, to partial: inout Partial)

    func merge(_ other: Partial, into partial: inout Partial)

    /// The partial of so many events, whatever their values, times and ids are; nil, which it is unless said otherwise, where it depends on
    /// them.
    func partial(ofCount count: Int) -> Partial?

    /// A compact form whose bytes are a function of the set of events. Starts with a version where it may change.
    func encode(_ partial: Partial, into writer: inout ByteWriter)

    /// - Throws: `FormatError` for bytes that `encode` cannot have written; never traps.
    func decode(_ reader: inout ByteReader) throws(FormatError) -> Partial
}

extension Accumulation {
    @inlinable public static var usesIDs: Bool { true }
    @inlinable public var prefersLatestFirst: Bool { false }
    @inlinable public static var canSettle: Bool { false }
    @inlinable public func isSettled(_ partial: Partial, at time: EventTime) -> Bool { false }
    @inlinable public func partial(ofCount count: Int) -> Partial? { nil }
}

/// What a feature makes of a partial. A user's own aggregation conforms to `Accumulation` and to this.
public protocol Aggregation: Sendable {
    associatedtype Accumulator: Accumulation
    associatedtype Value: FeatureRepresentable

    var accumulator: Accumulator { get }

    /// Adds to the accumulator's signature what changes the value but not the partial, such as `mean` or `quantile(0.9)`.
    var signature: String { get }

    /// The value at `time`; null for what has no value without events.
    func value(of partial: Accumulator.Partial, at time: EventTime) -> AggregateResult<Value>
}

extension Aggregation where Self: Accumulation, Accumulator == Self {
    public var accumulator: Self { self }
}

/// A value, or why there is none.
public enum AggregateResult<Value> {
    case value(Value)
    /// No value: no events, or too few.
    case null
    /// Null because a stated limit was passed (too many distinct values): never a guess.
    case limit
    /// Null because the number does not fit its type.
    case overflow
}

extension AggregateResult: Equatable where Value: Equatable {}
extension AggregateResult: Sendable where Value: Sendable {}
