import WeirAlgebra

/// Why a type cannot be an event or a request.
public struct SchemaError: Error, Hashable, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
}

extension RecordSchema {
    /// Finds a type's fields by running its `init(from:)` against a decoder that writes down what it is asked for.
    public static func probe<T: Decodable>(
        _: T.Type, name: String, timestampUnit: TimestampUnit?
    ) throws(SchemaError) -> RecordSchema {
        let probe = Probe()
        do {
            _ = try T(from: probe)
        } catch let error as SchemaError {
            throw error
        } catch {
            let last = probe.fields.last.map { " after the field '\($0.name)'" } ?? ""
            throw SchemaError("its init(from:) failed on sample values\(last): \(error)")
        }
        guard !probe.isUnkeyed else {
            throw SchemaError("it must decode from a keyed container, as a struct with properties does")
        }
        var names: Set<String> = []
        for field in probe.fields where !names.insert(field.name).inserted {
            throw SchemaError("two properties have the wire name '\(field.name)'; give one another coding key")
        }
        return RecordSchema(name: name, fields: probe.fields, timestampUnit: timestampUnit)
    }
}

/// Records what is asked for, and answers with sample values.
private final class Probe: Decoder {
    var fields: [Field] = []
    /// The coding key that each field was asked for by.
    private var keys: [String] = []
    var isUnkeyed = false
    var codingPath: [any CodingKey] { [] }
    var userInfo: [CodingUserInfoKey: Any] { [:] }

    func container<Key: CodingKey>(keyedBy type: Key.Type) -> KeyedDecodingContainer<Key> {
        KeyedDecodingContainer(ProbeContainer<Key>(probe: self))
    }
    func unkeyedContainer() throws -> any UnkeyedDecodingContainer {
        isUnkeyed = true
        throw SchemaError("it must decode from a keyed container, as a struct with properties does")
    }
    func singleValueContainer() throws -> any SingleValueDecodingContainer {
        isUnkeyed = true
        throw SchemaError("it must decode from a keyed container, as a struct with properties does")
    }

    func add(_ key: any CodingKey, _ type: FieldType, isOptional: Bool) {
        let name = wireName(key.stringValue)
        // A custom init(from:) may ask for one key several times; two keys of one name are left for the caller to refuse.
        if let index = fields.indices.first(where: { keys[$0] == key.stringValue && fields[$0].type == type }) {
            fields[index].isOptional = fields[index].isOptional || isOptional
        } else {
            fields.append(Field(name: name, type: type, isOptional: isOptional))
            keys.append(key.stringValue)
        }
    }
}

private struct ProbeContainer<Key: CodingKey>: KeyedDecodingContainerProtocol {
    let probe: Probe
    var codingPath: [any CodingKey] { [] }
    var allKeys: [Key] { [] }

    func contains(_ key: Key) -> Bool { true }
    func decodeNil(forKey key: Key) -> Bool { false }

    func decode(_: Bool.Type, forKey key: Key) -> Bool { sample(key, .bool, false) }
    func decode(_: String.Type, forKey key: Key) -> String { sample(key, .text, "") }
    func decode(_: Double.Type, forKey key: Key) -> Double { sample(key, .float64, 0) }
    func decode(_: Float.Type, forKey key: Key) -> Float { sample(key, .float64, 0) }
    func decode(_: Int.Type, forKey key: Key) -> Int { sample(key, .int64, 0) }
    func decode(_: Int8.Type, forKey key: Key) -> Int8 { sample(key, .int64, 0) }
    func decode(_: Int16.Type, forKey key: Key) -> Int16 { sample(key, .int64, 0) }
    func decode(_: Int32.Type, forKey key: Key) -> Int32 { sample(key, .int64, 0) }
    func decode(_: Int64.Type, forKey key: Key) -> Int64 { sample(key, .int64, 0) }
    func decode(_: UInt8.Type, forKey key: Key) -> UInt8 { sample(key, .int64, 0) }
    func decode(_: UInt16.Type, forKey key: Key) -> UInt16 { sample(key, .int64, 0) }
    func decode(_: UInt32.Type, forKey key: Key) -> UInt32 { sample(key, .int64, 0) }
    func decode(_: UInt.Type, forKey key: Key) throws -> UInt { throw unsigned(key) }
    func decode(_: UInt64.Type, forKey key: Key) throws -> UInt64 { throw unsigned(key) }

