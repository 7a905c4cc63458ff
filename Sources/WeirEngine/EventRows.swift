import WeirAlgebra
import WeirDefinitions

/// Reads rows of one entity: from owned columns or in place from a stored leaf.
package protocol RowAccess {
    var count: Int { get }
    func time(_ row: Int) -> Int64
    func tag(_ row: Int) -> UInt32
    func filterBits(_ row: Int) -> UInt64
    func withID<R>(_ row: Int, _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R
    func isNull(_ row: Int, column: Int) -> Bool
    func int64(_ row: Int, column: Int) -> Int64
    func float64(_ row: Int, column: Int) -> Double
    func withText<R>(_ row: Int, column: Int, _ body: (UnsafeRawBufferPointer) -> R) -> R
}

extension RowAccess {
    /// The first row at or after `time`; rows are in ascending order of time.
    package func lowerBound(_ time: Int64) -> Int { lowerBound(time, in: 0..<count) }

    package func lowerBound(_ time: Int64, in range: Range<Int>) -> Int {
        var low = range.lowerBound
        var high = range.upperBound
        while low < high {
            let middle = (low + high) / 2
            if self.time(middle) < time { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// The same, looked for from the end of the range on: where it is near that, few rows are read.
    package func lowerBoundFromEnd(_ time: Int64, in range: Range<Int>) -> Int {
        var high = range.upperBound
        var step = 1
        while step <= high - range.lowerBound {
            if self.time(high - step) < time { return lowerBound(time, in: high - step + 1..<high) }
            high -= step
            step *= 2
        }
        return lowerBound(time, in: range.lowerBound..<high)
    }

    /// Whether an event with this identity is among the rows.
    package func contains(time: Int64, id: UnsafeRawBufferPointer, tag: UInt32, in range: Range<Int>? = nil) -> Bool {
        let range = range ?? 0..<count
        var row = lowerBound(time, in: range)
        while row < range.upperBound, self.time(row) == time {
            if self.tag(row) == tag, withID(row, { compareBytes($0, id) == 0 }) { return true }
            row += 1
        }
        return false
    }
}

/// Rows of one entity and view, held in columns: what an aggregation needs of each event, and its identity.
package struct EventRows: RowAccess, Sendable {
    package var times: [Int64] = []
    package var ids = ColumnBuffer(type: .text)
    /// Tells events with equal time and id but other keys apart: a hash of the event's keys in the stream's other views.
    package var tags: [UInt32] = []
    package var filterBitSets: [UInt64] = []
    package var columns: [ColumnBuffer]

    package init(columns: [ViewPlan.Column]) {
        self.columns = columns.map { ColumnBuffer(type: $0.type) }
    }

    package init(like other: EventRows) {
        columns = other.columns.map { ColumnBuffer(type: $0.type) }
    }

    package var count: Int { times.count }
    package var isEmpty: Bool { times.isEmpty }

    package func time(_ row: Int) -> Int64 { times[row] }
    package func tag(_ row: Int) -> UInt32 { tags[row] }
    package func filterBits(_ row: Int) -> UInt64 { filterBitSets[row] }
    package func withID<R>(_ row: Int, _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R { try ids.withText(row, body) }
    package func isNull(_ row: Int, column: Int) -> Bool { columns[column].isNull(row) }
    package func int64(_ row: Int, column: Int) -> Int64 { columns[column].int64s[row] }
    package func float64(_ row: Int, column: Int) -> Double { columns[column].float64s[row] }
    package func withText<R>(_ row: Int, column: Int, _ body: (UnsafeRawBufferPointer) -> R) -> R {
        columns[column].withText(row, body)
    }

    /// Appends one event of a prepared batch, as view number `view` of its stream sees it.
    package mutating func append(_ batch: PreparedBatch, view: Int, row: Int) {
        times.append(batch.times[row])
        ids.append(batch.ids, row: row)
        tags.append(batch.views.count > 1 ? UInt32(truncatingIfNeeded: batch.keyHashes[row]) : 0)
        let rows = batch.views[view]
        filterBitSets.append(rows.filterBits[row])
        for column in columns.indices { columns[column].append(rows.columns[column], row: row) }
    }

    /// Appends events of a prepared batch, as view number `view` of its stream sees them.
    mutating func append(_ batch: PreparedBatch, view: Int, rows: [Int]) {
        let source = batch.views[view]
        times.append(batch.times, rows: rows)
        ids.append(batch.ids, rows: rows)
        if batch.views.count > 1 {
            tags.append(contentsOf: rows.lazy.map { UInt32(truncatingIfNeeded: batch.keyHashes[$0]) })
        } else {
            tags.append(contentsOf: repeatElement(0, count: rows.count))
        }
        filterBitSets.append(source.filterBits, rows: rows)
        for column in columns.indices { columns[column].append(source.columns[column], rows: rows) }
    }

    /// Sets rows that have times and columns alone.
    package mutating func fill(times: [Int64]) {
        self.times = times
        tags = Array(repeating: 0, count: times.count)
        filterBitSets = Array(repeating: 0, count: times.count)
        ids = ColumnBuffer(textEnds: Array(repeating: 0, count: times.count), textBytes: [], nulls: [])
    }

    package mutating func removeAll() {
        times.removeAll(keepingCapacity: true)
        ids.removeAll()
        tags.removeAll(keepingCapacity: true)
        filterBitSets.removeAll(keepingCapacity: true)
        for column in columns.indices { columns[column].removeAll() }
    }

    /// Appends the given rows of others, one after another.
    package mutating func append(_ other: EventRows, rows: [Int]) {
        times.append(other.times, rows: rows)
        tags.append(other.tags, rows: rows)
        filterBitSets.append(other.filterBitSets, rows: rows)
        ids.append(other.ids, rows: rows)
        for column in columns.indices { columns[column].append(other.columns[column], rows: rows) }
    }

    /// The same for others that lack some columns, or identities.
    package mutating func appendProjected(_ other: EventRows, rows: [Int]) {
        times.append(other.times, rows: rows)
        if !other.tags.isEmpty { tags.append(other.tags, rows: rows) }
        if !other.filterBitSets.isEmpty { filterBitSets.append(other.filterBitSets, rows: rows) }
        if other.ids.count > 0 { ids.append(other.ids, rows: rows) }
        for column in columns.indices where other.columns[column].count > 0 { columns[column].append(other.columns[column], rows: rows) }
    }

    package mutating func append(_ other: EventRows, row: Int) {
        times.append(other.times[row])
        ids.append(other.ids, row: row)
        tags.append(other.tags[row])
        filterBitSets.append(other.filterBitSets[row])
        for column in columns.indices { columns[column].append(other.columns[column], row: row) }
    }

    private mutating func append(contentsOf other: EventRows, _ range: Range<Int>) {
        times += other.times[range]
        ids.append(contentsOf: other.ids, range)
        tags += other.tags[range]
        filterBitSets += other.filterBitSets[range]
        for column in columns.indices { columns[column].append(contentsOf: other.columns[column], range) }
    }

    package mutating func append(_ leaf: LeafView, row: Int) {
        times.append(leaf.time(row))
        leaf.withID(row) { ids.append(text: $0) }
        tags.append(leaf.tag(row))
        filterBitSets.append(leaf.filterBits(row))
        for column in columns.indices {
            if leaf.isNull(row, column: column) {
                columns[column].appendNull()
                continue
            }
            switch columns[column].type {
            case .int64, .bool: columns[column].append(int64: leaf.int64(row, column: column))
            case .float64: columns[column].append(float64: leaf.float64(row, column: column))
            case .text: leaf.withText(row, column: column) { columns[column].append(text: $0) }
            }
        }
    }

    /// The rows of `range`, as rows of their own.
    package func slice(_ range: Range<Int>) -> EventRows {
        if range == 0..<count { return self }
        var rows = EventRows(like: self)
        rows.append(contentsOf: self, range)
        return rows
    }

    /// Whether row `a` comes before row `b` in the total order.
    package func precedes(_ a: Int, _ b: Int) -> Bool {
        if times[a] != times[b] { return times[a] < times[b] }
        let order = ids.withText(a) { a in ids.withText(b) { compareBytes(a, $0) } }
        if order != 0 { return order < 0 }
        return tags[a] < tags[b]
    }

    /// The rows in their total order: time, id, tag.
    package func sorted() -> EventRows {
        guard let order else { return self }
        var rows = EventRows(like: self)
        rows.append(self, rows: order)
        return rows
    }

    /// The rows' numbers in their total order; nil where they are in it.
    package var order: [Int]? {
        if count < 2 || (1..<count).allSatisfy({ !precedes($0, $0 - 1) }) { return nil }
        return times.indices.sorted(by: precedes)
    }

    /// Both lists' rows, in order, as each of them is. An event in both counts once.
    package func union(_ other: EventRows) -> EventRows {
        if isEmpty { return other.sorted() }
        var all = self
        if other.isEmpty { return all }
        if times[count - 1] < other.times[0] {
            // What comes in order goes behind what is there.
            all.append(contentsOf: other, 0..<other.count)
            return all
        }
        for row in other.times.indices { all.append(other, row: row) }
        return all.sorted().deduplicated()
    }

    /// Ordered rows without further copies of an event.
    package func deduplicated() -> EventRows {
        if count < 2 || !(1..<count).contains(where: { isCopy($0, of: $0 - 1) }) { return self }
        var rows = EventRows(like: self)
        for row in times.indices where row == 0 || !isCopy(row, of: row - 1) { rows.append(self, row: row) }
        return rows
    }

    private func isCopy(_ a: Int, of b: Int) -> Bool { times[a] == times[b] && !precedes(b, a) }
}
