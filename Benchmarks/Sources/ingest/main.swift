// Events into both stores, synced, and what other engines do with the same file, with ratios of events a second:
// `swift run -c release ingest --orders FILE [--rounds N] [--python PYTHON] [--flink PYTHON] [--flink-sliding N] [--purchases FILE]`.
//
// --python: an interpreter with duckdb, bytewax, quixstreams, noida-db (a broker for Quix); they get the first 100,000 orders, since
// they would take hours for all. --flink: one with apache-flink; --flink-sliding: how many orders its sliding window gets (500,000).
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

/// As many orders, over the same 35 days, in a file of their own: a window of 28 days has something to let go.
func generate(_ count: Int) throws -> String {
    let path = try temporaryDirectory() + "/orders.jsonl"
    _ = try run(
        repository.appendingPathComponent("Benchmarks/.build/release/generate").path,
        ["--out", path, "--events", "\(count)", "--days", "35"])
    return path
}

/// Plain appends to a table like the history's, in C.
func sqliteAppends(_ rows: Int) throws -> [String: Any] {
    let directory = try temporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: directory) }
    _ = try run("gcc", ["-O2", "-o", directory + "/append", peers + "/sqlite_append.c", "-lsqlite3"])
    var usages: [Usage] = []
    for _ in 0..<rounds {
        defer { for end in ["", "-wal", "-shm"] { unlink(directory + "/db" + end) } }
        usages.append(try run(directory + "/append", ["\(rows)", directory + "/db"]))
    }
    return figures(usages, events: rows)
}

func ratio(_ a: Any?, to b: Any?, _ name: String = "events_per_second") -> Double? {
    guard let a = (a as? [String: Any])?[name] as? Int, let b = (b as? [String: Any])?[name] as? Int, b > 0 else { return nil }
    return rounded(Double(a) / Double(b), 2)
}

var report: [String: Any] = ["rounds": rounds]
if let orders = option("orders") {
    let file = try FileHandle(forReadingFrom: URL(fileURLWithPath: orders))
    var events = 0
    while let chunk = try file.read(upToCount: 1 << 24), !chunk.isEmpty { events += chunk.count { $0 == 10 } }
    report["events"] = events
    let program = repository.appendingPathComponent("Benchmarks/.build/release/orders").path
    for stream in ["orders_hourly", "orders_28d", "orders"] { report[stream] = try ingest(program, stream, orders, events: events) }
    report["sqlite_appends_in_c"] = try sqliteAppends(min(events, 5_000_000))
    if let flink = option("flink") {
        report["flink_tumbling"] = try peer(flink, "flink_windows.py", [orders, "tumbling"], events: events)
        let some = Int(option("flink-sliding") ?? "") ?? 500_000
        report["flink_sliding_28d"] = try peer(
            flink, "flink_windows.py", [some < events ? try generate(some) : orders, "sliding"], events: some)
    }
    if let python = option("python") {
        for query in ["tumbling", "sliding"] {
            report["duckdb_\(query)_1_thread"] = try peer(python, "duckdb_windows.py", [orders, query, "1"], events: events)
        }
        let few = try head(orders, 100_000)
        report["bytewax_tumbling"] = try peer(python, "bytewax_tumbling.py", [few, "1000"], events: 100_000)
        report["bytewax_tumbling_dictionary_in_one_key"] = try peer(python, "bytewax_tumbling.py", [few, "100", "1", "1"], events: 100_000)
        report["quix_tumbling"] = try peer(python, "quix_tumbling.py", [few, "noida", "100000"], events: 100_000)
        report["quix_tumbling_2_processes"] = try peer(python, "quix_tumbling.py", [few, "noida", "100000", "2"], events: 100_000)
    }
    report["ratios"] = [
        "to_flink_tumbling": ratio(report["orders_hourly"], to: report["flink_tumbling"]),
        "to_flink_tumbling_per_cpu_second": ratio(report["orders_hourly"], to: report["flink_tumbling"], "events_per_cpu_second"),
        "to_flink_sliding_28d": ratio(report["orders_28d"], to: report["flink_sliding_28d"]),
        "to_bytewax_tumbling": ratio(report["orders_hourly"], to: report["bytewax_tumbling"]),
        "to_quix_tumbling": ratio(report["orders_hourly"], to: report["quix_tumbling"]),
        "history_to_sqlite_appends_in_c": ratio(report["orders_hourly"], to: report["sqlite_appends_in_c"]),
    ].compactMapValues { $0 }
}
if option("orders") == nil || option("purchases") != nil {
    let events = try lines(of: purchases).count - 1
    report["purchases_events"] = events
    report["purchases"] = try ingest(weir, "purchases", purchases, events: events)
    report["purchases_unsynced"] = try ingest(weir, "purchases", purchases, events: events, ["--unsynced"])
}
try printJSON(report)
