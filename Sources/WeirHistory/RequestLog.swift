import Foundation
import GRDB

/// A request that was served, with all that it takes to answer it again.
package struct RequestRecord: Sendable {
    /// Ascending in the order of logging.
    package var number: Int64 = 0
    /// Microseconds since the epoch.
    package var loggedAt: Int64
    /// A service's name; nil for features of a view, over HTTP.
    package var service: String?
    /// nil for a service.
    package var view: String?
    /// Changes whenever a definition does that the answer depends on.
    package var definitions: String
    /// The time asked for, microseconds.
    package var asOf: Int64
    /// The service's request as JSON; of a view the entity's key as a JSON string, or null.
    package var request: String
    /// JSON: `[{"stream": …, "events": […]}, …]`, as they came; nil where there were none.
    package var session: String?
    /// JSON: for each join of the service, or for the view, `[shard, sequence]`: the answer has the events up to that number; null where the
    /// request names no entity.
    package var applied: String
    /// JSON: feature to value, in the service's order. Doubles are in the shortest form that reads back as the same bits.
    package var answer: String

    package init(
        loggedAt: Int64, service: String?, view: String?, definitions: String, asOf: Int64, request: String, session: String?,
        applied: String, answer: String
    ) {
        self.loggedAt = loggedAt
        self.service = service
        self.view = view
        self.definitions = definitions
        self.asOf = asOf
        self.request = request
        self.session = session
        self.applied = applied
        self.answer = answer
    }
}

/// The log of served requests, `requests.sqlite` beside the history: bounded in size, the oldest go first.
///
/// It is a file of its own, so that its writer never waits for the history's nor that one for it. Commits are not synced: what a power cut
/// takes of its end is missing in a sample.
package enum RequestLog {
    package static func path(in directory: String) -> String { directory + "/requests.sqlite" }

    /// Forgets all that was logged; the files go. For `weir forget`: of what was logged before, answers to others may hold texts of the
    /// erased events, and could not be checked any more. To be called by the one who holds the writer's lock.
    ///
    /// - Returns: how many requests there were.
    @discardableResult
    package static func erase(directory: String) throws -> Int {
        let count = (try? RequestLogReader(directory: directory, store: nil)?.count()) ?? 0
        let path = path(in: directory)
        for file in [path + "-shm", path + "-wal", path] where unlink(file) != 0 && errno != ENOENT {
            throw HistoryError("cannot delete \(file): \(String(cString: strerror(errno)))")
        }
        return count
    }

    fileprivate static let version = 1
    fileprivate static let schema = """
        CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE requests (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            logged_at INTEGER NOT NULL,
            service TEXT,
            view TEXT,
            definitions TEXT NOT NULL,
            as_of INTEGER NOT NULL,
            request TEXT NOT NULL,
            session TEXT,
            applied TEXT NOT NULL,
            answer TEXT NOT NULL
        ) STRICT;
        CREATE INDEX requests_service ON requests (service, number);
        PRAGMA user_version = \(version);
        """

    fileprivate static func explained(_ error: any Error, _ path: String) -> any Error {
        guard let error = error as? DatabaseError else { return error }
        switch error.resultCode {
        case .SQLITE_CORRUPT, .SQLITE_NOTADB:
            return HistoryError(
                "the log of served requests \(path) is damaged (\(error)); delete it, with those of its name that end in -wal and -shm: nothing else depends on it"
            )
        default: return HistoryError("the log of served requests \(path): \(error)")
        }
    }
}

