/// A value for a field that older events do not have.
///
/// ```swift
/// struct Purchase: Event {
///     …
///     @Default<One> var quantity: Int        // events written before the field existed count as one piece
/// }
/// enum One: DefaultValue { static let defaultValue = 1 }
/// ```
///
/// The field is optional in JSON, CSV and the history; absent or null, it has the default. `Zero`, `EmptyText` and `False` are
/// at hand.
@propertyWrapper
public struct Default<Provider: DefaultValue>: Codable, Sendable {
    public var wrappedValue: Provider.Value

    public init(wrappedValue: Provider.Value) { self.wrappedValue = wrappedValue }
    public init() { wrappedValue = Provider.defaultValue }

    public init(from decoder: any Decoder) throws { wrappedValue = try Provider.Value(from: decoder) }
    public func encode(to encoder: any Encoder) throws { try wrappedValue.encode(to: encoder) }
}

public protocol DefaultValue {
    associatedtype Value: Codable & Sendable
    static var defaultValue: Value { get }
}

extension KeyedDecodingContainer {
    /// Synthesized `init(from:)` finds this one for properties with `@Default`.
    public func decode<P>(_: Default<P>.Type, forKey key: Key) throws -> Default<P> {
        try decodeIfPresent(P.Value.self, forKey: key).map { Default(wrappedValue: $0) } ?? Default()
    }
}

extension Default: Equatable where Provider.Value: Equatable {}
extension Default: Hashable where Provider.Value: Hashable {}

public enum Zero<Value: Codable & Sendable & Numeric>: DefaultValue {
    public static var defaultValue: Value { 0 }
}

public enum EmptyText: DefaultValue {
    public static var defaultValue: String { "" }
}

public enum False: DefaultValue {
    public static var defaultValue: Bool { false }
}
