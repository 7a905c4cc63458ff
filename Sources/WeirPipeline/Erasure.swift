import Foundation
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirOnlineStore
import WeirSources

/// Erases one entity from everything in a data directory.
///
/// 1. What the push log holds is taken in, so that all of it may go.
/// 2. One transaction of the history takes the entity out of its tables, keeps the tombstone, and what is left to do. From here on the
///    erasure is decided: whoever next opens the store for writing finishes it, and nobody reads it before.
/// 3. The online store lets go of the entity; others that had events in common with it are made anew from the history. Files of shards are
///    made anew, the push log begins anew. All of this comes to the same when it is done twice.
/// 4. The history forgets the name, then its file is made anew, too.
///
/// Nobody else may write or read meanwhile.
///
/// - Parameter key: the canonical one.
/// - Returns: receipts: of an erasure that had been interrupted, where there was one, then of this one.
package func eraseEntity(
    _ entity: String, key: String, directory: DataDirectory, catalog: CatalogPlan, mapBytes: Int = OnlineStore.defaultMapBytes,
    report: @escaping @Sendable (String) -> Void = { _ in }, progress: (Int64, Int64) -> Void = { _, _ in }
) throws -> [ErasureReceipt] {
    let lock = try directory.lock()
    let readers = try directory.lockOutReaders()
    defer { withExtendedLifetime((lock, readers)) {} }
    var receipts = try finishErasures(
        directory, catalog, mapBytes: mapBytes, online: .repair, isInterrupted: true, readersAreOut: true, report: report)
    let hash = try ErasureKey.load(directory: directory.path).map {
        ErasureReceipt(entity: entity, keyHash: $0.hash(entity: entity, key: key))
    }
    if let hash, receipts.contains(where: { $0.entity == entity && $0.keyHash == hash.keyHash }) { return receipts }
    do {
        let writer = try StoreWriter(
            directory: directory, catalog: catalog, shards: nil, isSynced: true, mapBytes: mapBytes, lock: lock, report: report,
            progress: progress)
        try writer.takeInPushes()
        try writer.history.erase(entity: entity, key: key, now: wallClock()) { ids in
            try ErasedEntity(entity: entity, key: key, catalog: catalog, ids: ids).letters(writer.reader, catalog)
        }
    }
    receipts += try finishErasures(
        directory, catalog, mapBytes: mapBytes, online: .repair, isInterrupted: false, readersAreOut: true, report: report)
    return receipts
}

/// What becomes of the online store.
enum OnlineErasure {
    /// Entities that are concerned are taken out or made anew.
    case repair
    /// It was just made from the history, which has forgotten the entity already.
    case isFresh
}

/// Finishes the erasures that the history has decided. The caller has the writer's lock, and nothing of the store open.
///
/// - Parameters:
///   - isInterrupted: they were begun by another process.
///   - readersAreOut: the caller keeps readers away.
@discardableResult
func finishErasures(
    _ directory: DataDirectory, _ catalog: CatalogPlan, mapBytes: Int = OnlineStore.defaultMapBytes, online: OnlineErasure,
    isInterrupted: Bool, readersAreOut: Bool = false, report: @escaping @Sendable (String) -> Void
) throws -> [ErasureReceipt] {
    guard FileManager.default.fileExists(atPath: directory.historyPath) else { return [] }
    let log = try ErasureLog(directory: directory.path)
    let pending = try log.pending()
    if pending.isEmpty { return [] }
    let readers = readersAreOut ? nil : try directory.lockOutReaders()
    defer { withExtendedLifetime(readers) {} }
    var receipts: [ErasureReceipt] = []
    for erasure in pending {
        if isInterrupted { report("the erasure of an entity '\(erasure.entity)' was interrupted; it is being finished") }
        var receipt = erasure.receipt
        receipt.wasInterrupted = receipt.wasInterrupted || isInterrupted
        if let work = erasure.work {
            if online == .repair {
                receipt.onlineRecords = try repairOnlineStore(directory, catalog, mapBytes: mapBytes, erasure.entity, work, report)
            }
            receipt.pushLogBytes = try trimPushLog(directory)
            receipt.loggedRequests = try RequestLog.erase(directory: directory.path)
            // What a rebuild that died has left is a store of before.
            for left in ["online.new", "online.old"] { try remove(directory.path + "/" + left) }
            CrashPoint.reach(.erasureTrimmed)
            receipt.changed = work.others.filter { !$0.isGone }.map { .init(view: $0.view, entityKey: $0.key, events: $0.events) }
            try log.unname(erasure, receipt: receipt)
        }
        try log.purge(erasure)
        if let work = erasure.work { receipt.filesOfTheStore = try search(directory, for: work) }
        receipts.append(receipt)
    }
    return receipts
}

private func remove(_ path: String) throws {
    guard FileManager.default.fileExists(atPath: path) else { return }
    do { try FileManager.default.removeItem(atPath: path) } catch {
        throw DataDirectoryError("cannot remove \(path): \(error.localizedDescription)")
    }
}

