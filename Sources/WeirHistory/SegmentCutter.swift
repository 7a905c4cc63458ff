import GRDB
import GRDBSQLite
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirRecords

/// Rows of a stream's log that came one after another, put in the order of entities: what `weir_segments` and `weir_row_groups` hold.
struct Segment: Sendable {
    struct Group: Sendable {
        var order: Int
        var firstKey: [UInt8]
        var firstTime: Int64
        var lastKey: [UInt8]
        var lastTime: Int64
        var bytes: [UInt8]
    }

    var stream: String
    var lastSequence: Int64
    var firstTime: Int64
    var lastTime: Int64
    var rows: Int
    /// Of the rows' fields.
    var textBytes: Int
    /// The columns of the groups behind the first four.
    var fields: [String]
    /// View to the number of the order by its key; "" to that of the rows that no view has a key for.
    var orders: [String: Int]
    var identities: IdentityFilter?
    var groups: [Group] = []
}

/// Collects rows of a log, read from it or as they were accepted, and makes a segment of them.
struct SegmentCutter: Sendable {
    private let table: StreamTable
    private let layout: RowGroupLayout
    private var times: [Int64] = []
    private var sequences = ColumnBuffer(type: .int64)
    private var ingestTimes = ColumnBuffer(type: .int64)
    private var keyHashes = ColumnBuffer(type: .int64)
    private var keys: [ColumnBuffer]
    private var fields: [ColumnBuffer]
    private let timeField: Int
    /// Of texts, the rest is small.
    private var bytes = 0

    init(_ table: StreamTable) throws {
        self.table = table
        layout = try RowGroupLayout(table.stream.schema, fields: table.stream.schema.fields.map(\.name))
        timeField = table.stream.schema.index(of: "event_time")!
        keys = table.stream.views.map { _ in ColumnBuffer(type: .text) }
        fields = layout.columns.dropFirst(RowGroupLayout.firstField).map { ColumnBuffer(type: $0.type) }
    }

    /// The segment of the first rows after a number; nil where there are none.
    ///
    /// - Parameters:
    ///   - bytesMax: of texts, from which on no further row is taken.
    ///   - view: whose order alone is wanted; nil: all of them, and the identities.
    static func cut(
        _ table: StreamTable, after sequence: Int64, rowsMax: Int, bytesMax: Int, view: Int? = nil, _ db: Database
    ) throws -> Segment? {
        var cutter = try SegmentCutter(table)
        try cutter.read(after: sequence, rowsMax: rowsMax, bytesMax: bytesMax, db)
        if cutter.times.isEmpty { return nil }
        return view.map { cutter.segment(inOrderOf: $0) } ?? cutter.segment()
    }

    var count: Int { times.count }

    /// The number of the last row.
    var lastSequence: Int64? { sequences.int64s.last }

    /// Takes rows as they were accepted, behind those that it has.
    mutating func append(_ accepted: AcceptedBatch, _ incoming: IncomingBatch) {
        let batch = accepted.batch
        let records = batch.records
        let width = records.schema.fields.count
        for (position, row) in accepted.rows.enumerated() {
            sequences.append(int64: accepted.firstSequence + Int64(position))
            ingestTimes.append(int64: incoming.ingestTimes?[batch.recordRows[row]] ?? incoming.ingestTime)
            keyHashes.append(int64: Int64(bitPattern: batch.keyHashes[row]))
        }
        for view in keys.indices { keys[view].append(batch.views[view].keys, rows: accepted.rows) }
        let before = fields.reduce(0) { $0 + $1.textBytes.count }
        records.cells.withUnsafeBufferPointer { cells in
            records.bytes.withUnsafeBytes { bytes in
                for field in fields.indices {
                    for row in accepted.rows { fields[field].append(cells[batch.recordRows[row] * width + field], bytes) }
                }
            }
        }
        bytes += fields.reduce(0) { $0 + $1.textBytes.count } - before
        times.append(batch.times, rows: accepted.rows)
    }

    private mutating func read(after sequence: Int64, rowsMax: Int, bytesMax: Int, _ db: Database) throws {
        let statement = try db.cachedStatement(sql: table.segmentSQL)
        try statement.setArguments([sequence, rowsMax])
        let handle = statement.sqliteStatement
        defer { sqlite3_reset(handle) }
        while bytes < bytesMax {
            let code = sqlite3_step(handle)
            if code == SQLITE_DONE { return }
            guard code == SQLITE_ROW else { throw HistoryDatabase.failure(code, "reading", db) }
            sequences.append(int64: sqlite3_column_int64(handle, 0))
            ingestTimes.append(int64: sqlite3_column_int64(handle, 1))
            keyHashes.append(int64: sqlite3_column_int64(handle, 2))
            var column: Int32 = 3
            for index in keys.indices {
                keys[index].append(.text, handle, column)
                column += 1
            }
            for index in fields.indices {
                fields[index].append(fields[index].type, handle, column)
                if fields[index].type == .text { bytes += Int(sqlite3_column_bytes(handle, column)) }
                column += 1
            }
            times.append(fields[timeField].int64s[times.count])
        }
    }

