import Foundation
import GRDB
import GRDBSQLite
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirRecords

/// A segment, as `weir_segments` describes it.
struct KnownSegment: Sendable {
    let number: Int64
    let lastSequence: Int64
    let firstTime: Int64
    let lastTime: Int64
    let orders: [String: Int]
    let layout: RowGroupLayout
    var identities: IdentityFilter?

    /// The rows of `weir_segments` about a stream's segments from a number on, in order.
    static func rows(_ table: StreamTable, from number: Int64, _ db: Database) throws -> [Row] {
        let statement = try db.cachedStatement(
            sql: """
                SELECT number, last_sequence, first_time, last_time, orders, fields FROM weir_segments
                WHERE stream = ? AND number >= ? ORDER BY number
                """)
        return try Row.fetchAll(statement, arguments: [table.stream.name, number])
    }

    init(_ row: Row, _ table: StreamTable) throws {
        let decoder = JSONDecoder()
        let orders: String = row["orders"]
        let fields: String = row["fields"]
        number = row["number"]
        lastSequence = row["last_sequence"]
        firstTime = row["first_time"]
        lastTime = row["last_time"]
        self.orders = try decoder.decode([String: Int].self, from: Data(orders.utf8))
        layout = try RowGroupLayout(table.stream.schema, fields: decoder.decode([String].self, from: Data(fields.utf8)))
    }

    /// One that is not stored.
    init(_ segment: Segment, _ table: StreamTable) throws {
        number = 0
        lastSequence = segment.lastSequence
        firstTime = segment.firstTime
        lastTime = segment.lastTime
        orders = segment.orders
        layout = try RowGroupLayout(table.stream.schema, fields: segment.fields)
    }

    func order(of view: ViewPlan) throws -> Int {
        guard let order = orders[view.name] else {
            throw HistoryError("the history has no rows in the order of the view '\(view.name)': it was made without that view")
        }
        return order
    }

    func damage(_ error: FormatError) -> HistoryError {
        HistoryError(
            "the row groups of segment \(number) in the history are damaged (\(error)); stop what writes to it and delete all rows of weir_segments and weir_row_groups with sqlite3, they are made anew from the stream's table"
        )
    }
}

/// Finds a stream's rows by entity and by identity, on one connection: in the segments by their order, in the rest of the log (the
/// tail) by an index in memory, which is made when it is first needed.
///
/// A log in order of arrival takes rows as fast as they can be appended; segments behind it give them in order of entities. It is
/// the idea of log-structured storage (O'Neil et al., "The log-structured merge-tree", 1996) with one level, since rows come nearly in
/// the order of time and a window reaches few segments.
final class StreamHistory {
    let table: StreamTable
    private var segments: [KnownSegment] = []
    private var latestInSegments: Int64 = .min
    private var tail: TailIndex?
    /// Row groups that were read last, one for each segment and order: an export asks for one entity after another.
    private var recent: [GroupPlace: RecentGroup] = [:]
    private var filterBytes = 0
    /// How often events had left segments when those were read.
    private var sweeps: Int64?

    private struct GroupPlace: Hashable {
        let segment: Int64
        let order: Int
    }

    private struct RecentGroup {
        let firstKey: [UInt8]
        let lastKey: [UInt8]
        let bytes: [UInt8]
    }

    init(_ table: StreamTable) { self.table = table }

    /// Forgets what is known of a transaction that was rolled back.
    func reset() {
        segments = []
        latestInSegments = .min
        tail = nil
        recent = [:]
        filterBytes = 0
        sweeps = nil
    }

    /// The last row that is in a segment.
    var lastInSegments: Int64 { segments.last?.lastSequence ?? 0 }

    /// Refuses to go on where the segments are not those that their writer made: what it knows of identities would be wrong.
    ///
    /// - Parameter sequence: the last row that is in a segment; 0 where none is.
    func checkSegments(endAt sequence: Int64, _ db: Database) throws {
        let statement = try db.cachedStatement(
            sql: "SELECT last_sequence FROM weir_segments WHERE stream = ? ORDER BY number DESC LIMIT 1")
        let last = try Int64.fetchOne(statement, arguments: [table.stream.name]) ?? 0
        guard last == sequence else {
            throw HistoryError(
                "segments of '\(table.stream.name)' were deleted from the history, or added, while it was being written: they end with event \(last), not \(sequence); nothing is lost, start again. Stop what writes before you delete segments"
            )
        }
    }

