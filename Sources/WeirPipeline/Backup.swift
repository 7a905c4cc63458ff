import Foundation
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirOnlineStore
import WeirSources

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
        // Tombstones are of no use without it.
        let key = ErasureKey.path(in: directory.path)
        if files.fileExists(atPath: key) { try files.copyItem(atPath: key, toPath: ErasureKey.path(in: partial)) }
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

/// Copies the push log, and leaves out what is not there: a store without pushes has none, and what is trimmed meanwhile is in the
/// history. Anything else that cannot be read ends the backup.
private func copyPushLog(_ source: String, to target: String) throws {
    guard let directory = opendir(source) else {
        if errno == ENOENT { return }
        throw DataDirectoryError("cannot list \(source): \(String(cString: strerror(errno)))")
    }
    closedir(directory)
    let names: [String]
    do { names = try FileManager.default.contentsOfDirectory(atPath: source) } catch {
        throw DataDirectoryError("cannot list \(source): \(error.localizedDescription)")
    }
    for name in names {
        let from = open(source + "/" + name, O_RDONLY | O_CLOEXEC)
        if from < 0, errno == ENOENT { continue }
        guard from >= 0 else { throw DataDirectoryError("cannot open \(source)/\(name): \(String(cString: strerror(errno)))") }
        defer { close(from) }
        let to = open(target + "/" + name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard to >= 0 else { throw DataDirectoryError("cannot write \(target)/\(name): \(String(cString: strerror(errno)))") }
        defer { close(to) }
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        while true {
            let count = read(from, &buffer, buffer.count)
            if count == 0 { break }
            guard count > 0 else { throw DataDirectoryError("cannot read \(source)/\(name): \(String(cString: strerror(errno)))") }
            guard write(to, buffer, count) == count else {
                throw DataDirectoryError("cannot write \(target)/\(name): \(String(cString: strerror(errno)))")
            }
        }
    }
}

private func check(_ directory: DataDirectory, _ catalog: CatalogPlan) throws {
    let store = try OnlineStore(directory: directory.online, catalog: catalog, shards: nil, mode: .read)
    let history = try HistoryReader(directory: directory.path, catalog: catalog)
    let last = try history.latestSequence()
    guard try store.states().allSatisfy({ $0.appliedSequence <= last }) else {
        throw DataDirectoryError("the copy in \(directory.path) is not consistent: a shard is ahead of the history")
    }
    let pushed = try history.positions().filter { $0.source.hasPrefix("push") }.map(\.position).max() ?? 0
    guard try PushLog.reaches(pushed, directory: directory.push) else {
        throw DataDirectoryError(
            "the copied push log does not go on from \(pushed), up to which the history has applied it: it was trimmed while it was copied, or \(directory.path)/push is not whole; take the backup again"
        )
    }
}
