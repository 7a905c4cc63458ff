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
        events.append(batch, view: view, entries: entries)
        let keys = batch.views[view].keys
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
        var prefix: UInt64 = 0
        for byte in key.prefix(8) { prefix = prefix << 8 | UInt64(byte) }
        if key.count < 8 { prefix <<= UInt64(8 * (8 - key.count)) }
        let start = keyBytes.count
        keyBytes.append(contentsOf: key)
        groups.append(Group(hash: hash, key: start..<keyBytes.count, prefix: prefix, first: event, last: event))
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
    func forEach(_ body: (UnsafeRawBufferPointer, EventRows, Range<Int>) throws -> Void) rethrows {
        try keyBytes.withUnsafeBytes { bytes in
            func key(_ group: Group) -> UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: bytes[group.key]) }
            let sorted = groups.sorted { a, b in
                if a.key.count != b.key.count { return a.key.count < b.key.count }
                if a.prefix != b.prefix { return a.prefix < b.prefix }
                return compareBytes(key(a), key(b)) < 0
            }
            var order: [Int] = []
            order.reserveCapacity(next.count)
            for group in sorted {
                let start = order.count
                var isOrdered = true
                var event = group.first
                while event >= 0 {
                    if order.count > start, !events.precedes(order[order.count - 1], Int(event)) { isOrdered = false }
                    order.append(Int(event))
                    event = next[Int(event)]
                }
                if !isOrdered { order[start...].sort(by: events.precedes) }
            }
            var rows = EventRows(like: events)
            rows.append(events, rows: order)
            var start = 0
            var position = 0
            for group in sorted {
                var event = group.first
                while event >= 0 {
                    position += 1
                    event = next[Int(event)]
                }
                try body(key(group), rows, start..<position)
                start = position
            }
        }
    }
}
