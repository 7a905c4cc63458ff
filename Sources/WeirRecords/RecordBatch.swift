import WeirAlgebra

/// One field of one record. Text points into the batch's `bytes`.
public enum Cell: Sendable, Hashable {
    /// The field is absent or null.
    case null
    case int64(Int64)
    case float64(Double)
    case bool(Bool)
    /// Microseconds.
    case time(Int64)
    /// UTF-8 (validated), also for `json` fields, as a slice of `bytes`.
    case text(start: Int, count: Int)
}

/// Records of one stream in source order: typed cells of the well-formed ones, the malformed ones with their reasons.
///
/// `bytes` begins with the raw source bytes of the batch; texts that had to be unescaped are appended behind.
public struct RecordBatch: Sendable {
    public struct Row: Sendable, Hashable {
        /// Where the record's raw bytes stand in `bytes`.
        public var raw: Range<Int>
        /// Where the record begins in its source (byte offset in a file or push log, offset in a partition).
        public var offset: Int64

        public init(raw: Range<Int>, offset: Int64) {
            self.raw = raw
            self.offset = offset
        }
    }

    public struct Malformed: Sendable, Hashable {
        public var raw: Range<Int>
        public var offset: Int64
        /// What is wrong, where, and what would be right.
        public var reason: String

        public init(raw: Range<Int>, offset: Int64, reason: String) {
            self.raw = raw
            self.offset = offset
            self.reason = reason
        }
    }

    public let schema: RecordSchema
    public var bytes: [UInt8] = []
    /// `rows.count × schema.fields.count` cells, row by row.
    public var cells: [Cell] = []
    public var rows: [Row] = []
    public var malformed: [Malformed] = []

    public init(schema: RecordSchema) {
        self.schema = schema
    }

    /// Empties it; its memory stays.
    mutating func removeAll() {
        bytes.removeAll(keepingCapacity: bytes.capacity <= 1 << 16)
        cells.removeAll(keepingCapacity: true)
        rows.removeAll(keepingCapacity: true)
        malformed.removeAll()
    }

    @inlinable public func cell(row: Int, field: Int) -> Cell { cells[row * schema.fields.count + field] }

    public func withText<R>(start: Int, count: Int, _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try bytes.withUnsafeBytes { try body(UnsafeRawBufferPointer(rebasing: $0[start..<start + count])) }
    }

    public func string(start: Int, count: Int) -> String {
        withText(start: start, count: count) { String(decoding: $0, as: UTF8.self) }
    }
}

/// Why a record is malformed: what, in which field, and what would be right.
public struct RecordError: Error, Hashable, CustomStringConvertible {
    public var field: String?
    public var reason: String

    public init(field: String? = nil, _ reason: String) {
        self.field = field
        self.reason = reason
    }

    public var description: String { field.map { "field '\($0)': \(reason)" } ?? reason }
}
