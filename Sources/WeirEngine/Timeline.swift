import WeirAlgebra
import WeirDefinitions

/// Where a lookup finds an entity's events: the online store's nodes, or rows that were read from history.
protocol Timeline {
    /// Adds the pieces that make up the scratch's bands, in their order.
    func addPieces(to scratch: EvaluationScratch) throws
    /// Calls `body` with event times before `end`, latest first, until it returns false.
    func forEachTimeDescending(before end: Int64, _ body: (Int64) -> Bool) throws
    func contains(time: Int64, id: UnsafeRawBufferPointer, tag: UInt32) throws -> Bool
    /// Whether the entity is known at all.
    var isKnown: Bool { get throws }
    /// What it has not nobody has.
    var isHistory: Bool { get }
    /// Events before this time are in the base record's partials only; nil where none expired.
    var baseTime: Int64? { get throws }
}

struct NodeTimeline: Timeline {
    let view: ViewRuntime
    let nodes: any NodeReading
    /// The leaf of the events that are in no node.
    private let head: UnsafeRawBufferPointer?
    private let hasTree: Bool

    init(view: ViewRuntime, nodes: any NodeReading) throws {
        self.view = view
        self.nodes = nodes
        guard let bytes = try nodes.head() else {
            head = nil
            // A store that an earlier build made has trees alone.
            hasTree = true
            return
        }
        (hasTree, head) = try HeadView.parts(bytes)
    }

    private func leaf(_ bytes: UnsafeRawBufferPointer, identities: Bool = false) throws(FormatError) -> LeafColumn {
        try LeafColumn(bytes, columns: view.plan.columns, identities: identities)
    }

    func addPieces(to scratch: EvaluationScratch) throws {
        if let head { scratch.add(try leaf(head), .leaf(head)) }
        guard let earliest = scratch.bands.last, let latest = scratch.bands.first, earliest.start < latest.end else { return }
        var firstWhole = earliest.start
        if earliest.start == .min, let base = try nodes.base() {
            scratch.add(scratch.bands.count - 1, .tile(base))
            firstWhole = try TileView(base, slots: view.runners.count).baseTime ?? .min
        }
        if hasTree { try addNodes(from: biased(earliest.start), firstWhole: biased(firstWhole), to: biased(latest.end) - 1, scratch) }
        scratch.sortPieces()
    }

    /// Goes through the nodes once, in the order of time, from the earliest band to the latest.
    ///
    /// - Parameter firstWhole: a tile that reaches before it also holds events which the base record has.
    private func addNodes(from first: UInt64, firstWhole: UInt64, to last: UInt64, _ scratch: EvaluationScratch) throws {
        var number = scratch.bands.count - 1
        var position = NodeKey.whole
        while let node = try nodes.seek(position), node.key.start <= last {
            var next = node.key.afterSpan
            if node.key.last >= first {
                if !node.isTile {
                    scratch.add(try leaf(node.bytes), .leaf(node.bytes))
                } else {
                    while number > 0, biased(scratch.bands[number].end) <= node.key.start { number -= 1 }
                    let band = scratch.bands[number]
                    if max(biased(band.start), firstWhole) <= node.key.start, band.end > .min, node.key.last <= biased(band.end) - 1 {
                        scratch.add(number, .tile(node.bytes))
                    } else {
                        next = node.key.next
                    }
                }
            }
            guard let next else { break }
            position = next
        }
    }

    func forEachTimeDescending(before end: Int64, _ body: (Int64) -> Bool) throws {
        guard end > .min else { return }
        let head = try head.map { bytes throws(FormatError) in try leaf(bytes) }
        var row = head?.lowerBound(end) ?? 0
        func headRows(after time: Int64) -> Bool {
            while row > 0, let last = head?.time(row - 1), last >= time {
                row -= 1
                if !body(last) { return false }
            }
            return true
        }
        guard hasTree else {
            _ = headRows(after: .min)
            return
        }
        // Behind every node that starts before `end`.
        var position = NodeKey(start: biased(end), level: NodeKey.levelMax)
        while let node = try nodes.seekBefore(position) {
            if !node.isTile {
                let leaf = try leaf(node.bytes)
                for row in (0..<leaf.lowerBound(end)).reversed() {
                    let time = leaf.time(row)
                    if !headRows(after: time) || !body(time) { return }
                }
            }
            position = node.key
        }
        _ = headRows(after: .min)
    }

    func contains(time: Int64, id: UnsafeRawBufferPointer, tag: UInt32) throws -> Bool {
        if let head, try leaf(head, identities: true).contains(time: time, id: id, tag: tag) { return true }
        guard hasTree else { return false }
        var position: NodeKey = NodeKey(start: biased(time), level: 0)
        // The node itself, or the one before it, is the leaf whose span holds the time, if there is one.
        if let node = try nodes.seek(position), node.key == position, !node.isTile {
            return try leaf(node.bytes, identities: true).contains(time: time, id: id, tag: tag)
        }
        while let node = try nodes.seekBefore(position) {
            if !node.isTile {
                return node.key.contains(biased(time))
                    ? try leaf(node.bytes, identities: true).contains(time: time, id: id, tag: tag) : false
            }
            position = node.key
        }
        return false
    }

    var isHistory: Bool { false }
    var isKnown: Bool {
        get throws { try head != nil || (hasTree && nodes.seek(.whole) != nil) || nodes.base() != nil }
    }

    var baseTime: Int64? {
        get throws {
            guard view.plan.hasLifetimeWindow, let base = try nodes.base() else { return nil }
            return try TileView(base, slots: view.runners.count).baseTime
        }
    }
}

/// Rows in order, held in memory.
struct RowsTimeline: Timeline {
    let rows: EventRows
    /// The entity's.
    let range: Range<Int>

    init(rows: EventRows, range: Range<Int>? = nil) {
        self.rows = rows
        self.range = range ?? 0..<rows.count
    }

    func addPieces(to scratch: EvaluationScratch) {
        scratch.rows.append(rows)
        scratch.add(rows, .rows(scratch.rows.count - 1), in: range)
    }

    func forEachTimeDescending(before end: Int64, _ body: (Int64) -> Bool) {
        for row in (range.lowerBound..<rows.lowerBound(end, in: range)).reversed() where !body(rows.times[row]) { return }
    }

    func contains(time: Int64, id: UnsafeRawBufferPointer, tag: UInt32) -> Bool {
        rows.contains(time: time, id: id, tag: tag, in: range)
    }

    var isHistory: Bool { true }
    var isKnown: Bool { !range.isEmpty }
    var baseTime: Int64? { nil }
}

/// Of the rows that a scratch holds those of an entity.
struct HeldTimeline: Timeline {
    // Who evaluates has it.
    unowned(unsafe) let scratch: EvaluationScratch
    let range: Range<Int>

    private var rows: RowsView { scratch.held! }

    func addPieces(to scratch: EvaluationScratch) { scratch.add(rows, .held, in: range) }

    func forEachTimeDescending(before end: Int64, _ body: (Int64) -> Bool) {
        for row in (range.lowerBound..<rows.lowerBound(end, in: range)).reversed() where !body(rows.time(row)) { return }
    }

    func contains(time: Int64, id: UnsafeRawBufferPointer, tag: UInt32) -> Bool {
        rows.contains(time: time, id: id, tag: tag, in: range)
    }

    var isHistory: Bool { true }
    var isKnown: Bool { !range.isEmpty }
    var baseTime: Int64? { nil }
}
