import WeirAlgebra

/// A nested JSON value, for the few fields that are not flat.
indirect enum JSONTree: Sendable {
    case null
    case bool(Bool)
    /// As written.
    case number(String)
    case string(String)
    case array([JSONTree])
    case object([(key: String, value: JSONTree)])
}

/// Decodes a nested value; keys of nested structs have wire names as well.
struct JSONTreeDecoder: Decoder {
    let tree: JSONTree
    let codingPath: [any CodingKey]
    var userInfo: [CodingUserInfoKey: Any] { [:] }

    init(_ tree: JSONTree, codingPath: [any CodingKey] = []) {
        self.tree = tree
        self.codingPath = codingPath
    }

    func mismatch(_ wanted: String) -> RecordError {
        let path = codingPath.map(\.stringValue).joined(separator: ".")
        return RecordError("\(wanted) expected" + (path.isEmpty ? "" : " at '\(path)'"))
    }

    func container<Key: CodingKey>(keyedBy type: Key.Type) throws -> KeyedDecodingContainer<Key> {
        guard case .object(let members) = tree else { throw mismatch("an object") }
        return KeyedDecodingContainer(JSONTreeKeyed<Key>(members: members, codingPath: codingPath))
    }

    func unkeyedContainer() throws -> any UnkeyedDecodingContainer {
        guard case .array(let elements) = tree else { throw mismatch("an array") }
        return JSONTreeUnkeyed(elements: elements, codingPath: codingPath)
    }

    func singleValueContainer() -> any SingleValueDecodingContainer { JSONTreeSingle(decoder: self) }

    func unbox<T: Decodable>(_ type: T.Type) throws -> T {
        if type == EventTime.self {
            guard case .string(let text) = tree else { throw mismatch("a time as RFC 3339 text") }
            return EventTime(microseconds: try TimeText.parseRFC3339(text)) as! T
        }
        return try T(from: self)
    }

    func unbox(_: Bool.Type) throws -> Bool {
        guard case .bool(let value) = tree else { throw mismatch("true or false") }
        return value
    }
    func unbox(_: String.Type) throws -> String {
        guard case .string(let value) = tree else { throw mismatch("a string") }
        return value
    }
    func unbox(_: Double.Type) throws -> Double {
        guard case .number(let text) = tree, let value = Double(text), value.isFinite else {
            throw mismatch("a number")
        }
        return value
    }
    func unbox(_: Float.Type) throws -> Float {
        guard let value = Numbers.float(try unbox(Double.self)) else {
            throw mismatch("a number in the range of Float")
        }
        return value
    }
    func unbox<I: FixedWidthInteger>(integer: I.Type) throws -> I {
        guard case .number(let text) = tree, let value = I(text) else {
            throw mismatch("an integer in the range of \(I.self)")
        }
        return value
    }
}

private struct JSONTreeSingle: SingleValueDecodingContainer {
    let decoder: JSONTreeDecoder
    var codingPath: [any CodingKey] { decoder.codingPath }

    func decodeNil() -> Bool { if case .null = decoder.tree { true } else { false } }
    func decode(_ type: Bool.Type) throws -> Bool { try decoder.unbox(type) }
    func decode(_ type: String.Type) throws -> String { try decoder.unbox(type) }
    func decode(_ type: Double.Type) throws -> Double { try decoder.unbox(type) }
    func decode(_ type: Float.Type) throws -> Float { try decoder.unbox(type) }
    func decode(_ type: Int.Type) throws -> Int { try decoder.unbox(integer: type) }
    func decode(_ type: Int8.Type) throws -> Int8 { try decoder.unbox(integer: type) }
    func decode(_ type: Int16.Type) throws -> Int16 { try decoder.unbox(integer: type) }
    func decode(_ type: Int32.Type) throws -> Int32 { try decoder.unbox(integer: type) }
    func decode(_ type: Int64.Type) throws -> Int64 { try decoder.unbox(integer: type) }
    func decode(_ type: UInt.Type) throws -> UInt { try decoder.unbox(integer: type) }
    func decode(_ type: UInt8.Type) throws -> UInt8 { try decoder.unbox(integer: type) }
    func decode(_ type: UInt16.Type) throws -> UInt16 { try decoder.unbox(integer: type) }
    func decode(_ type: UInt32.Type) throws -> UInt32 { try decoder.unbox(integer: type) }
    func decode(_ type: UInt64.Type) throws -> UInt64 { try decoder.unbox(integer: type) }
    func decode<T: Decodable>(_ type: T.Type) throws -> T { try decoder.unbox(type) }
}

private struct JSONTreeKeyed<Key: CodingKey>: KeyedDecodingContainerProtocol {
    let members: [(key: String, value: JSONTree)]
    let codingPath: [any CodingKey]

    var allKeys: [Key] { members.compactMap { Key(stringValue: $0.key) } }

    private func find(_ key: Key) -> JSONTree? {
        // Dictionaries ask by the key as written, structs by the property's name.
        members.first { $0.key == key.stringValue }?.value
            ?? members.first { $0.key == wireName(key.stringValue) }?.value
    }
    private func decoder(_ key: Key) throws -> JSONTreeDecoder {
        guard let tree = find(key) else { throw RecordError("'\(wireName(key.stringValue))' is missing") }
        return JSONTreeDecoder(tree, codingPath: codingPath + [key])
    }

