import ExampleFeatures
import Weir

/// For the system tests: the example's purchases with views that publish every change, with a key of two parts, and with labels.
@main struct LiveShop: FeatureStoreApp {
    var catalog: Catalog {
        LiveStores.self
        StoreDepartments.self
        StoreNext.self
        StoreForecast.self
    }
}

/// What a store sells next.
struct StoreNext: FeatureView {
    typealias Subject = Store
    static func key(of purchase: Purchase) -> Store.ID? { purchase.store }

    let salesNextDay = Aggregate.count(over: .following(.days(1)))
    let spendNextDay = Aggregate.sum(\.price, over: .following(.days(1)))
}

/// A model that predicts tomorrow's sales of a store.
struct StoreForecast: FeatureService {
    static let name = "store_forecast"
    struct Request: Codable, Sendable { var store: Int }

    let live = Join(LiveStores.self, on: { (request: Request) in request.store })
    let next = Join(StoreNext.self, on: { (request: Request) in request.store })

    var outputs: [Output<Request>] { live.sales }
    var labels: [Output<Request>] { next.all }
}

enum StoreDepartment: Entity {
    typealias ID = CompositeKey<Int, String>
    static let name = "store_department"
    static let joinKeys = ["store", "department"]
}

struct StoreDepartments: FeatureView {
    typealias Subject = StoreDepartment
    static func key(of purchase: Purchase) -> StoreDepartment.ID? { CompositeKey(purchase.store, purchase.department) }

    let departmentSales = Aggregate.count(over: .lifetime)
}

struct LiveStores: FeatureView {
    typealias Subject = Store
    static func key(of purchase: Purchase) -> Store.ID? { purchase.store }
    static var closedWindows: ClosedWindows? { ClosedWindows(allowedLateness: .minutes(5), topic: "live-hours", emits: .updates) }
    static var updatesTopic: String? { "live-stores" }

    let hourlySales = Aggregate.count(over: .tumbling(.hours(1)))
    let hourlySpend = Aggregate.sum(\.price, over: .tumbling(.hours(1)))
    let sales = Aggregate.count(over: .lifetime)
}
