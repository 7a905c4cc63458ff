import Testing
import Weir
import WeirTesting

enum Customer: Entity {
    typealias ID = CompositeKey<Int, String>
    static let name = "customer"
}

struct Order: Event {
    enum Channel: String, Codable, CaseIterable, ColumnConvertible {
        case web, shop
        typealias Column = Text
    }
    static let stream = "orders"
    var id: String
    var customer: Int?
    var region: String
    var amount: Int
    var weight: Double?
    var channel: Channel
    var eventTime: EventTime
}

struct CustomerOrders: FeatureView {
    typealias Subject = Customer
    static func key(of order: Order) -> Customer.ID? { order.customer.map { CompositeKey($0, order.region) } }

    let orders1h = Aggregate.count(over: .sliding(.hours(1)))
    let amountTotal = Aggregate.sum(\.amount, over: .lifetime)
    let weighed = Aggregate.count(\.weight, over: .lifetime)
    let meanWeight = Aggregate.mean(\.weight, over: .lifetime)
    let lastChannel = Aggregate.last(\.channel)
    let webAmount = Aggregate.sum(\.amount, over: .lifetime).where { $0.channel == .web }
    let channels = Aggregate.histogram(\.channel, over: .lifetime).named("by_channel")
    let share = Derived(\CustomerOrders.webAmount, \CustomerOrders.amountTotal) { web, all in Double(web) / Double(all) }
    let weightOrZero = Derived(optional: \CustomerOrders.meanWeight) { weight in weight ?? 0 }
}

struct OrderScore: FeatureService {
    struct Request: Codable, Sendable {
        var customer: Int?
        var region: String
        var limit: Double?
    }
    let orders = Join(
        CustomerOrders.self, on: { (request: Request) in request.customer.map { CompositeKey($0, request.region) } })
    var outputs: [Output<Request>] {
        orders.amountTotal
        orders.share.named("web_share")
        OnDemand("over_limit", orders.amountTotal, request.limit) { amount, limit in Double(amount) > limit }
    }
}

/// An aggregation of one's own: the greatest common divisor.
struct CommonDivisor: Accumulation, Aggregation {
    typealias Input = Int64
    typealias Accumulator = CommonDivisor
    var signature: String { "common_divisor" }
    var empty: UInt64 { 0 }
    func add(_ input: Int64, at position: EventPosition, to partial: inout UInt64) { merge(input.magnitude, into: &partial) }
    func merge(_ other: UInt64, into partial: inout UInt64) {
        var other = other
        while other != 0 { (partial, other) = (other, partial % other) }
    }
    func encode(_ partial: UInt64, into writer: inout ByteWriter) { writer.writeVarint(partial) }
    func decode(_ reader: inout ByteReader) throws(FormatError) -> UInt64 { try reader.readVarint() }
    func value(of partial: UInt64, at time: EventTime) -> AggregateResult<Int> { partial == 0 ? .null : .value(Int(clamping: partial)) }
}

struct OwnAggregation: FeatureView {
    typealias Subject = Customer
    static func key(of order: Order) -> Customer.ID? { order.customer.map { CompositeKey($0, order.region) } }
    let unit = Aggregate.custom(CommonDivisor(), \.amount, over: .lifetime)
}

@Suite struct DefinitionTests {
    @Test func anAggregationOfOnesOwn() throws {
        let events = (0..<30).map { AggregationLaws.Event(time: start, id: "\($0)", input: Int64(6 * $0)) }
        #expect(AggregationLaws.violations(of: CommonDivisor(), events: events, seed: 3).isEmpty)
        let test = try FeatureTest { OwnAggregation.self }
        try test.add([order("1", 7, 12), order("2", 7, 18, at: 1)])
        #expect(try test.value(of: "unit", in: "own_aggregation", key: "7:a\\:b", at: start.advanced(by: 2_000_000)) == .int(6))
    }

    let start = EventTime(microseconds: 1_000_000_000)

    func order(_ id: String, _ customer: Int?, _ amount: Int, _ channel: Order.Channel = .web, weight: Double? = nil, at seconds: Int64 = 0)
        -> Order
    {
        Order(
            id: id, customer: customer, region: "a:b", amount: amount, weight: weight, channel: channel,
            eventTime: start.advanced(by: seconds * 1_000_000))
    }

