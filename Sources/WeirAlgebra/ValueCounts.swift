/// How often each value occurs, exactly, up to a limit of different values; beyond it the partial is `beyondLimit` for good,
/// which is a function of the set of events too.
public struct ValueCountAccumulation<Input: CountableColumn>: Accumulation {
    @inlinable public static var usesIDs: Bool { false }
    /// Keyed by the value's encoded bytes, since Swift's String equates texts of different bytes.
    public enum Partial: Sendable, Hashable {
        case counts([[UInt8]: UInt64])
        case beyondLimit
    }
    public let limit: Int

    public init(limit: Int = Limits.valueCounts) { self.limit = limit }

    public var signature: String { "value_counts(\(limit))" }
    public var empty: Partial { .counts([:]) }

    public func add(_ input: Input, at position: EventPosition, to partial: inout Partial) {
        guard case .counts(var counts) = partial else { return }
        partial = .beyondLimit  // so that the dictionary is not copied
        var key = ByteWriter()
        input.encodeElement(into: &key)
        counts[key.bytes, default: 0] &+= 1
        if counts.count <= limit { partial = .counts(counts) }
    }

    public func merge(_ other: Partial, into partial: inout Partial) {
        guard case .counts(var counts) = partial else { return }
        partial = .beyondLimit
        guard case .counts(let others) = other else { return }
        counts.merge(others, uniquingKeysWith: &+)
        if counts.count <= limit { partial = .counts(counts) }
    }

    public func encode(_ partial: Partial, into writer: inout ByteWriter) {
        guard case .counts(let counts) = partial else { return writer.write(UInt8(1)) }
        writer.write(UInt8(0))
        writer.writeVarint(UInt64(counts.count))
        for (key, count) in counts.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
            writer.writeRaw(key)
            writer.writeVarint(count)
        }
    }

    public func decode(_ reader: inout ByteReader) throws(FormatError) -> Partial {
        if try reader.read(UInt8.self) != 0 { return .beyondLimit }
        let count = try reader.readCount(unit: 2)
        guard count <= limit else { throw FormatError("\(count) values, where at most \(limit) are kept") }
        var counts: [[UInt8]: UInt64] = [:]
        counts.reserveCapacity(count)
        for _ in 0..<count {
            var key = ByteWriter()
            Input.encode(try Input.decodeElement(&reader), into: &key)
            counts[key.bytes] = try reader.readVarint()
        }
        guard counts.count == count else { throw FormatError("a value that is counted twice") }
        return .counts(counts)
    }

    /// Values with their counts; nil beyond the limit.
    func values(_ partial: Partial) -> [(element: Input.Element, count: UInt64)]? {
        guard case .counts(let counts) = partial else { return nil }
        return counts.compactMap { key, count in
            key.withUnsafeBytes { bytes in
                var reader = ByteReader(bytes)
                // Own bytes, encoded a moment ago or checked when they were read; only a damaged leaf gives others.
                return (try? Input.decodeElement(&reader)).map { ($0, count) }
            }
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
        guard let values = accumulator.values(partial) else { return .limit }
        let sorted = values.sorted { $0.count != $1.count ? $0.count > $1.count : Input.precedes($0.element, $1.element) }
        return .value(sorted.prefix(k).map(\.element))
    }
}

/// How often each value occurs; empty without events; null with status LIMIT beyond the limit of different values.
public struct Histogram<Input: CountableColumn>: Aggregation {
    public let accumulator: ValueCountAccumulation<Input>

    public init(limit: Int = Limits.valueCounts) { accumulator = ValueCountAccumulation(limit: limit) }

    public var signature: String { "histogram(\(accumulator.limit))" }

    public func value(of partial: ValueCountAccumulation<Input>.Partial, at time: EventTime) -> AggregateResult<ValueHistogram> {
        guard let values = accumulator.values(partial) else { return .limit }
        return .value(ValueHistogram(values.map { .init(label: Input.label($0.element), count: Int(clamping: $0.count)) }))
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
