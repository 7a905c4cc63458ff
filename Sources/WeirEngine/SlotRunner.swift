import WeirAlgebra
import WeirDefinitions

/// One slot's work over whole leaves, tiles and windows. Closures, not a protocol: the compiler makes code of its own for the types that
/// `slotRunner` spells out, which it does not for the methods of generic types behind an existential.
struct SlotRunner: Sendable {
    /// Writes the encoded partial of an old one (nil: no events) and the rows of a range.
    let add: @Sendable (EventRows, Range<Int>, UnsafeRawBufferPointer?, inout ByteWriter) throws(FormatError) -> Void
    let evaluator: @Sendable ([SlotFeature]) -> SlotEvaluator

    fileprivate init<A: Accumulation>(_ runner: TypedSlotRunner<A>) {
        add = { rows, range, old, writer throws(FormatError) in try runner.adding(rows, range, to: old, into: &writer) }
        evaluator = { features in runner.evaluator(features) }
    }
}

/// A feature of a slot: its window, its place among the results, and what makes its value.
struct SlotFeature {
    let window: Int
    let result: Int
    let aggregation: any Aggregation
}

/// Evaluates the features of one slot: folds the scratch's pieces, band by band, and finishes each feature when its window is complete.
struct SlotEvaluator: Sendable {
    let evaluate: @Sendable (EvaluationScratch, [ViewPlan.Column], _ slots: Int, EventTime) throws(FormatError) -> Void
}

private struct TypedSlotRunner<A: Accumulation> {
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

    private func decode(_ bytes: UnsafeRawBufferPointer?) throws(FormatError) -> A.Partial {
        guard let bytes else { return accumulation.empty }
        var reader = ByteReader(bytes)
        return try accumulation.decode(&reader)
    }

    func evaluator(_ features: [SlotFeature]) -> SlotEvaluator {
        // The planner put these aggregations here because their accumulator equals this one.
        let finalizers = features.map { (window: $0.window, result: $0.result, finalize: finalizer($0.aggregation)) }
        return SlotEvaluator { scratch, columns, slots, time throws(FormatError) in
            var partial = accumulation.empty
            var missing = finalizers.count
            var next = 0
            // Bands mostly are parts of one leaf: the head's.
            var leaf: (start: UnsafeRawPointer?, rows: LeafColumn)?
            for number in 0..<scratch.bands.count {
                while next < scratch.pieces.count, scratch.pieces[next].band == number {
                    let piece = scratch.pieces[next]
                    next += 1
                    switch piece.source {
                    case .tile(let bytes):
                        accumulation.merge(try decode(TileView(bytes, slots: slots).partial(index)), into: &partial)
                    case .leaf(let bytes):
                        if leaf == nil || leaf!.start != bytes.baseAddress {
                            leaf = (
                                bytes.baseAddress,
                                try LeafColumn(bytes, columns: columns, column: column, identities: A.usesIDs, filters: filter != nil)
                            )
                        }
                        foldLeaf(leaf!.rows, piece.range, into: &partial)
                    case .rows(let number): fold(scratch.rows[number], piece.range, into: &partial)
                    case .held:
                        guard let held = scratch.held else { continue }
                        if let known = self.partial(ofRows: piece.range) {
                            accumulation.merge(known, into: &partial)
                        } else if !A.canSettle, let tiled = scratch.tiledRows, piece.range.count >= RowTiles<A>.rowsMin {
                            tiles(scratch, tiled).add(piece.range, to: &partial) { fold(held, $0, into: &$1) }
                        } else {
                            fold(held, piece.range, into: &partial)
                        }
                    }
                }
                let window = scratch.bands[number].window
                for index in 0..<finalizers.count where finalizers[index].window == window {
                    scratch.results[finalizers[index].result] = withUnsafePointer(to: partial) {
                        finalizers[index].finalize(UnsafeRawPointer($0), time)
                    }
                    missing -= 1
                }
                if missing == 0 { return }
            }
        }
    }

    /// What rows make that need not be looked at.
    @inline(__always)
    private func partial(ofRows rows: Range<Int>) -> A.Partial? {
        column == nil && filter == nil ? accumulation.partial(ofCount: rows.count) : nil
    }

    private func tiles(_ scratch: EvaluationScratch, _ rows: Range<Int>) -> RowTiles<A> {
        scratch.tiles(index) {
            RowTiles(accumulation)
        } begin: {
            $0.begin(rows, accumulation)
        }
    }

    /// Rows of a stored leaf: numbers are read by their column's form, which is looked at once.
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
        if let known = self.partial(ofRows: range) { return accumulation.merge(known, into: &partial) }
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
        let isBackwards = accumulation.prefersLatestFirst
        for index in range {
            let row = isBackwards ? range.upperBound - 1 - (index - range.lowerBound) : index
            if A.canSettle, accumulation.isSettled(partial, at: EventTime(microseconds: rows.time(row))) { return }
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

/// Makes a feature's value of a partial, which must be of the aggregation's own type.
private typealias Finalizer = @Sendable (_ partial: UnsafeRawPointer, _ time: EventTime) -> FeatureResult

private func makeFinalizer<G: Aggregation>(_ aggregation: G) -> Finalizer {
    { partial, time in
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
private func finalizer(_ aggregation: any Aggregation) -> Finalizer {
    func open<G: Aggregation>(_ aggregation: G) -> Finalizer { makeFinalizer(aggregation) }
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
    case let known as Last<Double>: open(known)
    case let known as Last<Int64>: open(known)
    case let known as LastN<Text>: open(known)
    case let known as DistinctCount<Int64>: open(known)
    case let known as DistinctCount<Text>: open(known)
    case let known as Quantile<Double>: open(known)
    case let known as TopK<Text>: open(known)
    default: open(aggregation)
    }
}

/// Spelled out so that the compiler makes code of its own for the common ones.
private func slotRunner(_ slot: ViewPlan.Slot, index: Int) -> SlotRunner {
    func open<A: Accumulation>(_ accumulation: A) -> SlotRunner {
        SlotRunner(TypedSlotRunner(accumulation, index: index, column: slot.column, filter: slot.filter))
    }
    return switch slot.accumulation {
    case let known as CountAccumulation<Bool>: open(known)
    case let known as SumAccumulation<Double>: open(known)
    case let known as SumAccumulation<Int64>: open(known)
    case let known as PowerSumAccumulation<Double>: open(known)
    case let known as ExtremumAccumulation<Double>: open(known)
    case let known as EdgeAccumulation<Text>: open(known)
    case let known as EdgeAccumulation<Double>: open(known)
    case let known as EdgeAccumulation<Int64>: open(known)
    case let known as DistinctAccumulation<Int64>: open(known)
    case let known as DistinctAccumulation<Text>: open(known)
    case let known as QuantileAccumulation<Double>: open(known)
    case let known as ValueCountAccumulation<Text>: open(known)
    default: open(slot.accumulation)
    }
}

/// The machinery of one view: a runner a slot.
package final class ViewRuntime: Sendable {
    package let plan: ViewPlan
    let runners: [SlotRunner]
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
        runners = plan.slots.enumerated().map { slotRunner($1, index: $0) }
        allFeatures = EvaluationPlan(plan, runners, features: Array(plan.features.indices))
    }

    /// Evaluates some features alone: what others need is not done.
    package func evaluation(of features: [Int]) -> EvaluationPlan { EvaluationPlan(plan, runners, features: features) }
}
