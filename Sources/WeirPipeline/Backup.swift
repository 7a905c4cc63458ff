import Foundation
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirOnlineStore

/// Writes a consistent copy of a data directory, also of one that a process is writing to, and checks that it opens.
///
/// The shards are copied first, the history behind them: so the history has all that a shard has applied, and the copy catches up
/// with it at its start. The push log is copied before and behind the history: so it has all from the position that the history
/// goes on from, whatever was trimmed or appended meanwhile.
package func backUp(_ directory: DataDirectory, to target: String, catalog: CatalogPlan) throws {
    let files = FileManager.default
    if let names = try? files.contentsOfDirectory(atPath: target), !names.isEmpty {
        throw DataDirectoryError("\(target) is there and not empty; name a directory that does not exist yet")
    }
    let partial = target + ".partial"
    try? files.removeItem(atPath: partial)
    do {
        try files.createDirectory(atPath: partial + "/push", withIntermediateDirectories: true)
    } catch {
        throw DataDirectoryError("cannot make the directory \(partial): \(error.localizedDescription)")
    }
    do {
        try copyPushLog(directory.push, to: partial + "/push")
        // Closed again before the check opens the copy: LMDB wants a file open once in a process.
        try OnlineStore(directory: directory.online, catalog: catalog, shards: nil, mode: .read).copy(to: partial + "/online")
        try HistoryReader(directory: directory.path, catalog: catalog).copy(to: DataDirectory(partial).historyPath)
        try copyPushLog(directory.push, to: partial + "/push")
        try check(DataDirectory(partial), catalog)
    } catch {
        try? files.removeItem(atPath: partial)
        throw error
    }
    sync()
    try? files.removeItem(atPath: target)
    try files.moveItem(atPath: partial, toPath: target)
    sync()
}

private func copyPushLog(_ source: String, to target: String) throws {
    let files = FileManager.default
    for name in (try? files.contentsOfDirectory(atPath: source)) ?? [] {
        // Trimmed meanwhile: the history is past it.
        guard let data = files.contents(atPath: source + "/" + name) else { continue }
        guard files.createFile(atPath: target + "/" + name, contents: data) else {
            throw DataDirectoryError("cannot write \(target)/\(name): \(String(cString: strerror(errno)))")
        }
    }
}

private func check(_ directory: DataDirectory, _ catalog: CatalogPlan) throws {
    let store = try OnlineStore(directory: directory.online, catalog: catalog, shards: nil, mode: .read)
    let last = try HistoryReader(directory: directory.path, catalog: catalog).latestSequence()
    guard try store.states().allSatisfy({ $0.appliedSequence <= last }) else {
        throw DataDirectoryError("the copy in \(directory.path) is not consistent: a shard is ahead of the history")
    }
}
