import Foundation
import GRDB
import GRDBSQLite
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirRecords

/// The history as it was at one moment: any number of connections read the same of it, while more comes.
package struct HistorySnapshot: Sendable {
    package struct Position: Sendable {
        package let source: String
        package let position: Int64
    }

    /// What tells the store from others.
    package let store: String
    /// What of the sources is in it.
    package let positions: [Position]
    /// The last accepted event that is in it.
    package let lastSequence: Int64
    /// For each stream its segments, by their numbers.
    fileprivate(set) var segments: [String: [KnownSegment]]

    /// For each stream the time before which events no longer count, and may be gone; `Int64.min` where all count.
    fileprivate var keptFrom: [String: Int64]
    /// For each stream how often segments had lost events.
    fileprivate var sweeps: [String: Int64]

    /// For each stream the time up to which its watermark says that it is complete.
    package var completeUntil: [String: Int64]
    /// For each stream the fields that its events' own decoding has changed.
    let changedFields: [String: Set<String>]

    /// How a view's columns are read.
    package func source(_ view: ViewPlan, _ schema: RecordSchema, _ projection: EntityProjection) -> ColumnSource {
        ColumnSource(view, schema, projection, changedFields: changedFields[view.stream] ?? [])
    }

    package func keptFrom(_ stream: String) -> Int64 { keptFrom[stream] ?? .min }

    package func completeUntil(_ stream: String) -> Int64 { completeUntil[stream] ?? .min }

    /// Learns that events have left the history since, and of the segments that were made anew.
    ///
    /// - Returns: false where nothing has changed.
    ///
    /// - Parameter hasFailed: whether reading failed: that segments were made anew may be why.
    package mutating func refreshKept(_ stream: String, _ reader: HistoryReader, hasFailed: Bool) throws -> Bool {
        let (time, count, known) = try reader.read { db in
            let table = try reader.table(stream)
            return (
                try Retention.keptFrom(stream, db), try Retention.sweeps(stream, db),
                try KnownSegment.rows(table, from: 0, db).map { try KnownSegment($0, table) }
            )
        }
        guard time != keptFrom[stream] || (hasFailed && count != sweeps[stream]) else { return false }
        keptFrom[stream] = time
        sweeps[stream] = count
        let numbers = Set(segments[stream, default: []].map(\.number))
        segments[stream] = known.filter { numbers.contains($0.number) }
        return true
    }
}

/// What of a view's rows is wanted.
package struct EntityProjection: Sendable {
    /// Of the view's columns; the others stay empty.
    package var columns: Set<Int>
    /// The identities: only they order events of one time.
    package var identities: Bool
    package var filters: Bool
    package var ingestTimes: Bool

    package init(_ plan: EvaluationPlan, ingestTimes: Bool) {
        columns = plan.columns
        identities = plan.usesIDs
        filters = plan.usesFilters
        self.ingestTimes = ingestTimes
    }
}

/// The rows of some entities, one entity after another, each one's in order.
package struct EntityBlock: Sendable {
    package fileprivate(set) var rows: EventRows
    /// Microseconds, one a row; empty where they are not wanted.
    package fileprivate(set) var ingestTimes: [Int64] = []
    /// Where each entity's rows end.
    package fileprivate(set) var ends: [Int] = []

    package func range(_ entity: Int) -> Range<Int> { (entity == 0 ? 0 : ends[entity - 1])..<ends[entity] }

    fileprivate mutating func removeAll() {
        rows.removeAll()
        ingestTimes.removeAll(keepingCapacity: true)
        ends.removeAll(keepingCapacity: true)
    }
}

/// Rows of a stream that are in no segment, as one that is not stored.
package struct TailSegment: Sendable {
    let segment: KnownSegment
    /// In the order of a view's keys.
    let groups: [Segment.Group]
}