/// Appends to the log. One thread writes.
package final class RequestLogWriter: Sendable {
    private let queue: DatabaseQueue
    private let bytesMax: Int64

    /// - Parameters:
    ///   - store: whose requests these are; those of another store, and of another version of the log, are forgotten.
    ///   - bytesMax: of the file's pages that are in use.
    ///   - report: is told what was forgotten and why.
    package init(directory: String, store: String, bytesMax: Int64, report: (String) -> Void) throws {
        self.bytesMax = bytesMax
        let path = RequestLog.path(in: directory)
        do {
            queue = try Self.open(path, store)
        } catch let error as DatabaseError where error.resultCode == .SQLITE_CORRUPT || error.resultCode == .SQLITE_NOTADB {
            report("the log of served requests \(path) is damaged (\(error)); it is begun anew")
            try RequestLog.erase(directory: directory)
            queue = try Self.open(path, store)
        } catch is OtherLog {
            report("the log of served requests \(path) is that of another store; it is begun anew")
            try RequestLog.erase(directory: directory)
            queue = try Self.open(path, store)
        } catch {
            throw RequestLog.explained(error, path)
        }
    }

    private struct OtherLog: Error {}

    private static func open(_ path: String, _ store: String) throws -> DatabaseQueue {
        var configuration = Configuration()
        configuration.busyMode = .timeout(5)
        configuration.prepareDatabase { db in
            try db.execute(sql: "PRAGMA journal_mode = WAL")
            try db.execute(sql: "PRAGMA synchronous = NORMAL")
        }
        let queue = try DatabaseQueue(path: path, configuration: configuration)
        try queue.write { db in
            let version = try Int.fetchOne(db, sql: "PRAGMA user_version")
            if version == 0 {
                try db.execute(sql: RequestLog.schema)
                try db.execute(sql: "INSERT INTO meta VALUES ('store', ?)", arguments: [store])
            }
            let isOwn = version == 0 || version == RequestLog.version
            guard isOwn, try String.fetchOne(db, sql: "SELECT value FROM meta WHERE key = 'store'") == store else { throw OtherLog() }
        }
        return queue
    }

    /// In one transaction; the oldest go where the log is too large.
    package func append(_ records: [RequestRecord]) throws {
        do {
            try queue.write { db in
                let statement = try db.cachedStatement(
                    sql: """
                        INSERT INTO requests (logged_at, service, view, definitions, as_of, request, session, applied, answer)
                        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
                        """)
                for record in records {
                    try statement.execute(arguments: [
                        record.loggedAt, record.service, record.view, record.definitions, record.asOf, record.request, record.session,
                        record.applied, record.answer,
                    ])
                }
                try trim(db)
            }
        } catch {
            throw RequestLog.explained(error, queue.path)
        }
    }

    private func trim(_ db: Database) throws {
        let pageBytes = try Int64.fetchOne(db, sql: "PRAGMA page_size") ?? 0
        func usedBytes() throws -> Int64 {
            try pageBytes
                * ((Int64.fetchOne(db, sql: "PRAGMA page_count") ?? 0) - (Int64.fetchOne(db, sql: "PRAGMA freelist_count") ?? 0))
        }
        while try usedBytes() > bytesMax {
            guard let range = try Row.fetchOne(db, sql: "SELECT min(number) AS first, max(number) AS last FROM requests"),
                let first: Int64 = range["first"], let last: Int64 = range["last"]
            else { return }
            // A sixteenth at a time, so that this is seldom.
            try db.execute(sql: "DELETE FROM requests WHERE number <= ?", arguments: [first + (last - first) / 16])
        }
    }
}

/// Reads the log beside its writer, in this and in other processes.
package final class RequestLogReader: Sendable {
    private let queue: DatabaseQueue

    /// nil where nothing was ever logged.
    ///
    /// - Parameter store: the history's; nil asks for none. A log of another store has nothing to do with this one.
    package init?(directory: String, store: String?) throws {
        let path = RequestLog.path(in: directory)
        guard FileManager.default.fileExists(atPath: path) else { return nil }
        var configuration = Configuration()
        configuration.readonly = true
        configuration.busyMode = .timeout(10)
        do {
            queue = try DatabaseQueue(path: path, configuration: configuration)
            let (version, owner) = try queue.read { db in
                let version = try Int.fetchOne(db, sql: "PRAGMA user_version") ?? 0
                return (
                    version,
                    version == RequestLog.version ? try String.fetchOne(db, sql: "SELECT value FROM meta WHERE key = 'store'") : nil
                )
            }
            if version == 0 { return nil }
            guard version == RequestLog.version else {
                throw HistoryError(
                    "the log of served requests \(path) was made by another build (version \(version)); `weir run --log-requests` begins it anew"
                )
            }
            guard store == nil || owner == store else {
                throw HistoryError("the log of served requests \(path) is that of another store; `weir run --log-requests` begins it anew")
            }
        } catch {
            throw RequestLog.explained(error, path)
        }
    }

    private func read<R>(_ body: (Database) throws -> R) throws -> R {
        do { return try queue.read(body) } catch { throw RequestLog.explained(error, queue.path) }
    }

    /// - Parameter service: nil for all requests.
    package func count(service: String? = nil) throws -> Int {
        try read { db in
            try Int.fetchOne(db, sql: "SELECT count(*) FROM requests WHERE ?1 IS NULL OR service = ?1", arguments: [service]) ?? 0
        }
    }

    /// The number before that of the `count`th latest request.
    package func number(before count: Int, service: String? = nil) throws -> Int64 {
        try read { db in
            try Int64.fetchOne(
                db, sql: "SELECT number FROM requests WHERE ?1 IS NULL OR service = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2",
                arguments: [service, count]) ?? 0
        }
    }

    /// Requests after a number, in order.
    package func records(after number: Int64, service: String? = nil, limit: Int) throws -> [RequestRecord] {
        try read { db in
            try Row.fetchAll(
                db,
                sql: service == nil
                    ? "SELECT * FROM requests WHERE number > ?1 ORDER BY number LIMIT ?2"
                    : "SELECT * FROM requests WHERE service = ?3 AND number > ?1 ORDER BY number LIMIT ?2",
                arguments: service == nil ? [number, limit] : [number, limit, service]
            ).map { row in
                var record = RequestRecord(
                    loggedAt: row["logged_at"], service: row["service"], view: row["view"], definitions: row["definitions"],
                    asOf: row["as_of"], request: row["request"], session: row["session"], applied: row["applied"], answer: row["answer"])
                record.number = row["number"]
                return record
            }
        }
    }
}
