import WeirAlgebra

/// Makes events and requests from records: a `Decoder` over a row's cells.
///
/// Synthesized `init(from:)` asks for the fields in the schema's order, which the schema was probed in, so that a field is found
/// by one comparison of names; other orders are looked up.
public struct RecordDecoder {
    private let state: RowDecoder

    public init(schema: RecordSchema) { state = RowDecoder(schema) }

    /// - Throws: `RecordError` that names the field and says what is wrong.
    public mutating func decode<T: Decodable>(_: T.Type, from batch: RecordBatch, row: Int) throws(RecordError) -> T {
        state.batch = batch
        state.row = row
        state.next = 0
        state.current = nil
        do {
            return try T(from: state)
        } catch let error as RecordError {
            throw error.field == nil ? RecordError(field: state.currentName, error.reason) : error
        } catch DecodingError.dataCorrupted(let context), DecodingError.typeMismatch(_, let context),
            DecodingError.valueNotFound(_, let context)
        {
            // The field that the error names; only without one, the field that was asked for last.
            throw RecordError(
                field: context.codingPath.first.map { wireName($0.stringValue) } ?? state.currentName,
                context.debugDescription)
        } catch DecodingError.keyNotFound(let key, let context) {
            throw RecordError(field: wireName((context.codingPath.first ?? key).stringValue), context.debugDescription)
        } catch {
            throw RecordError(field: state.currentName, "\(error)")
        }
    }
}

private final class RowDecoder: Decoder {
    let schema: RecordSchema
    var batch: RecordBatch
    var row = 0
    /// The field that is probably asked for next.
    var next = 0
    /// The field that was asked for last.
    var current: Int?
    /// Coding keys as they were spelled when a field was first asked for.
    private var spellings: [String?]
    private var indexes: [String: Int] = [:]

    init(_ schema: RecordSchema) {
        self.schema = schema
        batch = RecordBatch(schema: schema)
        spellings = Array(repeating: nil, count: schema.fields.count)
    }

    var currentName: String? { current.map { schema.fields[$0].name } }
    var codingPath: [any CodingKey] { [] }
    var userInfo: [CodingUserInfoKey: Any] { [:] }

    func container<Key: CodingKey>(keyedBy type: Key.Type) -> KeyedDecodingContainer<Key> {
        KeyedDecodingContainer(RowContainer<Key>(decoder: self))
    }
    func unkeyedContainer() throws -> any UnkeyedDecodingContainer { throw RecordError("a record is no array") }
    func singleValueContainer() throws -> any SingleValueDecodingContainer {
        throw RecordError("a record is no single value")
    }

    /// The number of the field that a coding key names; nil for one that the schema does not have.
    func index(_ key: String) -> Int? {
        if next < spellings.count, spellings[next] == key {
            current = next
            next += 1
            return current
        }
        // `decodeIfPresent` asks for a field several times in a row.
        if let current, spellings[current] == key { return current }
        // `decodeIfPresent` asks three times for one field.
        if let current, spellings[current] == key { return current }
        if let known = indexes[key] {
            current = known
            next = known + 1
            return known
        }
        guard let found = schema.index(of: wireName(key)) else {
            current = nil
            return nil
        }
        indexes[key] = found
        spellings[found] = key
        current = found
        next = found + 1
        return found
    }

    func cell(_ key: any CodingKey) -> Cell {
        guard let index = index(key.stringValue) else { return .null }
        return batch.cells[row * schema.fields.count + index]
    }

    func missing(_ key: any CodingKey) -> RecordError { RecordError(field: wireName(key.stringValue), "it is missing") }

    func int64(_ key: any CodingKey) throws -> Int64 {
        switch cell(key) {
        case .int64(let value): return value
        case .null: throw missing(key)
        default: throw RecordError(field: currentName, "an integer expected")
        }
    }

    func integer<I: FixedWidthInteger>(_ key: any CodingKey) throws -> I {
        let value = try int64(key)
        guard let narrow = I(exactly: value) else {
            throw RecordError(field: currentName, "\(value) is out of the range of \(I.self)")
        }
        return narrow
    }

    func double(_ key: any CodingKey) throws -> Double {
        switch cell(key) {
        case .float64(let value): return value
        case .null: throw missing(key)
        default: throw RecordError(field: currentName, "a number expected")
        }
    }

    func float(_ key: any CodingKey) throws -> Float {
        let value = try double(key)
        guard let narrow = Numbers.float(value) else {
            throw RecordError(field: currentName, "\(value) is out of the range of Float")
        }
        return narrow
    }

    func bool(_ key: any CodingKey) throws -> Bool {
        switch cell(key) {
        case .bool(let value): return value
        case .null: throw missing(key)
        default: throw RecordError(field: currentName, "true or false expected")
        }
    }

    func string(_ key: any CodingKey) throws -> String {
        switch cell(key) {
        case .text(let start, let count): return batch.string(start: start, count: count)
        case .null: throw missing(key)
        default: throw RecordError(field: currentName, "a string expected")
        }
    }

    func value<T: Decodable>(_ type: T.Type, _ key: any CodingKey) throws -> T {
        let cell = cell(key)
        if type == EventTime.self {
            guard case .time(let micros) = cell else { throw missing(key) }
            return EventTime(microseconds: micros) as! T
        }
        guard let index = current else { throw missing(key) }
        if schema.fields[index].type == .json {
            guard case .text(let start, let count) = cell else {
                // Absent: what an Optional that is decoded by name takes.
                return try T(from: JSONTreeDecoder(.null, codingPath: [key]))
            }
            let tree = try batch.withText(start: start, count: count) { try JSONTreeParser.parse($0) }
            return try JSONTreeDecoder(tree, codingPath: [key]).unbox(type)
        }
        return try T(from: CellDecoder(row: self, cell: cell, key: key))
    }
}

