import CMalloc
import Foundation
import Synchronization
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirOnlineStore

/// The way of an event from its source into both stores.
///
/// ```
/// sources → [queue] → history thread: decides, appends, commits → [queue a shard] → shard threads: apply, commit
/// ```
///
/// The history is the log that everything else is derived from: a source's position is committed with the rows that it led to,
/// and a shard commits with its state the number of the last row that it has seen. After a crash the sources go on at their
/// positions, and a shard catches up from the history (`replay`). All queues are bounded, so a slow disk slows the sources.
package final class Pipeline: @unchecked Sendable {
    // `progress` guards the mutable state; the writer belongs to the history thread alone once that runs.
    private let catalog: CatalogPlan
    private let writer: HistoryWriter
    private let store: OnlineStore
    private let engine: ShardEngine
    private let input = BoundedQueue<IncomingBatch>(capacity: Limits.queuedEventsMax) { $0.cost }
    private let shards: [BoundedQueue<Due>]
    private let progress = NSCondition()
    private var submitted = 0
    private var committed = 0
    /// For each shard how many of the submitted batches it has applied.
    private var applied: [Int]
    private var failure: (any Error)?
    private var running = 0
    private var threads: [BackgroundThread] = []
    private var total = CommitSummary()
    private var acceptedByStream: [String: Int] = [:]

    private struct Due: Sendable {
        var work: ShardWork
        /// The number of submitted batches that this brings the shard to.
        var batches: Int
        /// The history had much to take at once: more will follow soon.
        var isBehind: Bool
    }

    package init(catalog: CatalogPlan, writer: HistoryWriter, store: OnlineStore) {
        self.catalog = catalog
        self.writer = writer
        self.store = store
        engine = ShardEngine(catalog: catalog, views: store.runtimes)
        shards = (0..<store.shardCount).map { _ in BoundedQueue(capacity: Limits.queuedRowsMax) { $0.work.cost } }
        applied = Array(repeating: 0, count: store.shardCount)
        latestEventTime = writer.latestEventTime ?? .min
    }

    private var latestEventTime: Int64
    /// Output records up to this number are in their topics.
    private let publishedNumber = Atomic<Int64>(0)

    /// The history has the push log up to this offset.
    private let pushedOffset = Atomic<Int64>(0)
    package var committedPushOffset: Int64 { pushedOffset.load(ordering: .relaxed) }

    /// The history may forget output records up to this number.
    package func published(upTo number: Int64) { publishedNumber.store(number, ordering: .relaxed) }
    private var failed: @Sendable (any Error) -> Void = { _ in }

    // MARK: Running

    /// - Parameter failed: is called once, on the thread that failed.
    package func start(failed: @escaping @Sendable (any Error) -> Void = { _ in }) {
        self.failed = failed
        running = 1 + shards.count
        threads = [thread("weir history") { try self.runHistory() }]
        for number in shards.indices { threads.append(thread("weir shard \(number)") { try self.runShard(number) }) }
    }

    private func thread(_ name: String, _ body: @escaping @Sendable () throws -> Void) -> BackgroundThread {
        BackgroundThread.start(name) {
            do { try body() } catch { self.fail(error) }
            self.progress.lock()
            self.running -= 1
            self.progress.broadcast()
            self.progress.unlock()
        }
    }

    private func fail(_ error: any Error) {
        progress.lock()
        let isFirst = failure == nil
        if isFirst { failure = error }
        progress.broadcast()
        progress.unlock()
        if isFirst { failed(error) }
        input.close()
        for shard in shards { shard.close() }
    }

    /// Hands a batch over; waits where the stores fall behind.
    package func submit(_ batch: IncomingBatch) throws {
        progress.lock()
        let error = failure
        if error == nil { submitted += 1 }
        progress.unlock()
        if let error { throw error }
        guard input.send(batch) else { return try throwFailure() }
        CrashPoint.reach(.submitted)
    }

    private func throwFailure() throws {
        progress.lock()
        defer { progress.unlock() }
        throw failure ?? DataDirectoryError("the pipeline is closed")
    }

    /// Waits until everything that was submitted is in both stores.
    package func flush() throws {
        progress.lock()
        defer { progress.unlock() }
        let target = submitted
        while failure == nil, applied.contains(where: { $0 < target }) { progress.wait() }
        if let failure { throw failure }
    }

    /// Takes in what was submitted, then ends the threads.
    package func stop() throws {
        input.close()
        progress.lock()
        while running > 0 { progress.wait() }
        let error = failure
        progress.unlock()
        for thread in threads { thread.join() }
        if let error { throw error }
    }

    /// What was taken since the start.
    package var summary: CommitSummary {
        progress.lock()
        defer { progress.unlock() }
        return total
    }

    /// Events that were accepted since the start, by stream.
    package var acceptedEvents: [String: Int] {
        progress.lock()
        defer { progress.unlock() }
        return acceptedByStream
    }

    /// The error that ended the pipeline; waits for none.
    package var error: (any Error)? {
        progress.lock()
        defer { progress.unlock() }
        return failure
    }

    // MARK: Threads

    private static let secondsBetweenLooks = 1.0
    private static let bulkTransactionsPerTrim = 4
    /// Between two deletions of what no longer counts while more events come: each may take some tenths of a second.
    private static let secondsBetweenSweeps = 2.0
    /// How long the end of a run deletes on.
    private static let secondsOfSweepsAtEnd = 10.0

    private func runHistory() throws {
        defer { for shard in shards { shard.close() } }
        var lastLook = monotonicClock()
        var lastSweep = lastLook
        var hasMoreToSweep = true
        // Batches that have come meanwhile share a transaction: small ones when caught up, large ones when behind.
        while let incoming = input.receive(
            timeout: hasMoreToSweep ? 0.01 : Self.secondsBetweenLooks,
            while: { taken, _ in taken.reduce(0) { $0 + $1.cost } < Limits.eventsPerTransactionMax })
        {
            if Double(monotonicClock() - lastLook) > Self.secondsBetweenLooks * 1e6 {
                lastLook = monotonicClock()
                if try writer.tick(now: lastLook, published: publishedNumber.load(ordering: .relaxed)) {
                    dispatch([], sequence: writer.latestSequence, batches: committed, isBehind: false)
                }
            }
            if incoming.isEmpty || Double(monotonicClock() - lastSweep) > Self.secondsBetweenSweeps * 1e6 {
                hasMoreToSweep = try writer.sweep()
                lastSweep = monotonicClock()
            }
            if incoming.isEmpty { continue }
            let (accepted, summary) = try writer.commit(
                incoming, now: monotonicClock(), published: publishedNumber.load(ordering: .relaxed))
            latestEventTime = writer.latestEventTime ?? .min
            // The log is applied in order.
            if let pushed = incoming.last(where: { $0.source.kind == .push }) { pushedOffset.store(pushed.nextOffset, ordering: .relaxed) }
            progress.lock()
            committed += incoming.count
            for (taken, batch) in zip(accepted, incoming) { acceptedByStream[batch.source.stream, default: 0] += taken.rows.count }
            total.accepted += summary.accepted
            total.duplicates += summary.duplicates
            total.deadLetters += summary.deadLetters
            total.forgotten += summary.forgotten
            total.expired += summary.expired
            let batches = committed
            progress.unlock()
            let events = incoming.reduce(0) { $0 + $1.batch.count }
            dispatch(
                accepted, sequence: summary.lastSequence, batches: batches,
                isBehind: events >= Limits.eventsPerTransactionMax / 2 && !incoming.contains { $0.phase == .end })
        }
        let end = monotonicClock() + Int64(Self.secondsOfSweepsAtEnd * 1e6)
        while try writer.sweep(), monotonicClock() < end { usleep(1_000) }
    }

    private func dispatch(_ accepted: [AcceptedBatch], sequence: Int64, batches: Int, isBehind: Bool) {
        let works = engine.works(
            accepted, shards: shards.count, sequence: sequence, latestEventTime: latestEventTime,
            watermarks: Self.watermarks(catalog, writer), historyKeptFrom: catalog.views.map { writer.keptFrom(of: $0.stream) })
        for (shard, work) in works.enumerated() { shards[shard].send(Due(work: work, batches: batches, isBehind: isBehind)) }
    }

    private func runShard(_ number: Int) throws {
        var bulk = 0
        while let due = receiveDue(number) {
            try store.write(shard: number) { transaction in
                try engine.apply(due.map(\.work), to: transaction)
                CrashPoint.reach(.shardApplied)
            }
            CrashPoint.reach(.shardCommitted)
            progress.lock()
            applied[number] = due[due.count - 1].batches
            progress.broadcast()
            progress.unlock()
            // What large transactions leave free in pieces would make the heap grow on.
            bulk += due[due.count - 1].isBehind ? 1 : 0
            if number == 0, bulk >= Self.bulkTransactionsPerTrim {
                bulk = 0
                weir_trim_heap()
            }
        }
    }

    /// What a shard's next transaction takes. Where much comes it waits for more, since an entity's events cost little more together than
    /// one alone does.
    private func receiveDue(_ number: Int) -> [Due]? {
        func cost(_ due: [Due]) -> Int { due.reduce(0) { $0 + $1.work.cost } }
        func receive(_ timeout: Double?, behind before: Int) -> [Due]? {
            shards[number].receive(timeout: timeout) { taken, _ in before + cost(taken) < Limits.rowsPerShardTransactionMax }
        }
        guard var due = receive(nil, behind: 0) else { return nil }
        let end = monotonicClock() + Limits.shardWaitMax
        while due[due.count - 1].isBehind, cost(due) < Limits.rowsPerShardTransactionMax {
            let left = end - monotonicClock()
            guard left > 0, let more = receive(Double(left) / 1e6, behind: cost(due)), !more.isEmpty else { break }
            due += more
        }
        return due
    }

    /// For each view its stream's watermark; `Int64.min` where that is not known.
    package static func watermarks(_ catalog: CatalogPlan, _ writer: HistoryWriter) -> [Int64] {
        catalog.views.map { writer.watermark(of: $0.stream) ?? .min }
    }
}
