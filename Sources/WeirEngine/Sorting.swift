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

/// Puts rows in the order of their keys' bytes, then of their times, then of their numbers.
package struct KeyOrder {
    private struct SortKey {
        /// The first eight bytes of the key as a number, in the order of bytes.
        let prefix: UInt64
        let time: Int64
        let row: Int32
        let length: Int32
    }

    /// - Parameter rows: those to be ordered, ascending.
    package static func rows(_ rows: some Collection<Int>, keys: ColumnBuffer, times: [Int64]) -> [Int] {
        var sorted: [SortKey] = []
        sorted.reserveCapacity(rows.count)
        keys.textBytes.withUnsafeBytes { bytes in
            for row in rows {
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
                if end - start > 1, !isOrdered(sorted[start..<end]) {
                    sorted[start..<end].sort { a, b in
                        if a.length > 8 || b.length > 8 {
                            let order = compareBytes(
                                UnsafeRawBufferPointer(rebasing: bytes[keys.textRange(Int(a.row))]),
                                UnsafeRawBufferPointer(rebasing: bytes[keys.textRange(Int(b.row))]))
                            if order != 0 { return order < 0 }
                        } else if a.length != b.length {
                            return a.length < b.length
                        }
                        return a.time != b.time ? a.time < b.time : a.row < b.row
                    }
                }
                start = end
            }
        }
        return sorted.map { Int($0.row) }
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
