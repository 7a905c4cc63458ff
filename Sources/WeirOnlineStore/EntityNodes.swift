import Foundation
import WeirAlgebra
import WeirEngine

// Keys of the online store. docs/FORMATS.md describes them; TimeTreeTests pins them.
//
//   0x00 name                                                     what concerns the shard as a whole
//   0x01 u16 view, u16 length, entity key, 0x00                   an entity's base record
//   0x01 u16 view, u16 length, entity key, 0x01, u64 start, u8 16 − level   a node of its time tree
//
// Integers are big-endian, so that LMDB's order of bytes is the order of numbers.
package enum StoreKey {
    static let meta: UInt8 = 0
    static let entity: UInt8 = 1

    package static func meta(_ name: String) -> [UInt8] { [meta] + Array(name.utf8) }

    static func view(_ view: Int) -> [UInt8] { [entity, UInt8(view >> 8), UInt8(view & 0xff)] }

    package static func entity(view: Int, key: UnsafeRawBufferPointer) -> [UInt8] {
        var bytes = self.view(view)
        bytes.reserveCapacity(key.count + 16)
        bytes.append(UInt8(key.count >> 8))
        bytes.append(UInt8(key.count & 0xff))
        bytes.append(contentsOf: key)
        return bytes
    }

    /// - Parameter prefix: the entity's part of the key.
    package static func node(prefix: [UInt8], _ key: NodeKey) -> [UInt8] {
        var bytes = prefix + Array(repeating: 0, count: nodeSuffix)
        bytes.withUnsafeMutableBytes { writeSuffix(key, $0, at: prefix.count) }
        return bytes
    }

    /// Bytes of a node's key behind the entity's part.
    static let nodeSuffix = 10

    static func writeSuffix(_ key: NodeKey, _ bytes: UnsafeMutableRawBufferPointer, at position: Int) {
        bytes[position] = 1
        bytes.storeBytes(of: key.start.bigEndian, toByteOffset: position + 1, as: UInt64.self)
        bytes[position + 9] = NodeKey.levelMax - key.level
    }

    package static func base(prefix: [UInt8]) -> [UInt8] { prefix + [0] }
}

/// The nodes of one entity in one transaction.
struct EntityNodes: NodeReading {
    let transaction: LMDBTransaction
    /// The entity's part of the key.
    let prefix: [UInt8]

    @inline(__always)
    fileprivate func withKey<R>(_ key: NodeKey, _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try withUnsafeTemporaryAllocation(byteCount: prefix.count + StoreKey.nodeSuffix, alignment: 1) { bytes in
            prefix.withUnsafeBytes { bytes.copyMemory(from: $0) }
            StoreKey.writeSuffix(key, bytes, at: prefix.count)
            return try body(UnsafeRawBufferPointer(bytes))
        }
    }

    fileprivate func withBaseKey<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try StoreKey.base(prefix: prefix).withUnsafeBytes(body)
    }

    private func node(_ entry: LMDBTransaction.Entry?) throws -> Node? {
        guard let entry, entry.key.count == prefix.count + StoreKey.nodeSuffix, entry.key[prefix.count] == 1,
            prefix.withUnsafeBytes({ memcmp($0.baseAddress!, entry.key.baseAddress!, $0.count) == 0 })
        else {
            return nil
        }
        let start = UInt64(bigEndian: entry.key.loadUnaligned(fromByteOffset: prefix.count + 1, as: UInt64.self))
        let level = entry.key[prefix.count + 9]
        guard level <= NodeKey.levelMax else { throw FormatError("a node of level \(level) in \(transaction.path)") }
        return Node(key: NodeKey(start: start, level: NodeKey.levelMax - level), bytes: entry.value)
    }

    func seek(_ key: NodeKey) throws -> Node? {
        try node(withKey(key) { bytes in try transaction.seek(bytes) })
    }

    func seekBefore(_ key: NodeKey) throws -> Node? {
        try node(withKey(key) { bytes in try transaction.seekBefore(bytes) })
    }

    func base() throws -> UnsafeRawBufferPointer? {
        try withBaseKey { bytes in try transaction.get(bytes) }
    }
}

/// The same, for the shard's writer.
package struct WritableEntityNodes: NodeWriting {
    private let nodes: EntityNodes
    private let transaction: LMDBWriteTransaction

    init(_ transaction: LMDBWriteTransaction, prefix: [UInt8]) {
        nodes = EntityNodes(transaction: transaction, prefix: prefix)
        self.transaction = transaction
    }

    package func seek(_ key: NodeKey) throws -> Node? { try nodes.seek(key) }
    package func seekBefore(_ key: NodeKey) throws -> Node? { try nodes.seekBefore(key) }
    package func base() throws -> UnsafeRawBufferPointer? { try nodes.base() }

    package func put(_ key: NodeKey, _ bytes: UnsafeRawBufferPointer) throws {
        try nodes.withKey(key) { key in try transaction.put(key, bytes) }
    }

    package func delete(_ key: NodeKey) throws {
        try nodes.withKey(key) { key in try transaction.delete(key) }
    }

    package func putBase(_ bytes: UnsafeRawBufferPointer) throws {
        try nodes.withBaseKey { key in try transaction.put(key, bytes) }
    }
}
