import GRDB
import WeirDefinitions

/// What the history says of events whose time to live is over: `weir_retention`.
enum Retention {
    /// Events of a stream before this time no longer count, and may be gone; `Int64.min` where all count.
    static func keptFrom(_ stream: String, _ db: Database) throws -> Int64 {
        let statement = try db.cachedStatement(sql: "SELECT kept_from FROM weir_retention WHERE stream = ?")
        return try Int64.fetchOne(statement, arguments: [stream]) ?? .min
    }

    /// How often segments of a stream have lost events: who remembers them looks again.
    static func sweeps(_ stream: String, _ db: Database) throws -> Int64 {
        let statement = try db.cachedStatement(sql: "SELECT sweeps FROM weir_retention WHERE stream = ?")
        return try Int64.fetchOne(statement, arguments: [stream]) ?? 0
    }

    /// No later event has this number, though its own may be erased or swept.
    static func lastSequence(_ db: Database) throws -> Int64 {
        let swept = try Int64.fetchOne(db, sql: "SELECT max(last_sequence) FROM weir_retention") ?? 0
        return max(swept, try Int64.fetchOne(db, sql: "SELECT max(last_sequence) FROM weir_erasures") ?? 0)
    }

    /// A feature over everything would be one over a part of it.
    static func check(_ catalog: CatalogPlan, _ db: Database) throws {
        for stream in catalog.streams where try keptFrom(stream.name, db) > .min {
            guard let view = stream.views.first(where: \.hasLifetimeWindow) else { continue }
            throw HistoryError(
                "the history no longer has all events of '\(stream.name)': it had a time to live, and \(view.name) has features over everything; give the stream or the view a timeToLive, or ingest again into another --data directory"
            )
        }
    }

    /// Deletes closed windows that lie before a time as a whole: no event that counts can be in them.
    ///
    /// - Parameter position: where to go on, and behind it where that ended.
    /// - Returns: whether there are more.
    static func sweepWindows(_ stream: any StreamPlan, before time: Int64, from position: inout WindowPosition, _ db: Database) throws
        -> Bool
    {
        let views = stream.views.filter { $0.closedWindows != nil }
        while position.view < views.count {
            let view = views[position.view].name
            let columns = position.isOfRevisions ? "entity_key, window_end, window_start, revision" : "entity_key, window_start"
            let table = position.isOfRevisions ? "weir_closed_windows" : "weir_windows"
            let keys = "\"window\", \(columns)"
            let marks = position.isOfRevisions ? "(?2, ?3, ?4, ?5, ?6)" : "(?2, ?3, ?4)"
            let after = position.after
            var arguments: [DatabaseValue] = [view.databaseValue] + after
            let rest = after.isEmpty ? "" : "AND (\(keys)) > \(marks)"
            // In the order of the key, so many at a time: there is no index by end, which every window would have to pay for.
            let end = try Row.fetchOne(
                db, sql: "SELECT \(keys) FROM \(table) WHERE view = ?1 \(rest) ORDER BY \(keys) LIMIT 1 OFFSET \(windowsAtOnce - 1)",
                arguments: StatementArguments(arguments))
            let upTo: [DatabaseValue] = end.map { Array($0.databaseValues) } ?? []
            let last = upTo.indices.map { "?\(arguments.count + 1 + $0)" }.joined(separator: ", ")
            arguments += upTo + [time.databaseValue]
            try db.execute(
                sql: """
                    DELETE FROM \(table) WHERE view = ?1 \(rest) \(upTo.isEmpty ? "" : "AND (\(keys)) <= (\(last))")
                    AND window_end < ?\(arguments.count) \(position.isOfRevisions ? "" : "AND is_open = 0")
                    """, arguments: StatementArguments(arguments))
            if !upTo.isEmpty {
                position.after = upTo
                return true
            }
            position.after = []
            if position.isOfRevisions { position.view += 1 }
            position.isOfRevisions.toggle()
        }
        return false
    }

    private static let windowsAtOnce = 4_096

    /// How far a sweep through the windows is.
    struct WindowPosition {
        /// Of the stream's views whose windows close.
        var view = 0
        /// Of what was written of closed windows; first those that may be revised.
        var isOfRevisions = false
        /// The key of the last row that was looked at; empty before any.
        var after: [DatabaseValue] = []
    }
}
