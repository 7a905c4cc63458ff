// The service under redis-benchmark: `swift run -c release lookup [--purchases FILE] [--requests N]`.
import Foundation
import Support

let requests = option("requests") ?? "20000"
let directory = try temporaryDirectory()
defer { try? FileManager.default.removeItem(atPath: directory) }
_ = try run(weir, ["ingest", "purchases", purchases, "--data", directory + "/data", "--unsynced"])
let last = try lines(of: purchases).last!.split(separator: ",", omittingEmptySubsequences: false)
let request = "{\"household\":\(last[1]),\"basket\":\(last[2]),\"store\":\(last[3]),\"cart_value\":20}"
let session = """
    [{"id":"s1","household":\(last[1]),"basket":\(last[2]),"store":\(last[3]),"product":1,"department":"DELI","category":"","quantity":1,\
    "price":4.5,"retail_discount":0,"coupon_discount":0,"event_time":"\(last[last.count - 1])"}]
    """

let server = Process()
server.executableURL = URL(fileURLWithPath: weir)
server.arguments = ["run", "--data", directory + "/data", "--port", "0", "--http", "0", "--clock", "event"]
let output = Pipe()
server.standardOutput = output
try server.run()
defer {
    server.terminate()
    server.waitUntilExit()
}
let line = String(decoding: output.fileHandleForReading.availableData, as: UTF8.self)
guard let match = line.firstMatch(of: /lookups on [^:]*:(\d+)/) else { throw BenchmarkFailure("not ready: \(line)") }
let port = String(match.1)

func cpuSeconds() -> Double {
    let fields = (try? String(contentsOfFile: "/proc/\(server.processIdentifier)/stat", encoding: .utf8))?.split(separator: " ") ?? []
    return fields.count > 14 ? (Double(fields[13])! + Double(fields[14])!) / Double(sysconf(Int32(_SC_CLK_TCK))) : 0
}

func measure(_ options: [String], _ command: [String]) throws -> [String: Any] {
    let before = cpuSeconds()
    let usage = try run("redis-benchmark", ["-p", port, "-n", requests, "--csv"] + options + command)
    let cpu = cpuSeconds() - before
    // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
    guard let row = usage.output.split(separator: "\n").last else { throw BenchmarkFailure("redis-benchmark printed nothing") }
    let figures = row.split(separator: "\"").filter { $0 != "," }.suffix(7).compactMap { Double($0) }
    guard figures.count == 7 else { throw BenchmarkFailure("redis-benchmark printed \(usage.output)") }
    return [
        "requests_per_second": Int(figures[0]), "p50_ms": figures[3], "p99_ms": figures[5],
        "server_cpu_microseconds_per_request": rounded(cpu / Double(requests)! * 1e6, 1),
    ]
}

let features = ["FEATURES.GET", "checkout_offer", request]
let hmget =
    ["-r", "2500", "HMGET", "household_spend:__rand_int__"]
    + ["avg_price_28d", "spend_28d", "purchases_28d", "min_price_28d", "max_price_28d", "spend_7d", "spend_1h", "spend_today"]
try printJSON([
    "features_get_50_connections": try measure(["-c", "50"], features),
    "features_get_16_in_flight": try measure(["-c", "50", "-P", "16"], features),
    "features_get_with_session_event": try measure(["-c", "50"], features + ["SESSION", "purchases", session]),
    "hmget_8_features_50_connections": try measure(["-c", "50"], hmget),
])
