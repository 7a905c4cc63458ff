import WeirAlgebra
import WeirDefinitions

/// Does one slot's work over whole leaves, tiles and windows, so that an existential is opened once a call, not once an event.
protocol SlotRunner: Sendable {
    /// The encoded partial of `old` (nil: no events) and `rows`.
    func adding(_ rows: EventRows, _ range: Range<Int>, to old: UnsafeRawBufferPointer?, into writer: inout ByteWriter)
        throws(FormatError)
    /// The encoded merge of two encoded partials.
    func merging(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer, into writer: inout ByteWriter) throws(FormatError)
}

/// A part of a window: a stored partial, or rows of a stored leaf or in memory.
enum Segment {
    case tile(TileView)
    case leaf(LeafBox, Range<Int>)
    case rows(EventRows, Range<Int>)
}

/// A leaf that several windows have a part of.
final class LeafBox {
    let leaf: LeafView
    init(_ leaf: LeafView) { self.leaf = leaf }
}

struct TypedSlotRunner<A: Accumulation>: SlotRunner {
    let accumulation: A
    let index: Int
    let column: Int?
    let filter: UInt64?

    init(_ accumulation: A, index: Int, column: Int?, filter: Int?) {
        self.accumulation = accumulation
        self.index = index
        self.column = column
        self.filter = filter.map { 1 << UInt64($0) }
    }

    func adding(
        _ rows: EventRows, _ range: Range<Int>, to old: UnsafeRawBufferPointer?, into writer: inout ByteWriter
    ) throws(FormatError) {
        var partial = try decode(old)
        fold(rows, range, into: &partial)
        accumulation.encode(partial, into: &writer)
    }

    func merging(
        _ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer, into writer: inout ByteWriter
    ) throws(FormatError) {
        var partial = try decode(a)
        accumulation.merge(try decode(b), into: &partial)
        accumulation.encode(partial, into: &writer)
    }

    private func decode(_ bytes: UnsafeRawBufferPointer?) throws(FormatError) -> A.Partial {
        guard let bytes else { return accumulation.empty }
        var reader = ByteReader(bytes)
        return try accumulation.decode(&reader)
    }

    func partial(of segments: [Segment]) throws(FormatError) -> A.Partial {
        var partial = accumulation.empty
        for segment in segments {
            switch segment {
            case .tile(let tile): accumulation.merge(try decode(tile.partial(index)), into: &partial)
            case .leaf(let box, let range): foldLeaf(box.leaf, range, into: &partial)
            case .rows(let rows, let range): fold(rows, range, into: &partial)
            }
        }
        return partial
    }

    /// The same over a stored leaf: numbers are read by their column's form, which is looked at once.
    private func foldLeaf(_ leaf: LeafView, _ range: Range<Int>, into partial: inout A.Partial) {
        guard !A.usesIDs, filter == nil, let column, leaf.columns[column].nulls == nil else { return fold(leaf, range, into: &partial) }
        func add(_ row: Int, _ value: A.Input) {
            accumulation.add(
                value, at: EventPosition(time: EventTime(microseconds: leaf.times[row]), id: UnsafeRawBufferPointer(start: nil, count: 0)),
                to: &partial)
        }
        switch (A.Input.columnType, leaf.columns[column].values) {
        case (.float64, .decimals(let integers, let decimals)):
            let scale = powersOfTen[decimals]
            for row in range { add(row, A.Input.column(float64: Double(integers[row]) / scale)) }
        case (.float64, .doubles(let raw)):
            for row in range {
                let bits = UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: row * 8, as: UInt64.self))
                add(row, A.Input.column(float64: Double(bitPattern: bits)))
            }
        case (.int64, .integers(let integers)):
            for row in range { add(row, A.Input.column(int64: integers[row])) }
        default: fold(leaf, range, into: &partial)
        }
    }

    @inline(__always)
    private func fold<R: RowAccess>(_ rows: R, _ range: Range<Int>, into partial: inout A.Partial) {
        guard let column else {
            fold(rows, range, column: nil, into: &partial) { _, body in body(A.Input.column(bool: true)) }
            return
        }
        switch A.Input.columnType {
        case .float64:
            fold(rows, range, column: column, into: &partial) { row, body in
                body(A.Input.column(float64: rows.float64(row, column: column)))
            }
        case .int64:
            fold(rows, range, column: column, into: &partial) { row, body in
                body(A.Input.column(int64: rows.int64(row, column: column)))
            }
        case .bool:
            fold(rows, range, column: column, into: &partial) { row, body in
                body(A.Input.column(bool: rows.int64(row, column: column) != 0))
            }
        case .text:
            fold(rows, range, column: column, into: &partial) { row, body in
                rows.withText(row, column: column) { body(A.Input.column(text: Text($0))) }
            }
        }
    }

    @inline(__always)
    private func fold<R: RowAccess>(
        _ rows: R, _ range: Range<Int>, column: Int?, into partial: inout A.Partial,
        input: (Int, (A.Input) -> Void) -> Void
    ) {
        for row in range {
            if let filter, rows.filterBits(row) & filter == 0 { continue }
            if let column, rows.isNull(row, column: column) { continue }
            input(row) { value in
                guard A.usesIDs else {
                    accumulation.add(
                        value,
                        at: EventPosition(
                            time: EventTime(microseconds: rows.time(row)), id: UnsafeRawBufferPointer(start: nil, count: 0)), to: &partial)
                    return
                }
                rows.withID(row) { id in
                    accumulation.add(
                        value, at: EventPosition(time: EventTime(microseconds: rows.time(row)), id: id), to: &partial)
                }
            }
        }
    }
}