    /// Learns of new segments, and that those it knows were deleted.
    func refresh(_ db: Database) throws {
        if table.stream.timeToLive != nil {
            let current = try Retention.sweeps(table.stream.name, db)
            if current != sweeps {
                // Rows that are in no segment are never swept: the tail stays.
                segments = []
                recent = [:]
                filterBytes = 0
                latestInSegments = .min
                sweeps = current
            }
        }
        var new = try KnownSegment.rows(table, from: segments.last?.number ?? 0, db)[...]
        if let last = segments.last {
            guard let same = new.popFirst(), same["number"] == last.number, same["last_sequence"] == last.lastSequence else {
                reset()
                return try refresh(db)
            }
        }
        if new.isEmpty { return }
        for row in new { segments.append(try KnownSegment(row, table)) }
        latestInSegments = segments.map(\.lastTime).max() ?? .min
        tail?.drop(upTo: lastInSegments)
    }

    /// Brings segments and tail up to what the connection sees.
    private func readTail(_ db: Database) throws {
        try refresh(db)
        if tail == nil { tail = TailIndex(views: table.stream.views.count, after: lastInSegments) }
        let statement = try db.cachedStatement(sql: table.tailSQL)
        try statement.setArguments([tail!.lastSequence])
        let handle = statement.sqliteStatement
        defer { sqlite3_reset(handle) }
        func text(_ column: Int32) -> UnsafeRawBufferPointer {
            UnsafeRawBufferPointer(start: sqlite3_column_text(handle, column), count: Int(sqlite3_column_bytes(handle, column)))
        }
        while true {
            let code = sqlite3_step(handle)
            if code == SQLITE_DONE { return }
            guard code == SQLITE_ROW else { throw HistoryDatabase.failure(code, "reading", db) }
            let time = sqlite3_column_int64(handle, 1)
            tail!.append(sequence: sqlite3_column_int64(handle, 0), time: time)
            if table.idColumn != nil {
                let keyHash = UInt64(bitPattern: sqlite3_column_int64(handle, 2))
                tail!.setIdentity(IdentityFilter.hash(time: time, id: text(3), keyHash: keyHash))
            }
            for view in table.stream.views.indices where sqlite3_column_type(handle, Int32(4 + view)) != SQLITE_NULL {
                tail!.setKey(StableHash.xxh64(text(Int32(4 + view))), view: view)
            }
        }
    }

    /// Learns of a row that was just appended.
    func didAppend(_ batch: PreparedBatch, row: Int, sequence: Int64) {
        guard tail != nil else { return }
        tail!.append(sequence: sequence, time: batch.times[row])
        if table.idColumn != nil { tail!.setIdentity(Self.identityHash(batch, row)) }
        for view in table.stream.views.indices {
            if !batch.views[view].keys.isNull(row) { tail!.setKey(batch.views[view].keyHashes[row], view: view) }
        }
    }

    private static func identityHash(_ batch: PreparedBatch, _ row: Int) -> UInt64 {
        batch.ids.withText(row) { IdentityFilter.hash(time: batch.times[row], id: $0, keyHash: batch.keyHashes[row]) }
    }

    // MARK: By entity

    /// The rows of one entity with event times in `[start, end)`, in order.
    ///
    /// - Parameters:
    ///   - ingestedBy: leaves out what was learned of later than this (microseconds).
    ///   - last: leaves out what was accepted behind the event of this number.
    func rows(
        of view: ViewPlan, key: String, from start: Int64, to end: Int64, ingestedBy: Int64?, upTo last: Int64 = .max, _ db: Database
    ) throws -> EventRows {
        try numberedRows(of: view, key: key, from: start, to: end, ingestedBy: ingestedBy, upTo: last, db).rows.sorted()
    }

