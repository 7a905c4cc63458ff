import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirLookup
import WeirOnlineStore
import WeirRecords
import WeirServer
import WeirSources

/// Answers the server's commands from the stores.
package final class ServerBackend: FeatureBackend {
    let lookups: LookupService
    /// nil where the process only reads.
    let pushLog: PushLog?
    /// nil where served requests are not logged.
    let requestLogger: RequestLogger?
    /// One for each of the server's threads, used by that alone.
    private let workers: [WorkerSlot]

    private final class WorkerSlot: @unchecked Sendable {
        // Used by its executor alone.
        let worker: LookupWorker
        init(_ worker: LookupWorker) { self.worker = worker }
    }

    /// - Parameter executors: the server's threads.
    package init(lookups: LookupService, pushLog: PushLog?, requestLogger: RequestLogger? = nil, executors: Int) {
        self.lookups = lookups
        self.pushLog = pushLog
        self.requestLogger = requestLogger
        workers = (0..<executors).map { _ in
            let worker = lookups.makeWorker()
            worker.sampler = Sampler(rate: requestLogger?.rate ?? 0)
            return WorkerSlot(worker)
        }
    }

    func worker(_ executor: Int) -> LookupWorker { workers[executor].worker }

    package func endBatch(executor: Int) { worker(executor).endBatch() }

    func translating<R>(_ body: () throws -> R) throws(CommandError) -> R {
        do {
            return try body()
        } catch let error as CommandError {
            throw error
        } catch {
            throw CommandError("\(error)")
        }
    }

    package func features(_ request: FeaturesGet, executor: Int) throws(CommandError) -> [FeatureRow] {
        try translating {
            let service = try lookups.service(request.service)
            guard request.requests.count <= Limits.requestsPerCommandMax else {
                throw LookupError("a command has at most \(Limits.requestsPerCommandMax) requests")
            }
            let worker = worker(executor)
            let session = try sessionEvents(request.session, id: request.sessionID)
            return try lookups.store.explaining {
                let asOf = AsOf(try request.at ?? lookups.now(worker.reader))
                return try request.requests.map { json in
                    let decoded = try lookups.decodeRequest(service, json, worker)
                    let answer = try lookups.answer(service, decoded, asOf: asOf, session: session, worker)
                    if let requestLogger, worker.sampler.takes() {
                        requestLogger.add(
                            ServedRequest(
                                .service(service, json), asOf: asOf.time, session: session, results: worker.results,
                                shards: worker.joinShards))
                    }
                    return FeatureRow(
                        names: service.names, results: worker.results, meta: request.meta ? try meta(service, answer, worker) : nil)
                }
            }
        }
    }

    func sessionEvents(_ sessions: [SessionEvent], id: String?) throws -> SessionEvents {
        if sessions.isEmpty, id == nil { return SessionEvents() }
        var batches: [PreparedBatch] = []
        for session in sessions {
            batches.append(try lookups.decodeEvents(session.stream, try jsonArrayElements(session.json)))
        }
        if let id { batches += lookups.sessions.entries(id).map(\.batch) }
        guard batches.reduce(0, { $0 + $1.count }) <= Limits.sessionEventsMax else {
            throw LookupError("a request has at most \(Limits.sessionEventsMax) session events")
        }
        return SessionEvents(batches)
    }

    private func meta(_ service: ServiceRuntime, _ answer: Answer, _ worker: LookupWorker) throws -> RowMeta {
        let latestEvents = try lookups.latestEvents(service, answer, worker)
        var eventTimes: [EventTime?] = []
        var freshness: [Int64?] = []
        var fingerprints: [String?] = []
        for output in service.plan.outputs {
            var latest: EventTime?
            var fingerprint: String?
            switch output.computation {
            case .feature(let join, _):
                latest = latestEvents[join]
                fingerprint = service.plan.joins[join].view.fingerprint
            case .onDemand(let inputs, _):
                // As fresh as the freshest of what it is computed from.
                for case .feature(let join, _) in inputs { latest = [latest, latestEvents[join]].compactMap { $0 }.max() }
            }
            eventTimes.append(latest)
            freshness.append(latest.map { answer.asOf.microseconds &- $0.microseconds })
            fingerprints.append(fingerprint)
        }
        let shards = worker.shards.sorted { $0.number < $1.number }
        return RowMeta(
            eventTimes: eventTimes, freshnessMicroseconds: freshness, fingerprints: fingerprints, asOf: answer.asOf,
            sessionEventsIgnored: answer.sessionEventsIgnored,
            applied: shards.map { SourcePosition(source: String($0.number), position: $0.sequence) },
            positions: try lookups.positions(of: shards).map { SourcePosition(source: $0.source, position: $0.position) })
    }

    package func selection(view: String, features: [String]?) throws(CommandError) -> ViewSelection {
        try translating {
            let (number, wanted) = try lookups.numbers(ofFeatures: features, view: view)
            let plan = lookups.catalog.views[number]
            return ViewSelection(
                view: number, names: wanted.map { plan.features[$0].name }, evaluation: lookups.evaluation(view: number, of: wanted))
        }
    }

    package func viewFeatures(
        _ selection: ViewSelection, key: UnsafeRawBufferPointer, executor: Int, _ body: (borrowing [FeatureResult], Bool) -> Void
    ) throws(CommandError) {
        guard let evaluation = selection.evaluation as? EvaluationPlan else { return }
        let plan = lookups.catalog.views[selection.view]
        let worker = worker(executor)
        do {
            let asOf = AsOf(try lookups.now(worker.reader))
            let isKey = try plan.withCanonicalKey(key) { key in
                try lookups.features(view: selection.view, evaluation, key: key, asOf: asOf, worker, body)
            }
            guard isKey else {
                throw LookupError.noKey(String(decoding: key, as: UTF8.self), of: plan)
            }
        } catch {
            throw CommandError("\(lookups.store.explained(error))")
        }
    }

    package func listFeatures() -> [CatalogEntry] {
        lookups.catalog.services.map { CatalogEntry(kind: .service, name: $0.name, members: $0.outputs.map(\.name)) }
            + lookups.catalog.views.map {
                CatalogEntry(kind: .view, name: $0.name, entity: $0.entity, stream: $0.stream, members: $0.features.map(\.name))
            }
            + lookups.catalog.streams.map { CatalogEntry(kind: .stream, name: $0.name, members: $0.schema.fields.map(\.name)) }
    }

    package func describe(_ name: String) throws(CommandError) -> ReplyValue { try lookups.catalog.describe(name) }

    package func addEvents(
        stream: String, events: [[UInt8]], completion: @escaping @Sendable (Result<Int, CommandError>) -> Void
    ) {
        guard let pushLog else {
            return completion(.failure(CommandError("this process only answers lookups; push to the one that runs `weir run`")))
        }
        do {
            // Checked before it is acknowledged: if one event is malformed none is taken.
            _ = try lookups.decodeEvents(stream, events)
        } catch {
            return completion(.failure(CommandError("\(error)")))
        }
        pushLog.append(stream: stream, events: events) { result in
            CrashPoint.reach(.pushLogged)
            completion(result.map { events.count }.mapError { CommandError("\($0)", code: $0.isTransient ? "BUSY" : "ERR") })
        }
    }

    package func sessionAdd(_ id: String, stream: String, events: [[UInt8]]) throws(CommandError) -> Int {
        try translating {
            let entries = try events.map { event in
                SessionStore.Entry(stream: stream, json: event, batch: try lookups.decodeEvents(stream, [event]))
            }
            return try lookups.sessions.add(id, entries)
        }
    }

    package func sessionGet(_ id: String) -> [SessionEvent] {
        lookups.sessions.entries(id).map { SessionEvent(stream: $0.stream, json: $0.json) }
    }

    package func sessionDrop(_ id: String) -> Bool { lookups.sessions.drop(id) }

    package func info(executor: Int) -> [InfoSection] {
        var sections = [
            InfoSection(
                "Store",
                [
                    .init("shards", String(lookups.store.shardCount)), .init("store_bytes", String(lookups.store.usedBytes)),
                    .init("sessions_held", String(lookups.sessions.count)),
                    .init("clock", { if case .event = lookups.clock { "event" } else { "wall" } }()),
                ])
        ]
        // Through the executor's own snapshots: a second reader could wait for a map that waits for these.
        if let latest = try? worker(executor).reader.latestEventTime() {
            sections[0].fields.append(.init("latest_event_time", TimeText.format(latest)))
        }
        if let counts = try? lookups.history.deadLetterCounts() {
            sections[0].fields.append(.init("dead_letters", String(counts.reduce(0) { $0 + $1.count })))
        }
        if let pushLog {
            sections.append(
                InfoSection(
                    "Persistence",
                    [
                        .init("loading", "0"), .init("push_log_end_offset", String(pushLog.endOffset)),
                        .init("push_log_bytes_waiting", String(pushLog.bytesWaiting)),
                    ]))
        }
        if let positions = try? lookups.history.positions() {
            sections.append(InfoSection("Sources", positions.map { .init($0.source, String($0.position)) }))
        }
        return sections
    }
}

func lookupClock(_ kind: ClockKind) -> LookupService.Clock {
    switch kind {
    case .wall: .wall { EventTime(microseconds: wallClockNow()) }
    case .event: .event
    }
}
