import Foundation
import GRDB
import WeirHistory

/// Changes a history behind its writer's back.
enum HistoryTampering {
    static func execute(_ directory: String, _ sql: String) throws {
        let queue = try DatabaseQueue(path: HistoryDatabase.path(in: directory))
        try queue.write { db in try db.execute(sql: sql) }
    }
}
