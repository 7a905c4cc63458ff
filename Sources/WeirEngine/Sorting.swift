import WeirAlgebra
import WeirDefinitions

// What puts rows in the order of their keys, for shards and for the history's segments.

/// The first eight bytes as a number, in the order of bytes; missing ones are zero.
@inlinable package func firstBytes(_ key: UnsafeRawBufferPointer) -> UInt64 {
    if key.count >= 8 { return UInt64(bigEndian: key.loadUnaligned(as: UInt64.self)) }
    var prefix: UInt64 = 0
    for byte in key { prefix = prefix << 8 | UInt64(byte) }
    return key.isEmpty ? 0 : prefix << UInt64(8 * (8 - key.count))
}

/// One pass of a stable radix sort; nothing is moved where all have the same digit.
///
/// - Parameter scratch: as many items, of any value.
@inlinable package func radixPass<T>(_ items: inout [T], _ scratch: inout [T], digit: (T) -> UInt8) {
    let isDone = withUnsafeTemporaryAllocation(of: Int.self, capacity: 256) { starts in
        starts.initialize(repeating: 0)
        for item in items { starts[Int(digit(item))] += 1 }
        if starts.contains(items.count) { return true }
        var start = 0
        for value in 0..<256 {
            let count = starts[value]
            starts[value] = start
            start += count
        }
        items.withUnsafeBufferPointer { items in
            scratch.withUnsafeMutableBufferPointer { scratch in
                for item in items {
                    let digit = Int(digit(item))
                    scratch[starts[digit]] = item
                    starts[digit] += 1
                }
            }
        }
        return false
    }
    if !isDone { swap(&items, &scratch) }
}

/// Rows in the order of their keys' bytes, then of their times, then of their numbers; rows without a key are left out.
package struct KeyOrder: Sendable {
    private struct SortKey {
        /// The first eight bytes of the key as a number, in the order of bytes.
        let prefix: UInt64
        let time: Int64
        let row: Int32
        let length: Int32
    }

    private var sorted: [SortKey] = []

    private init() {}

    /// - Parameter rows: those to be ordered, ascending.
    package init(_ rows: Range<Int>, keys: ColumnBuffer, times: [Int64]) {
        sorted.reserveCapacity(rows.count)
        keys.textBytes.withUnsafeBytes { bytes in
            for row in rows where !keys.isNull(row) {
                let range = keys.textRange(row)
                let prefix = firstBytes(UnsafeRawBufferPointer(rebasing: bytes[range]))
                sorted.append(SortKey(prefix: prefix, time: times[row], row: Int32(row), length: Int32(range.count)))
            }
            // By first bytes; then the rows that have those in common, which are in the order of their numbers.
            var scratch = sorted
            for byte in 0..<8 { radixPass(&sorted, &scratch) { UInt8(truncatingIfNeeded: $0.prefix >> UInt64(8 * byte)) } }
            var start = 0
            while start < sorted.count {
                var end = start + 1
                while end < sorted.count, sorted[end].prefix == sorted[start].prefix { end += 1 }
                if end - start > 1, !Self.isOrdered(sorted[start..<end]) {
                    sorted[start..<end].sort { Self.precedes($0, $1, keys, bytes) }
                }
                start = end
            }
        }
    }

    package var count: Int { sorted.count }
    package func row(_ place: Int) -> Int { Int(sorted[place].row) }
    package func time(_ place: Int) -> Int64 { sorted[place].time }
    package var rows: [Int] { sorted.map { Int($0.row) } }

    /// The place behind the last row that has the key of a place's.
    package func endOfKey(_ place: Int, _ keys: ColumnBuffer) -> Int {
        keys.textBytes.withUnsafeBytes { bytes in
            var end = place + 1
            while end < sorted.count, Self.compareKeys(sorted[end], sorted[place], keys, bytes) == 0 { end += 1 }
            return end
        }
    }

    /// This order and another one of the same keys' rows behind these, in one.
    package func merged(with other: KeyOrder, keys: ColumnBuffer) -> KeyOrder {
        var all = KeyOrder()
        all.sorted.reserveCapacity(count + other.count)
        keys.textBytes.withUnsafeBytes { bytes in
            var next = 0
            for key in sorted {
                while next < other.count, Self.precedes(other.sorted[next], key, keys, bytes) {
                    all.sorted.append(other.sorted[next])
                    next += 1
                }
                all.sorted.append(key)
            }
            all.sorted += other.sorted[next...]
        }
        return all
    }

    /// −1, 0 or 1.
    @inline(__always)
    private static func compareKeys(_ a: SortKey, _ b: SortKey, _ keys: ColumnBuffer, _ bytes: UnsafeRawBufferPointer) -> Int {
        if a.prefix != b.prefix { return a.prefix < b.prefix ? -1 : 1 }
        // Of keys that have these bytes in common a short one is how the other begins.
        if a.length <= 8 || b.length <= 8 { return a.length == b.length ? 0 : a.length < b.length ? -1 : 1 }
        return compareBytes(
            UnsafeRawBufferPointer(rebasing: bytes[keys.textRange(Int(a.row))]),
            UnsafeRawBufferPointer(rebasing: bytes[keys.textRange(Int(b.row))]))
    }

    @inline(__always)
    private static func precedes(_ a: SortKey, _ b: SortKey, _ keys: ColumnBuffer, _ bytes: UnsafeRawBufferPointer) -> Bool {
        let order = compareKeys(a, b, keys, bytes)
        if order != 0 { return order < 0 }
        return a.time != b.time ? a.time < b.time : a.row < b.row
    }

    /// Rows of one short key that come in the order of time.
    private static func isOrdered(_ rows: ArraySlice<SortKey>) -> Bool {
        for index in rows.indices.dropFirst() {
            let (a, b) = (rows[index - 1], rows[index])
            if b.length > 8 || a.length != b.length || a.time > b.time { return false }
        }
        return true
    }
}
