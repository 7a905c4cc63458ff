import Support

/// A load on one server.
enum Load {
    case redisBenchmark(RedisBenchmark)
    /// Requests that redis-benchmark cannot make.
    case saturate(connections: Int, total: Int, requests: [[UInt8]], repliesPerRequest: Int)
    case pace(connections: Int, rate: Double, seconds: Double, requests: [[UInt8]])

    /// Runs it, with the server's CPU.
    func run(_ server: Server) throws -> Timing {
        let before = try server.cpuSeconds()
        var timing: Timing
        let count: Int
        switch self {
        case .redisBenchmark(let benchmark):
            timing = try benchmark.run(port: server.port)
            count = benchmark.requests
        case .saturate(let connections, let total, let requests, let replies):
            timing = try LoadGenerator.saturate(
                port: server.port, connections: connections, total: total, requests: requests, repliesPerRequest: replies)
            count = total
        case .pace(let connections, let rate, let seconds, let requests):
            timing = try LoadGenerator.pace(port: server.port, connections: connections, rate: rate, seconds: seconds, requests: requests)
            count = Int(rate * seconds)
        }
        timing.serverCPU = (try server.cpuSeconds() - before) / Double(count) * 1e6
        return timing
    }
}

/// What Weir is asked, and what Redis is asked in its stead.
struct Row {
    var name: String
    var weir: Load
    var redis: Load
}

/// The timings of rows, gathered over rounds.
struct Results {
    private var timings: [String: [String: [Timing]]] = [:]

    mutating func add(_ row: String, _ server: String, _ timing: Timing) {
        timings[row, default: [:]][server, default: []].append(timing)
        report("\(row), \(server): \(Int(timing.requestsPerSecond))/s, p99 \(timing.p99) ms, \(rounded(timing.serverCPU, 1)) us")
    }

    func median(_ row: String, _ server: String) -> Timing? {
        guard let rounds = timings[row]?[server], !rounds.isEmpty else { return nil }
        func middle(_ figure: (Timing) -> Double) -> Double { Support.median(rounds.map(figure)) }
        return Timing(
            requestsPerSecond: middle(\.requestsPerSecond), p50: middle(\.p50), p99: middle(\.p99), serverCPU: middle(\.serverCPU))
    }

    /// Medians, and Weir's ratios to Redis; those of other numbers of threads beside them.
    func json(_ row: Row) -> [String: Any] {
        guard let servers = timings[row.name], let redis = median(row.name, "redis") else { return [:] }
        var result: [String: Any] = ["redis": redis.json]
        for server in servers.keys where server != "redis" {
            guard let weir = median(row.name, server) else { continue }
            result[server] = weir.json.merging([
                "requests_ratio": rounded(weir.requestsPerSecond / redis.requestsPerSecond, 2),
                "p99_ratio": rounded(weir.p99 / redis.p99, 2),
                "server_cpu_ratio": rounded(weir.serverCPU / redis.serverCPU, 2),
            ]) { $1 }
        }
        let best = servers.keys.filter { $0 != "redis" }.compactMap { median(row.name, $0)?.requestsPerSecond }.max()
        if let best { result["best_requests_ratio"] = rounded(best / redis.requestsPerSecond, 2) }
        return result
    }
}

/// Both servers, asked in turn, round by round.
struct Contest {
    let rounds: Int
    let redis: Server
    let live: LiveStream
    /// - Parameter threads: that answer lookups; nil is the default.
    let startWeir: (_ threads: Int?) throws -> Server
    /// Compares a server's answers with what they should be.
    let check: (Server, Row) throws -> Void

    /// Weir is asked as it is by default, beside Redis, and with one thread; meanwhile 1,000 events a second arrive in it.
    func run(_ rows: [Row]) throws -> [String: Any] {
        var results = Results()
        for round in 0..<rounds {
            for threads in [nil, 1] {
                let weir = try startWeir(threads)
                defer { weir.stop() }
                for row in rows {
                    func askWeir() throws {
                        try live.start(port: weir.port, rate: 1_000, batch: 10)
                        try check(weir, row)
                        results.add(row.name, threads == nil ? "weir" : "weir_1_thread", try row.weir.run(weir))
                        try live.stop()
                    }
                    func askRedis() throws {
                        guard threads == nil else { return }
                        try check(redis, row)
                        results.add(row.name, "redis", try row.redis.run(redis))
                    }
                    // Neither is always first.
                    if round % 2 == 0 { try askRedis() }
                    try askWeir()
                    if round % 2 == 1 { try askRedis() }
                }
            }
        }
        return Dictionary(uniqueKeysWithValues: rows.map { ($0.name, results.json($0)) })
    }
}
