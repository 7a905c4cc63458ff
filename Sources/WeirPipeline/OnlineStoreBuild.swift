import Foundation
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirOnlineStore

/// An online store that is made from the history beside the one in use, and then takes its place.
///
/// It needs no more than to read the history, so that another process may write to that meanwhile. It can be left and gone on with:
/// the store knows how far it has come, as every online store does.
package final class OnlineStoreBuild {
    package let store: OnlineStore
    private let directory: DataDirectory
    private let catalog: CatalogPlan
    private let lock: WriterLock

    /// Begins a store, or goes on with one that was begun with the same definitions and shards.
    ///
    /// - Parameters:
    ///   - shards: nil for as many as the store in use has.
    ///   - isResumed: false throws away what was begun.
    package init(
        directory: DataDirectory, catalog: CatalogPlan, reader: HistoryReader, shards: Int?, isResumed: Bool,
        mapBytes: Int = OnlineStore.defaultMapBytes
    ) throws {
        self.directory = directory
        self.catalog = catalog
        lock = try directory.lockBuild()
        let count = shards ?? OnlineStore.shardCount(in: directory.online) ?? OnlineStore.defaultShards
        if !isResumed || OnlineStore.shardCount(in: directory.onlineNew) != count || !Self.isBegun(directory, catalog, reader) {
            try Self.remove(directory.onlineNew)
        }
        // Not synced on the way: nobody reads it before it is whole.
        try Self.markUnsynced(directory)
        store = try OnlineStore(
            directory: directory.onlineNew, catalog: catalog, shards: count, mode: .write(isSynced: false), mapBytes: mapBytes)
        try keepSamples(in: store, reader)
    }

    /// Whether a store of these definitions was begun, and may be gone on with.
    package static func isBegun(_ directory: DataDirectory, _ catalog: CatalogPlan, _ reader: HistoryReader) -> Bool {
        let path = directory.onlineNew
        guard let shards = OnlineStore.shardCount(in: path), isSound(directory),
            (try? OnlineStore.storedDefinition(in: path)) == OnlineStore.definition(of: catalog, shards: shards)
        else { return false }
        // With other closures than these it is of other definitions.
        return (try? changedClosures(in: path, catalog, reader)) == []
    }

    /// How many events of the history it has taken in.
    package func appliedSequence() throws -> Int64 { try store.states().map(\.appliedSequence).min() ?? 0 }

    /// Takes in the history up to an event.
    package func catchUp(
        _ reader: HistoryReader, upTo last: Int64, latestEventTime: Int64, watermarks: [Int64], progress: (Int64) -> Void = { _ in }
    ) throws {
        try ShardEngine(catalog: catalog, views: store.runtimes).catchUp(
            store, from: reader, upTo: last, latestEventTime: latestEventTime, watermarks: watermarks
        ) { reached in
            CrashPoint.reach(.buildCommitted)
            progress(reached)
        }
    }

    /// Takes in the history as it is now, beside who writes to it.
    package func catchUp(_ reader: HistoryReader, progress: (Int64, Int64) -> Void = { _, _ in }) throws {
        // The watermarks first: what is let go of for them must be of the events that are taken in.
        let known = try reader.watermarks()
        let latest = try reader.latestEventTime() ?? .min
        let last = try reader.latestSequence()
        try catchUp(reader, upTo: last, latestEventTime: latest, watermarks: catalog.views.map { known[$0.stream] ?? .min }) {
            progress($0, last)
        }
    }

    /// Waits until the disk has all of it, so that it outlasts a power cut.
    ///
    /// - Parameter isChecked: whoever next opens the store for writing may take it.
    package func finish(_ reader: HistoryReader, isChecked: Bool) throws {
        try keepSamples(in: store, reader)
        if isChecked { try Data().write(to: URL(fileURLWithPath: directory.onlineNew + "/" + Self.checkedName)) }
        try store.sync()
        syncNames([directory.onlineNew])
        try? FileManager.default.removeItem(atPath: directory.onlineNew + "/" + Self.unsyncedName)
    }

    /// Whether a store of these definitions was made and checked, and only waits to be taken.
    package static func isChecked(_ directory: DataDirectory, _ catalog: CatalogPlan, _ reader: HistoryReader) -> Bool {
        FileManager.default.fileExists(atPath: directory.onlineNew + "/" + checkedName) && isBegun(directory, catalog, reader)
    }

    /// A store that goes on being made is to be checked again.
    package func uncheck() { try? FileManager.default.removeItem(atPath: directory.onlineNew + "/" + Self.checkedName) }

    private static let checkedName = "checked"

    /// Puts the store in the place of the one in use. The caller has the writer's lock; the build is closed by then.
    package static func install(_ directory: DataDirectory) throws {
        let files = FileManager.default
        sync()
        try remove(directory.onlineOld)
        // Between the two renames there is no online store; a start then takes the new one, or makes one from the history.
        if files.fileExists(atPath: directory.online) { try files.moveItem(atPath: directory.online, toPath: directory.onlineOld) }
        CrashPoint.reach(.rebuildMoved)
        try files.moveItem(atPath: directory.onlineNew, toPath: directory.online)
        for name in [unsyncedName, checkedName] { try? files.removeItem(atPath: directory.online + "/" + name) }
        try? files.removeItem(atPath: directory.onlineOld)
    }

    /// Removes what was begun, where nobody goes on with it.
    package static func discard(_ directory: DataDirectory) throws {
        let lock = try directory.lockBuild()
        try withExtendedLifetime(lock) { try remove(directory.onlineNew) }
    }

    private static func remove(_ path: String) throws {
        let files = FileManager.default
        guard files.fileExists(atPath: path) else { return }
        // A store that is half there would be taken for one to catch up.
        do { try files.removeItem(atPath: path) } catch {
            throw DataDirectoryError(
                "cannot remove \(path), which an earlier build left: \(error.localizedDescription); remove it, then try again")
        }
    }

    // MARK: Power cuts

    /// Names the run of the system in which the store was written without syncing: when that has ended, it may be damaged.
    private static let unsyncedName = "unsynced"

    private static var systemRun: String? { try? String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .utf8) }

    private static func markUnsynced(_ directory: DataDirectory) throws {
        let path = directory.onlineNew + "/" + unsyncedName
        try FileManager.default.createDirectory(atPath: directory.onlineNew, withIntermediateDirectories: true)
        try Data((systemRun ?? "").utf8).write(to: URL(fileURLWithPath: path))
        syncNames([path, directory.onlineNew])
    }

    private static func isSound(_ directory: DataDirectory) -> Bool {
        let path = directory.onlineNew + "/" + unsyncedName
        guard FileManager.default.fileExists(atPath: path) else { return true }
        guard let run = systemRun else { return false }
        return (try? String(contentsOfFile: path, encoding: .utf8)) == run
    }
}

