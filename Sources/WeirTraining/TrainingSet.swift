import Synchronization
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirLookup
import WeirRecords

/// Why a training set cannot be made: which line of the spine, what is wrong, what would be right.
package struct ExportError: Error, CustomStringConvertible {
    package let description: String

    package init(_ description: String) {
        self.description = description
    }
}

/// A window of a spine's row begins before what the history keeps.
struct BeyondHistory: Error {
    /// Of the row, in the spine.
    let offset: Int64
    let reason: String
}

/// Computes what the lookup service would have answered to rows of a spine at their times, from the history.
///
/// For each view the rows are put in the order of its keys and times, and the history is gone through once in that order, side by side on
/// all threads: an entity's events are read once, and every row of it is answered by the evaluation that the lookup uses, all windows
/// together.
final class TrainingSet: Sendable {
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

    /// The features of some rows of a spine.
    struct Chunk: Sendable {
        let blocks: [SpineBlock]
        /// One a join.
        let tables: [FeatureTable]
    }

    /// Rows of the history that are gathered before their entities are evaluated.
    private static let rowsPerBlock = 8_192
    /// Rows of the spine that a task has at least.
    private static let rowsPerTask = 512

    let service: ServiceRuntime
    let options: Options
    /// Changes where events leave the history meanwhile.
    private let snapshot: Mutex<HistorySnapshot>
    /// One connection a worker.
    private let readers: [HistoryReader]
    private let joins: [Join]
    /// One a join. They are made while the first rows of the spine are read.
    private let tails: Promise<[TailSegment?]>
    /// For each worker and join: closures and arrays of its own. Threads that share some wait for each other with each reference they take.
    private let evaluators: [[Evaluator]]
    /// Decided by what the rows show: whether events must be decoded.
    private let sources: Mutex<[ColumnSource]>

    private struct Evaluator: Sendable {
        let runtime: ViewRuntime
        let features: EvaluationPlan
    }

    private struct Join: Sendable {
        let empty: [FeatureResult]
        /// Nothing is known of any feature.
        let unknown: [FeatureResult]
        let types: [FeatureType]
        let projection: EntityProjection
        let asKnown: Bool
        /// Of labels: behind this time events may still come, so that what reaches further is not known yet.
        let completeUntil: Int64?
    }

    init(service: ServicePlan, catalog: CatalogPlan, readers: [HistoryReader], snapshot: HistorySnapshot, options: Options) throws {
        let runtimes = catalog.views.map { ViewRuntime($0) }
        let runtime = try ServiceRuntime(service, catalog, runtimes, includesLabels: true)
        self.service = runtime
        self.options = options
        self.snapshot = Mutex(snapshot)
        self.readers = readers
        var sources: [ColumnSource] = []
        joins = runtime.joins.map { join in
            let view = catalog.views[join.view]
            // A label is not what was known at the time.
            let asKnown = options.asKnown && !view.isLabelView
            let projection = EntityProjection(join.features, ingestTimes: asKnown)
            let unknown = join.empty.map { _ in FeatureResult(.null, .nullValue) }
            sources.append(snapshot.source(view, catalog.stream(named: view.stream)!.schema, projection))
            return Join(
                // Of nobody nothing can be predicted.
                empty: view.isLabelView ? unknown : join.empty, unknown: unknown,
                types: join.featureNumbers.map { view.features[$0].type }, projection: projection, asKnown: asKnown,
                completeUntil: view.isLabelView ? snapshot.completeUntil(view.stream) : nil)
        }
        let views = runtime.joins.map { catalog.views[$0.view] }
        tails = Promise { try views.map { try readers[0].tail(of: $0, snapshot) } }
        evaluators = readers.map { _ in
            runtime.joins.map { join in
                let own = ViewRuntime(catalog.views[join.view])
                return Evaluator(runtime: own, features: own.evaluation(of: join.featureNumbers))
            }
        }
        self.sources = Mutex(sources)
    }

    var workers: Int { readers.count }

    /// Whether a feature is computed from requests.
    var usesRequests: Bool {
        service.outputs.contains { if case .onDemand = $0 { true } else { false } }
    }

    /// Bytes that the features of a row take, without those of texts and lists.
    var bytesPerRow: Int { joins.reduce(0) { $0 + 48 + FeatureTable.bytesPerRow($1.types) } }

