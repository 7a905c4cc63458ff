import Weir

/// What a store sells in each hour of the clock. When an hour is over it is written down, and goes to the topic `store-hours`.
public struct StoreHours: FeatureView {
    public typealias Subject = Store
    public static func key(of purchase: Purchase) -> Store.ID? { purchase.store }
    public static var closedWindows: ClosedWindows? { ClosedWindows(allowedLateness: .minutes(5), topic: "store-hours") }

    let sales = Aggregate.count(over: .tumbling(.hours(1)))
    let spend = Aggregate.sum(\.price, over: .tumbling(.hours(1)))
    let bestPrice = Aggregate.max(\.price, over: .tumbling(.hours(1)))

    public init() {}
}