    @Test func featuresOfAView() throws {
        let test = try FeatureTest {
            CustomerOrders.self
            OrderScore.self
        }
        try test.add([order("1", 7, 10, .shop), order("2", 7, 30, weight: 2.5, at: 60), order("3", nil, 99), order("1", 7, 10, .shop)])
        let at = start.advanced(by: 120_000_000)
        let values = try test.values(of: "customer_orders", key: "007:a\\:b", at: at)
        #expect(
            values.map(\.name) == [
                "orders_1h", "amount_total", "weighed", "mean_weight", "last_channel", "web_amount", "by_channel", "share",
                "weight_or_zero",
            ])
        #expect(
            values.map(\.value) == [
                .int(2), .int(40), .int(1), .double(2.5), .string("web"), .int(30),
                .map([.init(key: "shop", value: .int(1)), .init(key: "web", value: .int(1))]), .double(0.75), .double(2.5),
            ])
        // The window slides by itself.
        #expect(try test.value(of: "orders_1h", in: "customer_orders", key: "7:a\\:b", at: start.advanced(by: 3_600_000_001)) == .int(1))
        // Strictly before.
        #expect(try test.value(of: "orders_1h", in: "customer_orders", key: "7:a\\:b", at: start) == .int(0))
    }

    @Test func answersOfAService() throws {
        let test = try FeatureTest {
            CustomerOrders.self
            OrderScore.self
        }
        try test.add([order("1", 7, 10, .shop)])
        let at = start.advanced(by: 120_000_000)
        let request = #"{"customer": 7, "region": "a:b", "limit": 25.5}"#
        func texts(_ answer: [(name: String, value: FeatureValue)]) -> [String] { answer.map { "\($0.name)=\($0.value.json)" } }
        #expect(texts(try test.answer("order_score", request, at: at)) == ["amount_total=10", "web_share=0.0", "over_limit=false"])
        // The session's event counts, its stored copy counts once, a later one does not.
        let session = [order("2", 7, 30, at: 120), order("1", 7, 10, .shop), order("3", 7, 1, at: 121), order("4", 8, 1)]
        #expect(
            texts(try test.answer("order_score", request, at: at, session: session)) == [
                "amount_total=40", "web_share=0.75", "over_limit=true",
            ])
        // No key, no limit: empty values, null where an input is.
        #expect(
            texts(try test.answer("order_score", #"{"region": "x"}"#, at: at)) == ["amount_total=0", "web_share=null", "over_limit=null"])
        #expect(throws: TestFailure.self) { try test.answer("order_score", #"{"region": "x", "regoin": 1}"#, at: at) }
    }

    /// Definitions that cannot work are refused at start, by name.
    @Test func impossibleDefinitions() {
        struct ZeroWindow: FeatureView {
            typealias Subject = Customer
            static func key(of order: Order) -> Customer.ID? { nil }
            let recentAmount = Aggregate.sum(\.amount, over: .sliding(.zero))
        }
        struct LongStep: FeatureView {
            typealias Subject = Customer
            static func key(of order: Order) -> Customer.ID? { nil }
            let hopping = Aggregate.sum(\.amount, over: .hopping(.hours(1), every: .hours(2)))
        }
        struct Clash: FeatureView {
            typealias Subject = Customer
            static func key(of order: Order) -> Customer.ID? { nil }
            let amount = Aggregate.sum(\.amount, over: .lifetime)
            let other = Aggregate.count(over: .lifetime).named("amount")
        }
        struct Lonely: FeatureService {
            struct Request: Codable, Sendable { var customer: Int }
            let orders = Join(CustomerOrders.self, on: { (request: Request) in CompositeKey(request.customer, "") })
            var outputs: [Output<Request>] { orders.amountTotal }
        }
        func message(@CatalogBuilder _ catalog: () -> Catalog) -> String {
            switch Result(catching: { try FeatureTest(catalog) }) {
            case .success: return ""
            case .failure(let error): return "\(error)"
            }
        }
        #expect(message { ZeroWindow.self }.contains("zero_window.recent_amount"))
        #expect(message { LongStep.self }.contains("long_step.hopping"))
        #expect(message { Clash.self }.contains("clash.other"))
        #expect(message { Lonely.self }.contains("customer_orders, which is not in the catalog"))
        #expect(
            message {
                CustomerOrders.self
                CustomerOrders.self
            }.contains("customer_orders"))
    }
}
