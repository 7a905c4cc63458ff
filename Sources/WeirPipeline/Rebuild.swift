import Foundation
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirOnlineStore

/// Makes the online store anew from the history, also with another number of shards or other definitions.
package func rebuildOnlineStore(
    directory: DataDirectory, catalog: CatalogPlan, shards: Int?, report: @escaping @Sendable (String) -> Void = { _ in },
    progress: (Int64, Int64) -> Void
) throws -> Int {
    let lock = try directory.lock()
    defer { withExtendedLifetime(lock) {} }
    let writer = try HistoryWriter(directory: directory.path, catalog: catalog)
    let reader = try HistoryReader(directory: directory.path, catalog: catalog, whileErasing: true)
    let files = FileManager.default
    let fresh = directory.path + "/online.new"
    let old = directory.path + "/online.old"
    try? files.removeItem(atPath: fresh)
    // A store that is half there would be taken for one to catch up.
    if files.fileExists(atPath: fresh) {
        throw DataDirectoryError("cannot remove \(fresh), which an earlier rebuild left; remove it, then rebuild again")
    }
    let count = shards ?? existingShards(directory.online) ?? OnlineStore.defaultShards
    do {
        // Not synced on the way: until the directories change places nobody reads it.
        let store = try OnlineStore(directory: fresh, catalog: catalog, shards: count, mode: .write(isSynced: false))
        try ShardEngine(catalog: catalog, views: store.runtimes).catchUp(
            store, from: reader, upTo: writer.latestSequence, latestEventTime: writer.latestEventTime ?? .min,
            watermarks: Pipeline.watermarks(catalog, writer)
        ) { progress($0, writer.latestSequence) }
    }
    sync()
    try? files.removeItem(atPath: old)
    // Between the two renames there is no online store; a start then makes it from the history, as after a crash.
    if files.fileExists(atPath: directory.online) { try files.moveItem(atPath: directory.online, toPath: old) }
    CrashPoint.reach(.rebuildMoved)
    try files.moveItem(atPath: fresh, toPath: directory.online)
    try? files.removeItem(atPath: old)
    try finishErasures(directory, catalog, online: .isFresh, isInterrupted: true, report: report)
    return count
}

private func existingShards(_ directory: String) -> Int? {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
    let count = names.count { $0.hasPrefix("shard-") }
    return count == 0 ? nil : count
}
