// Orders of customers, and the views that the runs ask for: one stream a run, since every view of a stream is kept.
import Weir

public enum Customer: Entity {
    public typealias ID = Int
    public static let name = "customer"
}

/// What engines without a store count: orders, their sum and mean in the running hour.
public struct HourlyOrder: Event {
    public static let stream = "orders_hourly"
    public static let timestampUnit: TimestampUnit? = .milliseconds
    public static let disorder: Duration = .seconds(5)
    public var customer: Int
    public var eventTime: EventTime
    public var price: Double
}

public struct HourlySpend: FeatureView {
    public typealias Subject = Customer
    public static func key(of order: HourlyOrder) -> Int? { order.customer }
    public init() {}
    let orders1h = Aggregate.count(over: .tumbling(.hours(1)))
    let spend1h = Aggregate.sum(\.price, over: .tumbling(.hours(1)))
    let avgPrice1h = Aggregate.mean(\.price, over: .tumbling(.hours(1)))
}

/// The same over an exact sliding window of 28 days.
public struct MonthlyOrder: Event {
    public static let stream = "orders_28d"
    public static let timestampUnit: TimestampUnit? = .milliseconds
    public static let disorder: Duration = .seconds(5)
    public var customer: Int
    public var eventTime: EventTime
    public var price: Double
}

public struct MonthlySpend: FeatureView {
    public typealias Subject = Customer
    public static func key(of order: MonthlyOrder) -> Int? { order.customer }
    public init() {}
    let orders28d = Aggregate.count(over: .sliding(.days(28)))
    let spend28d = Aggregate.sum(\.price, over: .sliding(.days(28)))
    let avgPrice28d = Aggregate.mean(\.price, over: .sliding(.days(28)))
}

/// Ten features over four sliding windows: what a model asks for.
public struct Order: Event {
    public static let stream = "orders"
    public static let timestampUnit: TimestampUnit? = .milliseconds
    public static let disorder: Duration = .seconds(5)
    public var customer: Int
    public var eventTime: EventTime
    public var price: Double
}

public struct CustomerSpend: FeatureView {
    public typealias Subject = Customer
    public static func key(of order: Order) -> Int? { order.customer }
    public init() {}
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

/// The ten features as a model asks for them. The key is text, since load generators fill in numbers with leading zeros, which JSON has not.
public struct CustomerFeatures: FeatureService {
    public static let name = "customer_features"

    public struct Request: Codable, Sendable {
        var customer: String
    }

    let customer = Join(CustomerSpend.self, on: { (request: Request) in Int(request.customer) })

    public var outputs: [Output<Request>] {
        customer.all
    }

    public init() {}
}

/// Sums over one window, over five, and over twenty.
public struct OneWindowOrder: Event {
    public static let stream = "orders_1_window"
    public static let timestampUnit: TimestampUnit? = .milliseconds
    public static let disorder: Duration = .seconds(5)
    public var customer: Int
    public var eventTime: EventTime
    public var price: Double
}

public struct OneWindow: FeatureView {
    public typealias Subject = Customer
    public static func key(of order: OneWindowOrder) -> Int? { order.customer }
    public init() {}
    let spend28d = Aggregate.sum(\.price, over: .sliding(.days(28)))
}

public struct FiveWindowsOrder: Event {
    public static let stream = "orders_5_windows"
    public static let timestampUnit: TimestampUnit? = .milliseconds
    public static let disorder: Duration = .seconds(5)
    public var customer: Int
    public var eventTime: EventTime
    public var price: Double
}

public struct FiveWindows: FeatureView {
    public typealias Subject = Customer
    public static func key(of order: FiveWindowsOrder) -> Int? { order.customer }
    public init() {}
    let spend1h = Aggregate.sum(\.price, over: .sliding(.hours(1)))
    let spend1d = Aggregate.sum(\.price, over: .sliding(.days(1)))
    let spend7d = Aggregate.sum(\.price, over: .sliding(.days(7)))
    let spend14d = Aggregate.sum(\.price, over: .sliding(.days(14)))
    let spend28d = Aggregate.sum(\.price, over: .sliding(.days(28)))
}

public struct TwentyWindowsOrder: Event {
    public static let stream = "orders_20_windows"
    public static let timestampUnit: TimestampUnit? = .milliseconds
    public static let disorder: Duration = .seconds(5)
    public var customer: Int
    public var eventTime: EventTime
    public var price: Double
}

public struct TwentyWindows: FeatureView {
    public typealias Subject = Customer
    public static func key(of order: TwentyWindowsOrder) -> Int? { order.customer }
    public init() {}
    let spend1h = Aggregate.sum(\.price, over: .sliding(.hours(1)))
    let spend2h = Aggregate.sum(\.price, over: .sliding(.hours(2)))
    let spend3h = Aggregate.sum(\.price, over: .sliding(.hours(3)))
    let spend4h = Aggregate.sum(\.price, over: .sliding(.hours(4)))
    let spend6h = Aggregate.sum(\.price, over: .sliding(.hours(6)))
    let spend8h = Aggregate.sum(\.price, over: .sliding(.hours(8)))
    let spend12h = Aggregate.sum(\.price, over: .sliding(.hours(12)))
    let spend1d = Aggregate.sum(\.price, over: .sliding(.days(1)))
    let spend2d = Aggregate.sum(\.price, over: .sliding(.days(2)))
    let spend3d = Aggregate.sum(\.price, over: .sliding(.days(3)))
    let spend4d = Aggregate.sum(\.price, over: .sliding(.days(4)))
    let spend5d = Aggregate.sum(\.price, over: .sliding(.days(5)))
    let spend6d = Aggregate.sum(\.price, over: .sliding(.days(6)))
    let spend7d = Aggregate.sum(\.price, over: .sliding(.days(7)))
    let spend10d = Aggregate.sum(\.price, over: .sliding(.days(10)))
    let spend14d = Aggregate.sum(\.price, over: .sliding(.days(14)))
    let spend18d = Aggregate.sum(\.price, over: .sliding(.days(18)))
    let spend21d = Aggregate.sum(\.price, over: .sliding(.days(21)))
    let spend25d = Aggregate.sum(\.price, over: .sliding(.days(25)))
    let spend28d = Aggregate.sum(\.price, over: .sliding(.days(28)))
}
