import GRDB
import GRDBSQLite
import WeirDefinitions
import WeirEngine

/// Gives the rows of a stream their keys and identities anew, when the stream has other views than when they were written.
///
/// An event's identity includes its keys in all views of its stream, and segments are in the order of keys: both follow from the events.
/// All of it is done in the caller's transaction, so that nobody ever sees a half of it.
struct Rekeying {
    private let table: StreamTable
    private let db: Database

    init(_ table: StreamTable, _ db: Database) {
        self.table = table
        self.db = db
    }

    /// - Parameters:
    ///   - stored: the stream's definition when its rows were written.
    ///   - progress: is told how many rows are done.
    func run(stored: String, progress: (Int) -> Void) throws {
        let before = streamViewNames(ofDefinition: stored)
        let now = table.stream.views.map(\.name)
        let removed = before.filter { !now.contains($0) }
        let columns = Set(try db.columns(in: table.stream.name).map(\.name))
        for view in table.stream.views where !columns.contains("_key_" + view.name) {
            try db.execute(sql: "ALTER TABLE \(table.name) ADD COLUMN \(StreamTable.keyColumn(view)) TEXT")
        }
        try writeKeys(progress)
        if !removed.isEmpty { try checkIdentities() }
        // A key that no view has any more would be there for good, whoever is forgotten.
        for view in removed where columns.contains("_key_" + view) {
            try db.execute(sql: "ALTER TABLE \(table.name) DROP COLUMN \(StreamTable.quote("_key_" + view))")
        }
        // Made anew from the rows.
        try db.execute(
            sql: "DELETE FROM weir_row_groups WHERE segment IN (SELECT number FROM weir_segments WHERE stream = ?)",
            arguments: [table.stream.name])
        try db.execute(sql: "DELETE FROM weir_segments WHERE stream = ?", arguments: [table.stream.name])
    }

    private func writeKeys(_ progress: (Int) -> Void) throws {
        let keys = table.stream.views.map { "\(StreamTable.keyColumn($0)) = ?" }
        let update = try db.makeStatement(
            sql: "UPDATE \(table.name) SET \((["_key_hash = ?"] + keys).joined(separator: ", ")) WHERE _seq = ?")
        let select = try db.makeStatement(
            sql: "SELECT \(table.selectList) FROM \(table.name) WHERE _seq > ? ORDER BY _seq LIMIT \(RowCollector.batchRows)")
        var position: Int64 = 0
        var done = 0
        while true {
            try select.setArguments([position])
            guard var batch = try table.batch(select, db), let end = batch.records.rows.last?.offset else { return }
            position = end
            batch.hashKeys()
            try write(batch, update.sqliteStatement)
            done += batch.count
            progress(done)
        }
    }

    private func write(_ batch: PreparedBatch, _ update: OpaquePointer) throws {
        for row in 0..<batch.count {
            sqlite3_bind_int64(update, 1, Int64(bitPattern: batch.keyHashes[row]))
            for (number, view) in batch.views.enumerated() {
                if view.keys.isNull(row) {
                    sqlite3_bind_null(update, Int32(number + 2))
                } else {
                    let key = view.keys.withText(row) { String(decoding: $0, as: UTF8.self) }
                    sqlite3_bind_text(
                        update, Int32(number + 2), key, Int32(key.utf8.count), unsafeBitCast(-1, to: sqlite3_destructor_type.self))
                }
            }
            sqlite3_bind_int64(update, Int32(batch.views.count + 2), batch.records.rows[batch.recordRows[row]].offset)
            let code = sqlite3_step(update)
            guard code == SQLITE_DONE else { throw HistoryDatabase.failure(code, "writing", db) }
            sqlite3_reset(update)
        }
    }

    /// Fewer keys may make one event of two that were accepted.
    private func checkIdentities() throws {
        guard let id = table.idColumn else { return }
        let clash = try Row.fetchOne(
            db,
            sql: """
                SELECT min(_seq) AS first, max(_seq) AS second FROM \(table.name)
                GROUP BY \(table.timeColumn), \(id), _key_hash HAVING count(*) > 1 LIMIT 1
                """)
        guard let clash else { return }
        throw HistoryError(Self.refusal(table, clash["first"], clash["second"]))
    }

    static func refusal(_ table: StreamTable, _ first: Int64, _ second: Int64) -> String {
        "by the keys that the views of '\(table.stream.name)' have now, the events number \(first) and \(second) of the history would be one event: they have the same time and id. Keep the view that tells them apart, or use another --data directory and ingest again"
    }
}

extension HistoryReader {
    /// Why a stream's rows cannot get their keys in its views; nil where they can. Reads the rows that share a time and an id.
    package func identityClash(of stream: String) throws -> String? {
        let table = try table(stream)
        guard let id = table.idColumn, try read({ db in try db.tableExists(stream) }) else { return nil }
        let numbers = try read { db in
            try Int64.fetchAll(
                db,
                sql: """
                    SELECT _seq FROM \(table.name) WHERE (\(table.timeColumn), \(id)) IN
                    (SELECT \(table.timeColumn), \(id) FROM \(table.name) GROUP BY 1, 2 HAVING count(*) > 1) ORDER BY _seq
                    """)
        }
        struct Identity: Hashable {
            let time: Int64
            let id: String
            let keyHash: UInt64
        }
        var known: [Identity: Int64] = [:]
        for start in stride(from: 0, to: numbers.count, by: RowCollector.batchRows) {
            let some = Array(numbers[start..<min(numbers.count, start + RowCollector.batchRows)])
            guard var batch = try events(of: stream, numbers: some) else { continue }
            batch.hashKeys()
            for row in 0..<batch.count {
                let number = batch.records.rows[batch.recordRows[row]].offset
                let identity = Identity(
                    time: batch.times[row], id: batch.ids.withText(row) { String(decoding: $0, as: UTF8.self) },
                    keyHash: batch.keyHashes[row])
                if let first = known.updateValue(number, forKey: identity) { return Rekeying.refusal(table, first, number) }
            }
        }
        return nil
    }
}
