import Foundation
import Support

/// `customer_spend`: ten features of one entity, which Redis holds precomputed in a hash, and packed into one string.
struct Lookups {
    let rounds: Int
    let requests: Int
    let log: OrderLog
    let data: String
    let redis: Server
    let live: LiveStream
    /// When Redis's numbers were computed.
    private let computedAt: Int64
    private let sample: [Int]

    static let program =
        ProcessInfo.processInfo.environment["ORDERS"]
        ?? repository.appendingPathComponent("Benchmarks/.build/release/orders").path

    /// Makes the orders and loads both servers with them.
    init(customers: Int, events: Int, spread: OrderGenerator.Spread, rounds: Int, requests: Int, directory: String) throws {
        self.rounds = rounds
        self.requests = requests
        data = directory + "/data"
        let file = directory + "/orders.jsonl"
        report("making \(events) orders of \(customers) customers")
        log = try OrderLog(customers: customers, events: events, spread: spread, to: file)
        report("Weir takes them in")
        _ = try run(Self.program, ["ingest", "orders", file, "--data", data, "--unsynced"])
        unlink(file)
        redis = try Server.redis(directory: directory)
        // Past the last order, and past those that a generator's clock may have been early by.
        computedAt = wallClock() + 1_000_000
        var random = SplitMix64(seed: 3)
        // The busiest ones, and any.
        sample = Array(0..<10) + (0..<990).map { _ in Int(random.next() % UInt64(customers)) }
        live = LiveStream(
            stream: "orders", pick: { $0.nextSkewed(below: customers) }, encode: { order, _, bytes in order.encode(into: &bytes) })
        report("Redis takes the numbers in")
        try loadRedis(packed: spread == .skewed)
    }

    private func loadRedis(packed: Bool) throws {
        let connection = try Connection(port: redis.port)
        var bytes: [UInt8] = []
        var sent = 0
        func flush() throws {
            try connection.send(bytes)
            for _ in 0..<sent { if case .error(let text) = try connection.reply() { throw BenchmarkFailure("Redis: \(text)") } }
            bytes.removeAll(keepingCapacity: true)
            sent = 0
        }
        for customer in 0..<log.customers {
            let values = log.values(of: customer, at: computedAt)
            var command = ["HSET", "customer_spend:" + Self.key(customer)]
            for (name, text) in zip(CustomerSpend.names, CustomerSpend.texts(values)) { if let text { command += [name, text] } }
            append(command: command, to: &bytes)
            sent += 1
            if packed {
                bytes.append("*3\r\n$3\r\nSET\r\n$19\r\npacked:")
                bytes += Self.key(customer).utf8
                bytes.append("\r\n$80\r\n")
                bytes += Self.packed(values)
                bytes.append("\r\n")
                sent += 1
            }
            if sent >= 2_000 { try flush() }
        }
        try flush()
    }

    /// Ten doubles, null as NaN.
    private static func packed(_ values: [Double?]) -> [UInt8] {
        values.flatMap { value in withUnsafeBytes(of: (value ?? .nan).bitPattern.littleEndian) { Array($0) } }
    }

    /// As redis-benchmark writes `__rand_int__`.
    static func key(_ customer: Int) -> String {
        let digits = String(customer)
        return String(repeating: "0", count: 12 - digits.count) + digits
    }

    static func hmget(_ key: String) -> [String] { ["HMGET", "customer_spend:" + key] + CustomerSpend.names }
    static func featuresGet(_ key: String) -> [String] { ["FEATURES.GET", "customer_features", "{\"customer\":\"\(key)\"}"] }

    func benchmark(_ connections: Int, _ pipeline: Int, _ command: (String) -> [String]) -> Load {
        .redisBenchmark(
            RedisBenchmark(
                connections: connections, pipeline: pipeline, requests: pipeline > 1 ? 3 * requests : requests, keys: log.customers,
                command: command("__rand_int__")))
    }

    var hmgetRows: [Row] {
        [("hmget_50_connections", 50, 1), ("hmget_50_connections_16_in_flight", 50, 16), ("hmget_batches_of_100_on_1_connection", 1, 100)]
            .map { name, connections, pipeline in
                Row(name: name, weir: benchmark(connections, pipeline, Self.hmget), redis: benchmark(connections, pipeline, Self.hmget))
            }
    }

    var featuresGetRows: [Row] {
        [("features_get_50_connections", 1), ("features_get_50_connections_16_in_flight", 16)].map { name, pipeline in
            Row(name: name, weir: benchmark(50, pipeline, Self.featuresGet), redis: benchmark(50, pipeline) { ["GET", "packed:" + $0] })
        }
    }

    func weir(threads: Int?) throws -> Server { try .weir(Self.program, data: data, threads: threads) }

