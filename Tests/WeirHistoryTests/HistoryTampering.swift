import Foundation
import GRDB
import WeirHistory

/// Changes a history behind its writer's back.
enum HistoryTampering {
    static func execute(_ directory: String, _ sql: String) throws {
        let queue = try DatabaseQueue(path: HistoryDatabase.path(in: directory))
        try queue.write { db in try db.execute(sql: sql) }
    }

    /// Brings all that was committed into the database's file.
    static func checkpoint(_ directory: String) throws {
        let queue = try DatabaseQueue(path: HistoryDatabase.path(in: directory))
        try queue.writeWithoutTransaction { db in _ = try db.checkpoint(.truncate) }
    }

    /// The number that a query gives.
    static func number(_ directory: String, _ sql: String) throws -> Int {
        try DatabaseQueue(path: HistoryDatabase.path(in: directory)).read { db in try Int.fetchOne(db, sql: sql) ?? 0 }
    }
}
