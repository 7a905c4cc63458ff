import Foundation
import GRDB
import WeirDefinitions
import WeirEngine

/// Takes one entity out of the history's tables, in one transaction.
///
/// An event that is the entity's goes as a whole: it is no other entity's event either. What was written of others is written anew.
struct HistoryErasure {
    private let catalog: CatalogPlan
    private let transaction: SQLiteTransaction
    private let entity: String
    private let key: String
    private let keyHash: [UInt8]
    private var receipt: ErasureReceipt
    private var ids: Set<String> = []
    private var others: [OtherID: [Int64]] = [:]

    /// An entity of another view (or of this one's kind by another key), by the number of the view.
    private struct OtherID: Hashable, Comparable {
        var view: Int
        var key: String
        static func < (a: Self, b: Self) -> Bool { (a.view, a.key) < (b.view, b.key) }
    }

    private static let idsKept = 8

    init(catalog: CatalogPlan, transaction: SQLiteTransaction, entity: String, key: String, keyHash: [UInt8]) {
        self.catalog = catalog
        self.transaction = transaction
        self.entity = entity
        self.key = key
        self.keyHash = keyHash
        receipt = ErasureReceipt(entity: entity, keyHash: keyHash)
    }

    private var db: Database { transaction.db }

    private var streams: [any StreamPlan] { catalog.streams.filter { $0.views.contains { $0.entity == entity } } }

    mutating func run(
        _ arbiter: inout Arbiter, now: Int64, letters: (_ ids: Set<String>) throws -> (decoded: [Int64], byBytes: [Int64])
    ) throws {
        var latest: [String: Int64] = [:]
        for stream in streams {
            // An event from the far future makes nothing that comes later older than the erasure.
            if let time = try transaction.histories[stream.name]!.latestTime(db) { latest[stream.name] = min(time, now) }
        }
        for stream in streams { try removeEvents(stream) }
        // There may be many records, and they are looked for entity by entity.
        try db.execute(sql: "CREATE INDEX weir_output_erasure ON weir_output (topic, key)")
        try removeOwn(catalog.views.filter { $0.entity == entity }, keys: [key], isErased: true)
        try removeFromGoneViews()
        let work = try rewriteOthers(&arbiter)
        try arbiter.writeUpdates(in: transaction)
        try db.execute(sql: "DROP INDEX weir_output_erasure")
        let found = try letters(ids)
        try transaction.removeLetters(found.decoded + found.byBytes)
        receipt.deadLetters = found.decoded.count
        receipt.deadLettersByBytes = found.byBytes.count
        receipt.unknownStreams = try String.fetchAll(
            db, sql: "SELECT name FROM weir_definitions WHERE kind = 'stream' ORDER BY name"
        ).filter { name in !catalog.streams.contains { $0.name == name } }
        try writeTombstone(work, latest, lastSequence: arbiter.lastSequence)
    }

    // MARK: Events

    private mutating func removeEvents(_ stream: any StreamPlan) throws {
        let table = transaction.histories[stream.name]!.table
        let own = stream.views.filter { $0.entity == entity }.map { "\(StreamTable.keyColumn($0)) = ?1" }
        let columns = ["_seq", "_source", "_offset", table.timeColumn, table.idColumn ?? "NULL"] + stream.views.map(StreamTable.keyColumn)
        var sequences: [Int64] = []
        var sources: [Int64: [Int64]] = [:]
        let cursor = try Row.fetchCursor(
            db, sql: "SELECT \(columns.joined(separator: ", ")) FROM \(table.name) WHERE \(own.joined(separator: " OR ")) ORDER BY _seq",
            arguments: [key])
        while let row = try cursor.next() {
            let time: Int64 = row[3]
            sequences.append(row[0])
            sources[row[1], default: []].append(row[2])
            // SQLite makes text of ids that are numbers.
            if let id = String.fromDatabaseValue(row[4]) ?? Int64.fromDatabaseValue(row[4]).map({ String($0) }) { ids.insert(id) }
            for (position, view) in stream.views.enumerated() {
                guard let other: String = row[5 + position], view.entity != entity || other != key else { continue }
                others[OtherID(view: catalog.views.firstIndex { $0 === view }!, key: other), default: []].append(time)
            }
        }
        for sequence in sequences { try transaction.execute("DELETE FROM \(table.name) WHERE _seq = ?", [sequence]) }
        try transaction.histories[stream.name]!.remakeSegments(without: sequences, db)
        receipt.events[stream.name] = sequences.count
        for (source, offsets) in sources.sorted(by: { $0.key < $1.key }) { try noteSource(source, offsets) }
    }

