import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirRecords

/// What a test breaks on purpose.
enum PlantedBug: String, CaseIterable, Sendable {
    /// A source's position is on disk before the rows that it stands for.
    case positionsBeforeState
    /// A shard commits its state without the number of the last event in it.
    case forgottenPosition
    /// An event older than what is there lands beside the tile that its time belongs to.
    case wrongTile
    /// The history forgets output records before the topic has them.
    case outputsForgottenFirst
    /// An event from the far future moves the watermark.
    case trustedFuture
}

/// A transaction that does not come to its end: the process dies in it, or the disk refuses.
struct Interruption: Error {
    enum Kind { case crash, refusal }
    var kind: Kind
}

/// The history on a simulated disk. A value: a transaction works on a copy, and the copy takes its place.
struct SimulatedHistory: Sendable {
    struct Row: Sendable {
        var sequence: Int64
        var stream: String
        var batch: PreparedBatch
        var row: Int
        var source: SourcePart
    }
    struct Identity: Hashable, Sendable {
        var stream: String
        var time: Int64
        var id: [UInt8]
        var keyHash: UInt64
    }
    struct WindowID: Hashable, Sendable {
        var series: WindowSeries
        var key: String
        var start: Int64
    }
    struct Closed: Hashable, Sendable {
        var series: WindowSeries
        var record: WindowRecord
        var values: String?
    }

    var rows: [Row] = []
    var identities: [Identity: Int] = [:]
    var letters: [DeadLetter] = []
    var counters: [String: Int] = [:]
    var positions: [SourcePart: Int64] = [:]
    var sources: [SourcePart] = []
    var sourceWatermarks: [SourcePart: Int64] = [:]
    var watermarks: [String: Int64] = [:]
    var windows: [WindowID: WindowRecord] = [:]
    var closed: [Closed] = []
    var outputs: [(number: Int64, record: OutputRecord)] = []
    var nextOutput: Int64 = 1

    var lastSequence: Int64 { rows.last?.sequence ?? 0 }

    func restored(_ catalog: CatalogPlan) -> [String: Arbiter.Restored] {
        var restored: [String: Arbiter.Restored] = [:]
        for stream in catalog.streams {
            restored[stream.name] = Arbiter.Restored(
                latestEventTime: rows.filter { $0.stream == stream.name }.map { $0.batch.times[$0.row] }.max(),
                watermark: watermarks[stream.name],
                sources: sources.filter { $0.stream == stream.name }.map { ($0, sourceWatermarks[$0]) },
                nextDue: windows.filter { entry in entry.value.isOpen && stream.views.contains { $0.name == entry.key.series.view } }
                    .map(\.value.due).min())
        }
        return restored
    }

    /// The rows of one entity in `[start, end)`, in order.
    func eventRows(of view: ViewPlan, in catalog: CatalogPlan, key: String, from start: Int64, to end: Int64) -> EventRows {
        let index = catalog.stream(named: view.stream)!.viewIndex(view.name)!
        var found = EventRows(columns: view.columns)
        for row in rows where row.stream == view.stream {
            let time = row.batch.times[row.row]
            let keys = row.batch.views[index].keys
            guard time >= start, time < end, !keys.isNull(row.row), keys.withText(row.row, { $0.elementsEqual(key.utf8) }) else { continue }
            found.append(row.batch, view: index, row: row.row)
        }
        return found.sorted()
    }
}

/// The same as a log: every event is decoded again, as SQLite's reader does.
struct SimulatedLog: EventLog {
    let history: SimulatedHistory
    let catalog: CatalogPlan

    func keptFrom(stream: String) throws -> Int64 { .min }

    func forEachBatch(of stream: String, after sequence: Int64, upTo last: Int64, _ body: (PreparedBatch, Int64) throws -> Void) throws {
        let plan = catalog.stream(named: stream)!
        var records = RecordBatch(schema: plan.schema)
        var sequences: [Int64] = []
        var keyHashes: [UInt64] = []
        for row in history.rows where row.stream == stream && row.sequence > sequence && row.sequence <= last {
            let source = row.batch.records
            let record = row.batch.recordRows[row.row]
            for field in plan.schema.fields.indices {
                var cell = source.cell(row: record, field: field)
                if case .text(let start, let count) = cell {
                    cell = .text(start: records.bytes.count, count: count)
                    source.withText(start: start, count: count) { records.bytes.append(contentsOf: $0) }
                }
                records.cells.append(cell)
            }
            records.rows.append(.init(raw: 0..<0, offset: row.sequence))
            sequences.append(row.sequence)
            keyHashes.append(row.batch.keyHashes[row.row])
        }
        guard let position = sequences.last else { return }
        var batch = plan.prepare(records, view: nil, keyHashes: keyHashes)
        if !plan.hasIDs { batch.assignSequenceIDs(rows: Array(0..<batch.count), sequences: sequences) }
        try body(batch, position)
    }
}

