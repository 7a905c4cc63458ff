import Dispatch
import Foundation
import Support
import Synchronization

/// What a load met with. Latencies are milliseconds.
struct Timing {
    var requestsPerSecond: Double
    var p50: Double
    var p99: Double
    /// Server CPU, microseconds a request.
    var serverCPU: Double = 0

    var json: [String: Any] {
        [
            "requests_per_second": Int(requestsPerSecond), "p50_ms": rounded(p50), "p99_ms": rounded(p99),
            "server_cpu_us_per_request": rounded(serverCPU, 2),
        ]
    }
}

/// Loads that redis-benchmark cannot make: requests of several commands, and requests at a fixed rate.
enum LoadGenerator {
    /// Each connection sends one of the requests in one write, waits for all of its replies, and sends the next: one thread for all.
    ///
    /// - Parameter requests: bytes of one or more commands each, sent in turn.
    /// - Throws: on an error reply.
    static func saturate(port: Int, connections: Int, total: Int, requests: [[UInt8]], repliesPerRequest: Int) throws -> Timing {
        struct Client {
            var counter = ReplyCounter()
            var awaited = 0
            var sentAt: UInt64 = 0
        }
        var polled = try (0..<connections).map { _ in pollfd(fd: try connectedSocket(port: port), events: Int16(POLLIN), revents: 0) }
        defer { for entry in polled { close(entry.fd) } }
        var clients = [Client](repeating: Client(), count: connections)
        var latencies: [UInt64] = []
        latencies.reserveCapacity(total)
        var started = 0
        func start(_ index: Int) throws {
            guard started < total else { return }
            let request = requests[started % requests.count]
            started += 1
            clients[index].awaited += repliesPerRequest
            clients[index].sentAt = DispatchTime.now().uptimeNanoseconds
            // A request fits in the socket's buffer, which is empty: the reply to the one before has come.
            let count = request.withUnsafeBytes { send(polled[index].fd, $0.baseAddress!, $0.count, Int32(MSG_NOSIGNAL)) }
            guard count == request.count else { throw BenchmarkFailure("cannot send: \(String(cString: strerror(errno)))") }
        }
        let begin = DispatchTime.now().uptimeNanoseconds
        for index in 0..<connections { try start(index) }
        try withUnsafeTemporaryAllocation(byteCount: 1 << 16, alignment: 8) { buffer in
            while latencies.count < total {
                let ready = poll(&polled, nfds_t(polled.count), 60_000)
                if ready < 0 && errno == EINTR { continue }
                guard ready > 0 else { throw BenchmarkFailure("no reply within a minute") }
                for index in 0..<connections where polled[index].revents != 0 {
                    let count = recv(polled[index].fd, buffer.baseAddress!, buffer.count, 0)
                    guard count > 0 else { throw BenchmarkFailure("the server closed a connection") }
                    try clients[index].counter.consume(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
                    if clients[index].counter.replies == clients[index].awaited {
                        latencies.append(DispatchTime.now().uptimeNanoseconds - clients[index].sentAt)
                        try start(index)
                    }
                }
            }
        }
        return timing(&latencies, nanoseconds: DispatchTime.now().uptimeNanoseconds - begin)
    }

    /// Requests at a fixed rate, a thread for each connection. A request that has to wait for the reply to the one before counts from
    /// when it was due.
    static func pace(port: Int, connections: Int, rate: Double, seconds: Double, requests: [[UInt8]]) throws -> Timing {
        let outcome = Mutex<(latencies: [UInt64], failure: (any Error)?)>(([], nil))
        let perConnection = Int(rate * seconds / Double(connections))
        let interval = UInt64(Double(connections) / rate * 1e9)
        let begin = DispatchTime.now().uptimeNanoseconds + 10_000_000
        try concurrently(connections) { index in
            do {
                let descriptor = try connectedSocket(port: port)
                defer { close(descriptor) }
                var counter = ReplyCounter()
                var buffer = [UInt8](repeating: 0, count: 1 << 14)
                var latencies: [UInt64] = []
                var free: UInt64 = 0
                for turn in 0..<perConnection {
                    let due = begin + UInt64(turn) * interval + UInt64(index) * interval / UInt64(connections)
                    sleep(until: due)
                    let request = requests[(turn * connections + index) % requests.count]
                    let now = DispatchTime.now().uptimeNanoseconds
                    let count = request.withUnsafeBytes { send(descriptor, $0.baseAddress!, $0.count, Int32(MSG_NOSIGNAL)) }
                    guard count == request.count else { throw BenchmarkFailure("cannot send") }
                    while counter.replies <= turn {
                        let count = recv(descriptor, &buffer, buffer.count, 0)
                        guard count > 0 else { throw BenchmarkFailure("no reply") }
                        try buffer.withUnsafeBytes { try counter.consume(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
                    }
                    let end = DispatchTime.now().uptimeNanoseconds
                    latencies.append(end - (free > due ? due : now))
                    free = end
                }
                outcome.withLock { $0.latencies += latencies }
            } catch { outcome.withLock { $0.failure = error } }
        }
        let nanoseconds = DispatchTime.now().uptimeNanoseconds - begin
        return try outcome.withLock { outcome in
            if let failure = outcome.failure { throw failure }
            return timing(&outcome.latencies, nanoseconds: nanoseconds)
        }
    }

    private static func timing(_ latencies: inout [UInt64], nanoseconds: UInt64) -> Timing {
        latencies.sort()
        func quantile(_ share: Double) -> Double { Double(latencies[min(latencies.count - 1, Int(Double(latencies.count) * share))]) / 1e6 }
        return Timing(requestsPerSecond: Double(latencies.count) / Double(nanoseconds) * 1e9, p50: quantile(0.5), p99: quantile(0.99))
    }
}

/// Runs a body on threads of their own and waits for all.
func concurrently(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) throws {
    let group = DispatchGroup()
    for index in 0..<count {
        group.enter()
        Thread {
            body(index); group.leave()
        }.start()
    }
    group.wait()
}

/// - Parameter time: nanoseconds of the monotonic clock, as `DispatchTime` has them.
func sleep(until time: UInt64) {
    let now = DispatchTime.now().uptimeNanoseconds
    if time > now { usleep(UInt32((time - now) / 1_000)) }
}
