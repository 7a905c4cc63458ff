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
}

/// Rows of a stream that are in no segment, in the order of a view's keys.
package final class TailRows: Sendable {
    let rows: EventRows
    let ingestTimes: [Int64]
    let keys: ColumnBuffer

    init(rows: EventRows, ingestTimes: [Int64], keys: ColumnBuffer) {
        self.rows = rows
        self.ingestTimes = ingestTimes
        self.keys = keys
    }
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

    /// The rows of a snapshot that are in none of its segments.
    package func tail(of view: ViewPlan, _ snapshot: HistorySnapshot) throws -> TailRows {
        let table = try table(view.stream)
        let position = table.stream.viewIndex(view.name)!
        return try read { db in
            var rows = EventRows(columns: view.columns)
            var keys = ColumnBuffer(type: .text)
            var sequences: [Int64] = []
            var collector = RowCollector(table: table, view: position) { batch in
                for row in 0..<batch.count where !batch.views[position].keys.isNull(row) {
                    rows.append(batch, view: position, row: row)
                    keys.append(batch.views[position].keys, row: row)
                    sequences.append(batch.records.rows[batch.recordRows[row]].offset)
                }
            }
            let after = snapshot.segments[view.stream]?.last?.lastSequence ?? 0
            let statement = try db.makeStatement(
                sql: "SELECT \(table.selectList), _ingest_time FROM \(table.name) WHERE _seq > ? AND _seq <= ? ORDER BY _seq")
            try statement.setArguments([after, snapshot.lastSequence])
            let handle = statement.sqliteStatement
            let timeColumn = Int32(2 + table.stream.schema.fields.count)
            var ingestTimeOf: [Int64: Int64] = [:]
            while true {
                let code = sqlite3_step(handle)
                if code == SQLITE_DONE { break }
                guard code == SQLITE_ROW else { throw HistoryDatabase.failure(code, "reading", db) }
                ingestTimeOf[sqlite3_column_int64(handle, 0)] = sqlite3_column_int64(handle, timeColumn)
                try collector.append(handle)
            }
            try collector.finish()
            let order = KeyOrder.rows(0..<rows.count, keys: keys, times: rows.times)
            var sortedRows = EventRows(columns: view.columns)
            sortedRows.append(rows, rows: order)
            var sortedKeys = ColumnBuffer(type: .text)
            sortedKeys.append(keys, rows: order)
            return TailRows(rows: sortedRows, ingestTimes: order.map { ingestTimeOf[sequences[$0]] ?? 0 }, keys: sortedKeys)
        }
    }

    /// Reads entities in ascending order of their keys, within one transaction.
    ///
    /// - Throws: `ColumnsAreNotPlain` where the source is wrong about the columns.
    package func scanEntities<R>(
        of view: ViewPlan, _ projection: EntityProjection, _ source: ColumnSource, _ snapshot: HistorySnapshot, _ tail: TailRows,
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
package final class EntityScan {
    private let table: StreamTable
    private let view: ViewPlan
    private let position: Int
    private let projection: EntityProjection
    private let source: ColumnSource
    private let snapshot: HistorySnapshot
    private let tail: TailRows
    private var tailRow = 0
    private var cursors: [GroupCursor] = []
    private var block: EntityBlock
    /// Where events are decoded: what they are decoded from.
    private var records: RecordBatch
    private var keyHashes: [UInt64] = []
    /// And rows of the tail, which are decoded already.
    private var tailRows: [(entity: Int, row: Int)] = []
    private var isInOrder = true

    init(
        table: StreamTable, view: ViewPlan, _ projection: EntityProjection, _ source: ColumnSource, _ snapshot: HistorySnapshot,
        _ tail: TailRows, _ db: Database
    ) throws {
        self.table = table
        self.view = view
        self.projection = projection
        self.source = source
        self.snapshot = snapshot
        self.tail = tail
        position = table.stream.viewIndex(view.name)!
        block = EntityBlock(rows: EventRows(columns: view.columns))
        records = RecordBatch(schema: table.stream.schema)
        let known = Set(try Int64.fetchAll(db, sql: "SELECT number FROM weir_segments WHERE stream = ?", arguments: [view.stream]))
        for segment in snapshot.segments[view.stream] ?? [] {
            guard known.contains(segment.number) else {
                throw HistoryError("segments of '\(view.stream)' were deleted from the history while it was being read; start again")
            }
            cursors.append(try GroupCursor(segment, order: try segment.order(of: view), db))
        }
    }

    func close() { for cursor in cursors { cursor.close() } }

    /// How many rows were read since the block was taken last.
    package var pendingRows: Int { max(block.rows.count, records.rows.count) }

    /// Appends an entity's rows with event times in `[start, end)` to the block.
    ///
    /// - Parameter key: not before that of the last call.
    package func read(_ key: UnsafeRawBufferPointer, from start: Int64, to end: Int64) throws {
        let first = block.ends.last ?? 0
        let prefix = firstBytes(key)
        if start < end {
            for cursor in cursors where cursor.segment.firstTime < end && cursor.segment.lastTime >= start {
                try cursor.forEachRun(key, prefix) { group, range in
                    if cursor.isToBeChecked() { try check(group) }
                    let rows = group.lowerBound(range, time: start)..<group.lowerBound(range, time: end)
                    if cursor.segment.lastSequence <= snapshot.lastSequence {
                        if !rows.isEmpty { try append(group, rows) }
                    } else {
                        for row in rows where group.sequence(row) <= snapshot.lastSequence { try append(group, row..<row + 1) }
                    }
                }
            }
            try appendTail(key, from: start, to: end)
        }
        block.ends.append(source.isPlain ? block.rows.count : records.rows.count)
        if source.isPlain, isInOrder, block.rows.count - first > 1 {
            for row in first + 1..<block.rows.count where isInOrder {
                let (a, b) = (block.rows.times[row - 1], block.rows.times[row])
                isInOrder = a < b || (a == b && (!projection.identities || !block.rows.precedes(row, row - 1)))
            }
        }
    }

    private func append(_ group: RowGroup, _ rows: Range<Int>) throws {
        guard let fields = source.fields else {
            for row in rows {
                group.append(row, to: &records)
                keyHashes.append(group.keyHash(row))
                block.ingestTimes.append(group.ingestTime(row))
            }
            return
        }
        for row in rows { block.rows.times.append(group.leaf.time(row)) }
        for (column, field) in fields { group.append(field: field, rows, to: &block.rows.columns[column]) }
        if projection.ingestTimes { for row in rows { block.ingestTimes.append(group.ingestTime(row)) } }
        if projection.identities {
            for row in rows { appendIdentity(group, row) }
        }
    }

    private func appendIdentity(_ group: RowGroup, _ row: Int) {
        block.rows.tags.append(table.stream.views.count > 1 ? UInt32(truncatingIfNeeded: group.keyHash(row)) : 0)
        guard let idField = table.idField, let column = group.layout.fieldColumns[idField] else {
            return withUnsafeBytes(of: group.sequence(row).bigEndian) { block.rows.ids.append(text: $0) }
        }
        if group.layout.columns[column].type == .text {
            group.leaf.withText(row, column: column) { block.rows.ids.append(text: $0) }
        } else {
            block.rows.ids.append(decimal: group.leaf.int64(row, column: column))
        }
    }

    private func appendTail(_ key: UnsafeRawBufferPointer, from start: Int64, to end: Int64) throws {
        let keys = tail.keys
        tailRow = gallop(from: tailRow, to: keys.count) { row in keys.withText(row) { compareBytes($0, key) < 0 } }
        var row = tailRow
        while row < keys.count, keys.withText(row, { compareBytes($0, key) == 0 }) {
            if start <= tail.rows.times[row], tail.rows.times[row] < end {
                if source.isPlain { appendTailRow(row) } else { tailRows.append((block.ends.count, row)) }
            }
            row += 1
        }
    }

    private func appendTailRow(_ row: Int) {
        block.rows.times.append(tail.rows.times[row])
        for column in projection.columns { block.rows.columns[column].append(tail.rows.columns[column], row: row) }
        if projection.ingestTimes { block.ingestTimes.append(tail.ingestTimes[row]) }
        if projection.identities {
            block.rows.tags.append(tail.rows.tags[row])
            block.rows.ids.append(tail.rows.ids, row: row)
        }
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

    /// The entities that were read since the last call; its memory is free for the next ones.
    package func take() throws -> EntityBlock {
        if !source.isPlain { try decode() }
        var taken = block
        if !isInOrder { taken = ordered(block) }
        block = EntityBlock(rows: EventRows(columns: view.columns))
        isInOrder = true
        return taken
    }

    private func decode() throws {
        var rows = EventRows(columns: view.columns)
        var batch = table.stream.prepare(records, view: position, keyHashes: keyHashes)
        guard batch.records.malformed.isEmpty, batch.count == records.rows.count else {
            throw HistoryError(
                "an event of '\(table.stream.name)' in the history does not decode any more: \(batch.records.malformed.first?.reason ?? "")"
            )
        }
        if !table.stream.hasIDs {
            batch.assignSequenceIDs(rows: Array(0..<batch.count), sequences: records.rows.map(\.offset))
        }
        let ends = block.ends
        let ingestTimes = block.ingestTimes
        block.ends = []
        block.ingestTimes = []
        var next = 0
        var tailNext = 0
        for (entity, end) in ends.enumerated() {
            while next < end {
                rows.append(batch, view: position, row: next)
                block.ingestTimes.append(ingestTimes[next])
                next += 1
            }
            while tailNext < tailRows.count, tailRows[tailNext].entity == entity {
                rows.append(tail.rows, row: tailRows[tailNext].row)
                block.ingestTimes.append(tail.ingestTimes[tailRows[tailNext].row])
                tailNext += 1
            }
            block.ends.append(rows.count)
        }
        block.rows = rows
        records = RecordBatch(schema: table.stream.schema)
        keyHashes = []
        tailRows = []
        isInOrder = false
    }

    private func ordered(_ block: EntityBlock) -> EntityBlock {
        var order: [Int] = []
        order.reserveCapacity(block.rows.count)
        let rows = block.rows
        let hasIdentities = projection.identities || !source.isPlain
        for entity in block.ends.indices {
            order += block.range(entity).sorted { a, b in
                if rows.times[a] != rows.times[b] { return rows.times[a] < rows.times[b] }
                return hasIdentities ? rows.precedes(a, b) : a < b
            }
        }
        var result = EntityBlock(rows: EventRows(columns: view.columns))
        result.rows.appendProjected(rows, rows: order)
        if !block.ingestTimes.isEmpty { result.ingestTimes = order.map { block.ingestTimes[$0] } }
        result.ends = block.ends
        return result
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

/// The first row that is not before what is looked for; it mostly is near.
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

/// Goes forward through the row groups of one segment.
private final class GroupCursor {
    let segment: KnownSegment
    private let layout: RowGroupLayout
    private let order: Int
    private let find: Statement
    private let walk: Statement
    private let db: Database
    /// The group that the walk stands on, its next row, and what that row's key begins with.
    private var group: RowGroup?
    private var keys: TextColumn?
    private var count = 0
    private var row = 0
    private var prefix: UInt64 = 0
    private var isStarted = false
    private var isAtEnd = false
    private var groupCount = 0
    private var isGroupNew = false

    /// One in so many groups is checked.
    private static let checkInterval = 32
    /// So many groups are gone over before the walk is begun anew.
    private static let stepsMax = 8

    init(_ segment: KnownSegment, order: Int, _ db: Database) throws {
        self.segment = segment
        layout = RowGroupLayout(copying: segment.layout)
        self.order = order
        self.db = db
        find = try db.makeStatement(
            sql: """
                SELECT first_key, first_time, number FROM weir_row_groups
                WHERE segment = ? AND "order" = ? AND first_key < ? ORDER BY first_key DESC, first_time DESC, number DESC LIMIT 1
                """)
        walk = try db.makeStatement(
            sql: """
                SELECT last_key, rows FROM weir_row_groups
                WHERE segment = ? AND "order" = ? AND (first_key, first_time, number) >= (?, ?, ?)
                ORDER BY first_key, first_time, number
                """)
    }

    func close() {
        sqlite3_reset(find.sqliteStatement)
        sqlite3_reset(walk.sqliteStatement)
        group = nil
        keys = nil
    }

    /// Whether the group that a run was just found in is one of those whose columns are checked; once for each.
    func isToBeChecked() -> Bool {
        guard isGroupNew else { return false }
        isGroupNew = false
        return groupCount % Self.checkInterval == 1
    }

    /// Hands over the rows of a key, group by group.
    func forEachRun(_ key: UnsafeRawBufferPointer, _ keyPrefix: UInt64, _ body: (RowGroup, Range<Int>) throws -> Void) throws {
        if isAtEnd || (keys != nil && prefix > keyPrefix) { return }
        while let keys = try keys(reaching: key) {
            let start = gallop(from: row, to: count) { keys.compare($0, key) < 0 }
            var end = start
            while end < count, keys.compare(end, key) == 0 { end += 1 }
            row = end
            if end < count { prefix = keys.firstBytes(end) }
            if start < end, let group { try body(group, start..<end) }
            // The key's rows may go on in the next group.
            if end < count { return }
        }
    }

    /// The keys of the group that holds a key's rows, or of the first behind it; nil where the segment ends before the key.
    private func keys(reaching key: UnsafeRawBufferPointer) throws -> TextColumn? {
        if isAtEnd { return nil }
        if let keys, row < count {
            if lastKeyReaches(key) { return keys }
        } else if !isStarted {
            try seek(key)
        }
        let handle = walk.sqliteStatement
        var steps = 0
        while true {
            if steps == Self.stepsMax { try seek(key) }
            steps += 1
            group = nil
            keys = nil
            let code = sqlite3_step(handle)
            if code == SQLITE_DONE {
                isAtEnd = true
                return nil
            }
            guard code == SQLITE_ROW else { throw HistoryDatabase.failure(code, "reading", db) }
            guard lastKeyReaches(key) else { continue }
            let bytes = UnsafeRawBufferPointer(start: sqlite3_column_blob(handle, 1), count: Int(sqlite3_column_bytes(handle, 1)))
            let opened: RowGroup
            do { opened = try layout.open(bytes) } catch { throw segment.damage(error) }
            guard opened.leaf.count > 0, let texts = opened.leaf.texts(column: RowGroupLayout.key) else {
                throw segment.damage(FormatError("a row group without keys"))
            }
            group = opened
            keys = texts
            count = opened.leaf.count
            groupCount += 1
            isGroupNew = true
            row = 0
            prefix = texts.firstBytes(0)
            return texts
        }
    }

    private func lastKeyReaches(_ key: UnsafeRawBufferPointer) -> Bool {
        let handle = walk.sqliteStatement
        let last = UnsafeRawBufferPointer(start: sqlite3_column_blob(handle, 0), count: Int(sqlite3_column_bytes(handle, 0)))
        return compareBytes(last, key) >= 0
    }

    /// Begins the walk with the last group that begins before a key.
    private func seek(_ key: UnsafeRawBufferPointer) throws {
        isStarted = true
        group = nil
        keys = nil
        let finder = find.sqliteStatement
        sqlite3_reset(finder)
        sqlite3_bind_int64(finder, 1, segment.number)
        sqlite3_bind_int64(finder, 2, Int64(order))
        bindCopiedText(finder, 3, key)
        let walker = walk.sqliteStatement
        sqlite3_reset(walker)
        sqlite3_bind_int64(walker, 1, segment.number)
        sqlite3_bind_int64(walker, 2, Int64(order))
        let code = sqlite3_step(finder)
        if code == SQLITE_ROW {
            let first = UnsafeRawBufferPointer(start: sqlite3_column_blob(finder, 0), count: Int(sqlite3_column_bytes(finder, 0)))
            bindCopiedText(walker, 3, first)
            sqlite3_bind_int64(walker, 4, sqlite3_column_int64(finder, 1))
            sqlite3_bind_int64(walker, 5, sqlite3_column_int64(finder, 2))
        } else {
            guard code == SQLITE_DONE else { throw HistoryDatabase.failure(code, "reading", db) }
            bindCopiedText(walker, 3, UnsafeRawBufferPointer(start: nil, count: 0))
            sqlite3_bind_int64(walker, 4, .min)
            sqlite3_bind_int64(walker, 5, .min)
        }
        sqlite3_reset(finder)
    }
}
