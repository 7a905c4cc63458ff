import Foundation
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
    private let input = BoundedQueue<IncomingBatch>(capacity: 32)
    private let shards: [BoundedQueue<ShardWork>]
    private let progress = NSCondition()
    private var submitted = 0
    private var committed = 0
    /// For each shard how many of the submitted batches it has applied.
    private var applied: [Int]
    private var failure: (any Error)?
    private var running = 0
    private var total = CommitSummary()

    private struct ShardWork: Sendable {
        var slices: [(slice: ShardSlice, batch: PreparedBatch, viewNumbers: [Int])]
        /// What the shard has seen once this is applied.
        var sequence: Int64
        var latestEventTime: Int64
        /// For each view how far its stream is complete: what lies its reach and more before that may go.
        var watermarks: [Int64]
        /// The number of submitted batches that this brings the shard to.
        var batches: Int
        var rows: Int
    }

    package init(catalog: CatalogPlan, writer: HistoryWriter, store: OnlineStore) {
        self.catalog = catalog
        self.writer = writer
        self.store = store
        engine = ShardEngine(views: store.runtimes)
        shards = (0..<store.shardCount).map { _ in BoundedQueue(capacity: 32) }
        applied = Array(repeating: 0, count: store.shardCount)
        latestEventTime = writer.latestEventTime ?? .min
    }

    private var latestEventTime: Int64
    private var failed: @Sendable (any Error) -> Void = { _ in }

    // MARK: Running

    /// - Parameter failed: is called once, on the thread that failed.
    package func start(failed: @escaping @Sendable (any Error) -> Void = { _ in }) {
        self.failed = failed
        running = 1 + shards.count
        thread("weir history") { try self.runHistory() }
        for number in shards.indices { thread("weir shard \(number)") { try self.runShard(number) } }
    }

    private func thread(_ name: String, _ body: @escaping @Sendable () throws -> Void) {
        let thread = Thread {
            do { try body() } catch { self.fail(error) }
            self.progress.lock()
            self.running -= 1
            self.progress.broadcast()
            self.progress.unlock()
        }
        thread.name = name
        thread.stackSize = 8 << 20
        thread.start()
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
        if let error { throw error }
    }

    /// What was taken since the start.
    package var summary: CommitSummary {
        progress.lock()
        defer { progress.unlock() }
        return total
    }

    /// The error that ended the pipeline; waits for none.
    package var error: (any Error)? {
        progress.lock()
        defer { progress.unlock() }
        return failure
    }

    // MARK: Threads

    private static let secondsBetweenLooks = 1.0

    private func runHistory() throws {
        defer { for shard in shards { shard.close() } }
        var lastLook = monotonicClock()
        // Batches that have come meanwhile share a transaction: small ones when caught up, large ones when behind.
        while let incoming = input.receive(
            timeout: Self.secondsBetweenLooks, while: { taken, _ in taken.reduce(0) { $0 + $1.batch.count } < 65_536 })
        {
            if Double(monotonicClock() - lastLook) > Self.secondsBetweenLooks * 1e6 {
                lastLook = monotonicClock()
                if try writer.tick(now: lastLook) { dispatch([], sequence: writer.latestSequence, batches: committed) }
            }
            if incoming.isEmpty { continue }
            let (accepted, summary) = try writer.commit(incoming, now: monotonicClock())
            latestEventTime = writer.latestEventTime ?? .min
            progress.lock()
            committed += incoming.count
            total.accepted += summary.accepted
            total.duplicates += summary.duplicates
            total.deadLetters += summary.deadLetters
            let batches = committed
            progress.unlock()
            dispatch(accepted, sequence: summary.lastSequence, batches: batches)
        }
    }

    private func dispatch(_ accepted: [AcceptedBatch], sequence: Int64, batches: Int) {
        let watermarks = Self.watermarks(catalog, writer)
        var works = shards.map { _ in
            ShardWork(
                slices: [], sequence: sequence, latestEventTime: latestEventTime, watermarks: watermarks, batches: batches, rows: 0)
        }
        for item in accepted where !item.rows.isEmpty {
            let numbers = viewNumbers(item.batch.records.schema.name)
            for (shard, slice) in Sharding.slices(of: item.batch, rows: item.rows, shards: shards.count).enumerated() where !slice.isEmpty {
                works[shard].slices.append((slice, item.batch, numbers))
                works[shard].rows += slice.views.reduce(0) { $0 + $1.count }
            }
        }
        for (shard, work) in works.enumerated() { shards[shard].send(work) }
    }

    private func viewNumbers(_ stream: String) -> [Int] {
        catalog.stream(named: stream)!.views.map { view in catalog.views.firstIndex { $0 === view }! }
    }

    private func runShard(_ number: Int) throws {
        while let works = shards[number].receive(while: { taken, _ in taken.reduce(0) { $0 + $1.rows } < 200_000 }) {
            try apply(works, shard: number)
            progress.lock()
            applied[number] = works[works.count - 1].batches
            progress.broadcast()
            progress.unlock()
        }
    }

    private func apply(_ works: [ShardWork], shard: Int) throws {
        try store.write(shard: shard) { transaction in
            for work in works {
                // A shard that is ahead of the history's queue has this already: it caught up by replay.
                for (slice, batch, numbers) in work.slices { try engine.apply(slice, of: batch, viewNumbers: numbers, to: transaction) }
                transaction.state.appliedSequence = max(transaction.state.appliedSequence, work.sequence)
                transaction.state.latestEventTime = max(transaction.state.latestEventTime, work.latestEventTime)
            }
            try expire(transaction, at: works[works.count - 1].watermarks)
        }
    }

    /// For each view its stream's watermark; `Int64.min` where that is not known.
    package static func watermarks(_ catalog: CatalogPlan, _ writer: HistoryWriter) -> [Int64] {
        catalog.views.map { writer.watermark(of: $0.stream) ?? .min }
    }

    private func expire(_ transaction: OnlineStore.Writer, at watermarks: [Int64]) throws {
        for (number, view) in catalog.views.enumerated() {
            let horizon = Self.horizon(view, at: watermarks[number])
            if horizon > transaction.state.keptFrom[number] { try transaction.expire(view: number, before: horizon) }
        }
    }

    /// What a view keeps at an event time: its longest window, and between one and two sixteenths of it, but an hour at least,
    /// for late lookups. It moves in steps, so that expiry is rare.
    private static func horizon(_ view: ViewPlan, at time: Int64) -> Int64 {
        guard time > .min else { return .min }
        let step = max(view.reach / 16, 3_600_000_000)
        let (oldest, overflow) = time.subtractingReportingOverflow(view.reach + step)
        return overflow ? .min : EventTime(microseconds: oldest).floored(to: step).microseconds
    }

    // MARK: Catching up

    /// Brings shards that are behind the history up to it: after a crash, and for a rebuild from nothing.
    ///
    /// - Parameter body: is called with the number of events applied so far.
    package static func replay(
        catalog: CatalogPlan, history: HistoryReader, store: OnlineStore, upTo last: Int64, latestEventTime: Int64,
        watermarks: [Int64], progress: (Int64) -> Void = { _ in }
    ) throws {
        let engine = ShardEngine(views: store.runtimes)
        let states = try store.withReader { try $0.states() }
        var position = states.map(\.appliedSequence).min() ?? 0
        if let ahead = states.map(\.appliedSequence).max(), ahead > last {
            throw DataDirectoryError(
                "the online store has applied events up to number \(ahead), the history ends at \(last): the history was replaced, or lost what was not synced; `weir rebuild` makes the online store anew from it"
            )
        }
        while position < last {
            let end = min(position + 32_768, last)
            var slices: [[(slice: ShardSlice, batch: PreparedBatch, viewNumbers: [Int])]] = states.map { _ in [] }
            for stream in catalog.streams {
                let numbers = stream.views.map { view in catalog.views.firstIndex { $0 === view }! }
                try history.forEachBatch(of: stream.name, after: position, upTo: end) { batch, _ in
                    for (shard, state) in states.enumerated() where state.appliedSequence < end {
                        // Rows carry their sequence number as offset.
                        let rows = (0..<batch.count).filter { batch.records.rows[batch.recordRows[$0]].offset > state.appliedSequence }
                        if !rows.isEmpty {
                            slices[shard].append((Sharding.slices(of: batch, rows: rows, shards: states.count)[shard], batch, numbers))
                        }
                    }
                }
            }
            for (shard, state) in states.enumerated() where state.appliedSequence < end {
                try store.write(shard: shard) { transaction in
                    for (slice, batch, numbers) in slices[shard] {
                        try engine.apply(slice, of: batch, viewNumbers: numbers, to: transaction)
                    }
                    transaction.state.appliedSequence = end
                    transaction.state.latestEventTime = max(transaction.state.latestEventTime, latestEventTime)
                    for (number, view) in catalog.views.enumerated() {
                        let horizon = horizon(view, at: watermarks[number])
                        // Events are replayed in the order of acceptance: let go only at the end, of what lies before the horizon.
                        if end == last, horizon > transaction.state.keptFrom[number] {
                            try transaction.expire(view: number, before: horizon)
                        }
                    }
                }
            }
            position = end
            progress(end)
        }
    }
}