    func contains(_ key: Key) -> Bool { find(key) != nil }
    func decodeNil(forKey key: Key) -> Bool { if case .null? = find(key) { true } else { false } }
    func decode(_ type: Bool.Type, forKey key: Key) throws -> Bool { try decoder(key).unbox(type) }
    func decode(_ type: String.Type, forKey key: Key) throws -> String { try decoder(key).unbox(type) }
    func decode(_ type: Double.Type, forKey key: Key) throws -> Double { try decoder(key).unbox(type) }
    func decode(_ type: Float.Type, forKey key: Key) throws -> Float { try decoder(key).unbox(type) }
    func decode(_ type: Int.Type, forKey key: Key) throws -> Int { try decoder(key).unbox(integer: type) }
    func decode(_ type: Int8.Type, forKey key: Key) throws -> Int8 { try decoder(key).unbox(integer: type) }
    func decode(_ type: Int16.Type, forKey key: Key) throws -> Int16 { try decoder(key).unbox(integer: type) }
    func decode(_ type: Int32.Type, forKey key: Key) throws -> Int32 { try decoder(key).unbox(integer: type) }
    func decode(_ type: Int64.Type, forKey key: Key) throws -> Int64 { try decoder(key).unbox(integer: type) }
    func decode(_ type: UInt.Type, forKey key: Key) throws -> UInt { try decoder(key).unbox(integer: type) }
    func decode(_ type: UInt8.Type, forKey key: Key) throws -> UInt8 { try decoder(key).unbox(integer: type) }
    func decode(_ type: UInt16.Type, forKey key: Key) throws -> UInt16 { try decoder(key).unbox(integer: type) }
    func decode(_ type: UInt32.Type, forKey key: Key) throws -> UInt32 { try decoder(key).unbox(integer: type) }
    func decode(_ type: UInt64.Type, forKey key: Key) throws -> UInt64 { try decoder(key).unbox(integer: type) }
    func decode<T: Decodable>(_ type: T.Type, forKey key: Key) throws -> T { try decoder(key).unbox(type) }

    func nestedContainer<K: CodingKey>(keyedBy type: K.Type, forKey key: Key) throws -> KeyedDecodingContainer<K> {
        try decoder(key).container(keyedBy: type)
    }
    func nestedUnkeyedContainer(forKey key: Key) throws -> any UnkeyedDecodingContainer {
        try decoder(key).unkeyedContainer()
    }
    func superDecoder() throws -> any Decoder { JSONTreeDecoder(.object(members), codingPath: codingPath) }
    func superDecoder(forKey key: Key) throws -> any Decoder { try decoder(key) }
}

private struct JSONTreeUnkeyed: UnkeyedDecodingContainer {
    let elements: [JSONTree]
    let codingPath: [any CodingKey]
    var currentIndex = 0
    var count: Int? { elements.count }
    var isAtEnd: Bool { currentIndex >= elements.count }

    init(elements: [JSONTree], codingPath: [any CodingKey]) {
        self.elements = elements
        self.codingPath = codingPath
    }

    private mutating func next() throws -> JSONTreeDecoder {
        guard !isAtEnd else { throw RecordError("the array is too short") }
        defer { currentIndex += 1 }
        return JSONTreeDecoder(elements[currentIndex], codingPath: codingPath)
    }

    mutating func decodeNil() -> Bool {
        if !isAtEnd, case .null = elements[currentIndex] {
            currentIndex += 1
            return true
        }
        return false
    }
    mutating func decode(_ type: Bool.Type) throws -> Bool { try next().unbox(type) }
    mutating func decode(_ type: String.Type) throws -> String { try next().unbox(type) }
    mutating func decode(_ type: Double.Type) throws -> Double { try next().unbox(type) }
    mutating func decode(_ type: Float.Type) throws -> Float { try next().unbox(type) }
    mutating func decode(_ type: Int.Type) throws -> Int { try next().unbox(integer: type) }
    mutating func decode(_ type: Int8.Type) throws -> Int8 { try next().unbox(integer: type) }
    mutating func decode(_ type: Int16.Type) throws -> Int16 { try next().unbox(integer: type) }
    mutating func decode(_ type: Int32.Type) throws -> Int32 { try next().unbox(integer: type) }
    mutating func decode(_ type: Int64.Type) throws -> Int64 { try next().unbox(integer: type) }
    mutating func decode(_ type: UInt.Type) throws -> UInt { try next().unbox(integer: type) }
    mutating func decode(_ type: UInt8.Type) throws -> UInt8 { try next().unbox(integer: type) }
    mutating func decode(_ type: UInt16.Type) throws -> UInt16 { try next().unbox(integer: type) }
    mutating func decode(_ type: UInt32.Type) throws -> UInt32 { try next().unbox(integer: type) }
    mutating func decode(_ type: UInt64.Type) throws -> UInt64 { try next().unbox(integer: type) }
    mutating func decode<T: Decodable>(_ type: T.Type) throws -> T { try next().unbox(type) }
    mutating func nestedContainer<K: CodingKey>(keyedBy type: K.Type) throws -> KeyedDecodingContainer<K> {
        try next().container(keyedBy: type)
    }
    mutating func nestedUnkeyedContainer() throws -> any UnkeyedDecodingContainer { try next().unkeyedContainer() }
    mutating func superDecoder() throws -> any Decoder { try next() }
}
