import Foundation
import Synchronization
import WeirAlgebra
import WeirHistory
import WeirLookup
import WeirPipeline
import WeirServer
import WeirTraining

/// What a run of `verify` found.
struct VerificationSummary: Sendable {
    var checked = 0
    var differing = 0
    var uncheckable: [RequestVerifier.Obstacle: Int] = [:]
    /// Up to here requests were looked at.
    var lastNumber: Int64 = 0

    var uncheckableCount: Int { uncheckable.values.reduce(0, +) }

    var text: String {
        let obstacles = RequestVerifier.Obstacle.allCases.compactMap { obstacle in
            uncheckable[obstacle].map { ", \($0) can no longer be checked (\(obstacle.rawValue))" }
        }.joined()
        return
            "\(checked) requests checked: \(checked - differing) equal, \(differing) \(differing == 1 ? "differs" : "differ")\(obstacles)"
    }

    private static let recordsPerRead = 256

    /// Checks logged requests after a number, in order.
    ///
    /// - Parameters:
    ///   - isDue: ends the run where it returns false.
    ///   - looked: gets how many were looked at.
    ///   - differs: gets each one that differs.
    static func verify(
        _ lookups: LookupService, history: HistoryReader, log: RequestLogReader, service: String? = nil, after number: Int64 = 0,
        isDue: () -> Bool = { true }, looked: (Int) -> Void = { _ in },
        differs: (RequestRecord, [RequestVerifier.Difference], RequestVerifier) throws -> Void
    ) throws -> VerificationSummary {
        var summary = VerificationSummary(lastNumber: number)
        let verifier = RequestVerifier(lookups, history: history)
        while isDue() {
            let records = try log.records(after: summary.lastNumber, service: service, limit: recordsPerRead)
            guard let last = records.last else { break }
            // Asked for behind the records, so that the history has what they had.
            try verifier.refresh()
            for record in records {
                switch try verifier.check(record) {
                case .equal: summary.checked += 1
                case .differs(let differences):
                    summary.checked += 1
                    summary.differing += 1
                    try differs(record, differences, verifier)
                case .uncheckable(let obstacle): summary.uncheckable[obstacle, default: 0] += 1
                }
            }
            summary.lastNumber = last.number
            looked(summary.checked + summary.uncheckableCount)
        }
        return summary
    }
}

/// What `weir run` looks at by itself, at low priority: logged requests, recomputed on a schedule, and the drift of what was served against
/// training sets.
final class SelfCheck: Sendable {
    struct Options: Sendable {
        /// nil: never.
        var verifyEvery: Duration?
        var references: [Reference] = []
    }

    struct Reference: Sendable {
        /// The manifest's path.
        let name: String
        let statistics: ReferenceStatistics
    }

    private let lookups: LookupService
    private let directory: String
    private let options: Options
    private let report: @Sendable (String) -> Void
    // A connection of its own, so that lookups that the history answers do not wait for it.
    private let history: HistoryReader
    private let store: String

    private struct State {
        var total = VerificationSummary()
        /// Seconds since the epoch.
        var lastRun: Double?
        var failures = 0
        var drift: [MetricFamily] = []
        var isStopped = false
    }
    private let state = Mutex(State())
    private let isDone = DispatchSemaphore(value: 0)

    private static let driftEvery = Duration.seconds(60)
    private static let secondsBetweenLooks = 0.2

    init(_ lookups: LookupService, directory: String, options: Options, report: @escaping @Sendable (String) -> Void) throws {
        self.lookups = lookups
        self.directory = directory
        self.options = options
        self.report = report
        history = try HistoryReader(directory: directory, catalog: lookups.catalog)
        store = try history.storeID()
    }

    private var isStopped: Bool { state.withLock { $0.isStopped } }

    func start() {
        BackgroundThread.start("weir self-check") { [self] in
            var nextVerification = options.verifyEvery.map { ContinuousClock.now + $0 }
            var nextDrift = options.references.isEmpty ? nil : ContinuousClock.now
            while !isStopped {
                if let due = nextVerification, due <= .now {
                    attempt("verify", verify)
                    nextVerification = options.verifyEvery.map { ContinuousClock.now + $0 }
                }
                if let due = nextDrift, due <= .now {
                    attempt("drift", lookForDrift)
                    nextDrift = .now + Self.driftEvery
                }
                Thread.sleep(forTimeInterval: Self.secondsBetweenLooks)
            }
            isDone.signal()
        }
    }