    /// Compares 1,000 answers with brute force, of the events up to now; Redis's with that as of when they were computed.
    func check(_ server: Server, features: Bool) throws {
        let connection = try Connection(port: server.port)
        guard server.name == "weir" else { return try checkRedis(connection, packed: features) }
        var answers = Answers()
        for customer in sample {
            let key = Self.key(customer)
            try answers.read(features ? Self.featuresGet(key) : Self.hmget(key), from: connection, key: customer, events: log[customer]) {
                items in
                // FEATURES.GET answers names and values.
                features ? stride(from: 1, to: items.count, by: 2).map { items[$0] } : items
            }
        }
        try answers.check(CustomerSpend.windows, live: live, values: CustomerSpend.values)
    }

    private func checkRedis(_ connection: Connection, packed: Bool) throws {
        for customer in sample {
            let values = log.values(of: customer, at: computedAt)
            let right =
                if packed {
                    if case .bytes(Self.packed(values)) = try connection.ask(["GET", "packed:" + Self.key(customer)]) {
                        true
                    } else {
                        false
                    }
                } else {
                    try connection.ask(Self.hmget(Self.key(customer))).items().map(\.number) == values
                }
            guard right else { throw BenchmarkFailure("Redis has other numbers of \(customer)") }
        }
    }

    func compare(_ rows: [Row]) throws -> [String: Any] {
        try Contest(
            rounds: rounds, redis: redis, live: live, startWeir: weir,
            check: { server, row in try check(server, features: row.name.hasPrefix("features")) }
        ).run(rows)
    }

    /// How much of a core 1,000 events a second take by themselves: it is in the CPU of every row.
    func liveCPUShare() throws -> Double {
        let weir = try weir(threads: nil)
        defer { weir.stop() }
        try live.start(port: weir.port, rate: 1_000, batch: 10)
        sleep(1)
        let before = try weir.cpuSeconds()
        sleep(2)
        let share = (try weir.cpuSeconds() - before) / 2
        try live.stop()
        return share
    }

    /// Latency with and without a stream of events, asked at full speed and at a fixed rate.
    func whileEventsStream(rate: Double, requestRate: Double, seconds: Double) throws -> [String: Any] {
        var random = SplitMix64(seed: 5)
        let requests = (0..<1_000).map { _ in encodedCommand(Self.hmget(Self.key(Int(random.next() % UInt64(log.customers))))) }
        let loads: [(String, Load)] = [
            ("hmget_50_connections", benchmark(50, 1, Self.hmget)),
            ("hmget_\(Int(requestRate))_a_second", .pace(connections: 50, rate: requestRate, seconds: seconds, requests: requests)),
        ]
        var results = Results()
        var reached: [Double] = []
        let weir = try weir(threads: nil)
        defer { weir.stop() }
        for _ in 0..<rounds {
            for (name, load) in loads {
                try check(weir, features: false)
                results.add(name, "idle", try load.run(weir))
                // Two connections with 250 events each, a hundred times a second at 50,000.
                try live.start(port: weir.port, rate: rate, batch: max(1, Int(rate) / 200), connections: 2)
                usleep(500_000)
                try check(weir, features: false)
                results.add(name, "streaming", try load.run(weir))
                reached.append(try live.stop())
            }
        }
        var json: [String: Any] = [
            "events_per_second_asked": Int(rate), "events_per_second_reached": Int(median(reached)),
        ]
        for (name, _) in loads {
            guard let idle = results.median(name, "idle"), let streaming = results.median(name, "streaming") else { continue }
            json[name] = ["idle": idle.json, "streaming": streaming.json, "p99_ratio": rounded(streaming.p99 / idle.p99, 2)]
        }
        return json
    }

    /// The load generator of this program and redis-benchmark, both with the same load on Redis.
    func generators() throws -> [String: Any] {
        var random = SplitMix64(seed: 7)
        let commands = (0..<10_000).map { _ in encodedCommand(Self.hmget(Self.key(Int(random.next() % UInt64(log.customers))))) }
        let own = try Load.saturate(connections: 50, total: requests, requests: commands, repliesPerRequest: 1).run(redis)
        let other = try benchmark(50, 1, Self.hmget).run(redis)
        return ["own": own.json, "redis_benchmark": other.json]
    }

    /// A command that is answered by an error must fail: else the other runs would prove nothing.
    func errorsAreNoticed() throws {
        let wrong = benchmark(1, 1) { ["HMGET", "customer_spend:" + $0, "no_such_feature"] }
        let weir = try weir(threads: nil)
        defer { weir.stop() }
        do { _ = try wrong.run(weir) } catch { return }
        throw BenchmarkFailure("redis-benchmark does not notice errors")
    }

    /// What both servers take.
    func sizes() throws -> [String: Any] {
        let weir = try weir(threads: nil)
        defer { weir.stop() }
        _ = try benchmark(50, 16, Self.hmget).run(weir)
        func megabytes(_ server: Server) throws -> [String: Any] {
            let memory = try server.memory()
            return ["own_memory_megabytes": memory.ownBytes / 1_000_000, "file_pages_megabytes": memory.filePageBytes / 1_000_000]
        }
        let online = diskBytes(data + "/online")
        return [
            "weir": try megabytes(weir).merging([
                "online_store_megabytes": online / 1_000_000, "history_megabytes": (diskBytes(data) - online) / 1_000_000,
            ]) { $1 }, "redis": try megabytes(redis),
        ]
    }
}
