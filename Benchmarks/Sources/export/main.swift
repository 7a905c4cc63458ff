// Training sets by Weir, DuckDB, Polars and Feast from the same data and spine, in turn, medians of rounds:
// `swift run -c release export [--events N] [--entities N] [--spine N] [--rounds N] [--quick] [--even]
//  [--workloads latest,month,ten,feast,checkout] [--engines weir,duckdb,polars] [--weir-options OPTIONS]
//  [--directory DIR] [--python PYTHON] [--purchases FILE]`.
//
// latest: the latest price, quantity and channel as of each row of the spine. month: count, sum and mean of 28 days. ten: ten features
//   over windows of an hour, a day, 7 and 28 days. By default from ten million orders of 100,000 customers over ninety days, skewed (the
//   busiest tenth has about half of them; --even: all have as many), for a spine of a million rows in no order.
// feast: the same as month, by Weir and by Feast's `get_historical_features`, from at most a million orders of 10,000 customers and a
//   spine of 100,000 rows. Customers have as many orders each: skewed ones cost Feast 25 times as much, and 17 GB. Feast's values
//   are computed ahead of time, which is not counted; `feast_at_orders`, half as many of them, are not exact and not compared.
// checkout: `checkout_offer` of the example over the purchases (--purchases FILE), by Weir alone.
//
// Weir reads its history (SQLite, ingested before), the others Parquet files; all write CSV, DuckDB and Polars on two threads, rows in any
// order that suits them. Weir's time is that of its process, the others' begins when Python and they are loaded. All values are
// compared. Memory is the process's peak; anonymous memory is what the kernel cannot take back.
//
// --directory keeps data and store there, and takes them from there. --weir-options: more arguments of `export`, separated by spaces.
// --quick: a tenth of everything and one round. The peers: `Scripts/setup peers`.
import Foundation
import Support

/// Says on stderr how far it is.
func report(_ text: String) { FileHandle.standardError.write(Data((text + "\n").utf8)) }

struct Workload {
    var name: String
    var features: [String]

    static let latest = Workload(name: "latest", features: ["last_price", "last_quantity", "last_channel"])
    static let month = Workload(name: "month", features: ["orders_28d", "spend_28d", "avg_price_28d"])
    static let ten = Workload(
        name: "ten",
        features: [
            "orders_1h", "spend_1h", "orders_1d", "spend_1d", "avg_price_7d", "max_price_7d", "orders_28d", "spend_28d", "avg_price_28d",
            "max_price_28d",
        ])
}

/// One who makes a training set of a folder's data.
struct Engine {
    var name: String
    /// Whether its values are exact.
    var isCompared = true
    /// Makes the training set; its own account of seconds is in what it prints, or it has none.
    var join: (_ workload: Workload, _ out: String) throws -> Usage
}

/// What the runs of one engine took.
struct Figures {
    var seconds: [Double] = []
    var usages: [Usage] = []

    mutating func add(_ usage: Usage) throws {
        let printed = usage.output.split(separator: "\n").last.flatMap {
            try? JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Double]
        }
        seconds.append(printed?["seconds"] ?? usage.wallSeconds)
        usages.append(usage)
    }

    func json(rows: Int) -> [String: Any] {
        [
            "seconds": rounded(median(seconds)), "rows_per_second": Int(Double(rows) / median(seconds)),
            "process_seconds": rounded(median(usages.map(\.wallSeconds))), "cpu_seconds": rounded(median(usages.map(\.cpuSeconds))),
            "peak_anonymous_megabytes": usages.compactMap(\.peakAnonymousBytes).max().map { $0 / 1_000_000 } ?? 0,
            "peak_resident_megabytes": usages.map(\.peakBytes).max()! / 1_000_000,
        ]
    }
}

/// Lets engines make a workload's training set in turn; compares all with the first one's.
func contest(_ workload: Workload, _ engines: [Engine], rows: Int, rounds: Int, folder: String) throws -> [String: Any] {
    var figures: [String: Figures] = [:]
    for round in 0..<rounds {
        var first: (name: String, table: FeatureTable)?
        var texts: [String: Double] = [:]
        // None is always first.
        for place in engines.indices {
            let engine = engines[(place + round) % engines.count]
            let out = folder + "/training.csv"
            unlink(out)
            let usage = try engine.join(workload, out)
            try figures[engine.name, default: Figures()].add(usage)
            report("\(workload.name), \(engine.name): \(rounded(figures[engine.name]!.seconds.last!)) s")
            guard engine.isCompared else { continue }
            let table = try FeatureTable(out, features: workload.features, rows: rows, texts: &texts)
            if let first {
                try first.table.compare(with: table, (first.name, engine.name))
            } else {
                try table.testComparison()
                first = (engine.name, table)
            }
        }
    }
    var json: [String: Any] = figures.mapValues { $0.json(rows: rows) }
    if let weir = figures["weir"] {
        for (name, peer) in figures where name != "weir" {
            json["ratio_to_\(name)"] = rounded(median(peer.seconds) / median(weir.seconds), 2)
        }
    }
    return json
}

let peers = repository.appendingPathComponent("Benchmarks/peers").path
let python = option("python") ?? repository.appendingPathComponent(".venv-peers/bin/python").path
let training = repository.appendingPathComponent("Benchmarks/.build/release/training").path

