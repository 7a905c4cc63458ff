import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirRecords

/// An event as the naive model knows it.
struct ModelEvent: Hashable, Sendable {
    var stream: String
    var time: Int64
    var id: String
    var customer: String?
    var store: Int
    var price: Double
    var label: String
    /// For streams without ids: which one it is.
    var number: Int64 = 0

    var json: String {
        let time = TimeText.format(EventTime(microseconds: time))
        guard stream == "sales" else { return #"{"customer":"\#(customer!)","weight":\#(store),"event_time":"\#(time)"}"# }
        let customer = customer.map { "\"\($0)\"" } ?? "null"
        return
            #"{"id":"\#(id)","customer":\#(customer),"store":\#(store),"price":\#(price),"label":"\#(label)","event_time":"\#(time)"}"#
    }
}

/// Says what every value must be, in the plainest way: a scan of all events.
enum Model {
    static let minute: Int64 = 60_000_000
    static let gap = 5 * minute

    static func floor(_ time: Int64, _ step: Int64) -> Int64 {
        let rest = time % step
        return time - (rest < 0 ? rest + step : rest)
    }

    static func key(_ event: ModelEvent, _ view: String) -> String? {
        view == "store_sales" ? String(event.store) : event.customer
    }

    /// All features of an entity at a time.
    ///
    /// - Parameters:
    ///   - stored: the accepted events; those before the time count.
    ///   - session: those up to the time count.
    ///   - timeToLive: events that are older do not; nil: all do.
    static func values(
        _ view: String, key: String, at time: Int64, stored: [ModelEvent], session: [ModelEvent] = [], timeToLive: Int64?
    ) -> [FeatureValue] {
        let own = Set(stored.filter { $0.time < time } + session.filter { $0.time <= time })
            .filter { $0.time >= timeToLive.map { time - $0 } ?? .min }
            .filter { Self.key($0, view) == key && $0.stream == (view == "clicks" ? "clicks" : "sales") }
            .sorted { ($0.time, $0.id) < ($1.time, $1.id) }
        func since(_ start: Int64) -> [ModelEvent] { own.filter { $0.time >= start } }
        func sum(_ events: [ModelEvent]) -> Double { events.reduce(0) { $0 + $1.price } }
        let hour = since(time - 60 * minute)
        switch view {
        case "store_sales":
            return [.int(Int64(hour.count)), .double(sum(since(time - 120 * minute)))]
        case "clicks":
            return [.int(Int64(hour.count)), .int(own.reduce(0) { $0 + Int64($1.store) })]
        default:
            var session: [ModelEvent] = []
            var reach = time - gap
            for event in own.reversed() {
                if event.time < reach { break }
                session.append(event)
                reach = event.time - gap
            }
            return [
                .double(sum(since(time - 10 * minute))),
                hour.isEmpty ? .null : .double(sum(hour) / Double(hour.count)),
                hour.map(\.price).max().map { .double($0) } ?? .null,
                .int(Int64(Set(hour.map(\.store)).count)),
                own.last.map { .string($0.label) } ?? .null,
                .double(sum(own)),
                .int(Int64(since(floor(time - 30 * minute, 10 * minute)).count)),
                .double(sum(since(floor(time, 60 * minute)))),
                .double(sum(session)),
            ]
        }
    }

    struct ClosedWindow: Hashable {
        var kind: String
        var key: String
        var start: Int64
        var end: Int64
        var values: String
    }

    /// The windows of `Spend` that are closed at a watermark.
    static func closedWindows(
        _ events: [ModelEvent], watermark: Int64, allowedLateness: Int64, timeToLive: Int64?
    ) -> Set<ClosedWindow> {
        var closed: Set<ClosedWindow> = []
        let sales = events.filter { $0.stream == "sales" && $0.customer != nil }
        for (customer, own) in Dictionary(grouping: sales, by: { $0.customer! }) {
            var hopping: [Int64: Int] = [:]
            var tumbling: [Int64: Double] = [:]
            for event in own {
                for back in 0..<3 { hopping[floor(event.time, 10 * minute) - Int64(back) * 10 * minute, default: 0] += 1 }
                tumbling[floor(event.time, 60 * minute), default: 0] += event.price
            }
            for (start, count) in hopping where start + 30 * minute + allowedLateness <= watermark {
                closed.insert(
                    .init(kind: "hopping", key: customer, start: start, end: start + 30 * minute, values: "{\"count_hopping\":\(count)}"))
            }
            for (start, sum) in tumbling where start + 60 * minute + allowedLateness <= watermark {
                closed.insert(
                    .init(
                        kind: "tumbling", key: customer, start: start, end: start + 60 * minute,
                        values: "{\"sum_tumbling\":\(FeatureValue.double(sum).json)}"))
            }
            var session: [ModelEvent] = []
            let inOrder: [ModelEvent?] = own.sorted { $0.time < $1.time }
            for event in inOrder + [nil] {
                if let last = session.last, event.map({ $0.time > last.time + gap }) ?? true {
                    let end = last.time + gap
                    if end + allowedLateness + 1 <= watermark {
                        let sum = session.reduce(0) { $0 + ($1.time >= timeToLive.map { end - $0 } ?? .min ? $1.price : 0) }
                        closed.insert(
                            .init(
                                kind: "session", key: customer, start: session[0].time, end: end,
                                values: "{\"sum_session\":\(FeatureValue.double(sum).json)}"))
                    }
                    session = []
                }
                if let event { session.append(event) }
            }
        }
        return closed
    }
}
