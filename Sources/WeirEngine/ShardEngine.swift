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
        var slices = Array(repeating: ShardSlice(views: Array(repeating: [], count: batch.views.count)), count: shards)
        for (view, viewRows) in batch.views.enumerated() {
            let keys = viewRows.keys
            keys.textBytes.withUnsafeBytes { bytes in
                for row in rows where !keys.isNull(row) {
                    let hash = hash(UnsafeRawBufferPointer(rebasing: bytes[keys.textRange(row)]))
                    slices[shard(ofHash: hash, count: shards)].views[view].append(.init(keyHash: hash, row: row))
                }
            }
        }
        return slices
    }
}

/// Where a shard keeps its entities, inside one transaction.
package protocol EntityStore {
    associatedtype Nodes: NodeWriting
    func nodes(view: Int, key: UnsafeRawBufferPointer) throws -> Nodes
}

/// Applies batches to one shard. It does no input or output itself: state goes through the `EntityStore` that it is given, in
/// a transaction that the caller commits together with the positions reached.
package struct ShardEngine: Sendable {
    /// In the order of the catalog's views.
    package let views: [ViewRuntime]

    package init(views: [ViewRuntime]) {
        self.views = views
    }

    /// Adds a slice of a batch to the store.
    ///
    /// - Parameter viewNumbers: for each view of the batch's stream its number in `views`.
    package func apply(
        _ slice: ShardSlice, of batch: PreparedBatch, viewNumbers: [Int], to store: some EntityStore
    ) throws {
        for (position, entries) in slice.views.enumerated() where !entries.isEmpty {
            let number = viewNumbers[position]
            try forEachEntity(entries, keys: batch.views[position].keys) { key, rows in
                var events = EventRows(columns: views[number].plan.columns)
                for entry in rows { events.append(batch, view: position, row: entry.row) }
                try TimeTree(view: views[number], nodes: store.nodes(view: number, key: key)).insert(events.sorted())
            }
        }
    }

    /// Gathers the events of each entity, so that its nodes are read and written once a batch.
    private func forEachEntity(
        _ entries: [ShardSlice.Entry], keys: ColumnBuffer,
        _ body: (UnsafeRawBufferPointer, ArraySlice<ShardSlice.Entry>) throws -> Void
    ) throws {
        try keys.textBytes.withUnsafeBytes { bytes in
            func key(_ entry: ShardSlice.Entry) -> UnsafeRawBufferPointer {
                UnsafeRawBufferPointer(rebasing: bytes[keys.textRange(entry.row)])
            }
            let sorted = entries.sorted { a, b in
                if a.keyHash != b.keyHash { return a.keyHash < b.keyHash }
                let order = compareBytes(key(a), key(b))
                return order != 0 ? order < 0 : a.row < b.row
            }
            var start = 0
            while start < sorted.count {
                var end = start + 1
                while end < sorted.count, sorted[end].keyHash == sorted[start].keyHash,
                    compareBytes(key(sorted[end]), key(sorted[start])) == 0
                { end += 1 }
                try body(key(sorted[start]), sorted[start..<end])
                start = end
            }
        }
    }
}
