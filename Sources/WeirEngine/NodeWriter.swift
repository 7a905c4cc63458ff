import WeirAlgebra

/// Memory that leaves and tiles are put together in, used again and again: what is written to it is valid until it is next cleared.
package struct NodeWriter: ~Copyable {
    private var memory: UnsafeMutableRawBufferPointer
    private(set) var count = 0
    /// Writes may reach this far behind their end.
    private static let slop = 8

    package init() { memory = .allocate(byteCount: 8_192, alignment: 8) }

    deinit { memory.deallocate() }

    package var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: memory[..<count]) }

    package mutating func clear() { count = 0 }

    mutating func truncate(to count: Int) { self.count = count }

    /// Makes room for so many bytes behind the end, and a word more.
    @inline(__always)
    private mutating func reserve(_ size: Int) {
        if count + size + Self.slop > memory.count { grow(size) }
    }

    @inline(never)
    private mutating func grow(_ size: Int) {
        let larger = UnsafeMutableRawBufferPointer.allocate(byteCount: (count + size + Self.slop) * 2, alignment: 8)
        larger.copyMemory(from: bytes)
        memory.deallocate()
        memory = larger
    }

    @inline(__always)
    mutating func write<I: FixedWidthInteger>(_ value: I) {
        reserve(MemoryLayout<I>.size)
        memory.storeBytes(of: value.littleEndian, toByteOffset: count, as: I.self)
        count += MemoryLayout<I>.size
    }

    mutating func writeRaw(_ raw: UnsafeRawBufferPointer) {
        guard let source = raw.baseAddress else { return }
        reserve(raw.count)
        (memory.baseAddress! + count).copyMemory(from: source, byteCount: raw.count)
        count += raw.count
    }

    @inline(__always)
    mutating func patch<I: FixedWidthInteger>(_ value: I, at position: Int) {
        memory.storeBytes(of: value.littleEndian, toByteOffset: position, as: I.self)
    }

    /// Writes `rows` integers of `width` bytes, the lowest of what `value` gives.
    @inline(__always)
    mutating func writeColumn(rows: Int, width: Int, _ value: (Int) -> UInt64) {
        reserve(rows * width)
        var position = count
        // Each store overwrites the excess of the one before.
        for row in 0..<rows {
            memory.storeBytes(of: value(row).littleEndian, toByteOffset: position, as: UInt64.self)
            position += width
        }
        count = position
    }
}
