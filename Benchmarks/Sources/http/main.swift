// POST /get-online-features against Feast's own server under wrk, in turn, medians of rounds:
// `swift run -c release http [--purchases FILE] [--events N] [--rounds N] [--seconds N] [--connections N] [--feast PYTHON]
//  [--feast-store sqlite|redis://HOST:PORT] [--feast-workers N] [--without-feast yes]`.
//
// By default a hundred thousand customers with the ten features of `CustomerSpend`, as of the last order; with --purchases the example's
// households. Feast holds the values that Weir has at that moment.
import Foundation
import Support

let rounds = Int(option("rounds") ?? "") ?? 3
let seconds = option("seconds") ?? "5"
let connections = option("connections") ?? "16"
let peers = repository.appendingPathComponent("Benchmarks/peers").path
let python = option("feast") ?? repository.appendingPathComponent(".venv-feast/bin/python").path
let directory = try temporaryDirectory()
defer { try? FileManager.default.removeItem(atPath: directory) }

struct Workload {
    var program: String
    var entity: String
    var view: String
    var features: [String]
    var keys: [Int]
}

/// Makes the store that is asked.
func prepare() throws -> Workload {
    if option("purchases") != nil {
        _ = try run(weir, ["ingest", "purchases", purchases, "--data", directory + "/data", "--unsynced"])
        let keys = Set(
            try lines(of: purchases).dropFirst().compactMap { Int($0.split(separator: ",", omittingEmptySubsequences: false)[1]) })
        return Workload(
            program: weir, entity: "household", view: "household_spend",
            features: [
                "avg_price_28d", "spend_28d", "purchases_28d", "min_price_28d", "max_price_28d", "baskets_28d", "spend_7d", "spend_1h",
                "spend_today", "purchases_lifetime",
            ], keys: keys.sorted())
    }
    let programs = repository.appendingPathComponent("Benchmarks/.build/release").path
    let orders = directory + "/orders.jsonl"
    // Thirty events an entity over 28 days, skewed.
    _ = try run(programs + "/generate", ["--out", orders, "--events", option("events") ?? "3000000", "--days", "28"])
    _ = try run(programs + "/orders", ["ingest", "orders", orders, "--data", directory + "/data", "--unsynced"])
    var keys: Set<Int> = []
    for line in try lines(of: orders) { keys.insert(Int(line.dropFirst(12).prefix { $0 != "," })!) }
    return Workload(
        program: programs + "/orders", entity: "customer", view: "customer_spend",
        features: [
            "orders_1h", "spend_1h", "orders_1d", "spend_1d", "avg_price_7d", "max_price_7d", "orders_28d", "spend_28d", "avg_price_28d",
            "max_price_28d",
        ], keys: keys.sorted())
}

func start(_ program: String, _ arguments: [String], output: Pipe? = nil) throws -> Process {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: program)
    process.arguments = arguments
    process.standardOutput = output ?? FileHandle.nullDevice
    if output == nil { process.standardError = FileHandle.nullDevice }
    try process.run()
    return process
}

