import WeirAlgebra
import WeirDefinitions
import WeirRecords

/// Where a shard keeps its entities, inside one transaction.
package protocol EntityStore {
    associatedtype Nodes: NodeWriting
    func nodes(view: Int, key: UnsafeRawBufferPointer) throws -> Nodes
}

/// One transaction of a shard: LMDB in production, memory in the simulation. All of it is committed, or none.
package protocol ShardTransaction: AnyObject, EntityStore {
    var state: ShardState { get set }
    /// How many nodes the shard has, of all entities and views.
    var nodeCount: Int { get }
    /// Lets go of a view's events before `horizon`, of all entities.
    func expire(view: Int, before horizon: Int64) throws
}

/// What has become due for one shard: some accepted events, and how far everything is with them.
package struct ShardWork: Sendable {
    package typealias Slice = (slice: ShardSlice, batch: PreparedBatch, viewNumbers: [Int])
    package var slices: [Slice] = []
    /// What the shard has seen once this is applied.
    package var sequence: Int64
    package var latestEventTime: Int64
    /// For each view how far its stream is complete: what lies its reach and more before that may go.
    package var watermarks: [Int64]
    /// For each view the time before which its stream's events no longer count; empty where all do.
    package var historyKeptFrom: [Int64] = []
    /// Rows to apply.
    package var rows = 0
    /// Bytes of the texts that they keep in memory.
    package var textBytes = 0

    /// What it takes up in a queue, in rows.
    package var cost: Int { 64 + rows + textBytes / Limits.bytesPerQueuedEvent }
}

