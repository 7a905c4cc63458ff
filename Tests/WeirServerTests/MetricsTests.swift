import Testing
import WeirServer

@Suite struct MetricsTests {
    private func value(_ name: String, _ labels: [MetricFamily.Label], _ metrics: RequestMetrics, suffix: String = "") -> Double? {
        metrics.families().first { $0.name == name }?.samples.first { $0.suffix == suffix && $0.labels == labels }?.value
    }

    @Test func executorsAddUp() async throws {
        let metrics = RequestMetrics(protocolName: "resp", commands: ["a", "b"], executors: 3)
        await withTaskGroup(of: Void.self) { group in
            for executor in 0..<3 {
                group.addTask {
                    for _ in 0..<10_000 {
                        metrics.count(1, executor: executor)
                        metrics.observe(nanoseconds: 7_000, executor: executor)
                    }
                    metrics.countError(0, executor: executor)
                }
            }
        }
        let label = MetricFamily.Label("protocol", "resp")
        #expect(value("weir_requests_total", [label, .init("command", "b")], metrics) == 30_000)
        #expect(value("weir_requests_total", [label, .init("command", "a")], metrics) == 0)
        #expect(value("weir_request_errors_total", [label, .init("command", "a")], metrics) == 3)
        #expect(value("weir_request_duration_seconds", [label], metrics, suffix: "_count") == 30_000)
    }

    @Test func bucketsAreCumulative() {
        let metrics = RequestMetrics(protocolName: "resp", commands: ["a"], executors: 1)
        // 5 µs is the first bound, and belongs to it; 16 of 6 µs each; one beyond all bounds.
        metrics.observe(nanoseconds: 5_000, executor: 0)
        metrics.observe(nanoseconds: 96_000, count: 16, executor: 0)
        metrics.observe(nanoseconds: 60_000_000_000, executor: 0)
        metrics.observe(nanoseconds: 1, count: 0, executor: 0)
        func bucket(_ bound: String) -> Double? {
            value("weir_request_duration_seconds", [.init("protocol", "resp"), .init("le", bound)], metrics, suffix: "_bucket")
        }
        #expect(bucket("5e-06") == 1)
        #expect(bucket("1e-05") == 17)
        #expect(bucket("10") == 17)
        #expect(bucket("+Inf") == 18)
        let sum = value("weir_request_duration_seconds", [.init("protocol", "resp")], metrics, suffix: "_sum")
        #expect(sum == 60.000101)
    }

    @Test func textFormat() {
        let text = PrometheusText.format([
            MetricFamily("a_total", .counter, "One\nline \\ \"quoted\".", [.init(3, [.init("x", "a\"b\\c\nd"), .init("y", "é")])]),
            MetricFamily("nothing", .gauge, "Left out.", []),
            MetricFamily("b_seconds", .gauge, "B.", 0.25),
            MetricFamily("a_total", .counter, "Joined.", [.init(.infinity)]),
            MetricFamily("c", .gauge, "C.", [.init(.nan), .init(-.infinity), .init(1e300), .init(9_007_199_254_740_992)]),
        ])
        #expect(
            text == """
                # HELP a_total One\\nline \\\\ "quoted".
                # TYPE a_total counter
                a_total{x="a\\"b\\\\c\\nd",y="é"} 3
                a_total +Inf
                # HELP b_seconds B.
                # TYPE b_seconds gauge
                b_seconds 0.25
                # HELP c C.
                # TYPE c gauge
                c NaN
                c -Inf
                c 1e+300
                c 9007199254740992

                """)
    }

    @Test func respRequestsAreCountedByCommand() async throws {
        let backend = FakeBackend()
        try await withServer(backend) { server in
            try await offPool {
                let client = try TestClient(port: server.port)
                _ = try client.ask("HMGET", "spend:1", "total")
                _ = try client.ask("hmget", "spend:1", "total")
                _ = try client.ask("HMGET", "nope:1", "total")
                _ = try client.ask("FLUSHALL")
                _ = try client.ask("EVENTS.ADD", "purchases", "{}")
                _ = try client.ask("EVENTS.ADD", "nope", "{}")
            }
            let families = server.metricFamilies
            func count(_ name: String, _ command: String) -> Double? {
                families.first { $0.name == name }?.samples.first { $0.labels.contains(.init("command", command)) }?.value
            }
            #expect(count("weir_requests_total", "hmget") == 3)
            #expect(count("weir_request_errors_total", "hmget") == 1)
            #expect(count("weir_requests_total", "other") == 1)
            #expect(count("weir_request_errors_total", "other") == 1)
            #expect(count("weir_requests_total", "events.add") == 2)
            #expect(count("weir_request_errors_total", "events.add") == 1)
            let durations = try #require(families.first { $0.name == "weir_request_duration_seconds" })
            #expect(durations.samples.last?.value == 6)
        }
    }
}
