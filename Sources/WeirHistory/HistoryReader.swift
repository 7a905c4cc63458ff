import Foundation
import GRDB
import GRDBSQLite
import WeirDefinitions
import WeirEngine
import WeirRecords

/// Reads the history: an entity's events for a lookup or an export, everything in order for a rebuild. Any number of readers
/// work beside the writer, in this and in other processes.
package final class HistoryReader: EventLog, Sendable {
    private let queue: DatabaseQueue
    private let catalog: CatalogPlan
    let tables: [String: StreamTable]
    // Used inside of `queue.read` alone, which one thread at a time is in.
    nonisolated(unsafe) private let histories: [String: StreamHistory]

    /// - Parameter whileErasing: opens it also while an erasure waits for its end: for who finishes it.
    package init(directory: String, catalog: CatalogPlan, whileErasing: Bool = false) throws {
        self.catalog = catalog
        queue = try HistoryDatabase.openForReading(directory: directory)
        var tables: [String: StreamTable] = [:]
        for stream in catalog.streams { tables[stream.name] = try StreamTable(stream) }
        let queue = queue
        do {
            try queue.read { db in
                for name in tables.keys where try db.tableExists(name) {
                    tables[name]!.leaveOut(columnsOtherThan: Set(try db.columns(in: name).map(\.name)))
                }
            }
        } catch { throw HistoryDatabase.explained(error, queue.path) }
        self.tables = tables
        histories = tables.mapValues { StreamHistory($0) }
        try read { db in
            guard try db.tableExists("weir_retention") else {
                throw HistoryError(
                    "the history \(HistoryDatabase.path(in: directory)) was made by an earlier build; `weir run` and `weir ingest` bring it up to date"
                )
            }
            try Retention.check(catalog, db)
            if !whileErasing, try Bool.fetchOne(db, sql: "SELECT EXISTS (SELECT 1 FROM weir_erasures WHERE state = 'erasing')")! {
                throw HistoryError(
                    "an entity is being erased from the store in \(directory), or was until a process died: wait for `weir forget`, or start it again (also `weir run` and `weir ingest` finish what was begun)"
                )
            }
        }
    }

    func read<R>(_ body: (Database) throws -> R) throws -> R {
        do { return try queue.read(body) } catch { throw HistoryDatabase.explained(error, queue.path) }
    }

    /// Writes a consistent copy beside readers and a writer, checks it, and makes it a store of its own.
    package func copy(to path: String) throws {
        do {
            let copy = try DatabaseQueue(path: path)
            try queue.backup(to: copy)
            try copy.write { db in
                try db.execute(sql: "UPDATE weir_meta SET value = lower(hex(randomblob(16))) WHERE key = 'store'")
            }
            let findings = try copy.read { db in try String.fetchAll(db, sql: "PRAGMA quick_check") }
            guard findings == ["ok"] else {
                throw HistoryError("the copy \(path) is damaged: \(findings.prefix(3).joined(separator: "; "))")
            }
            try copy.close()
        } catch {
            throw HistoryDatabase.explained(error, path)
        }
    }

    func table(_ stream: String) throws -> StreamTable {
        guard let table = tables[stream] else { throw HistoryError("the stream '\(stream)' is not in the catalog") }
        return table
    }

    /// The rows of one entity with event times in `[start, end)`, in order.
    ///
    /// - Parameters:
    ///   - ingestedBy: leaves out what was learned of later than this (microseconds).
    ///   - last: leaves out what was accepted behind the event of this number: a shard that has seen it so far has the rest.
    package func rows(
        of view: ViewPlan, key: String, from start: Int64, to end: Int64, ingestedBy: Int64? = nil, upTo last: Int64 = .max
    ) throws -> EventRows {
        _ = try table(view.stream)
        return try read { db in
            try histories[view.stream]!.rows(of: view, key: key, from: start, to: end, ingestedBy: ingestedBy, upTo: last, db)
        }
    }

    /// The same rows, and the time before which others may be gone.
    package func keptRows(
        of view: ViewPlan, key: String, from start: Int64, to end: Int64, upTo last: Int64
    ) throws -> (rows: EventRows, keptFrom: Int64) {
        _ = try table(view.stream)
        return try read { db in
            (
                try histories[view.stream]!.rows(of: view, key: key, from: start, to: end, ingestedBy: nil, upTo: last, db),
                try Retention.keptFrom(view.stream, db)
            )
        }
    }

    /// All rows of one entity with event times from `start` on, in order, and the number of each; and the time before which others may
    /// be gone.
    package func numberedRows(
        of view: ViewPlan, key: String, from start: Int64
    ) throws -> (rows: EventRows, sequences: [Int64], keptFrom: Int64) {
        _ = try table(view.stream)
        let (rows, sequences, keptFrom) = try read { db in
            let (rows, sequences) = try histories[view.stream]!.numberedRows(of: view, key: key, from: start, to: .max, db)
            return (rows, sequences, try Retention.keptFrom(view.stream, db))
        }
        guard let order = rows.order else { return (rows, sequences, keptFrom) }
        return (rows.sorted(), order.map { sequences[$0] }, keptFrom)
    }

    /// Events of a stream before this time no longer count, and may be gone; `Int64.min` where all count.
    package func keptFrom(stream: String) throws -> Int64 { try read { db in try Retention.keptFrom(stream, db) } }

    /// Every accepted event of a stream after a sequence number, in the order of acceptance, in batches.
    ///
    /// - Parameter body: gets a batch and the last sequence number in it.
    package func forEachBatch(
        of stream: String, after sequence: Int64, upTo last: Int64, _ body: (PreparedBatch, Int64) throws -> Void
    ) throws {
        let table = try table(stream)
        guard try read({ db in try db.tableExists(stream) }) else { return }
        let sql = "SELECT \(table.selectList) FROM \(table.name) WHERE _seq > ? AND _seq <= ? ORDER BY _seq LIMIT \(RowCollector.batchRows)"
        var position = sequence
        while true {
            // A statement a batch, so that no read transaction stays open while the caller works.
            let batch = try read { db in
                let statement = try db.cachedStatement(sql: sql)
                try statement.setArguments([position, last])
                return try table.batch(statement, db)
            }
            guard let batch, let end = batch.records.rows.last?.offset else { return }
            position = end
            try body(batch, position)
        }
    }

    /// Events of a stream by their numbers, as this code reads them; erased ones are missing.
    ///
    /// - Returns: nil where it has none of them.
    package func events(of stream: String, numbers: [Int64]) throws -> PreparedBatch? {
        let table = try table(stream)
        guard try read({ db in try db.tableExists(stream) }) else { return nil }
        return try read { db in
            let statement = try db.cachedStatement(
                sql: "SELECT \(table.selectList) FROM \(table.name) WHERE _seq IN (SELECT value FROM json_each(?)) ORDER BY _seq")
            try statement.setArguments(["[" + numbers.map(String.init).joined(separator: ",") + "]"])
            return try table.batch(statement, db)
        }
    }

    package struct DeadLetter: Sendable {
        package let number: Int64
        package let stream: String
        package let kind: String
        package let reason: String
        package let source: String
        package let offset: Int64
        package let ingestTime: Int64
        package let raw: [UInt8]
        /// nil for one that this build does not know.
        package let encoding: RecordEncoding?
        /// How often it was tried again in vain.
        package let retries: Int
    }

    /// - Parameters:
    ///   - numbers: nil for all.
    ///   - after: leaves out letters up to this number.
    package func deadLetters(
        stream: String? = nil, kind: String? = nil, numbers: [Int64]? = nil, after: Int64 = 0, limit: Int = .max
    ) throws -> [DeadLetter] {
        try read { db in
            try Row.fetchAll(
                db,
                sql: """
                    SELECT number, d.stream AS stream, d.kind AS kind, reason, "offset", ingest_time, raw, encoding, header, retries,
                           s.kind || ' ' || s.name || CASE WHEN s.kind = 'kafka' THEN '/' || s.partition ELSE '' END AS source
                    FROM weir_dead_letters d JOIN weir_sources s ON s.id = d.source
                    WHERE (?1 IS NULL OR d.stream = ?1) AND (?2 IS NULL OR d.kind = ?2)
                      AND (?3 IS NULL OR number IN (SELECT value FROM json_each(?3))) AND number > ?4
                    ORDER BY number LIMIT ?5
                    """, arguments: [stream, kind, numbers.map { "[" + $0.map(String.init).joined(separator: ",") + "]" }, after, limit]
            ).map { row in
                let raw: Data = row["raw"]
                let header: Data? = row["header"]
                let encoding: RecordEncoding? =
                    switch row["encoding"] as String {
                    case "json": .json
                    case "csv": .csv(header: Array(header ?? Data()))
                    case "message": .message
                    default: nil
                    }
                return DeadLetter(
                    number: row["number"], stream: row["stream"], kind: row["kind"], reason: row["reason"], source: row["source"],
                    offset: row["offset"], ingestTime: row["ingest_time"], raw: Array(raw), encoding: encoding, retries: row["retries"])
            }
        }
    }

    /// How many dead letters there are, by stream and kind.
    package func deadLetterCounts() throws -> [(stream: String, kind: String, count: Int)] {
        try read { db in
            try Row.fetchAll(db, sql: "SELECT stream, kind, count(*) AS n FROM weir_dead_letters GROUP BY 1, 2 ORDER BY 1, 2").map { row in
                (row["stream"], row["kind"], row["n"])
            }
        }
    }

    /// For each stream how far it is complete.
    package func watermarks() throws -> [String: Int64] {
        try read { db in
            Dictionary(
                uniqueKeysWithValues: try Row.fetchAll(db, sql: "SELECT stream, watermark FROM weir_watermarks").map {
                    ($0["stream"], $0["watermark"])
                })
        }
    }

    /// Windows that are open, and closed ones with all their revisions.
    package func windowCounts(of view: String) throws -> (open: Int, closed: Int) {
        try read { db in
            (
                try Int.fetchOne(db, sql: "SELECT count(*) FROM weir_windows WHERE view = ? AND is_open = 1", arguments: [view]) ?? 0,
                try Int.fetchOne(db, sql: "SELECT count(*) FROM weir_closed_windows WHERE view = ?", arguments: [view]) ?? 0
            )
        }
    }

    package func outputCount() throws -> Int {
        try read { db in try Int.fetchOne(db, sql: "SELECT count(*) FROM weir_output") ?? 0 }
    }

    /// What tells this store from others and from its copies.
    package func storeID() throws -> String {
        try read { db in try String.fetchOne(db, sql: "SELECT value FROM weir_meta WHERE key = 'store'") ?? "" }
    }

    /// For each stream the definition that the history was made with, and for each service the one of who last wrote to it.
    package func definitions() throws -> (streams: [String: String], services: [String: String]) {
        func named(_ kind: String, _ db: Database) throws -> [String: String] {
            let rows = try Row.fetchAll(db, sql: "SELECT name, definition FROM weir_definitions WHERE kind = ?", arguments: [kind])
            return Dictionary(uniqueKeysWithValues: rows.map { ($0["name"], $0["definition"]) })
        }
        return try read { db in (try named("stream", db), try named("service", db)) }
    }

    /// The largest accepted event time of all streams; nil before any event.
    package func latestEventTime() throws -> Int64? {
        try read { db in
            try madeTables(db).compactMap { table -> Int64? in
                let known = try Row.fetchOne(
                    db, sql: "SELECT max(last_time) AS time, max(last_sequence) AS number FROM weir_segments WHERE stream = ?",
                    arguments: [table.stream.name])!
                let time: Int64? = known["time"]
                let number: Int64 = known["number"] ?? 0
                let tail = try Int64.fetchOne(
                    db, sql: "SELECT max(\(table.timeColumn)) FROM \(table.name) WHERE _seq > ?", arguments: [number])
                return [time, tail].compactMap(\.self).max()
            }.max()
        }
    }

    /// Those of the streams that the history knows: code that is newer may have others.
    private func madeTables(_ db: Database) throws -> [StreamTable] { try tables.values.filter { try db.tableExists($0.stream.name) } }

    package func latestSequence() throws -> Int64 {
        try read { db in
            // Events with the last numbers may have been erased, or their time may be over.
            let gone = try Retention.lastSequence(db)
            return try madeTables(db).map { try Int64.fetchOne(db, sql: "SELECT max(_seq) FROM \($0.name)") ?? 0 }.reduce(gone, max)
        }
    }

    package struct ClosedWindow: Sendable, Hashable {
        package let window: String
        package let key: String
        package let start: Int64
        package let end: Int64
        package let revision: Int64
        /// JSON; nil where the window was taken back.
        package let values: String?
    }

    /// Every revision of a view's closed windows, by end, key, start and revision.
    package func closedWindows(of view: String) throws -> [ClosedWindow] {
        try read { db in
            try Row.fetchAll(
                db,
                sql: """
                    SELECT "window", entity_key, window_start, window_end, revision, "values" FROM weir_closed_windows
                    WHERE view = ? ORDER BY window_end, entity_key, window_start, revision
                    """, arguments: [view]
            ).map { row in
                ClosedWindow(
                    window: row["window"], key: row["entity_key"], start: row["window_start"], end: row["window_end"],
                    revision: row["revision"], values: row["values"])
            }
        }
    }

    /// Records on their way to topics, after a number, in order.
    package func outputs(after number: Int64, limit: Int = .max) throws -> [(number: Int64, record: OutputRecord)] {
        try read { db in
            try Row.fetchAll(
                db, sql: "SELECT number, topic, key, value FROM weir_output WHERE number > ? ORDER BY number LIMIT ?",
                arguments: [number, limit]
            ).map { row in (row["number"], OutputRecord(topic: row["topic"], key: row["key"], value: row["value"])) }
        }
    }

    /// Counters of what is no row of its own: further copies of events, events that came too late for a closed window.
    package func counters() throws -> [(stream: String, name: String, value: Int64)] {
        try read { db in
            try Row.fetchAll(db, sql: "SELECT stream, name, value FROM weir_counters ORDER BY stream, name").map { row in
                (row["stream"], row["name"], row["value"])
            }
        }
    }

    /// Into how many segments the stream's log was cut so far.
    package func segmentCount(stream: String) throws -> Int {
        try read { db in try Int.fetchOne(db, sql: "SELECT count(*) FROM weir_segments WHERE stream = ?", arguments: [stream]) ?? 0 }
    }

    /// Whether the history's rows have their keys in a view: not where the view is new to it.
    package func hasKeys(of view: ViewPlan) throws -> Bool {
        try read { db in
            try db.tableExists(view.stream)
                && db.columns(in: view.stream).contains { StreamTable.quote($0.name) == StreamTable.keyColumn(view) }
        }
    }

    package func eventCount(stream: String) throws -> Int {
        let table = try table(stream)
        return try read { db in try Int.fetchOne(db, sql: "SELECT count(*) FROM \(table.name)") ?? 0 }
    }

    /// A source as far as it was read.
    package struct Source: Sendable {
        package let kind: String
        /// A topic, a path, or `push`.
        package let name: String
        /// Of a topic; 0 otherwise.
        package let partition: Int
        package let stream: String
        package let position: Int64
        /// Microseconds; nil before its first event.
        package let watermark: Int64?
    }

    package func sources() throws -> [Source] {
        try read { db in
            try Row.fetchAll(db, sql: "SELECT kind, name, partition, stream, position, watermark FROM weir_sources ORDER BY id").map {
                row in
                Source(
                    kind: row["kind"], name: row["name"], partition: row["partition"], stream: row["stream"], position: row["position"],
                    watermark: row["watermark"])
            }
        }
    }

    /// Positions of all sources, for manifests, `META` and `INFO`: `kafka purchases/0` → `1234`, `push purchases` → `5678`.
    ///
    /// - Parameter sequence: as they were for who has seen the accepted events up to this number: everything before a position that
    ///   concerns the stores is among those. nil: all events. Looks at each event behind it.
    package func positions(at sequence: Int64? = nil) throws -> [(source: String, position: Int64)] {
        try read { db in
            var first: [Int64: Int64] = [:]
            if let sequence {
                for table in tables.values {
                    let statement = try db.cachedStatement(sql: "SELECT _source, min(_offset) FROM \(table.name) WHERE _seq > ? GROUP BY 1")
                    for row in try Row.fetchAll(statement, arguments: [sequence]) { first[row[0]] = row[1] }
                }
            }
            // Dead letters that were tried again are no source that has a position.
            return try Row.fetchAll(
                db,
                sql: """
                    SELECT id, kind || ' ' || CASE kind WHEN 'push' THEN stream ELSE name END
                               || CASE kind WHEN 'kafka' THEN '/' || partition ELSE '' END AS source, position
                    FROM weir_sources WHERE kind <> 'retry' ORDER BY 2, stream
                    """
            ).map { row in
                let position: Int64 = row["position"]
                return (source: row["source"], position: first[row["id"]].map { min($0, position) } ?? position)
            }
        }
    }
}
