/// A feature's value as it leaves the store.
public enum FeatureValue: Hashable, Sendable {
    case null
    case int(Int64)
    /// Always finite.
    case double(Double)
    case bool(Bool)
    case string(String)
    case list([FeatureValue])
    /// Entries in ascending order of their keys' UTF-8 bytes.
    case map([MapEntry])

    public struct MapEntry: Hashable, Sendable {
        public var key: String
        public var value: FeatureValue

        public init(key: String, value: FeatureValue) {
            self.key = key
            self.value = value
        }
    }
}

/// Why a feature's value is what it is; `META` shows it.
public enum ValueStatus: String, Sendable, Hashable {
    case present = "PRESENT"
    /// The entity has events, but none that give this feature a value.
    case nullValue = "NULL_VALUE"
    /// The entity is unknown, or its key is null.
    case notFound = "NOT_FOUND"
    /// A stated limit was passed.
    case limit = "LIMIT"
    /// The number does not fit its type.
    case overflow = "OVERFLOW"
}

/// A feature's value and why it is so.
public struct FeatureResult: Sendable, Hashable {
    public var value: FeatureValue
    public var status: ValueStatus

    public init(_ value: FeatureValue, _ status: ValueStatus) {
        self.value = value
        self.status = status
    }
}

/// What type a feature has on the wire and in files.
public enum FeatureType: String, Sendable, Hashable {
    case int, double, bool, string
    case intList = "list<int>"
    case doubleList = "list<double>"
    case boolList = "list<bool>"
    case stringList = "list<string>"
    case intMap = "map<string, int>"
}

/// A Swift type that can be a feature's value.
public protocol FeatureRepresentable: Sendable {
    static var featureType: FeatureType { get }
    /// NaN and infinities become null.
    var featureValue: FeatureValue { get }
    /// nil for null or another type.
    init?(featureValue: FeatureValue)
}

/// A feature value that can be an element of a list.
public protocol FeatureElement: FeatureRepresentable, Hashable {
    static var listType: FeatureType { get }
}

extension Double: FeatureElement {
    public static var featureType: FeatureType { .double }
    public static var listType: FeatureType { .doubleList }
    public var featureValue: FeatureValue { isFinite ? .double(self) : .null }
    public init?(featureValue: FeatureValue) {
        guard case .double(let value) = featureValue else { return nil }
        self = value
    }
}

extension Int: FeatureElement {
    public static var featureType: FeatureType { .int }
    public static var listType: FeatureType { .intList }
    public var featureValue: FeatureValue { .int(Int64(self)) }
    public init?(featureValue: FeatureValue) {
        guard case .int(let value) = featureValue else { return nil }
        self = Int(value)
    }
}

extension Bool: FeatureElement {
    public static var featureType: FeatureType { .bool }
    public static var listType: FeatureType { .boolList }
    public var featureValue: FeatureValue { .bool(self) }
    public init?(featureValue: FeatureValue) {
        guard case .bool(let value) = featureValue else { return nil }
        self = value
    }
}

extension String: FeatureElement {
    public static var featureType: FeatureType { .string }
    public static var listType: FeatureType { .stringList }
    public var featureValue: FeatureValue { .string(self) }
    public init?(featureValue: FeatureValue) {
        guard case .string(let value) = featureValue else { return nil }
        self = value
    }
}

extension Array: FeatureRepresentable where Element: FeatureElement {
    public static var featureType: FeatureType { Element.listType }
    public var featureValue: FeatureValue { .list(map { $0.featureValue }) }
    public init?(featureValue: FeatureValue) {
        guard case .list(let values) = featureValue else { return nil }
        self = []
        for value in values {
            guard let element = Element(featureValue: value) else { return nil }
            append(element)
        }
    }
}
