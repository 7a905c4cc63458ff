/// A value and how often it occurs.
public struct ValueCount: Sendable, Hashable {
    /// Encoded: Swift's String equates texts of different bytes.
    public var value: [UInt8]
    public var count: UInt64

    @inlinable public init(value: [UInt8], count: UInt64) {
        self.value = value
        self.count = count
    }
}

/// How often each value occurs, exactly, up to a limit of different values; beyond it the partial is `beyondLimit` for good,
/// which is a function of the set of events too.
public struct ValueCountAccumulation<Input: CountableColumn>: Accumulation {
    @inlinable public static var usesIDs: Bool { false }
    public enum Partial: Sendable, Hashable {
        /// In ascending order of the values' bytes.
        case counts([ValueCount])
        case beyondLimit
    }
    public let limit: Int

    public init(limit: Int = Limits.valueCounts) { self.limit = limit }

    public var signature: String { "value_counts(\(limit))" }
    public var empty: Partial { .counts([]) }

    @inlinable public func add(_ input: Input, at position: EventPosition, to partial: inout Partial) {
        guard case .counts(var entries) = partial else { return }
        partial = .beyondLimit  // so that the entries are not copied
        input.withEncodedElement { value in
            let place = Self.lowerBound(entries, value)
            if place < entries.count, entries[place].value.withUnsafeBytes({ compareBytes($0, value) == 0 }) {
                entries[place].count &+= 1
            } else {
                entries.insert(ValueCount(value: Array(value), count: 1), at: place)
            }
        }
        if entries.count <= limit { partial = .counts(entries) }
    }

    @inlinable static func lowerBound(_ entries: [ValueCount], _ value: UnsafeRawBufferPointer) -> Int {
        var low = 0
        var high = entries.count
        while low < high {
            let middle = (low + high) / 2
            if entries[middle].value.withUnsafeBytes({ compareBytes($0, value) < 0 }) { low = middle + 1 } else { high = middle }
        }
        return low
    }

    public func merge(_ other: Partial, into partial: inout Partial) {
        guard case .counts(let entries) = partial else { return }
        guard case .counts(let others) = other else {
            partial = .beyondLimit
            return
        }
        if others.isEmpty { return }
        if entries.isEmpty {
            partial = other
            return
        }
        var union: [ValueCount] = []
        union.reserveCapacity(entries.count + others.count)
        var (i, j) = (0, 0)
        while i < entries.count, j < others.count {
            let order = entries[i].value.withUnsafeBytes { a in others[j].value.withUnsafeBytes { compareBytes(a, $0) } }
            union.append(order <= 0 ? entries[i] : others[j])
            if order == 0 { union[union.count - 1].count &+= others[j].count }
            if order <= 0 { i += 1 }
            if order >= 0 { j += 1 }
        }
        union += entries[i...]
        union += others[j...]
        partial = union.count <= limit ? .counts(union) : .beyondLimit
    }

    public func encode(_ partial: Partial, into writer: inout ByteWriter) {
        guard case .counts(let entries) = partial else { return writer.write(UInt8(1)) }
        writer.write(UInt8(0))
        writer.writeVarint(UInt64(entries.count))
        for entry in entries {
            writer.writeRaw(entry.value)
            writer.writeVarint(entry.count)
        }
    }

    public func decode(_ reader: inout ByteReader) throws(FormatError) -> Partial {
        if try reader.read(UInt8.self) != 0 { return .beyondLimit }
        let count = try reader.readCount(unit: 2)
        guard count <= limit else { throw FormatError("\(count) values, where at most \(limit) are kept") }
        var entries: [ValueCount] = []
        entries.reserveCapacity(count)
        for _ in 0..<count {
            var value = ByteWriter()
            Input.encode(try Input.decodeElement(&reader), into: &value)
            if let last = entries.last, !last.value.lexicographicallyPrecedes(value.bytes) {
                throw FormatError("counted values that are out of order")
            }
            entries.append(ValueCount(value: value.bytes, count: try reader.readVarint()))
        }
        return .counts(entries)
    }

    /// nil only for what a damaged leaf gave: the bytes are our own, encoded a moment ago or checked when they were read.
    func element(_ entry: ValueCount) -> Input.Element? {
        entry.value.withUnsafeBytes { bytes in
            var reader = ByteReader(bytes)
            return try? Input.decodeElement(&reader)
        }
    }
}

/// The `k` most frequent values, most frequent first, ties by value; empty without events; null with status LIMIT beyond the
/// limit of different values.
public struct TopK<Input: CountableColumn>: Aggregation {
    public let k: Int
    public let accumulator: ValueCountAccumulation<Input>

    public init(_ k: Int, limit: Int = Limits.valueCounts) {
        precondition((1...Limits.listLengthMax).contains(k), "topK needs 1 to \(Limits.listLengthMax) values, not \(k)")
        self.k = k
        accumulator = ValueCountAccumulation(limit: limit)
    }

    public var signature: String { "top_k(\(k),\(accumulator.limit))" }

    public func value(of partial: ValueCountAccumulation<Input>.Partial, at time: EventTime) -> AggregateResult<[Input.Element]> {
        guard case .counts(let entries) = partial else { return .limit }
        var top: [Input.Element] = []
        var counts: [UInt64] = []
        for entry in entries {
            if top.count == k, entry.count < counts[k - 1] { continue }
            guard let element = accumulator.element(entry) else { continue }
            var place = top.count
            while place > 0,
                counts[place - 1] < entry.count || (counts[place - 1] == entry.count && Input.precedes(element, top[place - 1]))
            {
                place -= 1
            }
            guard place < k else { continue }
            top.insert(element, at: place)
            counts.insert(entry.count, at: place)
            if top.count > k {
                top.removeLast()
                counts.removeLast()
            }
        }
        return .value(top)
    }
}

/// How often each value occurs; empty without events; null with status LIMIT beyond the limit of different values.
public struct Histogram<Input: CountableColumn>: Aggregation {
    public let accumulator: ValueCountAccumulation<Input>

    public init(limit: Int = Limits.valueCounts) { accumulator = ValueCountAccumulation(limit: limit) }

    public var signature: String { "histogram(\(accumulator.limit))" }

    public func value(of partial: ValueCountAccumulation<Input>.Partial, at time: EventTime) -> AggregateResult<ValueHistogram> {
        guard case .counts(let entries) = partial else { return .limit }
        return .value(
            ValueHistogram(
                entries.compactMap { entry in
                    accumulator.element(entry).map { .init(label: Input.label($0), count: Int(clamping: entry.count)) }
                }))
    }
}

/// Counts by value, ordered by the value's UTF-8 bytes.
public struct ValueHistogram: FeatureRepresentable, Hashable {
    public struct Entry: Hashable, Sendable {
        public var label: String
        public var count: Int
    }
    public let entries: [Entry]

    init(_ entries: [Entry]) {
        self.entries = entries.sorted { $0.label.utf8.lexicographicallyPrecedes($1.label.utf8) }
    }

    /// 0 for a value that does not occur.
    public subscript(label: String) -> Int {
        entries.first { $0.label.utf8.elementsEqual(label.utf8) }?.count ?? 0
    }

    public static var featureType: FeatureType { .intMap }
    public var featureValue: FeatureValue { .map(entries.map { .init(key: $0.label, value: .int(Int64($0.count))) }) }
    public init?(featureValue: FeatureValue) {
        guard case .map(let entries) = featureValue else { return nil }
        var own: [Entry] = []
        for entry in entries {
            guard case .int(let count) = entry.value else { return nil }
            own.append(Entry(label: entry.key, count: Int(count)))
        }
        self.init(own)
    }
}