/// The data, the peers' Parquet and Weir's store in a folder, made where they are not there yet.
func prepare(_ data: TrainingData, in folder: String, withStore: Bool) throws -> [String: Any] {
    func make(_ what: String, _ body: () throws -> Void) throws {
        // What was cut off is made anew.
        let mark = "\(folder)/\(what).made"
        guard !FileManager.default.fileExists(atPath: mark) else { return }
        report("making \(what) in \(folder)")
        try body()
        try "".write(toFile: mark, atomically: true, encoding: .utf8)
    }
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    try make("csv") { try data.write(to: folder) }
    try make("parquet") { _ = try run(python, [peers + "/training_duckdb.py", "prepare", folder]) }
    var json: [String: Any] = ["events": data.events, "entities": data.entities, "spine": data.spine]
    if withStore {
        try make("store") {
            try? FileManager.default.removeItem(atPath: folder + "/data")
            _ = try run(training, ["ingest", "orders", folder + "/orders.csv", "--data", folder + "/data", "--strict"])
        }
        // The newest rows stand in the write-ahead log.
        json["history_megabytes"] =
            (try fileBytes(folder + "/data/history.sqlite") + ((try? fileBytes(folder + "/data/history.sqlite-wal")) ?? 0)) / 1_000_000
    }
    json["parquet_megabytes"] = try fileBytes(folder + "/orders.parquet") / 1_000_000
    return json
}

func fileBytes(_ path: String) throws -> Int {
    var status = stat()
    guard stat(path, &status) == 0 else { throw BenchmarkFailure("\(path) is not there") }
    return Int(status.st_size)
}

func weirEngine(_ folder: String) -> Engine {
    let more = (option("weir-options") ?? "").split(separator: " ").map(String.init)
    return Engine(name: "weir") { workload, out in
        try run(
            training, ["export", workload.name, "--spine", folder + "/spine.csv", "--out", out, "--data", folder + "/data"] + more,
            watchesMemory: true)
    }
}

func peerEngine(_ name: String, _ folder: String) -> Engine {
    Engine(name: name) { workload, out in
        try run(python, ["\(peers)/training_\(name).py", workload.name, folder, out], watchesMemory: true)
    }
}

/// Feast over values that are computed ahead of time, at orders or at all moments of change.
func feastEngine(_ name: String, at moments: String, _ folder: String) throws -> Engine {
    let own = "\(folder)/\(name)"
    try FileManager.default.createDirectory(atPath: own, withIntermediateDirectories: true)
    for file in ["orders.parquet", "spine.parquet"] {
        unlink("\(own)/\(file)")
        try FileManager.default.createSymbolicLink(atPath: "\(own)/\(file)", withDestinationPath: "\(folder)/\(file)")
    }
    _ = try run(python, [peers + "/training_feast.py", "prepare", own, "--at", moments])
    return Engine(name: name, isCompared: moments == "changes") { _, out in
        try run(python, [peers + "/training_feast.py", "month", own, out], watchesMemory: true)
    }
}

func benchmark() throws {
    let quick = flag("quick")
    let data = TrainingData(
        events: try integerOption("events", default: quick ? 1_000_000 : 10_000_000),
        entities: try integerOption("entities", default: quick ? 10_000 : 100_000),
        spine: try integerOption("spine", default: quick ? 100_000 : 1_000_000), spread: flag("even") ? .even : .skewed)
    let rounds = try integerOption("rounds", default: quick ? 1 : 3)
    func choice(_ name: String, _ all: [String]) throws -> [String] {
        let chosen = option(name)?.split(separator: ",").map(String.init) ?? all
        if let unknown = chosen.first(where: { !all.contains($0) }) {
            throw BenchmarkFailure("--\(name): no such thing as \(unknown); there are \(all.joined(separator: ", "))")
        }
        return all.filter(chosen.contains)
    }
    let workloads = try choice("workloads", ["latest", "month", "ten", "feast", "checkout"])
    let engines = try choice("engines", ["weir", "duckdb", "polars"])
    guard FileManager.default.isExecutableFile(atPath: python) else {
        throw BenchmarkFailure("there is no \(python): run Scripts/setup peers, or name a Python with --python")
    }
    let directory = try option("directory") ?? temporaryDirectory()
    defer { if option("directory") == nil { try? FileManager.default.removeItem(atPath: directory) } }
    var json: [String: Any] = ["rounds": rounds]

    let own = [Workload.latest, .month, .ten].filter { workloads.contains($0.name) }
    if !own.isEmpty {
        let folder = "\(directory)/\(data.name)"
        json["data"] = try prepare(data, in: folder, withStore: engines.contains("weir"))
        for workload in own {
            json[workload.name] = try contest(
                workload, engines.map { $0 == "weir" ? weirEngine(folder) : peerEngine($0, folder) }, rows: data.spine, rounds: rounds,
                folder: folder)
        }
    }
    if workloads.contains("feast") {
        let small = TrainingData(
            events: min(data.events, 1_000_000), entities: min(data.entities, 10_000), spine: min(data.spine, 100_000), spread: .even)
        let folder = "\(directory)/\(small.name)"
        let withWeir = engines.contains("weir")
        var result = ["data": try prepare(small, in: folder, withStore: withWeir)]
        // DuckDB stands in where Weir is left out, so that Feast's values are compared.
        let all = [
            withWeir ? weirEngine(folder) : peerEngine("duckdb", folder), try feastEngine("feast", at: "changes", folder),
            try feastEngine("feast_at_orders", at: "events", folder),
        ]
        result["month"] = try contest(.month, all, rows: small.spine, rounds: rounds, folder: folder)
        json["feast"] = result
    }
    if workloads.contains("checkout"), engines.contains("weir") {
        json["checkout"] = try checkoutOffer(rows: quick ? 200 : 2_000, rounds: rounds, folder: directory + "/checkout")
    }
    try printJSON(json)
}

do { try benchmark() } catch {
    report("export: \(error)")
    exit(1)
}