extension HistoryReader {
    /// - Parameter sequence: the last accepted event that is in it; nil: of all.
    package func snapshot(upTo sequence: Int64? = nil) throws -> HistorySnapshot {
        let positions = try positions().map { HistorySnapshot.Position(source: $0.source, position: $0.position) }
        // What is accepted meanwhile may be in the rows, but nothing that the positions name is missing.
        return try read { db in
            var segments: [String: [KnownSegment]] = [:]
            var last: Int64 = 0
            var completeUntil: [String: Int64] = [:]
            var keptFrom: [String: Int64] = [:]
            var sweeps: [String: Int64] = [:]
            for row in try Row.fetchAll(db, sql: "SELECT stream, watermark FROM weir_watermarks") {
                completeUntil[row["stream"]] = row["watermark"]
            }
            for (name, table) in tables {
                var known = try KnownSegment.rows(table, from: 0, db).map { try KnownSegment($0, table) }
                if let sequence, let cut = known.firstIndex(where: { $0.lastSequence >= sequence }) { known.removeSubrange((cut + 1)...) }
                segments[name] = known
                last = max(last, try Int64.fetchOne(db, sql: "SELECT max(_seq) FROM \(table.name)") ?? 0)
                keptFrom[name] = try Retention.keptFrom(name, db)
                sweeps[name] = try Retention.sweeps(name, db)
            }
            last = max(last, try Retention.lastSequence(db))
            if let sequence, sequence > last {
                throw HistoryError(
                    "the history has \(last) events, not the \(sequence) that are asked for: it is not the same store, or an older copy")
            }
            return HistorySnapshot(
                store: try String.fetchOne(db, sql: "SELECT value FROM weir_meta WHERE key = 'store'") ?? "", positions: positions,
                lastSequence: sequence ?? last, segments: segments, keptFrom: keptFrom, sweeps: sweeps, completeUntil: completeUntil,
                changedFields: try PlainFields.changed(db))
        }
    }

    /// The rows of a snapshot that are in none of its segments, for a view; nil where there are none.
    package func tail(of view: ViewPlan, _ snapshot: HistorySnapshot) throws -> TailSegment? {
        let table = try table(view.stream)
        let after = snapshot.segments[view.stream]?.last?.lastSequence ?? 0
        guard after < snapshot.lastSequence else { return nil }
        // Each row has a number of its own, so there are no more than numbers.
        let segment = try read { db in
            try SegmentCutter.cut(
                table, after: after, rowsMax: Int(snapshot.lastSequence - after), bytesMax: .max, view: table.stream.viewIndex(view.name)!,
                db)
        }
        return try segment.map { TailSegment(segment: try KnownSegment($0, table), groups: $0.groups) }
    }

    /// Reads entities in ascending order of their keys, within one transaction.
    ///
    /// - Throws: `ColumnsAreNotPlain` where the source is wrong about the columns.
    package func scanEntities<R>(
        of view: ViewPlan, _ projection: EntityProjection, _ source: ColumnSource, _ snapshot: HistorySnapshot, _ tail: TailSegment?,
        _ body: (EntityScan) throws -> R
    ) throws -> R {
        let table = try table(view.stream)
        return try read { db in
            let scan = try EntityScan(table: table, view: view, projection, source, snapshot, tail, db)
            defer { scan.close() }
            return try body(scan)
        }
    }
}

