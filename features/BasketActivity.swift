import Weir

/// What is in the basket of the visit that is going on.
public struct BasketActivity: FeatureView {
    public typealias Subject = Basket
    public static func key(of purchase: Purchase) -> Basket.ID? { purchase.basket }

    let itemsInBasket = Aggregate.count(over: .session(gap: .minutes(30)))
    let basketValue = Aggregate.sum(\.price, over: .session(gap: .minutes(30)))

    public init() {}
}
