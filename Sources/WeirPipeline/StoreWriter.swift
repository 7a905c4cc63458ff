import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirOnlineStore

/// A data directory opened for writing: the lock, the history, the online store caught up with it, and the pipeline.
package final class StoreWriter: Sendable {
    package let directory: DataDirectory
    package let store: OnlineStore
    package let pipeline: Pipeline
    package let reader: HistoryReader
    private let lock: WriterLock
    // Asked for positions before the pipeline starts; afterwards it belongs to the history thread.
    nonisolated(unsafe) package let history: HistoryWriter

    /// - Parameters:
    ///   - shards: for a new store; nil takes the default.
    ///   - isSynced: false gives up durability at a power cut for speed.
    ///   - progress: is told of a long catch-up.
    package init(
        directory: DataDirectory, catalog: CatalogPlan, shards: Int?, isSynced: Bool, progress: (Int64, Int64) -> Void = { _, _ in }
    ) throws {
        self.directory = directory
        lock = try directory.lock()
        history = try HistoryWriter(directory: directory.path, catalog: catalog, isSynced: isSynced)
        reader = try HistoryReader(directory: directory.path, catalog: catalog)
        store = try OnlineStore(directory: directory.online, catalog: catalog, shards: shards, mode: .write(isSynced: isSynced))
        let last = history.latestSequence
        try ShardEngine(catalog: catalog, views: store.runtimes).catchUp(
            store, from: reader, upTo: last, latestEventTime: history.latestEventTime ?? .min,
            watermarks: Pipeline.watermarks(catalog, history)
        ) { reached in
            CrashPoint.reach(.catchUpCommitted)
            progress(reached, last)
        }
        pipeline = Pipeline(catalog: catalog, writer: history, store: store)
    }
}