    func stop() {
        state.withLock { $0.isStopped = true }
        isDone.wait()
    }

    private func attempt(_ what: String, _ body: () throws -> Void) {
        do { try body() } catch {
            state.withLock { $0.failures += 1 }
            report("\(what): \(error)")
        }
    }

    /// Checks what was logged since the run before.
    private func verify() throws {
        guard let log = try RequestLogReader(directory: directory, store: store) else { return }
        let before = state.withLock { $0.total.lastNumber }
        var first: Int64?
        let summary = try VerificationSummary.verify(
            lookups, history: history, log: log, after: before, isDue: { !isStopped },
            differs: { record, _, _ in first = first ?? record.number })
        state.withLock { state in
            state.total.checked += summary.checked
            state.total.differing += summary.differing
            state.total.uncheckable.merge(summary.uncheckable) { $0 + $1 }
            state.total.lastNumber = summary.lastNumber
            state.lastRun = Double(wallClockNow()) / 1e6
        }
        report("verify: \(summary.text)" + (first.map { "; the first that differs is number \($0): `weir verify` explains it" } ?? ""))
    }

    private func lookForDrift() throws {
        guard let log = try RequestLogReader(directory: directory, store: store) else { return }
        var indexes: [MetricFamily.Sample] = []
        var nulls: [MetricFamily.Sample] = []
        var referenceNulls: [MetricFamily.Sample] = []
        var samples: [MetricFamily.Sample] = []
        for reference in options.references {
            let service = try lookups.service(reference.statistics.service)
            let served = try ServedStatistics(service, log: log, limit: Limits.driftRequests)
            samples.append(
                .init(Double(served.rows), MetricFamily.labels(["service": service.plan.name, "manifest": reference.name])))
            for comparison in served.comparisons(with: reference.statistics.features) {
                let labels = MetricFamily.labels([
                    "service": service.plan.name, "feature": comparison.served.name, "manifest": reference.name,
                ])
                if let index = comparison.stabilityIndex { indexes.append(.init(index, labels)) }
                if let ratio = comparison.served.nullRatio { nulls.append(.init(ratio, labels)) }
                if let ratio = comparison.reference?.nullRatio { referenceNulls.append(.init(ratio, labels)) }
            }
        }
        let drift = [
            MetricFamily(
                "weir_drift_requests", .gauge, "Logged requests, the latest, that are compared with a training set.", samples),
            MetricFamily(
                "weir_feature_stability_index", .gauge,
                "Population stability index of a feature as served lately against a training set; above 0.25 is customarily drift.", indexes
            ),
            MetricFamily("weir_feature_null_ratio", .gauge, "Share of nulls of a feature as served lately.", nulls),
            MetricFamily("weir_feature_reference_null_ratio", .gauge, "Share of nulls of a feature in a training set.", referenceNulls),
        ]
        state.withLock { $0.drift = drift }
    }

    var metricFamilies: [MetricFamily] {
        state.withLock { state in
            var families = state.drift
            guard options.verifyEvery != nil || state.failures > 0 else { return families }
            families += [
                MetricFamily(
                    "weir_verified_requests_total", .counter, "Logged requests that were recomputed from the history.",
                    Double(state.total.checked)),
                MetricFamily(
                    "weir_differing_requests_total", .counter, "Logged requests whose recomputed answer differs from what was served.",
                    Double(state.total.differing)),
                MetricFamily(
                    "weir_uncheckable_requests_total", .counter, "Logged requests that could not be recomputed any more.",
                    RequestVerifier.Obstacle.allCases.map {
                        .init(Double(state.total.uncheckable[$0] ?? 0), MetricFamily.labels(["reason": $0.rawValue]))
                    }),
                MetricFamily("weir_verify_failures_total", .counter, "Self-checks that failed themselves.", Double(state.failures)),
            ]
            if let lastRun = state.lastRun {
                families.append(
                    MetricFamily("weir_verify_last_run_timestamp_seconds", .gauge, "When logged requests were last recomputed.", lastRun))
            }
            return families
        }
    }
}
