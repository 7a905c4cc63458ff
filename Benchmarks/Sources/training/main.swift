// A user's executable for training sets: the store that `export` of this package asks.
import Weir

enum Customer: Entity {
    typealias ID = Int
    static let name = "customer"
}

struct Order: Event {
    static let stream = "orders"
    static let timestampUnit: TimestampUnit? = .microseconds
    static let disorder: Duration = .seconds(5)
    var customer: Int
    var eventTime: EventTime
    var price: Double
    var quantity: Int
    var channel: String
}

struct LatestOrder: FeatureView {
    typealias Subject = Customer
    static func key(of order: Order) -> Int? { order.customer }
    let lastPrice = Aggregate.last(\.price, over: .lifetime)
    let lastQuantity = Aggregate.last(\.quantity, over: .lifetime)
    let lastChannel = Aggregate.last(\.channel, over: .lifetime)
}

struct CustomerSpend: FeatureView {
    typealias Subject = Customer
    static func key(of order: Order) -> Int? { order.customer }
    let orders1h = Aggregate.count(over: .sliding(.hours(1)))
    let spend1h = Aggregate.sum(\.price, over: .sliding(.hours(1)))
    let orders1d = Aggregate.count(over: .sliding(.days(1)))
    let spend1d = Aggregate.sum(\.price, over: .sliding(.days(1)))
    let avgPrice7d = Aggregate.mean(\.price, over: .sliding(.days(7)))
    let maxPrice7d = Aggregate.max(\.price, over: .sliding(.days(7)))
    let orders28d = Aggregate.count(over: .sliding(.days(28)))
    let spend28d = Aggregate.sum(\.price, over: .sliding(.days(28)))
    let avgPrice28d = Aggregate.mean(\.price, over: .sliding(.days(28)))
    let maxPrice28d = Aggregate.max(\.price, over: .sliding(.days(28)))
}

struct CustomerRequest: Codable, Sendable { var customer: Int }

/// The latest values as of each row.
struct Latest: FeatureService {
    static let name = "latest"
    typealias Request = CustomerRequest
    let customer = Join(LatestOrder.self, on: { (request: CustomerRequest) in request.customer })
    var outputs: [Output<Request>] {
        customer.all
    }
}

/// One window.
struct Month: FeatureService {
    static let name = "month"
    typealias Request = CustomerRequest
    let customer = Join(CustomerSpend.self, on: { (request: CustomerRequest) in request.customer })
    var outputs: [Output<Request>] {
        customer.orders28d
        customer.spend28d
        customer.avgPrice28d
    }
}

/// What a model asks for: ten features over four windows.
struct Ten: FeatureService {
    static let name = "ten"
    typealias Request = CustomerRequest
    let customer = Join(CustomerSpend.self, on: { (request: CustomerRequest) in request.customer })
    var outputs: [Output<Request>] {
        customer.all
    }
}

struct Training: FeatureStoreApp {
    var catalog: Catalog {
        LatestOrder.self
        CustomerSpend.self
        Latest.self
        Month.self
        Ten.self
    }
}

Training.main()
