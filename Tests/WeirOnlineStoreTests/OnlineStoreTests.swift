import CLMDB
import Foundation
import Testing
import Weir
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirOnlineStore
import WeirRecords
import WeirTesting

private enum Customer: Entity {
    typealias ID = String
    static let name = "customer"
}

private enum Till: Entity {
    typealias ID = Int
    static let name = "till"
}

private struct Sale: Event {
    static let stream = "sales"
    var id: Int
    var customer: String?
    var till: Int?
    var note: String
    var eventTime: EventTime
}

private struct ByCustomer: FeatureView {
    typealias Subject = Customer
    static func key(of sale: Sale) -> String? { sale.customer }
    let count = Aggregate.count(over: .sliding(.hours(1)))
    let notes = Aggregate.last(3, \.note, over: .sliding(.hours(1)))
}

private struct ByTill: FeatureView {
    typealias Subject = Till
    static func key(of sale: Sale) -> Int? { sale.till }
    let count = Aggregate.count(over: .sliding(.hours(1)))
}

private struct Builder {
    @CatalogBuilder var catalog: Catalog {
        ByCustomer.self
        ByTill.self
    }
}

@Suite struct OnlineStoreTests {
    private struct Row {
        var customer: String?
        var till: Int?
        var seconds = 0
        var note = ""
    }

    private let catalog: CatalogPlan
    private let directory = FileManager.default.temporaryDirectory.appendingPathComponent("weir-\(UUID().uuidString)").path

    init() throws { catalog = try CatalogPlan(Builder().catalog) }

    private func store(_ mode: OnlineStore.Mode = .write(isSynced: false), mapBytes: Int = 1 << 30) throws -> OnlineStore {
        try OnlineStore(
            directory: directory, catalog: catalog, shards: mode.isReading ? nil : 2, mode: mode, mapBytes: mapBytes)
    }

    private func write(_ rows: [Row], _ store: OnlineStore) throws {
        var parser = JSONRecordParser(schema: catalog.streams[0].schema)
        var records = RecordBatch(schema: catalog.streams[0].schema)
        for (number, row) in rows.enumerated() {
            let customer = row.customer.map { "\"\($0)\"" } ?? "null"
            let till = row.till.map(String.init) ?? "null"
            let time = TimeText.format(EventTime(microseconds: Int64(row.seconds) * 1_000_000))
            let json = #"{"id":\#(number),"customer":\#(customer),"till":\#(till),"note":"\#(row.note)","event_time":"\#(time)"}"#
            parser.append(Array(json.utf8), to: &records, offset: Int64(number))
        }
        try #require(records.malformed.isEmpty)
        let batch = catalog.streams[0].prepare(records)
        let engine = ShardEngine(catalog: catalog, views: store.runtimes)
        for (shard, slice) in Sharding.slices(of: batch, rows: Array(0..<batch.count), shards: store.shardCount).enumerated() {
            try store.write(shard: shard) { try engine.apply(slice, of: batch, viewNumbers: [0, 1], to: $0) }
        }
    }

    private func customer(inShard shard: Int) -> String {
        (0...).lazy.map { "c\($0)" }.first { Sharding.shard(ofHash: StableHash.xxh64($0), count: 2) == shard }!
    }

