import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirOnlineStore

/// A data directory opened for writing: the lock, the history, the online store caught up with it, and the pipeline.
package final class StoreWriter: Sendable {
    package let directory: DataDirectory
    package let catalog: CatalogPlan
    package let store: OnlineStore
    package let pipeline: Pipeline
    package let reader: HistoryReader
    private let lock: WriterLock
    // Asked for positions before the pipeline starts; afterwards it belongs to the history thread.
    nonisolated(unsafe) package let history: HistoryWriter

    /// - Parameters:
    ///   - shards: for a new store; nil takes the default.
    ///   - isSynced: false gives up durability at a power cut for speed.
    ///   - mapBytes: what a shard's memory map begins with; it grows.
    ///   - lock: the writer's lock, where the caller has it.
    ///   - report: is told what the writer waits for.
    ///   - progress: is told of a long catch-up.
    package init(
        directory: DataDirectory, catalog: CatalogPlan, shards: Int?, isSynced: Bool, mapBytes: Int = OnlineStore.defaultMapBytes,
        lock: WriterLock? = nil, report: @escaping @Sendable (String) -> Void = { _ in }, progress: (Int64, Int64) -> Void = { _, _ in }
    ) throws {
        self.directory = directory
        self.catalog = catalog
        self.lock = try lock ?? directory.lock()
        try finishErasures(directory, catalog, mapBytes: mapBytes, online: .repair, isInterrupted: true, report: report)
        history = try HistoryWriter(directory: directory.path, catalog: catalog, isSynced: isSynced, report: report)
        reader = try HistoryReader(directory: directory.path, catalog: catalog)
        store = try OnlineStore(
            directory: directory.online, catalog: catalog, shards: shards, mode: .write(isSynced: isSynced), mapBytes: mapBytes)
        pipeline = Pipeline(catalog: catalog, writer: history, store: store)
        try catchUp(progress)
    }

    /// Brings shards that are behind the history up to it.
    func catchUp(_ progress: (Int64, Int64) -> Void) throws {
        let last = history.latestSequence
        try ShardEngine(catalog: catalog, views: store.runtimes).catchUp(
            store, from: reader, upTo: last, latestEventTime: history.latestEventTime ?? .min,
            watermarks: Pipeline.watermarks(catalog, history)
        ) { reached in
            CrashPoint.reach(.catchUpCommitted)
            progress(reached, last)
        }
    }
}