/// Goes through the row groups of all segments side by side, in the order of a view's keys: a merge of sorted runs, in which an entity
/// that is not asked for costs a comparison or two, and many of them none.
///
/// Rows that are found are only named at first; their columns are copied for many of them at once.
package final class EntityScan {
    /// What is looked at of a cursor to pass it by, side by side with others'.
    private struct Head {
        /// The next key's first bytes, or less.
        var prefix: UInt64
        let firstTime: Int64
        let lastTime: Int64
    }

    /// Places among the columns that are chosen of a group; behind them those of the view's columns.
    private enum Place {
        static let sequence = 0
        static let ingestTime = 1
        static let keyHash = 2
        static let id = 3
        static let firstColumn = 4
    }

    private let table: StreamTable
    private let view: ViewPlan
    private let position: Int
    private let projection: EntityProjection
    private let source: ColumnSource
    private let snapshot: HistorySnapshot
    @exclusivity(unchecked) private var cursors: [GroupCursor] = []
    @exclusivity(unchecked) private var heads: [Head] = []
    @exclusivity(unchecked) private var block: EntityBlock
    /// Rows behind those of the block, which stand in the cursors' groups still.
    @exclusivity(unchecked) private var found: [LeafRows] = []
    @exclusivity(unchecked) private var foundCount = 0
    /// Of rows in the block of a stream without ids, whose events the numbers tell apart.
    private var sequences: [Int64] = []
    /// Where events are decoded: what they are decoded from.
    private var records: RecordBatch
    private var keyHashes: [UInt64] = []

    init(
        table: StreamTable, view: ViewPlan, _ projection: EntityProjection, _ source: ColumnSource, _ snapshot: HistorySnapshot,
        _ tail: TailSegment?, _ db: Database
    ) throws {
        self.table = table
        self.view = view
        self.projection = projection
        self.source = source
        self.snapshot = snapshot
        position = table.stream.viewIndex(view.name)!
        block = EntityBlock(rows: EventRows(columns: view.columns))
        records = RecordBatch(schema: table.stream.schema)
        // Others may have come in their place, of the same numbers.
        let known = Dictionary(
            uniqueKeysWithValues: try KnownSegment.rows(table, from: 0, db).map { row -> (Int64, KnownSegment) in
                (row["number"], try KnownSegment(row, table))
            })
        for segment in snapshot.segments[view.stream] ?? [] {
            guard let now = known[segment.number], now.lastSequence == segment.lastSequence, now.orders == segment.orders else {
                throw HistoryError("segments of '\(view.stream)' were deleted from the history while it was being read; start again")
            }
            add(segment, try StoredGroups(segment.number, order: try segment.order(of: view), db))
        }
        if let tail { add(tail.segment, GroupsInMemory(tail.groups)) }
    }

    private func add(_ segment: KnownSegment, _ groups: any GroupWalk) {
        let idField = table.idField.flatMap { segment.layout.fieldColumns[$0] }
        var columns: [Int?] = [RowGroupLayout.sequence, RowGroupLayout.ingestTime, RowGroupLayout.keyHash, idField]
        for (_, field) in source.fields ?? [] { columns.append(segment.layout.fieldColumns[field]) }
        cursors.append(GroupCursor(segment, groups, columns: columns))
        heads.append(Head(prefix: 0, firstTime: segment.firstTime, lastTime: segment.lastTime))
    }

    func close() { for cursor in cursors { cursor.close() } }

    /// How many rows were read since the block was taken last.
    package var pendingRows: Int { max(block.rows.count + foundCount, records.rows.count) }

    /// Appends an entity's rows with event times in `[start, end)` to the block.
    ///
    /// - Parameter key: not before that of the last call.
    package func read(_ key: UnsafeRawBufferPointer, from start: Int64, to end: Int64) throws {
        let prefix = firstBytes(key)
        if start < end {
            for index in heads.indices {
                let head = heads[index]
                if head.prefix > prefix || head.firstTime >= end || head.lastTime < start { continue }
                let cursor = cursors[index]
                repeat {
                    if !cursor.reaches(key, prefix) {
                        copyFound()
                        try cursor.move(to: key)
                    }
                    if let run = cursor.takeRows(of: key, prefix, from: start, to: end) { try add(cursor, run) }
                    // The key's rows may go on in the next group.
                } while cursor.isAtGroupEnd
                heads[index].prefix = cursor.nextPrefix
            }
        }
        block.ends.append(source.isPlain ? block.rows.count + foundCount : records.rows.count)
    }

    private func add(_ cursor: GroupCursor, _ run: LeafRows) throws {
        if cursor.isToBeChecked, let group = cursor.group { try check(group) }
        if source.isPlain, cursor.segment.lastSequence <= snapshot.lastSequence { return add(run) }
        guard let group = cursor.group else { return }
        for row in run.rows where group.sequence(row) <= snapshot.lastSequence {
            if source.isPlain {
                add(run.with(row..<row + 1))
            } else {
                group.append(row, to: &records)
                keyHashes.append(group.keyHash(row))
                block.ingestTimes.append(group.ingestTime(row))
            }
        }
    }

    private func add(_ run: LeafRows) {
        found.append(run)
        foundCount += run.rows.count
    }

    /// Copies what was found, while the groups are there.
    private func copyFound() {
        if found.isEmpty { return }
        found.appendTimes(foundCount, to: &block.rows.times)
        for (place, (column, _)) in (source.fields ?? []).enumerated() {
            block.rows.columns[column].append(found, column: Place.firstColumn + place, count: foundCount)
        }
        if projection.ingestTimes { found.appendIntegers(column: Place.ingestTime, foundCount, to: &block.ingestTimes) }
        if projection.identities { copyIdentities() }
        found.removeAll(keepingCapacity: true)
        foundCount = 0
    }

    private func copyIdentities() {
        guard let idField = table.idField else { return found.appendIntegers(column: Place.sequence, foundCount, to: &sequences) }
        if table.stream.views.count > 1 {
            for hash in integers(Place.keyHash) { block.rows.tags.append(UInt32(truncatingIfNeeded: hash)) }
        } else {
            block.rows.tags.append(contentsOf: repeatElement(0, count: foundCount))
        }
        switch table.stream.schema.fields[idField].type {
        case .text, .json: block.rows.ids.append(found, column: Place.id, count: foundCount)
        default: for id in integers(Place.id) { block.rows.ids.append(decimal: id) }
        }
    }

    private func integers(_ place: Int) -> [Int64] {
        var integers: [Int64] = []
        found.appendIntegers(column: place, foundCount, to: &integers)
        return integers
    }

    /// Decodes rows of a group and compares what the view reads of the events with the fields.
    private func check(_ group: RowGroup) throws {
        guard let fields = source.fields, !fields.isEmpty else { return }
        var records = RecordBatch(schema: table.stream.schema)
        let picked = Array(stride(from: 0, to: group.leaf.count, by: max(1, group.leaf.count / 8)))
        for row in picked { group.append(row, to: &records) }
        let batch = table.stream.prepare(records, view: position, keyHashes: picked.map { group.keyHash($0) })
        guard batch.count == picked.count else { throw ColumnsAreNotPlain() }
        for (column, field) in fields {
            var plain = ColumnBuffer(type: view.columns[column].type)
            for row in picked { group.append(field: field, row..<row + 1, to: &plain) }
            guard plain.isSameValues(as: batch.views[position].columns[column]) else { throw ColumnsAreNotPlain() }
        }
    }

    /// Hands over the entities that were read since the last call.
    package func take<R>(_ body: (EntityBlock) throws -> R) throws -> R {
        if source.isPlain { copyFound() } else { try decode() }
        putInOrder()
        defer { block.removeAll() }
        return try body(block)
    }

    private func decode() throws {
        var batch = table.stream.prepare(records, view: position, keyHashes: keyHashes)
        guard batch.records.malformed.isEmpty, batch.count == records.rows.count else {
            throw HistoryError(
                "an event of '\(table.stream.name)' in the history does not decode any more: \(batch.records.malformed.first?.reason ?? "")"
            )
        }
        if !table.stream.hasIDs {
            batch.assignSequenceIDs(rows: Array(0..<batch.count), sequences: records.rows.map(\.offset))
        }
        for row in 0..<batch.count { block.rows.append(batch, view: position, row: row) }
        records = RecordBatch(schema: table.stream.schema)
        keyHashes = []
    }

    /// Segments mostly follow each other in time, not always: then the rows of an entity are sorted.
    private func putInOrder() {
        let rows = block.rows
        let sequences = sequences
        let hasIdentities = rows.ids.count > 0
        func precedes(_ a: Int, _ b: Int) -> Bool {
            if rows.times[a] != rows.times[b] { return rows.times[a] < rows.times[b] }
            if hasIdentities { return rows.precedes(a, b) }
            return sequences.isEmpty ? a < b : sequences[a] < sequences[b]
        }
        var order: [Int] = []
        for entity in block.ends.indices {
            let range = block.range(entity)
            var isInOrder = true
            rows.times.withUnsafeBufferPointer { times in
                for row in range.dropFirst() where times[row - 1] >= times[row] {
                    if precedes(row, row - 1) { isInOrder = false }
                }
            }
            if isInOrder { continue }
            if order.isEmpty { order = Array(0..<rows.count) }
            order[range].sort(by: precedes)
        }
        if !order.isEmpty {
            block.rows = EventRows(columns: view.columns)
            block.rows.appendProjected(rows, rows: order)
            if !block.ingestTimes.isEmpty { block.ingestTimes = order.map { block.ingestTimes[$0] } }
            if !sequences.isEmpty { self.sequences = order.map { sequences[$0] } }
        }
        if !sequences.isEmpty { identify() }
    }

    /// Gives rows their numbers for ids; where no other has its time nothing asks for a row's id.
    private func identify() {
        let rows = block.rows.times.count
        block.rows.tags.append(contentsOf: repeatElement(0, count: rows))
        block.rows.times.withUnsafeBufferPointer { times in
            func isTied(_ row: Int) -> Bool {
                (row > 0 && times[row - 1] == times[row]) || (row + 1 < rows && times[row + 1] == times[row])
            }
            block.rows.ids.append(texts: rows) { ends, start in
                var end = start
                for row in 0..<rows {
                    if isTied(row) { end += 8 }
                    ends[row] = end
                }
            } bytes: { bytes in
                var bytes = bytes
                for row in 0..<rows where isTied(row) {
                    bytes.storeBytes(of: sequences[row].bigEndian, as: Int64.self)
                    bytes += 8
                }
            }
        }
        sequences.removeAll(keepingCapacity: true)
    }
}