/// Waits until the disk has files, and what directories name.
private func syncNames(_ paths: [String]) {
    for path in paths {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { continue }
        fsync(descriptor)
        close(descriptor)
    }
}

/// Makes the online store anew from the history, also with another number of shards or other definitions. Nobody else may write meanwhile.
package func rebuildOnlineStore(
    directory: DataDirectory, catalog: CatalogPlan, shards: Int?, report: @escaping @Sendable (String) -> Void = { _ in },
    progress: (Int64, Int64) -> Void
) throws -> Int {
    let lock = try directory.lock()
    defer { withExtendedLifetime(lock) {} }
    let writer = try HistoryWriter(directory: directory.path, catalog: catalog)
    let reader = try HistoryReader(directory: directory.path, catalog: catalog, whileErasing: true)
    let count: Int
    do {
        let build = try OnlineStoreBuild(directory: directory, catalog: catalog, reader: reader, shards: shards, isResumed: false)
        count = build.store.shardCount
        try build.catchUp(
            reader, upTo: writer.latestSequence, latestEventTime: writer.latestEventTime ?? .min,
            watermarks: Pipeline.watermarks(catalog, writer)
        ) { progress($0, writer.latestSequence) }
    }
    try OnlineStoreBuild.install(directory)
    try finishErasures(directory, catalog, online: .isFresh, isInterrupted: true, report: report)
    return count
}
