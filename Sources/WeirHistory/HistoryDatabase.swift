import Crypto
import GRDB
import GRDBSQLite
import Migrations
import WeirAlgebra
import WeirDefinitions

/// What went wrong with the history, and what to do.
package struct HistoryError: Error, CustomStringConvertible {
    package let description: String

    package init(_ description: String) {
        self.description = description
    }
}

/// Opens `history.sqlite` and brings its schema up to date.
package enum HistoryDatabase {
    package static func path(in directory: String) -> String { directory + "/history.sqlite" }

    /// For the one writer. Every commit is synced, unless `isSynced` is false: then checkpoints alone are, which a write-ahead log
    /// needs to stay whole at a power cut, whatever it loses of its end.
    package static func openForWriting(directory: String, isSynced: Bool = true) throws -> DatabaseQueue {
        try openForWriting(directory: directory, isSynced: isSynced, log: Checkpointer.Log())
    }

    static func openForWriting(directory: String, isSynced: Bool, log: Checkpointer.Log) throws -> DatabaseQueue {
        var configuration = Configuration()
        configuration.busyMode = .timeout(5)
        configuration.prepareDatabase { db in
            try db.execute(sql: "PRAGMA journal_mode = WAL")
            try db.execute(sql: "PRAGMA synchronous = \(isSynced ? "FULL" : "NORMAL")")
            try db.execute(sql: "PRAGMA cache_size = -16384")
            log.watch(db)
        }
        let queue = try open(path(in: directory), configuration)
        do { try migrate(queue) } catch { throw explained(error, path(in: directory)) }
        return queue
    }

    /// For readers, beside a writer or alone.
    package static func openForReading(directory: String) throws -> DatabaseQueue {
        var configuration = Configuration()
        configuration.readonly = true
        configuration.busyMode = .timeout(10)
        configuration.prepareDatabase { db in try db.execute(sql: "PRAGMA cache_size = -8192") }
        return try open(path(in: directory), configuration)
    }

    private static func open(_ path: String, _ configuration: Configuration) throws -> DatabaseQueue {
        do {
            return try DatabaseQueue(path: path, configuration: configuration)
        } catch {
            let explained = explained(error, path)
            if explained is HistoryError { throw explained }
            throw HistoryError("cannot open the history \(path): \(error); check the path, its rights and the free disk space")
        }
    }

    /// What SQLite's errors mean for a history, and the way out.
    static func explained(_ error: any Error, _ path: String) -> any Error {
        guard let error = error as? DatabaseError else { return error }
        return explained(code: error.resultCode.rawValue, "\(error)", path) ?? error
    }

    static func explained(code: Int32, _ text: String, _ path: String) -> HistoryError? {
        switch code & 0xff {
        case SQLITE_CORRUPT, SQLITE_NOTADB:
            HistoryError(
                "the history \(path) is damaged (\(text)); restore it from a backup (`weir backup` makes them), or make a new store in another --data directory from the topics and files. `sqlite3 \(path) .recover` may save what the damage spared"
            )
        case SQLITE_FULL:
            HistoryError("the disk of the history \(path) is full; free some space and start again, nothing is lost")
        case SQLITE_IOERR:
            HistoryError(
                "the disk refused to read or write the history \(path) (\(text)); check the disk, its free space and the limits on file sizes, and start again: what was taken is kept"
            )
        default: nil
        }
    }

    /// For statements that are stepped by hand.
    static func failure(_ code: Int32, _ what: String, _ db: Database) -> any Error {
        let text = String(cString: sqlite3_errmsg(db.sqliteConnection))
        let path = sqlite3_db_filename(db.sqliteConnection, "main").map { String(cString: $0) } ?? "history.sqlite"
        return explained(code: code, text, path) ?? HistoryError("\(what) the history \(path) failed: \(text) (SQLite code \(code))")
    }

    private static func migrate(_ queue: DatabaseQueue) throws {
        var migrator = DatabaseMigrator()
        for migration in migrations {
            migrator.registerMigration(migration.name) { db in
                try db.execute(sql: migration.sql)
                try db.execute(
                    sql: "INSERT INTO weir_meta (key, value) VALUES (?, ?)",
                    arguments: ["migration \(migration.name)", sha256(migration.sql)])
            }
        }
        try migrator.migrate(queue)
        try queue.read { db in
            for migration in migrations {
                let applied = try String.fetchOne(
                    db, sql: "SELECT value FROM weir_meta WHERE key = ?", arguments: ["migration \(migration.name)"])
                guard applied == sha256(migration.sql) else {
                    throw HistoryError(
                        "the history was made by a build whose migration \(migration.name) differs; use that build, or one of a later release"
                    )
                }
            }
        }
    }

    package static func sha256(_ text: String) -> String {
        hexadecimal(SHA256.hash(data: Array(text.utf8)))
    }
}
