import Dispatch
import Foundation
import Synchronization
import WeirAlgebra
import WeirHistory
import WeirLookup
import WeirPipeline
import WeirServer

/// Takes a sample of served requests to the log, on a thread of its own: what lookups hand over waits in memory, and what does not fit
/// there, or cannot be written, is counted and not logged. No lookup waits.
package final class RequestLogger: Sendable {
    let rate: Double
    private let log: RequestLogWriter
    private let report: @Sendable (String) -> Void

    private struct Waiting {
        var requests: [ServedRequest] = []
        var bytes = 0
        var isStopped = false
    }
    private let waiting = Mutex(Waiting())
    private let isWanted = DispatchSemaphore(value: 0)
    private let isDone = DispatchSemaphore(value: 0)
    private let logged = Atomic<Int>(0)
    private let dropped = Atomic<Int>(0)

    /// Seconds in which requests gather for a transaction.
    private static let secondsBetweenWrites = 0.02
    private static let requestsPerTransaction = 1_024
    private static let secondsBetweenReports: Int64 = 60

    init(_ log: RequestLogWriter, rate: Double, report: @escaping @Sendable (String) -> Void) {
        self.log = log
        self.rate = rate
        self.report = report
    }

    /// Takes a request whose turn the worker's sampler said it is.
    func add(_ request: ServedRequest) {
        let (fits, isFirst) = waiting.withLock { waiting -> (Bool, Bool) in
            let bytes = request.bytes
            guard waiting.requests.count < Limits.loggedRequestsWaitingMax,
                waiting.bytes + bytes <= Limits.loggedRequestBytesWaitingMax, !waiting.isStopped
            else { return (false, false) }
            waiting.bytes += bytes
            waiting.requests.append(request)
            return (true, waiting.requests.count == 1)
        }
        if !fits { dropped.add(1, ordering: .relaxed) }
        if isFirst { isWanted.signal() }
    }

    func start() {
        BackgroundThread.start("weir request log") { [self] in
            var lastReport: ContinuousClock.Instant?
            var isStopped = false
            while !isStopped {
                isWanted.wait()
                if !waiting.withLock({ $0.isStopped }) { Thread.sleep(forTimeInterval: Self.secondsBetweenWrites) }
                let taken = waiting.withLock { waiting in
                    let taken = waiting.requests
                    waiting.requests = []
                    waiting.bytes = 0
                    isStopped = waiting.isStopped
                    return taken
                }
                var written = 0
                do {
                    let now = wallClockNow()
                    while written < taken.count {
                        // The log is cut to its size with each transaction.
                        let end = min(taken.count, written + Self.requestsPerTransaction)
                        try log.append(taken[written..<end].map { $0.record(now: now) })
                        logged.add(end - written, ordering: .relaxed)
                        written = end
                    }
                } catch {
                    dropped.add(taken.count - written, ordering: .relaxed)
                    let now = ContinuousClock.now
                    if lastReport.map({ now - $0 > .seconds(Self.secondsBetweenReports) }) ?? true {
                        lastReport = now
                        report("\(taken.count - written) served requests could not be logged: \(error)")
                    }
                }
            }
            isDone.signal()
        }
    }

    /// Writes what waits, then ends the thread.
    func stop() {
        waiting.withLock { $0.isStopped = true }
        isWanted.signal()
        isDone.wait()
    }

    var metricFamilies: [MetricFamily] {
        [
            MetricFamily(
                "weir_requests_logged_total", .counter, "Served requests in the sample that was logged.",
                Double(logged.load(ordering: .relaxed))),
            MetricFamily(
                "weir_requests_unlogged_total", .counter,
                "Served requests of the sample that were not logged, since too many came at once or the log could not be written.",
                Double(dropped.load(ordering: .relaxed))),
        ]
    }
}
