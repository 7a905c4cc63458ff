import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirRecords

/// Why a training set cannot be made: which line of the spine, what is wrong, what would be right.
package struct ExportError: Error, CustomStringConvertible {
    package let description: String

    package init(_ description: String) {
        self.description = description
    }
}

/// Computes what the lookup service would have answered to each row of a spine at its time, from the history.
///
/// The rows are grouped by entity: an entity's events are read once, and every row of it is answered by the merge that the
/// lookup uses.
package struct TrainingSet {
    package struct Options: Sendable {
        /// Leaves out what had not been ingested by a row's time.
        package var asKnown = false
        /// Counts events at exactly a row's time.
        package var isInclusive = false

        package init(asKnown: Bool = false, isInclusive: Bool = false) {
            self.asKnown = asKnown
            self.isInclusive = isInclusive
        }
    }

    let service: ServicePlan
    let history: HistoryReader
    let options: Options
    private let runtimes: [ViewRuntime]

    package init(service: ServicePlan, history: HistoryReader, options: Options) {
        self.service = service
        self.history = history
        self.options = options
        runtimes = service.joins.map { ViewRuntime($0.view) }
    }

    /// The service's outputs for every row of the spine, in its order.
    ///
    /// - Parameter progress: is called with the number of (row, view) pairs done and their total.
    package func compute(_ spine: Spine, progress: (Int, Int) -> Void) throws -> [[FeatureResult]] {
        var joined = Array(repeating: [[FeatureResult]](), count: spine.count)
        var done = 0
        for (number, join) in service.joins.enumerated() {
            let runtime = runtimes[number]
            var rowsOfKey: [String: [Int]] = [:]
            for row in 0..<spine.count {
                if let key = join.key(spine.requests[row]) { rowsOfKey[key, default: []].append(row) }
            }
            let empty = try runtime.emptyEvaluation(asOf: AsOf(.distantPast)).results
            for row in 0..<spine.count { joined[row].append(empty) }
            for (key, rows) in rowsOfKey {
                try forEachEvaluation(runtime, key: key, times: rows.map { spine.times[$0] }) { index, results in
                    joined[rows[index]][number] = results
                }
                done += rows.count
                progress(done, spine.count * service.joins.count)
            }
        }
        return (0..<spine.count).map { service.finish(spine.requests[$0], joined[$0]) }
    }

    /// Evaluates one entity at some times.
    private func forEachEvaluation(
        _ runtime: ViewRuntime, key: String, times: [EventTime], _ body: (Int, [FeatureResult]) -> Void
    ) throws {
        func asOf(_ index: Int) -> AsOf { AsOf(times[index], isInclusive: options.isInclusive) }
        if options.asKnown {
            for index in times.indices {
                let rows = try history.rows(
                    of: runtime.plan, key: key, from: runtime.earliestReach(asOf: asOf(index)), to: asOf(index).end,
                    ingestedBy: times[index].microseconds)
                body(index, try runtime.evaluate(rows: rows, asOf: asOf(index), session: nil).results)
            }
            return
        }
        // Times whose windows overlap share one read; what lies between is not read at all.
        let ordered = times.indices.sorted { times[$0] < times[$1] }
        var first = 0
        while first < ordered.count {
            let start = runtime.earliestReach(asOf: asOf(ordered[first]))
            var end = asOf(ordered[first]).end
            var last = first + 1
            while last < ordered.count, runtime.earliestReach(asOf: asOf(ordered[last])) <= end {
                end = max(end, asOf(ordered[last]).end)
                last += 1
            }
            let rows = try history.rows(of: runtime.plan, key: key, from: start, to: end)
            try evaluate(runtime, rows, ordered[first..<last].map { ($0, asOf($0)) }, body)
            first = last
        }
    }

    /// Evaluates one entity at some times, from all rows that their windows reach.
    private func evaluate(
        _ runtime: ViewRuntime, _ rows: EventRows, _ times: [(index: Int, asOf: AsOf)], _ body: (Int, [FeatureResult]) -> Void
    ) throws {
        if rows.count <= Self.rowsWithoutTree {
            for (index, asOf) in times { body(index, try runtime.evaluate(rows: rows, asOf: asOf, session: nil).results) }
            return
        }
        // A dense entity: tiles spare each of its rows the events inside of its windows.
        let nodes = MemoryNodes()
        try TimeTree(view: runtime, nodes: nodes).insert(rows)
        for (index, asOf) in times {
            body(index, try runtime.evaluate(nodes: nodes, asOf: asOf, session: nil, keptFrom: .min)!.results)
        }
    }

    /// Below this many events a scan is as fast as a tree.
    private static let rowsWithoutTree = 1_024
}

/// The rows, with times, that a training set is built for: requests at past times.
package struct Spine: Sendable {
    package var requests: [any Sendable] = []
    package var times: [EventTime] = []

    package init() {}

    package var count: Int { times.count }
}
