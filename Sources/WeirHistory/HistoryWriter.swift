import Foundation
import GRDB
import WeirAlgebra
import WeirDefinitions
import WeirEngine

/// Appends events to the history, with the positions of their sources: the history is the log that the online store is derived
/// from. What is accepted the `Arbiter` decides. Used from one thread.
package final class HistoryWriter {
    private let queue: DatabaseQueue
    private let directory: String
    private let catalog: CatalogPlan
    private let histories: [String: StreamHistory]
    private let segments: SegmentWorker
    private let checkpoints: Checkpointer
    /// What makes a segment.
    private let full: Tail.Size
    /// For each stream the rows that are in no segment, and the number of the last one that is in a segment.
    private var tails: [String: Tail] = [:]

    private struct Tail {
        struct Size {
            var rows: Int
            /// Of the events' texts. What is found at the start counts with 0.
            var bytes = 0
        }
        var size: Size
        var after: Int64
        /// Of which no segment could be made: it is tried again when as much as makes one has come behind it.
        var failed = Size(rows: 0)
        /// No event time in it is less.
        var firstTime = Int64.max

        func fullness(_ full: Size) -> (rows: Double, bytes: Double) {
            (Double(size.rows - failed.rows) / Double(full.rows), Double(size.bytes - failed.bytes) / Double(full.bytes))
        }
    }
    /// The segment that is being made, or was and is not yet committed: of what.
    private var begun: (stream: String, size: Tail.Size, firstTime: Int64)?
    /// For each stream up to which time what no longer counts was deleted, and how far that is on its way to the next one.
    private var sweeps: [String: Sweep] = [:]

    private struct Sweep {
        var done = Int64.min
        var segmentsDone = Int64.min
        var windows = Retention.WindowPosition()
        var windowsBefore = Int64.min
    }
    /// A segment that was made and is not yet committed.
    private var finished: Segment?
    private var arbiter: Arbiter
    private var plainFields: [String: PlainFields]
    private var sourceIDs = SourceIDs()
    /// Output records up to this number are deleted.
    private var forgotten: Int64 = 0
    private let report: @Sendable (String) -> Void

    /// - Parameters:
    ///   - segmentRows: rows from which on the end of a log is put in the order of entities.
    ///   - segmentBytes: the same in bytes of records.
    ///   - report: is told what it waits for.
    package init(
        directory: String, catalog: CatalogPlan, isSynced: Bool = true, segmentRows: Int = Limits.segmentRows,
        segmentBytes: Int = Limits.segmentBytesMax, report: @escaping @Sendable (String) -> Void = { _ in }
    ) throws {
        self.report = report
        self.directory = directory
        self.catalog = catalog
        full = Tail.Size(rows: segmentRows, bytes: segmentBytes)
        let log = Checkpointer.Log()
        queue = try HistoryDatabase.openForWriting(directory: directory, isSynced: isSynced, log: log)
        let streams = catalog.streams
        plainFields = Dictionary(uniqueKeysWithValues: streams.map { ($0.name, PlainFields($0)) })
        var tables: [String: StreamTable] = [:]
        for stream in streams { tables[stream.name] = try StreamTable(stream) }
        let histories = tables.mapValues { StreamHistory($0) }
        self.histories = histories
        // Twice of what begins one: then rows that were left over before go along, and nothing stays behind for long.
        segments = try SegmentWorker(directory: directory, rowsMax: 2 * segmentRows, bytesMax: 2 * segmentBytes)
        checkpoints = try Checkpointer(directory: directory, log)
        let (lastSequence, restored) = try queue.write { db in
            try Retention.check(catalog, db)
            // Events with the last numbers may have been erased, or their time may be over: no other event gets them.
            var lastSequence = try Retention.lastSequence(db)
            var restored: [String: Arbiter.Restored] = [:]
            for stream in streams {
                let table = tables[stream.name]!
                try table.create(db)
                try Self.checkDefinition(db, table, report)
                lastSequence = max(lastSequence, try Int64.fetchOne(db, sql: "SELECT max(_seq) FROM \(table.name)") ?? 0)
                restored[stream.name] = try Self.restored(histories[stream.name]!, db)
            }
            try Self.recordDefinitions(db, catalog)
            return (lastSequence, restored)
        }
        arbiter = Arbiter(
            catalog: catalog, views: catalog.views.map { ViewRuntime($0) }, lastSequence: lastSequence, restored: restored,
            tombstones: try queue.read { db in try Tombstones(directory: directory, db) })
        for history in histories.values {
            let rows = try cutOld(history)
            var tail = Tail(size: .init(rows: rows), after: history.lastInSegments)
            if history.table.stream.timeToLive != nil {
                let sql = "SELECT min(\(history.table.timeColumn)) FROM \(history.table.name) WHERE _seq > ?"
                tail.firstTime = try queue.read { db in try Int64.fetchOne(db, sql: sql, arguments: [history.lastInSegments]) } ?? .max
            }
            tails[history.table.stream.name] = tail
        }
    }

    /// Makes segments of a log that has many rows in none: one that an earlier build wrote, or whose segments were deleted.
    ///
    /// - Returns: the rows that are left.
    private func cutOld(_ history: StreamHistory) throws -> Int {
        while true {
            let left: Int? = try queue.write { db in
                try history.refresh(db)
                let left = try Int.fetchOne(
                    db, sql: "SELECT count(*) FROM \(history.table.name) WHERE _seq > ?", arguments: [history.lastInSegments])!
                guard left >= 2 * full.rows,
                    let segment = try SegmentCutter.cut(
                        history.table, after: history.lastInSegments, rowsMax: full.rows, bytesMax: full.bytes, db)
                else { return left }
                report("putting the rows of '\(history.table.stream.name)' in the order of entities: \(left) left")
                try history.add(segment, db)
                return nil
            }
            if let left { return left }
        }
    }

    /// Begins to make a segment of the log that has most in none; waits where that falls behind. A segment is derived: that one cannot be
    /// made is reported, and takes nothing back.
    private func cutSegments() {
        let isBehind = tails.values.contains {
            let fullness = $0.fullness(full)
            return fullness.rows >= 1.5 || fullness.bytes >= 2
        }
        if finished == nil {
            do {
                finished = try segments.take(waits: isBehind)
            } catch {
                let (stream, size, firstTime) = begun!
                tails[stream]!.failed = size
                tails[stream]!.firstTime = min(tails[stream]!.firstTime, firstTime)
                report(
                    "\(size.rows) rows of '\(stream)' could not be put in the order of entities; this is tried again later, and they are found without it: \(HistoryDatabase.explained(error, queue.path))"
                )
            }
        }
        guard finished == nil, segments.isIdle else { return }
        func fullness(_ tail: Tail) -> Double {
            let fullness = tail.fullness(full)
            return max(fullness.rows, fullness.bytes)
        }
        // Events that no longer count leave from segments: those of a stream that makes few must not wait until one is full.
        func isDue(_ tail: (key: String, value: Tail)) -> Bool {
            fullness(tail.value) >= 1 || hasExpired(tail.value, arbiter.keptFrom(of: tail.key))
        }
        guard let (stream, tail) = tails.filter(isDue).max(by: { fullness($0.value) < fullness($1.value) }) else { return }
        begun = (stream, tail.size, tail.firstTime)
        tails[stream]!.firstTime = .max
        segments.start(histories[stream]!.table, after: tail.after, count: tail.size.rows)
    }

    /// Whether rows that are in no segment no longer count, and a segment can be tried.
    private func hasExpired(_ tail: Tail, _ keptFrom: Int64) -> Bool { tail.firstTime < keptFrom && tail.size.rows > tail.failed.rows }

    /// Learns that a segment was committed.
    private func didAdd(_ segment: Segment) {
        let wanted = begun!.size
        var tail = tails[segment.stream]!
        if segment.rows != wanted.rows { tail.firstTime = min(tail.firstTime, begun!.firstTime) }
        tail.after = segment.lastSequence
        if segment.firstTime < arbiter.keptFrom(of: segment.stream) { sweeps[segment.stream] = nil }
        tail.failed = .init(rows: 0)
        tail.size.rows -= segment.rows
        // Rows that were too many for it are taken to be as large as those that it took.
        tail.size.bytes += segment.textBytes / segment.rows * (wanted.rows - segment.rows) - wanted.bytes
        tails[segment.stream] = tail
    }

    /// Learns of events that a transaction took.
    private func didTake(_ accepted: AcceptedBatch, of incoming: IncomingBatch) {
        let stream = incoming.source.stream
        guard !accepted.rows.isEmpty else { return }
        tails[stream]!.size.rows += accepted.rows.count
        tails[stream]!.size.bytes += accepted.batch.records.bytes.count
        if histories[stream]!.table.stream.timeToLive != nil {
            for row in accepted.rows { tails[stream]!.firstTime = min(tails[stream]!.firstTime, accepted.batch.times[row]) }
        }
        segments.collect(histories[stream]!.table, accepted, of: incoming)
    }

    private static func restored(_ history: StreamHistory, _ db: Database) throws -> Arbiter.Restored {
        let table = history.table
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
            latestEventTime: try history.latestTime(db),
            watermark: try Int64.fetchOne(db, sql: "SELECT watermark FROM weir_watermarks WHERE stream = ?", arguments: [stream]),
            sources: sources, nextDue: nextDue, keptFrom: try Retention.keptFrom(stream, db))
    }

    /// The history keeps a stream's fields as typed columns. Events may gain optional fields, and streams other views; other changes are
    /// refused.
    private static func checkDefinition(_ db: Database, _ table: StreamTable, _ report: (String) -> Void) throws {
        let stream = table.stream
        let recorded = try String.fetchOne(
            db, sql: "SELECT definition FROM weir_definitions WHERE kind = 'stream' AND name = ?", arguments: [stream.name])
        if let recorded, recorded != stream.definition {
            guard stream.canFollow(recorded) else {
                throw HistoryError(
                    "stream '\(stream.name)' differs from the one that the history was made with:\n"
                        + definitionDifference(stored: recorded, code: stream.definition)
                        + "\nway out: make new fields optional (or give them a @Default) and keep the old ones, or use another --data directory and ingest again"
                )
            }
            try table.addMissingColumns(db)
            if stream.hasOtherViews(than: recorded) {
                report("the rows of '\(stream.name)' get their keys in its views anew")
                try Rekeying(table, db).run(stored: recorded) { done in
                    if done % 1_000_000 < RowCollector.batchRows, done > RowCollector.batchRows { report("\(done) rows have theirs") }
                }
            }
        }
        try record("stream", stream.name, stream.definition, db)
    }

    /// Views and services are told to people; the online store knows by which views it was built.
    private static func recordDefinitions(_ db: Database, _ catalog: CatalogPlan) throws {
        for view in catalog.views { try record("view", view.name, view.definition, db) }
        for service in catalog.services { try record("service", service.name, service.definition, db) }
        for (kind, names) in [("view", catalog.views.map(\.name)), ("service", catalog.services.map(\.name))] {
            for name in try String.fetchAll(db, sql: "SELECT name FROM weir_definitions WHERE kind = ?", arguments: [kind])
            where !names.contains(name) {
                try db.execute(sql: "DELETE FROM weir_definitions WHERE kind = ? AND name = ?", arguments: [kind, name])
            }
        }
    }

    /// A definition that is the same keeps the time since when it has been.
    private static func record(_ kind: String, _ name: String, _ definition: String, _ db: Database) throws {
        try db.execute(
            sql: """
                INSERT INTO weir_definitions (kind, name, fingerprint, definition, recorded_at)
                VALUES (?, ?, ?, ?, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER))
                ON CONFLICT (kind, name) DO UPDATE
                SET fingerprint = excluded.fingerprint, definition = excluded.definition, recorded_at = excluded.recorded_at
                WHERE definition <> excluded.definition
                """, arguments: [kind, name, weirFingerprint(of: definition), definition])
    }

    /// What tells this store from others and from its copies.
    package func storeID() throws -> String {
        try queue.read { db in try String.fetchOne(db, sql: "SELECT value FROM weir_meta WHERE key = 'store'") ?? "" }
    }

    package var latestSequence: Int64 { arbiter.lastSequence }

    /// The largest accepted event time of all streams.
    package var latestEventTime: Int64? { arbiter.latestEventTime }

    package func watermark(of stream: String) -> Int64? { arbiter.watermark(of: stream) }

    /// Events of a stream before this time no longer count; `Int64.min` where all do.
    package func keptFrom(of stream: String) -> Int64 { arbiter.keptFrom(of: stream) }

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
    /// - Parameters:
    ///   - now: microseconds on a clock that never goes back.
    ///   - published: output records up to this number are in their topics, and are forgotten.
    package func commit(_ incoming: [IncomingBatch], now: Int64, published: Int64 = 0) throws -> ([AcceptedBatch], CommitSummary) {
        let result = try transaction(published) { arbiter, transaction in
            var summary = CommitSummary()
            var accepted: [AcceptedBatch] = []
            for batch in incoming { accepted.append(try arbiter.take(batch, now: now, in: transaction, &summary)) }
            for (accepted, batch) in zip(accepted, incoming) { try plainFields[batch.source.stream]?.check(accepted, transaction.db) }
            try arbiter.writeUpdates(in: transaction)
            return (accepted, summary)
        }
        for (accepted, batch) in zip(result.0, incoming) { didTake(accepted, of: batch) }
        cutSegments()
        return result
    }

    /// Looks at the clock: closes what waited for sources that have become idle. Writes only where there is something to write.
    ///
    /// - Returns: whether a watermark moved.
    package func tick(now: Int64, published: Int64 = 0) throws -> Bool {
        let isMoved = arbiter.check(now: now)
        cutSegments()
        guard isMoved || published > forgotten || finished != nil else { return false }
        try transaction(published) { arbiter, transaction in try arbiter.advance(in: transaction) }
        return isMoved
    }

    /// Deletes some of what no longer counts, in one transaction: the rows of one segment, or some closed windows. It makes no
    /// difference to any answer when, and how often it is interrupted.
    ///
    /// - Returns: whether there is more, perhaps only when a segment is made that is on its way.
    package func sweep() throws -> Bool {
        guard catalog.streams.contains(where: { $0.timeToLive != nil }) else { return false }
        cutSegments()
        for stream in catalog.streams where stream.timeToLive != nil {
            let keptFrom = arbiter.keptFrom(of: stream.name)
            var sweep = sweeps[stream.name] ?? Sweep()
            if sweep.done >= keptFrom { continue }
            if sweep.windowsBefore != keptFrom {
                sweep.windowsBefore = keptFrom
                sweep.windows = .init()
            }
            let history = histories[stream.name]!
            let before = sweep
            let addsSegment = finished?.stream == stream.name
            var hasMore = try transaction(0) { arbiter, transaction in
                sweep = before
                if sweep.segmentsDone < keptFrom {
                    if try history.sweep(before: keptFrom, lastSequence: arbiter.lastSequence, transaction.db) == nil {
                        sweep.segmentsDone = keptFrom
                    }
                    CrashPoint.reach(.retentionWritten)
                    return true
                }
                return try Retention.sweepWindows(stream, before: keptFrom, from: &sweep.windows, transaction.db)
            }
            CrashPoint.reach(.retentionCommitted)
            tails[stream.name]!.after = history.lastInSegments
            if addsSegment {
                // The same transaction took a segment, which may have some, too.
                sweep.segmentsDone = .min
                hasMore = true
            }
            if !hasMore { sweep.done = keptFrom }
            sweeps[stream.name] = sweep
            return true
        }
        // A segment that was made of events that no longer count waits for a transaction.
        let isMade = finished.map { $0.firstTime < arbiter.keptFrom(of: $0.stream) } ?? false
        if isMade { try transaction(0) { _, _ in } }
        return isMade || (!segments.isIdle && begun!.firstTime < arbiter.keptFrom(of: begun!.stream))
            || tails.contains { hasExpired($0.value, arbiter.keptFrom(of: $0.key)) }
    }

    /// Tries dead letters again: what is taken now is no dead letter any more, what is refused again stays one.
    ///
    /// - Parameter batch: its records have the letters' numbers as offsets, its source is of the kind `retry`.
    /// - Returns: how many were taken, or turned out to be copies.
    package func retry(_ batch: IncomingBatch, letters: [Int64], now: Int64) throws -> Int {
        let (accepted, settled) = try transaction(0) { arbiter, transaction in
            var summary = CommitSummary()
            let accepted = try arbiter.take(batch, now: now, in: transaction, &summary)
            try plainFields[batch.source.stream]?.check(accepted, transaction.db)
            try arbiter.writeUpdates(in: transaction)
            let settled = letters.filter { !transaction.refusedAgain.contains($0) }
            try transaction.removeLetters(settled)
            return (accepted, settled.count)
        }
        didTake(accepted, of: batch)
        return settled
    }

    /// Takes an entity out of everything that the history has, and keeps what is left to do elsewhere, in one transaction. Nothing else
    /// may be done with this writer afterwards: what it knows of segments is no longer so.
    ///
    /// - Parameters:
    ///   - key: the canonical one.
    ///   - now: microseconds of the wall clock.
    ///   - letters: says which dead letters are the entity's, by the ids of its events.
    package func erase(
        entity: String, key: String, now: Int64, letters: (_ ids: Set<String>) throws -> (decoded: [Int64], byBytes: [Int64])
    ) throws {
        let hash = try ErasureKey.loadOrMake(directory: directory).hash(entity: entity, key: key)
        try queue.writeWithoutTransaction { db in try db.execute(sql: "PRAGMA secure_delete = ON") }
        try transaction(0) { arbiter, transaction in
            var erasure = HistoryErasure(catalog: catalog, transaction: transaction, entity: entity, key: key, keyHash: hash)
            try erasure.run(&arbiter, now: now, letters: letters)
            CrashPoint.reach(.erasureWritten)
        }
        CrashPoint.reach(.erasureCommitted)
    }

    private func transaction<R>(_ published: Int64, _ body: (inout Arbiter, SQLiteTransaction) throws -> R) throws -> R {
        while true {
            do {
                return try attempt(published, body)
            } catch let error as DatabaseError where error.resultCode == .SQLITE_BUSY {
                // Nothing is lost by waiting: the sources wait, too.
                report("the history is locked by another process (does a shell have a transaction open on it?); waiting")
            }
        }
    }

    private func attempt<R>(_ published: Int64, _ body: (inout Arbiter, SQLiteTransaction) throws -> R) throws -> R {
        let before = arbiter
        do {
            let result = try queue.write { db in
                CrashPoint.reach(.historyBegun)
                for (stream, history) in histories { try history.checkSegments(endAt: tails[stream]!.after, db) }
                let transaction = SQLiteTransaction(db: db, histories: histories, sourceIDs: sourceIDs)
                if published > forgotten { try transaction.removeOutputs(upTo: published) }
                if let finished { try histories[finished.stream]!.add(finished, db) }
                let result = try body(&arbiter, transaction)
                CrashPoint.reach(.historyWritten)
                return result
            }
            CrashPoint.reach(.historyCommitted)
            checkpoints.didCommit()
            if let segment = finished {
                didAdd(segment)
                finished = nil
            }
            if published > forgotten {
                forgotten = published
                CrashPoint.reach(.outputForgotten)
            }
            return result
        } catch {
            arbiter = before
            arbiter.forget()
            sourceIDs.forget()
            for history in histories.values { history.reset() }
            for stream in plainFields.keys { plainFields[stream]!.reset() }
            if let error = error as? DatabaseError, error.resultCode == .SQLITE_BUSY { throw error }
            throw HistoryDatabase.explained(error, queue.path)
        }
    }
}
