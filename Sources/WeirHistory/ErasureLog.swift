import GRDB
import WeirEngine

/// The erasures that a history has begun, and what makes their end of them. For the one writer, before anything else is opened.
package final class ErasureLog {
    package struct Pending: Sendable {
        package let number: Int64
        package let entity: String
        /// What is left to do; nil where only free space may still hold the entity.
        package let work: ErasureWork?
        package let receipt: ErasureReceipt
    }

    private let queue: DatabaseQueue

    package init(directory: String) throws {
        queue = try HistoryDatabase.openForWriting(directory: directory)
    }

    /// In the order in which they were begun.
    package func pending() throws -> [Pending] {
        try explaining {
            try queue.read { db in
                try Row.fetchAll(db, sql: "SELECT number, entity, work, receipt FROM weir_erasures WHERE state <> 'done' ORDER BY number")
                    .map { row in
                        let work: String? = row["work"]
                        return Pending(
                            number: row["number"], entity: row["entity"], work: try work.map { try ErasureWork(json: $0) },
                            receipt: try ErasureReceipt(json: row["receipt"]))
                    }
            }
        }
    }

    /// The entity is nowhere but, perhaps, in free space: its name goes, too.
    package func unname(_ pending: Pending, receipt: ErasureReceipt) throws {
        var receipt = receipt
        // Keys of others are none of its business.
        receipt.changed = []
        let text = try receipt.json()
        try explaining {
            try queue.writeWithoutTransaction { db in try db.execute(sql: "PRAGMA secure_delete = ON") }
            try queue.write { db in
                try db.execute(
                    sql: "UPDATE weir_erasures SET state = 'unnamed', work = NULL, receipt = ? WHERE number = ?",
                    arguments: [text, pending.number])
            }
        }
        CrashPoint.reach(.erasureUnnamed)
    }

    /// Makes the file anew from what it holds, and empties the write-ahead log, so that nothing deleted is left in either.
    package func purge(_ pending: Pending) throws {
        try explaining {
            try queue.vacuum()
            try truncateLog()
            CrashPoint.reach(.erasurePurged)
            try queue.write { db in
                try db.execute(sql: "UPDATE weir_erasures SET state = 'done' WHERE number = ?", arguments: [pending.number])
            }
            try truncateLog()
        }
    }

    private func truncateLog() throws {
        let isBusy = try queue.writeWithoutTransaction { db in
            try Bool.fetchOne(db, sql: "PRAGMA wal_checkpoint(TRUNCATE)") ?? false
        }
        if isBusy {
            throw HistoryError(
                "the write-ahead log of \(queue.path), in which the erased entity may still stand, cannot be emptied: another process reads the history; end it (a sqlite3 shell?) and run `weir forget` again"
            )
        }
    }

    private func explaining<R>(_ body: () throws -> R) throws -> R {
        do { return try body() } catch { throw HistoryDatabase.explained(error, queue.path) }
    }
}
