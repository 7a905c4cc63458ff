import Testing
import Weir
import WeirDefinitions
import WeirHistory

/// A view whose updates go to a topic.
struct LiveOrders: FeatureView {
    typealias Subject = Shop
    static func key(of order: First.Order) -> Int? { order.shop }
    static var updatesTopic: String? { "live-orders" }
    let spend1h = Aggregate.sum(\.price, over: .sliding(.hours(1)))
    let orders = Aggregate.count(over: .lifetime)
}

@Suite struct OutputTests {
    /// One record an entity and commit, as of the entity's latest event, which counts; also where an earlier event comes late.
    @Test func updatesAreRecorded() throws {
        let scratch = Scratch()
        let catalog = try plan(LiveOrders.self)
        func records(after number: Int64) throws -> [String] {
            try HistoryReader(directory: scratch.path, catalog: catalog).outputs(after: number).map {
                "\($0.number) \($0.record.topic) \($0.record.key) \($0.record.value)"
            }
        }
        func order(_ id: String, _ shop: Int, _ price: Double, _ time: String) -> String {
            #"{"id":"\#(id)","shop":\#(shop),"price":\#(price),"channel":"web","event_time":"2026-01-01T\#(time)Z"}"# + "\n"
        }
        _ = try scratch.ingest(order("a", 1, 2, "10:00:00") + order("b", 2, 4, "10:30:00") + order("c", 1, 3, "10:59:59"), catalog)
        #expect(
            try records(after: 0) == [
                #"1 live-orders 1 {"view":"live_orders","entity_key":"1","as_of":"2026-01-01T10:59:59Z","features":{"spend_1h":5.0,"orders":2}}"#,
                #"2 live-orders 2 {"view":"live_orders","entity_key":"2","as_of":"2026-01-01T10:30:00Z","features":{"spend_1h":4.0,"orders":1}}"#,
            ])
        // A late one changes what is as of the latest; a copy changes nothing.
        _ = try scratch.ingest(order("d", 1, 1, "09:00:00") + order("b", 2, 4, "10:30:00"), catalog)
        #expect(
            try records(after: 2) == [
                #"3 live-orders 1 {"view":"live_orders","entity_key":"1","as_of":"2026-01-01T10:59:59Z","features":{"spend_1h":5.0,"orders":3}}"#
            ])
    }
}
