import Foundation
import Support

/// Orders of customers over ninety days and a spine over the same time, as CSV: equal sizes give equal bytes.
struct TrainingData {
    static let days = 90
    /// 2026-01-01T00:00:00Z, in milliseconds.
    static let start: Int64 = 1_767_225_600_000

    var events: Int
    var entities: Int
    var spine: Int
    var spread: OrderGenerator.Spread

    /// Of sizes and spread.
    var name: String { "\(events)-\(entities)-\(spine)-\(spread)" }

    func write(to folder: String) throws {
        guard events >= spine, entities > 0, events / (Self.days * 17_280) < 1_000 else {
            throw BenchmarkFailure("a spine of \(spine) rows needs as many events, which may be at most 1.5 billion")
        }
        let sampled = try writeOrders(folder + "/orders.csv")
        try writeSpine(folder + "/spine.csv", sampled: sampled)
    }

    /// An order's time in microseconds. A customer has no two at once, so that the latest is the same one everywhere: within the five
    /// seconds by which times are out of order there are fewer than a thousand numbers.
    private func time(of order: GeneratedOrder, number: Int) -> Int64 { order.time * 1_000 + Int64(number % 1_000) }

    /// - Returns: as many of the orders, evenly chosen, as the spine has rows.
    private func writeOrders(_ path: String) throws -> [(customer: Int, time: Int64)] {
        var sampled: [(Int, Int64)] = []
        sampled.reserveCapacity(spine)
        var writer = try LineWriter(path)
        try writer.append("customer,event_time,price,quantity,channel\n")
        var random = SplitMix64(seed: 2)
        let channels: [StaticString] = ["web", "app", "shop"]
        let orders = OrderGenerator(events: events, customers: entities, start: Self.start, days: Self.days, seed: 1, spread: spread)
        for (number, order) in orders.enumerated() {
            let time = time(of: order, number: number)
            if sampled.count * events <= number * spine, sampled.count < spine { sampled.append((order.customer, time)) }
            let extra = Int(random.next() >> 8)
            try writer.append { bytes in
                bytes.append(decimal: order.customer)
                bytes.append(",")
                bytes.append(decimal: Int(time))
                bytes.append(",")
                bytes.append(cents: order.cents)
                bytes.append(",")
                bytes.append(decimal: 1 + extra % 5)
                bytes.append(",")
                bytes.append(channels[extra / 5 % 3])
                bytes.append("\n")
            }
        }
        try writer.flush()
        return sampled
    }

    /// Rows in no order: of each ten one at the time of one of the customer's orders, one at the very end of an order's window, one in a
    /// hundred of a customer who has none.
    private func writeSpine(_ path: String, sampled: [(customer: Int, time: Int64)]) throws {
        var writer = try LineWriter(path)
        try writer.append("row,label,customer,event_timestamp\n")
        var random = SplitMix64(seed: 3)
        let hour: Int64 = 3_600_000_000
        let windows = [hour, 24 * hour, 7 * 24 * hour, 28 * 24 * hour]
        for row in 0..<spine {
            var customer = 0
            var time: Int64 = 0
            if row % 10 < 2 {
                // Mixed by a prime that no size here is a multiple of.
                let order = sampled[row * 7_368_787 % spine]
                customer = order.customer
                time = order.time + (row % 10 == 0 ? 0 : windows[row / 10 % windows.count])
            } else {
                switch spread {
                case .skewed: customer = random.nextSkewed(below: entities)
                case .even: customer = Int(random.next() % UInt64(entities))
                }
                if row % 100 == 2 { customer += entities }
                time = Self.start * 1_000 + Int64(random.next() % UInt64(Self.days * 86_400_000_000))
            }
            try writer.append { bytes in
                bytes.append(decimal: row)
                bytes.append(",")
                bytes.append(decimal: Int(random.next() % 2))
                bytes.append(",")
                bytes.append(decimal: customer)
                bytes.append(",")
                bytes.append(timestamp: time)
                bytes.append("\n")
            }
        }
        try writer.flush()
    }
}

extension [UInt8] {
    /// RFC 3339 with six decimals, of microseconds since 1970.
    mutating func append(timestamp: Int64) {
        var parts = tm()
        var seconds = time_t(timestamp / 1_000_000)
        gmtime_r(&seconds, &parts)
        func append(_ value: Int, digits: Int, _ after: StaticString) {
            var divisor = 1
            for _ in 1..<digits { divisor *= 10 }
            while divisor > 0 {
                self.append(UInt8(48 + value / divisor % 10))
                divisor /= 10
            }
            self.append(after)
        }
        append(Int(parts.tm_year) + 1_900, digits: 4, "-")
        append(Int(parts.tm_mon) + 1, digits: 2, "-")
        append(Int(parts.tm_mday), digits: 2, "T")
        append(Int(parts.tm_hour), digits: 2, ":")
        append(Int(parts.tm_min), digits: 2, ":")
        append(Int(parts.tm_sec), digits: 2, ".")
        append(Int(timestamp % 1_000_000), digits: 6, "Z")
    }
}