    /// Where events came from still holds them.
    private mutating func noteSource(_ source: Int64, _ offsets: [Int64]) throws {
        guard let row = try Row.fetchOne(db, sql: "SELECT kind, name, partition FROM weir_sources WHERE id = ?", arguments: [source]) else {
            return
        }
        switch SourcePart.Kind(rawValue: row["kind"]) {
        case .kafka:
            receipt.topics.append(
                .init(
                    topic: row["name"], partition: row["partition"], events: offsets.count, firstOffset: offsets.min()!,
                    lastOffset: offsets.max()!))
        case .file: receipt.files.append(.init(path: row["name"], count: offsets.count))
        case .push, .retry, nil: break
        }
    }

    // MARK: What was made of events

    /// Deletes what was written of entities of which nothing is left.
    private mutating func removeOwn(_ views: [ViewPlan], keys: [String], isErased: Bool) throws {
        let list = String(decoding: try JSONEncoder().encode(keys), as: UTF8.self)
        for view in views {
            let condition = "view = ? AND entity_key IN (SELECT value FROM json_each(?))"
            try db.execute(sql: "DELETE FROM weir_windows WHERE is_open = 1 AND \(condition)", arguments: [view.name, list])
            if isErased { receipt.openWindows += db.changesCount }
            try db.execute(sql: "DELETE FROM weir_windows WHERE \(condition)", arguments: [view.name, list])
            try db.execute(sql: "DELETE FROM weir_closed_windows WHERE \(condition)", arguments: [view.name, list])
            if isErased { receipt.closedWindows += db.changesCount }
            let beginning = "{\"view\":\"\(view.name)\","
            for topic in topics(view) {
                try db.execute(
                    sql: """
                        DELETE FROM weir_output
                        WHERE topic = ? AND substr(value, 1, length(?2)) = ?2 AND key IN (SELECT value FROM json_each(?3))
                        """, arguments: [topic, beginning, list])
                if isErased { receipt.outputRecords += db.changesCount }
            }
        }
    }

    /// Views that the definitions no longer have wrote down windows of entities that nobody knows any more: of all of that key.
    private mutating func removeFromGoneViews() throws {
        let views = String(decoding: try JSONEncoder().encode(catalog.views.map(\.name)), as: UTF8.self)
        for table in ["weir_windows", "weir_closed_windows"] {
            try db.execute(
                sql: "DELETE FROM \(table) WHERE entity_key = ? AND view NOT IN (SELECT value FROM json_each(?))", arguments: [key, views])
            if table == "weir_closed_windows" { receipt.closedWindows += db.changesCount }
        }
    }

    private func topics(_ view: ViewPlan) -> [String] { Set([view.closedWindows?.topic, view.updatesTopic].compactMap { $0 }).sorted() }

    /// Says anew what was said of entities that had events in common with the erased one.
    private mutating func rewriteOthers(_ arbiter: inout Arbiter) throws -> ErasureWork {
        var work = ErasureWork(key: key, others: [], ids: Array(ids.sorted { $0.utf8.count > $1.utf8.count }.prefix(Self.idsKept)))
        var told = Set(receipt.events.values.contains { $0 > 0 } ? catalog.views.filter { $0.entity == entity }.flatMap(topics) : [])
        var gone: [Int: [String]] = [:]
        for (other, times) in others.sorted(by: { $0.key < $1.key }) {
            let view = catalog.views[other.view]
            told.formUnion(topics(view))
            let isGone = try transaction.latestTime(of: view, key: other.key) == nil
            work.others.append(.init(view: view.name, key: other.key, events: times.count, isGone: isGone))
            if isGone {
                gone[other.view, default: []].append(other.key)
                receipt.goneEntities[view.name, default: 0] += 1
            } else {
                receipt.changedEntities[view.name, default: 0] += 1
                receipt.changedWindows += try arbiter.rewrite(view, key: other.key, without: times, in: transaction)
            }
        }
        for (view, keys) in gone { try removeOwn([catalog.views[view]], keys: keys, isErased: false) }
        receipt.outputTopics = told.sorted()
        return work
    }

    // MARK: Tombstone

