import Weir

/// How busy a store is.
public struct StoreTraffic: FeatureView {
    public typealias Subject = Store
    public static func key(of purchase: Purchase) -> Store.ID? { purchase.store }

    let storeBaskets1h = Aggregate.distinctCount(\.basket, over: .sliding(.hours(1)))
    let storeSpend1d = Aggregate.sum(\.price, over: .sliding(.days(1)))

    public init() {}
}
