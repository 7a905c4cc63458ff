import WeirAlgebra
import WeirDefinitions
import WeirEngine

struct EntityID: Hashable, Sendable {
    var view: Int
    var key: [UInt8]
}

/// A shard on a simulated disk.
struct SimulatedShard: Sendable {
    var state: ShardState
    var tables: [EntityID: NodeTable] = [:]
    /// Earlier commits that a power cut may bring back, latest last.
    var unsynced: [SnapshotOfShard] = []
}

struct SnapshotOfShard: Sendable {
    var state: ShardState
    var tables: [EntityID: NodeTable]
}

final class SimulatedShardTransaction: ShardTransaction {
    var state: ShardState
    fileprivate(set) var tables: [EntityID: NodeTable]
    private let views: [ViewRuntime]
    fileprivate let bug: PlantedBug?

    init(_ shard: SimulatedShard, views: [ViewRuntime], bug: PlantedBug?) {
        state = shard.state
        tables = shard.tables
        self.views = views
        self.bug = bug
    }

    func nodes(view: Int, key: UnsafeRawBufferPointer) -> SimulatedNodes {
        SimulatedNodes(transaction: self, entity: EntityID(view: view, key: Array(key)))
    }

    var nodeCount: Int { tables.values.reduce(0) { $0 + $1.count } }

    func expire(view: Int, before horizon: Int64) throws {
        for entity in tables.keys where entity.view == view {
            try TimeTree(view: views[view], nodes: SimulatedNodes(transaction: self, entity: entity)).expire(before: horizon)
        }
    }
}

struct SimulatedNodes: NodeWriting {
    let transaction: SimulatedShardTransaction
    let entity: EntityID

    func seek(_ key: NodeKey) -> Node? { transaction.tables[entity]?.seek(key) }
    func seekBefore(_ key: NodeKey) -> Node? { transaction.tables[entity]?.seekBefore(key) }
    func head() -> UnsafeRawBufferPointer? { transaction.tables[entity]?.head() }
    func base() -> UnsafeRawBufferPointer? { transaction.tables[entity]?.base() }

    func put(_ key: NodeKey, _ bytes: UnsafeRawBufferPointer) {
        var key = key
        if transaction.bug == .wrongTile, !Node(key: key, bytes: bytes).isTile, key.level < NodeKey.levelMax,
            key.last < .max,
            let later = seek(NodeKey(start: key.last + 1, level: NodeKey.levelMax)), later.key.level == key.level
        {
            key = NodeKey(start: key.last + 1, level: key.level)
        }
        transaction.tables[entity, default: NodeTable()].put(key, bytes)
    }

    func delete(_ key: NodeKey) { transaction.tables[entity]?.delete(key) }
    func putHead(_ bytes: UnsafeRawBufferPointer) { transaction.tables[entity, default: NodeTable()].putHead(bytes) }
    func deleteHead() { transaction.tables[entity]?.deleteHead() }
    func putBase(_ bytes: UnsafeRawBufferPointer) { transaction.tables[entity, default: NodeTable()].putBase(bytes) }
}

/// Reads a committed shard.
struct SimulatedReader: NodeReading {
    let table: NodeTable
    func seek(_ key: NodeKey) -> Node? { table.seek(key) }
    func seekBefore(_ key: NodeKey) -> Node? { table.seekBefore(key) }
    func head() -> UnsafeRawBufferPointer? { table.head() }
    func base() -> UnsafeRawBufferPointer? { table.base() }
}
