import WeirAlgebra
import WeirDefinitions

/// Rows in columns without ownership, for writing leaves and for evaluating the same rows many times: what is read of each event costs no
/// reference counting. Valid inside of `EventRows.withView` alone.
package struct RowsView: RowAccess {
    package let count: Int
    let times: UnsafePointer<Int64>
    let ids: ColumnView
    let tags: UnsafePointer<UInt32>
    let filterBits: UnsafePointer<UInt64>
    let columns: UnsafeBufferPointer<ColumnView>

    package func time(_ row: Int) -> Int64 { times[row] }
    package func tag(_ row: Int) -> UInt32 { tags[row] }
    package func filterBits(_ row: Int) -> UInt64 { filterBits[row] }
    package func withID<R>(_ row: Int, _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R { try body(ids.text(row)) }
    package func isNull(_ row: Int, column: Int) -> Bool { columns[column].nulls.map { $0[row] } ?? false }
    package func int64(_ row: Int, column: Int) -> Int64 { columns[column].int64s[row] }
    package func float64(_ row: Int, column: Int) -> Double { columns[column].float64s[row] }
    package func withText<R>(_ row: Int, column: Int, _ body: (UnsafeRawBufferPointer) -> R) -> R { body(columns[column].text(row)) }
}

/// A column's memory: that of its type.
struct ColumnView {
    let type: ColumnType
    let int64s: UnsafePointer<Int64>
    let float64s: UnsafePointer<Double>
    let textEnds: UnsafePointer<Int>
    let textBytes: UnsafeRawPointer
    /// nil where no row is null.
    let nulls: UnsafePointer<Bool>?

    @inline(__always)
    func textStart(_ row: Int) -> Int { row == 0 ? 0 : textEnds[row - 1] }

    @inline(__always)
    func textLength(_ row: Int) -> Int { textEnds[row] - textStart(row) }

    @inline(__always)
    func text(_ row: Int) -> UnsafeRawBufferPointer {
        let start = textStart(row)
        return UnsafeRawBufferPointer(start: textBytes + start, count: textEnds[row] - start)
    }
}

/// Stands for the memory of an empty column, which may have no address.
private nonisolated(unsafe) let noMemory = UnsafeRawPointer(UnsafeMutableRawPointer.allocate(byteCount: 16, alignment: 16))

extension ColumnBuffer {
    func withView<R>(_ body: (ColumnView) throws -> R) rethrows -> R {
        try int64s.withUnsafeBufferPointer { int64s in
            try float64s.withUnsafeBufferPointer { float64s in
                try textEnds.withUnsafeBufferPointer { textEnds in
                    try textBytes.withUnsafeBytes { textBytes in
                        try nulls.withUnsafeBufferPointer { nulls in
                            try body(
                                ColumnView(
                                    type: type, int64s: int64s.baseAddress ?? noMemory.assumingMemoryBound(to: Int64.self),
                                    float64s: float64s.baseAddress ?? noMemory.assumingMemoryBound(to: Double.self),
                                    textEnds: textEnds.baseAddress ?? noMemory.assumingMemoryBound(to: Int.self),
                                    textBytes: textBytes.baseAddress ?? noMemory, nulls: nulls.isEmpty ? nil : nulls.baseAddress))
                        }
                    }
                }
            }
        }
    }
}

extension EventRows {
    package func withView<R>(_ body: (RowsView) throws -> R) rethrows -> R {
        func nest(_ views: [ColumnView], _ body: ([ColumnView]) throws -> R) rethrows -> R {
            if views.count == columns.count { return try body(views) }
            return try columns[views.count].withView { try nest(views + [$0], body) }
        }
        return try nest([]) { columns in
            try ids.withView { ids in
                try times.withUnsafeBufferPointer { times in
                    try tags.withUnsafeBufferPointer { tags in
                        try filterBitSets.withUnsafeBufferPointer { filterBits in
                            try columns.withUnsafeBufferPointer { columns in
                                try body(
                                    RowsView(
                                        count: count, times: times.baseAddress ?? noMemory.assumingMemoryBound(to: Int64.self), ids: ids,
                                        tags: tags.baseAddress ?? noMemory.assumingMemoryBound(to: UInt32.self),
                                        filterBits: filterBits.baseAddress ?? noMemory.assumingMemoryBound(to: UInt64.self),
                                        columns: columns))
                            }
                        }
                    }
                }
            }
        }
    }
}
