import Foundation
import Testing
import Weir
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirPipeline
import WeirRecords

// One stream as its event changes from release to release.

enum Shop: Entity {
    typealias ID = Int
    static let name = "shop"
}

enum First {
    enum Channel: String, Codable, Sendable, CaseIterable { case web, till }
    struct Order: Event {
        static let stream = "orders"
        var id: String
        var shop: Int
        var price: Double
        var channel: Channel
        var eventTime: EventTime
    }
    struct Orders: FeatureView {
        typealias Subject = Shop
        static func key(of order: Order) -> Int? { order.shop }
        let spend = Aggregate.sum(\.price, over: .lifetime)
    }
}

enum Second {
    enum Channel: String, Codable, Sendable, CaseIterable { case web, till, app }
    enum One: DefaultValue { static let defaultValue = 1 }
    struct Order: Event {
        static let stream = "orders"
        var id: String
        var shop: Int
        var price: Double
        var channel: Channel
        var eventTime: EventTime
        var coupon: String?
        @Default<One> var pieces: Int
        @Default<EmptyText> var note: String
    }
    struct Orders: FeatureView {
        typealias Subject = Shop
        static func key(of order: Order) -> Int? { order.shop }
        let spend = Aggregate.sum(\.price, over: .lifetime)
    }
}

enum Third {
    struct Order: Event {
        static let stream = "orders"
        var id: String
        var shop: Int
        var price: Int
        var eventTime: EventTime
    }
    struct Orders: FeatureView {
        typealias Subject = Shop
        static func key(of order: Order) -> Int? { order.shop }
        let spend = Aggregate.sum(\.price, over: .lifetime)
    }
}

private struct Single<View: FeatureView> {
    @CatalogBuilder var catalog: Catalog { View.self }
}

func plan<V: FeatureView>(_: V.Type) throws -> CatalogPlan { try CatalogPlan(Single<V>().catalog) }

/// A data directory of one test.
final class Scratch {
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("weir-\(UUID().uuidString)").path
    deinit { try? FileManager.default.removeItem(atPath: path) }

    func withWriter<R>(_ catalog: CatalogPlan, _ body: (StoreWriter) throws -> R) throws -> R {
        try body(try StoreWriter(directory: DataDirectory(path), catalog: catalog, shards: 1, isSynced: false))
    }

    func ingest(_ text: String, as name: String = "events.jsonl", _ catalog: CatalogPlan) throws -> CommitSummary {
        let file = NSTemporaryDirectory() + "\(UUID().uuidString)-\(name)"
        try text.write(toFile: file, atomically: true, encoding: .utf8)
        defer { try? FileManager.default.removeItem(atPath: file) }
        return try withWriter(catalog) { writer in
            let ingest = FileIngest(stream: catalog.streams[0], path: file, format: FileFormat(path: name)!)
            writer.pipeline.start()
            try ingest.read(try ingest.plan(writer.history), submit: { try writer.pipeline.submit($0) }, progress: { _ in })
            try writer.pipeline.stop()
            return writer.pipeline.summary
        }
    }

    func spend(_ catalog: CatalogPlan, shop: String) throws -> FeatureValue {
        try withWriter(catalog) { writer in
            try writer.store.withReader { reader in
                try reader.withEntity(view: 0, key: shop) { nodes, keptFrom in
                    try ViewRuntime(catalog.views[0]).evaluate(
                        nodes: nodes, asOf: AsOf(EventTime(microseconds: 4_000_000_000_000_000)), session: nil, keptFrom: keptFrom)!
                        .results[0].value
                }
            }
        }
    }
}

@Suite struct EvolutionTests {
    /// Events may gain optional and defaulted fields; what is stored stays, unknown fields are read over.
    @Test func eventsGainFields() throws {
        let scratch = Scratch()
        let first = try plan(First.Orders.self)
        let second = try plan(Second.Orders.self)
        let summary = try scratch.ingest(
            """
            {"id":"a","shop":1,"price":2.5,"channel":"web","event_time":"2026-01-01T00:00:00Z","pieces":7,"unknown":{"x":[1]}}

            """, first)
        #expect(summary.accepted == 1 && summary.deadLetters == 0)
        _ = try scratch.ingest(
            """
            {"id":"b","shop":1,"price":1,"channel":"app","event_time":"2026-01-02T00:00:00Z","coupon":"C","pieces":3}
            {"id":"c","shop":1,"price":1,"channel":"till","event_time":"2026-01-03T00:00:00Z"}

            """, second)
        #expect(try scratch.spend(second, shop: "1") == .double(4.5))
        let reader = try HistoryReader(directory: scratch.path, catalog: second)
        var rows: [String] = []
        try reader.forEachBatch(of: "orders", after: 0, upTo: .max) { batch, _ in
            for row in 0..<batch.count {
                var json: [UInt8] = []
                batch.records.appendJSON(row: row, to: &json)
                rows.append(String(decoding: json, as: UTF8.self))
            }
        }
        #expect(rows.count == 3)
        #expect(rows[0].contains(#""id":"a""#) && !rows[0].contains("pieces") && rows[1].contains(#""pieces":3"#))
        // A default is the code's, where the history has none.
        let order = try decodeFirst(Second.Order.self, rows[0], second)
        #expect(order.pieces == 1 && order.note == "" && order.coupon == nil)
    }

