import WeirAlgebra

/// Makes events and requests from records: a `Decoder` over a row's cells.
///
/// Synthesized `init(from:)` asks for the fields in the schema's order, which the schema was probed in, so that a field is found
/// by one comparison of names; other orders are looked up.
public struct RecordDecoder {
    private let owner: Owner

    public init(schema: RecordSchema) { owner = Owner(RowDecoder(schema)) }

    /// The decoder and its container hold each other; this lets them go.
    private final class Owner {
        let decoder: RowDecoder
        init(_ decoder: RowDecoder) { self.decoder = decoder }
        deinit { decoder.close() }
    }

    /// Takes the batch whose rows are decoded next.
    public mutating func load(_ batch: RecordBatch) { owner.decoder.state.pointee.batch = batch }

    /// Takes one JSON text as the only row, in the memory of the batch that it has.
    ///
    /// - Throws: `RecordError` that says what is wrong with it.
    public mutating func load(_ json: UnsafeRawBufferPointer, _ parser: inout JSONRecordParser) throws(RecordError) {
        let state = owner.decoder.state
        state.pointee.batch.removeAll()
        parser.append(json, to: &state.pointee.batch, offset: 0)
        if let malformed = state.pointee.batch.malformed.first { throw RecordError(malformed.reason) }
    }

    /// - Throws: `RecordError` that names the field and says what is wrong.
    public mutating func decode<T: Decodable>(_ type: T.Type, from batch: RecordBatch, row: Int) throws(RecordError) -> T {
        load(batch)
        return try decode(type, row: row)
    }

    /// Decodes a row of the batch that was loaded.
    ///
    /// - Throws: `RecordError` that names the field and says what is wrong.
    public mutating func decode<T: Decodable>(_: T.Type, row: Int) throws(RecordError) -> T {
        let decoder = owner.decoder
        decoder.state.pointee.start(row)
        do {
            return try T(from: decoder)
        } catch let error as RecordError {
            throw error.field == nil ? RecordError(field: decoder.currentName, error.reason) : error
        } catch DecodingError.dataCorrupted(let context), DecodingError.typeMismatch(_, let context),
            DecodingError.valueNotFound(_, let context)
        {
            // The field that the error names; only without one, the field that was asked for last.
            throw RecordError(
                field: context.codingPath.first.map { wireName($0.stringValue) } ?? decoder.currentName,
                context.debugDescription)
        } catch DecodingError.keyNotFound(let key, let context) {
            throw RecordError(field: wireName((context.codingPath.first ?? key).stringValue), context.debugDescription)
        } catch {
            throw RecordError(field: decoder.currentName, "\(error)")
        }
    }
}

private final class RowDecoder: Decoder {
    let schema: RecordSchema

    struct State {
        var batch: RecordBatch
        /// Where the row's cells begin.
        var firstCell = 0
        let width: Int
        /// The field that is probably asked for next.
        var next = 0
        /// The field that was asked for last; −1 for none.
        var current = -1
        /// Coding keys as they were spelled when a field was first asked for; no key is spelled as "".
        var spellings: [String]
        var indexes: [String: Int] = [:]

        mutating func start(_ row: Int) {
            firstCell = row * width
            next = 0
            current = -1
        }
    }

    /// Behind a pointer, so that each of some dozen accesses a row costs no check for exclusive access.
    let state: UnsafeMutablePointer<State>
    /// The container of the type that is decoded, its memory, and what frees that.
    private var container: (key: ObjectIdentifier, memory: UnsafeMutableRawPointer, free: (UnsafeMutableRawPointer) -> Void)?

    init(_ schema: RecordSchema) {
        self.schema = schema
        state = .allocate(capacity: 1)
        state.initialize(
            to: State(
                batch: RecordBatch(schema: schema), width: schema.fields.count,
                spellings: Array(repeating: "", count: schema.fields.count)))
    }

    deinit {
        state.deinitialize(count: 1)
        state.deallocate()
    }

    func close() {
        if let container { container.free(container.memory) }
        container = nil
    }

    var currentName: String? { state.pointee.current >= 0 ? schema.fields[state.pointee.current].name : nil }
    var codingPath: [any CodingKey] { [] }
    var userInfo: [CodingUserInfoKey: Any] { [:] }

