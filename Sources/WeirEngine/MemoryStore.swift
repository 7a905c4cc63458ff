import WeirAlgebra
import WeirDefinitions

/// A shard's entities in memory: the store of feature tests and of the export.
package final class MemoryStore: EntityStore {
    private struct Entity: Hashable {
        var view: Int
        var key: [UInt8]
    }
    private var entities: [Entity: MemoryNodes] = [:]

    package init() {}

    package func nodes(view: Int, key: UnsafeRawBufferPointer) -> MemoryNodes {
        let entity = Entity(view: view, key: Array(key))
        if let nodes = entities[entity] { return nodes }
        let nodes = MemoryNodes()
        entities[entity] = nodes
        return nodes
    }

    package func nodes(view: Int, key: String) -> MemoryNodes {
        var key = key
        return key.withUTF8 { nodes(view: view, key: UnsafeRawBufferPointer($0)) }
    }
}
