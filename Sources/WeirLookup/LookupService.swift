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

/// Events of a running session that come with a request.
package struct SessionEvents: Sendable {
    package var batches: [PreparedBatch]

    package init(_ batches: [PreparedBatch] = []) {
        self.batches = batches
    }

    /// The rows that are about one entity of a view, in order; nil where there are none.
    package func rows(of view: ViewPlan, viewIndex: Int, key: String) -> EventRows? {
        var rows = EventRows(columns: view.columns)
        for batch in batches where batch.records.schema.name == view.stream {
            let keys = batch.views[viewIndex].keys
            for row in 0..<batch.count where !keys.isNull(row) && keys.withText(row, { $0.elementsEqual(key.utf8) }) {
                rows.append(batch, view: viewIndex, row: row)
            }
        }
        return rows.isEmpty ? nil : rows.sorted()
    }

    package func countAfter(_ time: EventTime) -> Int {
        batches.reduce(0) { $0 + $1.times.count { $0 > time.microseconds } }
    }
}

/// One answered request.
package struct Answer: Sendable {
    /// In the order of the service's outputs.
    package var results: [FeatureResult]
    package var asOf: EventTime
    /// For each join of the service, the latest event that could count.
    package var latestEvents: [EventTime?]
    package var sessionEventsIgnored: Int
    package var sessionEventsKnown: Int
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

    package init(catalog: CatalogPlan, store: OnlineStore, history: HistoryReader, sessions: SessionStore, clock: Clock) {
        self.catalog = catalog
        self.store = store
        self.history = history
        self.sessions = sessions
        self.clock = clock
        runtimes = store.runtimes
    }

    package enum Clock: Sendable {
        case wall(@Sendable () -> EventTime)
        /// One microsecond after the latest accepted event time.
        case event
    }

    package func now() throws -> EventTime {
        switch clock {
        case .wall(let now): return now()
        case .event: return try (store.latestEventTime() ?? EventTime(microseconds: -1)).advanced(by: 1)
        }
    }

    package func service(_ name: String) throws(LookupError) -> ServicePlan {
        guard let service = catalog.service(named: name) else {
            let known = catalog.services.map(\.name).joined(separator: ", ")
            throw LookupError("unknown service '\(name)'; there are: \(known.isEmpty ? "none" : known)")
        }
        return service
    }

    /// Decodes a JSON request of a service.
    package func decodeRequest(_ service: ServicePlan, _ json: [UInt8]) throws(LookupError) -> any Sendable {
        var parser = JSONRecordParser(schema: service.requestSchema, unknownFields: .rejected)
        var batch = RecordBatch(schema: service.requestSchema)
        parser.append(json, to: &batch, offset: 0)
        if let malformed = batch.malformed.first { throw LookupError("request of \(service.name): \(malformed.reason)") }
        return try decodeRequest(service, batch, row: 0)
    }

    package func decodeRequest(_ service: ServicePlan, _ batch: RecordBatch, row: Int) throws(LookupError) -> any Sendable {
        do throws(RecordError) {
            return try service.decode(batch, row)
        } catch {
            throw LookupError("request of \(service.name): \(error)")
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

    /// Answers one decoded request.
    package func answer(
        _ service: ServicePlan, _ request: any Sendable, asOf: AsOf, session: SessionEvents, reader: borrowing OnlineStore.Reader
    ) throws -> Answer {
        var evaluations: [Evaluation] = []
        evaluations.reserveCapacity(service.joins.count)
        for join in service.joins {
            let number = catalog.views.firstIndex { $0 === join.view }!
            guard let key = join.key(request) else {
                evaluations.append(try runtimes[number].emptyEvaluation(asOf: asOf))
                continue
            }
            evaluations.append(try evaluate(view: number, key: key, asOf: asOf, session: session, reader: reader))
        }
        return Answer(
            results: service.finish(request, evaluations.map(\.results)), asOf: asOf.time,
            latestEvents: evaluations.map(\.latestEvent), sessionEventsIgnored: session.countAfter(asOf.time),
            sessionEventsKnown: evaluations.reduce(0) { $0 + $1.knownSessionEvents })
    }

    /// All features of a view for one entity, given by its canonical key.
    package func evaluate(
        view number: Int, key: String, asOf: AsOf, session: SessionEvents, reader: borrowing OnlineStore.Reader
    ) throws -> Evaluation {
        let view = runtimes[number]
        guard key.utf8.count <= Limits.keyBytesMax else {
            throw LookupError("a key of \(view.plan.entity) has at most \(Limits.keyBytesMax) bytes")
        }
        let viewIndex = catalog.stream(named: view.plan.stream)!.viewIndex(view.plan.name)!
        let overlay = session.batches.isEmpty ? nil : session.rows(of: view.plan, viewIndex: viewIndex, key: key)
        if let evaluation = try reader.withEntity(
            view: number, key: key,
            { nodes, keptFrom in
                try view.evaluate(nodes: nodes, asOf: asOf, session: overlay, keptFrom: keptFrom)
            })
        {
            return evaluation
        }
        let rows = try history.rows(of: view.plan, key: key, from: view.earliestReach(asOf: asOf), to: asOf.end)
        return try view.evaluate(rows: rows, asOf: asOf, session: overlay)
    }
}
