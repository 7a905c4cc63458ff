import WeirAlgebra

/// Names a node of an entity's time tree: a span of `16^level` microseconds that starts at a multiple of its length.
///
/// Nodes are ordered by start, wider ones first: a tile stands directly before its children.
package struct NodeKey: Hashable, Comparable, Sendable {
    /// The start of the span with the sign bit flipped, so that unsigned order is the order of time.
    package let start: UInt64
    /// 0 (one microsecond) to 16 (all of time).
    package let level: UInt8

    package static let levelMax: UInt8 = 16
    package static let whole = NodeKey(start: 0, level: levelMax)

    package init(start: UInt64, level: UInt8) {
        self.start = start
        self.level = level
    }

    /// The node of `level` whose span contains a biased time.
    package init(containing time: UInt64, level: UInt8) {
        start = level >= 16 ? 0 : time & ~((1 << (4 * UInt64(level))) - 1)
        self.level = level
    }

    /// The last biased time inside the span.
    package var last: UInt64 { level >= 16 ? .max : start | ((1 << (4 * UInt64(level))) - 1) }

    package func contains(_ time: UInt64) -> Bool { start <= time && time <= last }
    package func contains(_ other: NodeKey) -> Bool { start <= other.start && other.last <= last }

    package static func < (a: NodeKey, b: NodeKey) -> Bool { a.start != b.start ? a.start < b.start : a.level > b.level }

    /// The narrowest node that contains both times.
    package static func smallest(containing a: UInt64, _ b: UInt64) -> NodeKey {
        let difference = a ^ b
        let level = difference == 0 ? 0 : (63 - difference.leadingZeroBitCount) / 4 + 1
        return NodeKey(containing: a, level: UInt8(level))
    }
}

/// A time as an unsigned number in the same order.
package func biased(_ microseconds: Int64) -> UInt64 { UInt64(bitPattern: microseconds) ^ (1 << 63) }
package func unbiased(_ time: UInt64) -> Int64 { Int64(bitPattern: time ^ (1 << 63)) }

/// A stored node. Its bytes are borrowed from the store: they are valid until the store is next changed or closed.
package struct Node {
    package let key: NodeKey
    package let bytes: UnsafeRawBufferPointer

    package init(key: NodeKey, bytes: UnsafeRawBufferPointer) {
        self.key = key
        self.bytes = bytes
    }

    package var isTile: Bool { bytes.first == nodeKindTile }
}

/// The nodes of one entity in one view.
package protocol NodeReading {
    /// The first node at or after `key`.
    func seek(_ key: NodeKey) throws -> Node?
    /// The last node before `key`.
    func seekBefore(_ key: NodeKey) throws -> Node?
    /// The head record, with the events that are not in the tree yet; nil for an entity without events, or of a store that an
    /// earlier build made.
    func head() throws -> UnsafeRawBufferPointer?
    /// The partials of all events before the entity's base time, which are no longer kept one by one; nil while none expired.
    func base() throws -> UnsafeRawBufferPointer?
}

package protocol NodeWriting: NodeReading {
    func put(_ key: NodeKey, _ bytes: UnsafeRawBufferPointer) throws
    func delete(_ key: NodeKey) throws
    func putHead(_ bytes: UnsafeRawBufferPointer) throws
    func deleteHead() throws
    func putBase(_ bytes: UnsafeRawBufferPointer) throws
}

/// An entity's nodes in memory. A value: a copy shares its bytes until one of them changes.
package struct NodeTable: Sendable {
    /// Bytes with an allocation of their own, so that pointers stay valid until the node itself is replaced.
    private final class Block: @unchecked Sendable {
        // Never changed after it is made.
        let bytes: UnsafeRawBufferPointer
        init(_ source: UnsafeRawBufferPointer) {
            let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: source.count, alignment: 8)
            memory.copyBytes(from: source)
            bytes = UnsafeRawBufferPointer(memory)
        }
        deinit { bytes.deallocate() }
    }

    private var keys: [NodeKey] = []
    private var blocks: [Block] = []
    private var headBlock: Block?
    private var baseBlock: Block?

    package init() {}

    package var count: Int { keys.count + (headBlock == nil ? 0 : 1) }

    private func lowerBound(_ key: NodeKey) -> Int {
        var low = 0
        var high = keys.count
        while low < high {
            let middle = (low + high) / 2
            if keys[middle] < key { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private func node(_ index: Int) -> Node { Node(key: keys[index], bytes: blocks[index].bytes) }

    package func seek(_ key: NodeKey) -> Node? {
        let index = lowerBound(key)
        return index < keys.count ? node(index) : nil
    }

    package func seekBefore(_ key: NodeKey) -> Node? {
        let index = lowerBound(key) - 1
        return index >= 0 ? node(index) : nil
    }

    package func head() -> UnsafeRawBufferPointer? { headBlock?.bytes }
    package func base() -> UnsafeRawBufferPointer? { baseBlock?.bytes }

    package mutating func put(_ key: NodeKey, _ bytes: UnsafeRawBufferPointer) {
        let index = lowerBound(key)
        if index < keys.count, keys[index] == key {
            blocks[index] = Block(bytes)
        } else {
            keys.insert(key, at: index)
            blocks.insert(Block(bytes), at: index)
        }
    }

    package mutating func delete(_ key: NodeKey) {
        let index = lowerBound(key)
        guard index < keys.count, keys[index] == key else { return }
        keys.remove(at: index)
        blocks.remove(at: index)
    }

    package mutating func putHead(_ bytes: UnsafeRawBufferPointer) { headBlock = Block(bytes) }
    package mutating func deleteHead() { headBlock = nil }
    package mutating func putBase(_ bytes: UnsafeRawBufferPointer) { baseBlock = Block(bytes) }
}

/// The same behind a reference: for feature tests and the export.
package final class MemoryNodes: NodeWriting {
    private var table = NodeTable()

    package init() {}

    package func seek(_ key: NodeKey) -> Node? { table.seek(key) }
    package func seekBefore(_ key: NodeKey) -> Node? { table.seekBefore(key) }
    package func head() -> UnsafeRawBufferPointer? { table.head() }
    package func base() -> UnsafeRawBufferPointer? { table.base() }
    package func put(_ key: NodeKey, _ bytes: UnsafeRawBufferPointer) { table.put(key, bytes) }
    package func delete(_ key: NodeKey) { table.delete(key) }
    package func putHead(_ bytes: UnsafeRawBufferPointer) { table.putHead(bytes) }
    package func deleteHead() { table.deleteHead() }
    package func putBase(_ bytes: UnsafeRawBufferPointer) { table.putBase(bytes) }
}
