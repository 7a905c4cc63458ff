import WeirAlgebra
import WeirDefinitions

/// How the features of one view came about for one entity at one time: what each window merged, and what of a session counted. It is
/// recorded while they are evaluated as ever, of the very pieces that are merged.
package struct Explanation: Sendable {
    /// In the order of the features that were asked for; what derived ones are computed from stands behind them.
    package var features: [Feature]
    /// Those of the features, in the view's order.
    package var windows: [WindowPart]
    package var session: SessionPart
    /// nil where the entity has no event that could count.
    package var latestEvent: EventTime?
    package var isKnown: Bool

    package struct Feature: Sendable {
        /// Of the view's features.
        package var number: Int
        package var result: FeatureResult
        /// How many of the window's single events the feature is made of: those that pass its filter and are not null. Events in tiles,
        /// whose partials are ready, are not among them. nil for a derived feature.
        package var usedEvents: Int?
    }

    /// What one window merged.
    package struct WindowPart: Sendable {
        /// Of the view's windows.
        package var window: Int
        /// Events of `[start, end)` count; `Int64.min` where there is no beginning. Microseconds.
        package var start: Int64
        package var end: Int64
        /// The same end for events of the session, of which one at exactly the time asked for counts.
        package var sessionEnd: Int64
        /// Ready partials of all events of a span, in the order of time.
        package var tiles: [Tile] = []
        /// Of everything before its end, of which single events are not kept; at most one.
        package var totals: Tile?
        /// Parts of leaves, in the order of time.
        package var leaves: [Leaf] = []
        /// Events that stood in the entity's head record.
        package var headEvents = 0
        /// Events that were read from history.
        package var historyEvents = 0
        package var sessionEvents = 0

        /// Of the store.
        package var storedEvents: UInt64 {
            UInt64(headEvents + historyEvents + leaves.reduce(0) { $0 + $1.events })
                // What a damaged tile says wraps.
                &+ tiles.reduce(0) { $0 &+ $1.events } &+ (totals?.events ?? 0)
        }
    }

    package struct Tile: Sendable {
        /// The span has `16^level` microseconds; nil for the totals of what has expired.
        package var level: Int?
        package var start: Int64
        /// Behind the last moment of the span.
        package var end: Int64
        package var events: UInt64
    }

    package struct Leaf: Sendable {
        package var start: Int64
        package var end: Int64
        /// Those that lie in the window, and all of them.
        package var events: Int
        package var of: Int
    }

    /// The session's events for this entity.
    package struct SessionPart: Sendable, Hashable {
        package var given = 0
        /// After the time asked for.
        package var later = 0
        /// Older than the view's time to live.
        package var expired = 0
        /// The store counts them.
        package var known = 0
        /// Further copies in the session itself.
        package var repeated = 0
        /// Those that are left, wherever windows begin.
        package var counted: Int { given - later - expired - known - repeated }
    }
}

/// Why the online store cannot answer. Times are microseconds.
package enum HistoryReason: Sendable, Hashable {
    /// A window begins before what is kept.
    case window(Int, start: Int64)
    /// A session may have begun before what is kept.
    case session(window: Int)
    /// Only totals are kept of what came before a time, and the time asked for is earlier.
    case totals(window: Int, before: Int64)
    /// Whether a session's event is a copy cannot be said where only totals are kept.
    case sessionEvent(before: Int64)
    /// The store has no event of the entity; one that it does not keep any more may still live.
    case unknownEntity(liveFrom: Int64)
    /// It was asked for.
    case recomputed
}

/// What is learned of an evaluation while it is made.
final class EvaluationRecorder {
    private let view: ViewRuntime
    private let features: [Int]
    /// nil for rows of the history.
    private let nodes: RecordedNodes?
    fileprivate var windows: [Explanation.WindowPart] = []
    fileprivate var used: [Int?]
    var session: Explanation.SessionPart?
    var historyReason: HistoryReason?

    fileprivate init(_ view: ViewRuntime, features: [Int], nodes: RecordedNodes?) {
        self.view = view
        self.features = features
        self.nodes = nodes
        used = Array(repeating: nil, count: features.count)
    }

    /// Learns of a chain's bands and pieces.
    ///
    /// - Parameter overlay: which of the scratch's rows are the session's.
    func record(_ scratch: EvaluationScratch, overlay: Int?) throws {
        guard let first = scratch.bands.first else { return }
        for (index, band) in scratch.bands.enumerated() {
            var part = Explanation.WindowPart(window: band.window, start: band.start, end: first.end, sessionEnd: first.overlayEnd)
            let pieces = scratch.pieces.prefix { $0.band <= index }
            for piece in pieces { try add(piece, overlay: overlay, to: &part) }
            // Bands begin with the latest.
            part.tiles.sort { $0.start < $1.start }
            part.leaves.sort { $0.start < $1.start }
            windows.append(part)
            for (place, number) in features.enumerated() {
                guard case .aggregate(let slot, band.window, _) = view.plan.features[number].computation else { continue }
                used[place] = try pieces.reduce(0) { try $0 + usedRows($1, scratch, view.plan.slots[slot]) }
            }
        }
    }