extension ColumnBuffer {
    /// Whether two columns of a type have the same values, bit for bit.
    fileprivate func isSameValues(as other: ColumnBuffer) -> Bool {
        guard count == other.count else { return false }
        return (0..<count).allSatisfy { row in
            if isNull(row) || other.isNull(row) { return isNull(row) == other.isNull(row) }
            switch type {
            case .int64, .bool: return int64s[row] == other.int64s[row]
            case .float64: return float64s[row].bitPattern == other.float64s[row].bitPattern
            case .text: return withText(row) { a in other.withText(row) { compareBytes(a, $0) == 0 } }
            }
        }
    }
}

/// The first number that is not before what is looked for; it mostly is near.
@inline(__always)
private func gallop(from start: Int, to end: Int, _ isBefore: (Int) -> Bool) -> Int {
    guard start < end, isBefore(start) else { return start }
    var low = start
    var step = 1
    while low + step < end, isBefore(low + step) {
        low += step
        step *= 2
    }
    var high = min(low + step, end)
    low += 1
    while low < high {
        let middle = (low + high) / 2
        if isBefore(middle) { low = middle + 1 } else { high = middle }
    }
    return low
}

/// The row groups of a segment in the order of a view's keys, one after another.
private protocol GroupWalk: AnyObject {
    /// Goes to the last group that begins before a key, or to the first of all; it is the next one.
    func seek(_ key: UnsafeRawBufferPointer) throws
    /// Goes to the next group; false at the end.
    func next() throws -> Bool
    /// Of the group that it stands on, until it moves.
    var lastKey: UnsafeRawBufferPointer { get }
    var bytes: UnsafeRawBufferPointer { get }
    func close()
}

