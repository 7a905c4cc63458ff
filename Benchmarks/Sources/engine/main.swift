// Decoding, the engine in memory, and the engine with the online store (synced), on the thread that it is started on:
// `taskset -c 0 swift run -c release engine (--orders FILE | --purchases FILE) [--stream NAME] [--batch EVENTS] [--events N]`.
//
// A batch is what a shard takes in one transaction when it is behind: an entity's events cost little more together than one alone.
import ExampleFeatures
import Foundation
import Support
import Weir
import WeirTesting
import Workload

let batchEvents = Int(option("batch") ?? "") ?? 262_144
let limit = Int(option("events") ?? "") ?? .max
guard let path = option("orders") ?? option("purchases") else {
    throw BenchmarkFailure("--orders FILE is missing; `generate` writes one (or --purchases FILE)")
}
let isCSV = option("orders") == nil
let streams =
    option("stream").map { [$0] }
    ?? (isCSV ? ["purchases"] : ["orders", "orders_hourly", "orders_28d", "orders_1_window", "orders_5_windows", "orders_20_windows"])

@CatalogBuilder func catalog(_ stream: String) -> Catalog {
    switch stream {
    case "purchases":
        HouseholdSpend.self
        BasketActivity.self
        StoreTraffic.self
    case "orders_hourly": HourlySpend.self
    case "orders_28d": MonthlySpend.self
    case "orders_1_window": OneWindow.self
    case "orders_5_windows": FiveWindows.self
    case "orders_20_windows": TwentyWindows.self
    default: CustomerSpend.self
    }
}

/// Calls `body` with some whole lines at a time.
func forEachBatch(_ data: Data, _ body: (UnsafeRawBufferPointer, [UInt8]) throws -> Int) throws {
    try data.withUnsafeBytes { bytes in
        func endOfLine(_ position: Int) -> Int? {
            memchr(bytes.baseAddress! + position, 10, bytes.count - position).map { UnsafeRawPointer($0) - bytes.baseAddress! + 1 }
        }
        let header = isCSV ? endOfLine(0)! : 0
        var position = header
        var events = 0
        while position < bytes.count, events < limit {
            var end = position
            var lines = 0
            while lines < batchEvents, end < bytes.count, let next = endOfLine(end) {
                end = next
                lines += 1
            }
            events += try body(UnsafeRawBufferPointer(rebasing: bytes[position..<end]), Array(bytes[..<header]))
            position = end
        }
    }
}

let data = try Data(contentsOf: URL(fileURLWithPath: path), options: .alwaysMapped)
var report: [String: Any] = ["batch_events": batchEvents]
for stream in streams {
    let directory = try temporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: directory) }
    let memory = try FeatureTest { catalog(stream) }
    let online = try FeatureTest(onlineStore: directory) { catalog(stream) }
    var decoding = Duration.zero
    var adding = Duration.zero
    var storing = Duration.zero
    var events = 0
    try forEachBatch(data) { lines, header in
        let start = ContinuousClock.now
        let decoded = try isCSV ? memory.decode(stream, csv: lines, header: header) : memory.decode(stream, lines: lines)
        decoding += ContinuousClock.now - start
        let middle = ContinuousClock.now
        try memory.add(decoded, areNew: true)
        adding += ContinuousClock.now - middle
        let last = ContinuousClock.now
        try online.add(decoded, areNew: true)
        storing += ContinuousClock.now - last
        events += decoded.count
        return decoded.count
    }
    func nanoseconds(_ time: Duration) -> Double { rounded(Double(time / .nanoseconds(1)) / Double(events), 1) }
    let size = try online.size()
    report[stream] = [
        "events": events, "decode_nanoseconds_per_event": nanoseconds(decoding), "engine_nanoseconds_per_event": nanoseconds(adding),
        "online_nanoseconds_per_event": nanoseconds(storing), "decoded_per_second": Int(1e9 / nanoseconds(decoding)),
        "engine_events_per_second": Int(1e9 / nanoseconds(adding)), "online_events_per_second": Int(1e9 / nanoseconds(storing)),
        "entities": size.entities, "online_bytes_per_entity": size.bytes / max(size.entities, 1),
        "online_bytes_per_event": rounded(Double(size.bytes) / Double(events), 1),
    ]
}
try printJSON(report)
