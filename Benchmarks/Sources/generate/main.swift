// Orders as JSON Lines: `swift run -c release generate --out FILE [--events N] [--customers N] [--seed N] [--days N]`.
//
// Customers are skewed (the busiest tenth has about half of the orders), prices are cents, times grow evenly over the days and are
// up to five seconds out of order.
import Foundation
import Support

guard let path = option("out") else { throw BenchmarkFailure("--out FILE is missing") }
let events = Int(option("events") ?? "") ?? 10_000_000
let customers = Int(option("customers") ?? "") ?? 100_000
let days = Int(option("days") ?? "") ?? 35
var random = SplitMix64(seed: UInt64(option("seed") ?? "") ?? 1)
let start: UInt64 = 1_767_225_600_000  // 2026-01-01T00:00:00Z
let span = UInt64(days) * 86_400_000

struct LineWriter {
    private let file: UnsafeMutablePointer<FILE>
    private var buffer: [UInt8] = []

    init(_ path: String) throws {
        guard let file = fopen(path, "w") else { throw BenchmarkFailure("cannot write \(path)") }
        self.file = file
        buffer.reserveCapacity(1 << 20)
    }

    mutating func append(_ text: StaticString) {
        buffer.append(contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    mutating func append(_ value: UInt64) {
        if value >= 10 { append(value / 10) }
        buffer.append(UInt8(48 + value % 10))
    }

    mutating func endLine() throws {
        append("\n")
        if buffer.count > 1 << 19 { try flush() }
    }

    mutating func flush() throws {
        guard fwrite(buffer, 1, buffer.count, file) == buffer.count, fflush(file) == 0 else { throw BenchmarkFailure("cannot write") }
        buffer.removeAll(keepingCapacity: true)
    }
}

var writer = try LineWriter(path)
for number in 0..<events {
    let uniform = Double(random.next() >> 11) / 9_007_199_254_740_992
    let customer = UInt64(uniform * uniform * uniform * Double(customers))
    let inOrder = start + UInt64(number) * span / UInt64(events) + 5_000
    let cents = 1 + random.next() % 20_000
    writer.append("{\"customer\":")
    writer.append(customer)
    writer.append(",\"event_time\":")
    writer.append(inOrder - random.next() % 5_000)
    writer.append(",\"price\":")
    writer.append(cents / 100)
    writer.append(cents % 100 < 10 ? ".0" : ".")
    writer.append(cents % 100)
    writer.append("}")
    try writer.endLine()
}
try writer.flush()