    /// The same rows in no order, and the number of each.
    func numberedRows(
        of view: ViewPlan, key: String, from start: Int64, to end: Int64, ingestedBy: Int64? = nil, upTo last: Int64 = .max, _ db: Database
    ) throws -> (rows: EventRows, sequences: [Int64]) {
        var rows = EventRows(columns: view.columns)
        var sequences: [Int64] = []
        guard start < end else { return (rows, sequences) }
        try readTail(db)
        let position = table.stream.viewIndex(view.name)!
        var collector = RowCollector(table: table, view: position) { batch in
            for row in 0..<batch.count {
                rows.append(batch, view: position, row: row)
                sequences.append(batch.records.rows[batch.recordRows[row]].offset)
            }
        }
        let latest = ingestedBy ?? .max
        let keyBytes = Array(key.utf8)
        for index in segments.indices where segments[index].firstTime < end && segments[index].lastTime >= start {
            try forEachGroup(index, order: try order(segments[index], view), keyBytes, from: start, to: end, db) { group, range in
                for row in group.lowerBound(range, time: start)..<group.lowerBound(range, time: end)
                where group.ingestTime(row) <= latest && group.sequence(row) <= last { try collector.append(group, row) }
            }
        }
        let statement = try db.cachedStatement(sql: table.rowSQL(view))
        let handle = statement.sqliteStatement
        for sequence in tail!.sequences(view: position, keyHash: StableHash.xxh64(key), from: start, to: end) where sequence <= last {
            try statement.setArguments([sequence, key, latest])
            defer { sqlite3_reset(handle) }
            let code = sqlite3_step(handle)
            if code == SQLITE_DONE { continue }
            guard code == SQLITE_ROW else { throw HistoryDatabase.failure(code, "reading", db) }
            try collector.append(handle)
        }
        try collector.finish()
        return (rows, sequences)
    }

    /// The latest event time of an entity; nil for one without events.
    func latestTime(of view: ViewPlan, key: String, _ db: Database) throws -> Int64? {
        try readTail(db)
        let position = table.stream.viewIndex(view.name)!
        let statement = try db.cachedStatement(sql: table.rowSQL(view))
        var latest: Int64?
        for (time, sequence) in tail!.latest(view: position, keyHash: StableHash.xxh64(key)) where time > latest ?? .min {
            try statement.setArguments([sequence, key, Int64.max])
            defer { sqlite3_reset(statement.sqliteStatement) }
            // Only a hash says so far that it is this entity's.
            if sqlite3_step(statement.sqliteStatement) == SQLITE_ROW { latest = time }
        }
        let keyBytes = Array(key.utf8)
        for index in segments.indices.reversed() where segments[index].lastTime > latest ?? .min {
            try forEachGroup(index, order: try order(segments[index], view), keyBytes, from: .min, to: .max, db) { group, range in
                if let last = range.last { latest = max(latest ?? .min, group.leaf.time(last)) }
            }
        }
        return latest
    }

    private func order(_ segment: KnownSegment, _ view: ViewPlan) throws -> Int { try segment.order(of: view) }

    /// Finds the row groups with a key, and its rows in each.
    private func forEachGroup(
        _ index: Int, order: Int, _ key: [UInt8], from start: Int64, to end: Int64, _ db: Database,
        _ body: (RowGroup, Range<Int>) throws -> Void
    ) throws {
        let segment = segments[index]
        let place = GroupPlace(segment: segment.number, order: order)
        func use(_ bytes: UnsafeRawBufferPointer) throws {
            do {
                let group = try segment.layout.open(bytes)
                try key.withUnsafeBytes { key in
                    let range = group.rows(ofKey: key)
                    if !range.isEmpty { try body(group, range) }
                }
            } catch let error as FormatError {
                throw segment.damage(error)
            }
        }
        if let known = recent[place], precedes(known.firstKey, key), precedes(key, known.lastKey) {
            return try known.bytes.withUnsafeBytes(use)
        }
        // Groups that begin with the key, and the one before them, at whose end the key may begin.
        let statement = try db.cachedStatement(
            sql: """
                SELECT first_key, last_key, first_time, last_time, rows FROM weir_row_groups
                WHERE segment = ? AND "order" = ? AND first_key <= ? ORDER BY first_key DESC, first_time DESC, number DESC
                """)
        try statement.setArguments([segment.number, order, String(decoding: key, as: UTF8.self)])
        let handle = statement.sqliteStatement
        defer { sqlite3_reset(handle) }
        func bytes(_ column: Int32) -> UnsafeRawBufferPointer {
            UnsafeRawBufferPointer(start: sqlite3_column_blob(handle, column), count: Int(sqlite3_column_bytes(handle, column)))
        }
        while true {
            let code = sqlite3_step(handle)
            if code == SQLITE_DONE { return }
            guard code == SQLITE_ROW else { throw HistoryDatabase.failure(code, "reading", db) }
            let first = Array(bytes(0))
            let last = Array(bytes(1))
            let beginsBefore = precedes(first, key)
            // The group ends before the key: so do all before it.
            if precedes(last, key) { return }
            let isWhole = !beginsBefore && last == key
            if !isWhole || (sqlite3_column_int64(handle, 2) < end && sqlite3_column_int64(handle, 3) >= start) {
                let blob = bytes(4)
                if beginsBefore, precedes(key, last) {
                    recent[place] = RecentGroup(firstKey: first, lastKey: last, bytes: Array(blob))
                }
                try use(blob)
            }
            if beginsBefore { return }
        }
    }

