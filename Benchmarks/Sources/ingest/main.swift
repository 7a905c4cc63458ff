// Events into both stores, synced, and what other engines do with the same file:
// `swift run -c release ingest --orders FILE [--rounds N] [--python PYTHON] [--flink PYTHON] [--purchases FILE]`.
//
// --python: an interpreter with duckdb and bytewax (its slow window gets the first 30,000 orders), --flink: one with apache-flink.
import Foundation
import Support

let rounds = Int(option("rounds") ?? "") ?? 3
let peers = repository.appendingPathComponent("Benchmarks/peers").path

func figures(_ usages: [Usage], events: Int) -> [String: Any] {
    let wall = median(usages.map(\.wallSeconds))
    let cpu = median(usages.map(\.cpuSeconds))
    return [
        "events_per_second": Int(Double(events) / wall), "events_per_cpu_second": Int(Double(events) / cpu), "wall_seconds": rounded(wall),
        "cpu_seconds": rounded(cpu),
    ]
}

/// Ingests a file into fresh directories.
func ingest(_ program: String, _ stream: String, _ file: String, events: Int, _ extra: [String] = []) throws -> [String: Any] {
    var usages: [Usage] = []
    var online = 0
    var history = 0
    for _ in 0..<rounds {
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        usages.append(try run(program, ["ingest", stream, file, "--data", directory + "/data"] + extra))
        online = diskBytes(directory + "/data/online")
        history = diskBytes(directory + "/data") - online
    }
    var report = figures(usages, events: events)
    report["peak_megabytes_with_file_pages"] = usages.map(\.peakBytes).max()! / 1_000_000
    report["online_bytes_per_event"] = online / events
    report["history_bytes_per_event"] = history / events
    return report
}

/// Runs a peer's program, which prints its own seconds: starting an interpreter is not counted.
func peer(_ python: String, _ script: String, _ arguments: [String], events: Int) throws -> [String: Any] {
    let usage = try run(python, [peers + "/" + script] + arguments)
    guard let line = usage.output.split(separator: "\n").last,
        let seconds = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Double]
    else { throw BenchmarkFailure("\(script) printed \(usage.output)") }
    return figures(
        [Usage(wallSeconds: seconds["wall_seconds"]!, cpuSeconds: seconds["cpu_seconds"]!, peakBytes: 0, output: "")], events: events)
}

/// The first lines of a file, in a file of their own.
func head(_ path: String, _ count: Int) throws -> String {
    let directory = try temporaryDirectory()
    _ = try run("/bin/sh", ["-c", "head -n \(count) \"$0\" > \"$1\"", path, directory + "/head.jsonl"])
    return directory + "/head.jsonl"
}

var report: [String: Any] = ["rounds": rounds]
if let orders = option("orders") {
    let file = try FileHandle(forReadingFrom: URL(fileURLWithPath: orders))
    var events = 0
    while let chunk = try file.read(upToCount: 1 << 24), !chunk.isEmpty { events += chunk.count { $0 == 10 } }
    report["events"] = events
    let program = repository.appendingPathComponent("Benchmarks/.build/release/orders").path
    for stream in ["orders_hourly", "orders_28d", "orders"] { report[stream] = try ingest(program, stream, orders, events: events) }
    if let flink = option("flink") {
        report["flink_tumbling"] = try peer(flink, "flink_windows.py", [orders, "tumbling"], events: events)
        let some = min(events, 500_000)
        report["flink_sliding_28d"] = try peer(flink, "flink_windows.py", [try head(orders, some), "sliding"], events: some)
    }
    if let python = option("python") {
        for query in ["tumbling", "sliding"] {
            report["duckdb_\(query)_1_thread"] = try peer(python, "duckdb_windows.py", [orders, query, "1"], events: events)
        }
        let few = try head(orders, 30_000)
        report["bytewax_tumbling"] = try peer(python, "bytewax_tumbling.py", [few, "1000"], events: 30_000)
    }
}
if option("orders") == nil || option("purchases") != nil {
    let events = try lines(of: purchases).count - 1
    report["purchases_events"] = events
    report["purchases"] = try ingest(weir, "purchases", purchases, events: events)
    report["purchases_unsynced"] = try ingest(weir, "purchases", purchases, events: events, ["--unsynced"])
}
try printJSON(report)
