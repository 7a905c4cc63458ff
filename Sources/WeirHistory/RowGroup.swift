import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirRecords

// A row group holds some hundred events of a stream, sorted by one view's key and then by event time and number, packed by column
// as a leaf is (docs/FORMATS.md): event times; no ids, tags and filter bits; then the columns below. Its XXH64 stands before it.

/// The columns of a stream's row groups.
final class RowGroupLayout: Sendable {
    static let sequence = 0
    static let ingestTime = 1
    static let keyHash = 2
    static let key = 3
    static let firstField = 4
    /// Rows of one group: enough for columns to pack well, few enough to be read for one entity.
    static let rows = 256

    let schema: RecordSchema
    let columns: [ViewPlan.Column]
    /// For each field of the schema its column; nil for one that the event did not have when the group was made.
    let fieldColumns: [Int?]

    /// - Parameter fields: those that the groups have, in their order.
    init(_ schema: RecordSchema, fields: [String]) throws(HistoryError) {
        self.schema = schema
        var columns = [
            ViewPlan.Column(signature: "_seq", type: .int64), ViewPlan.Column(signature: "_ingest_time", type: .int64),
            ViewPlan.Column(signature: "_key_hash", type: .int64), ViewPlan.Column(signature: "_key", type: .text),
        ]
        for name in fields {
            guard let index = schema.index(of: name) else {
                throw HistoryError("the stream '\(schema.name)' has no field '\(name)' any more, which the history has")
            }
            columns.append(ViewPlan.Column(signature: name, type: schema.fields[index].type.columnType))
        }
        self.columns = columns
        fieldColumns = schema.fields.map { field in fields.firstIndex(of: field.name).map { Self.firstField + $0 } }
    }

    /// An object of its own: threads that share one wait for each other with each reference that they take.
    init(copying other: RowGroupLayout) {
        schema = other.schema
        columns = other.columns
        fieldColumns = other.fieldColumns
    }

    func open(_ bytes: UnsafeRawBufferPointer) throws(FormatError) -> RowGroup {
        var reader = ByteReader(bytes)
        let hash = try reader.read(UInt64.self)
        let leaf = try reader.readRaw(reader.remaining)
        guard StableHash.xxh64(leaf) == hash else { throw FormatError("a checksum does not fit") }
        return RowGroup(layout: self, leaf: try LeafView(leaf, columns: columns))
    }

    static func seal(_ leaf: UnsafeRawBufferPointer) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(leaf.count + 8)
        withUnsafeBytes(of: StableHash.xxh64(leaf).littleEndian) { bytes.append(contentsOf: $0) }
        bytes.append(contentsOf: leaf)
        return bytes
    }
}

/// A row group, read in place.
struct RowGroup {
    let layout: RowGroupLayout
    let leaf: LeafView

    /// The rows of a key; empty where it has none.
    func rows(ofKey key: UnsafeRawBufferPointer) -> Range<Int> {
        // The first row whose key is not before (or, with `isAfter`, is behind) the one that is looked for.
        func bound(isAfter: Bool) -> Int {
            var low = 0
            var high = leaf.count
            while low < high {
                let middle = (low + high) / 2
                let order = leaf.withText(middle, column: RowGroupLayout.key) { compareBytes($0, key) }
                if order < 0 || (isAfter && order == 0) { low = middle + 1 } else { high = middle }
            }
            return low
        }
        let start = bound(isAfter: false)
        return start..<max(start, bound(isAfter: true))
    }

    /// The first of a key's rows at or after a time.
    func lowerBound(_ rows: Range<Int>, time: Int64) -> Int {
        var low = rows.lowerBound
        var high = rows.upperBound
        while low < high {
            let middle = (low + high) / 2
            if leaf.time(middle) < time { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// Appends a row as a record.
    func append(_ row: Int, to records: inout RecordBatch) {
        let start = records.bytes.count
        for field in layout.schema.fields.indices { records.cells.append(cell(row, field: field, &records.bytes)) }
        records.rows.append(.init(raw: start..<start, offset: sequence(row)))
    }

    /// Appends a field's cells of some rows to a column of its type.
    func append(field: Int, _ rows: Range<Int>, to column: inout ColumnBuffer) {
        guard let source = layout.fieldColumns[field] else {
            for _ in rows { column.appendNull() }
            return
        }
        leaf.append(column: source, rows, to: &column)
    }

    func sequence(_ row: Int) -> Int64 { leaf.int64(row, column: RowGroupLayout.sequence) }
    func ingestTime(_ row: Int) -> Int64 { leaf.int64(row, column: RowGroupLayout.ingestTime) }
    func keyHash(_ row: Int) -> UInt64 { UInt64(bitPattern: leaf.int64(row, column: RowGroupLayout.keyHash)) }

    func cell(_ row: Int, field: Int, _ bytes: inout [UInt8]) -> Cell {
        guard let column = layout.fieldColumns[field], !leaf.isNull(row, column: column) else { return .null }
        switch layout.schema.fields[field].type {
        case .int64: return .int64(leaf.int64(row, column: column))
        case .time: return .time(leaf.int64(row, column: column))
        case .bool: return .bool(leaf.int64(row, column: column) != 0)
        case .float64: return .float64(leaf.float64(row, column: column))
        case .text, .json:
            return leaf.withText(row, column: column) { text in
                let start = bytes.count
                bytes.append(contentsOf: text)
                return .text(start: start, count: text.count)
            }
        }
    }

}

extension FieldType {
    fileprivate var columnType: ColumnType {
        switch self {
        case .int64, .time: .int64
        case .float64: .float64
        case .bool: .bool
        case .text, .json: .text
        }
    }
}

/// Which identities may be among a segment's: never wrong about one that is, wrong about one in some hundred that is not
/// (B. H. Bloom, "Space/time trade-offs in hash coding with allowable errors", 1970).
struct IdentityFilter: Sendable {
    private(set) var bytes: [UInt8]
    private static let probes: UInt64 = 5

    init(rows: Int) { bytes = Array(repeating: 0, count: max(8, rows * 10 / 8)) }

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    private func bit(_ hash: UInt64, _ probe: UInt64) -> Int {
        Int((hash &+ probe &* (hash >> 32 | 1)) % UInt64(bytes.count * 8))
    }

    mutating func insert(_ hash: UInt64) {
        for probe in 0..<Self.probes {
            let bit = bit(hash, probe)
            bytes[bit / 8] |= 1 << UInt8(bit % 8)
        }
    }

    func mayContain(_ hash: UInt64) -> Bool {
        if bytes.isEmpty { return true }
        return (0..<Self.probes).allSatisfy { probe in
            let bit = bit(hash, probe)
            return bytes[bit / 8] & (1 << UInt8(bit % 8)) != 0
        }
    }

    /// Of event time, id and the hash of the keys.
    static func hash(time: Int64, id: UnsafeRawBufferPointer, keyHash: UInt64) -> UInt64 {
        StableHash.xxh64(StableHash.xxh64(id) ^ (UInt64(bitPattern: time) &* 0x9E37_79B1_85EB_CA87) ^ keyHash)
    }
}
