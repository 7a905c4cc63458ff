import WeirAlgebra
import WeirDefinitions

/// Does one slot's work over whole leaves and tiles, so that an existential is opened once a call, not once an event.
protocol SlotRunner: Sendable {
    /// The encoded partial of `old` (nil: no events) and `rows`.
    func adding(_ rows: EventRows, _ range: Range<Int>, to old: UnsafeRawBufferPointer?, into writer: inout ByteWriter)
        throws(FormatError)
    /// The encoded merge of two encoded partials.
    func merging(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer, into writer: inout ByteWriter) throws(FormatError)
    /// Makes features of the slot.
    ///
    /// - Parameter features: each with its window, its place among the results, and the aggregation that makes its value.
    func evaluator(_ features: [SlotFeature]) -> any SlotEvaluator
}

struct SlotFeature {
    let window: Int
    let result: Int
    let aggregation: any Aggregation
}

/// Evaluates the features of one slot.
protocol SlotEvaluator: Sendable {
    /// Folds the scratch's pieces, band by band, and finishes each feature when its window is complete.
    func evaluate(_ scratch: EvaluationScratch, columns: [ViewPlan.Column], slots: Int, at time: EventTime) throws(FormatError)
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

    func evaluator(_ features: [SlotFeature]) -> any SlotEvaluator { TypedSlotEvaluator(self, features) }

    @inline(__always)
    func fold(
        _ piece: Piece, _ rows: [EventRows], columns: [ViewPlan.Column], slots: Int, into partial: inout A.Partial
    ) throws(FormatError) {
        switch piece.source {
        case .tile(let bytes): accumulation.merge(try decode(TileView(bytes, slots: slots).partial(index)), into: &partial)
        case .leaf(let bytes):
            // Counting all rows needs none of them.
            let leaf = try LeafColumn(bytes, columns: columns, column: column, identities: A.usesIDs, filters: filter != nil)
            foldLeaf(leaf, piece.range, into: &partial)
        case .rows(let number): fold(rows[number], piece.range, into: &partial)
        }
    }

    /// The same over a stored leaf: numbers are read by their column's form, which is looked at once.
    private func foldLeaf(_ leaf: LeafColumn, _ range: Range<Int>, into partial: inout A.Partial) {
        guard !A.usesIDs, filter == nil, let column = leaf.column, column.nulls == nil else { return fold(leaf, range, into: &partial) }
        func add(_ row: Int, _ value: A.Input) {
            accumulation.add(
                value, at: EventPosition(time: EventTime(microseconds: leaf.times[row]), id: UnsafeRawBufferPointer(start: nil, count: 0)),
                to: &partial)
        }
        switch (A.Input.columnType, column.values) {
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

private final class TypedSlotEvaluator<A: Accumulation>: SlotEvaluator {
    private let runner: TypedSlotRunner<A>
    private let features: [(window: Int, result: Int, finalizer: any Finalizer)]

    init(_ runner: TypedSlotRunner<A>, _ features: [SlotFeature]) {
        self.runner = runner
        // The planner put these aggregations here because their accumulator equals the runner's.
        self.features = features.map { ($0.window, $0.result, finalizer($0.aggregation)) }
    }

    func evaluate(_ scratch: EvaluationScratch, columns: [ViewPlan.Column], slots: Int, at time: EventTime) throws(FormatError) {
        var partial = runner.accumulation.empty
        var missing = features.count
        var next = 0
        for (number, band) in scratch.bands.enumerated() {
            while next < scratch.pieces.count, scratch.pieces[next].band == number {
                try runner.fold(scratch.pieces[next], scratch.rows, columns: columns, slots: slots, into: &partial)
                next += 1
            }
            for feature in features where feature.window == band.window {
                scratch.results[feature.result] = withUnsafePointer(to: partial) {
                    feature.finalizer.result(of: UnsafeRawPointer($0), at: time)
                }
                missing -= 1
            }
            if missing == 0 { return }
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

/// The machinery of one view: a runner a slot.
package final class ViewRuntime: Sendable {
    package let plan: ViewPlan
    let runners: [any SlotRunner]
    /// Evaluates all features.
    package let allFeatures: EvaluationPlan

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
        runners = plan.slots.enumerated().map { index, slot in
            func open<A: Accumulation>(_ accumulation: A) -> any SlotRunner {
                TypedSlotRunner(accumulation, index: index, column: slot.column, filter: slot.filter)
            }
            // Spelled out so that the compiler makes code of its own for the common ones, where `open` alone goes through witnesses.
            return switch slot.accumulation {
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
        allFeatures = EvaluationPlan(plan, runners, features: Array(plan.features.indices))
    }

    /// Evaluates some features alone: what others need is not done.
    package func evaluation(of features: [Int]) -> EvaluationPlan { EvaluationPlan(plan, runners, features: features) }
}