    private func precedes(_ a: [UInt8], _ b: [UInt8]) -> Bool {
        a.withUnsafeBytes { a in b.withUnsafeBytes { b in compareBytes(a, b) < 0 } }
    }

    // MARK: By identity

    /// The number of the accepted event of the same identity as one of a batch; nil where there is none.
    ///
    /// - Parameter beforeReading: is called before the table is read.
    func find(_ batch: PreparedBatch, row: Int, _ db: Database, beforeReading: () throws -> Void) throws -> Int64? {
        if tail == nil { try readTail(db) }
        let time = batch.times[row]
        let hash = Self.identityHash(batch, row)
        let candidates = tail!.sequences(identity: hash)
        if !candidates.isEmpty { try beforeReading() }
        for sequence in candidates where try isIdentity(sequence, batch, row, db) { return sequence }
        let key = table.stream.views.indices.first { !batch.views[$0].keys.isNull(row) }
        for index in segments.indices.reversed() where segments[index].firstTime <= time && time <= segments[index].lastTime {
            guard try identities(index, db).mayContain(hash) else { continue }
            let segment = segments[index]
            guard let order = segment.orders[key.map { table.stream.views[$0].name } ?? ""] else { continue }
            let keyBytes = key.map { view in batch.views[view].keys.withText(row) { Array($0) } } ?? []
            var found: Int64?
            try forEachGroup(index, order: order, keyBytes, from: time, to: time &+ 1, db) { group, range in
                for candidate in group.lowerBound(range, time: time)..<range.upperBound {
                    if group.leaf.time(candidate) != time { break }
                    if group.keyHash(candidate) == batch.keyHashes[row], found == nil,
                        try isIdentity(group.sequence(candidate), batch, row, db)
                    {
                        found = group.sequence(candidate)
                    }
                }
            }
            if let found { return found }
        }
        return nil
    }

    /// Whether no accepted event is as late as this one, so that it cannot be a copy.
    func isLater(_ time: Int64, _ db: Database) throws -> Bool {
        if tail == nil { try readTail(db) }
        return time > tail!.latestTime && time > latestInSegments
    }

    /// The latest event time of all; nil where there is none.
    func latestTime(_ db: Database) throws -> Int64? {
        try readTail(db)
        let latest = max(tail!.latestTime, latestInSegments)
        // Only identities need the tail all the time.
        if table.idColumn == nil { tail = nil }
        return latest == .min ? nil : latest
    }

    private func identities(_ index: Int, _ db: Database) throws -> IdentityFilter {
        if let known = segments[index].identities { return known }
        let bytes = try Data.fetchOne(
            db.cachedStatement(sql: "SELECT identities FROM weir_segments WHERE number = ?"), arguments: [segments[index].number])
        let filter = IdentityFilter(Array(bytes ?? Data()))
        if filterBytes + filter.bytes.count > Limits.identityFilterBytesMax {
            for index in segments.indices { segments[index].identities = nil }
            filterBytes = 0
        }
        filterBytes += filter.bytes.count
        segments[index].identities = filter
        return filter
    }

    private func isIdentity(_ sequence: Int64, _ batch: PreparedBatch, _ row: Int, _ db: Database) throws -> Bool {
        try withIdentity(sequence, batch, row, db) { _ in true } ?? false
    }

    /// Whether an accepted event has the same fields as one of a batch with its identity.
    func isSame(_ sequence: Int64, _ batch: PreparedBatch, _ row: Int, _ db: Database) throws -> Bool {
        let recordRow = batch.recordRows[row]
        return try withIdentity(sequence, batch, row, db) { handle in
            table.stream.schema.fields.indices.allSatisfy { field in
                batch.records.isSame(batch.records.cell(row: recordRow, field: field), as: handle, Int32(field))
            }
        } ?? false
    }

