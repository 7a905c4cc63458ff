// Decoding and the engine alone, in memory, on the thread that it is started on:
// `taskset -c 0 swift run -c release engine --orders FILE [--stream NAME] [--batch EVENTS]`.
import Foundation
import Support
import Weir
import WeirTesting
import Workload

guard let path = option("orders") else { throw BenchmarkFailure("--orders FILE is missing; `generate` writes one") }
let batchEvents = Int(option("batch") ?? "") ?? 65_536
let limit = Int(option("events") ?? "") ?? .max
let streams = option("stream").map { [$0] } ?? ["orders", "orders_1_window", "orders_5_windows", "orders_20_windows"]

func test(_ stream: String) throws -> FeatureTest {
    switch stream {
    case "orders_hourly": try FeatureTest { HourlySpend.self }
    case "orders_28d": try FeatureTest { MonthlySpend.self }
    case "orders_1_window": try FeatureTest { OneWindow.self }
    case "orders_5_windows": try FeatureTest { FiveWindows.self }
    case "orders_20_windows": try FeatureTest { TwentyWindows.self }
    default: try FeatureTest { CustomerSpend.self }
    }
}

let data = try Data(contentsOf: URL(fileURLWithPath: path), options: .alwaysMapped)
var report: [String: Any] = ["batch_events": batchEvents]
for stream in streams {
    let test = try test(stream)
    var decoding = Duration.zero
    var adding = Duration.zero
    var events = 0
    try data.withUnsafeBytes { bytes in
        var position = 0
        while position < bytes.count, events < limit {
            var end = position
            var lines = 0
            while lines < batchEvents, end < bytes.count {
                guard let newline = memchr(bytes.baseAddress! + end, 10, bytes.count - end) else { break }
                end = UnsafeRawPointer(newline) - bytes.baseAddress! + 1
                lines += 1
            }
            let start = ContinuousClock.now
            let decoded = try test.decode(stream, lines: UnsafeRawBufferPointer(rebasing: bytes[position..<end]))
            let middle = ContinuousClock.now
            try test.add(decoded)
            adding += ContinuousClock.now - middle
            decoding += middle - start
            events += decoded.count
            position = end
        }
    }
    func nanoseconds(_ time: Duration) -> Double { rounded(Double(time / .nanoseconds(1)) / Double(events), 1) }
    report[stream] = [
        "events": events, "decode_nanoseconds_per_event": nanoseconds(decoding), "engine_nanoseconds_per_event": nanoseconds(adding),
        "decoded_per_second": Int(1e9 / nanoseconds(decoding)), "engine_events_per_second": Int(1e9 / nanoseconds(adding)),
    ]
}
try printJSON(report)
