import WeirAlgebra
import WeirDefinitions

/// An entity's events in one view, as a radix tree over time: leaves hold events, tiles above them hold partials.
///
/// An entity starts as one leaf over all of time. A leaf that outgrows `leafRowsMax` of its view becomes a tile over the
/// narrowest span that holds its events, with a leaf for each sixteenth that has any: a sparse entity stays one small
/// record, a dense one gets leaves of minutes and tiles of hours, days and months, and a window of any length merges at most
/// some fifteen tiles a level. Where a span is not split it has no tile, so the depth follows the data.
///
/// The shape never shows in a value: partials merge exactly, in any order (see `Accumulation`).
package struct TimeTree<Nodes: NodeWriting> {
    let view: ViewRuntime
    let nodes: Nodes
    private let scratch: TreeScratch

    package init(view: ViewRuntime, nodes: Nodes, scratch: TreeScratch = TreeScratch()) {
        self.view = view
        self.nodes = nodes
        self.scratch = scratch
    }

    private func putTile(_ key: NodeKey, adding rows: EventRows, to old: UnsafeRawBufferPointer?) throws {
        try view.writeTile(adding: rows, 0..<rows.count, to: old, scratch)
        try nodes.put(key, scratch.writer.bytes)
    }

    private func putBase(adding rows: EventRows, _ range: Range<Int>, to old: UnsafeRawBufferPointer?, baseTime: Int64) throws {
        try view.writeTile(adding: rows, range, to: old, baseTime: baseTime, scratch)
        try nodes.putBase(scratch.writer.bytes)
    }

    private func putLeaf(_ key: NodeKey, _ rows: EventRows) throws {
        rows.encodeLeaf(into: &scratch.writer)
        try nodes.put(key, scratch.writer.bytes)
    }

    /// Adds events, none of which is in the tree. Those before the base time go into the base record alone.
    ///
    /// - Parameter rows: in order.
    package func insert(_ rows: EventRows) throws {
        var rows = rows
        if view.plan.hasLifetimeWindow, let base = try nodes.base() {
            let baseTime = try TileView(base, slots: view.runners.count).baseTime ?? .min
            let late = rows.lowerBound(baseTime)
            if late > 0 {
                try putBase(adding: rows, 0..<late, to: base, baseTime: baseTime)
                rows = rows.slice(late..<rows.count)
            }
        }
        if !rows.isEmpty { try place(rows, in: .whole) }
    }

    /// Puts rows into the subtree that covers `slot`.
    private func place(_ rows: EventRows, in slot: NodeKey) throws {
        guard let node = try nodes.seek(slot), slot.contains(node.key) else { return try build(rows, in: slot) }
        if !node.isTile {
            let leaf = try LeafView(node.bytes, columns: view.plan.columns)
            if node.key == slot, leaf.count > 0, leaf.count + rows.count <= view.leafRowsMax, leaf.time(leaf.count - 1) < rows.times[0] {
                // The common case: later events of a leaf that has room for them.
                leaf.append(rows, into: &scratch.writer)
                return try nodes.put(slot, scratch.writer.bytes)
            }
            let merged = leaf.rows(columns: view.plan.columns).union(rows)
            if node.key != slot || merged.count > view.leafRowsMax { try nodes.delete(node.key) }
            return try build(merged, in: slot)
        }
        var tile = node.key
        let first = biased(rows.times[0])
        let last = biased(rows.times[rows.count - 1])
        if !tile.contains(first) || !tile.contains(last) {
            // A tile only covers what was there when it was made: put a wider one above it.
            tile = NodeKey.smallest(containing: min(first, tile.start), max(last, tile.last))
        }
        try putTile(tile, adding: rows, to: node.bytes)
        try forEachChild(of: tile, rows) { child, rows in try place(rows, in: child) }
    }

    /// Writes a subtree where there is none (or one leaf at `slot`, which is replaced).
    private func build(_ rows: EventRows, in slot: NodeKey) throws {
        let tile = NodeKey.smallest(containing: biased(rows.times[0]), biased(rows.times[rows.count - 1]))
        if rows.count <= view.leafRowsMax || tile.level == 0 {
            return try putLeaf(slot, rows)
        }
        try putTile(tile, adding: rows, to: nil)
        try forEachChild(of: tile, rows) { child, rows in try build(rows, in: child) }
    }

    private func forEachChild(of tile: NodeKey, _ rows: EventRows, _ body: (NodeKey, EventRows) throws -> Void) throws {
        var start = 0
        while start < rows.count {
            let child = NodeKey(containing: biased(rows.times[start]), level: tile.level - 1)
            var end = start + 1
            while end < rows.count, child.contains(biased(rows.times[end])) { end += 1 }
            try body(child, start == 0 && end == rows.count ? rows : rows.slice(start..<end))
            start = end
        }
    }

    /// Moves all events before `horizon` out of the tree, into the base record where the view has lifetime features.
    ///
    /// Tiles that reach across the horizon are emptied: no window that begins after it contains their span.
    package func expire(before horizon: Int64) throws {
        let limit = biased(horizon)
        var expired = EventRows(columns: view.plan.columns)
        var isEmptied = false
        var position = NodeKey.whole
        while let node = try nodes.seek(position), node.key.start < limit {
            let key = node.key
            if !node.isTile {
                let leaf = try LeafView(node.bytes, columns: view.plan.columns)
                let kept = leaf.lowerBound(horizon)
                if kept > 0 {
                    for row in 0..<kept { expired.append(leaf, row: row) }
                    var rest = EventRows(columns: view.plan.columns)
                    for row in kept..<leaf.count { rest.append(leaf, row: row) }
                    if rest.isEmpty { try nodes.delete(key) } else { try putLeaf(key, rest) }
                }
            } else if key.last < limit {
                try nodes.delete(key)
            } else if try TileView(node.bytes, slots: view.runners.count).rows > 0 {
                try putTile(key, adding: EventRows(columns: view.plan.columns), to: nil)
                isEmptied = true
            }
            guard let next = key.next else { break }
            position = next
        }
        guard view.plan.hasLifetimeWindow else { return }
        let base = try nodes.base()
        let rows = expired.sorted()
        // With a base record windows over everything know that tiles from before its time do not hold all of their span.
        if base != nil || !rows.isEmpty || isEmptied {
            try putBase(adding: rows, 0..<rows.count, to: base, baseTime: horizon)
        }
    }
}

extension NodeKey {
    /// The first possible key after this one.
    var next: NodeKey? {
        if level > 0 { return NodeKey(start: start, level: level - 1) }
        return start == .max ? nil : NodeKey(start: start + 1, level: NodeKey.levelMax)
    }

    /// The first possible key after the whole span.
    var afterSpan: NodeKey? { last == .max ? nil : NodeKey(start: last + 1, level: NodeKey.levelMax) }
}