private final class StoredGroups: GroupWalk {
    private let segment: Int64
    private let order: Int
    private let finder: Statement
    private let walker: Statement
    private let db: Database

    init(_ segment: Int64, order: Int, _ db: Database) throws {
        self.segment = segment
        self.order = order
        self.db = db
        finder = try db.makeStatement(
            sql: """
                SELECT first_key, first_time, number FROM weir_row_groups
                WHERE segment = ? AND "order" = ? AND first_key < ? ORDER BY first_key DESC, first_time DESC, number DESC LIMIT 1
                """)
        walker = try db.makeStatement(
            sql: """
                SELECT last_key, rows FROM weir_row_groups
                WHERE segment = ? AND "order" = ? AND (first_key, first_time, number) >= (?, ?, ?)
                ORDER BY first_key, first_time, number
                """)
    }

    private static func blob(_ handle: OpaquePointer, _ column: Int32) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: sqlite3_column_blob(handle, column), count: Int(sqlite3_column_bytes(handle, column)))
    }

    var lastKey: UnsafeRawBufferPointer { Self.blob(walker.sqliteStatement, 0) }
    var bytes: UnsafeRawBufferPointer { Self.blob(walker.sqliteStatement, 1) }

    func close() {
        sqlite3_reset(finder.sqliteStatement)
        sqlite3_reset(walker.sqliteStatement)
    }

    func next() throws -> Bool {
        let code = sqlite3_step(walker.sqliteStatement)
        if code == SQLITE_DONE { return false }
        guard code == SQLITE_ROW else { throw HistoryDatabase.failure(code, "reading", db) }
        return true
    }

    func seek(_ key: UnsafeRawBufferPointer) throws {
        let find = finder.sqliteStatement
        sqlite3_reset(find)
        sqlite3_bind_int64(find, 1, segment)
        sqlite3_bind_int64(find, 2, Int64(order))
        bindCopiedText(find, 3, key)
        let walk = walker.sqliteStatement
        sqlite3_reset(walk)
        sqlite3_bind_int64(walk, 1, segment)
        sqlite3_bind_int64(walk, 2, Int64(order))
        let code = sqlite3_step(find)
        if code == SQLITE_ROW {
            bindCopiedText(walk, 3, Self.blob(find, 0))
            sqlite3_bind_int64(walk, 4, sqlite3_column_int64(find, 1))
            sqlite3_bind_int64(walk, 5, sqlite3_column_int64(find, 2))
        } else {
            guard code == SQLITE_DONE else { throw HistoryDatabase.failure(code, "reading", db) }
            bindCopiedText(walk, 3, UnsafeRawBufferPointer(start: nil, count: 0))
            sqlite3_bind_int64(walk, 4, .min)
            sqlite3_bind_int64(walk, 5, .min)
        }
        sqlite3_reset(find)
    }
}

