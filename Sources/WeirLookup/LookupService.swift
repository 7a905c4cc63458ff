import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirOnlineStore
import WeirRecords

/// Why a request cannot be answered: what is wrong, and what would be right.
package struct LookupError: Error, Hashable, CustomStringConvertible {
    package let description: String

    package init(_ description: String) {
        self.description = description
    }
}

extension LookupError {
    static func beyondHistory(_ view: ViewPlan, at time: EventTime, keptFrom: Int64) -> LookupError {
        LookupError(beyond(view, time, keptFrom))
    }

    /// What is wrong where a window begins before what the history keeps.
    package static func beyond(_ view: ViewPlan, _ time: EventTime, _ keptFrom: Int64) -> String {
        """
        a window of \(view.name) at \(TimeText.format(time)) begins before \(TimeText.format(EventTime(microseconds: keptFrom))), \
        from where on the history keeps events of '\(view.stream)': ask for a later time
        """
    }
}

/// Events of a running session that come with a request.
package struct SessionEvents: Sendable {
    package var batches: [PreparedBatch]

    package init(_ batches: [PreparedBatch] = []) {
        self.batches = batches
    }

    /// The rows that are about one entity of a view, in order; nil where there are none.
    package func rows(of view: ViewPlan, viewIndex: Int, key: String) -> EventRows? {
        var key = key
        return key.withUTF8 { rows(of: view, viewIndex: viewIndex, key: UnsafeRawBufferPointer($0)) }
    }

    package func rows(of view: ViewPlan, viewIndex: Int, key: UnsafeRawBufferPointer) -> EventRows? {
        var found: EventRows?
        for batch in batches where batch.records.schema.name == view.stream {
            let keys = batch.views[viewIndex].keys
            for row in 0..<batch.count where !keys.isNull(row) && keys.withText(row, { compareBytes($0, key) == 0 }) {
                if found == nil { found = EventRows(columns: view.columns) }
                found!.append(batch, view: viewIndex, row: row)
            }
        }
        return found?.sorted()
    }

    package func countAfter(_ time: EventTime) -> Int {
        batches.reduce(0) { $0 + $1.times.count { $0 > time.microseconds } }
    }
}

/// What an answered request says besides the worker's `results`.
package struct Answer: Sendable {
    package var asOf: EventTime
    package var sessionEventsIgnored: Int
    package var sessionEventsKnown: Int
}

/// What one thread needs to answer lookups one after another: snapshots of the store, which last until `endBatch`, and memory.
package final class LookupWorker {
    package let reader: OnlineStore.Reader
    /// Of the last answer, in the order of the service's outputs or of the features that were asked for.
    package fileprivate(set) var results: [FeatureResult] = []
    /// For each join of the last answer's service, what its evaluation said; nil where the request has no key.
    fileprivate var outcomes: [(key: String, outcome: EvaluationOutcome, shard: OnlineStore.AppliedShard)?] = []

    /// For each join of the last answer's service the shard that it was read from; nil where the request has no key.
    package var joinShards: [OnlineStore.AppliedShard?] { outcomes.map { $0?.shard } }

    /// Which answers are logged; not at all by itself.
    package var sampler = Sampler(rate: 0)

    /// The shards that the last answer was read from.
    package var shards: Set<OnlineStore.AppliedShard> { Set(outcomes.compactMap { $0?.shard }) }

    private var scratches: [EvaluationScratch] = []
    private var decoders: [ObjectIdentifier: any RequestDecoding] = [:]

    fileprivate init(_ store: OnlineStore) { reader = store.openReader() }

    /// Lets go of the snapshots.
    package func endBatch() { reader.close() }

    fileprivate func scratch(_ number: Int) -> EvaluationScratch {
        while scratches.count <= number { scratches.append(EvaluationScratch()) }
        return scratches[number]
    }

    fileprivate func decoder(_ service: ServicePlan) -> any RequestDecoding {
        if let known = decoders[ObjectIdentifier(service)] { return known }
        let new = service.makeDecoder()
        decoders[ObjectIdentifier(service)] = new
        return new
    }
}

