import Weir

/// What the model that picks an offer at the checkout asks for.
public struct CheckoutOffer: FeatureService {
    public static let name = "checkout_offer"

    public struct Request: Codable, Sendable {
        var household: Int
        var basket: Int
        var store: Int
        /// The value of the cart as the till knows it.
        var cartValue: Double
    }

    let household = Join(HouseholdSpend.self, on: { (request: Request) in request.household })
    let basket = Join(BasketActivity.self, on: { (request: Request) in request.basket })
    let store = Join(StoreTraffic.self, on: { (request: Request) in request.store })

    public var outputs: [Output<Request>] {
        household.all
        basket.all
        store.all
        OnDemand("cart_vs_usual", household.avgPrice28d, request.cartValue) { mean, cart in cart / mean }
        OnDemand("basket_share_of_28d", basket.basketValue, household.spend28d) { basket, spend in basket / spend }
    }

    public init() {}
}
