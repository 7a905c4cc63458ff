import CLMDB
import Foundation
import WeirAlgebra
import WeirDefinitions
import WeirEngine

/// Why the online store cannot be used, and the way out.
package struct OnlineStoreError: Error, CustomStringConvertible {
    package let description: String

    package init(_ description: String) {
        self.description = description
    }
}

private let stateKey = StoreKey.meta("state")
private let definitionKey = StoreKey.meta("definition")
private let samplesKey = StoreKey.meta("samples")

/// The online store: one LMDB environment a shard, each with one writing thread and any number of readers, in this and in
/// other processes.
package final class OnlineStore: ShardSet, Sendable {
    package let directory: String
    package let catalog: CatalogPlan
    package let runtimes: [ViewRuntime]
    let environments: [LMDBEnvironment]

    package var shardCount: Int { environments.count }

    package enum Mode: Sendable {
        /// Makes the store where there is none.
        case write(isSynced: Bool)
        case read
    }

    /// - Parameters:
    ///   - shards: for a new store; nil takes `defaultShards`. Another count than an existing store's is refused.
    ///   - mapBytes: what a shard's memory map begins with; it grows.
    package init(
        directory: String, catalog: CatalogPlan, shards: Int?, mode: Mode, mapBytes: Int = OnlineStore.defaultMapBytes
    ) throws {
        self.directory = directory
        self.catalog = catalog
        runtimes = catalog.views.map { ViewRuntime($0) }
        let existing = Self.shardDirectories(directory)
        let names: [String]
        var isSynced = true
        var isReadOnly = true
        if case .write(let synced) = mode {
            isReadOnly = false
            isSynced = synced
        }
        if existing.isEmpty {
            guard !isReadOnly else {
                throw OnlineStoreError("there is no online store in \(directory); start `weir run` or `weir ingest` first")
            }
            names = (0..<(shards ?? Self.defaultShards)).map { number in
                let digits = String(number)
                return directory + "/shard-" + String(repeating: "0", count: max(0, 4 - digits.count)) + digits
            }
            for name in names { try FileManager.default.createDirectory(atPath: name, withIntermediateDirectories: true) }
        } else {
            names = existing
            if let shards, shards != existing.count {
                throw OnlineStoreError(
                    "the store in \(directory) has \(existing.count) shards, not \(shards); `weir rebuild --shards \(shards)` makes it anew"
                )
            }
        }
        environments = try names.map { try LMDBEnvironment(path: $0, readOnly: isReadOnly, isSynced: isSynced, mapBytes: mapBytes) }
        try checkDefinitions(mayWrite: !isReadOnly)
    }

    package static let defaultShards = 2
    /// Address space, not memory or disk: what a shard's map begins with.
    package static let defaultMapBytes = 1 << 36

    package static func exists(_ directory: String) -> Bool { !shardDirectories(directory).isEmpty }

    static func shardDirectories(_ directory: String) -> [String] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
        return names.filter { $0.hasPrefix("shard-") }.sorted().map { directory + "/" + $0 }
    }

    /// nil where there is no store.
    package static func shardCount(in directory: String) -> Int? {
        let count = shardDirectories(directory).count
        return count == 0 ? nil : count
    }

    /// Everything that a store's bytes depend on, as text.
    package static func definition(of catalog: CatalogPlan, shards: Int) -> String {
        (["shards \(shards)"] + catalog.streams.map(\.identityDefinition) + catalog.views.map(\.definition)).joined(separator: "\n")
    }

    /// The definition that a store was built with; nil where there is no store, or none that is complete.
    package static func storedDefinition(in directory: String) throws -> String? {
        try stored(definitionKey, in: directory).map { String(decoding: $0, as: UTF8.self) }
    }

    /// What those definitions made of some events; nil where that was not kept.
    package static func samples(in directory: String) throws -> DefinitionSamples? {
        try stored(samplesKey, in: directory).flatMap { try? JSONDecoder().decode(DefinitionSamples.self, from: Data($0)) }
    }

    private static func stored(_ key: [UInt8], in directory: String) throws -> [UInt8]? {
        guard let shard = shardDirectories(directory).first else { return nil }
        let environment = try LMDBEnvironment(path: shard, readOnly: true, isSynced: false, mapBytes: defaultMapBytes)
        // A transaction must not outlive its environment.
        return try withExtendedLifetime(environment) {
            let reader = try environment.acquireReader()
            defer { environment.release(reader) }
            return try key.withUnsafeBytes { try reader.get($0) }.map { Array($0) }
        }
    }

    /// Definitions other than those that the store was built with are refused, naming the difference and the way out.
    private func checkDefinitions(mayWrite: Bool) throws {
        let definition = Self.definition(of: catalog, shards: shardCount)
        for environment in environments {
            let reader = try environment.acquireReader()
            let stored = try definitionKey.withUnsafeBytes { try reader.get($0) }.map { String(decoding: $0, as: UTF8.self) }
            environment.release(reader)
            if let stored {
                guard stored == definition else {
                    throw OnlineStoreError(
                        "the definitions differ from those that the online store in \(directory) was built with:\n"
                            + definitionDifference(stored: stored, code: definition)
                            + "\nway out: `weir apply` builds what is new from the history and switches to it; `weir rebuild` makes the online store anew"
                    )
                }
            } else if mayWrite {
                let transaction = try environment.beginWrite()
                try definitionKey.withUnsafeBytes { key in
                    try Array(definition.utf8).withUnsafeBytes { try transaction.put(key, $0) }
                }
                try transaction.commit()
            } else {
                throw OnlineStoreError("the online store in \(directory) is not complete; start `weir run` or `weir rebuild`")
            }
        }
    }

    // MARK: Reading

    /// How far a shard's snapshot is: what is read in it is made of the history's events up to this number.
    package struct AppliedShard: Sendable, Hashable {
        package var number: Int
        package var sequence: Int64

        package init(number: Int, sequence: Int64) {
            self.number = number
            self.sequence = sequence
        }
    }

    /// Snapshots of the shards that a batch of lookups touches, one read transaction each. Used from one thread.
    package final class Reader {
        private let store: OnlineStore
        private var transactions: [LMDBReadTransaction?]
        private var prefix = EntityPrefix()

        fileprivate init(_ store: OnlineStore) {
            self.store = store
            transactions = Array(repeating: nil, count: store.shardCount)
        }

        private func shard(_ number: Int) throws -> LMDBReadTransaction {
            if let open = transactions[number] { return open }
            let transaction = try store.environments[number].acquireReader(beforeWaiting: close)
            do {
                try transaction.readState(store.state)
            } catch {
                store.environments[number].release(transaction)
                throw error
            }
            transactions[number] = transaction
            return transaction
        }

        /// An entity's nodes, valid until the snapshots end, and the time from which on the shard keeps the view's events.
        ///
        /// - Parameter key: the canonical one; at most `Limits.keyBytesMax` bytes.
        package func entity(view: Int, key: UnsafeRawBufferPointer) throws -> (nodes: any NodeReading, keptFrom: Int64) {
            let transaction = try shard(Sharding.shard(ofHash: Sharding.hash(key), count: store.shardCount))
            // One that is still in use stays as it is.
            if !isKnownUniquelyReferenced(&prefix) { prefix = EntityPrefix() }
            prefix.set(view: view, key: key)
            return (EntityNodes(transaction: transaction, prefix: prefix), transaction.keptFrom(view: view))
        }

        package func withEntity<R>(view: Int, key: String, _ body: (any NodeReading, Int64) throws -> R) throws -> R {
            var key = key
            let (nodes, keptFrom) = try key.withUTF8 { try entity(view: view, key: UnsafeRawBufferPointer($0)) }
            return try body(nodes, keptFrom)
        }

        /// The shard that has a key, and the number of the last event of the history that its snapshot has seen.
        package func applied(key: UnsafeRawBufferPointer) throws -> AppliedShard {
            let number = Sharding.shard(ofHash: Sharding.hash(key), count: store.shardCount)
            return AppliedShard(number: number, sequence: try shard(number).state.appliedSequence)
        }

        /// The states of all shards.
        package func states() throws -> [ShardState] { try (0..<store.shardCount).map { try shard($0).state } }

        /// The latest accepted event time that the snapshots know; nil before any event.
        package func latestEventTime() throws -> EventTime? {
            var latest = Int64.min
            for number in 0..<store.shardCount { latest = max(latest, try shard(number).state.latestEventTime) }
            return latest == .min ? nil : EventTime(microseconds: latest)
        }

        /// Ends the snapshots; a shard that is touched again gets a new one.
        package func close() {
            for number in transactions.indices {
                guard let open = transactions[number] else { continue }
                transactions[number] = nil
                store.environments[number].release(open)
            }
        }
    }

    /// A reader that the caller closes; soon, since the store grows while it holds a snapshot.
    package func openReader() -> Reader { Reader(self) }

    package func withReader<R>(_ body: (Reader) throws -> R) throws -> R {
        let reader = Reader(self)
        defer { reader.close() }
        return try explaining { try body(reader) }
    }

    /// Bytes that are not what they should be, said with the store's name and the way out.
    package func explaining<R>(_ body: () throws -> R) throws -> R {
        do { return try body() } catch { throw explained(error) }
    }

    /// The same for an error at hand.
    package func explained(_ error: any Error) -> any Error {
        guard let error = error as? FormatError else { return error }
        return OnlineStoreError(
            "the online store in \(directory) is damaged: \(error); `weir rebuild` makes it anew from the history, nothing is lost")
    }

    /// What the definitions that the store was built with made of some events; nil where that was not kept yet.
    package func samples() throws -> DefinitionSamples? {
        let reader = try environments[0].acquireReader()
        defer { environments[0].release(reader) }
        return try samplesKey.withUnsafeBytes { try reader.get($0) }.flatMap { bytes in
            try? JSONDecoder().decode(DefinitionSamples.self, from: Data(bytes))
        }
    }

    /// Keeps that, in place of what was kept.
    package func keep(_ samples: DefinitionSamples) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        let bytes = try encoder.encode(samples)
        try write(shard: 0) { writer in
            try samplesKey.withUnsafeBytes { key in try bytes.withUnsafeBytes { try writer.put(key, $0) } }
        }
    }

    /// Waits until the disk has every commit.
    package func sync() throws { for environment in environments { try environment.sync() } }

    /// Gives back readers' places, which the kernel takes from a process that ends, but not from one that becomes another program.
    package func dropIdleReaders() { for environment in environments { environment.dropIdleReaders() } }

    package func states() throws -> [ShardState] { try withReader { try $0.states() } }

    private func state(_ transaction: LMDBTransaction) throws -> ShardState {
        guard let bytes = try stateKey.withUnsafeBytes({ try transaction.get($0) }) else { return ShardState(views: catalog.views.count) }
        return try ShardState(bytes, views: catalog.views.count)
    }

    /// The latest accepted event time that the store knows; nil before any event.
    package func latestEventTime() throws -> EventTime? {
        try withReader { try $0.latestEventTime() }
    }

    package var usedBytes: Int { environments.reduce(0) { $0 + $1.usedBytes } }

    // MARK: Writing

    /// One transaction of one shard. Used from one thread.
    package final class Writer: ShardTransaction {
        private let transaction: LMDBWriteTransaction
        private let store: OnlineStore
        private var prefix = EntityPrefix()
        package var state: ShardState

        fileprivate init(_ store: OnlineStore, shard: Int) throws {
            self.store = store
            transaction = try store.environments[shard].beginWrite()
            state = try store.state(transaction)
        }

        package func nodes(view: Int, key: UnsafeRawBufferPointer) -> WritableEntityNodes {
            let prefix = freePrefix()
            prefix.set(view: view, key: key)
            return WritableEntityNodes(transaction, prefix: prefix)
        }

        /// The nodes of the entity that a record's key is of.
        private func nodes(of key: UnsafeRawBufferPointer, prefixLength: Int) -> WritableEntityNodes {
            let prefix = freePrefix()
            prefix.set(from: key, count: prefixLength)
            return WritableEntityNodes(transaction, prefix: prefix)
        }

        private func freePrefix() -> EntityPrefix {
            if !isKnownUniquelyReferenced(&prefix) { prefix = EntityPrefix() }
            return prefix
        }

        package var nodeCount: Int { transaction.entryCount }

        /// Lets go of a view's events before `horizon`, of all entities.
        package func expire(view: Int, before horizon: Int64) throws {
            try expireNodes(view: view, before: horizon)
            try expireHeads(view: view, before: horizon)
        }

        private func expireHeads(view: Int, before horizon: Int64) throws {
            let scratch = TreeScratch()
            let runtime = store.runtimes[view]
            let start = StoreKey.heads(view)
            var entry = try start.withUnsafeBytes { try transaction.seek($0) }
            while let (key, value) = entry, key.count >= 5, key.starts(with: start) {
                if try runtime.keepsHead(value, after: horizon) {
                    entry = try transaction.next()
                    continue
                }
                let head = Array(key)
                let nodes = nodes(of: key, prefixLength: key.count)
                try TimeTree(view: runtime, nodes: nodes, scratch: scratch).expire(before: horizon)
                // Behind this key.
                entry = try (head + [0]).withUnsafeBytes { try transaction.seek($0) }
            }
        }

        private func expireNodes(view: Int, before horizon: Int64) throws {
            let scratch = TreeScratch()
            let runtime = store.runtimes[view]
            let start = StoreKey.view(view)
            var entry = try start.withUnsafeBytes { try transaction.seek($0) }
            while let (key, value) = entry, key.count >= 5, key.starts(with: start) {
                let length = 5 + (Int(key[3]) << 8 | Int(key[4]))
                guard key.count > length else { throw FormatError("a key that is too short in \(transaction.path)") }
                switch key[length] == 1 ? try runtime.expiry(ofNode: value, before: horizon) : .part {
                case .keep: entry = try transaction.next()
                case .drop:
                    try transaction.deleteFound()
                    entry = try transaction.next()
                case .part:
                    let prefix = Array(key[0..<length])
                    let nodes = nodes(of: key, prefixLength: length)
                    try TimeTree(view: runtime, nodes: nodes, scratch: scratch).expire(before: horizon)
                    // Behind all keys of the entity: its records go on with 0 or 1.
                    entry = try (prefix + [2]).withUnsafeBytes { try transaction.seek($0) }
                }
            }
        }

        /// Takes an entity out of a view: all of its records.
        ///
        /// - Returns: how many there were.
        package func remove(view: Int, key: UnsafeRawBufferPointer) throws -> Int {
            prefix = EntityPrefix()
            prefix.set(view: view, key: key)
            var removed = 0
            // Its base record stands before its nodes.
            var entry = try transaction.seek(prefix.base)
            while let (key, _) = entry, key.count > prefix.count, key[0] == StoreKey.entity, prefix.begins(key) {
                try transaction.deleteFound()
                removed += 1
                entry = try transaction.next()
            }
            if try transaction.find(prefix.head) != nil {
                try transaction.deleteFound()
                removed += 1
            }
            return removed
        }

        fileprivate func put(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) throws { try transaction.put(key, value) }

        fileprivate func abort() { transaction.abort() }

        package func commit() throws {
            try stateKey.withUnsafeBytes { key in try state.encoded().withUnsafeBytes { try transaction.put(key, $0) } }
            try transaction.commit()
        }
    }

    /// Runs `body` in one transaction of a shard; on an error nothing of it stays. It runs again where the map had to grow.
    package func write(shard: Int, _ body: (Writer) throws -> Void) throws {
        while true {
            let writer = try explaining { try Writer(self, shard: shard) }
            do {
                return try explaining {
                    try body(writer)
                    try writer.commit()
                }
            } catch let error as LMDBError where error.code == MDB_MAP_FULL {
                writer.abort()
                try environments[shard].grow()
            }
        }
    }

    // MARK: Looking after

    /// A view's share of the store.
    package struct ViewStatistics: Sendable {
        package var entities = 0
        package var nodes = 0
        /// Of keys and values.
        package var bytes = 0
        /// The time of the first event in the oldest leaf; nil where there is none.
        package var oldestChunk: Int64?
    }

    /// Counts what every view keeps. Reads the whole store.
    package func statistics() throws -> [ViewStatistics] { try explaining { try countAll() } }

    private func countAll() throws -> [ViewStatistics] {
        var statistics = catalog.views.map { _ in ViewStatistics() }
        for environment in environments {
            let reader = try environment.acquireReader()
            defer { environment.release(reader) }
            // An entity's nodes and its head stand apart, both in the order of entities: they are gone through side by side.
            var nodes = try EntryReader(reader, StoreKey.entity, views: statistics.count)
            var heads = try EntryReader(reader, StoreKey.head, views: statistics.count)
            while let entity = nodes.entity.map({ entity in heads.entity.map { min(entity, $0) } ?? entity }) ?? heads.entity {
                statistics[entity.view].entities += 1
                func take(_ reader: inout EntryReader) throws {
                    while reader.entity == entity, let entry = reader.entry {
                        statistics[entity.view].nodes += 1
                        statistics[entity.view].bytes += entry.key.count + entry.value.count
                        if reader.isNode, let first = try runtimes[entity.view].firstTime(ofNode: entry.value) {
                            statistics[entity.view].oldestChunk = min(statistics[entity.view].oldestChunk ?? .max, first)
                        }
                        try reader.advance()
                    }
                }
                try take(&nodes)
                try take(&heads)
            }
        }
        return statistics
    }

    /// Writes a copy of every shard, each consistent in itself.
    package func copy(to directory: String) throws {
        for environment in environments {
            let name = directory + "/" + (environment.path as NSString).lastPathComponent
            try FileManager.default.createDirectory(atPath: name, withIntermediateDirectories: true)
            try environment.copy(to: name)
        }
    }

    package var mapBytes: [Int] { environments.map(\.mapBytes) }

    /// What a shard takes up.
    package struct ShardSizes: Sendable {
        /// Bytes of the pages in use, and of the address space that they may grow into before the map does.
        package let usedBytes: Int
        package let mapBytes: Int
        /// Places for readers of all processes: those that were ever in use at a time, and all there are.
        package let readerSlotsUsed: Int
        package let readerSlotsMax: Int
    }

    /// By shard.
    package var sizes: [ShardSizes] {
        environments.map { environment in
            let slots = environment.readerSlots
            return ShardSizes(
                usedBytes: environment.usedBytes, mapBytes: environment.mapBytes, readerSlotsUsed: slots.used, readerSlotsMax: slots.max)
        }
    }
}