    private func unsigned(_ key: Key) -> SchemaError {
        SchemaError(
            "the property '\(key.stringValue)' is unsigned with 64 bits; integers are signed with 64 bits: use Int")
    }

    private func sample<T>(_ key: Key, _ type: FieldType, _ value: T) -> T {
        probe.add(key, type, isOptional: false)
        return value
    }

    func decode<T: Decodable>(_ type: T.Type, forKey key: Key) throws -> T { try decode(type, key, isOptional: false) }

    private func decode<T: Decodable>(_ type: T.Type, _ key: Key, isOptional: Bool) throws -> T {
        if type == EventTime.self {
            probe.add(key, .time, isOptional: isOptional)
            return EventTime(microseconds: 0) as! T
        }
        if let optional = type as? any OptionalType.Type {
            // A custom init(from:) that decodes an Optional by name.
            func open<O: OptionalType>(_: O.Type) throws { try note(O.Wrapped.self, key) }
            try open(optional)
            return optional.none as! T
        }
        let value = SampleValueDecoder()
        if let result = try? T(from: value), let primitive = value.primitive {
            probe.add(key, primitive, isOptional: isOptional)
            return result
        }
        if let primitive = value.primitive {
            // An enumeration whose raw value is not the sample.
            if let cases = type as? any CaseIterable.Type, let first = firstCase(cases) as? T {
                probe.add(key, primitive, isOptional: isOptional)
                return first
            }
            // An optional field needs no sample value: its type is known.
            if isOptional { probe.add(key, primitive, isOptional: true) }
            throw SchemaError(
                "the property '\(key.stringValue)' of type \(type) does not decode from a sample value; make the type CaseIterable"
            )
        }
        probe.add(key, .json, isOptional: isOptional)
        if let sample = sampleNested(type) { return sample }
        throw SchemaError(
            "the property '\(key.stringValue)' of type \(type) cannot be probed; make it optional, or an array")
    }

    private func note<T>(_ type: T.Type, _ key: Key) throws {
        if let decodable = type as? any Decodable.Type {
            func open<D: Decodable>(_: D.Type) throws { _ = try decodeIfPresent(D.self, forKey: key) }
            try open(decodable)
        }
    }

    private func optional<T>(_ key: Key, _ type: FieldType) -> T? {
        probe.add(key, type, isOptional: true)
        return nil
    }
    func decodeIfPresent(_: Bool.Type, forKey key: Key) -> Bool? { optional(key, .bool) }
    func decodeIfPresent(_: String.Type, forKey key: Key) -> String? { optional(key, .text) }
    func decodeIfPresent(_: Double.Type, forKey key: Key) -> Double? { optional(key, .float64) }
    func decodeIfPresent(_: Float.Type, forKey key: Key) -> Float? { optional(key, .float64) }
    func decodeIfPresent(_: Int.Type, forKey key: Key) -> Int? { optional(key, .int64) }
    func decodeIfPresent(_: Int8.Type, forKey key: Key) -> Int8? { optional(key, .int64) }
    func decodeIfPresent(_: Int16.Type, forKey key: Key) -> Int16? { optional(key, .int64) }
    func decodeIfPresent(_: Int32.Type, forKey key: Key) -> Int32? { optional(key, .int64) }
    func decodeIfPresent(_: Int64.Type, forKey key: Key) -> Int64? { optional(key, .int64) }
    func decodeIfPresent(_: UInt8.Type, forKey key: Key) -> UInt8? { optional(key, .int64) }
    func decodeIfPresent(_: UInt16.Type, forKey key: Key) -> UInt16? { optional(key, .int64) }
    func decodeIfPresent(_: UInt32.Type, forKey key: Key) -> UInt32? { optional(key, .int64) }
    func decodeIfPresent(_: UInt.Type, forKey key: Key) throws -> UInt? { throw unsigned(key) }
    func decodeIfPresent(_: UInt64.Type, forKey key: Key) throws -> UInt64? { throw unsigned(key) }
    func decodeIfPresent<T: Decodable>(_ type: T.Type, forKey key: Key) throws -> T? {
        if let count = Optional(probe.fields.count), (try? decode(type, key, isOptional: true)) == nil,
            probe.fields.count == count
        {
            probe.add(key, .json, isOptional: true)
        }
        return nil
    }