    private func writeTombstone(_ work: ErasureWork, _ latest: [String: Int64], lastSequence: Int64) throws {
        let hash = Data(keyHash)
        // An earlier one says nothing that this one does not.
        for table in ["weir_erasure_positions", "weir_erasure_times"] {
            try db.execute(
                sql: "DELETE FROM \(table) WHERE erasure IN (SELECT number FROM weir_erasures WHERE entity = ? AND key_hash = ?)",
                arguments: [entity, hash])
        }
        try db.execute(sql: "DELETE FROM weir_erasures WHERE entity = ? AND key_hash = ?", arguments: [entity, hash])
        try db.execute(
            sql: """
                INSERT INTO weir_erasures (entity, key_hash, state, work, last_sequence, letters, receipt)
                SELECT ?, ?, 'erasing', ?, ?, coalesce(max(number), 0) + 1, ? FROM weir_dead_letters
                """,
            arguments: [
                entity, hash, String(decoding: try JSONEncoder().encode(work), as: UTF8.self), lastSequence, try receipt.json(),
            ])
        let number = db.lastInsertedRowID
        for stream in streams {
            try db.execute(
                sql: """
                    INSERT INTO weir_erasure_positions (erasure, source, position)
                    SELECT ?, id, position FROM weir_sources WHERE stream = ? AND kind <> 'retry'
                    """, arguments: [number, stream.name])
            if let time = latest[stream.name] {
                try db.execute(
                    sql: "INSERT INTO weir_erasure_times (erasure, stream, latest_event_time) VALUES (?, ?, ?)",
                    arguments: [number, stream.name, time])
            }
        }
    }
}

extension SQLiteTransaction: ErasureTransaction {
    func removeRevisions(_ series: WindowSeries, key: String, from last: Int64, through first: Int64) throws {
        try execute(
            """
            DELETE FROM weir_closed_windows
            WHERE view = ? AND "window" = ? AND entity_key = ? AND window_end >= ? AND window_start <= ? AND "values" IS NOT NULL
            """, [series.view, series.window, key, first, last])
    }

    func waitingOutputs(topic: String, key: String) throws -> [(number: Int64, value: String)] {
        try Row.fetchAll(
            db.cachedStatement(sql: "SELECT number, value FROM weir_output WHERE topic = ? AND key = ? ORDER BY number"),
            arguments: [topic, key]
        ).map { ($0["number"], $0["value"]) }
    }

    func replaceOutput(_ number: Int64, value: String?) throws {
        if let value {
            try execute("UPDATE weir_output SET value = ? WHERE number = ?", [value, number])
        } else {
            try execute("DELETE FROM weir_output WHERE number = ?", [number])
        }
    }
}

extension Tombstones {
    /// Those of a history; nil where nothing was erased.
    init?(directory: String, _ db: Database) throws {
        let rows = try Row.fetchAll(db, sql: "SELECT number, entity, key_hash, letters FROM weir_erasures ORDER BY number")
        if rows.isEmpty { return nil }
        guard let key = try ErasureKey.load(directory: directory) else {
            throw HistoryError(
                "\(ErasureKey.path(in: directory)) is missing: without it events of erased entities would come back; restore it from a backup of the data directory"
            )
        }
        let tombstones = try rows.map { row in
            let number: Int64 = row["number"]
            var positions: [SourcePart: Int64] = [:]
            let sources = try Row.fetchAll(
                db,
                sql: """
                    SELECT kind, name, partition, stream, p.position AS position
                    FROM weir_erasure_positions p JOIN weir_sources s ON s.id = p.source WHERE erasure = ?
                    """, arguments: [number])
            for source in sources {
                guard let kind = SourcePart.Kind(rawValue: source["kind"]) else { continue }
                let part = SourcePart(kind: kind, name: source["name"], partition: source["partition"], stream: source["stream"])
                positions[part] = source["position"]
            }
            let times = try Row.fetchAll(
                db, sql: "SELECT stream, latest_event_time FROM weir_erasure_times WHERE erasure = ?", arguments: [number])
            let hash: Data = row["key_hash"]
            return Tombstone(
                entity: row["entity"], keyHash: Array(hash), positions: positions, letters: row["letters"],
                latestEventTimes: Dictionary(uniqueKeysWithValues: times.map { ($0["stream"], $0["latest_event_time"]) }))
        }
        self.init(tombstones) { key.hash(entity: $0, key: $1) }
    }
}