    /// - Parameter progress: is called with the number of rows that were done for one more join; on any thread.
    func compute(_ blocks: [SpineBlock], progress: @Sendable (Int) -> Void) throws -> Chunk {
        let times = blocks.flatMap { $0.times.map(\.microseconds) }
        let tables = joins.map { FeatureTable($0.types, count: times.count) }
        var firstBeyond: (row: Int, error: BeyondHistory)?
        for (number, join) in joins.enumerated() {
            var keys = ColumnBuffer(type: .text)
            for block in blocks { keys.append(contentsOf: block.keys[number]) }
            for row in 0..<keys.count where keys.isNull(row) {
                for (result, empty) in join.empty.enumerated() { tables[number][row, result] = empty.value }
            }
            let order = try order(keys, times)
            let stream = evaluators[0][number].runtime.plan.stream
            while true {
                let known = snapshot.withLock { $0 }
                var failure: (any Error)?
                var row: Int?
                do {
                    row = try compute(number, join, keys, order, tables[number], known, progress)
                } catch is ColumnsAreNotPlain {
                    sources.withLock { $0[number] = .events }
                    continue
                } catch {
                    failure = error
                }
                // What left the history while it was read may be missing in what was computed, or be why it failed.
                if try snapshot.withLock({ try $0.refreshKept(stream, readers[0], hasFailed: failure != nil) }) { continue }
                if let failure { throw failure }
                if let row, row < firstBeyond?.row ?? .max {
                    firstBeyond = (row, beyondHistory(row, blocks, evaluators[0][number].runtime.plan, known))
                }
                break
            }
        }
        // Whatever joins and threads there are, the first line is named.
        if let firstBeyond { throw firstBeyond.error }
        return Chunk(blocks: blocks, tables: tables)
    }

    /// Puts rows in the order of their keys: each worker some of them, then two and two are merged.
    private func order(_ keys: ColumnBuffer, _ times: [Int64]) throws -> KeyOrder {
        func inParts(_ count: Int, _ part: @Sendable (Int) -> KeyOrder) throws -> [KeyOrder] {
            let parts = Mutex<[KeyOrder?]>(Array(repeating: nil, count: count))
            try inParallel(workers: workers, tasks: count) { _, number in
                let made = part(number)
                parts.withLock { $0[number] = made }
            }
            return parts.withLock { $0.compactMap { $0 } }
        }
        let size = keys.count / workers + 1
        var parts = try inParts(workers) {
            KeyOrder(min($0 * size, keys.count)..<min(($0 + 1) * size, keys.count), keys: keys, times: times)
        }
        while parts.count > 1 {
            parts = try inParts((parts.count + 1) / 2) { [parts] number in
                2 * number + 1 < parts.count ? parts[2 * number].merged(with: parts[2 * number + 1], keys: keys) : parts[2 * number]
            }
        }
        return parts[0]
    }

    private func beyondHistory(_ row: Int, _ blocks: [SpineBlock], _ view: ViewPlan, _ snapshot: HistorySnapshot) -> BeyondHistory {
        var row = row
        for block in blocks {
            if row < block.count {
                return BeyondHistory(
                    offset: block.offsets[row], reason: LookupError.beyond(view, block.times[row], snapshot.keptFrom(view.stream)))
            }
            row -= block.count
        }
        preconditionFailure("a row of no block")
    }

    /// The rows of a chunk that one task has, by the order of their keys: all of some entities.
    private func tasks(_ order: KeyOrder, _ keys: ColumnBuffer) -> [Range<Int>] {
        let size = max(Self.rowsPerTask, order.count / (workers * 8) + 1)
        var tasks: [Range<Int>] = []
        var start = 0
        while start < order.count {
            let end = order.endOfKey(min(start + size, order.count) - 1, keys)
            tasks.append(start..<end)
            start = end
        }
        return tasks
    }

