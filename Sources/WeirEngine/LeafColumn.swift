import WeirAlgebra
import WeirDefinitions

/// What one fold needs of a stored leaf, read in place: the rows' times, one column, and ids, tags and filter bits where they are asked for.
/// Finding them takes no allocation, which `LeafView` does for its columns.
///
/// It borrows the memory that it was made from and must not outlive it.
struct LeafColumn: RowAccess {
    let count: Int
    let times: LeafView.Integers
    private var ids: LeafView.Texts?
    private var tags: LeafView.Integers?
    private var filters: LeafView.Integers?
    let column: LeafView.Column?

    /// - Parameter column: nil for none; the row functions' own `column` is not looked at.
    /// - Throws: `FormatError` for bytes that are no leaf of this view.
    init(
        _ bytes: UnsafeRawBufferPointer, columns: [ViewPlan.Column], column number: Int? = nil, identities: Bool = false,
        filters hasFilters: Bool = false
    ) throws(FormatError) {
        var reader = ByteReader(bytes)
        count = try LeafView.readHeader(&reader, columns: columns.count)
        times = try LeafView.Integers(section: LeafView.RawSection(&reader, rows: count), rows: count)
        if identities {
            ids = try LeafView.Texts(section: LeafView.RawSection(&reader, rows: count), rows: count)
            tags = try LeafView.Integers(section: LeafView.RawSection(&reader, rows: count), rows: count)
        } else if hasFilters || number != nil {
            try LeafView.RawSection.skip(&reader)
            try LeafView.RawSection.skip(&reader)
        }
        if hasFilters {
            filters = try LeafView.Integers(section: LeafView.RawSection(&reader, rows: count), rows: count)
        } else if number != nil {
            try LeafView.RawSection.skip(&reader)
        }
        guard let number else {
            column = nil
            return
        }
        for _ in 0..<number { try LeafView.RawSection.skip(&reader) }
        column = try LeafView.Column(LeafView.RawSection(&reader, rows: count), type: columns[number].type, rows: count)
    }

    func time(_ row: Int) -> Int64 { times[row] }
    func tag(_ row: Int) -> UInt32 { tags.map { UInt32(truncatingIfNeeded: $0[row]) } ?? 0 }
    func filterBits(_ row: Int) -> UInt64 { filters.map { UInt64(bitPattern: $0[row]) } ?? 0 }
    func withID<R>(_ row: Int, _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        guard let ids else { return try body(UnsafeRawBufferPointer(start: nil, count: 0)) }
        return try ids.with(row, body)
    }
    func isNull(_ row: Int, column: Int) -> Bool { self.column?.isNull(row) ?? false }
    func int64(_ row: Int, column: Int) -> Int64 { self.column?.int64(row) ?? 0 }
    func float64(_ row: Int, column: Int) -> Double { self.column?.float64(row) ?? 0 }
    func withText<R>(_ row: Int, column: Int, _ body: (UnsafeRawBufferPointer) -> R) -> R {
        guard let column = self.column else { return body(UnsafeRawBufferPointer(start: nil, count: 0)) }
        return column.withText(row, body)
    }
}
