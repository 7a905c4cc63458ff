import WeirAlgebra
import WeirDefinitions

/// Events of one view, from one or many batches, grouped by entity.
struct EntityGroups {
    private struct Group {
        let hash: UInt64
        let key: Range<Int>
        /// The first eight bytes of the key as a number, in the order of bytes.
        let prefix: UInt64
        var first: Int32
        var last: Int32
    }

    /// In the order in which they came.
    private var events: EventRows
    /// For each event the next one of its entity; −1 behind the last.
    private var next: [Int32] = []
    private var groups: [Group] = []
    private var keyBytes: [UInt8] = []
    /// Open addressing: a group's number, or −1.
    private var table: [Int32] = Array(repeating: -1, count: 64)

    init(columns: [ViewPlan.Column]) { events = EventRows(columns: columns) }

    /// Adds events of a batch, as view number `view` of its stream sees them.
    mutating func add(_ entries: [ShardSlice.Entry], of batch: PreparedBatch, view: Int) {
        events.append(batch, view: view, rows: entries.map(\.row))
        let keys = batch.views[view].keys
        next.reserveCapacity(next.count + entries.count)
        keys.textBytes.withUnsafeBytes { bytes in
            for entry in entries {
                add(UnsafeRawBufferPointer(rebasing: bytes[keys.textRange(entry.row)]), hash: entry.keyHash)
            }
        }
    }

    private mutating func add(_ key: UnsafeRawBufferPointer, hash: UInt64) {
        let event = Int32(next.count)
        next.append(-1)
        if groups.count * 2 >= table.count { enlarge() }
        let mask = table.count - 1
        var slot = Int(truncatingIfNeeded: hash) & mask
        while table[slot] >= 0 {
            let number = Int(table[slot])
            if groups[number].hash == hash, isEqual(groups[number].key, key) {
                next[Int(groups[number].last)] = event
                groups[number].last = event
                return
            }
            slot = (slot + 1) & mask
        }
        table[slot] = Int32(groups.count)
        let start = keyBytes.count
        keyBytes.append(contentsOf: key)
        groups.append(Group(hash: hash, key: start..<keyBytes.count, prefix: firstBytes(key), first: event, last: event))
    }

    private func isEqual(_ range: Range<Int>, _ key: UnsafeRawBufferPointer) -> Bool {
        range.count == key.count
            && keyBytes.withUnsafeBytes { compareBytes(UnsafeRawBufferPointer(rebasing: $0[range]), key) == 0 }
    }

    private mutating func enlarge() {
        table = Array(repeating: -1, count: table.count * 4)
        let mask = table.count - 1
        for (number, group) in groups.enumerated() {
            var slot = Int(truncatingIfNeeded: group.hash) & mask
            while table[slot] >= 0 { slot = (slot + 1) & mask }
            table[slot] = Int32(number)
        }
    }

    /// Hands over each entity's events as a range of rows, in their total order; entities in the order in which stores keep them: by
    /// the length of their keys, then bytewise.
    func forEach(_ body: (UnsafeRawBufferPointer, EventRows, RowsView, Range<Int>) throws -> Void) rethrows {
        try keyBytes.withUnsafeBytes { bytes in
            func key(_ group: Group) -> UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: bytes[group.key]) }
            let sorted = sortedGroups(bytes)
            var order: [Int] = []
            order.reserveCapacity(next.count)
            var ends: [Int] = []
            ends.reserveCapacity(sorted.count)
            for number in sorted {
                let start = order.count
                var isOrdered = true
                var event = groups[Int(number)].first
                while event >= 0 {
                    if order.count > start, !events.precedes(order[order.count - 1], Int(event)) { isOrdered = false }
                    order.append(Int(event))
                    event = next[Int(event)]
                }
                if !isOrdered { order[start...].sort(by: events.precedes) }
                ends.append(order.count)
            }
            var rows = EventRows(like: events)
            rows.append(events, rows: order)
            try rows.withView { view in
                var start = 0
                for (position, number) in sorted.enumerated() {
                    try body(key(groups[Int(number)]), rows, view, start..<ends[position])
                    start = ends[position]
                }
            }
        }
    }

    /// The groups' numbers in the order of their keys: a radix sort by length and first bytes, then comparisons where these are equal.
    private func sortedGroups(_ bytes: UnsafeRawBufferPointer) -> [Int32] {
        struct Item {
            var prefix: UInt64
            var length: UInt16
            var number: Int32
        }
        var items = groups.enumerated().map { number, group in
            Item(prefix: group.prefix, length: UInt16(truncatingIfNeeded: group.key.count), number: Int32(number))
        }
        var scratch = items
        for byte in 0..<8 { radixPass(&items, &scratch) { UInt8(truncatingIfNeeded: $0.prefix >> UInt64(8 * byte)) } }
        for byte in 0..<2 { radixPass(&items, &scratch) { UInt8(truncatingIfNeeded: $0.length >> UInt16(8 * byte)) } }
        // Runs of long keys that begin alike.
        var start = 0
        while start < items.count {
            var end = start + 1
            if items[start].length > 8 {
                while end < items.count, items[end].length == items[start].length, items[end].prefix == items[start].prefix { end += 1 }
                if end - start > 1 {
                    items[start..<end].sort {
                        compareBytes(
                            UnsafeRawBufferPointer(rebasing: bytes[groups[Int($0.number)].key]),
                            UnsafeRawBufferPointer(rebasing: bytes[groups[Int($1.number)].key])) < 0
                    }
                }
            }
            start = end
        }
        return items.map(\.number)
    }
}