/// The features that share a slot and a window: their partial is made once.
protocol WindowGroup: Sendable {
    var window: Int { get }
    func evaluate(
        _ segments: [Segment], at time: EventTime, into results: inout [FeatureResult]
    ) throws(FormatError)
}

/// A feature's value and why it is so.
package struct FeatureResult: Sendable, Hashable {
    package var value: FeatureValue
    package var status: ValueStatus

    package init(_ value: FeatureValue, _ status: ValueStatus) {
        self.value = value
        self.status = status
    }
}

final class TypedWindowGroup<A: Accumulation>: WindowGroup {
    let window: Int
    let runner: TypedSlotRunner<A>
    private let finalizers: [(feature: Int, finalizer: any Finalizer)]

    init(window: Int, runner: TypedSlotRunner<A>, features: [(feature: Int, aggregation: any Aggregation)]) {
        self.window = window
        self.runner = runner
        // The planner put these aggregations here because their accumulator equals the runner's.
        finalizers = features.map { ($0, finalizer($1)) }
    }

    func evaluate(
        _ segments: [Segment], at time: EventTime, into results: inout [FeatureResult]
    ) throws(FormatError) {
        let partial = try runner.partial(of: segments)
        withUnsafePointer(to: partial) { partial in
            for (feature, finalizer) in finalizers { results[feature] = finalizer.result(of: UnsafeRawPointer(partial), at: time) }
        }
    }
}

/// Makes a feature's value of a partial.
private protocol Finalizer: Sendable {
    /// - Parameter partial: of the aggregation's own type.
    func result(of partial: UnsafeRawPointer, at time: EventTime) -> FeatureResult
}

private struct TypedFinalizer<G: Aggregation>: Finalizer {
    let aggregation: G

    func result(of partial: UnsafeRawPointer, at time: EventTime) -> FeatureResult {
        switch aggregation.value(of: partial.assumingMemoryBound(to: G.Accumulator.Partial.self).pointee, at: time) {
        case .value(let value):
            let value = value.featureValue
            return FeatureResult(value, value == .null ? .nullValue : .present)
        case .null: return FeatureResult(.null, .nullValue)
        case .limit: return FeatureResult(.null, .limit)
        case .overflow: return FeatureResult(.null, .overflow)
        }
    }
}

/// Spelled out for the common ones, so that the compiler makes code of its own for each.
private func finalizer(_ aggregation: any Aggregation) -> any Finalizer {
    func open<G: Aggregation>(_ aggregation: G) -> any Finalizer { TypedFinalizer(aggregation: aggregation) }
    return switch aggregation {
    case let known as Count<Bool>: open(known)
    case let known as Sum<Double>: open(known)
    case let known as Sum<Int64>: open(known)
    case let known as Mean<Double>: open(known)
    case let known as Mean<Int64>: open(known)
    case let known as Minimum<Double>: open(known)
    case let known as Maximum<Double>: open(known)
    case let known as StandardDeviation<Double>: open(known)
    case let known as Last<Text>: open(known)
    case let known as DistinctCount<Int64>: open(known)
    case let known as DistinctCount<Text>: open(known)
    case let known as Quantile<Double>: open(known)
    case let known as TopK<Text>: open(known)
    default: open(aggregation)
    }
}

/// The machinery of one view: a runner a slot, a group a (slot, window).
package final class ViewRuntime: Sendable {
    package let plan: ViewPlan
    let runners: [any SlotRunner]
    let groups: [any WindowGroup]

    /// The slots that windows over everything need.
    let lifetimeSlots: Set<Int>
    /// Events of a leaf that make it split. It never shows in a value.
    let leafRowsMax: Int
    /// Events of a head record that make it go into the tree. It never shows in a value, either.
    let headRowsMax: Int

    package init(_ plan: ViewPlan, leafRowsMax: Int = Limits.leafRowsMax, headRowsMax: Int = Limits.headRowsMax) {
        self.plan = plan
        self.leafRowsMax = leafRowsMax
        self.headRowsMax = headRowsMax
        lifetimeSlots = Set(
            plan.features.compactMap { feature in
                if case .aggregate(let slot, let window, _) = feature.computation, plan.windows[window].kind == .lifetime {
                    slot
                } else {
                    nil
                }
            })
        var runners: [any SlotRunner] = []
        var groups: [any WindowGroup] = []
        for (index, slot) in plan.slots.enumerated() {
            func open<A: Accumulation>(_ accumulation: A) {
                let runner = TypedSlotRunner(accumulation, index: index, column: slot.column, filter: slot.filter)
                runners.append(runner)
                for window in plan.windows.indices {
                    var features: [(feature: Int, aggregation: any Aggregation)] = []
                    for (number, feature) in plan.features.enumerated() {
                        if case .aggregate(index, window, let aggregation) = feature.computation {
                            features.append((number, aggregation))
                        }
                    }
                    if !features.isEmpty { groups.append(TypedWindowGroup(window: window, runner: runner, features: features)) }
                }
            }
            // Spelled out so that the compiler makes code of its own for the common ones, where `open` alone goes through witnesses.
            switch slot.accumulation {
            case let known as CountAccumulation<Bool>: open(known)
            case let known as SumAccumulation<Double>: open(known)
            case let known as SumAccumulation<Int64>: open(known)
            case let known as PowerSumAccumulation<Double>: open(known)
            case let known as ExtremumAccumulation<Double>: open(known)
            case let known as EdgeAccumulation<Text>: open(known)
            case let known as DistinctAccumulation<Int64>: open(known)
            case let known as DistinctAccumulation<Text>: open(known)
            case let known as QuantileAccumulation<Double>: open(known)
            case let known as ValueCountAccumulation<Text>: open(known)
            default: open(slot.accumulation)
            }
        }
        self.runners = runners
        self.groups = groups
    }
}
