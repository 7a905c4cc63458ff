import WeirAlgebra

extension RecordBatch {
    /// Appends a value's fields as a row: what decoding the row would give back.
    ///
    /// - Parameter raw: where the source's bytes of it stand in `bytes`.
    /// - Throws: `RecordError` for a value that its own schema does not hold.
    public mutating func append(_ value: some Encodable, raw: Range<Int>, offset: Int64) throws {
        let tree = try JSONTree(encoding: value)
        guard case .object(let members) = tree else { throw RecordError("it must encode as properties, as a struct does") }
        var row: [Cell] = []
        let mark = bytes.count
        do {
            for field in schema.fields {
                let member = members.first { $0.key == field.name }?.value ?? .null
                row.append(try cell(member, of: field))
            }
        } catch {
            bytes.removeSubrange(mark...)
            throw error
        }
        cells += row
        rows.append(Row(raw: raw, offset: offset))
    }

    private mutating func cell(_ tree: JSONTree, of field: Field) throws -> Cell {
        func text(_ content: [UInt8]) -> Cell {
            let start = bytes.count
            bytes.append(contentsOf: content)
            return .text(start: start, count: content.count)
        }
        switch (field.type, tree) {
        case (_, .null):
            guard field.isOptional else { throw RecordError(field: field.name, "it is missing") }
            return .null
        case (.int64, .number(let number)):
            if let value = Int64(number) { return .int64(value) }
        case (.float64, .number(let number)):
            if let value = Double(number), value.isFinite { return .float64(value) }
        case (.bool, .bool(let value)): return .bool(value)
        case (.text, .string(let value)): return text(Array(value.utf8))
        case (.time, .string(let value)): return .time(try TimeText.parseRFC3339(value))
        case (.json, _):
            var json: [UInt8] = []
            tree.appendJSON(to: &json)
            return text(json)
        default: break
        }
        throw RecordError(field: field.name, "\(field.type.rawValue) expected")
    }
}

extension JSONTree {
    /// - Throws: `RecordError` for numbers that are not finite.
    init(encoding value: some Encodable) throws {
        let encoder = JSONTreeEncoder()
        self = try encoder.box(value)
    }

    func appendJSON(to bytes: inout [UInt8]) {
        switch self {
        case .null: bytes.append(contentsOf: "null".utf8)
        case .bool(let value): bytes.append(contentsOf: (value ? "true" : "false").utf8)
        case .number(let text): bytes.append(contentsOf: text.utf8)
        case .string(let text): JSONText.appendString(text, to: &bytes)
        case .array(let elements):
            bytes.append(UInt8(ascii: "["))
            for (index, element) in elements.enumerated() {
                if index > 0 { bytes.append(UInt8(ascii: ",")) }
                element.appendJSON(to: &bytes)
            }
            bytes.append(UInt8(ascii: "]"))
        case .object(let members):
            bytes.append(UInt8(ascii: "{"))
            for (index, member) in members.enumerated() {
                if index > 0 { bytes.append(UInt8(ascii: ",")) }
                JSONText.appendString(member.key, to: &bytes)
                bytes.append(UInt8(ascii: ":"))
                member.value.appendJSON(to: &bytes)
            }
            bytes.append(UInt8(ascii: "}"))
        }
    }
}

/// Makes a tree of a value; keys have wire names.
private final class JSONTreeEncoder: Encoder {
    /// What the containers wrote.
    enum Content {
        case nothing
        case single(JSONTree)
        case array([Content])
        case object([(key: String, value: Content)])
        /// A container that was handed out and is still being written.
        case nested(JSONTreeEncoder)

        var tree: JSONTree {
            switch self {
            case .nothing: .object([])
            case .single(let tree): tree
            case .array(let elements): .array(elements.map(\.tree))
            case .object(let members): .object(members.map { ($0.key, $0.value.tree) })
            case .nested(let encoder): encoder.content.tree
            }
        }
    }
    var content = Content.nothing
    let codingPath: [any CodingKey]
    var userInfo: [CodingUserInfoKey: Any] { [:] }

    init(codingPath: [any CodingKey] = []) { self.codingPath = codingPath }

    func container<Key: CodingKey>(keyedBy type: Key.Type) -> KeyedEncodingContainer<Key> {
        if case .object = content {} else { content = .object([]) }
        return KeyedEncodingContainer(Keyed<Key>(encoder: self))
    }
    func unkeyedContainer() -> any UnkeyedEncodingContainer {
        if case .array = content {} else { content = .array([]) }
        return Unkeyed(encoder: self)
    }
    func singleValueContainer() -> any SingleValueEncodingContainer { Single(encoder: self) }

