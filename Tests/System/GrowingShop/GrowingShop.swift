import ExampleFeatures
import Foundation
import Weir

/// For the system tests: a shop whose definitions grow. Which of them it has its file's name says, as if each were an executable of its own:
/// `shop`, `shop-90d` with a feature over 90 days more, `shop-closure` with another filter under the same definition, `shop-stores` with a
/// view more, `shop-pinned` with two revisions of one view side by side.
@main struct GrowingShop: FeatureStoreApp {
    static let variant = URL(fileURLWithPath: CommandLine.arguments[0]).resolvingSymlinksInPath().lastPathComponent

    var catalog: Catalog {
        switch Self.variant {
        case "shop-90d":
            GrownSpend.self
            GrownOffer.self
        case "shop-closure":
            OtherSpend.self
            OtherOffer.self
        case "shop-stores":
            Spend.self
            Stores.self
            StoreOffer.self
        case "shop-pinned":
            Spend.self
            SecondSpend.self
            PinnedOffer.self
        default:
            Spend.self
            Offer.self
        }
    }
}

struct Request: Codable, Sendable {
    var household: Int
    var cartValue: Double
}

struct Spend: FeatureView {
    typealias Subject = Household
    static func key(of purchase: Purchase) -> Household.ID? { purchase.household }

    let spend28d = Aggregate.sum(\.price, over: .sliding(.days(28)))
    let purchases28d = Aggregate.count(over: .sliding(.days(28)))
    let grocery7d = Aggregate.sum(\.price, over: .sliding(.days(7))).where { $0.department == "GROCERY" }
    let lastDepartment = Aggregate.last(\.department)
}

struct Offer: FeatureService {
    static let name = "offer"
    let spend = Join(Spend.self, on: { (request: Request) in request.household })
    var outputs: [Output<Request>] {
        spend.all
        OnDemand("cart_share", spend.spend28d, request.cartValue) { spend, cart in cart / spend }
    }
}

struct GrownSpend: FeatureView {
    typealias Subject = Household
    static let name = "spend"
    static func key(of purchase: Purchase) -> Household.ID? { purchase.household }

    let spend28d = Aggregate.sum(\.price, over: .sliding(.days(28)))
    let purchases28d = Aggregate.count(over: .sliding(.days(28)))
    let grocery7d = Aggregate.sum(\.price, over: .sliding(.days(7))).where { $0.department == "GROCERY" }
    let lastDepartment = Aggregate.last(\.department)
    let spend90d = Aggregate.sum(\.price, over: .sliding(.days(90)))
    let baskets90d = Aggregate.distinctCount(\.basket, over: .sliding(.days(90)))
}

struct GrownOffer: FeatureService {
    static let name = "offer"
    let spend = Join(GrownSpend.self, on: { (request: Request) in request.household })
    var outputs: [Output<Request>] {
        spend.all
        OnDemand("cart_share", spend.spend28d, request.cartValue) { spend, cart in cart / spend }
    }
}

struct OtherSpend: FeatureView {
    typealias Subject = Household
    static let name = "spend"
    static func key(of purchase: Purchase) -> Household.ID? { purchase.household }

    let spend28d = Aggregate.sum(\.price, over: .sliding(.days(28)))
    let purchases28d = Aggregate.count(over: .sliding(.days(28)))
    let grocery7d = Aggregate.sum(\.price, over: .sliding(.days(7))).where { $0.department != "GROCERY" }
    let lastDepartment = Aggregate.last(\.department)
}

struct OtherOffer: FeatureService {
    static let name = "offer"
    let spend = Join(OtherSpend.self, on: { (request: Request) in request.household })
    var outputs: [Output<Request>] {
        spend.all
        OnDemand("cart_share", spend.spend28d, request.cartValue) { spend, cart in cart / spend }
    }
}

struct Stores: FeatureView {
    typealias Subject = Store
    static func key(of purchase: Purchase) -> Store.ID? { purchase.store }

    let sales1d = Aggregate.count(over: .sliding(.days(1)))
    let buyers1d = Aggregate.distinctCount(\.household, over: .sliding(.days(1)))
}

struct StoreOffer: FeatureService {
    static let name = "offer"
    struct Request: Codable, Sendable {
        var household: Int
        var cartValue: Double
        var store: Int?
    }
    let spend = Join(Spend.self, on: { (request: Request) in request.household })
    let stores = Join(Stores.self, on: { (request: Request) in request.store })
    var outputs: [Output<Request>] {
        spend.all
        stores.all
        OnDemand("cart_share", spend.spend28d, request.cartValue) { spend, cart in cart / spend }
    }
}

/// The same view with other groceries: a revision of its own.
struct SecondSpend: FeatureView {
    typealias Subject = Household
    static let name = "spend"
    static let revision = 2
    static func key(of purchase: Purchase) -> Household.ID? { purchase.household }

    let spend28d = Aggregate.sum(\.price, over: .sliding(.days(28)))
    let grocery7d = Aggregate.sum(\.price, over: .sliding(.days(7))).where { $0.department != "GROCERY" }
}

struct PinnedOffer: FeatureService {
    static let name = "offer"
    let spend = Join(Spend.self, on: { (request: Request) in request.household })
    let second = Join(SecondSpend.self, on: { (request: Request) in request.household })
    var outputs: [Output<Request>] {
        spend.all
        second.grocery7d.named("other_7d")
        OnDemand("cart_share", spend.spend28d, request.cartValue) { spend, cart in cart / spend }
    }
}
