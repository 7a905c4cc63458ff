import Support

/// One call of redis-benchmark.
struct RedisBenchmark {
    var connections: Int
    /// Commands in flight on each connection.
    var pipeline: Int
    var requests: Int
    /// `__rand_int__` in the command becomes a number below this, with leading zeros.
    var keys: Int
    var command: [String]

    /// - Throws: also where the server answers any command with an error: redis-benchmark ends at once then.
    func run(port: Int) throws -> Timing {
        let arguments = ["-p", "\(port)", "--csv", "-c", "\(connections)", "-P", "\(pipeline)", "-n", "\(requests)", "-r", "\(keys)"]
        let usage = try Support.run("redis-benchmark", arguments + command)
        // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms";
        // lines of progress end with a carriage return.
        guard let row = usage.output.split(whereSeparator: \.isNewline).last else {
            throw BenchmarkFailure("redis-benchmark printed nothing")
        }
        let figures = row.split(separator: "\"").filter { $0 != "," }.suffix(7).compactMap { Double($0) }
        guard figures.count == 7 else { throw BenchmarkFailure("redis-benchmark printed \(usage.output.suffix(500))") }
        return Timing(requestsPerSecond: figures[0], p50: figures[3], p99: figures[5])
    }
}