/// Goes through the entries of one kind, of all entities in the order of their keys.
private struct EntryReader {
    /// Without the kind: view, length, key.
    struct EntityPart: Comparable {
        let bytes: [UInt8]

        var view: Int { Int(bytes[0]) << 8 | Int(bytes[1]) }

        static func < (a: Self, b: Self) -> Bool { a.bytes.lexicographicallyPrecedes(b.bytes) }
    }

    private let cursor: LMDBCursor
    private let path: String
    private let kind: UInt8
    private let views: Int
    /// nil at the end.
    private(set) var entry: LMDBTransaction.Entry?
    /// Whose entry it is.
    private(set) var entity: EntityPart?

    init(_ transaction: LMDBTransaction, _ kind: UInt8, views: Int) throws {
        cursor = try LMDBCursor(transaction)
        path = transaction.path
        self.kind = kind
        self.views = views
        try take([kind].withUnsafeBytes { try cursor.seek($0) })
    }

    mutating func advance() throws { try take(cursor.next()) }

    private mutating func take(_ next: LMDBTransaction.Entry?) throws {
        guard let next, next.key.first == kind else {
            entry = nil
            entity = nil
            return
        }
        let key = next.key
        guard key.count >= 5, Int(key[1]) << 8 | Int(key[2]) < views else { throw FormatError("a key that is no node's in \(path)") }
        let length = 5 + (Int(key[3]) << 8 | Int(key[4]))
        guard kind == StoreKey.entity ? key.count > length : key.count == length else {
            throw FormatError("a key that is no node's in \(path)")
        }
        entry = next
        if entity?.bytes.elementsEqual(key[1..<length]) != true { entity = EntityPart(bytes: Array(key[1..<length])) }
    }

    /// Whether the entry has events, and is no base record.
    var isNode: Bool {
        guard let entry, let entity else { return false }
        return kind == StoreKey.head || entry.key[1 + entity.bytes.count] == 1
    }
}
