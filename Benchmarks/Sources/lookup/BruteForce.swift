import Foundation
import Support

/// What the checks know of an event: its time in microseconds since 1970, and its price.
struct PricedEvent: Equatable {
    var time: Int64
    var price: Double
}

/// Count, exact sum, and extrema of prices.
struct Totals {
    var count = 0
    /// In units of 2^-59, of which every price of whole cents is a multiple: its last bit is at least 2^-59, since 0.01 has 53 bits.
    private var units: Int128 = 0
    private(set) var min: Double?
    private(set) var max: Double?

    mutating func add(_ price: Double) {
        count += 1
        if price != 0 {
            let shift = Int(price.exponent) + 59 - 52
            precondition(shift >= 0 && shift < 64, "prices are whole cents")
            let magnitude = Int128(price.significandBitPattern | 1 << 52) << shift
            units += price < 0 ? -magnitude : magnitude
        }
        min = Swift.min(min ?? price, price)
        max = Swift.max(max ?? price, price)
    }

    /// The exact sum, rounded once to nearest-even.
    var sum: Double { Double(units) * 0x1p-59 }
    var mean: Double? { count == 0 ? nil : sum / Double(count) }
}

let hour: Int64 = 3_600_000_000
let day = 24 * hour

/// Totals of an entity's events over sliding windows that end at one time: each event looked at anew.
struct SlidingTotals {
    let windows: [Int64]
    let time: Int64
    private(set) var totals: [Totals]

    init(_ windows: [Int64], at time: Int64) {
        self.windows = windows
        self.time = time
        totals = windows.map { _ in Totals() }
    }

    /// Counts the event in the windows whose `[time − window, time)` has it.
    mutating func add(_ event: PricedEvent) {
        let age = time - event.time
        guard age > 0 else { return }
        for index in windows.indices where age <= windows[index] { totals[index].add(event.price) }
    }

    /// All that an answer may be that was given between two times: windows move, and events that were pushed just now may or may not count.
    ///
    /// - Parameter live: pushed events in their order; `certain` of them must count.
    static func possible(
        _ windows: [Int64], events: ArraySlice<PricedEvent>, live: [PricedEvent], certain: Int, from start: Int64, to end: Int64
    ) -> [[Totals]] {
        var times: Set<Int64> = [start]
        for event in events + live {
            // An event counts from the microsecond after it to as long after it as the window is.
            for change in [event.time + 1] + windows.map({ event.time.addingReportingOverflow($0).partialValue + 1 })
            where change > start && change <= end { times.insert(change) }
        }
        return times.sorted().flatMap { time in
            var sliding = SlidingTotals(windows, at: time)
            for event in events { sliding.add(event) }
            var possible: [[Totals]] = []
            for (index, event) in live.enumerated() {
                if index >= certain { possible.append(sliding.totals) }
                sliding.add(event)
            }
            return possible + [sliding.totals]
        }
    }
}

/// Microseconds since 1970.
func wallClock() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1_000
}

/// The ten features of `customer_spend`.
enum CustomerSpend {
    static let names = [
        "orders_1h", "spend_1h", "orders_1d", "spend_1d", "avg_price_7d", "max_price_7d", "orders_28d", "spend_28d", "avg_price_28d",
        "max_price_28d",
    ]
    static let windows = [hour, day, 7 * day, 28 * day]

    static func values(_ totals: [Totals]) -> [Double?] {
        let (hour, day, week, month) = (totals[0], totals[1], totals[2], totals[3])
        return [
            Double(hour.count), hour.sum, Double(day.count), day.sum, week.mean, week.max, Double(month.count), month.sum, month.mean,
            month.max,
        ]
    }

    /// As Weir writes them: counts without a point.
    static func texts(_ values: [Double?]) -> [String?] {
        zip(names, values).map { name, value in value.map { name.hasPrefix("orders") ? "\(Int($0))" : "\($0)" } }
    }
}