    /// - Returns: the first row of which a window begins before what the history keeps; nil where there is none.
    private func compute(
        _ number: Int, _ join: Join, _ keys: ColumnBuffer, _ order: KeyOrder, _ table: FeatureTable, _ snapshot: HistorySnapshot,
        _ progress: @Sendable (Int) -> Void
    ) throws -> Int? {
        let firstBeyond = Mutex<Int?>(nil)
        let keptFrom = snapshot.keptFrom(evaluators[0][number].runtime.plan.stream)
        let tasks = tasks(order, keys)
        let source = sources.withLock { $0[number] }
        let tail = try tails.value[number]
        try inParallel(workers: workers, taking: tasks.count) { worker, next in
            let scratch = EvaluationScratch()
            let evaluator = evaluators[worker][number]
            try readers[worker].scanEntities(of: evaluator.runtime.plan, join.projection, source, snapshot, tail) { scan in
                var waiting: [Range<Int>] = []
                func evaluate() throws {
                    try scan.take { block in
                        try scratch.hold(block.rows) {
                            for (entity, places) in waiting.enumerated() {
                                try self.evaluate(join, evaluator, block, block.range(entity), order, places, keptFrom, scratch) {
                                    row, results in
                                    for index in 0..<results.count { table[row, index] = results[index].value }
                                } beyond: { row in
                                    firstBeyond.withLock { $0 = min($0 ?? row, row) }
                                }
                            }
                        }
                    }
                    progress(waiting.reduce(0) { $0 + $1.count })
                    waiting.removeAll(keepingCapacity: true)
                }
                while let task = next() {
                    var start = tasks[task].lowerBound
                    while start < tasks[task].upperBound {
                        let end = order.endOfKey(start, keys)
                        let first = asOf(order.time(start))
                        let last = asOf(order.time(end - 1))
                        try keys.withText(order.row(start)) { key in
                            try scan.read(
                                key, from: evaluator.runtime.earliestReach(asOf: first), to: evaluator.runtime.latestReach(asOf: last))
                        }
                        waiting.append(start..<end)
                        start = end
                        if scan.pendingRows >= Self.rowsPerBlock { try evaluate() }
                    }
                }
                try evaluate()
            }
        }
        return firstBeyond.withLock { $0 }
    }

    private func asOf(_ time: Int64) -> AsOf { AsOf(EventTime(microseconds: time), isInclusive: options.isInclusive) }

    /// Evaluates one entity at the times of some rows.
    ///
    /// - Parameter range: of the block's rows those of the entity.
    private func evaluate(
        _ join: Join, _ evaluator: Evaluator, _ block: EntityBlock, _ range: Range<Int>, _ order: KeyOrder,
        _ places: Range<Int>, _ keptFrom: Int64, _ scratch: EvaluationScratch, _ body: (Int, borrowing [FeatureResult]) -> Void,
        beyond: (Int) -> Void
    ) throws {
        scratch.tile(places.count > 1 && !join.asKnown ? range : nil)
        for place in places {
            let row = order.row(place)
            let asOf = asOf(order.time(place))
            if let completeUntil = join.completeUntil, evaluator.runtime.latestReach(asOf: asOf) > completeUntil {
                body(row, join.unknown)
                continue
            }
            let outcome: EvaluationOutcome?
            if join.asKnown {
                let known = knownRows(block, range, by: order.time(place), before: asOf.end)
                if let picked = known.picked {
                    outcome = try evaluator.runtime.evaluate(
                        evaluator.features, rows: picked, asOf: asOf, session: nil, keptFrom: keptFrom, scratch)
                } else {
                    outcome = try evaluator.runtime.evaluate(
                        evaluator.features, held: known.range, asOf: asOf, keptFrom: keptFrom, scratch)
                }
            } else {
                outcome = try evaluator.runtime.evaluate(evaluator.features, held: range, asOf: asOf, keptFrom: keptFrom, scratch)
            }
            guard outcome != nil else {
                beyond(row)
                continue
            }
            body(row, scratch.results)
        }
    }

    /// The rows of an entity that had been ingested by a time: some that stand side by side, or picked ones.
    private func knownRows(_ block: EntityBlock, _ range: Range<Int>, by time: Int64, before end: Int64) -> (
        range: Range<Int>, picked: EventRows?
    ) {
        let last = block.rows.lowerBound(end, in: range)
        let candidates = range.lowerBound..<last
        guard let firstUnknown = candidates.first(where: { block.ingestTimes[$0] > time }) else { return (candidates, nil) }
        guard let next = (firstUnknown..<last).first(where: { block.ingestTimes[$0] <= time }) else {
            return (range.lowerBound..<firstUnknown, nil)
        }
        var picked = EventRows(like: block.rows)
        let rows = Array(range.lowerBound..<firstUnknown) + (next..<last).filter { block.ingestTimes[$0] <= time }
        picked.appendProjected(block.rows, rows: rows)
        return (range, picked)
    }
}
