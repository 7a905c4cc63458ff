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
    /// The columns of the groups behind the first four.
    var fields: [String]
    /// View to the number of the order by its key; "" to that of the rows that no view has a key for.
    var orders: [String: Int]
    var identities: IdentityFilter?
    var groups: [Group] = []
}

/// Reads rows of a log and makes a segment of them.
struct SegmentCutter {
    private let table: StreamTable
    private let layout: RowGroupLayout
    private var times: [Int64] = []
    private var sequences = ColumnBuffer(type: .int64)
    private var ingestTimes = ColumnBuffer(type: .int64)
    private var keyHashes = ColumnBuffer(type: .int64)
    private var keys: [ColumnBuffer]
    private var fields: [ColumnBuffer]

    private init(_ table: StreamTable) throws {
        self.table = table
        layout = try RowGroupLayout(table.stream.schema, fields: table.stream.schema.fields.map(\.name))
        keys = table.stream.views.map { _ in ColumnBuffer(type: .text) }
        fields = layout.columns.dropFirst(RowGroupLayout.firstField).map { ColumnBuffer(type: $0.type) }
    }

    /// The segment of the `count` rows after a number; nil where there are fewer.
    static func cut(_ table: StreamTable, after sequence: Int64, count: Int, _ db: Database) throws -> Segment? {
        var cutter = try SegmentCutter(table)
        try cutter.read(after: sequence, count: count, db)
        return cutter.times.count < count ? nil : cutter.segment()
    }

    private mutating func read(after sequence: Int64, count: Int, _ db: Database) throws {
        let statement = try db.cachedStatement(sql: table.segmentSQL)
        try statement.setArguments([sequence, count])
        let handle = statement.sqliteStatement
        defer { sqlite3_reset(handle) }
        let timeField = table.stream.schema.index(of: "event_time")!
        while true {
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
                column += 1
            }
            times.append(fields[timeField].int64s[times.count])
        }
    }

    private func segment() -> Segment {
        var segment = Segment(
            stream: table.stream.name, lastSequence: sequences.int64s[times.count - 1], firstTime: times.min()!, lastTime: times.max()!,
            rows: times.count, fields: table.stream.schema.fields.map(\.name), orders: [:])
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
            segment.orders[view.name] = position
            orders.append((keys[position], position))
            let rows = times.indices.filter { !keys[position].isNull($0) }
            addGroups(keys[position], rows, order: position, to: &segment)
        }
        let keyless = times.indices.filter { row in keys.allSatisfy { $0.isNull(row) } }
        if !keyless.isEmpty {
            segment.orders[""] = keys.count
            let none = ColumnBuffer(textEnds: Array(repeating: 0, count: times.count), textBytes: [], nulls: [])
            addGroups(none, keyless, order: keys.count, to: &segment)
        }
        return segment
    }

    private struct SortKey {
        /// The first eight bytes of the key as a number, in the order of bytes.
        let prefix: UInt64
        let time: Int64
        let row: Int32
        let length: Int32
    }

    private func addGroups(_ keys: ColumnBuffer, _ rows: [Int], order: Int, to segment: inout Segment) {
        var sorted: [SortKey] = []
        sorted.reserveCapacity(rows.count)
        keys.textBytes.withUnsafeBytes { bytes in
            for row in rows {
                let range = keys.textRange(row)
                var prefix: UInt64 = 0
                for byte in bytes[range].prefix(8) { prefix = prefix << 8 | UInt64(byte) }
                if range.count < 8 { prefix <<= UInt64(8 * (8 - range.count)) }
                sorted.append(SortKey(prefix: prefix, time: times[row], row: Int32(row), length: Int32(range.count)))
            }
            sorted.sort { a, b in
                if a.prefix != b.prefix { return a.prefix < b.prefix }
                if a.length > 8 || b.length > 8 {
                    let order = compareBytes(
                        UnsafeRawBufferPointer(rebasing: bytes[keys.textRange(Int(a.row))]),
                        UnsafeRawBufferPointer(rebasing: bytes[keys.textRange(Int(b.row))]))
                    if order != 0 { return order < 0 }
                } else if a.length != b.length {
                    return a.length < b.length
                }
                // Rows are in the order of their numbers.
                return a.time != b.time ? a.time < b.time : a.row < b.row
            }
        }
        func key(_ row: Int) -> [UInt8] { Array(keys.textBytes[keys.textRange(row)]) }
        var group = EventRows(columns: layout.columns)
        var writer = NodeWriter()
        var start = 0
        while start < sorted.count {
            let end = min(start + RowGroupLayout.rows, sorted.count)
            let picked = sorted[start..<end].map { Int($0.row) }
            group.removeAll()
            group.fill(times: picked.map { times[$0] })
            for (column, source) in ([sequences, ingestTimes, keyHashes, keys] + fields).enumerated() {
                group.columns[column].append(source, rows: picked)
            }
            group.encodeLeaf(into: &writer)
            segment.groups.append(
                Segment.Group(
                    order: order, firstKey: key(picked[0]), firstTime: times[picked[0]], lastKey: key(picked[picked.count - 1]),
                    lastTime: times[picked[picked.count - 1]], bytes: RowGroupLayout.seal(writer.bytes)))
            start = end
        }
    }
}

extension ColumnBuffer {
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