/// Answers requests: the online store's windows at the time asked for, the session's events, on-demand features.
///
/// Where a window begins before what the online store keeps, the history answers by the same merge.
package final class LookupService: Sendable {
    package let catalog: CatalogPlan
    package let store: OnlineStore
    package let history: HistoryReader
    package let sessions: SessionStore
    package let clock: Clock
    private let runtimes: [ViewRuntime]
    /// For each view its place among those of its stream.
    private let viewIndexes: [Int]
    private let services: [String: ServiceRuntime]

    package init(catalog: CatalogPlan, store: OnlineStore, history: HistoryReader, sessions: SessionStore, clock: Clock) throws {
        self.catalog = catalog
        self.store = store
        self.history = history
        self.sessions = sessions
        self.clock = clock
        let runtimes = store.runtimes
        self.runtimes = runtimes
        viewIndexes = catalog.views.map { catalog.stream(named: $0.stream)!.viewIndex($0.name)! }
        services = Dictionary(
            uniqueKeysWithValues: try catalog.services.map { ($0.name, try ServiceRuntime($0, catalog, runtimes)) })
    }

    package func makeWorker() -> LookupWorker { LookupWorker(store) }

    package enum Clock: Sendable {
        case wall(@Sendable () -> EventTime)
        /// One microsecond after the latest accepted event time.
        case event
    }

    /// - Parameter reader: whose snapshots say what the latest event is.
    package func now(_ reader: OnlineStore.Reader) throws -> EventTime {
        switch clock {
        case .wall(let now): return now()
        case .event: return try (reader.latestEventTime() ?? EventTime(microseconds: -1)).advanced(by: 1)
        }
    }

    package func service(_ name: String) throws(LookupError) -> ServiceRuntime {
        guard let service = services[name] else {
            let known = catalog.services.map(\.name).joined(separator: ", ")
            throw LookupError("unknown service '\(name)'; there are: \(known.isEmpty ? "none" : known)")
        }
        return service
    }

    /// Decodes a JSON request of a service.
    package func decodeRequest(_ service: ServiceRuntime, _ json: [UInt8], _ worker: LookupWorker) throws(LookupError) -> any Sendable {
        let decoder = worker.decoder(service.plan)
        let decoded: Result<any Sendable, RecordError> = json.withUnsafeBytes { json in
            do throws(RecordError) { return .success(try decoder.decode(json)) } catch { return .failure(error) }
        }
        switch decoded {
        case .success(let request): return request
        case .failure(let error): throw LookupError("request of \(service.plan.name): \(error)")
        }
    }

    /// Decodes events of a session or a push. If one is malformed none is taken, and the error names it.
    package func decodeEvents(_ streamName: String, _ events: [[UInt8]]) throws(LookupError) -> PreparedBatch {
        guard let stream = catalog.stream(named: streamName) else {
            throw LookupError("unknown stream '\(streamName)'; there are: \(catalog.streams.map(\.name).joined(separator: ", "))")
        }
        var parser = JSONRecordParser(schema: stream.schema)
        var records = RecordBatch(schema: stream.schema)
        for (index, event) in events.enumerated() {
            parser.append(event, to: &records, offset: Int64(index))
            if let malformed = records.malformed.first { throw LookupError("event \(index + 1) of \(streamName): \(malformed.reason)") }
        }
        var batch = stream.prepare(records)
        if let malformed = batch.records.malformed.first {
            throw LookupError("event \(malformed.offset + 1) of \(streamName): \(malformed.reason)")
        }
        if !stream.hasIDs {
            // Behind every stored event of the same time, and no copy of any.
            batch.assignSequenceIDs(rows: Array(0..<batch.count), sequences: (0..<batch.count).map { Int64.max - Int64(batch.count - $0) })
        }
        return batch
    }

    /// Answers one decoded request: the worker's `results` are the service's outputs.
    package func answer(
        _ service: ServiceRuntime, _ request: any Sendable, asOf: AsOf, session: SessionEvents, _ worker: LookupWorker
    ) throws -> Answer {
        var known = 0
        worker.outcomes.removeAll(keepingCapacity: true)
        for (number, join) in service.joins.enumerated() {
            guard var key = service.plan.joins[number].key(request) else {
                worker.outcomes.append(nil)
                continue
            }
            let (outcome, shard) = try key.withUTF8 { key in
                let key = UnsafeRawBufferPointer(key)
                let outcome = try evaluate(
                    view: join.view, join.features, key: key, asOf: asOf, session: session, worker.reader, worker.scratch(number))
                return (outcome, try worker.reader.applied(key: key))
            }
            known += outcome.knownSessionEvents
            worker.outcomes.append((key, outcome, shard))
        }
        service.finish(
            request,
            { join, result in
                worker.outcomes[join] == nil ? service.joins[join].empty[result] : worker.scratch(join).results[result]
            }, into: &worker.results)
        return Answer(asOf: asOf.time, sessionEventsIgnored: session.countAfter(asOf.time), sessionEventsKnown: known)
    }

    /// For each join of the worker's last answer, the latest event that could count; nil where there is none.
    package func latestEvents(_ service: ServiceRuntime, _ answer: Answer, _ worker: LookupWorker) throws -> [EventTime?] {
        try service.joins.indices.map { number in
            guard let (key, outcome, _) = worker.outcomes[number] else { return nil }
            let view = service.joins[number].view
            return try worker.reader.withEntity(view: view, key: key) { nodes, _ in
                try runtimes[view].latestEvent(nodes: nodes, asOf: AsOf(answer.asOf), outcome)
            }
        }
    }

    /// The latest event of the store that could count for an entity, given by its canonical key; nil where there is none.
    package func latestEvent(view: Int, key: UnsafeRawBufferPointer, asOf: AsOf, _ worker: LookupWorker) throws -> EventTime? {
        try runtimes[view].latestEvent(nodes: worker.reader.entity(view: view, key: key).nodes, asOf: asOf)
    }

    /// Some features of a view, for `features`.
    package func evaluation(view: Int, of features: [Int]) -> EvaluationPlan { runtimes[view].evaluation(of: features) }

    /// Features of a view for one entity, given by its canonical key: the worker's `results`.
    ///
    /// - Returns: whether the entity has events.
    package func features(
        view: Int, _ features: EvaluationPlan, key: UnsafeRawBufferPointer, asOf: AsOf, _ worker: LookupWorker,
        _ body: (borrowing [FeatureResult], Bool) -> Void
    ) throws {
        let scratch = worker.scratch(0)
        let outcome = try evaluate(view: view, features, key: key, asOf: asOf, session: SessionEvents(), worker.reader, scratch)
        body(scratch.results, outcome.isKnown)
    }

    private func evaluate(
        view number: Int, _ features: EvaluationPlan, key: UnsafeRawBufferPointer, asOf: AsOf, session: SessionEvents,
        _ reader: OnlineStore.Reader, _ scratch: EvaluationScratch
    ) throws -> EvaluationOutcome {
        let view = runtimes[number]
        guard key.count <= Limits.keyBytesMax else {
            throw LookupError("a key of \(view.plan.entity) has at most \(Limits.keyBytesMax) bytes")
        }
        let overlay = session.batches.isEmpty ? nil : session.rows(of: view.plan, viewIndex: viewIndexes[number], key: key)
        let (nodes, keptFrom) = try reader.entity(view: number, key: key)
        if let outcome = try view.evaluate(features, nodes: nodes, asOf: asOf, session: overlay, keptFrom: keptFrom, scratch) {
            return outcome
        }
        let (rows, kept) = try history.keptRows(
            of: view.plan, key: String(decoding: key, as: UTF8.self), from: view.earliestKnown(asOf: asOf), to: asOf.end,
            upTo: try reader.applied(key: key).sequence)
        guard let outcome = try view.evaluate(features, rows: rows, asOf: asOf, session: overlay, keptFrom: kept, scratch) else {
            throw LookupError.beyondHistory(view.plan, at: asOf.time, keptFrom: kept)
        }
        return outcome
    }
}
