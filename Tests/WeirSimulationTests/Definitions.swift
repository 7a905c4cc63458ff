import Weir
import WeirDefinitions
import WeirEngine

/// What differs from seed to seed: definitions are types, so they read it where they are made.
struct Settings: Sendable {
    var disorder = Duration.zero
    var idleTimeout: Duration? = .seconds(30)
    var alignment: Duration? = .hours(2)
    var lateness: Duration?
    var maxAhead: Duration?
    var allowedLateness = Duration.zero
    var revisionsFor: Duration?
    var emits = ClosedWindows.Emission.final
    /// Of all views.
    var timeToLive: Duration?

    @TaskLocal static var current = Settings()
}

enum Customer: Entity {
    typealias ID = String
    static let name = "customer"
}

enum Store: Entity {
    typealias ID = Int
    static let name = "store"
}

struct Sale: Event {
    static let stream = "sales"
    static var disorder: Duration { Settings.current.disorder }
    static var idleTimeout: Duration? { Settings.current.idleTimeout }
    static var alignment: Duration? { Settings.current.alignment }
    static var lateness: Duration? { Settings.current.lateness }
    static var maxAhead: Duration? { Settings.current.maxAhead }
    var id: String
    var customer: String?
    var store: Int
    var price: Double
    var label: String
    var eventTime: EventTime
}

/// Without ids: equal ones are two.
struct Click: Event {
    static let stream = "clicks"
    static var disorder: Duration { Settings.current.disorder }
    static var idleTimeout: Duration? { Settings.current.idleTimeout }
    static var alignment: Duration? { Settings.current.alignment }
    var customer: String
    var weight: Int
    var eventTime: EventTime
}

struct Spend: FeatureView {
    typealias Subject = Customer
    static func key(of sale: Sale) -> String? { sale.customer }
    static var timeToLive: Duration? { Settings.current.timeToLive }
    static var closedWindows: ClosedWindows? {
        ClosedWindows(
            allowedLateness: Settings.current.allowedLateness, revisionsFor: Settings.current.revisionsFor, topic: "spend-windows",
            emits: Settings.current.emits)
    }
    let sum10m = Aggregate.sum(\.price, over: .sliding(.minutes(10)))
    let mean1h = Aggregate.mean(\.price, over: .sliding(.hours(1)))
    let max1h = Aggregate.max(\.price, over: .sliding(.hours(1)))
    let stores1h = Aggregate.distinctCount(\.store, over: .sliding(.hours(1)))
    let lastLabel = Aggregate.last(\.label, over: .lifetime)
    let total = Aggregate.sum(\.price, over: .lifetime)
    let countHopping = Aggregate.count(over: .hopping(.minutes(30), every: .minutes(10)))
    let sumTumbling = Aggregate.sum(\.price, over: .tumbling(.hours(1)))
    let sumSession = Aggregate.sum(\.price, over: .session(gap: .minutes(5)))
}

struct StoreSales: FeatureView {
    typealias Subject = Store
    static func key(of sale: Sale) -> Int? { sale.store }
    static var timeToLive: Duration? { Settings.current.timeToLive }
    static var updatesTopic: String? { "store-sales" }
    let count1h = Aggregate.count(over: .sliding(.hours(1)))
    let sum2h = Aggregate.sum(\.price, over: .sliding(.hours(2)))
}

struct Clicks: FeatureView {
    typealias Subject = Customer
    static func key(of click: Click) -> String? { click.customer }
    static var timeToLive: Duration? { Settings.current.timeToLive }
    let count1h = Aggregate.count(over: .sliding(.hours(1)))
    let weightTotal = Aggregate.sum(\.weight, over: .lifetime)
}

func simulatedCatalog() throws -> CatalogPlan {
    struct Builder {
        @CatalogBuilder var catalog: Catalog {
            Spend.self
            StoreSales.self
            Clicks.self
        }
    }
    return try CatalogPlan(Builder().catalog)
}