/// Groups that are not stored: the tail's.
private final class GroupsInMemory: GroupWalk {
    private let groups: [Segment.Group]
    private var upcoming = 0
    // Of the group that it stands on, at an address that lasts.
    private var group: UnsafeMutableRawBufferPointer
    private var keyCount = 0

    init(_ groups: [Segment.Group]) {
        self.groups = groups
        group = .allocate(byteCount: 0, alignment: 8)
    }

    deinit { group.deallocate() }

    var lastKey: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: group[..<keyCount]) }
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: group[keyCount...]) }

    func close() {}

    func seek(_ key: UnsafeRawBufferPointer) {
        let behind = gallop(from: 0, to: groups.count) { number in
            groups[number].firstKey.withUnsafeBytes { compareBytes($0, key) < 0 }
        }
        upcoming = max(0, behind - 1)
    }

    func next() -> Bool {
        guard upcoming < groups.count else { return false }
        let next = groups[upcoming]
        upcoming += 1
        keyCount = next.lastKey.count
        group.deallocate()
        group = .allocate(byteCount: keyCount + next.bytes.count, alignment: 8)
        group.copyBytes(from: next.lastKey)
        UnsafeMutableRawBufferPointer(rebasing: group[keyCount...]).copyBytes(from: next.bytes)
        return true
    }
}

