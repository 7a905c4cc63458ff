import WeirAlgebra
import WeirDefinitions

/// An entity's events in one view: the head record with those that came last, and behind it a radix tree over time: leaves hold
/// events, tiles above them hold partials.
///
/// New events join the head, one small record that is written anew; when it is full all of it goes into the tree at once, so that
/// tiles are merged once for some dozen events (the idea of buffer trees: L. Arge, "The buffer tree", 1995). An entity with few events has
/// no tree.
///
/// The tree starts as one leaf over all of time. A leaf that outgrows `leafRowsMax` of its view becomes a tile over the
/// narrowest span that holds its events, with a leaf for each sixteenth that has any: a dense entity gets leaves of minutes and tiles of hours, days and months, and a window of any length merges at most
/// some fifteen tiles a level. Where a span is not split it has no tile, so the depth follows the data.
///
/// The shape never shows in a value: partials merge exactly, in any order (see `Accumulation`).
package struct TimeTree {
    let view: ViewRuntime
    let nodes: any NodeWriting
    private let scratch: TreeScratch

    package init(view: ViewRuntime, nodes: any NodeWriting, scratch: TreeScratch = TreeScratch()) {
        self.view = view
        self.nodes = nodes
        self.scratch = scratch
    }

    private func putTile(_ key: NodeKey, adding rows: EventRows, _ range: Range<Int>, to old: UnsafeRawBufferPointer?) throws {
        try view.writeTile(adding: rows, range, to: old, scratch)
        try nodes.put(key, scratch.writer.bytes)
    }

    private func putBase(adding rows: EventRows, _ range: Range<Int>, to old: UnsafeRawBufferPointer?, baseTime: Int64) throws {
        try view.writeTile(adding: rows, range, to: old, baseTime: baseTime, scratch)
        try nodes.putBase(scratch.writer.bytes)
    }

    private func putLeaf(_ key: NodeKey, _ rows: EventRows, _ range: Range<Int>) throws {
        scratch.writer.clear()
        rows.encodeLeaf(range, into: &scratch.writer)
        try nodes.put(key, scratch.writer.bytes)
    }

    /// Adds events, none of which is there yet. Those before the base time go into the base record alone.
    ///
    /// - Parameter rows: in order.
    package func insert(_ rows: EventRows) throws { try rows.withView { try insert(rows, $0, 0..<rows.count) } }

    /// Adds the events of a range.
    ///
    /// - Parameter memory: of the same rows.
    func insert(_ rows: EventRows, _ memory: RowsView, _ range: Range<Int>) throws {
        var range = range
        if view.plan.hasLifetimeWindow, let base = try nodes.base() {
            let baseTime = try TileView(base, slots: view.runners.count).baseTime ?? .min
            let late = rows.lowerBound(baseTime, in: range)
            if late > range.lowerBound {
                try putBase(adding: rows, range.lowerBound..<late, to: base, baseTime: baseTime)
                range = late..<range.upperBound
            }
        }
        if !range.isEmpty { try addToHead(rows, memory, range) }
    }

    private func addToHead(_ rows: EventRows, _ memory: RowsView, _ range: Range<Int>) throws {
        guard let bytes = try nodes.head() else {
            // A new entity, or one of a store that an earlier build made.
            let hasTree = try nodes.seek(.whole) != nil
            if range.count <= view.headRowsMax, try putHead(memory, range, hasTree: hasTree) { return }
            try place(rows, range, in: .whole)
            return try putEmptyHead()
        }
        let head = try HeadView(bytes, columns: view.plan.columns)
        if let leaf = head.leaf {
            if leaf.count + range.count <= view.headRowsMax, leaf.time(leaf.count - 1) < rows.times[range.lowerBound] {
                // The common case: later events, and room for them.
                scratch.writer.beginHead(hasTree: head.hasTree)
                leaf.append(memory, range, into: &scratch.writer)
                if scratch.writer.bytes.count <= Limits.headBytesMax { return try nodes.putHead(scratch.writer.bytes) }
            }
            let all = leaf.rows(columns: view.plan.columns).union(rows.slice(range))
            if all.count <= view.headRowsMax, try all.withView({ try putHead($0, 0..<all.count, hasTree: head.hasTree) }) { return }
            try place(all, 0..<all.count, in: .whole)
        } else {
            if range.count <= view.headRowsMax, try putHead(memory, range, hasTree: head.hasTree) { return }
            try place(rows, range, in: .whole)
        }
        // Empty already where more came than it takes.
        if head.leaf != nil || !head.hasTree { try putEmptyHead() }
    }

    /// - Returns: false, with nothing written, where the record would be too large.
    private func putHead(_ rows: RowsView, _ range: Range<Int>, hasTree: Bool) throws -> Bool {
        scratch.writer.beginHead(hasTree: hasTree)
        rows.encodeLeaf(range, into: &scratch.writer)
        guard scratch.writer.bytes.count <= Limits.headBytesMax else { return false }
        try nodes.putHead(scratch.writer.bytes)
        return true
    }

    /// Says that all events are in the tree.
    private func putEmptyHead() throws {
        scratch.writer.beginHead(hasTree: true)
        try nodes.putHead(scratch.writer.bytes)
    }

    /// Puts rows into the subtree that covers `slot`.
    private func place(_ rows: EventRows, _ range: Range<Int>, in slot: NodeKey) throws {
        guard let node = try nodes.seek(slot), slot.contains(node.key) else { return try build(rows, range, in: slot) }
        if !node.isTile {
            let leaf = try LeafView(node.bytes, columns: view.plan.columns)
            let total = leaf.count + range.count
            if node.key == slot, leaf.count > 0, total <= view.leafRowsMax, leaf.time(leaf.count - 1) < rows.times[range.lowerBound] {
                // The common case: later events of a leaf that has room for them.
                scratch.writer.clear()
                rows.withView { leaf.append($0, range, into: &scratch.writer) }
                return try nodes.put(slot, scratch.writer.bytes)
            }
            let merged = leaf.rows(columns: view.plan.columns).union(rows.slice(range))
            if node.key != slot || merged.count > view.leafRowsMax { try nodes.delete(node.key) }
            return try build(merged, 0..<merged.count, in: slot)
        }
        var tile = node.key
        let first = biased(rows.times[range.lowerBound])
        let last = biased(rows.times[range.upperBound - 1])
        if !tile.contains(first) || !tile.contains(last) {
            // A tile only covers what was there when it was made: put a wider one above it.
            tile = NodeKey.smallest(containing: min(first, tile.start), max(last, tile.last))
        }
        try putTile(tile, adding: rows, range, to: node.bytes)
        try forEachChild(of: tile, rows, range) { child, range in try place(rows, range, in: child) }
    }

    /// Writes a subtree where there is none (or one leaf at `slot`, which is replaced).
    private func build(_ rows: EventRows, _ range: Range<Int>, in slot: NodeKey) throws {
        let tile = NodeKey.smallest(containing: biased(rows.times[range.lowerBound]), biased(rows.times[range.upperBound - 1]))
        if range.count <= view.leafRowsMax || tile.level == 0 {
            return try putLeaf(slot, rows, range)
        }
        try putTile(tile, adding: rows, range, to: nil)
        try forEachChild(of: tile, rows, range) { child, range in try build(rows, range, in: child) }
    }

    private func forEachChild(
        of tile: NodeKey, _ rows: EventRows, _ range: Range<Int>, _ body: (NodeKey, Range<Int>) throws -> Void
    ) throws {
        var start = range.lowerBound
        while start < range.upperBound {
            let child = NodeKey(containing: biased(rows.times[start]), level: tile.level - 1)
            var end = start + 1
            while end < range.upperBound, child.contains(biased(rows.times[end])) { end += 1 }
            try body(child, start..<end)
            start = end
        }
    }

    /// Moves all events before `horizon` out of head and tree, into the base record where the view has lifetime features.
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
                    if view.plan.hasLifetimeWindow { for row in 0..<kept { expired.append(leaf, row: row) } }
                    if kept == leaf.count {
                        try nodes.delete(key)
                    } else {
                        try putLeaf(key, leaf.rows(columns: view.plan.columns), kept..<leaf.count)
                    }
                }
            } else if key.last < limit {
                try nodes.delete(key)
            } else if try TileView(node.bytes, slots: view.runners.count).rows > 0 {
                try putTile(key, adding: EventRows(columns: view.plan.columns), 0..<0, to: nil)
                isEmptied = true
            }
            guard let next = key.next else { break }
            position = next
        }
        try expireHead(before: horizon, &expired)
        guard view.plan.hasLifetimeWindow else { return }
        let base = try nodes.base()
        let rows = expired.sorted()
        // With a base record windows over everything know that tiles from before its time do not hold all of their span.
        if base != nil || !rows.isEmpty || isEmptied {
            try putBase(adding: rows, 0..<rows.count, to: base, baseTime: horizon)
        }
    }

    /// Behind the tree's expiry: a head of neither events nor a tree goes, too.
    private func expireHead(before horizon: Int64, _ expired: inout EventRows) throws {
        guard let bytes = try nodes.head() else { return }
        let head = try HeadView(bytes, columns: view.plan.columns)
        let count = head.leaf?.count ?? 0
        let kept = head.leaf?.lowerBound(horizon) ?? 0
        if kept > 0, view.plan.hasLifetimeWindow { for row in 0..<kept { expired.append(head.leaf!, row: row) } }
        if kept < count {
            if kept == 0 { return }
            scratch.writer.beginHead(hasTree: head.hasTree)
            head.leaf!.rows(columns: view.plan.columns).encodeLeaf(kept..<count, into: &scratch.writer)
            return try nodes.putHead(scratch.writer.bytes)
        }
        if head.hasTree, try nodes.seek(.whole) != nil {
            if count > 0 { try putEmptyHead() }
        } else {
            try nodes.deleteHead()
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
