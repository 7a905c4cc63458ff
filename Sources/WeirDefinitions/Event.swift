import WeirAlgebra
import WeirRecords

/// Something that happened, as it comes from a topic, a file or a push.
///
/// ```swift
/// struct Purchase: Event {
///     static let stream = "purchases"
///     var id: String
///     var household: Int
///     var price: Double
///     var eventTime: EventTime
/// }
/// ```
///
/// Fields have the snake_case of the coding key as their wire name (`eventTime` → `event_time`). Optional fields may be
/// absent; unknown ones are ignored. An event without an `id` property is ordered by its position in the source and is not
/// deduplicated.
public protocol Event: Codable, Sendable {
    associatedtype ID: EventID = NoID

    /// The stream's name: the Kafka topic, the table in history, the first argument of `weir ingest`.
    static var stream: String { get }
    /// What tells this event from others with the same keys and time; events that agree in all three are one event.
    var id: ID { get }
    /// When it happened.
    var eventTime: EventTime { get }

    /// The unit of event times given as numbers; nil (the default) accepts RFC 3339 text only.
    static var timestampUnit: TimestampUnit? { get }
    /// How far out of order events may come inside a partition: the watermark stays this far behind its latest event. Zero by default.
    static var disorder: Duration { get }
    /// A partition that gave nothing for this long no longer holds the stream's watermark back. A minute by default; nil: never.
    static var idleTimeout: Duration? { get }
    /// A partition whose watermark is further ahead of the stream's than this waits for the others. A day by default; nil: never.
    static var alignment: Duration? { get }
    /// Events older than the stream's watermark by more than this become dead letters. nil (the default): none.
    static var lateness: Duration? { get }
    /// Events more than this ahead of their ingest time become dead letters. nil (the default): none.
    static var maxAhead: Duration? { get }
    /// How long events are kept and count. nil (the default): for ever.
    ///
    /// At a time `t` every view of the stream has the events of `[t − timeToLive, t)` alone, as if it declared this `timeToLive` itself,
    /// or has its own where that is shorter. Events that are older than the stream's watermark by more than `timeToLive`, the longest
    /// `allowedLateness` of its views' closed windows, and up to a step (a sixteenth of `timeToLive`, a day at most) leave the history
    /// and the online store; where they come again, they stay out and are counted as `expired`. An answer that would need what is gone
    /// is an error: training sets reach back to where their windows' events are kept.
    static var timeToLive: Duration? { get }
}

/// An event whose topic does not carry JSON: Avro, Protobuf, anything.
///
/// ```swift
/// extension Purchase: MessageDecodable {
///     init(message: [UInt8]) throws {
///         let proto = try PurchaseMessage(serializedBytes: message)
///         self.init(id: proto.id, price: proto.price, …)
///     }
/// }
/// ```
///
/// Messages of the stream's topic are decoded by it; what it throws becomes the reason of a dead letter. Files, pushes and session
/// events stay JSON or CSV.
public protocol MessageDecodable: Event {
    /// - Parameter message: a message's value.
    init(message: [UInt8]) throws
}

extension Event {
    public static var timestampUnit: TimestampUnit? { nil }
    public static var disorder: Duration { .zero }
    public static var idleTimeout: Duration? { .minutes(1) }
    public static var alignment: Duration? { .days(1) }
    public static var lateness: Duration? { nil }
    public static var maxAhead: Duration? { nil }
    public static var timeToLive: Duration? { nil }
}

extension Event where ID == NoID {
    public var id: NoID { NoID() }
}

/// A type that an event's `id` can have. Ids compare as the UTF-8 bytes of their text.
public protocol EventID: Hashable, Sendable {
    /// nil for no id.
    var idText: String? { get }
    static var isPresent: Bool { get }
}

extension String: EventID {
    public var idText: String? { self }
    public static var isPresent: Bool { true }
}

extension Int: EventID {
    public var idText: String? { String(self) }
    public static var isPresent: Bool { true }
}

extension Int64: EventID {
    public var idText: String? { String(self) }
    public static var isPresent: Bool { true }
}

/// The id of events that have none.
public struct NoID: EventID {
    public init() {}
    public var idText: String? { nil }
    public static var isPresent: Bool { false }
}