    /// Two threads that each have a snapshot of one shard touch the other one, after another process has outgrown both maps: neither
    /// waits for the other for ever.
    @Test func readersFollowMapsThatHaveGrown() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let writing = try store(mapBytes: 1 << 28)
        let customers = [customer(inShard: 0), customer(inShard: 1)]
        try write(customers.map { Row(customer: $0) }, writing)
        // As another process has it: with a map of its own.
        let reading = try store(.read, mapBytes: 1 << 20)
        let (hasOne, goOn, done) = (DispatchSemaphore(value: 0), DispatchSemaphore(value: 0), DispatchSemaphore(value: 0))
        for number in 0..<2 {
            Thread.detachNewThread {
                let reader = reading.openReader()
                func expectKnown(_ customer: String) {
                    #expect(throws: Never.self) {
                        try #expect(reader.withEntity(view: 0, key: customer) { nodes, _ in try nodes.head() != nil })
                    }
                }
                expectKnown(customers[number])
                hasOne.signal()
                goOn.wait()
                expectKnown(customers[1 - number])
                expectKnown(customers[number])
                reader.close()
                done.signal()
            }
        }
        for _ in 0..<2 { hasOne.wait() }
        let note = String(repeating: "n", count: 500)
        try write((0..<6_000).map { Row(customer: "many\($0)", note: note) }, writing)
        #expect(reading.mapBytes.allSatisfy { $0 == 1 << 20 })
        for _ in 0..<2 { goOn.signal() }
        for _ in 0..<2 { #expect(done.wait(timeout: .now() + 20) == .success) }
        #expect(reading.mapBytes.allSatisfy { $0 > 1 << 20 })
    }

    /// What was deleted stands in free pages, and in the gaps of others, until the file is made anew; what is left is the same.
    @Test func compactionLeavesNothingDeleted() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let secret = "a secret of the one that goes"
        func occurrences() throws -> Int {
            try ["0", "1"].reduce(0) { count, shard in
                let file = try Data(contentsOf: URL(fileURLWithPath: directory + "/shard-000\(shard)/data.mdb"))
                var (found, from) = (0, file.startIndex)
                while let range = file.range(of: Data(secret.utf8), in: from..<file.endIndex) {
                    found += 1
                    from = range.upperBound
                }
                return count + found
            }
        }
        do {
            let store = try store()
            // Of tree nodes on pages of their own, and of heads beside others'.
            for round in 0..<20 {
                let others = (0..<30).map { Row(customer: "other\($0)", seconds: round, note: String(repeating: "n", count: $0 * 20)) }
                let own = (0..<200).map { Row(customer: "one", till: 7, seconds: round * 200 + $0, note: "\(secret) \($0)") }
                try write(others + own, store)
                try write([Row(customer: "two", seconds: round, note: secret)], store)
            }
        }
        let before = try occurrences()
        #expect(before > 100)
        var removed = 0
        var statistics: [OnlineStore.ViewStatistics] = []
        do {
            let store = try store()
            for customer in ["one", "two"] {
                try store.write(shard: Sharding.shard(ofKey: customer, count: 2)) {
                    removed += try store.replace(view: 0, key: customer, in: $0, rows: nil)
                }
            }
            statistics = try store.statistics()
            #expect(statistics.map(\.entities) == [30, 1])
        }
        #expect(removed > 20)
        #expect(try occurrences() > 0)
        var swapped = 0
        try OnlineStore.compact(directory: directory, mapBytes: 1 << 30) { swapped += 1 }
        #expect(try occurrences() == 0)
        let after = try store(.read).statistics()
        #expect(swapped == 2 && after.map(\.entities) == [30, 1] && after.map(\.bytes) == statistics.map(\.bytes))
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory).sorted() == ["shard-0000", "shard-0001"])
    }

    /// Expiry finds entities with any key, also the empty one, and those of its view alone.
    @Test func headsExpire() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let store = try store()
        try write([Row(customer: "", till: 0), Row(customer: "a", till: 1), Row(customer: "b", seconds: 100)], store)
        #expect(try store.statistics().map(\.entities) == [3, 2])
        for shard in 0..<2 { try store.write(shard: shard) { try $0.expire(view: 0, before: 50_000_000) } }
        let entities = try store.statistics().map(\.entities)
        #expect(entities == [1, 2])
    }

    /// What is counted of heads and nodes, which stand apart, against the list of entities.
    @Test func statisticsCountEachEntityOnce() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let store = try store()
        // More than a head holds go into the tree at once; what comes then stands in a head again.
        let many = (0..<300).map { Row(customer: "tree", till: 7, seconds: 10 + $0) } + (0..<300).map { Row(customer: "both", seconds: $0) }
        try write(many + ["", "a", "treeless", "z"].map { Row(customer: $0, seconds: 5) } + [Row(till: 70)], store)
        try write([Row(customer: "both", seconds: 400), Row(till: 7, seconds: 500), Row(customer: "after")], store)
        var nodes = 0
        var bytes = 0
        for shard in 0..<2 {
            try Raw.transaction(directory + "/shard-000\(shard)") { transaction, dbi in
                var cursor: OpaquePointer?
                try Raw.check(mdb_cursor_open(transaction, dbi, &cursor))
                defer { mdb_cursor_close(cursor) }
                var (key, value) = (MDB_val(), MDB_val())
                while mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0 {
                    if key.mv_data.load(as: UInt8.self) == 0 { continue }
                    nodes += 1
                    bytes += key.mv_size + value.mv_size
                }
            }
        }
        let statistics = try store.statistics()
        #expect(statistics.map(\.entities) == [7, 2])
        #expect(statistics.map(\.oldestChunk) == [0, 0])
        #expect(statistics.reduce(0) { $0 + $1.nodes } == nodes && statistics[1].nodes > 3)
        #expect(statistics.reduce(0) { $0 + $1.bytes } == bytes)
    }

    /// A damaged state is an error however often it is asked for, and not a shard without events.
    @Test func damagedStateIsRefused() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let customer = customer(inShard: 0)
        do { try write([Row(customer: customer)], store()) }
        try Raw.transaction(directory + "/shard-0000") { transaction, dbi in
            try StoreKey.meta("state").withUnsafeBytes { key in
                try [UInt8(99)].withUnsafeBytes { value in
                    var key = MDB_val(mv_size: key.count, mv_data: UnsafeMutableRawPointer(mutating: key.baseAddress))
                    var value = MDB_val(mv_size: value.count, mv_data: UnsafeMutableRawPointer(mutating: value.baseAddress))
                    try Raw.check(mdb_put(transaction, dbi, &key, &value, 0))
                }
            }
        }
        let store = try store(.read)
        try store.withReader { reader in
            for _ in 0..<3 {
                #expect(throws: FormatError.self) { try reader.withEntity(view: 0, key: customer) { _, kept in kept } }
                #expect(throws: FormatError.self) { try reader.states() }
            }
        }
        let error = #expect(throws: OnlineStoreError.self) { try store.latestEventTime() }
        #expect(error?.description.contains("weir rebuild") == true)
    }
}

extension OnlineStore.Mode {
    fileprivate var isReading: Bool { if case .read = self { true } else { false } }
}

/// LMDB as it is, behind the store's back.
private enum Raw {
    struct Failure: Error { let code: Int32 }

    static func check(_ code: Int32) throws { if code != 0 { throw Failure(code: code) } }

    static func transaction(_ directory: String, _ body: (OpaquePointer, MDB_dbi) throws -> Void) throws {
        var environment: OpaquePointer?
        try check(mdb_env_create(&environment))
        defer { mdb_env_close(environment) }
        try check(mdb_env_open(environment, directory, 0, 0o644))
        var transaction: OpaquePointer?
        try check(mdb_txn_begin(environment, nil, 0, &transaction))
        var dbi: MDB_dbi = 0
        try check(mdb_dbi_open(transaction, nil, 0, &dbi))
        try body(transaction!, dbi)
        try check(mdb_txn_commit(transaction))
    }
}
