import Weir

/// For the system tests of times to live: a stream that keeps ten days, and views that see two days of it, or all.
@main struct RetentionShop: FeatureStoreApp {
    var catalog: Catalog {
        RiderActivity.self
        CityRides.self
        RiderNext.self
        RideOffer.self
    }
}

struct Ride: Event {
    static let stream = "rides"
    static var timeToLive: Duration? { .days(10) }
    var id: String
    var rider: String
    var city: Int
    var fare: Double
    var eventTime: EventTime
}

enum Rider: Entity {
    typealias ID = String
    static let name = "rider"
}

enum City: Entity {
    typealias ID = Int
    static let name = "city"
}

struct RiderActivity: FeatureView {
    typealias Subject = Rider
    static var timeToLive: Duration? { .days(2) }
    static func key(of ride: Ride) -> String? { ride.rider }

    let fares1d = Aggregate.sum(\.fare, over: .sliding(.days(1)))
    let rides = Aggregate.count(over: .lifetime)
    let lastCity = Aggregate.last(\.city)
    let tripRides = Aggregate.count(over: .session(gap: .hours(6)))
    let ridesHopping = Aggregate.count(over: .hopping(.hours(12), every: .hours(1)))
}

struct CityRides: FeatureView {
    typealias Subject = City
    static func key(of ride: Ride) -> Int? { ride.city }
    static var closedWindows: ClosedWindows? { ClosedWindows(allowedLateness: .minutes(30)) }

    let cityRides3d = Aggregate.count(over: .sliding(.days(3)))
    let cityFares3d = Aggregate.sum(\.fare, over: .sliding(.days(3)))
    let hourlyRides = Aggregate.count(over: .tumbling(.hours(1)))
}

/// What a rider does next.
struct RiderNext: FeatureView {
    typealias Subject = Rider
    static func key(of ride: Ride) -> String? { ride.rider }

    let ridesNextDay = Aggregate.count(over: .following(.days(1)))
}

struct RideOffer: FeatureService {
    static let name = "ride_offer"
    struct Request: Codable, Sendable {
        var rider: String?
        var city: Int?
    }

    let rider = Join(RiderActivity.self, on: { (request: Request) in request.rider })
    let city = Join(CityRides.self, on: { (request: Request) in request.city })
    let next = Join(RiderNext.self, on: { (request: Request) in request.rider })

    var outputs: [Output<Request>] {
        rider.all
        city.all
    }
    var labels: [Output<Request>] { next.all }
}
