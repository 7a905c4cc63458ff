import Foundation
import GRDB
import GRDBSQLite
import Synchronization

/// Copies the write-ahead log into the database beside the writer, on a thread and a connection of its own: otherwise commits that
/// find the log long would do it, and all that waits for the history would wait for the disk.
///
/// The log begins anew when a commit finds all of it copied. Where commits are faster than this the writer copies the rest itself, once
/// the log is very long.
final class Checkpointer: Sendable {
    /// How long the log is, as the writer's connection learns it with each commit.
    final class Log: Sendable {
        fileprivate let pages = Atomic<Int>(0)

        /// Makes a connection report the log's length here, and keep it in bounds.
        func watch(_ db: Database) {
            sqlite3_wal_hook(
                db.sqliteConnection,
                { context, connection, name, pages in
                    Unmanaged<Log>.fromOpaque(context!).takeUnretainedValue().pages.store(Int(pages), ordering: .relaxed)
                    // As SQLite's own hook does; where it is busy the next commit tries again.
                    if pages >= Checkpointer.pagesMax {
                        sqlite3_wal_checkpoint_v2(connection, name, SQLITE_CHECKPOINT_PASSIVE, nil, nil)
                    }
                    return SQLITE_OK
                }, Unmanaged.passUnretained(self).toOpaque())
        }
    }

    private let queue: DatabaseQueue
    private let log: Log
    private let isRunning = Atomic<Bool>(false)
    /// Pages of the log that are copied.
    private let copied = Atomic<Int>(0)
    private let thread = DispatchQueue(label: "weir checkpoints")

    /// Pages that are copied at a time, and from which on the writer copies.
    private static let pages = 4_000
    private static let pagesMax: Int32 = 16_000

    init(directory: String, _ log: Log) throws {
        var configuration = Configuration()
        configuration.busyMode = .timeout(5)
        queue = try DatabaseQueue(path: HistoryDatabase.path(in: directory), configuration: configuration)
        self.log = log
    }

    /// After a commit: begins to copy where enough has come.
    func didCommit() {
        let pages = log.pages.load(ordering: .relaxed)
        let copied = copied.load(ordering: .relaxed)
        // A log that is shorter than what was copied has begun anew.
        guard pages - (copied <= pages ? copied : 0) >= Self.pages, !isRunning.exchange(true, ordering: .acquiring) else { return }
        thread.async {
            // What it cannot do is left to the writer.
            if let done = try? self.queue.writeWithoutTransaction({ db in try db.checkpoint(.passive) }) {
                self.copied.store(done.checkpointedFrameCount, ordering: .relaxed)
            }
            self.isRunning.store(false, ordering: .releasing)
        }
    }
}
