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
