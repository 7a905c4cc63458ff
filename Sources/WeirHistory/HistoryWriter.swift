import Foundation
import GRDB
import WeirDefinitions
import WeirEngine

/// Appends events to the history, with the positions of their sources: the history is the log that the online store is derived
/// from. What is accepted the `Arbiter` decides. Used from one thread.
package final class HistoryWriter {
    private let queue: DatabaseQueue
    private let tables: [String: StreamTable]
    private var arbiter: Arbiter
    private var sourceIDs = SourceIDs()

    package init(directory: String, catalog: CatalogPlan, isSynced: Bool = true) throws {
        queue = try HistoryDatabase.openForWriting(directory: directory, isSynced: isSynced)
        let streams = catalog.streams
        var tables: [String: StreamTable] = [:]
        for stream in streams { tables[stream.name] = try StreamTable(stream) }
        self.tables = tables
        let (lastSequence, restored) = try queue.write { db in
            var lastSequence: Int64 = 0
            var restored: [String: Arbiter.Restored] = [:]
            for stream in streams {
                let table = tables[stream.name]!
                try Self.checkDefinition(db, stream)
                try table.create(db)
                lastSequence = max(lastSequence, try Int64.fetchOne(db, sql: "SELECT max(_seq) FROM \(table.name)") ?? 0)
                restored[stream.name] = try Self.restored(table, db)
            }
            return (lastSequence, restored)
        }
        arbiter = Arbiter(catalog: catalog, views: catalog.views.map { ViewRuntime($0) }, lastSequence: lastSequence, restored: restored)
    }

    private static func restored(_ table: StreamTable, _ db: Database) throws -> Arbiter.Restored {
        let stream = table.stream.name
        let sources = try Row.fetchAll(
            db, sql: "SELECT kind, name, partition, watermark FROM weir_sources WHERE stream = ? ORDER BY id", arguments: [stream]
        ).compactMap { row -> (source: SourcePart, watermark: Int64?)? in
            guard let kind = SourcePart.Kind(rawValue: row["kind"]) else { return nil }
            return (SourcePart(kind: kind, name: row["name"], partition: row["partition"], stream: stream), row["watermark"])
        }
        let views = table.stream.views.filter { $0.closedWindows != nil }.map(\.name)
        var nextDue: Int64?
        for view in views {
            let due = try Int64.fetchOne(db, sql: "SELECT min(due) FROM weir_windows WHERE view = ? AND is_open = 1", arguments: [view])
            if let due { nextDue = min(nextDue ?? .max, due) }
        }
        return Arbiter.Restored(
            latestEventTime: try Int64.fetchOne(db, sql: "SELECT max(\(table.timeColumn)) FROM \(table.name)"),
            watermark: try Int64.fetchOne(db, sql: "SELECT watermark FROM weir_watermarks WHERE stream = ?", arguments: [stream]),
            sources: sources, nextDue: nextDue)
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

    package var latestSequence: Int64 { arbiter.lastSequence }

    /// The largest accepted event time of all streams.
    package var latestEventTime: Int64? { arbiter.latestEventTime }

    package func watermark(of stream: String) -> Int64? { arbiter.watermark(of: stream) }

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
    ///
    /// - Parameter now: microseconds on a clock that never goes back.
    package func commit(_ incoming: [IncomingBatch], now: Int64) throws -> ([AcceptedBatch], CommitSummary) {
        try transaction { arbiter, transaction in
            var summary = CommitSummary()
            var accepted: [AcceptedBatch] = []
            for batch in incoming { accepted.append(try arbiter.take(batch, now: now, in: transaction, &summary)) }
            return (accepted, summary)
        }
    }

    /// Looks at the clock: closes what waited for sources that have become idle. Writes only where there is something to write.
    ///
    /// - Returns: whether a watermark moved.
    package func tick(now: Int64) throws -> Bool {
        guard arbiter.check(now: now) else { return false }
        try transaction { arbiter, transaction in try arbiter.advance(in: transaction) }
        return true
    }

    private func transaction<R>(_ body: (inout Arbiter, SQLiteTransaction) throws -> R) throws -> R {
        let before = arbiter
        do {
            let result = try queue.write { db in
                CrashPoint.reach(.historyBegun)
                let result = try body(&arbiter, SQLiteTransaction(db: db, tables: tables, sourceIDs: sourceIDs))
                CrashPoint.reach(.historyWritten)
                return result
            }
            CrashPoint.reach(.historyCommitted)
            return result
        } catch {
            arbiter = before
            sourceIDs.forget()
            throw error
        }
    }
}
