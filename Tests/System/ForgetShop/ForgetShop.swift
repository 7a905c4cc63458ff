import Weir

/// For the system tests of erasure: two streams, entities whose keys are text, and every place in which one can stand.
@main struct ForgetShop: FeatureStoreApp {
    var catalog: Catalog {
        CustomerActivity.self
        CustomerLogins.self
        SiteHours.self
        SiteSessions.self
        DeviceUse.self
        Welcome.self
    }
}

struct Visit: Event {
    static let stream = "visits"
    var id: String
    var customer: String?
    var site: String
    var device: Int
    var amount: Double
    var note: String?
    var eventTime: EventTime
}

/// Without ids.
struct Login: Event {
    static let stream = "logins"
    var customer: String
    var address: String
    var eventTime: EventTime
}

enum Customer: Entity {
    typealias ID = String
    static let name = "customer"
}

enum Site: Entity {
    typealias ID = String
    static let name = "site"
}

enum Device: Entity {
    typealias ID = Int
    static let name = "device"
}

struct CustomerActivity: FeatureView {
    typealias Subject = Customer
    static func key(of visit: Visit) -> String? { visit.customer }
    static var closedWindows: ClosedWindows? { ClosedWindows(topic: "customer-sessions") }
    static var updatesTopic: String? { "customer-updates" }

    let customerVisits7d = Aggregate.count(over: .sliding(.days(7)))
    let customerSpend28d = Aggregate.sum(\.amount, over: .sliding(.days(28)))
    let customerLastVisits = Aggregate.last(3, \.id)
    let customerSessionSpend = Aggregate.sum(\.amount, over: .session(gap: .minutes(30)))
    let customerVisits = Aggregate.count(over: .lifetime)
}

struct CustomerLogins: FeatureView {
    typealias Subject = Customer
    static func key(of login: Login) -> String? { login.customer }

    let customerLogins28d = Aggregate.count(over: .sliding(.days(28)))
    let customerLastAddress = Aggregate.last(\.address)
}

/// Its closed windows show ids and customers of events.
struct SiteHours: FeatureView {
    typealias Subject = Site
    static func key(of visit: Visit) -> String? { visit.site }
    static var closedWindows: ClosedWindows? { ClosedWindows(allowedLateness: .minutes(5), topic: "site-hours") }

    let siteVisits = Aggregate.count(over: .tumbling(.hours(1)))
    let siteSpend = Aggregate.sum(\.amount, over: .tumbling(.hours(1)))
    let siteFirstVisit = Aggregate.first(\.id, over: .tumbling(.hours(1)))
    let siteCustomers28d = Aggregate.topK(3, \.customer, over: .sliding(.days(28)))
    let siteLastVisit = Aggregate.last(\.id)
    let siteSpendEver = Aggregate.sum(\.amount, over: .lifetime)
}

/// The same in sessions, with every change told.
struct SiteSessions: FeatureView {
    typealias Subject = Site
    static func key(of visit: Visit) -> String? { visit.site }
    static var closedWindows: ClosedWindows? { ClosedWindows(topic: "site-sessions", emits: .updates) }
    static var updatesTopic: String? { "site-updates" }

    let rushVisits = Aggregate.count(over: .session(gap: .minutes(10)))
    let rushLastVisit = Aggregate.last(\.id, over: .session(gap: .minutes(10)))
    let siteDay = Aggregate.sum(\.amount, over: .hopping(.days(1), every: .hours(6)))
}

struct DeviceUse: FeatureView {
    typealias Subject = Device
    static func key(of visit: Visit) -> Int? { visit.device }

    let deviceSpend28d = Aggregate.sum(\.amount, over: .sliding(.days(28)))
    let deviceLastVisit = Aggregate.last(\.id)
}

struct Welcome: FeatureService {
    struct Request: Codable, Sendable {
        var customer: String
        var site: String
        var device: Int
    }

    let activity = Join(CustomerActivity.self, on: { (request: Request) in request.customer })
    let logins = Join(CustomerLogins.self, on: { (request: Request) in request.customer })
    let hours = Join(SiteHours.self, on: { (request: Request) in request.site })
    let sessions = Join(SiteSessions.self, on: { (request: Request) in request.site })
    let device = Join(DeviceUse.self, on: { (request: Request) in request.device })

    var outputs: [Output<Request>] {
        activity.all
        logins.all
        hours.all
        sessions.all
        device.all
    }
}
