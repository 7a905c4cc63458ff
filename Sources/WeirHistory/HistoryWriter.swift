import Foundation
import GRDB
import GRDBSQLite
import WeirDefinitions
import WeirRecords

/// Names a source and a part of it: a file (partition 0), a topic's partition, the push log.
package struct SourcePart: Hashable, Sendable {
    package enum Kind: String, Sendable { case file, kafka, push }
    package var kind: Kind
    package var name: String
    package var partition: Int32
    package var stream: String

    package init(kind: Kind, name: String, partition: Int32, stream: String) {
        self.kind = kind
        self.name = name
        self.partition = partition
        self.stream = stream
    }
}

/// A batch that has been decoded, on its way into the history: where it came from and when it was learned of.
package struct IncomingBatch: Sendable {
    package var batch: PreparedBatch
    package var source: SourcePart
    /// The next offset to read once this batch is in.
    package var nextOffset: Int64
    /// A file's fingerprint at `nextOffset`.
    package var detail: [UInt8]?
    /// Microseconds; one stamp a batch…
    package var ingestTime: Int64
    /// …unless the file brings one for each event.
    package var ingestTimes: [Int64]?

    package init(
        batch: PreparedBatch, source: SourcePart, nextOffset: Int64, detail: [UInt8]? = nil, ingestTime: Int64,
        ingestTimes: [Int64]? = nil
    ) {
        self.batch = batch
        self.source = source
        self.nextOffset = nextOffset
        self.detail = detail
        self.ingestTime = ingestTime
        self.ingestTimes = ingestTimes
    }
}

/// A batch of which the history has taken what is new.
package struct AcceptedBatch: Sendable {
    package var batch: PreparedBatch
    /// The accepted events, ascending.
    package var rows: [Int]
}

/// What one history transaction did.
package struct CommitSummary: Sendable {
    package var accepted = 0
    package var duplicates = 0
    package var deadLetters = 0
    /// The last `_seq` in use.
    package var lastSequence: Int64 = 0

    package init() {}
}

