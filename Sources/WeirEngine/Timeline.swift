import WeirAlgebra
import WeirDefinitions

/// Where a lookup finds an entity's events: the online store's nodes, or rows that were read from history.
protocol Timeline {
    /// The parts that make up `[start, end)`.
    func segments(from start: Int64, to end: Int64) throws -> [Segment]
    /// Calls `body` with event times before `end`, latest first, until it returns false.
    func forEachTimeDescending(before end: Int64, _ body: (Int64) -> Bool) throws
    func contains(time: Int64, id: UnsafeRawBufferPointer, tag: UInt32) throws -> Bool
    /// Whether the entity is known at all.
    var isKnown: Bool { get throws }
    /// Events before this time are in the base record's partials only; nil where none expired.
    var baseTime: Int64? { get throws }
}

struct NodeTimeline: Timeline {
    let view: ViewRuntime
    let nodes: any NodeReading
    /// The events that are in no node.
    private let head: LeafBox?
    private let hasTree: Bool

    init(view: ViewRuntime, nodes: any NodeReading) throws {
        self.view = view
        self.nodes = nodes
        let head = try nodes.head().map { try HeadView($0, columns: view.plan.columns) }
        self.head = head?.leaf.map { LeafBox($0) }
        // A store that an earlier build made has trees alone.
        hasTree = head?.hasTree ?? true
    }

    private func leaf(_ node: Node) throws(FormatError) -> LeafView { try LeafView(node.bytes, columns: view.plan.columns) }

    func segments(from start: Int64, to end: Int64) throws -> [Segment] {
        guard start < end else { return [] }
        var segments: [Segment] = []
        let first = biased(start)
        let last = biased(end) - 1
        // A tile that reaches before the base time also holds events which the base record has.
        var firstWhole = first
        if start == .min, let base = try nodes.base() {
            let tile = try TileView(base, slots: view.runners.count)
            segments.append(.tile(tile))
            firstWhole = biased(tile.baseTime ?? .min)
        }
        if let head {
            let range = head.leaf.lowerBound(start)..<head.leaf.lowerBound(end)
            if !range.isEmpty { segments.append(.leaf(head, range)) }
        }
        guard hasTree else { return segments }
        var position = NodeKey.whole
        while let node = try nodes.seek(position), node.key.start <= last {
            var next = node.key.afterSpan
            if node.key.last >= first {
                if !node.isTile {
                    let leaf = try leaf(node)
                    let range = leaf.lowerBound(start)..<leaf.lowerBound(end)
                    if !range.isEmpty { segments.append(.leaf(LeafBox(leaf), range)) }
                } else if firstWhole <= node.key.start, node.key.last <= last {
                    segments.append(.tile(try TileView(node.bytes, slots: view.runners.count)))
                } else {
                    next = node.key.next
                }
            }
            guard let next else { break }
            position = next
        }
        return segments
    }

    func forEachTimeDescending(before end: Int64, _ body: (Int64) -> Bool) throws {
        guard end > .min else { return }
        var row = head?.leaf.lowerBound(end) ?? 0
        func headRows(after time: Int64) -> Bool {
            while row > 0, let last = head?.leaf.time(row - 1), last >= time {
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
                let leaf = try leaf(node)
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
        if let head, head.leaf.contains(time: time, id: id, tag: tag) { return true }
        guard hasTree else { return false }
        var position: NodeKey = NodeKey(start: biased(time), level: 0)
        // The node itself, or the one before it, is the leaf whose span holds the time, if there is one.
        if let node = try nodes.seek(position), node.key == position, !node.isTile {
            return try leaf(node).contains(time: time, id: id, tag: tag)
        }
        while let node = try nodes.seekBefore(position) {
            if !node.isTile {
                return node.key.contains(biased(time)) ? try leaf(node).contains(time: time, id: id, tag: tag) : false
            }
            position = node.key
        }
        return false
    }

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

    func segments(from start: Int64, to end: Int64) -> [Segment] {
        let range = rows.lowerBound(start)..<max(rows.lowerBound(start), rows.lowerBound(end))
        return range.isEmpty ? [] : [.rows(rows, range)]
    }

    func forEachTimeDescending(before end: Int64, _ body: (Int64) -> Bool) {
        for row in (0..<rows.lowerBound(end)).reversed() where !body(rows.times[row]) { return }
    }

    func contains(time: Int64, id: UnsafeRawBufferPointer, tag: UInt32) -> Bool {
        rows.contains(time: time, id: id, tag: tag)
    }

    var isKnown: Bool { !rows.isEmpty }
    var baseTime: Int64? { nil }
}