    private func decodeFirst<E: Event>(_: E.Type, _ json: String, _ catalog: CatalogPlan) throws -> E {
        var parser = JSONRecordParser(schema: catalog.streams[0].schema)
        var batch = RecordBatch(schema: catalog.streams[0].schema)
        parser.append(Array(json.utf8), to: &batch, offset: 0)
        var decoder = RecordDecoder(schema: batch.schema)
        return try decoder.decode(E.self, from: batch, row: 0)
    }

    /// Any other change is refused, with what differs and the way out.
    @Test func otherChangesAreRefused() throws {
        let scratch = Scratch()
        _ = try scratch.ingest(
            #"{"id":"a","shop":1,"price":2.5,"channel":"web","event_time":"2026-01-01T00:00:00Z"}"#, try plan(First.Orders.self))
        let error = #expect(throws: (any Error).self) { try scratch.withWriter(try plan(Third.Orders.self)) { _ in } }
        let text = error.map { "\($0)" } ?? ""
        #expect(text.contains("price: float64") && text.contains("price: int64") && text.contains("optional"), "\(text)")
    }

    /// A value that the code does not know becomes a dead letter, and is taken once the code knows it: from JSON and from CSV.
    @Test func lettersAreRetried() throws {
        let scratch = Scratch()
        let first = try plan(First.Orders.self)
        let second = try plan(Second.Orders.self)
        var summary = try scratch.ingest(
            """
            {"id":"a","shop":1,"price":2.5,"channel":"app","event_time":"2026-01-01T00:00:00Z"}
            {"id":"b","shop":1,"price":
            {"id":"c","shop":1,"price":1,"channel":"web","event_time":"2026-01-01T00:00:00Z"}

            """, first)
        #expect(summary.accepted == 1 && summary.deadLetters == 2)
        summary = try scratch.ingest(
            "price,shop,id,channel,event_time\n8,1,d,\"app\",2026-01-01T00:00:00Z\nx,1,e,web,2026-01-01T00:00:00Z\n", as: "more.csv", first)
        #expect(summary.accepted == 0 && summary.deadLetters == 2)
        func letters() throws -> [HistoryReader.DeadLetter] { try HistoryReader(directory: scratch.path, catalog: second).deadLetters() }
        #expect(try letters().first { $0.raw.contains(UInt8(ascii: "a")) }?.reason.contains("channel") == true)

        // In vain with the old code; then with the new.
        var retried = try scratch.withWriter(first) { try $0.retry(try letters(), now: 1) }
        #expect(retried.settled == 0 && retried.refused == 4)
        #expect(try letters().allSatisfy { $0.retries == 1 })
        retried = try scratch.withWriter(second) { try $0.retry(try letters(), now: 1) }
        #expect(retried.settled == 2 && retried.refused == 2)
        #expect(try letters().map(\.retries) == [2, 2])
        #expect(try scratch.spend(second, shop: "1") == .double(11.5))
        // A rebuild has them, too.
        _ = try rebuildOnlineStore(directory: DataDirectory(scratch.path), catalog: second, shards: 3) { _, _ in }
        let store = try HistoryReader(directory: scratch.path, catalog: second)
        #expect(try store.eventCount(stream: "orders") == 3)
    }

    /// A stream's own decoding of messages, and what its events look like in the history.
    @Test func messagesAreDecodedByTheEvent() throws {
        let stream = try plan(PackedView.self).streams[0]
        #expect(stream.decodesMessages)
        var records = RecordBatch(schema: stream.schema)
        for (offset, message) in ["p1;7;2.5;1700000000000000;red,green", "nonsense", "p2;8;1e300;-5;"].enumerated() {
            Array(message.utf8).withUnsafeBytes { stream.decode(message: $0, offset: Int64(offset), into: &records) }
        }
        #expect(records.malformed.map(\.offset) == [1] && records.malformed[0].reason.contains("5 parts"))
        let batch = stream.prepare(records)
        #expect(batch.count == 2 && batch.times == [1_700_000_000_000_000, -5])
        var json: [UInt8] = []
        batch.records.appendJSON(row: 0, to: &json)
        #expect(
            String(decoding: json, as: UTF8.self)
                == #"{"id":"p1","shop":7,"price":2.5,"event_time":"2023-11-14T22:13:20Z","tags":["red","green"],"size":{"width":3,"is_big":false}}"#
        )
        var decoder = RecordDecoder(schema: stream.schema)
        #expect(try decoder.decode(Packed.self, from: batch.records, row: 1) == Packed(message: Array("p2;8;1e300;-5;".utf8)))
    }
}

struct Packed: Event, MessageDecodable, Equatable {
    struct Size: Codable, Sendable, Equatable {
        var width: Int
        var isBig: Bool
    }
    struct Wrong: Error, CustomStringConvertible { let description: String }
    static let stream = "packed"
    var id: String
    var shop: Int
    var price: Double
    var eventTime: EventTime
    var tags: [String]
    var size: Size
    var note: String?

    init(message: [UInt8]) throws {
        let parts = String(decoding: message, as: UTF8.self).split(separator: ";", omittingEmptySubsequences: false)
        guard parts.count == 5, let shop = Int(parts[1]), let price = Double(parts[2]), let time = Int64(parts[3]) else {
            throw Wrong(description: "5 parts expected")
        }
        id = String(parts[0])
        self.shop = shop
        self.price = price
        eventTime = EventTime(microseconds: time)
        tags = parts[4].split(separator: ",").map(String.init)
        size = Size(width: 3, isBig: price > 100)
    }
}

struct PackedView: FeatureView {
    typealias Subject = Shop
    static func key(of packed: Packed) -> Int? { packed.shop }
    let spend = Aggregate.sum(\.price, over: .lifetime)
}
