import NIOCore
import Synchronization

/// Counts and latencies of the requests of one protocol. Executors write, each to memory of its own and without locks; a scrape
/// reads beside them. An increment costs some nanoseconds.
package final class RequestMetrics: @unchecked Sendable {
    // The cells are atomics; what holds them never changes.

    /// Upper bounds of the latency histogram's buckets, nanoseconds; one more counts what is above.
    package static let bucketNanoseconds: [UInt64] = [
        5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000,
        100_000_000, 250_000_000, 500_000_000, 1_000_000_000, 2_500_000_000, 5_000_000_000, 10_000_000_000,
    ]

    private let protocolName: String
    private let commands: [String]
    /// For each executor, by command: requests, errors; then the buckets; then the sum of nanoseconds.
    private let cells: [UnsafeMutablePointer<Atomic<UInt64>>]
    private let buckets: Int
    private let cellCount: Int

    /// - Parameters:
    ///   - protocolName: the label `protocol`.
    ///   - commands: the labels `command`; requests are counted by their place in it.
    package init(protocolName: String, commands: [String], executors: Int) {
        self.protocolName = protocolName
        self.commands = commands
        buckets = 2 * commands.count
        let cellCount = buckets + Self.bucketNanoseconds.count + 2
        self.cellCount = cellCount
        cells = (0..<executors).map { _ in
            // Executors share no cache line, prefetched pairs included.
            let memory = UnsafeMutableRawPointer.allocate(byteCount: (cellCount * 8 + 127) / 128 * 128, alignment: 128)
            let cells = memory.bindMemory(to: Atomic<UInt64>.self, capacity: cellCount)
            for cell in 0..<cellCount { (cells + cell).initialize(to: Atomic(0)) }
            return cells
        }
    }

    deinit {
        for cells in cells {
            cells.deinitialize(count: cellCount)
            UnsafeMutableRawPointer(cells).deallocate()
        }
    }

    /// A clock for `observe`, nanoseconds.
    package static func now() -> UInt64 { NIODeadline.now().uptimeNanoseconds }

    /// Counts a request.
    package func count(_ command: Int, executor: Int) {
        cells[executor][2 * command].wrappingAdd(1, ordering: .relaxed)
    }

    /// Counts a request that was answered by an error; it is counted as a request too.
    package func countError(_ command: Int, executor: Int) {
        cells[executor][2 * command + 1].wrappingAdd(1, ordering: .relaxed)
    }

    /// Records that `count` requests took `nanoseconds` together; each counts with their mean.
    package func observe(nanoseconds: UInt64, count: Int = 1, executor: Int) {
        guard count > 0 else { return }
        let each = nanoseconds / UInt64(count)
        var bucket = 0
        while bucket < Self.bucketNanoseconds.count, each > Self.bucketNanoseconds[bucket] { bucket += 1 }
        cells[executor][buckets + bucket].wrappingAdd(UInt64(count), ordering: .relaxed)
        cells[executor][cellCount - 1].wrappingAdd(nanoseconds, ordering: .relaxed)
    }

    private func total(_ cell: Int) -> Double {
        Double(cells.reduce(0) { $0 &+ $1[cell].load(ordering: .relaxed) })
    }

    /// How often a command was asked for, and answered by an error.
    func counts(_ command: Int) -> (requests: Int, errors: Int) {
        (Int(total(2 * command)), Int(total(2 * command + 1)))
    }

    package func families() -> [MetricFamily] {
        func samples(_ offset: Int) -> [MetricFamily.Sample] {
            commands.enumerated().map { number, command in
                .init(total(2 * number + offset), MetricFamily.labels(["protocol": protocolName, "command": command]))
            }
        }
        var durations: [MetricFamily.Sample] = []
        var count = 0.0
        for bucket in 0...Self.bucketNanoseconds.count {
            count += total(buckets + bucket)
            let bound =
                bucket < Self.bucketNanoseconds.count ? PrometheusText.number(Double(Self.bucketNanoseconds[bucket]) / 1e9) : "+Inf"
            durations.append(.init(count, MetricFamily.labels(["protocol": protocolName, "le": bound]), suffix: "_bucket"))
        }
        let label = MetricFamily.labels(["protocol": protocolName])
        durations.append(.init(total(cellCount - 1) / 1e9, label, suffix: "_sum"))
        durations.append(.init(count, label, suffix: "_count"))
        return [
            MetricFamily("weir_requests_total", .counter, "Requests since the process started.", samples(0)),
            MetricFamily("weir_request_errors_total", .counter, "Requests that were answered by an error.", samples(1)),
            MetricFamily(
                "weir_request_duration_seconds", .histogram,
                "Time to answer a request once it has arrived; what one read of a RESP connection brought shares its mean.", durations),
        ]
    }
}
