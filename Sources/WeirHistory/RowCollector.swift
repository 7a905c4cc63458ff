import GRDB
import GRDBSQLite
import WeirDefinitions
import WeirRecords

/// Gathers stored rows of a stream, and decodes them into batches.
struct RowCollector {
    static let batchRows = 8_192

    private let table: StreamTable
    private let view: Int?
    private let body: (PreparedBatch) throws -> Void
    private var records: RecordBatch
    private var keyHashes: [UInt64] = []

    /// - Parameters:
    ///   - view: the one whose rows are wanted; nil for all.
    ///   - body: gets batches of up to `batchRows` rows, whose records have their numbers as offsets.
    init(table: StreamTable, view: Int?, _ body: @escaping (PreparedBatch) throws -> Void) {
        self.table = table
        self.view = view
        self.body = body
        records = RecordBatch(schema: table.stream.schema)
    }

    /// Appends the row that a statement over `selectList` stands on.
    mutating func append(_ handle: OpaquePointer) throws {
        let start = records.bytes.count
        for (index, field) in table.stream.schema.fields.enumerated() {
            records.cells.append(Cell(handle, Int32(index + 2), field.type, &records.bytes))
        }
        records.rows.append(.init(raw: start..<start, offset: sqlite3_column_int64(handle, 0)))
        try didAppend(keyHash: UInt64(bitPattern: sqlite3_column_int64(handle, 1)))
    }

    mutating func append(_ group: RowGroup, _ row: Int) throws {
        group.append(row, to: &records)
        try didAppend(keyHash: group.keyHash(row))
    }

    private mutating func didAppend(keyHash: UInt64) throws {
        keyHashes.append(keyHash)
        if records.rows.count == Self.batchRows { try finish() }
    }

    /// Hands over what is left.
    mutating func finish() throws {
        if records.rows.isEmpty { return }
        var batch = table.stream.prepare(records, view: view, keyHashes: keyHashes)
        guard batch.records.malformed.isEmpty else {
            throw HistoryError(
                "an event of '\(table.stream.name)' in the history does not decode any more: \(batch.records.malformed[0].reason)")
        }
        if !table.stream.hasIDs { batch.assignSequenceIDs(rows: Array(0..<batch.count), sequences: records.rows.map(\.offset)) }
        try body(batch)
        records = RecordBatch(schema: table.stream.schema)
        keyHashes = []
    }
}

extension StreamTable {
    /// The rows of a statement over `selectList`, whose arguments are set, at most `RowCollector.batchRows`; nil where there are none.
    func batch(_ statement: Statement, _ db: Database) throws -> PreparedBatch? {
        let handle = statement.sqliteStatement
        defer { sqlite3_reset(handle) }
        var batch: PreparedBatch?
        var collector = RowCollector(table: self, view: nil) { batch = $0 }
        while true {
            let code = sqlite3_step(handle)
            if code == SQLITE_DONE { break }
            guard code == SQLITE_ROW else { throw HistoryDatabase.failure(code, "reading", db) }
            try collector.append(handle)
        }
        try collector.finish()
        return batch
    }
}

extension Cell {
    /// A column of the row that a statement stands on; text goes to `bytes`.
    fileprivate init(_ handle: OpaquePointer, _ column: Int32, _ type: FieldType, _ bytes: inout [UInt8]) {
        if sqlite3_column_type(handle, column) == SQLITE_NULL {
            self = .null
            return
        }
        switch type {
        case .int64: self = .int64(sqlite3_column_int64(handle, column))
        case .time: self = .time(sqlite3_column_int64(handle, column))
        case .float64: self = .float64(sqlite3_column_double(handle, column))
        case .bool: self = .bool(sqlite3_column_int64(handle, column) != 0)
        case .text, .json:
            let text = UnsafeRawBufferPointer(start: sqlite3_column_text(handle, column), count: Int(sqlite3_column_bytes(handle, column)))
            let start = bytes.count
            bytes.append(contentsOf: text)
            self = .text(start: start, count: text.count)
        }
    }
}
