import Foundation
import WeirAlgebra
import WeirDefinitions
import WeirEngine

extension OnlineStore {
    /// Takes an entity out of a view, or makes it anew from its events in the history, in the transaction that the writer is.
    ///
    /// - Parameters:
    ///   - rows: those from a time on that it is asked for; nil where the entity is to be gone.
    /// - Returns: how many records of it there were.
    package func replace(
        view: Int, key: String, in writer: Writer, rows: ((_ from: Int64) throws -> EventRows)?
    ) throws -> Int {
        try Array(key.utf8).withUnsafeBytes { key in
            let removed = try writer.remove(view: view, key: key)
            guard let rows else { return removed }
            let runtime = runtimes[view]
            let keptFrom = writer.state.keptFrom[view]
            let events = try rows(runtime.plan.hasLifetimeWindow ? .min : keptFrom)
            if events.isEmpty { return removed }
            let tree = TimeTree(view: runtime, nodes: writer.nodes(view: view, key: key))
            try tree.insert(events)
            if runtime.plan.hasLifetimeWindow, keptFrom > .min { try tree.expire(before: keptFrom) }
            return removed
        }
    }

    /// Makes the file of every shard anew from what it holds, so that nothing deleted is left in it. Nobody may have the store open.
    ///
    /// - Parameter didSwap: is called when a shard has its new file.
    package static func compact(directory: String, mapBytes: Int = defaultMapBytes, didSwap: () -> Void) throws {
        let files = FileManager.default
        let fresh = directory + "/compact"
        func sync(_ path: String) throws {
            let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
            defer { if descriptor >= 0 { close(descriptor) } }
            guard descriptor >= 0, fsync(descriptor) == 0 else {
                throw OnlineStoreError("cannot sync \(path): \(String(cString: strerror(errno)))")
            }
        }
        for shard in shardDirectories(directory) {
            try? files.removeItem(atPath: fresh)
            do {
                try files.createDirectory(atPath: fresh, withIntermediateDirectories: true)
            } catch {
                throw OnlineStoreError("cannot make the directory \(fresh): \(error.localizedDescription)")
            }
            do {
                let old = try LMDBEnvironment(path: shard, readOnly: true, isSynced: true, mapBytes: mapBytes)
                let new = try LMDBEnvironment(path: fresh, readOnly: false, isSynced: false, mapBytes: old.mapBytes)
                try new.append(old)
                try new.sync()
            }
            guard rename(fresh + "/data.mdb", shard + "/data.mdb") == 0 else {
                throw OnlineStoreError("cannot replace \(shard)/data.mdb: \(String(cString: strerror(errno)))")
            }
            // It counts the old file's transactions.
            unlink(shard + "/lock.mdb")
            try sync(shard)
            didSwap()
        }
        try? files.removeItem(atPath: fresh)
    }
}
