/// Finds rows at a log's end that are in no segment yet, by the hash of a view's key or of the identity. Hashes only: what it finds
/// is to be compared.
struct TailIndex {
    private var sequences: [Int64] = []
    private var times: [Int64] = []
    private var keys: [HashChains]
    private var identities = HashChains()
    private(set) var latestTime: Int64 = .min
    private(set) var lastSequence: Int64

    /// - Parameter sequence: rows up to here are in segments.
    init(views: Int, after sequence: Int64) {
        keys = Array(repeating: HashChains(), count: views)
        lastSequence = sequence
    }

    mutating func append(sequence: Int64, time: Int64) {
        sequences.append(sequence)
        times.append(time)
        latestTime = max(latestTime, time)
        lastSequence = sequence
    }

    /// Of the row that was appended last.
    mutating func setKey(_ hash: UInt64, view: Int) { keys[view].insert(hash, row: sequences.count - 1) }
    mutating func setIdentity(_ hash: UInt64) { identities.insert(hash, row: sequences.count - 1) }

    /// Rows that may be an entity's, in `[start, end)`, by their numbers.
    func sequences(view: Int, keyHash: UInt64, from start: Int64, to end: Int64) -> [Int64] {
        var found: [Int64] = []
        keys[view].forEach(keyHash) { row in
            if start <= times[row], times[row] < end { found.append(sequences[row]) }
        }
        return found.reversed()
    }

    /// Rows that may be an entity's, with their times.
    func latest(view: Int, keyHash: UInt64) -> [(time: Int64, sequence: Int64)] {
        var found: [(time: Int64, sequence: Int64)] = []
        keys[view].forEach(keyHash) { found.append((times[$0], sequences[$0])) }
        return found.sorted { $0.time > $1.time }
    }

    func sequences(identity hash: UInt64) -> [Int64] {
        var found: [Int64] = []
        identities.forEach(hash) { found.append(sequences[$0]) }
        return found
    }

    /// Forgets rows that have gone into a segment.
    mutating func drop(upTo sequence: Int64) {
        // Also where it has none of them: rows that came since, and are in a segment already, are not read into it.
        lastSequence = max(lastSequence, sequence)
        let count = sequences.firstIndex { $0 > sequence } ?? sequences.count
        if count == 0 { return }
        sequences.removeFirst(count)
        times.removeFirst(count)
        latestTime = times.max() ?? .min
        for view in keys.indices { keys[view].drop(rows: count) }
        identities.drop(rows: count)
    }
}

/// Rows by a hash, the latest first: a hash table with open addressing whose entries are heads of chains.
struct HashChains {
    private struct Entry {
        let hash: UInt64
        let row: Int32
        /// The entry before it with the same hash; −1 for none.
        let next: Int32
    }
    private var entries: [Entry] = []
    /// Numbers of entries; −1 where there is none.
    private var table: [Int32] = Array(repeating: -1, count: 1_024)

    private func slot(_ hash: UInt64) -> Int {
        let mask = table.count - 1
        var slot = Int(truncatingIfNeeded: hash ^ (hash >> 32)) & mask
        while table[slot] >= 0, entries[Int(table[slot])].hash != hash { slot = (slot + 1) & mask }
        return slot
    }

    mutating func insert(_ hash: UInt64, row: Int) {
        if entries.count * 2 >= table.count { rebuild(entries.map { ($0.hash, $0.row) }, capacity: table.count * 2) }
        let slot = slot(hash)
        entries.append(Entry(hash: hash, row: Int32(row), next: table[slot]))
        table[slot] = Int32(entries.count - 1)
    }

    private mutating func rebuild(_ rows: [(UInt64, Int32)], capacity: Int) {
        table = Array(repeating: -1, count: capacity)
        entries.removeAll(keepingCapacity: true)
        for (hash, row) in rows {
            let slot = slot(hash)
            entries.append(Entry(hash: hash, row: row, next: table[slot]))
            table[slot] = Int32(entries.count - 1)
        }
    }

    func forEach(_ hash: UInt64, _ body: (Int) -> Void) {
        var entry = table[slot(hash)]
        while entry >= 0 {
            body(Int(entries[Int(entry)].row))
            entry = entries[Int(entry)].next
        }
    }

    /// Forgets the first rows; the others count from them.
    mutating func drop(rows count: Int) {
        rebuild(entries.compactMap { $0.row >= count ? ($0.hash, $0.row - Int32(count)) : nil }, capacity: table.count)
    }
}