private struct RowContainer<Key: CodingKey>: KeyedDecodingContainerProtocol {
    let decoder: RowDecoder
    var codingPath: [any CodingKey] { [] }
    var allKeys: [Key] { decoder.schema.fields.compactMap { Key(stringValue: $0.name) } }

    func contains(_ key: Key) -> Bool { decoder.cell(key) != .null }
    func decodeNil(forKey key: Key) -> Bool { decoder.cell(key) == .null }

    func decode(_: Bool.Type, forKey key: Key) throws -> Bool { try decoder.bool(key) }
    func decode(_: String.Type, forKey key: Key) throws -> String { try decoder.string(key) }
    func decode(_: Double.Type, forKey key: Key) throws -> Double { try decoder.double(key) }
    func decode(_: Float.Type, forKey key: Key) throws -> Float { try decoder.float(key) }
    func decode(_: Int.Type, forKey key: Key) throws -> Int { Int(try decoder.int64(key)) }
    func decode(_: Int8.Type, forKey key: Key) throws -> Int8 { try decoder.integer(key) }
    func decode(_: Int16.Type, forKey key: Key) throws -> Int16 { try decoder.integer(key) }
    func decode(_: Int32.Type, forKey key: Key) throws -> Int32 { try decoder.integer(key) }
    func decode(_: Int64.Type, forKey key: Key) throws -> Int64 { try decoder.int64(key) }
    func decode(_: UInt.Type, forKey key: Key) throws -> UInt { try decoder.integer(key) }
    func decode(_: UInt8.Type, forKey key: Key) throws -> UInt8 { try decoder.integer(key) }
    func decode(_: UInt16.Type, forKey key: Key) throws -> UInt16 { try decoder.integer(key) }
    func decode(_: UInt32.Type, forKey key: Key) throws -> UInt32 { try decoder.integer(key) }
    func decode(_: UInt64.Type, forKey key: Key) throws -> UInt64 { try decoder.integer(key) }
    func decode<T: Decodable>(_ type: T.Type, forKey key: Key) throws -> T { try decoder.value(type, key) }

    func nestedContainer<K: CodingKey>(keyedBy: K.Type, forKey key: Key) throws -> KeyedDecodingContainer<K> {
        throw RecordError(field: key.stringValue, "decode it as a type of its own")
    }
    func nestedUnkeyedContainer(forKey key: Key) throws -> any UnkeyedDecodingContainer {
        throw RecordError(field: key.stringValue, "decode it as a type of its own")
    }
    func superDecoder() throws -> any Decoder { decoder }
    func superDecoder(forKey key: Key) throws -> any Decoder { decoder }
}

/// One cell as a value of its own: for enumerations and other types around a single value.
private struct CellDecoder: Decoder, SingleValueDecodingContainer {
    let row: RowDecoder
    let cell: Cell
    let key: any CodingKey
    var codingPath: [any CodingKey] { [key] }
    var userInfo: [CodingUserInfoKey: Any] { [:] }

    func container<K: CodingKey>(keyedBy type: K.Type) throws -> KeyedDecodingContainer<K> { throw row.missing(key) }
    func unkeyedContainer() throws -> any UnkeyedDecodingContainer { throw row.missing(key) }
    func singleValueContainer() -> any SingleValueDecodingContainer { self }

    private func int64() throws -> Int64 {
        if case .int64(let value) = cell { return value }
        throw cell == .null ? row.missing(key) : RecordError(field: row.currentName, "an integer expected")
    }
    private func narrow<I: FixedWidthInteger>() throws -> I {
        let value = try int64()
        guard let narrow = I(exactly: value) else {
            throw RecordError(field: row.currentName, "\(value) is out of the range of \(I.self)")
        }
        return narrow
    }
    func decodeNil() -> Bool { cell == .null }
    func decode(_: Bool.Type) throws -> Bool {
        if case .bool(let value) = cell { return value }
        throw cell == .null ? row.missing(key) : RecordError(field: row.currentName, "true or false expected")
    }
    func decode(_: String.Type) throws -> String {
        if case .text(let start, let count) = cell { return row.batch.string(start: start, count: count) }
        throw cell == .null ? row.missing(key) : RecordError(field: row.currentName, "a string expected")
    }
    func decode(_: Double.Type) throws -> Double {
        if case .float64(let value) = cell { return value }
        throw cell == .null ? row.missing(key) : RecordError(field: row.currentName, "a number expected")
    }
    func decode(_: Float.Type) throws -> Float {
        let value = try decode(Double.self)
        guard let narrow = Numbers.float(value) else {
            throw RecordError(field: row.currentName, "\(value) is out of the range of Float")
        }
        return narrow
    }
    func decode(_: Int.Type) throws -> Int { Int(try int64()) }
    func decode(_: Int8.Type) throws -> Int8 { try narrow() }
    func decode(_: Int16.Type) throws -> Int16 { try narrow() }
    func decode(_: Int32.Type) throws -> Int32 { try narrow() }
    func decode(_: Int64.Type) throws -> Int64 { try int64() }
    func decode(_: UInt.Type) throws -> UInt { try narrow() }
    func decode(_: UInt8.Type) throws -> UInt8 { try narrow() }
    func decode(_: UInt16.Type) throws -> UInt16 { try narrow() }
    func decode(_: UInt32.Type) throws -> UInt32 { try narrow() }
    func decode(_: UInt64.Type) throws -> UInt64 { try narrow() }
    func decode<T: Decodable>(_ type: T.Type) throws -> T {
        if type == EventTime.self {
            guard case .time(let micros) = cell else { throw row.missing(key) }
            return EventTime(microseconds: micros) as! T
        }
        return try T(from: self)
    }
}
