import Weir

enum Customer: Entity {
    typealias ID = String
    static let name = "customer"
}

enum Shop: Entity {
    typealias ID = Int
    static let name = "shop"
}

struct Sale: Event {
    static let stream = "sales"
    var id: String
    var customer: String?
    var shop: Int
    var price: Double
    var quantity: Int?
    var department: String
    var eventTime: EventTime
}

struct CustomerSales: FeatureView {
    typealias Subject = Customer
    static func key(of sale: Sale) -> String? { sale.customer }

    let count1h = Aggregate.count(over: .sliding(.hours(1)))
    let spend1h = Aggregate.sum(\.price, over: .sliding(.hours(1)))
    let mean1d = Aggregate.mean(\.price, over: .sliding(.days(1)))
    let max1d = Aggregate.max(\.price, over: .sliding(.days(1)))
    let deviation1d = Aggregate.standardDeviation(\.price, over: .sliding(.days(1)))
    let quantity1d = Aggregate.sum(\.quantity, over: .sliding(.days(1)))
    let spendToday = Aggregate.sum(\.price, over: .tumbling(.hours(6)))
    let spendBefore = Aggregate.sum(\.price, over: .tumbling(.hours(6)).previous)
    let mean3d = Aggregate.mean(\.price, over: .hopping(.days(3), every: .hours(6)))
    let visit = Aggregate.count(over: .session(gap: .minutes(10)))
    let lastDepartment = Aggregate.last(\.department)
    let lastThree = Aggregate.last(3, \.department)
    let firstTwo = Aggregate.first(2, \.price)
    let departments = Aggregate.distinctCount(\.department, over: .sliding(.days(1)))
    let top = Aggregate.topK(2, \.department, over: .sliding(.days(1)))
    let median = Aggregate.quantile(0.5, of: \.price, over: .sliding(.days(1)))
    let everything = Aggregate.count(over: .lifetime)
    let ratio = Derived(\CustomerSales.spend1h, \CustomerSales.mean1d) { $0 / $1 }
}

/// A filter: events are decoded.
struct ShopSales: FeatureView {
    typealias Subject = Shop
    static func key(of sale: Sale) -> Int? { sale.shop }

    let wine1d = Aggregate.sum(\.price, over: .sliding(.days(1))).where { $0.department == "wine" }
    let lastWine = Aggregate.last(\.price).where { $0.department == "wine" }
}

/// What the customer does next.
struct CustomerNext: FeatureView {
    typealias Subject = Customer
    static func key(of sale: Sale) -> String? { sale.customer }

    let spendNext6h = Aggregate.sum(\.price, over: .following(.hours(6)))
    let salesNextHour = Aggregate.count(over: .following(.hours(1)))
}

struct Offer: FeatureService {
    static let name = "offer"
    struct Request: Codable, Sendable {
        var customer: String?
        var shop: Int
        var cart: Double
    }

    let customer = Join(CustomerSales.self, on: { (request: Request) in request.customer })
    let shop = Join(ShopSales.self, on: { (request: Request) in request.shop })
    let next = Join(CustomerNext.self, on: { (request: Request) in request.customer })

    var outputs: [Output<Request>] {
        customer.all
        shop.all
        OnDemand("cart_share", shop.wine1d, request.cart) { wine, cart in cart / wine }
    }

    var labels: [Output<Request>] {
        next.all
        OnDemand("spends_more", next.spendNext6h, customer.spend1h) { next, last in next > last }
    }
}

/// Asks for a customer only to know what comes of it.
struct Forecast: FeatureService {
    static let name = "forecast"
    struct Request: Codable, Sendable {
        var customer: String
        var shop: Int
    }

    let shop = Join(ShopSales.self, on: { (request: Request) in request.shop })
    let next = Join(CustomerNext.self, on: { (request: Request) in request.customer })

    var outputs: [Output<Request>] { shop.lastWine }
    var labels: [Output<Request>] { next.all }
}

/// A decoder of its own, which some values do not pass as they are: the history has what came, the property what became of it.
struct Reading: Event {
    static let stream = "readings"
    var id: Int
    var device: Int
    var level: Double
    var eventTime: EventTime

    enum CodingKeys: String, CodingKey { case id, device, level, eventTime }

    init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        id = try container.decode(Int.self, forKey: .id)
        device = try container.decode(Int.self, forKey: .device)
        level = max(0, try container.decode(Double.self, forKey: .level))
        eventTime = try container.decode(EventTime.self, forKey: .eventTime)
    }
}

enum Device: Entity {
    typealias ID = Int
    static let name = "device"
}

struct Levels: FeatureView {
    typealias Subject = Device
    static func key(of reading: Reading) -> Int? { reading.device }

    let total = Aggregate.sum(\.level, over: .sliding(.days(1)))
    let least = Aggregate.min(\.level, over: .sliding(.days(1)))
}

struct DeviceState: FeatureService {
    static let name = "device_state"
    struct Request: Codable, Sendable { var device: Int }
    let device = Join(Levels.self, on: { (request: Request) in request.device })
    var outputs: [Output<Request>] { device.all }
}

struct Definitions {
    @CatalogBuilder var catalog: Catalog {
        CustomerSales.self
        ShopSales.self
        CustomerNext.self
        Offer.self
        Forecast.self
        Levels.self
        DeviceState.self
    }
}
