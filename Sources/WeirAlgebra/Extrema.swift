/// The extreme value: nil without events.
public struct ExtremumAccumulation<Input: OrderedColumn>: Accumulation {
    @inlinable public static var usesIDs: Bool { false }
    public enum Side: String, Hashable, Sendable { case minimum, maximum }
    public let side: Side

    public init(_ side: Side) { self.side = side }
    public var signature: String { side.rawValue }
    @inlinable public var empty: Input.Element? { nil }

    @inlinable func wins(_ a: Input.Element, over b: Input.Element) -> Bool {
        side == .minimum ? Input.precedes(a, b) : Input.precedes(b, a)
    }

    @inlinable public func add(_ input: Input, at position: EventPosition, to partial: inout Input.Element?) {
        merge(input.element, into: &partial)
    }
    @inlinable public func merge(_ other: Input.Element?, into partial: inout Input.Element?) {
        guard let other else { return }
        if let current = partial, !wins(other, over: current) { return }
        partial = other
    }
    public func encode(_ partial: Input.Element?, into writer: inout ByteWriter) {
        writer.write(UInt8(partial == nil ? 0 : 1))
        if let partial { Input.encode(partial, into: &writer) }
    }
    public func decode(_ reader: inout ByteReader) throws(FormatError) -> Input.Element? {
        try reader.read(UInt8.self) == 0 ? nil : try Input.decodeElement(&reader)
    }
}

/// The smallest value; null without events.
public struct Minimum<Input: OrderedColumn>: Aggregation {
    public init() {}
    public var accumulator: ExtremumAccumulation<Input> { ExtremumAccumulation(.minimum) }
    public var signature: String { "min" }
    @inlinable public func value(of partial: Input.Element?, at time: EventTime) -> AggregateResult<Input.Element> {
        partial.map { .value($0) } ?? .null
    }
}

/// The largest value; null without events.
public struct Maximum<Input: OrderedColumn>: Aggregation {
    public init() {}
    public var accumulator: ExtremumAccumulation<Input> { ExtremumAccumulation(.maximum) }
    public var signature: String { "max" }
    @inlinable public func value(of partial: Input.Element?, at time: EventTime) -> AggregateResult<Input.Element> {
        partial.map { .value($0) } ?? .null
    }
}

/// The `n` earliest or latest events' values, by event time, then id, then value.
public struct EdgeAccumulation<Input: FeatureColumn>: Accumulation {
    public enum Side: String, Hashable, Sendable { case first, last }
    public struct Entry: Sendable, Hashable {
        public var time: EventTime
        public var id: [UInt8]
        public var element: Input.Element

        @inlinable public init(time: EventTime, id: [UInt8], element: Input.Element) {
            self.time = time
            self.id = id
            self.element = element
        }
    }
    public let side: Side
    public let n: Int

    /// - Precondition: `n > 0`.
    public init(_ side: Side, _ n: Int) {
        precondition((1...Limits.listLengthMax).contains(n), "\(side.rawValue) needs 1 to \(Limits.listLengthMax) values, not \(n)")
        self.side = side
        self.n = n
    }

    public var signature: String { "\(side.rawValue)(\(n))" }
    /// The latest come first: what follows is then refused by its time.
    @inlinable public var prefersLatestFirst: Bool { side == .last }
    @inlinable public static var canSettle: Bool { true }
    @inlinable public func isSettled(_ partial: [Entry], at time: EventTime) -> Bool {
        guard partial.count == n, let farthest = partial.last?.time else { return false }
        return side == .first ? farthest < time : time < farthest
    }
    /// At most `n` entries; the one that is nearest to the edge first.
    @inlinable public var empty: [Entry] { [] }

