import Foundation
import GRDB
import GRDBSQLite
import WeirDefinitions
import WeirEngine
import WeirRecords

/// The numbers that sources have in the history.
final class SourceIDs {
    fileprivate var ids: [SourcePart: Int64] = [:]

    /// A transaction that gave numbers was rolled back.
    func forget() { ids = [:] }
}

/// One transaction of `history.sqlite`.
final class SQLiteTransaction: HistoryTransaction {
    let db: Database
    let histories: [String: StreamHistory]
    private let sourceIDs: SourceIDs
    private var appender: RowAppender?

    init(db: Database, histories: [String: StreamHistory], sourceIDs: SourceIDs) {
        self.db = db
        self.histories = histories
        self.sourceIDs = sourceIDs
    }

    // MARK: Events

    func insert(
        _ batch: PreparedBatch, row: Int, sequence: Int64, ingestTime: Int64, from incoming: IncomingBatch
    ) throws -> Insertion {
        if appender?.source != incoming.source {
            try flush()
            let history = histories[incoming.source.stream]!
            appender = try RowAppender(history: history, source: incoming.source, id: id(of: incoming.source), db)
        }
        let appender = appender!
        let history = appender.history
        // Events mostly come in order, and one that is later than all others is no copy.
        if history.table.idColumn != nil, try !history.isLater(batch.times[row], db) {
            if let known = try history.find(batch, row: row, db, beforeReading: appender.flush) {
                return try history.isSame(known, batch, row, db) ? .duplicate : .conflict
            }
        }
        try appender.append(batch, row: row, sequence: sequence, ingestTime: ingestTime)
        history.didAppend(batch, row: row, sequence: sequence)
        return .accepted
    }

    /// Writes the rows that wait for their statement.
    func flush() throws { try appender?.flush() }

    func rows(of view: ViewPlan, key: String, from start: Int64, to end: Int64) throws -> EventRows {
        try flush()
        return try histories[view.stream]!.rows(of: view, key: key, from: start, to: end, ingestedBy: nil, db)
    }

    func latestTime(of view: ViewPlan, key: String) throws -> Int64? {
        try flush()
        return try histories[view.stream]!.latestTime(of: view, key: key, db)
    }

    // MARK: Sources

    private func id(of source: SourcePart) throws -> Int64 {
        if let id = sourceIDs.ids[source] { return id }
        let key: StatementArguments = [source.kind.rawValue, source.name, source.partition, source.stream]
        try db.execute(
            sql: "INSERT OR IGNORE INTO weir_sources (kind, name, partition, stream, position) VALUES (?, ?, ?, ?, 0)", arguments: key)
        let id = try Int64.fetchOne(
            db, sql: "SELECT id FROM weir_sources WHERE kind = ? AND name = ? AND partition = ? AND stream = ?", arguments: key)!
        sourceIDs.ids[source] = id
        return id
    }

    func setPosition(_ source: SourcePart, _ position: Int64, detail: [UInt8]?, watermark: Int64?) throws {
        // The end of a batch: the appender does not hold on to it.
        try flush()
        try execute(
            "UPDATE weir_sources SET position = ?, detail = coalesce(?, detail), watermark = ? WHERE id = ?",
            [position, detail.map { Data($0) }, watermark, try id(of: source)])
    }

    func setWatermark(_ watermark: Int64, stream: String) throws {
        try execute("INSERT OR REPLACE INTO weir_watermarks (stream, watermark) VALUES (?, ?)", [stream, watermark])
    }

    func setKeptFrom(_ time: Int64, stream: String) throws {
        try execute(
            """
            INSERT INTO weir_retention (stream, kept_from, last_sequence, last_segment, sweeps) VALUES (?, ?, 0, 0, 0)
            ON CONFLICT (stream) DO UPDATE SET kept_from = excluded.kept_from
            """, [stream, time])
    }

