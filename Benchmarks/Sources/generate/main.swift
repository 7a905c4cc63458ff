// Orders as JSON Lines: `swift run -c release generate --out FILE [--events N] [--customers N] [--seed N] [--days N]`.
//
// Customers are skewed (the busiest tenth has about half of the orders), prices are cents, times grow evenly over the days and are
// up to five seconds out of order.
import Support

guard let path = option("out") else { throw BenchmarkFailure("--out FILE is missing") }
var orders = OrderGenerator(
    events: try integerOption("events", default: 10_000_000), customers: try integerOption("customers", default: 100_000),
    start: 1_767_225_600_000,  // 2026-01-01T00:00:00Z
    days: try integerOption("days", default: 35), seed: UInt64(try integerOption("seed", default: 1)))
var writer = try LineWriter(path)
while let order = orders.next() { try writer.append(order) }
try writer.flush()
