import ExampleFeatures
import Weir

/// For the system tests: the example's purchases with views that publish every change, and with a key of two parts.
@main struct LiveShop: FeatureStoreApp {
    var catalog: Catalog {
        LiveStores.self
        StoreDepartments.self
    }
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