    private var empty: Segment {
        Segment(
            stream: table.stream.name, lastSequence: sequences.int64s[times.count - 1], firstTime: times.min()!, lastTime: times.max()!,
            rows: times.count, textBytes: bytes, fields: table.stream.schema.fields.map(\.name), orders: [:])
    }

    private func segment(inOrderOf view: Int) -> Segment {
        var segment = empty
        addOrder(of: view, to: &segment)
        return segment
    }

    func segment() -> Segment {
        var segment = empty
        if let idField = table.idField {
            var filter = IdentityFilter(rows: times.count)
            for row in times.indices {
                let keyHash = UInt64(bitPattern: keyHashes.int64s[row])
                filter.insert(fields[idField].withID(row) { IdentityFilter.hash(time: times[row], id: $0, keyHash: keyHash) })
            }
            segment.identities = filter
        }
        var orders: [(keys: ColumnBuffer, number: Int)] = []
        for (position, view) in table.stream.views.enumerated() {
            if let known = orders.first(where: { $0.keys.isSame(as: keys[position]) }) {
                segment.orders[view.name] = known.number
                continue
            }
            orders.append((keys[position], position))
            addOrder(of: position, to: &segment)
        }
        let isKeyed = times.indices.map { row in keys.contains { !$0.isNull(row) } }
        if isKeyed.contains(false) {
            segment.orders[""] = keys.count
            let none = ColumnBuffer(textEnds: Array(repeating: 0, count: times.count), textBytes: [], nulls: isKeyed)
            addGroups(none, KeyOrder(0..<times.count, keys: none, times: times).rows, order: keys.count, to: &segment)
        }
        return segment
    }

    private func addOrder(of view: Int, to segment: inout Segment) {
        segment.orders[table.stream.views[view].name] = view
        addGroups(keys[view], KeyOrder(0..<times.count, keys: keys[view], times: times).rows, order: view, to: &segment)
    }

    /// - Parameter sorted: rows in the order of the keys.
    private func addGroups(_ keys: ColumnBuffer, _ sorted: [Int], order: Int, to segment: inout Segment) {
        func key(_ row: Int) -> [UInt8] { Array(keys.textBytes[keys.textRange(row)]) }
        var group = EventRows(columns: layout.columns)
        var writer = NodeWriter()
        var start = 0
        while start < sorted.count {
            let end = min(start + RowGroupLayout.rows, sorted.count)
            let picked = Array(sorted[start..<end])
            group.removeAll()
            group.fill(times: picked.map { times[$0] })
            for (column, source) in ([sequences, ingestTimes, keyHashes, keys] + fields).enumerated() {
                group.columns[column].append(source, rows: picked)
            }
            writer.clear()
            group.encodeLeaf(0..<group.count, into: &writer)
            segment.groups.append(
                Segment.Group(
                    order: order, firstKey: key(picked[0]), firstTime: times[picked[0]], lastKey: key(picked[picked.count - 1]),
                    lastTime: times[picked[picked.count - 1]], bytes: RowGroupLayout.seal(writer.bytes)))
            start = end
        }
    }
}

extension ColumnBuffer {
    /// Appends a cell of this column's type.
    fileprivate mutating func append(_ cell: Cell, _ bytes: UnsafeRawBufferPointer) {
        switch cell {
        case .null: appendNull()
        case .int64(let value), .time(let value): append(int64: value)
        case .float64(let value): append(float64: value)
        case .bool(let value): append(int64: value ? 1 : 0)
        case .text(let start, let count): append(text: UnsafeRawBufferPointer(rebasing: bytes[start..<start + count]))
        }
    }

    /// Appends a column of the row that a statement stands on.
    mutating func append(_ type: ColumnType, _ handle: OpaquePointer, _ column: Int32) {
        switch sqlite3_column_type(handle, column) {
        case SQLITE_NULL: appendNull()
        default:
            switch type {
            case .int64, .bool: append(int64: sqlite3_column_int64(handle, column))
            case .float64: append(float64: sqlite3_column_double(handle, column))
            case .text:
                append(
                    text: UnsafeRawBufferPointer(
                        start: sqlite3_column_text(handle, column), count: Int(sqlite3_column_bytes(handle, column))))
            }
        }
    }

    /// An id as text, whether it is text or an integer.
    func withID<R>(_ row: Int, _ body: (UnsafeRawBufferPointer) -> R) -> R {
        if type == .text { return withText(row, body) }
        var text = String(int64s[row])
        return text.withUTF8 { body(UnsafeRawBufferPointer($0)) }
    }

    /// Whether two columns of text have the same values.
    func isSame(as other: ColumnBuffer) -> Bool { textEnds == other.textEnds && textBytes == other.textBytes && nulls == other.nulls }
}