    func container<Key: CodingKey>(keyedBy type: Key.Type) -> KeyedDecodingContainer<Key> {
        // One container serves all rows: it holds nothing but this decoder.
        if let container, container.key == ObjectIdentifier(type) {
            return container.memory.assumingMemoryBound(to: KeyedDecodingContainer<Key>.self).pointee
        }
        if container != nil { return KeyedDecodingContainer(RowContainer<Key>(decoder: self, fields: nil)) }
        let fields = RowContainer<Key>.isTagged ? UnsafeMutablePointer<Int16>.allocate(capacity: 256) : nil
        fields?.initialize(repeating: -1, count: 256)
        let new = KeyedDecodingContainer(RowContainer<Key>(decoder: self, fields: fields))
        let memory = UnsafeMutablePointer<KeyedDecodingContainer<Key>>.allocate(capacity: 1)
        memory.initialize(to: new)
        container = (
            ObjectIdentifier(type), UnsafeMutableRawPointer(memory),
            { memory in
                memory.assumingMemoryBound(to: KeyedDecodingContainer<Key>.self).deinitialize(count: 1)
                memory.deallocate()
                fields?.deallocate()
            }
        )
        return new
    }
    func unkeyedContainer() throws -> any UnkeyedDecodingContainer { throw RecordError("a record is no array") }
    func singleValueContainer() throws -> any SingleValueDecodingContainer {
        throw RecordError("a record is no single value")
    }

    /// The number of the field that a coding key names; −1 for one that the schema does not have.
    func index(_ key: String) -> Int {
        let next = state.pointee.next
        if next < state.pointee.width, state.pointee.spellings[next] == key {
            state.pointee.current = next
            state.pointee.next = next + 1
            return next
        }
        return findIndex(key)
    }

    @inline(never)
    private func findIndex(_ key: String) -> Int {
        // `decodeIfPresent` asks for a field several times in a row.
        let current = state.pointee.current
        if current >= 0, state.pointee.spellings[current] == key { return current }
        var found = state.pointee.indexes[key] ?? -1
        if found < 0 {
            found = schema.index(of: wireName(key)) ?? -1
            guard found >= 0 else {
                state.pointee.current = -1
                return -1
            }
            state.pointee.indexes[key] = found
            state.pointee.spellings[found] = key
        }
        state.pointee.current = found
        state.pointee.next = found + 1
        return found
    }

    /// A field that is known by its number, as if it had been asked for by name.
    @inline(__always)
    func cell(field index: Int) -> Cell {
        state.pointee.current = index
        state.pointee.next = index + 1
        return state.pointee.batch.cells[state.pointee.firstCell + index]
    }

    func cell(_ key: String) -> Cell {
        let index = index(key)
        return index < 0 ? .null : state.pointee.batch.cells[state.pointee.firstCell + index]
    }

    func missing(_ key: any CodingKey) -> RecordError { RecordError(field: wireName(key.stringValue), "it is missing") }

    func int64(_ cell: Cell, _ key: some CodingKey) throws -> Int64 {
        switch cell {
        case .int64(let value): return value
        case .null: throw missing(key)
        default: throw RecordError(field: currentName, "an integer expected")
        }
    }

    func integer<I: FixedWidthInteger>(_ cell: Cell, _ key: some CodingKey) throws -> I {
        let value = try int64(cell, key)
        guard let narrow = I(exactly: value) else {
            throw RecordError(field: currentName, "\(value) is out of the range of \(I.self)")
        }
        return narrow
    }

    func double(_ cell: Cell, _ key: some CodingKey) throws -> Double {
        switch cell {
        case .float64(let value): return value
        case .null: throw missing(key)
        default: throw RecordError(field: currentName, "a number expected")
        }
    }

    func float(_ cell: Cell, _ key: some CodingKey) throws -> Float {
        let value = try double(cell, key)
        guard let narrow = Numbers.float(value) else {
            throw RecordError(field: currentName, "\(value) is out of the range of Float")
        }
        return narrow
    }

    func bool(_ cell: Cell, _ key: some CodingKey) throws -> Bool {
        switch cell {
        case .bool(let value): return value
        case .null: throw missing(key)
        default: throw RecordError(field: currentName, "true or false expected")
        }
    }