    private func add(_ piece: Piece, overlay: Int?, to part: inout Explanation.WindowPart) throws {
        switch piece.source {
        case .rows(overlay): part.sessionEvents += piece.range.count
        case .rows, .held: part.historyEvents += piece.range.count
        case .tile(let bytes):
            let tile = try TileView(bytes, slots: view.runners.count)
            guard let key = nodes?.key(of: bytes) else {
                part.totals = .init(level: nil, start: .min, end: tile.baseTime ?? .max, events: tile.rows)
                return
            }
            part.tiles.append(.init(level: Int(key.level), start: key.firstTime, end: key.endTime, events: tile.rows))
        case .leaf(let bytes):
            guard let key = nodes?.key(of: bytes) else {
                part.headEvents += piece.range.count
                return
            }
            // A leaf that a shorter window begins in comes in several pieces.
            if let known = part.leaves.firstIndex(where: { $0.start == key.firstTime }) {
                part.leaves[known].events += piece.range.count
                return
            }
            let count = try LeafColumn(bytes, columns: view.plan.columns).count
            part.leaves.append(.init(start: key.firstTime, end: key.endTime, events: piece.range.count, of: count))
        }
    }

    private func usedRows(_ piece: Piece, _ scratch: EvaluationScratch, _ slot: ViewPlan.Slot) throws -> Int {
        func count(_ rows: some RowAccess) -> Int {
            piece.range.count { row in
                slot.filter.map { rows.filterBits(row) & 1 << UInt64($0) != 0 } != false
                    && slot.column.map { rows.isNull(row, column: $0) } != true
            }
        }
        return switch piece.source {
        case .tile: 0
        case .leaf(let bytes):
            count(try LeafColumn(bytes, columns: view.plan.columns, column: slot.column, filters: slot.filter != nil))
        case .rows(let number): count(scratch.rows[number])
        case .held: scratch.held.map { count($0) } ?? 0
        }
    }
}

/// Remembers which node was read where: pieces know bytes alone.
private final class RecordedNodes: NodeReading {
    private let nodes: any NodeReading
    private var keys: [UnsafeRawPointer: NodeKey] = [:]

    init(_ nodes: any NodeReading) { self.nodes = nodes }

    private func recorded(_ node: Node?) -> Node? {
        if let node, let address = node.bytes.baseAddress { keys[address] = node.key }
        return node
    }

    func seek(_ key: NodeKey) throws -> Node? { recorded(try nodes.seek(key)) }
    func seekBefore(_ key: NodeKey) throws -> Node? { recorded(try nodes.seekBefore(key)) }
    func head() throws -> UnsafeRawBufferPointer? { try nodes.head() }
    func base() throws -> UnsafeRawBufferPointer? { try nodes.base() }

    /// nil for the head's leaf and the base record.
    func key(of bytes: UnsafeRawBufferPointer) -> NodeKey? { bytes.baseAddress.flatMap { keys[$0] } }
}

extension NodeKey {
    fileprivate var firstTime: Int64 { unbiased(start) }
    /// Behind the span; `Int64.max` for one that reaches to the end of time.
    fileprivate var endTime: Int64 { last == .max ? .max : unbiased(last + 1) }
}

extension ViewRuntime {
    /// Evaluates features from the nodes of the online store as `evaluate` does, and says how they came about.
    ///
    /// - Parameters:
    ///   - features: numbers of the view's features, in the order wanted.
    ///   - session: as for `evaluate`.
    /// - Returns: or why history has to answer.
    package func explain(
        _ features: [Int], nodes: any NodeReading, asOf: AsOf, session: EventRows?, keptFrom: Int64
    ) throws -> Result<Explanation, HistoryGap> {
        let nodes = RecordedNodes(nodes)
        return try explain(features, nodes) { plan, scratch in
            guard
                let outcome = try evaluate(plan, nodes: nodes, asOf: asOf, session: session, keptFrom: keptFrom, scratch)
            else { return nil }
            return (outcome, try latestEvent(nodes: nodes, asOf: asOf, outcome))
        }
    }

    /// The same from all rows of the entity that the windows can reach.
    ///
    /// - Parameter keptFrom: as for `evaluate`.
    /// - Returns: nil where a window begins before what the history keeps.
    package func explain(
        _ features: [Int], rows: EventRows, asOf: AsOf, session: EventRows?, keptFrom: Int64
    ) throws -> Explanation? {
        let result = try explain(features, nil) { plan, scratch in
            guard let outcome = try evaluate(plan, rows: rows, asOf: asOf, session: session, keptFrom: keptFrom, scratch) else {
                return nil
            }
            return (outcome, try latestEvent(RowsTimeline(rows: rows), asOf: asOf, outcome))
        }
        guard case .success(let explanation) = result else { return nil }
        return explanation
    }

    /// Why history has to answer.
    package struct HistoryGap: Error { package let reason: HistoryReason }

    private func explain(
        _ wanted: [Int], _ nodes: RecordedNodes?,
        _ evaluate: (EvaluationPlan, EvaluationScratch) throws -> (outcome: EvaluationOutcome, latest: EventTime?)?
    ) throws -> Result<Explanation, HistoryGap> {
        let features = withInputs(of: wanted)
        let scratch = EvaluationScratch()
        let recorder = EvaluationRecorder(self, features: features, nodes: nodes)
        scratch.recorder = recorder
        guard let (outcome, latest) = try evaluate(evaluation(of: features), scratch) else {
            return .failure(HistoryGap(reason: recorder.historyReason!))
        }
        return .success(
            Explanation(
                features: features.enumerated().map { place, number in
                    .init(number: number, result: scratch.results[place], usedEvents: recorder.used[place])
                }, windows: recorder.windows.sorted { $0.window < $1.window }, session: recorder.session ?? .init(), latestEvent: latest,
                isKnown: outcome.isKnown))
    }

    /// Features and what they are derived from, each once.
    private func withInputs(of features: [Int]) -> [Int] {
        var all: [Int] = []
        for number in features where !all.contains(number) { all.append(number) }
        var index = 0
        while index < all.count {
            if case .derived(let inputs, _) = plan.features[all[index]].computation {
                for input in inputs where !all.contains(input) { all.append(input) }
            }
            index += 1
        }
        return all
    }
}