/// Goes forward through the row groups of one segment.
private final class GroupCursor {
    let segment: KnownSegment
    /// Of the group that it stands on.
    let columns: LeafColumns
    private let chosen: [Int?]
    private let layout: RowGroupLayout
    private let walk: any GroupWalk
    @exclusivity(unchecked) private(set) var group: RowGroup?
    @exclusivity(unchecked) private var keys: TextColumn?
    /// The group's keys, and the next of them.
    @exclusivity(unchecked) private var runs: [TextRun] = []
    @exclusivity(unchecked) private var next = 0
    @exclusivity(unchecked) private var rowCount = 0
    @exclusivity(unchecked) private var isStarted = false
    @exclusivity(unchecked) private var isAtEnd = false
    private var groupCount = 0
    @exclusivity(unchecked) private var isGroupNew = false

    /// One in so many groups is checked.
    private static let checkInterval = 32
    /// So many groups are gone over before the walk is begun anew.
    private static let stepsMax = 8

    /// - Parameter columns: of the layout those that are wanted; nil for one that is not there.
    init(_ segment: KnownSegment, _ walk: any GroupWalk, columns: [Int?]) {
        self.segment = segment
        self.walk = walk
        layout = RowGroupLayout(copying: segment.layout)
        chosen = columns
        self.columns = LeafColumns(columns.count)
    }

    func close() {
        group = nil
        keys = nil
        walk.close()
    }

    /// Whether the group that a run was just found in is one of those whose columns are checked; once for each.
    var isToBeChecked: Bool {
        guard isGroupNew else { return false }
        isGroupNew = false
        return groupCount % Self.checkInterval == 1
    }

    /// Whether the key that it stands behind may go on in another group.
    var isAtGroupEnd: Bool { next == runs.count && !isAtEnd }

    /// No key that is still to come begins with less.
    var nextPrefix: UInt64 {
        if isAtEnd { return .max }
        return next < runs.count ? runs[next].prefix : 0
    }

    /// Whether the group that it stands on, or none, holds what there is of a key from here on.
    func reaches(_ key: UnsafeRawBufferPointer, _ prefix: UInt64) -> Bool {
        if isAtEnd { return true }
        guard let keys, let last = runs.last, next < runs.count else { return false }
        return keys.compare(last, key, prefix) >= 0
    }

    /// The rows of a key in its group with times in `[start, end)`, nil where there are none; it stands behind the key then.
    func takeRows(of key: UnsafeRawBufferPointer, _ prefix: UInt64, from start: Int64, to end: Int64) -> LeafRows? {
        guard let keys else { return nil }
        next = gallop(from: next, to: runs.count) { keys.compare(runs[$0], key, prefix) < 0 }
        guard next < runs.count, keys.compare(runs[next], key, prefix) == 0 else { return nil }
        let first = Int(runs[next].start)
        next += 1
        let rows = columns.rows(first..<(next < runs.count ? Int(runs[next].start) : rowCount), from: start, to: end)
        return rows.rows.isEmpty ? nil : rows
    }

    /// Goes to the next group that holds a key's rows or is behind it.
    func move(to key: UnsafeRawBufferPointer) throws {
        group = nil
        keys = nil
        runs.removeAll(keepingCapacity: true)
        next = 0
        var steps = isStarted ? 0 : Self.stepsMax
        isStarted = true
        repeat {
            if steps == Self.stepsMax { try walk.seek(key) }
            steps += 1
            guard try walk.next() else { return isAtEnd = true }
        } while compareBytes(walk.lastKey, key) < 0
        let opened: RowGroup
        do { opened = try layout.open(walk.bytes) } catch { throw segment.damage(error) }
        guard opened.leaf.count > 0, let texts = opened.leaf.texts(column: RowGroupLayout.key) else {
            throw segment.damage(FormatError("a row group without keys"))
        }
        group = opened
        keys = texts
        rowCount = opened.leaf.count
        texts.findRuns(rowCount, &runs)
        columns.set(opened.leaf, chosen)
        groupCount += 1
        isGroupNew = true
    }
}