// MARK: Online store

/// - Returns: how many records the entity had.
private func repairOnlineStore(
    _ directory: DataDirectory, _ catalog: CatalogPlan, mapBytes: Int, _ entity: String, _ work: ErasureWork,
    _ report: @escaping @Sendable (String) -> Void
) throws -> Int {
    // It is made from the history when it is missing.
    guard OnlineStore.exists(directory.online) else { return 0 }
    var removed: [Int] = []
    do {
        let store = try OnlineStore(
            directory: directory.online, catalog: catalog, shards: nil, mode: .write(isSynced: true), mapBytes: mapBytes)
        let writer = try HistoryWriter(directory: directory.path, catalog: catalog, report: report)
        let reader = try HistoryReader(directory: directory.path, catalog: catalog, whileErasing: true)
        // A power cut may have taken a shard's last commit back.
        try ShardEngine(catalog: catalog, views: store.runtimes).catchUp(
            store, from: reader, upTo: writer.latestSequence, latestEventTime: writer.latestEventTime ?? .min,
            watermarks: Pipeline.watermarks(catalog, writer))
        var tasks: [(view: Int, key: String, isGone: Bool, isOwn: Bool)] = []
        for (number, view) in catalog.views.enumerated() {
            if view.entity == entity { tasks.append((number, work.key, true, true)) }
            for other in work.others where other.view == view.name { tasks.append((number, other.key, other.isGone, false)) }
        }
        removed = Array(repeating: 0, count: store.shardCount)
        for shard in removed.indices {
            try store.write(shard: shard) { transaction in
                removed[shard] = 0
                for task in tasks where Sharding.shard(ofKey: task.key, count: store.shardCount) == shard {
                    let records = try store.replace(
                        view: task.view, key: task.key, in: transaction,
                        rows: task.isGone ? nil : { try reader.rows(of: catalog.views[task.view], key: task.key, from: $0, to: .max) })
                    if task.isOwn { removed[shard] += records }
                }
                // The latest event may have been one of these.
                transaction.state.latestEventTime = writer.latestEventTime ?? .min
            }
            CrashPoint.reach(.erasureApplied)
        }
    }
    try OnlineStore.compact(directory: directory.online, mapBytes: mapBytes) { CrashPoint.reach(.erasureCompacted) }
    return removed.reduce(0, +)
}

// MARK: Push log

extension StoreWriter {
    /// Takes in what the push log holds, with the pipeline, which is over then.
    func takeInPushes() throws {
        guard FileManager.default.fileExists(atPath: directory.push) else { return }
        let failure = FirstError()
        let log = try PushLog(directory: directory.push)
        let push = try PushIngest(log: log, catalog: catalog, pipeline: pipeline, history: history, secondsBetweenTrims: nil)
        pipeline.start()
        push.start { failure.set($0) }
        log.stop()
        push.waitUntilDone()
        try pipeline.stop()
        try failure.rethrow()
    }
}

private final class FirstError: @unchecked Sendable {
    private let lock = NSLock()
    private var error: (any Error)?

    func set(_ new: any Error) { lock.withLock { error = error ?? new } }
    func rethrow() throws { if let error = lock.withLock({ error }) { throw error } }
}

/// - Returns: the bytes that went.
private func trimPushLog(_ directory: DataDirectory) throws -> Int64 {
    guard FileManager.default.fileExists(atPath: directory.push) else { return 0 }
    let log = try PushLog(directory: directory.push)
    log.stop()
    return try log.trimAll()
}

// MARK: What is left

/// Looks through all files of the directory for the key and some ids of events; nil where they are too short to tell.
private func search(_ directory: DataDirectory, for work: ErasureWork) throws -> [ErasureReceipt.File]? {
    let words = ([work.key] + work.ids).map { Array($0.utf8) }.filter { $0.count >= ErasedEntity.idBytesMin }
    if words.isEmpty { return nil }
    var found: [ErasureReceipt.File] = []
    let overlap = words.map(\.count).max()! - 1
    for name in try FileManager.default.subpathsOfDirectory(atPath: directory.path).sorted() {
        let path = directory.path + "/" + name
        var isDirectory: ObjCBool = false
        guard FileManager.default.fileExists(atPath: path, isDirectory: &isDirectory), !isDirectory.boolValue,
            let file = FileHandle(forReadingAtPath: path)
        else { continue }
        defer { try? file.close() }
        var count = 0
        var carry: [UInt8] = []
        while let data = try file.read(upToCount: 4 << 20), !data.isEmpty {
            // What ends in the part that was carried over was counted before.
            let before = carry.count
            carry.append(contentsOf: data)
            carry.withUnsafeBytes { bytes in
                for word in words { count += occurrences(of: word, in: bytes).count { $0 + word.count > before } }
            }
            carry.removeFirst(max(0, carry.count - overlap))
        }
        if count > 0 { found.append(.init(path: name, count: count)) }
    }
    return found
}