    func nestedContainer<K: CodingKey>(keyedBy: K.Type, forKey key: Key) throws -> KeyedDecodingContainer<K> {
        throw nested(key)
    }
    func nestedUnkeyedContainer(forKey key: Key) throws -> any UnkeyedDecodingContainer { throw nested(key) }
    func superDecoder() throws -> any Decoder {
        throw SchemaError("classes that inherit cannot be events; use a struct")
    }
    func superDecoder(forKey key: Key) throws -> any Decoder { try superDecoder() }

    private func nested(_ key: Key) -> SchemaError {
        SchemaError(
            "the property '\(key.stringValue)' is decoded by a nested container; decode it as a type of its own")
    }
}

private protocol OptionalType {
    associatedtype Wrapped
    static var none: Self { get }
}
extension Optional: OptionalType {}

private func firstCase(_ type: any CaseIterable.Type) -> Any? {
    func open<C: CaseIterable>(_: C.Type) -> Any? { C.allCases.first }
    return open(type)
}

/// A nested value from empty JSON: `[]`, then `{}`.
private func sampleNested<T: Decodable>(_ type: T.Type) -> T? {
    if let array = try? T(from: JSONTreeDecoder(.array([]))) { return array }
    if let object = try? T(from: JSONTreeDecoder(.object([]))) { return object }
    // A struct with properties of its own: sample each of them.
    return try? T(from: Probe())
}

/// Gives a single sample value and notes its type.
private final class SampleValueDecoder: Decoder, SingleValueDecodingContainer {
    var primitive: FieldType?
    var codingPath: [any CodingKey] { [] }
    var userInfo: [CodingUserInfoKey: Any] { [:] }
    private struct NotASingleValue: Error {}

    func container<Key: CodingKey>(keyedBy type: Key.Type) throws -> KeyedDecodingContainer<Key> {
        throw NotASingleValue()
    }
    func unkeyedContainer() throws -> any UnkeyedDecodingContainer { throw NotASingleValue() }
    func singleValueContainer() -> any SingleValueDecodingContainer { self }

    private func sample<T>(_ type: FieldType, _ value: T) -> T {
        primitive = type
        return value
    }
    func decodeNil() -> Bool { false }
    func decode(_: Bool.Type) -> Bool { sample(.bool, false) }
    func decode(_: String.Type) -> String { sample(.text, "") }
    func decode(_: Double.Type) -> Double { sample(.float64, 0) }
    func decode(_: Float.Type) -> Float { sample(.float64, 0) }
    func decode(_: Int.Type) -> Int { sample(.int64, 0) }
    func decode(_: Int8.Type) -> Int8 { sample(.int64, 0) }
    func decode(_: Int16.Type) -> Int16 { sample(.int64, 0) }
    func decode(_: Int32.Type) -> Int32 { sample(.int64, 0) }
    func decode(_: Int64.Type) -> Int64 { sample(.int64, 0) }
    func decode(_: UInt8.Type) -> UInt8 { sample(.int64, 0) }
    func decode(_: UInt16.Type) -> UInt16 { sample(.int64, 0) }
    func decode(_: UInt32.Type) -> UInt32 { sample(.int64, 0) }
    func decode(_: UInt.Type) throws -> UInt { throw NotASingleValue() }
    func decode(_: UInt64.Type) throws -> UInt64 { throw NotASingleValue() }
    func decode<T: Decodable>(_: T.Type) throws -> T {
        if T.self == EventTime.self { return sample(.time, EventTime(microseconds: 0) as! T) }
        return try T(from: self)
    }
}