/// One transaction of it.
final class SimulatedHistoryTransaction: HistoryTransaction {
    var state: SimulatedHistory
    private let catalog: CatalogPlan
    /// Where the next write fails; nil for never.
    var writesLeft: Int?
    let interruption: Interruption
    /// Called with positions that a bug puts on disk at once.
    var leak: ((SourcePart, Int64) -> Void)?

    init(_ state: SimulatedHistory, catalog: CatalogPlan, interruption: Interruption, after writes: Int?) {
        self.state = state
        self.catalog = catalog
        self.interruption = interruption
        writesLeft = writes
    }

    private func write() throws {
        guard let left = writesLeft else { return }
        if left == 0 { throw interruption }
        writesLeft = left - 1
    }

    func insert(
        _ batch: PreparedBatch, row: Int, sequence: Int64, ingestTime: Int64, from incoming: IncomingBatch
    ) throws -> Insertion {
        try write()
        let stream = incoming.source.stream
        var batch = batch
        if catalog.stream(named: stream)!.hasIDs {
            let identity = SimulatedHistory.Identity(
                stream: stream, time: batch.times[row], id: batch.ids.withText(row) { Array($0) }, keyHash: batch.keyHashes[row])
            if let first = state.identities[identity].map({ state.rows[$0] }) {
                func content(_ batch: PreparedBatch, _ row: Int) -> [UInt8] {
                    var json: [UInt8] = []
                    batch.records.appendJSON(row: batch.recordRows[row], to: &json)
                    return json
                }
                return content(first.batch, first.row) == content(batch, row) ? .duplicate : .conflict
            }
            state.identities[identity] = state.rows.count
        } else {
            batch.assignSequenceIDs(rows: [row], sequences: [sequence])
        }
        state.rows.append(.init(sequence: sequence, stream: stream, batch: batch, row: row, source: incoming.source))
        return .accepted
    }

    func rows(of view: ViewPlan, key: String, from start: Int64, to end: Int64) throws -> EventRows {
        state.eventRows(of: view, in: catalog, key: key, from: start, to: end)
    }

    func latestTime(of view: ViewPlan, key: String) throws -> Int64? {
        state.eventRows(of: view, in: catalog, key: key, from: .min, to: .max).times.last
    }

    func add(_ letter: DeadLetter) throws {
        try write()
        state.letters.append(letter)
    }

    func count(_ name: String, stream: String, by amount: Int) throws {
        try write()
        state.counters["\(stream) \(name)", default: 0] += amount
    }

    func setPosition(_ source: SourcePart, _ position: Int64, detail: [UInt8]?, watermark: Int64?) throws {
        leak?(source, position)
        try write()
        if state.positions[source] == nil { state.sources.append(source) }
        state.positions[source] = position
        state.sourceWatermarks[source] = watermark
    }

    func setWatermark(_ watermark: Int64, stream: String) throws {
        try write()
        precondition(watermark >= state.watermarks[stream] ?? .min, "a watermark went back")
        state.watermarks[stream] = watermark
    }

    func setKeptFrom(_ time: Int64, stream: String) throws { preconditionFailure("no stream has a time to live") }

    // MARK: Windows

    private func id(_ series: WindowSeries, _ key: String, _ start: Int64) -> SimulatedHistory.WindowID {
        .init(series: series, key: key, start: start)
    }

    func window(_ series: WindowSeries, key: String, start: Int64) throws -> WindowRecord? { state.windows[id(series, key, start)] }

    func windows(_ series: WindowSeries, key: String, from first: Int64, through last: Int64) throws -> [WindowRecord] {
        state.windows.filter { $0.key.series == series && $0.key.key == key && $0.value.end >= first && $0.value.start <= last }
            .map(\.value).sorted { $0.start < $1.start }
    }

    func put(_ record: WindowRecord, _ series: WindowSeries) throws {
        try write()
        state.windows[id(series, record.key, record.start)] = record
    }

    func remove(_ record: WindowRecord, _ series: WindowSeries) throws {
        try write()
        state.windows[id(series, record.key, record.start)] = nil
    }

    func dueWindows(_ series: WindowSeries, at watermark: Int64, limit: Int) throws -> [WindowRecord] {
        let due = state.windows.filter { $0.key.series == series && $0.value.isOpen && $0.value.due <= watermark }.map(\.value)
        return Array(due.sorted { ($0.due, $0.end, $0.key) < ($1.due, $1.end, $1.key) }.prefix(limit))
    }

    func nextDue(_ series: WindowSeries) throws -> Int64? {
        state.windows.filter { $0.key.series == series && $0.value.isOpen }.map(\.value.due).min()
    }

    func writeClosed(_ record: WindowRecord, _ series: WindowSeries, values: String?) throws {
        try write()
        state.closed.append(.init(series: series, record: record, values: values))
    }

    func output(_ record: OutputRecord) throws {
        try write()
        state.outputs.append((state.nextOutput, record))
        state.nextOutput += 1
    }
}
