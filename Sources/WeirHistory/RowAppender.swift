import GRDB
import GRDBSQLite
import WeirDefinitions
import WeirEngine
import WeirRecords

/// Appends accepted events of one source to their stream's table, some dozen with one statement: what a statement costs by itself is
/// a third of what a row does.
final class RowAppender {
    let history: StreamHistory
    let source: SourcePart
    private let id: Int64
    private let db: Database
    /// Rows that wait, all of one batch.
    private var waiting: [(row: Int, sequence: Int64, ingestTime: Int64)] = []
    private var batch: PreparedBatch?
    /// By the rows that they take, the largest first.
    private var statements: [(rows: Int, handle: OpaquePointer)] = []

    init(history: StreamHistory, source: SourcePart, id: Int64, _ db: Database) throws {
        self.history = history
        self.source = source
        self.id = id
        self.db = db
        for rows in [Self.rowsMax, 4, 1] where rows * history.table.insertedColumns <= 32_766 {
            statements.append((rows, try db.cachedStatement(sql: history.table.insertSQL(rows: rows)).sqliteStatement))
        }
        waiting.reserveCapacity(Self.rowsMax)
    }

    private static let rowsMax = 32

    /// - Parameter batch: the same from one `flush` to the next.
    func append(_ batch: PreparedBatch, row: Int, sequence: Int64, ingestTime: Int64) throws {
        if waiting.isEmpty { self.batch = batch }
        waiting.append((row, sequence, ingestTime))
        if waiting.count >= Self.rowsMax { try flush() }
    }

    func flush() throws {
        guard let batch else { return }
        defer {
            waiting.removeAll(keepingCapacity: true)
            self.batch = nil
        }
        var start = 0
        for (rows, handle) in statements {
            while start + rows <= waiting.count {
                var index: Int32 = 1
                for (row, sequence, ingestTime) in waiting[start..<start + rows] {
                    bind(batch, row, sequence, ingestTime, handle, &index)
                }
                let code = sqlite3_step(handle)
                sqlite3_reset(handle)
                guard code == SQLITE_DONE else {
                    sqlite3_clear_bindings(handle)
                    throw HistoryDatabase.failure(code, "writing", db)
                }
                start += rows
            }
        }
    }

    private func bind(
        _ batch: PreparedBatch, _ row: Int, _ sequence: Int64, _ ingestTime: Int64, _ handle: OpaquePointer, _ index: inout Int32
    ) {
        let recordRow = batch.recordRows[row]
        sqlite3_bind_int64(handle, index, sequence)
        sqlite3_bind_int64(handle, index + 1, ingestTime)
        sqlite3_bind_int64(handle, index + 2, id)
        sqlite3_bind_int64(handle, index + 3, Int64(source.partition))
        sqlite3_bind_int64(handle, index + 4, batch.records.rows[recordRow].offset)
        sqlite3_bind_int64(handle, index + 5, Int64(bitPattern: batch.keyHashes[row]))
        index += 6
        for view in batch.views.indices {
            if batch.views[view].keys.isNull(row) {
                sqlite3_bind_null(handle, index)
            } else {
                batch.views[view].keys.withText(row) { bindText(handle, index, $0) }
            }
            index += 1
        }
        let width = batch.records.schema.fields.count
        for field in 0..<width {
            switch batch.records.cells[recordRow * width + field] {
            case .null: sqlite3_bind_null(handle, index)
            case .int64(let value), .time(let value): sqlite3_bind_int64(handle, index, value)
            case .float64(let value): sqlite3_bind_double(handle, index, value)
            case .bool(let value): sqlite3_bind_int64(handle, index, value ? 1 : 0)
            case .text(let start, let count): batch.records.withText(start: start, count: count) { bindText(handle, index, $0) }
            }
            index += 1
        }
    }
}

/// Binds text that stays where it is until the statement has been stepped.
private func bindText(_ handle: OpaquePointer, _ index: Int32, _ text: UnsafeRawBufferPointer) {
    // An empty buffer may have no address, which SQLite would take for NULL.
    let address = text.baseAddress?.assumingMemoryBound(to: CChar.self)
    if let address {
        sqlite3_bind_text(handle, index, address, Int32(text.count), nil)
    } else {
        sqlite3_bind_text(handle, index, "", 0, nil)
    }
}
