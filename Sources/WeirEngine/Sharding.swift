import WeirAlgebra
import WeirDefinitions

/// The rows of a batch that one shard has to apply: for each view of the stream, which events, with their key's hash.
package struct ShardSlice: Sendable {
    package struct Entry: Sendable {
        package let keyHash: UInt64
        package let row: Int
    }
    /// In the order of the stream's views.
    package var views: [[Entry]]

    package var isEmpty: Bool { views.allSatisfy(\.isEmpty) }
}

/// Which shard an entity lives in: a stable hash of its key, the same on every machine and in every version.
package enum Sharding {
    package static func hash(_ key: UnsafeRawBufferPointer) -> UInt64 { StableHash.xxh64(key) }
    package static func shard(ofHash hash: UInt64, count: Int) -> Int { Int(hash % UInt64(count)) }
    package static func shard(ofKey key: String, count: Int) -> Int {
        var key = key
        return key.withUTF8 { shard(ofHash: hash(UnsafeRawBufferPointer($0)), count: count) }
    }

    /// Shares the accepted events of a batch out among the shards.
    package static func slices(of batch: PreparedBatch, rows: [Int], shards: Int) -> [ShardSlice] {
        var slices = Array(repeating: ShardSlice(views: []), count: shards)
        for view in batch.views {
            let keys = view.keys
            var entries = Array(repeating: [ShardSlice.Entry](), count: shards)
            for shard in entries.indices { entries[shard].reserveCapacity(rows.count / shards + rows.count / (4 * shards) + 8) }
            for row in rows where !keys.isNull(row) {
                let hash = view.keyHashes[row]
                entries[shard(ofHash: hash, count: shards)].append(.init(keyHash: hash, row: row))
            }
            for shard in entries.indices { slices[shard].views.append(entries[shard]) }
        }
        return slices
    }
}