/// Shares accepted events out among the shards, and applies them to one. It does no input or output itself: state goes through
/// the transaction that it is given.
package struct ShardEngine: Sendable {
    package let catalog: CatalogPlan
    /// In the order of the catalog's views.
    package let views: [ViewRuntime]
    private let viewNumbers: [String: [Int]]

    package init(catalog: CatalogPlan, views: [ViewRuntime]) {
        self.catalog = catalog
        self.views = views
        var numbers: [String: [Int]] = [:]
        for stream in catalog.streams {
            numbers[stream.name] = stream.views.map { view in catalog.views.firstIndex { $0 === view }! }
        }
        viewNumbers = numbers
    }

    // MARK: Sharing out

    /// What each shard has to do for what the history has taken.
    ///
    /// - Parameters:
    ///   - sequence: the number of the last event that the history has taken.
    ///   - watermarks: for each view its stream's; `Int64.min` where that is not known.
    ///   - historyKeptFrom: for each view the time before which its stream's events no longer count; empty where all do.
    package func works(
        _ accepted: [AcceptedBatch], shards: Int, sequence: Int64, latestEventTime: Int64, watermarks: [Int64],
        historyKeptFrom: [Int64] = []
    ) -> [ShardWork] {
        let work = ShardWork(
            sequence: sequence, latestEventTime: latestEventTime, watermarks: watermarks, historyKeptFrom: historyKeptFrom)
        var works = Array(repeating: work, count: shards)
        for item in accepted where !item.rows.isEmpty {
            let numbers = viewNumbers[item.batch.records.schema.name]!
            // Shards need what the views read of an event, not the event: what waits for them stays small.
            var batch = item.batch
            batch.records = RecordBatch(schema: batch.records.schema)
            let textBytes = batch.views.reduce(0) { $0 + $1.keys.textBytes.count + $1.columns.reduce(0) { $0 + $1.textBytes.count } }
            for (shard, slice) in Sharding.slices(of: item.batch, rows: item.rows, shards: shards).enumerated() where !slice.isEmpty {
                works[shard].slices.append((slice, batch, numbers))
                works[shard].rows += slice.views.reduce(0) { $0 + $1.count }
                works[shard].textBytes += textBytes
            }
        }
        return works
    }

    // MARK: Applying

    /// Applies what is due to a shard; the caller commits the transaction.
    package func apply(_ works: [ShardWork], to transaction: some ShardTransaction) throws {
        guard let last = works.last else { return }
        moveHorizons(at: last.watermarks, last.historyKeptFrom, &transaction.state)
        try apply(works.flatMap(\.slices), keptFrom: transaction.state.keptFrom, to: transaction)
        for work in works {
            transaction.state.appliedSequence = max(transaction.state.appliedSequence, work.sequence)
            transaction.state.latestEventTime = max(transaction.state.latestEventTime, work.latestEventTime)
        }
        try sweep(transaction, at: last.watermarks)
    }

    /// From now on lookups that reach behind a horizon are answered from history; events before it need not be stored.
    private func moveHorizons(at watermarks: [Int64], _ historyKeptFrom: [Int64], _ state: inout ShardState) {
        // Lifetime features need every event, be it in the base record: there the horizon moves with the sweep.
        for (number, view) in catalog.views.enumerated() where !view.hasLifetimeWindow {
            state.keptFrom[number] = max(state.keptFrom[number], Self.horizon(view, at: watermarks[number]))
            // A store that is made anew has not what the history let go of: it must not answer as if it had.
            if !historyKeptFrom.isEmpty { state.keptFrom[number] = max(state.keptFrom[number], historyKeptFrom[number]) }
        }
    }

    /// Deletes what lies before the horizons. That looks through all entities: it is left until there were some events for each node,
    /// so that it costs little for an event, or until a horizon has moved by some steps.
    private func sweep(_ transaction: some ShardTransaction, at watermarks: [Int64]) throws {
        // Numbers from disk: damaged ones wrap.
        let isDue = transaction.state.appliedSequence &- transaction.state.sweptSequence >= 2 &* Int64(transaction.nodeCount)
        var hasSwept = false
        for (number, view) in catalog.views.enumerated() {
            let horizon = max(transaction.state.keptFrom[number], Self.horizon(view, at: watermarks[number]))
            let swept = transaction.state.sweptFrom[number]
            guard horizon > swept, isDue || (swept > .min && horizon.subtractingClamped(swept) >= 8 * Self.step(view)) else { continue }
            try transaction.expire(view: number, before: horizon)
            transaction.state.keptFrom[number] = horizon
            transaction.state.sweptFrom[number] = horizon
            hasSwept = true
        }
        if hasSwept { transaction.state.sweptSequence = transaction.state.appliedSequence }
    }

    private static func step(_ view: ViewPlan) -> Int64 { max(view.reach / 16, 3_600_000_000) }

    /// What a view keeps at a watermark: its longest window, and between one and two sixteenths of it, but an hour at least,
    /// for late lookups.
    private static func horizon(_ view: ViewPlan, at time: Int64) -> Int64 {
        guard time > .min else { return .min }
        let step = step(view)
        let (oldest, overflow) = time.subtractingReportingOverflow(view.reach.addingClamped(step))
        return overflow ? .min : EventTime(microseconds: oldest).floored(to: step).microseconds
    }

    /// Adds a slice of a batch to the store.
    ///
    /// - Parameter viewNumbers: for each view of the batch's stream its number in `views`.
    package func apply(
        _ slice: ShardSlice, of batch: PreparedBatch, viewNumbers: [Int], to store: some EntityStore
    ) throws {
        try apply([(slice, batch, viewNumbers)], keptFrom: views.map { _ in .min }, to: store)
    }

    /// Gathers the events of each entity, so that its nodes are read and written once, in the order of the store's keys.
    ///
    /// - Parameter keptFrom: for each view the time before which events are left out, but for lifetime features.
    private func apply(_ slices: [ShardWork.Slice], keptFrom: [Int64], to store: some EntityStore) throws {
        let scratch = TreeScratch()
        for (number, view) in views.enumerated() {
            var groups = EntityGroups(columns: view.plan.columns)
            for (slice, batch, numbers) in slices {
                guard let position = numbers.firstIndex(of: number) else { continue }
                var entries = slice.views[position]
                if keptFrom[number] > .min, !view.plan.hasLifetimeWindow {
                    entries.removeAll { batch.times[$0.row] < keptFrom[number] }
                }
                if !entries.isEmpty { groups.add(entries, of: batch, view: position) }
            }
            try groups.forEach { key, events, memory, range in
                try TimeTree(view: view, nodes: store.nodes(view: number, key: key), scratch: scratch).insert(events, memory, range)
            }
        }
    }
}