    func add(_ letter: DeadLetter) throws {
        if letter.source.kind == .retry {
            // It stays what and where it was, with a new reason.
            try execute(
                "UPDATE weir_dead_letters SET kind = ?, reason = ?, retries = retries + 1 WHERE number = ?",
                [letter.kind.rawValue, letter.reason, letter.offset])
            return refusedAgain.append(letter.offset)
        }
        var encoding = "json"
        var header: Data?
        switch letter.encoding {
        case .json: break
        case .csv(let line):
            encoding = "csv"
            header = Data(line)
        case .message: encoding = "message"
        }
        try execute(
            """
            INSERT INTO weir_dead_letters (stream, kind, reason, source, "offset", ingest_time, raw, encoding, header)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            [
                letter.source.stream, letter.kind.rawValue, letter.reason, try id(of: letter.source), letter.offset, letter.ingestTime,
                Data(letter.raw), encoding, header,
            ])
    }

    /// Letters that were tried again in vain.
    private(set) var refusedAgain: [Int64] = []

    func removeLetters(_ numbers: [Int64]) throws {
        for number in numbers { try execute("DELETE FROM weir_dead_letters WHERE number = ?", [number]) }
    }

    /// Forgets output records that their topics have.
    func removeOutputs(upTo number: Int64) throws { try execute("DELETE FROM weir_output WHERE number <= ?", [number]) }

    func count(_ name: String, stream: String, by amount: Int) throws {
        try execute(
            """
            INSERT INTO weir_counters (stream, name, value) VALUES (?, ?, ?)
            ON CONFLICT DO UPDATE SET value = value + excluded.value
            """, [stream, name, amount])
    }

    func execute(_ sql: String, _ arguments: StatementArguments) throws {
        try db.cachedStatement(sql: sql).execute(arguments: arguments)
    }

    // MARK: Windows

    private static let windowColumns = "entity_key, window_start, window_end, due, is_open, revision"

    private func windows(_ condition: String, _ arguments: StatementArguments) throws -> [WindowRecord] {
        let statement = try db.cachedStatement(
            sql: "SELECT \(Self.windowColumns) FROM weir_windows WHERE view = ? AND \"window\" = ? AND \(condition)")
        return try Row.fetchAll(statement, arguments: arguments).map { row in
            WindowRecord(
                key: row["entity_key"], start: row["window_start"], end: row["window_end"], due: row["due"], isOpen: row["is_open"],
                revision: row["revision"])
        }
    }

    func window(_ series: WindowSeries, key: String, start: Int64) throws -> WindowRecord? {
        try windows("entity_key = ? AND window_start = ?", [series.view, series.window, key, start]).first
    }

    func windows(_ series: WindowSeries, key: String, from first: Int64, through last: Int64) throws -> [WindowRecord] {
        // By their ends, of which few are later than an event that comes in order.
        try windows(
            "entity_key = ? AND window_end >= ? AND +window_start <= ? ORDER BY window_start",
            [series.view, series.window, key, first, last])
    }

    func put(_ record: WindowRecord, _ series: WindowSeries) throws {
        try execute(
            """
            INSERT OR REPLACE INTO weir_windows (view, "window", \(Self.windowColumns)) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
            """,
            [series.view, series.window, record.key, record.start, record.end, record.due, record.isOpen, record.revision])
    }

    func remove(_ record: WindowRecord, _ series: WindowSeries) throws {
        try execute(
            "DELETE FROM weir_windows WHERE view = ? AND \"window\" = ? AND entity_key = ? AND window_start = ?",
            [series.view, series.window, record.key, record.start])
    }

    func dueWindows(_ series: WindowSeries, at watermark: Int64, limit: Int) throws -> [WindowRecord] {
        try windows(
            "is_open = 1 AND due <= ? ORDER BY due, window_end, entity_key LIMIT ?", [series.view, series.window, watermark, limit])
    }

    func nextDue(_ series: WindowSeries) throws -> Int64? {
        try Int64.fetchOne(
            db.cachedStatement(sql: "SELECT min(due) FROM weir_windows WHERE view = ? AND \"window\" = ? AND is_open = 1"),
            arguments: [series.view, series.window])
    }

    func writeClosed(_ record: WindowRecord, _ series: WindowSeries, values: String?) throws {
        try execute(
            """
            INSERT INTO weir_closed_windows (view, "window", entity_key, window_start, window_end, revision, "values")
            VALUES (?, ?, ?, ?, ?, ?, ?)
            """, [series.view, series.window, record.key, record.start, record.end, record.revision, values])
    }

    func output(_ record: OutputRecord) throws {
        try execute("INSERT INTO weir_output (topic, key, value) VALUES (?, ?, ?)", [record.topic, record.key, record.value])
    }
}