/// Appends events to the history and decides, once and for all stores, what is accepted: the history is the log that the
/// online store is derived from. Used from one thread.
package final class HistoryWriter {
    private let queue: DatabaseQueue
    private let catalog: CatalogPlan
    private var tables: [String: TableState] = [:]
    private var sourceIDs: [SourcePart: Int64] = [:]
    private var lastSequence: Int64 = 0

    private struct TableState {
        let table: StreamTable
        var latestEventTime: Int64?
    }

    package init(directory: String, catalog: CatalogPlan, isSynced: Bool = true) throws {
        self.catalog = catalog
        queue = try HistoryDatabase.openForWriting(directory: directory, isSynced: isSynced)
        let catalogStreams = catalog.streams
        let states = try queue.write { db in
            var states: [String: TableState] = [:]
            for stream in catalogStreams {
                let table = try StreamTable(stream)
                try Self.checkDefinition(db, stream)
                try table.create(db)
                let latest = try Int64.fetchOne(db, sql: "SELECT max(\(table.timeColumn)) FROM \(table.name)")
                states[stream.name] = TableState(table: table, latestEventTime: latest)
            }
            return states
        }
        tables = states
        for state in states.values {
            let last = try queue.read { db in try Int64.fetchOne(db, sql: "SELECT max(_seq) FROM \(state.table.name)") }
            lastSequence = max(lastSequence, last ?? 0)
        }
    }

    /// The history keeps a stream's fields as typed columns: other fields than those it was made with are refused.
    private static func checkDefinition(_ db: Database, _ stream: any StreamPlan) throws {
        let recorded = try Row.fetchOne(
            db, sql: "SELECT fingerprint, definition FROM weir_definitions WHERE kind = 'stream' AND name = ?", arguments: [stream.name])
        if let recorded, let fingerprint: String = recorded["fingerprint"], fingerprint != stream.fingerprint {
            let old: String = recorded["definition"]
            throw HistoryError(
                "stream '\(stream.name)' differs from the one that the history was made with:\n"
                    + definitionDifference(stored: old, code: stream.definition)
                    + "\nway out: restore the definition, or use another --data directory and ingest again")
        }
        try db.execute(
            sql: """
                INSERT OR IGNORE INTO weir_definitions (kind, name, fingerprint, definition, recorded_at)
                VALUES ('stream', ?, ?, ?, 0)
                """, arguments: [stream.name, stream.fingerprint, stream.definition])
    }

    package var latestSequence: Int64 { lastSequence }

    /// The largest accepted event time of all streams.
    package var latestEventTime: Int64? { tables.values.compactMap(\.latestEventTime).max() }

    /// Where to go on reading; nil for a source that was never read.
    package func position(of source: SourcePart) throws -> (offset: Int64, detail: [UInt8]?)? {
        try queue.read { db in
            try Row.fetchOne(
                db, sql: "SELECT position, detail FROM weir_sources WHERE kind = ? AND name = ? AND partition = ? AND stream = ?",
                arguments: [source.kind.rawValue, source.name, source.partition, source.stream]
            ).map { row in
                let detail: Data? = row["detail"]
                return (offset: row["position"], detail: detail.map { Array($0) })
            }
        }
    }

    /// All parts of a kind of source that were ever read, with their positions.
    package func positions(kind: SourcePart.Kind) throws -> [(source: SourcePart, offset: Int64, detail: [UInt8]?)] {
        try queue.read { db in
            try Row.fetchAll(
                db, sql: "SELECT name, partition, stream, position, detail FROM weir_sources WHERE kind = ? ORDER BY id",
                arguments: [kind.rawValue]
            ).map { row in
                let detail: Data? = row["detail"]
                let source = SourcePart(kind: kind, name: row["name"], partition: row["partition"], stream: row["stream"])
                return (source, row["position"], detail.map { Array($0) })
            }
        }
    }

    /// Takes batches in one transaction, with the positions that they lead to. On an error nothing of it is taken.
    package func commit(_ incoming: [IncomingBatch]) throws -> ([AcceptedBatch], CommitSummary) {
        let before = (lastSequence, tables)
        do {
            return try queue.write { db in
                var summary = CommitSummary()
                var accepted: [AcceptedBatch] = []
                for batch in incoming { accepted.append(try append(batch, db, &summary)) }
                summary.lastSequence = lastSequence
                return (accepted, summary)
            }
        } catch {
            (lastSequence, tables) = before
            sourceIDs = [:]
            throw error
        }
    }

    private func append(_ incoming: IncomingBatch, _ db: Database, _ summary: inout CommitSummary) throws -> AcceptedBatch {
        var batch = incoming.batch
        let streamName = incoming.source.stream
        guard var state = tables[streamName] else { throw HistoryError("the stream '\(streamName)' is not in the catalog") }
        let stream = state.table.stream
        let source = try sourceID(incoming.source, db)
        let insert = try db.cachedStatement(sql: state.table.insertSQL)
        let handle = insert.sqliteStatement
        var rows: [Int] = []
        var sequences: [Int64] = []
        rows.reserveCapacity(batch.count)
        var refused: [(row: Int, kind: String, reason: String)] = []
        var duplicates = 0

        for row in 0..<batch.count {
            let time = batch.times[row]
            let ingestTime = incoming.ingestTimes?[batch.recordRows[row]] ?? incoming.ingestTime
            if let lateness = stream.lateness, let latest = state.latestEventTime, time < latest - lateness {
                refused.append((row, "too late", "it is \(latest - time) µs older than the latest event; the stream allows \(lateness) µs"))
                continue
            }
            if let maxAhead = stream.maxAhead, time > ingestTime + maxAhead {
                refused.append(
                    (row, "ahead of time", "it is \(time - ingestTime) µs ahead of its ingest time; the stream allows \(maxAhead) µs"))
                continue
            }
            try bind(batch, row, sequence: lastSequence + 1, ingestTime: ingestTime, source: source, incoming, handle)
            let code = sqlite3_step(handle)
            sqlite3_reset(handle)
            guard code == SQLITE_DONE else {
                throw HistoryError(
                    "writing to the history failed: \(String(cString: sqlite3_errmsg(db.sqliteConnection))) (SQLite code \(code))")
            }
            if sqlite3_changes(db.sqliteConnection) == 1 {
                lastSequence += 1
                rows.append(row)
                sequences.append(lastSequence)
                state.latestEventTime = max(state.latestEventTime ?? .min, time)
            } else if try isSame(batch, row, state.table, db) {
                duplicates += 1
            } else {
                refused.append(
                    (row, "conflicting duplicate", "an event with the same keys, event time and id but other content was accepted before"))
            }
        }
        sqlite3_clear_bindings(handle)
        if !stream.hasIDs { batch.assignSequenceIDs(rows: rows, sequences: sequences) }

        for (row, kind, reason) in refused {
            let info = batch.records.rows[batch.recordRows[row]]
            try deadLetter(batch, raw: info.raw, offset: info.offset, kind, reason, source: source, incoming, db)
        }
        for malformed in batch.records.malformed {
            try deadLetter(batch, raw: malformed.raw, offset: malformed.offset, "malformed", malformed.reason, source: source, incoming, db)
        }
        if duplicates > 0 {
            try db.execute(
                sql: """
                    INSERT INTO weir_counters (stream, name, value) VALUES (?, 'duplicates', ?)
                    ON CONFLICT DO UPDATE SET value = value + excluded.value
                    """, arguments: [streamName, duplicates])
        }
        try db.execute(
            sql: "UPDATE weir_sources SET position = ?, detail = coalesce(?, detail) WHERE id = ?",
            arguments: [incoming.nextOffset, incoming.detail.map { Data($0) }, source])

        tables[streamName] = state
        summary.accepted += rows.count
        summary.duplicates += duplicates
        summary.deadLetters += refused.count + batch.records.malformed.count
        return AcceptedBatch(batch: batch, rows: rows)
    }

    private func sourceID(_ source: SourcePart, _ db: Database) throws -> Int64 {
        if let id = sourceIDs[source] { return id }
        let key: StatementArguments = [source.kind.rawValue, source.name, source.partition, source.stream]
        try db.execute(
            sql: "INSERT OR IGNORE INTO weir_sources (kind, name, partition, stream, position) VALUES (?, ?, ?, ?, 0)", arguments: key)
        let id = try Int64.fetchOne(
            db, sql: "SELECT id FROM weir_sources WHERE kind = ? AND name = ? AND partition = ? AND stream = ?", arguments: key)!
        sourceIDs[source] = id
        return id
    }

    private func bind(
        _ batch: PreparedBatch, _ row: Int, sequence: Int64, ingestTime: Int64, source: Int64, _ incoming: IncomingBatch,
        _ handle: OpaquePointer
    ) throws {
        let recordRow = batch.recordRows[row]
        sqlite3_bind_int64(handle, 1, sequence)
        sqlite3_bind_int64(handle, 2, ingestTime)
        sqlite3_bind_int64(handle, 3, source)
        sqlite3_bind_int64(handle, 4, Int64(incoming.source.partition))
        sqlite3_bind_int64(handle, 5, batch.records.rows[recordRow].offset)
        sqlite3_bind_int64(handle, 6, Int64(bitPattern: batch.keyHashes[row]))
        var index: Int32 = 7
        for view in batch.views {
            if view.keys.isNull(row) {
                sqlite3_bind_null(handle, index)
            } else {
                view.keys.withText(row) { bindText(handle, index, $0) }
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

    /// Whether the accepted event of the same identity has the same content.
    private func isSame(_ batch: PreparedBatch, _ row: Int, _ table: StreamTable, _ db: Database) throws -> Bool {
        guard let idColumn = table.idColumn else { return true }
        let columns = table.stream.schema.fields.map { StreamTable.quote($0.name) }.joined(separator: ", ")
        let statement = try db.cachedStatement(
            sql: "SELECT \(columns) FROM \(table.name) WHERE \(table.timeColumn) = ? AND \(idColumn) = ? AND _key_hash = ?")
        let handle = statement.sqliteStatement
        defer { sqlite3_reset(handle) }
        sqlite3_bind_int64(handle, 1, batch.times[row])
        let recordRow = batch.recordRows[row]
        let idField = table.stream.schema.index(of: "id")!
        if case .int64(let id) = batch.records.cell(row: recordRow, field: idField) {
            sqlite3_bind_int64(handle, 2, id)
        } else {
            batch.ids.withText(row) { bindCopiedText(handle, 2, $0) }
        }
        sqlite3_bind_int64(handle, 3, Int64(bitPattern: batch.keyHashes[row]))
        guard sqlite3_step(handle) == SQLITE_ROW else { return false }
        for field in table.stream.schema.fields.indices {
            let column = Int32(field)
            let isNull = sqlite3_column_type(handle, column) == SQLITE_NULL
            let same: Bool
            switch batch.records.cell(row: recordRow, field: field) {
            case .null: same = isNull
            case .int64(let value), .time(let value): same = !isNull && sqlite3_column_int64(handle, column) == value
            case .float64(let value): same = !isNull && sqlite3_column_double(handle, column) == value
            case .bool(let value): same = !isNull && (sqlite3_column_int64(handle, column) != 0) == value
            case .text(let start, let count):
                same =
                    !isNull
                    && batch.records.withText(start: start, count: count) { text in
                        let stored = UnsafeRawBufferPointer(
                            start: sqlite3_column_text(handle, column), count: Int(sqlite3_column_bytes(handle, column)))
                        return stored.elementsEqual(text)
                    }
            }
            if !same { return false }
        }
        return true
    }

    private func deadLetter(
        _ batch: PreparedBatch, raw: Range<Int>, offset: Int64, _ kind: String, _ reason: String, source: Int64,
        _ incoming: IncomingBatch, _ db: Database
    ) throws {
        let statement = try db.cachedStatement(
            sql: """
                INSERT INTO weir_dead_letters (stream, kind, reason, source, "offset", ingest_time, raw) VALUES (?, ?, ?, ?, ?, ?, ?)
                """)
        try statement.execute(arguments: [
            incoming.source.stream, kind, reason, source, offset, incoming.ingestTime, Data(batch.records.bytes[raw]),
        ])
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

private func bindCopiedText(_ handle: OpaquePointer, _ index: Int32, _ text: UnsafeRawBufferPointer) {
    let transient = unsafeBitCast(-1, to: sqlite3_destructor_type.self)
    sqlite3_bind_text(handle, index, text.baseAddress?.assumingMemoryBound(to: CChar.self), Int32(text.count), transient)
}