    func string(_ cell: Cell, _ key: some CodingKey) throws -> String {
        switch cell {
        case .text(let start, let count): return state.pointee.batch.string(start: start, count: count)
        case .null: throw missing(key)
        default: throw RecordError(field: currentName, "a string expected")
        }
    }

    func value<T: Decodable>(_ type: T.Type, _ cell: Cell, _ key: some CodingKey) throws -> T {
        if type == EventTime.self {
            guard case .time(let micros) = cell else { throw missing(key) }
            return unsafeBitCast(EventTime(microseconds: micros), to: T.self)
        }
        let index = state.pointee.current
        guard index >= 0 else { throw missing(key) }
        if schema.fields[index].type == .json {
            guard case .text(let start, let count) = cell else {
                // Absent: what an Optional that is decoded by name takes.
                return try T(from: JSONTreeDecoder(.null, codingPath: [key]))
            }
            let tree = try state.pointee.batch.withText(start: start, count: count) { try JSONTreeParser.parse($0) }
            return try JSONTreeDecoder(tree, codingPath: [key]).unbox(type)
        }
        return try T(from: CellDecoder(row: self, cell: cell, key: key))
    }
}

private struct RowContainer<Key: CodingKey>: KeyedDecodingContainerProtocol {
    let decoder: RowDecoder
    /// For keys that are one byte, as enumerations without payloads are: the field of each, −1 for one that was not asked for yet.
    let fields: UnsafeMutablePointer<Int16>?
    var codingPath: [any CodingKey] { [] }
    var allKeys: [Key] { decoder.schema.fields.compactMap { Key(stringValue: $0.name) } }

    static var isTagged: Bool { MemoryLayout<Key>.size == 1 && _isPOD(Key.self) }

    @inline(__always)
    private func cell(_ key: Key) -> Cell {
        guard let fields else { return decoder.cell(key.stringValue) }
        let tag = Int(withUnsafeBytes(of: key) { $0[0] })
        let field = Int(fields[tag])
        if field >= 0 { return decoder.cell(field: field) }
        let found = decoder.index(key.stringValue)
        if found < 0 { return .null }
        fields[tag] = Int16(truncatingIfNeeded: found)
        return decoder.cell(field: found)
    }

    func contains(_ key: Key) -> Bool { cell(key) != .null }
    func decodeNil(forKey key: Key) -> Bool { cell(key) == .null }

    func decode(_: Bool.Type, forKey key: Key) throws -> Bool { try decoder.bool(cell(key), key) }
    func decode(_: String.Type, forKey key: Key) throws -> String { try decoder.string(cell(key), key) }
    func decode(_: Double.Type, forKey key: Key) throws -> Double { try decoder.double(cell(key), key) }
    func decode(_: Float.Type, forKey key: Key) throws -> Float { try decoder.float(cell(key), key) }
    func decode(_: Int.Type, forKey key: Key) throws -> Int { Int(try decoder.int64(cell(key), key)) }
    func decode(_: Int8.Type, forKey key: Key) throws -> Int8 { try decoder.integer(cell(key), key) }
    func decode(_: Int16.Type, forKey key: Key) throws -> Int16 { try decoder.integer(cell(key), key) }
    func decode(_: Int32.Type, forKey key: Key) throws -> Int32 { try decoder.integer(cell(key), key) }
    func decode(_: Int64.Type, forKey key: Key) throws -> Int64 { try decoder.int64(cell(key), key) }
    func decode(_: UInt.Type, forKey key: Key) throws -> UInt { try decoder.integer(cell(key), key) }
    func decode(_: UInt8.Type, forKey key: Key) throws -> UInt8 { try decoder.integer(cell(key), key) }
    func decode(_: UInt16.Type, forKey key: Key) throws -> UInt16 { try decoder.integer(cell(key), key) }
    func decode(_: UInt32.Type, forKey key: Key) throws -> UInt32 { try decoder.integer(cell(key), key) }
    func decode(_: UInt64.Type, forKey key: Key) throws -> UInt64 { try decoder.integer(cell(key), key) }
    func decode<T: Decodable>(_ type: T.Type, forKey key: Key) throws -> T { try decoder.value(type, cell(key), key) }

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
        if case .text(let start, let count) = cell { return row.state.pointee.batch.string(start: start, count: count) }
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