    @inlinable func precedes(_ a: Entry, _ b: Entry) -> Bool {
        if a.time != b.time { return side == .first ? a.time < b.time : b.time < a.time }
        if a.id != b.id {
            return side == .first ? a.id.lexicographicallyPrecedes(b.id) : b.id.lexicographicallyPrecedes(a.id)
        }
        return side == .first ? Input.precedes(a.element, b.element) : Input.precedes(b.element, a.element)
    }

    @inlinable public func add(_ input: Input, at position: EventPosition, to partial: inout [Entry]) {
        if isSettled(partial, at: position.time) { return }
        insert(Entry(time: position.time, id: position.idBytes, element: input.element), into: &partial)
    }

    @inlinable func insert(_ entry: Entry, into partial: inout [Entry]) {
        var index = partial.count
        while index > 0, precedes(entry, partial[index - 1]) { index -= 1 }
        guard index < n else { return }
        partial.insert(entry, at: index)
        if partial.count > n { partial.removeLast() }
    }

    public func merge(_ other: [Entry], into partial: inout [Entry]) {
        for entry in other { insert(entry, into: &partial) }
    }

    public func encode(_ partial: [Entry], into writer: inout ByteWriter) {
        writer.writeVarint(UInt64(partial.count))
        for entry in partial {
            writer.write(entry.time.microseconds)
            writer.writeBytes(entry.id)
            Input.encode(entry.element, into: &writer)
        }
    }

    public func decode(_ reader: inout ByteReader) throws(FormatError) -> [Entry] {
        let count = try reader.readCount(unit: 9)
        guard count <= n else { throw FormatError("\(count) entries, where at most \(n) are kept") }
        var entries: [Entry] = []
        for _ in 0..<count {
            let time = EventTime(microseconds: try reader.read(Int64.self))
            let id = [UInt8](try reader.readBytes())
            let entry = Entry(time: time, id: id, element: try Input.decodeElement(&reader))
            if let last = entries.last, precedes(entry, last) { throw FormatError("entries that are out of order") }
            entries.append(entry)
        }
        return entries
    }
}

/// The earliest event's value; null without events.
public struct First<Input: FeatureColumn>: Aggregation {
    public init() {}
    public var accumulator: EdgeAccumulation<Input> { EdgeAccumulation(.first, 1) }
    public var signature: String { "first" }
    @inlinable public func value(of partial: [EdgeAccumulation<Input>.Entry], at time: EventTime) -> AggregateResult<Input.Element> {
        partial.first.map { .value($0.element) } ?? .null
    }
}

/// The latest event's value; null without events.
public struct Last<Input: FeatureColumn>: Aggregation {
    public init() {}
    public var accumulator: EdgeAccumulation<Input> { EdgeAccumulation(.last, 1) }
    public var signature: String { "last" }
    @inlinable public func value(of partial: [EdgeAccumulation<Input>.Entry], at time: EventTime) -> AggregateResult<Input.Element> {
        partial.first.map { .value($0.element) } ?? .null
    }
}

/// The values of the `n` earliest events, earliest first; empty without events.
public struct FirstN<Input: FeatureColumn>: Aggregation {
    public let accumulator: EdgeAccumulation<Input>
    public init(_ n: Int) { accumulator = EdgeAccumulation(.first, n) }
    public var signature: String { "first(\(accumulator.n))" }
    @inlinable public func value(of partial: [EdgeAccumulation<Input>.Entry], at time: EventTime) -> AggregateResult<[Input.Element]> {
        .value(partial.map { $0.element })
    }
}

/// The values of the `n` latest events, most recent first; empty without events.
public struct LastN<Input: FeatureColumn>: Aggregation {
    public let accumulator: EdgeAccumulation<Input>
    public init(_ n: Int) { accumulator = EdgeAccumulation(.last, n) }
    public var signature: String { "last(\(accumulator.n))" }
    @inlinable public func value(of partial: [EdgeAccumulation<Input>.Entry], at time: EventTime) -> AggregateResult<[Input.Element]> {
        .value(partial.map { $0.element })
    }
}
