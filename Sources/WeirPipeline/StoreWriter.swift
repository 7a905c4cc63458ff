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
    package let lock: WriterLock
    private let report: @Sendable (String) -> Void
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
        self.report = report
        self.lock = try lock ?? directory.lock()
        try finishErasures(directory, catalog, mapBytes: mapBytes, online: .repair, isInterrupted: true, report: report)
        let isBuildTaken = try Self.takesBuild(directory, catalog)
        history = try HistoryWriter(directory: directory.path, catalog: catalog, isSynced: isSynced, report: report)
        reader = try HistoryReader(directory: directory.path, catalog: catalog)
        if isBuildTaken {
            try Self.installBuild(directory, catalog, history, reader, mapBytes: mapBytes, report: report, progress: progress)
        }
        store = try OnlineStore(
            directory: directory.online, catalog: catalog, shards: shards, mode: .write(isSynced: isSynced), mapBytes: mapBytes)
        pipeline = Pipeline(catalog: catalog, writer: history, store: store)
        try catchUp(progress)
        keepSamples()
    }

    /// Keeps what the definitions make of some events, so that a change inside of a closure will be noticed. To be called when much has
    /// been taken in.
    package func keepSamples() {
        do { try WeirPipeline.keepSamples(in: store, reader) } catch { report("changes of closures may go unnoticed: \(error)") }
    }

    /// Whether the online store that `weir apply` has made for these definitions is to be taken, since the one in use is of others, or is
    /// missing. Refuses to go on where there is none: before anything is written.
    private static func takesBuild(_ directory: DataDirectory, _ catalog: CatalogPlan) throws -> Bool {
        // A history of an earlier build cannot be read before the writer has brought it up to date.
        let reader = try? HistoryReader(directory: directory.path, catalog: catalog, whileErasing: true)
        let isBuilt = reader.map { OnlineStoreBuild.isChecked(directory, catalog, $0) } ?? false
        guard OnlineStore.exists(directory.online), let stored = try OnlineStore.storedDefinition(in: directory.online) else {
            return isBuilt
        }
        let shards = OnlineStore.shardCount(in: directory.online) ?? 0
        let isSame =
            try stored == OnlineStore.definition(of: catalog, shards: shards)
            && (reader.map { try changedClosures(in: directory.online, catalog, $0) } ?? []).isEmpty
        if isSame || isBuilt { return !isSame }
        // What the history cannot take it says itself, and takes nothing.
        let streams = try reader?.definitions().streams ?? [:]
        if catalog.streams.contains(where: { streams[$0.name].map($0.canFollow) == false }) { return false }
        // Says what differs.
        let store = try OnlineStore(directory: directory.online, catalog: catalog, shards: nil, mode: .read)
        if let reader { try checkClosures(of: store, reader) }
        return false
    }

    /// Takes that store.
    private static func installBuild(
        _ directory: DataDirectory, _ catalog: CatalogPlan, _ history: HistoryWriter, _ reader: HistoryReader, mapBytes: Int,
        report: @escaping @Sendable (String) -> Void, progress: (Int64, Int64) -> Void
    ) throws {
        do {
            let last = history.latestSequence
            let build = try OnlineStoreBuild(
                directory: directory, catalog: catalog, reader: reader, shards: OnlineStore.shardCount(in: directory.onlineNew),
                isResumed: true,
                mapBytes: mapBytes)
            try build.catchUp(
                reader, upTo: last, latestEventTime: history.latestEventTime ?? .min, watermarks: Pipeline.watermarks(catalog, history)
            ) { progress($0, last) }
        }
        try OnlineStoreBuild.install(directory)
        report("the online store that `weir apply` has made is in use")
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
