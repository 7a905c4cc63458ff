import WeirAlgebra
import WeirDefinitions

/// Where a shard keeps its entities, inside one transaction.
package protocol EntityStore {
    associatedtype Nodes: NodeWriting
    func nodes(view: Int, key: UnsafeRawBufferPointer) throws -> Nodes
}

/// One transaction of a shard: LMDB in production, memory in the simulation. All of it is committed, or none.
package protocol ShardTransaction: AnyObject, EntityStore {
    var state: ShardState { get set }
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
    /// Rows to apply.
    package var rows = 0
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
    package func works(
        _ accepted: [AcceptedBatch], shards: Int, sequence: Int64, latestEventTime: Int64, watermarks: [Int64]
    ) -> [ShardWork] {
        var works = Array(
            repeating: ShardWork(sequence: sequence, latestEventTime: latestEventTime, watermarks: watermarks), count: shards)
        for item in accepted where !item.rows.isEmpty {
            let numbers = viewNumbers[item.batch.records.schema.name]!
            for (shard, slice) in Sharding.slices(of: item.batch, rows: item.rows, shards: shards).enumerated() where !slice.isEmpty {
                works[shard].slices.append((slice, item.batch, numbers))
                works[shard].rows += slice.views.reduce(0) { $0 + $1.count }
            }
        }
        return works
    }

    // MARK: Applying

    /// Applies what is due to a shard; the caller commits the transaction.
    package func apply(_ works: [ShardWork], to transaction: some ShardTransaction) throws {
        guard let last = works.last else { return }
        try apply(works.flatMap(\.slices), to: transaction)
        for work in works {
            transaction.state.appliedSequence = max(transaction.state.appliedSequence, work.sequence)
            transaction.state.latestEventTime = max(transaction.state.latestEventTime, work.latestEventTime)
        }
        for (number, view) in catalog.views.enumerated() {
            let horizon = Self.horizon(view, at: last.watermarks[number])
            if horizon > transaction.state.keptFrom[number] { try transaction.expire(view: number, before: horizon) }
        }
    }

    /// What a view keeps at a watermark: its longest window, and between one and two sixteenths of it, but an hour at least,
    /// for late lookups. It moves in steps, so that expiry is rare.
    private static func horizon(_ view: ViewPlan, at time: Int64) -> Int64 {
        guard time > .min else { return .min }
        let step = max(view.reach / 16, 3_600_000_000)
        let (oldest, overflow) = time.subtractingReportingOverflow(view.reach + step)
        return overflow ? .min : EventTime(microseconds: oldest).floored(to: step).microseconds
    }

    /// Adds a slice of a batch to the store.
    ///
    /// - Parameter viewNumbers: for each view of the batch's stream its number in `views`.
    package func apply(
        _ slice: ShardSlice, of batch: PreparedBatch, viewNumbers: [Int], to store: some EntityStore
    ) throws {
        try apply([(slice, batch, viewNumbers)], to: store)
    }

    /// Gathers the events of each entity, so that its nodes are read and written once, in the order of the store's keys.
    private func apply(_ slices: [ShardWork.Slice], to store: some EntityStore) throws {
        let scratch = TreeScratch()
        for (number, view) in views.enumerated() {
            var groups = EntityGroups(columns: view.plan.columns)
            for (slice, batch, numbers) in slices {
                guard let position = numbers.firstIndex(of: number), !slice.views[position].isEmpty else { continue }
                groups.add(slice.views[position], of: batch, view: position)
            }
            try groups.forEach { key, events in
                try TimeTree(view: view, nodes: store.nodes(view: number, key: key), scratch: scratch).insert(events)
            }
        }
    }
}