/// User and system time of a process and of those that it started.
func cpuSeconds(_ process: Int32) -> Double {
    var times: [Int32: (parent: Int32, ticks: Double)] = [:]
    for name in (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? [] {
        guard let number = Int32(name), let text = try? String(contentsOfFile: "/proc/\(number)/stat", encoding: .utf8),
            let fields = text.split(separator: ")").last?.split(separator: " "), fields.count > 14
        else { continue }
        // Behind the name: state, parent, …, and utime and stime as the twelfth and thirteenth.
        times[number] = (Int32(fields[1])!, Double(fields[11])! + Double(fields[12])!)
    }
    func total(_ number: Int32) -> Double {
        (times[number]?.ticks ?? 0) + times.filter { $0.value.parent == number }.keys.reduce(0) { $0 + total($1) }
    }
    return total(process) / Double(sysconf(Int32(_SC_CLK_TCK)))
}

let workload = try prepare()
let keysFile = directory + "/keys"
try workload.keys.map(String.init).joined(separator: "\n").write(toFile: keysFile, atomically: true, encoding: .utf8)

let output = Pipe()
let server = try start(
    workload.program, ["run", "--data", directory + "/data", "--port", "0", "--http", "0", "--clock", "event"], output: output)
defer { server.terminate(); server.waitUntilExit() }
let line = String(decoding: output.fileHandleForReading.availableData, as: UTF8.self)
guard let match = line.firstMatch(of: /HTTP on [^:]*:(\d+)/) else { throw BenchmarkFailure("not ready: \(line)") }
let weirAddress = "http://127.0.0.1:\(match.1)"

func values(_ address: String, _ keys: [Int]) throws -> [[Double?]] {
    let body: [String: Any] = [
        "features": workload.features.map { "\(workload.view):\($0)" }, "entities": [workload.entity: keys],
    ]
    let text = String(decoding: try JSONSerialization.data(withJSONObject: body), as: UTF8.self)
    let answer = try run("curl", ["-sf", "-H", "Content-Type: application/json", "-d", text, address + "/get-online-features"]).output
    guard let object = try JSONSerialization.jsonObject(with: Data(answer.utf8)) as? [String: Any],
        let names = (object["metadata"] as? [String: Any])?["feature_names"] as? [String],
        let results = object["results"] as? [[String: Any]]
    else { throw BenchmarkFailure("\(address) answered \(answer.prefix(200))") }
    return try workload.features.map { feature in
        guard let place = names.firstIndex(of: feature), let values = results[place]["values"] as? [Any] else {
            throw BenchmarkFailure("\(address) gave no \(feature)")
        }
        return values.map { ($0 as? NSNumber)?.doubleValue }
    }
}

var feast: Process?
var feastAddress = ""
defer {
    feast?.terminate()
    feast?.waitUntilExit()
}
if option("without-feast") == nil {
    let repositoryPath = directory + "/feast"
    _ = try run(
        python,
        [
            peers + "/feast_repository.py", repositoryPath, "--weir", weirAddress, "--view", workload.view, "--entity", workload.entity,
            "--features", workload.features.joined(separator: ","), "--keys", keysFile, "--store", option("feast-store") ?? "sqlite",
        ])
    feastAddress = "http://127.0.0.1:6566"
    feast = try start(
        URL(fileURLWithPath: python).deletingLastPathComponent().appendingPathComponent("feast").path,
        // It would start its worker anew after a thousand requests, and cut connections with that.
        [
            "-c", repositoryPath, "serve", "-h", "127.0.0.1", "-p", "6566", "--no-access-log", "--max-requests", "1000000000", "-w",
            option("feast-workers") ?? "1",
        ])
    let deadline = Date() + 60
    while (try? run("curl", ["-sf", feastAddress + "/health"])) == nil {
        guard Date() < deadline else { throw BenchmarkFailure("Feast's server does not come up") }
        Thread.sleep(forTimeInterval: 0.2)
    }
    // Both have the same values.
    let some = (0..<100).map { workload.keys[$0 * workload.keys.count / 100] }
    guard try values(weirAddress, some) == values(feastAddress, some) else { throw BenchmarkFailure("the answers differ") }
}

struct Figures {
    var perSecond: [Double] = []
    var cpu: [Double] = []
    var p50: [Double] = []
    var p99: [Double] = []

    var report: [String: Any] {
        [
            "requests_per_second": rounded(median(perSecond), 1), "server_cpu_microseconds_per_request": rounded(median(cpu) * 1e6, 1),
            "p50_ms": rounded(median(p50)), "p99_ms": rounded(median(p99)),
        ]
    }
}

func measure(_ address: String, _ process: Int32, batch: Int, _ figures: inout Figures) throws {
    let before = cpuSeconds(process)
    let usage = try run(
        "wrk",
        [
            "-t", "1", "-c", connections, "-d", seconds + "s", "--timeout", "30s", "-s", peers + "/online_features.lua", address, "--",
            keysFile,
            "\(batch)", workload.entity, workload.view,
        ] + workload.features)
    let cpu = cpuSeconds(process) - before
    guard let line = usage.output.split(separator: "\n").last,
        let result = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: NSNumber],
        let requests = result["requests"]?.doubleValue, requests > 0, result["errors"]?.intValue == 0
    else { throw BenchmarkFailure("wrk printed \(usage.output)") }
    figures.perSecond.append(requests / result["seconds"]!.doubleValue)
    figures.cpu.append(cpu / requests)
    figures.p50.append(result["p50_ms"]!.doubleValue)
    figures.p99.append(result["p99_ms"]!.doubleValue)
}

var report: [String: Any] = ["rounds": rounds, "connections": Int(connections) ?? 0, "entities": workload.keys.count]
for (name, batch) in [("one_entity", 1), ("100_entities", 100)] {
    var own = Figures()
    var peer = Figures()
    for _ in 0..<rounds {
        try measure(weirAddress, server.processIdentifier, batch: batch, &own)
        if let feast { try measure(feastAddress, feast.processIdentifier, batch: batch, &peer) }
    }
    var figures: [String: Any] = ["weir": own.report]
    if feast != nil {
        figures["feast"] = peer.report
        figures["ratio"] = rounded(median(own.perSecond) / median(peer.perSecond), 1)
        figures["cpu_ratio"] = rounded(median(peer.cpu) / median(own.cpu), 1)
    }
    report[name] = figures
}
try printJSON(report)