    func box(_ value: some Encodable) throws -> JSONTree {
        if let time = value as? EventTime { return .string(TimeText.format(time)) }
        let encoder = JSONTreeEncoder(codingPath: codingPath)
        try value.encode(to: encoder)
        return encoder.content.tree
    }
    static func finite(_ value: some BinaryFloatingPoint & LosslessStringConvertible) throws -> JSONTree {
        guard value.isFinite else { throw RecordError("\(value) is no number that can be stored") }
        return .number(Double(value).description)
    }

    fileprivate func append(_ content: Content) {
        if case .array(let elements) = self.content { self.content = .array(elements + [content]) }
    }
    fileprivate func set(_ key: any CodingKey, _ content: Content) {
        guard case .object(var members) = self.content else { return }
        let name = wireName(key.stringValue)
        members.removeAll { $0.key == name }
        members.append((name, content))
        self.content = .object(members)
    }

    struct Keyed<Key: CodingKey>: KeyedEncodingContainerProtocol {
        let encoder: JSONTreeEncoder
        var codingPath: [any CodingKey] { encoder.codingPath }
        func encodeNil(forKey key: Key) { encoder.set(key, .single(.null)) }
        func encode(_ value: Bool, forKey key: Key) { encoder.set(key, .single(.bool(value))) }
        func encode(_ value: String, forKey key: Key) { encoder.set(key, .single(.string(value))) }
        func encode(_ value: Double, forKey key: Key) throws { encoder.set(key, .single(try JSONTreeEncoder.finite(value))) }
        func encode(_ value: Float, forKey key: Key) throws { encoder.set(key, .single(try JSONTreeEncoder.finite(value))) }
        func encode<I: FixedWidthInteger & Encodable>(_ value: I, forKey key: Key) { encoder.set(key, .single(.number(String(value)))) }
        func encode<T: Encodable>(_ value: T, forKey key: Key) throws { encoder.set(key, .single(try encoder.box(value))) }
        func nestedContainer<K: CodingKey>(keyedBy: K.Type, forKey key: Key) -> KeyedEncodingContainer<K> {
            child(key).container(keyedBy: K.self)
        }
        func nestedUnkeyedContainer(forKey key: Key) -> any UnkeyedEncodingContainer { child(key).unkeyedContainer() }
        func superEncoder() -> any Encoder { encoder }
        func superEncoder(forKey key: Key) -> any Encoder { child(key) }
        private func child(_ key: Key) -> JSONTreeEncoder {
            let child = JSONTreeEncoder(codingPath: codingPath + [key])
            encoder.set(key, .nested(child))
            return child
        }
    }

    struct Unkeyed: UnkeyedEncodingContainer {
        let encoder: JSONTreeEncoder
        var codingPath: [any CodingKey] { encoder.codingPath }
        var count: Int {
            if case .array(let elements) = encoder.content { return elements.count }
            return 0
        }
        func encodeNil() { encoder.append(.single(.null)) }
        func encode(_ value: Bool) { encoder.append(.single(.bool(value))) }
        func encode(_ value: String) { encoder.append(.single(.string(value))) }
        func encode(_ value: Double) throws { encoder.append(.single(try JSONTreeEncoder.finite(value))) }
        func encode(_ value: Float) throws { encoder.append(.single(try JSONTreeEncoder.finite(value))) }
        func encode<I: FixedWidthInteger & Encodable>(_ value: I) { encoder.append(.single(.number(String(value)))) }
        func encode<T: Encodable>(_ value: T) throws { encoder.append(.single(try encoder.box(value))) }
        func nestedContainer<K: CodingKey>(keyedBy: K.Type) -> KeyedEncodingContainer<K> { child().container(keyedBy: K.self) }
        func nestedUnkeyedContainer() -> any UnkeyedEncodingContainer { child().unkeyedContainer() }
        func superEncoder() -> any Encoder { child() }
        private func child() -> JSONTreeEncoder {
            let child = JSONTreeEncoder(codingPath: codingPath)
            encoder.append(.nested(child))
            return child
        }
    }

    struct Single: SingleValueEncodingContainer {
        let encoder: JSONTreeEncoder
        var codingPath: [any CodingKey] { encoder.codingPath }
        func encodeNil() { encoder.content = .single(.null) }
        func encode(_ value: Bool) { encoder.content = .single(.bool(value)) }
        func encode(_ value: String) { encoder.content = .single(.string(value)) }
        func encode(_ value: Double) throws { encoder.content = .single(try JSONTreeEncoder.finite(value)) }
        func encode(_ value: Float) throws { encoder.content = .single(try JSONTreeEncoder.finite(value)) }
        func encode<I: FixedWidthInteger & Encodable>(_ value: I) { encoder.content = .single(.number(String(value))) }
        func encode<T: Encodable>(_ value: T) throws { encoder.content = .single(try encoder.box(value)) }
    }
}