    /// Stands on the fields of a row if that has the identity of one of a batch.
    private func withIdentity<R>(
        _ sequence: Int64, _ batch: PreparedBatch, _ row: Int, _ db: Database, _ body: (OpaquePointer) -> R
    ) throws -> R? {
        let statement = try db.cachedStatement(sql: table.identitySQL)
        let handle = statement.sqliteStatement
        defer { sqlite3_reset(handle) }
        sqlite3_bind_int64(handle, 1, sequence)
        sqlite3_bind_int64(handle, 2, batch.times[row])
        if let idField = table.idField, case .int64(let id) = batch.records.cell(row: batch.recordRows[row], field: idField) {
            sqlite3_bind_int64(handle, 3, id)
        } else {
            batch.ids.withText(row) { bindCopiedText(handle, 3, $0) }
        }
        sqlite3_bind_int64(handle, 4, Int64(bitPattern: batch.keyHashes[row]))
        let code = sqlite3_step(handle)
        if code == SQLITE_DONE { return nil }
        guard code == SQLITE_ROW else { throw HistoryDatabase.failure(code, "reading", db) }
        return body(handle)
    }

    // MARK: Segments

    /// Rows that are not yet in a segment, by their numbers.
    func add(_ segment: Segment, _ db: Database) throws {
        let number = try Int64.fetchOne(
            db,
            sql: """
                SELECT 1 + max(
                    (SELECT coalesce(max(number), 0) FROM weir_segments), (SELECT coalesce(max(last_segment), 0) FROM weir_retention))
                """)
        try insert(segment, number: number, db)
        try refresh(db)
    }

    /// Makes those segments anew that held some rows, which are gone from the table; what is known of them is forgotten.
    ///
    /// - Parameter sequences: the rows' numbers, ascending.
    func remakeSegments(without sequences: [Int64], _ db: Database) throws {
        let known = try Row.fetchAll(
            db, sql: "SELECT number, last_sequence FROM weir_segments WHERE stream = ? ORDER BY number", arguments: [table.stream.name])
        var before: Int64 = 0
        var position = 0
        for row in known {
            let (number, last): (Int64, Int64) = (row["number"], row["last_sequence"])
            defer { before = last }
            let first = position
            while position < sequences.count, sequences[position] <= last { position += 1 }
            if position == first { continue }
            try db.execute(sql: "DELETE FROM weir_row_groups WHERE segment = ?", arguments: [number])
            try db.execute(sql: "DELETE FROM weir_segments WHERE number = ?", arguments: [number])
            let count = try Int.fetchOne(
                db, sql: "SELECT count(*) FROM \(table.name) WHERE _seq > ? AND _seq <= ?", arguments: [before, last])!
            guard var segment = try SegmentCutter.cut(table, after: before, rowsMax: count, bytesMax: .max, db), count > 0 else { continue }
            segment.lastSequence = last
            try insert(segment, number: number, db)
        }
        reset()
    }

    // MARK: Retention

    /// Deletes from one segment, and from the log behind it, the rows of before a time: the first segment that has any. One of which
    /// nothing is left goes, another is made anew.
    ///
    /// - Parameter lastSequence: the last number that any event has.
    /// - Returns: how many rows went; nil where no segment has any.
    func sweep(before time: Int64, lastSequence: Int64, _ db: Database) throws -> Int? {
        try refresh(db)
        guard let index = segments.firstIndex(where: { $0.firstTime < time }) else { return nil }
        let segment = segments[index]
        let before = index > 0 ? segments[index - 1].lastSequence : 0
        try db.execute(sql: "DELETE FROM weir_row_groups WHERE segment = ?", arguments: [segment.number])
        try db.execute(sql: "DELETE FROM weir_segments WHERE number = ?", arguments: [segment.number])
        try db.execute(
            sql: "DELETE FROM \(table.name) WHERE _seq > ? AND _seq <= ? AND \(table.timeColumn) < ?",
            arguments: [before, segment.lastSequence, time])
        let removed = db.changesCount
        var remade: KnownSegment?
        if segment.lastTime >= time {
            let count = try Int.fetchOne(
                db, sql: "SELECT count(*) FROM \(table.name) WHERE _seq > ? AND _seq <= ?", arguments: [before, segment.lastSequence])!
            if count > 0, var rest = try SegmentCutter.cut(table, after: before, rowsMax: count, bytesMax: .max, db) {
                rest.lastSequence = segment.lastSequence
                try insert(rest, number: segment.number, db)
                remade = try KnownSegment.rows(table, from: segment.number, db).first.map { try KnownSegment($0, table) }
            }
        }
        try db.execute(
            sql: """
                INSERT INTO weir_retention (stream, kept_from, last_sequence, last_segment, sweeps) VALUES (?1, ?2, ?3, ?4, 1)
                ON CONFLICT (stream) DO UPDATE
                SET last_sequence = max(last_sequence, ?3), last_segment = max(last_segment, ?4), sweeps = sweeps + 1
                """, arguments: [table.stream.name, time, lastSequence, segment.number])
        // What is known stays so, but for this one.
        sweeps = (sweeps ?? 0) + 1
        filterBytes -= segment.identities?.bytes.count ?? 0
        if let remade { segments[index] = remade } else { segments.remove(at: index) }
        recent = recent.filter { $0.key.segment != segment.number }
        latestInSegments = segments.map(\.lastTime).max() ?? .min
        return removed
    }

