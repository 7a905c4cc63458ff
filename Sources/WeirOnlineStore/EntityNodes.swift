import Foundation
import WeirAlgebra
import WeirEngine

// Keys of the online store. docs/FORMATS.md describes them; TimeTreeTests pins them.
//
//   0x00 name                                                     what concerns the shard as a whole
//   0x01 u16 view, u16 length, entity key, 0x00                   an entity's base record
//   0x01 u16 view, u16 length, entity key, 0x01, u64 start, u8 16 − level   a node of its time tree
//   0x02 u16 view, u16 length, entity key                          its head record: side by side, since all writing begins there
//
// Integers are big-endian, so that LMDB's order of bytes is the order of numbers.
package enum StoreKey {
    static let meta: UInt8 = 0
    static let entity: UInt8 = 1
    static let head: UInt8 = 2

    package static func meta(_ name: String) -> [UInt8] { [meta] + Array(name.utf8) }

    static func view(_ view: Int) -> [UInt8] { [entity, UInt8(view >> 8), UInt8(view & 0xff)] }

    /// Bytes of an entity's part before its key.
    static let entityHeader = 5
    /// Bytes of a node's key behind the entity's part.
    static let nodeSuffix = 10

    static func writeSuffix(_ key: NodeKey, _ bytes: UnsafeMutableRawBufferPointer, at position: Int) {
        bytes[position] = 1
        bytes.storeBytes(of: key.start.bigEndian, toByteOffset: position + 1, as: UInt64.self)
        bytes[position + 9] = NodeKey.levelMax - key.level
    }

    static func heads(_ view: Int) -> [UInt8] { [head, UInt8(view >> 8), UInt8(view & 0xff)] }
}

/// An entity's part of its keys, with room for what follows it. The keys of its records are made in place: each is valid until the
/// next one is asked for.
package final class EntityPrefix {
    /// LMDB has no longer keys.
    private static let bytesMax = 511
    private let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: bytesMax + StoreKey.nodeSuffix, alignment: 8)
    private(set) var count = 0

    package init() {}

    deinit { memory.deallocate() }

    /// - Precondition: the key has at most `Limits.keyBytesMax` bytes.
    package func set(view: Int, key: UnsafeRawBufferPointer) {
        precondition(key.count <= Limits.keyBytesMax)
        memory[0] = StoreKey.entity
        memory[1] = UInt8(truncatingIfNeeded: view >> 8)
        memory[2] = UInt8(truncatingIfNeeded: view)
        memory[3] = UInt8(truncatingIfNeeded: key.count >> 8)
        memory[4] = UInt8(truncatingIfNeeded: key.count)
        if let start = key.baseAddress { memcpy(memory.baseAddress! + StoreKey.entityHeader, start, key.count) }
        count = StoreKey.entityHeader + key.count
    }

    /// - Parameter key: of any of the entity's records.
    func set(from key: UnsafeRawBufferPointer, count: Int) {
        precondition(count <= min(Self.bytesMax, key.count))
        memcpy(memory.baseAddress!, key.baseAddress!, count)
        memory[0] = StoreKey.entity
        self.count = count
    }

    /// Whether a key, of whatever kind, is of this entity.
    func begins(_ key: UnsafeRawBufferPointer) -> Bool { memcmp(memory.baseAddress! + 1, key.baseAddress! + 1, count - 1) == 0 }

    package var head: UnsafeRawBufferPointer { key(StoreKey.head, count) }

    package var base: UnsafeRawBufferPointer {
        memory[count] = 0
        return key(StoreKey.entity, count + 1)
    }

    package func node(_ node: NodeKey) -> UnsafeRawBufferPointer {
        StoreKey.writeSuffix(node, memory, at: count)
        return key(StoreKey.entity, count + StoreKey.nodeSuffix)
    }

    private func key(_ kind: UInt8, _ count: Int) -> UnsafeRawBufferPointer {
        memory[0] = kind
        return UnsafeRawBufferPointer(start: memory.baseAddress!, count: count)
    }
}

/// The nodes of one entity in one transaction.
struct EntityNodes: NodeReading {
    let transaction: LMDBTransaction
    let prefix: EntityPrefix

    private func node(_ entry: LMDBTransaction.Entry?) throws -> Node? {
        guard let entry, entry.key.count == prefix.count + StoreKey.nodeSuffix, entry.key[prefix.count] == 1,
            entry.key[0] == StoreKey.entity,
            prefix.begins(entry.key)
        else {
            return nil
        }
        let start = UInt64(bigEndian: entry.key.loadUnaligned(fromByteOffset: prefix.count + 1, as: UInt64.self))
        let level = entry.key[prefix.count + 9]
        guard level <= NodeKey.levelMax else { throw FormatError("a node of level \(level) in \(transaction.path)") }
        return Node(key: NodeKey(start: start, level: NodeKey.levelMax - level), bytes: entry.value)
    }

    func seek(_ key: NodeKey) throws -> Node? { try node(transaction.seek(prefix.node(key))) }
    func seekBefore(_ key: NodeKey) throws -> Node? { try node(transaction.seekBefore(prefix.node(key))) }
    func head() throws -> UnsafeRawBufferPointer? { try transaction.find(prefix.head) }
    func base() throws -> UnsafeRawBufferPointer? { try transaction.get(prefix.base) }
}

/// The same, for the shard's writer.
package struct WritableEntityNodes: NodeWriting {
    private let nodes: EntityNodes
    private let transaction: LMDBWriteTransaction
    private var prefix: EntityPrefix { nodes.prefix }

    init(_ transaction: LMDBWriteTransaction, prefix: EntityPrefix) {
        nodes = EntityNodes(transaction: transaction, prefix: prefix)
        self.transaction = transaction
    }

    package func seek(_ key: NodeKey) throws -> Node? { try nodes.seek(key) }
    package func seekBefore(_ key: NodeKey) throws -> Node? { try nodes.seekBefore(key) }
    package func head() throws -> UnsafeRawBufferPointer? { try nodes.head() }
    package func base() throws -> UnsafeRawBufferPointer? { try nodes.base() }
    package func put(_ key: NodeKey, _ bytes: UnsafeRawBufferPointer) throws { try transaction.put(prefix.node(key), bytes) }
    package func delete(_ key: NodeKey) throws { try transaction.delete(prefix.node(key)) }
    package func putHead(_ bytes: UnsafeRawBufferPointer) throws { try transaction.put(prefix.head, bytes) }
    package func deleteHead() throws { try transaction.delete(prefix.head) }
    package func putBase(_ bytes: UnsafeRawBufferPointer) throws { try transaction.put(prefix.base, bytes) }
}
