import WeirAlgebra

/// How an event's field is stored in a record, in history and on the wire.
public enum FieldType: String, Sendable, Hashable {
    case int64
    case float64
    case bool
    case text
    /// An `EventTime`: microseconds.
    case time
    /// Anything nested, kept as JSON text.
    case json
}

public struct Field: Sendable, Hashable {
    /// The wire name: snake_case of the coding key.
    public var name: String
    public var type: FieldType
    public var isOptional: Bool

    public init(name: String, type: FieldType, isOptional: Bool) {
        self.name = name
        self.type = type
        self.isOptional = isOptional
    }
}

/// The unit of times that are given as numbers.
public enum TimestampUnit: String, Sendable, Hashable, CaseIterable {
    case seconds, milliseconds, microseconds

    public var microseconds: Int64 {
        switch self {
        case .seconds: 1_000_000
        case .milliseconds: 1_000
        case .microseconds: 1
        }
    }
}

/// The flat shape of an event or a request: its fields in the order in which its `init(from:)` asks for them.
public struct RecordSchema: Sendable, Hashable {
    /// The stream's or the service's name, for messages.
    public var name: String
    public var fields: [Field]
    /// The unit of times that come as numbers; nil where the stream declares none, and then such a time is malformed.
    public var timestampUnit: TimestampUnit?

    public init(name: String, fields: [Field], timestampUnit: TimestampUnit?) {
        self.name = name
        self.fields = fields
        self.timestampUnit = timestampUnit
    }

    public func index(of name: String) -> Int? { fields.firstIndex { $0.name == name } }
}