    private func insert(_ segment: Segment, number known: Int64?, _ db: Database) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        let identities = segment.identities.map { Data($0.bytes) }
        try db.cachedStatement(
            sql: """
                INSERT INTO weir_segments (number, stream, last_sequence, first_time, last_time, rows, fields, orders, identities)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
                """
        ).execute(
            arguments: [
                known, segment.stream, segment.lastSequence, segment.firstTime, segment.lastTime, segment.rows,
                String(decoding: try encoder.encode(segment.fields), as: UTF8.self),
                String(decoding: try encoder.encode(segment.orders), as: UTF8.self), identities,
            ])
        let number = db.lastInsertedRowID
        let statement = try db.cachedStatement(
            sql: """
                INSERT INTO weir_row_groups (segment, "order", first_key, first_time, number, last_key, last_time, rows)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?)
                """)
        let handle = statement.sqliteStatement
        for (index, group) in segment.groups.enumerated() {
            sqlite3_bind_int64(handle, 1, number)
            sqlite3_bind_int64(handle, 2, Int64(group.order))
            group.firstKey.withUnsafeBytes { bindCopiedText(handle, 3, $0) }
            sqlite3_bind_int64(handle, 4, group.firstTime)
            sqlite3_bind_int64(handle, 5, Int64(index))
            group.lastKey.withUnsafeBytes { bindCopiedText(handle, 6, $0) }
            sqlite3_bind_int64(handle, 7, group.lastTime)
            let code = group.bytes.withUnsafeBytes { bytes in
                sqlite3_bind_blob(handle, 8, bytes.baseAddress, Int32(bytes.count), nil)
                return sqlite3_step(handle)
            }
            sqlite3_reset(handle)
            sqlite3_clear_bindings(handle)
            guard code == SQLITE_DONE else { throw HistoryDatabase.failure(code, "writing", db) }
        }
    }
}

extension RecordBatch {
    /// Whether a cell has the value of a column of the row that a statement stands on.
    fileprivate func isSame(_ cell: Cell, as handle: OpaquePointer, _ column: Int32) -> Bool {
        let isNull = sqlite3_column_type(handle, column) == SQLITE_NULL
        switch cell {
        case .null: return isNull
        case .int64(let value), .time(let value): return !isNull && sqlite3_column_int64(handle, column) == value
        case .float64(let value): return !isNull && sqlite3_column_double(handle, column) == value
        case .bool(let value): return !isNull && (sqlite3_column_int64(handle, column) != 0) == value
        case .text(let start, let count):
            return !isNull
                && withText(start: start, count: count) { text in
                    let stored = UnsafeRawBufferPointer(
                        start: sqlite3_column_text(handle, column), count: Int(sqlite3_column_bytes(handle, column)))
                    return compareBytes(stored, text) == 0
                }
        }
    }
}

func bindCopiedText(_ handle: OpaquePointer, _ index: Int32, _ text: UnsafeRawBufferPointer) {
    let transient = unsafeBitCast(-1, to: sqlite3_destructor_type.self)
    // An empty buffer may have no address, which SQLite would take for NULL.
    guard let address = text.baseAddress?.assumingMemoryBound(to: CChar.self) else {
        sqlite3_bind_text(handle, index, "", 0, nil)
        return
    }
    sqlite3_bind_text(handle, index, address, Int32(text.count), transient)
}
