/// How many events there are.
public struct CountAccumulation<Input: ColumnValue>: Accumulation {
    @inlinable public static var usesIDs: Bool { false }
    @inlinable public init() {}
    public var signature: String { "count" }
    @inlinable public var empty: UInt64 { 0 }
    @inlinable public func add(_ input: Input, at position: EventPosition, to partial: inout UInt64) { partial &+= 1 }
    @inlinable public func merge(_ other: UInt64, into partial: inout UInt64) { partial &+= other }
    @inlinable public func partial(ofCount count: Int) -> UInt64? { UInt64(count) }
    public func encode(_ partial: UInt64, into writer: inout ByteWriter) { writer.writeVarint(partial) }
    public func decode(_ reader: inout ByteReader) throws(FormatError) -> UInt64 {
        let count = try reader.readVarint()
        guard count <= UInt64(Int64.max) else { throw FormatError("a count of \(count)") }
        return count
    }
}

/// Count and exact sum: what sum and mean need.
public struct SumAccumulation<Input: SummableColumn>: Accumulation {
    @inlinable public static var usesIDs: Bool { false }
    public struct Partial: Sendable, Hashable {
        public var count: UInt64 = 0
        public var sum = ExactSum()

        @inlinable public init(count: UInt64 = 0, sum: ExactSum = ExactSum()) {
            self.count = count
            self.sum = sum
        }
    }

    @inlinable public init() {}
    public var signature: String { "sum" }
    @inlinable public var empty: Partial { Partial() }
    @inlinable public func add(_ input: Input, at position: EventPosition, to partial: inout Partial) {
        partial.count &+= 1
        input.add(to: &partial.sum)
    }
    @inlinable public func merge(_ other: Partial, into partial: inout Partial) {
        partial.count &+= other.count
        partial.sum.add(other.sum)
    }
    public func encode(_ partial: Partial, into writer: inout ByteWriter) {
        writer.writeVarint(partial.count)
        partial.sum.encode(into: &writer)
    }
    public func decode(_ reader: inout ByteReader) throws(FormatError) -> Partial {
        let count = try CountAccumulation<Input>().decode(&reader)
        return Partial(count: count, sum: try ExactSum(decoding: &reader))
    }
}

/// Count, exact sum and exact sum of squares: what the variance needs.
public struct PowerSumAccumulation<Input: SummableColumn>: Accumulation {
    @inlinable public static var usesIDs: Bool { false }
    public struct Partial: Sendable, Hashable {
        public var count: UInt64 = 0
        public var sum = ExactSum()
        public var squares = SquareSum()

        @inlinable public init(count: UInt64 = 0, sum: ExactSum = ExactSum(), squares: SquareSum = SquareSum()) {
            self.count = count
            self.sum = sum
            self.squares = squares
        }
    }

    @inlinable public init() {}
    public var signature: String { "power_sums" }
    @inlinable public var empty: Partial { Partial() }
    @inlinable public func add(_ input: Input, at position: EventPosition, to partial: inout Partial) {
        partial.count &+= 1
        input.add(to: &partial.sum)
        input.addSquare(to: &partial.squares)
    }
    @inlinable public func merge(_ other: Partial, into partial: inout Partial) {
        partial.count &+= other.count
        partial.sum.add(other.sum)
        partial.squares.add(other.squares)
    }
    public func encode(_ partial: Partial, into writer: inout ByteWriter) {
        writer.writeVarint(partial.count)
        partial.sum.encode(into: &writer)
        partial.squares.encode(into: &writer)
    }
    public func decode(_ reader: inout ByteReader) throws(FormatError) -> Partial {
        let count = try CountAccumulation<Input>().decode(&reader)
        let sum = try ExactSum(decoding: &reader)
        return Partial(count: count, sum: sum, squares: try SquareSum(decoding: &reader))
    }

    /// nil below two values.
    @usableFromInline func variance(_ partial: Partial) -> AggregateResult<Double> {
        guard partial.count >= 2 else { return .null }
        return partial.squares.variance(count: partial.count, sum: partial.sum).map { .value($0) } ?? .overflow
    }
}

/// The number of events; 0 without any.
public struct Count<Input: ColumnValue>: Aggregation {
    @inlinable public init() {}
    public var accumulator: CountAccumulation<Input> { CountAccumulation() }
    public var signature: String { "count" }
    @inlinable public func value(of partial: UInt64, at time: EventTime) -> AggregateResult<Int> { .value(Int(clamping: partial)) }
}

/// The exact sum, rounded once; 0 without events; null with status OVERFLOW beyond the type's range.
public struct Sum<Input: SummableColumn & FeatureColumn>: Aggregation {
    @inlinable public init() {}
    public var accumulator: SumAccumulation<Input> { SumAccumulation() }
    public var signature: String { "sum" }
    @inlinable public func value(of partial: SumAccumulation<Input>.Partial, at time: EventTime) -> AggregateResult<Input.SumValue> {
        Input.value(of: partial.sum)
    }
}

/// The rounded exact sum divided by the count; null without events.
public struct Mean<Input: SummableColumn>: Aggregation {
    @inlinable public init() {}
    public var accumulator: SumAccumulation<Input> { SumAccumulation() }
    public var signature: String { "mean" }
    @inlinable public func value(of partial: SumAccumulation<Input>.Partial, at time: EventTime) -> AggregateResult<Double> {
        if partial.count == 0 { return .null }
        return partial.sum.roundedDouble().map { .value($0 / Double(partial.count)) } ?? .overflow
    }
}

/// The sample's variance (n − 1), from exact sums, rounded once; null below two values.
public struct Variance<Input: SummableColumn>: Aggregation {
    @inlinable public init() {}
    public var accumulator: PowerSumAccumulation<Input> { PowerSumAccumulation() }
    public var signature: String { "variance" }
    @inlinable public func value(of partial: PowerSumAccumulation<Input>.Partial, at time: EventTime) -> AggregateResult<Double> {
        accumulator.variance(partial)
    }
}

/// The square root of the rounded variance; null below two values.
public struct StandardDeviation<Input: SummableColumn>: Aggregation {
    @inlinable public init() {}
    public var accumulator: PowerSumAccumulation<Input> { PowerSumAccumulation() }
    public var signature: String { "standard_deviation" }
    @inlinable public func value(of partial: PowerSumAccumulation<Input>.Partial, at time: EventTime) -> AggregateResult<Double> {
        switch accumulator.variance(partial) {
        case .value(let variance): .value(variance.squareRoot())
        case .null: .null
        case .limit: .limit
        case .overflow: .overflow
        }
    }
}
