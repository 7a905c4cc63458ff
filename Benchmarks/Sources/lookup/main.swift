// Lookups of windows that are computed when asked for, against Redis that returns stored numbers:
// `swift run -c release lookup [--rounds N] [--requests N] [--quick] [--sections lookups,stream,checkout]
//  [--entities10m] [--purchases FILE]`.
//
// Starts Debian's redis-server (in memory alone) and Weir (release builds: `orders` of this package or what ORDERS names;
// for checkout_offer `weir` or what WEIR names), loads both with the same data and asks both in turn with the same redis-benchmark
// commands; medians of rounds.
//
// lookups: `customer_spend`, ten features over 1 hour, 1, 7 and 28 days, of 100,000 customers with 30 orders each on average (skewed: the
//   busiest has 60,000) in the 28 days up to now. HMGET against Redis's HMGET of ten precomputed numbers, FEATURES.GET against GET of one
//   string that holds them as 80 bytes. Weir with its threads as by default, and with one.
// stream: latencies while 50,000 events a second arrive against those while none do.
// checkout: `checkout_offer` of the example, its purchases moved so that they end now, against the Redis reads that it replaces in one
//   pipeline: three HMGETs, with a session an LRANGE of its five events too. By a load generator of this program.
// --entities10m: ten million customers with three orders each; takes nine minutes, 6 GB of memory and 8 GB of disk.
//   --sections "" leaves out the others.
//
// While Weir is timed 1,000 events a second arrive in it (its CPU counts them: `live_events_cpu_share` says how much); while Redis is
// timed nothing else goes on. Before each timed run 1,000 answers are compared with brute force over the same events at the time of
// asking. Error replies end the run. --quick: small data and one round, for a check of everything.
import Foundation
import Support

/// Says on stderr how far it is.
func report(_ text: String) { FileHandle.standardError.write(Data((text + "\n").utf8)) }

func benchmark() throws {
    let quick = flag("quick")
    let rounds = try integerOption("rounds", default: quick ? 1 : 3)
    let requests = try integerOption("requests", default: quick ? 5_000 : 200_000)
    let sections = Set((option("sections") ?? "lookups,stream,checkout").split(separator: ",").map(String.init))
    let unknown = sections.subtracting(["lookups", "stream", "checkout"])
    guard unknown.isEmpty else { throw BenchmarkFailure("no such section: \(unknown.sorted().joined(separator: ", "))") }
    var json: [String: Any] = ["rounds": rounds, "requests": requests]

    func withDirectory(_ body: (String) throws -> Void) throws {
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        try body(directory)
    }
    if !sections.isDisjoint(with: ["lookups", "stream"]) {
        try withDirectory { directory in
            let customers = quick ? 2_000 : 100_000
            let lookups = try Lookups(
                customers: customers, events: 30 * customers, spread: .skewed, rounds: rounds, requests: requests, directory: directory)
            defer { lookups.redis.stop() }
            if sections.contains("lookups") {
                try lookups.errorsAreNoticed()
                json["live_events_cpu_share"] = rounded(try lookups.liveCPUShare())
                json["load_generators_on_redis"] = try lookups.generators()
                json["customers"] = customers
                json["lookups"] = try lookups.compare(lookups.hmgetRows + lookups.featuresGetRows)
                json["lookups_sizes"] = try lookups.sizes()
            }
            if sections.contains("stream") {
                json["stream"] = try lookups.whileEventsStream(
                    rate: quick ? 5_000 : 50_000, requestRate: quick ? 2_000 : 10_000, seconds: quick ? 1 : 5)
            }
        }
    }
    if sections.contains("checkout") {
        try withDirectory { directory in
            json["checkout_offer"] = try CheckoutOffer(rounds: rounds, requests: requests / 4, directory: directory).compare()
        }
    }
    if flag("entities10m") {
        try withDirectory { directory in
            let customers = quick ? 20_000 : 10_000_000
            let lookups = try Lookups(
                customers: customers, events: 3 * customers, spread: .even, rounds: rounds, requests: requests, directory: directory)
            defer { lookups.redis.stop() }
            json["entities"] = [
                "customers": customers, "rows": try lookups.compare(Array(lookups.hmgetRows.prefix(2))),
                "sizes": try lookups.sizes(),
            ]
        }
    }
    try printJSON(json)
}

do { try benchmark() } catch {
    report("lookup: \(error)")
    exit(1)
}
