import Foundation
import GRDB
import GRDBSQLite
import Synchronization

/// Copies the write-ahead log into the database beside the writer, on a thread and a connection of its own: otherwise commits that
/// find the log long would do it, and all that waits for the history would wait for the disk.
///
/// The log begins anew when a commit finds all of it copied; where commits are faster than this, the writer's own limit
/// (`wal_autocheckpoint`) copies the rest.
final class Checkpointer: Sendable {
    private let queue: DatabaseQueue
    private let isRunning = Atomic<Bool>(false)
    private let thread = DispatchQueue(label: "weir checkpoints")
    private let logPath: String
    /// Bytes of the log from which on it is copied.
    private static let logBytes: off_t = 8 << 20

    init(directory: String) throws {
        var configuration = Configuration()
        configuration.busyMode = .timeout(5)
        let path = HistoryDatabase.path(in: directory)
        queue = try DatabaseQueue(path: path, configuration: configuration)
        logPath = path + "-wal"
    }

    /// After a commit: begins to copy where the log is long.
    func didCommit() {
        var status = stat()
        guard stat(logPath, &status) == 0, status.st_size >= Self.logBytes else { return }
        guard !isRunning.exchange(true, ordering: .acquiring) else { return }
        thread.async {
            // What it cannot do is left to the writer, whose errors are heard.
            try? self.queue.writeWithoutTransaction { db in _ = try db.checkpoint(.passive) }
            self.isRunning.store(false, ordering: .releasing)
        }
    }
}
