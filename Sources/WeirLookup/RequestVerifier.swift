import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirOnlineStore
import WeirRecords

/// Answers logged requests again, from the history as far as it had come where they were answered, and compares every bit.
package final class RequestVerifier {
    package enum Verdict: Sendable {
        case equal
        case differs([Difference])
        /// Why the request cannot be answered again.
        case uncheckable(Obstacle)
    }

    package enum Obstacle: String, Sendable, CaseIterable {
        case changedDefinitions = "definitions changed since"
        case missingHistory = "the history has not all of it any more"
    }

    /// A feature's values as JSON.
    package struct Difference: Sendable {
        package let name: String
        package let served: String
        package let recomputed: String
    }

    private let lookups: LookupService
    private let history: HistoryReader
    private let worker: LookupWorker
    private let scratch = EvaluationScratch()
    /// No event of the history has a later number.
    private var lastSequence: Int64 = 0

    private struct Entity: Hashable {
        let view: Int
        let key: String
    }

    /// An entity's rows from a time on.
    private struct KnownRows {
        let start: Int64
        let rows: EventRows
        let sequences: [Int64]
        /// Rows that are accepted later are not among them.
        let lastSequence: Int64
        /// Rows of before may have left the history.
        let keptFrom: Int64
    }
    private var known: [Entity: KnownRows] = [:]
    private var knownRows = 0

    /// Answers that were given by other definitions are checked, too: in the features that both have.
    private let takesOtherDefinitions: Bool

    /// - Parameters:
    ///   - history: over a connection that lookups do not wait for.
    ///   - takesOtherDefinitions: checks answers that were given by other definitions in the features that both have.
    package init(_ lookups: LookupService, history: HistoryReader, takesOtherDefinitions: Bool = false) {
        self.lookups = lookups
        self.history = history
        self.takesOtherDefinitions = takesOtherDefinitions
        worker = lookups.makeWorker()
    }

    /// Reads how far the history is: requests that were logged before can be checked.
    package func refresh() throws { lastSequence = try history.latestSequence() }

    package func check(_ record: RequestRecord) throws -> Verdict {
        guard let request = try decode(record) else { return .uncheckable(.changedDefinitions) }
        guard request.shards.allSatisfy({ ($0?.sequence ?? 0) <= lastSequence }) else { return .uncheckable(.missingHistory) }
        let names: [String]
        let answered: [FeatureResult]?
        switch request.subject {
        case .service(let service, let decoded):
            names = service.names
            answered = try answer(service, decoded, request)
        case .view(let view, let features, let key):
            let plan = lookups.catalog.views[view]
            names = features.map { plan.features[$0].name }
            answered = try evaluate(
                view: view, lookups.evaluation(view: view, of: features), key: key, shard: request.shards.first ?? nil, request)
        }
        guard let results = answered else { return .uncheckable(.missingHistory) }
        if answerText(names, results) == record.answer { return .equal }
        let served = try jsonMembers(Array(record.answer.utf8)).map { (name: $0.name, json: String(decoding: $0.value, as: UTF8.self)) }
        guard takesOtherDefinitions || served.map(\.name) == names else { return .uncheckable(.changedDefinitions) }
        let recomputed = Dictionary(uniqueKeysWithValues: zip(names, results))
        let differences = served.compactMap { served -> Difference? in
            guard let result = recomputed[served.name]?.value.json, result != served.json else { return nil }
            return Difference(name: served.name, served: served.json, recomputed: result)
        }
        return differences.isEmpty ? .equal : .differs(differences)
    }

    /// Asks the online store what a logged request asked for, and checks its answer.
    package func checkStore(_ record: RequestRecord) throws -> Verdict {
        guard let request = try decode(record) else { return .uncheckable(.changedDefinitions) }
        defer { worker.endBatch() }
        switch request.subject {
        case .service(let service, let decoded):
            _ = try lookups.answer(service, decoded, asOf: request.asOf, session: request.session, worker)
            return try check(
                ServedRequest(
                    .service(service, Array(record.request.utf8)), asOf: request.asOf.time, session: request.session,
                    results: worker.results, shards: worker.joinShards))
        case .view(let view, _, let key):
            guard let key else { return .equal }
            return try checkStore(view: view, key: key, asOf: request.asOf.time)
        }
    }

    /// Asks the online store for all features of an entity, and checks its answer.
    ///
    /// - Parameter key: the canonical one.
    package func checkStore(view: Int, key: String, asOf: EventTime) throws -> Verdict {
        defer { worker.endBatch() }
        let plan = lookups.catalog.views[view]
        var results: [FeatureResult] = []
        let bytes = Array(key.utf8)
        let shard = try bytes.withUnsafeBytes { key in
            try lookups.features(
                view: view, lookups.evaluation(view: view, of: Array(plan.features.indices)), key: key, asOf: AsOf(asOf), worker
            ) {
                found, _ in
                results = found
            }
            return try worker.reader.applied(key: key)
        }
        return try check(
            ServedRequest(.view(plan, names: plan.features.map(\.name), key: key), asOf: asOf, results: results, shards: [shard]))
    }

    private func check(_ served: ServedRequest) throws -> Verdict {
        // What the store has seen may be newer than what was known of the history.
        try refresh()
        return try check(served.record(now: 0))
    }

    // MARK: What was asked

    private struct Request {
        enum Subject {
            case service(ServiceRuntime, any Sendable)
            case view(Int, features: [Int], key: String?)
        }
        let subject: Subject
        let asOf: AsOf
        let session: SessionEvents
        /// For each join, or for the view.
        let shards: [OnlineStore.AppliedShard?]
    }

    /// nil where the definitions have changed since.
    private func decode(_ record: RequestRecord) throws -> Request? {
        let subject: Request.Subject
        var session = SessionEvents()
        let joins: Int
        do {
            if let name = record.service {
                guard let service = try? lookups.service(name), takesOtherDefinitions || service.fingerprint == record.definitions
                else { return nil }
                let decoded = try lookups.decodeRequest(service, Array(record.request.utf8), worker)
                subject = .service(service, decoded)
                joins = service.joins.count
                session = try self.session(record)
            } else {
                guard let view = lookups.catalog.views.firstIndex(where: { $0.name == record.view }) else { return nil }
                let plan = lookups.catalog.views[view]
                let features = try jsonMembers(Array(record.answer.utf8)).map { plan.feature(named: $0.name) }
                guard takesOtherDefinitions || plan.fingerprint == record.definitions && features.allSatisfy({ $0 != nil }) else {
                    return nil
                }
                let key = Array(record.request.utf8).withUnsafeBytes { jsonString($0) }
                subject = .view(view, features: features.compactMap(\.self), key: key)
                joins = 1
            }
            // The fields of a request or of an event may have changed.
        } catch is LookupError { return nil }
        let shards = try jsonArrayElements(Array(record.applied.utf8)).map { element in
            let numbers = (try? jsonArrayElements(element))?.compactMap { Int64(String(decoding: $0, as: UTF8.self)) } ?? []
            return numbers.count == 2 ? OnlineStore.AppliedShard(number: Int(numbers[0]), sequence: numbers[1]) : nil
        }
        guard shards.count == joins else { return nil }
        return Request(
            subject: subject, asOf: AsOf(EventTime(microseconds: record.asOf)), session: session, shards: shards)
    }

    private func session(_ record: RequestRecord) throws -> SessionEvents {
        guard let text = record.session else { return SessionEvents() }
        return SessionEvents(
            try jsonArrayElements(Array(text.utf8)).map { batch in
                let members = try jsonMembers(batch)
                guard members.map(\.name) == ["stream", "events"], let stream = members[0].value.withUnsafeBytes({ jsonString($0) }) else {
                    throw HistoryError("the log of served requests is damaged: request \(record.number) has no session that can be read")
                }
                return try lookups.decodeEvents(stream, try jsonArrayElements(members[1].value))
            })
    }

    // MARK: From the history

    /// nil where the history has not all of it any more.
    private func answer(_ service: ServiceRuntime, _ decoded: any Sendable, _ request: Request) throws -> [FeatureResult]? {
        var joined: [[FeatureResult]] = []
        for (number, join) in service.joins.enumerated() {
            let results = try evaluate(
                view: join.view, join.features, key: service.plan.joins[number].key(decoded), shard: request.shards[number], request)
            guard let results else { return nil }
            joined.append(results)
        }
        var results: [FeatureResult] = []
        service.finish(decoded, { joined[$0][$1] }, into: &results)
        return results
    }

    private func evaluate(
        view number: Int, _ features: EvaluationPlan, key: String?, shard: OnlineStore.AppliedShard?, _ request: Request
    ) throws -> [FeatureResult]? {
        let view = lookups.store.runtimes[number]
        guard let key else {
            _ = try view.evaluate(
                features, rows: EventRows(columns: view.plan.columns), asOf: AsOf(EventTime(microseconds: 0)), session: nil, scratch)
            return scratch.results
        }
        let session = overlay(view.plan, key, request)
        let start = view.earliestReach(asOf: request.asOf)
        let last = shard?.sequence ?? 0
        let (all, sequences, kept) = try knownRows(number, view, key, from: start, upTo: last)
        let range = all.lowerBound(start)..<max(all.lowerBound(start), all.lowerBound(request.asOf.end))
        let outcome: EvaluationOutcome?
        if range.allSatisfy({ sequences[$0] <= last }) {
            outcome = try view.evaluate(
                features, rows: all, range: range, asOf: request.asOf, session: session, keptFrom: kept, scratch)
        } else {
            var rows = EventRows(columns: view.plan.columns)
            rows.append(all, rows: range.filter { sequences[$0] <= last })
            outcome = try view.evaluate(features, rows: rows, asOf: request.asOf, session: session, keptFrom: kept, scratch)
        }
        return outcome == nil ? nil : scratch.results
    }

    /// An entity's rows, of which the next requests will want others: reading and decoding them is nearly all of the work.
    private func knownRows(
        _ number: Int, _ view: ViewRuntime, _ key: String, from start: Int64, upTo last: Int64
    ) throws -> (rows: EventRows, sequences: [Int64], keptFrom: Int64) {
        let entity = Entity(view: number, key: key)
        let before = known[entity]
        if let before, before.start <= start, before.lastSequence >= last { return (before.rows, before.sequences, before.keptFrom) }
        knownRows -= before?.rows.count ?? 0
        if knownRows > Limits.verifiedRowsMax {
            known = [:]
            knownRows = 0
        }
        // Who is asked for again at an earlier time may be so once more.
        let start = before.map { $0.start <= start ? $0.start : .min } ?? start
        let (rows, sequences, kept) = try history.numberedRows(of: view.plan, key: key, from: start)
        known[entity] = KnownRows(start: start, rows: rows, sequences: sequences, lastSequence: lastSequence, keptFrom: kept)
        knownRows += rows.count
        return (rows, sequences, kept)
    }

    private func overlay(_ view: ViewPlan, _ key: String, _ request: Request) -> EventRows? {
        if request.session.batches.isEmpty { return nil }
        let viewIndex = lookups.catalog.stream(named: view.stream)!.viewIndex(view.name)!
        return request.session.rows(of: view, viewIndex: viewIndex, key: key)
    }

    // MARK: Explanations

    /// How a request is answered by both sides.
    package struct Explanations: Sendable {
        package let asOf: EventTime
        package let session: SessionEvents
        /// By the lookup service, with what its stores hold by now.
        package let online: Answered
        /// From the history, as of the logged positions.
        package let recomputed: Answered

        package enum Answered: Sendable {
            case service(ServiceExplanation)
            case view(EntityExplanation)
        }
    }

    /// nil where the definitions have changed since.
    package func explain(_ record: RequestRecord) throws -> Explanations? {
        guard let request = try decode(record) else { return nil }
        defer { worker.endBatch() }
        let online: Explanations.Answered
        let recomputed: Explanations.Answered
        switch request.subject {
        case .service(let service, let decoded):
            online = .service(
                try lookups.explain(service.plan, decoded, asOf: request.asOf, session: request.session, reader: worker.reader))
            recomputed = .service(
                try lookups.explain(service.plan, decoded) { number, view, features, key in
                    try explain(view: view, features, key: key, shard: request.shards[number], request)
                })
        case .view(let view, let features, let key):
            online = .view(
                try lookups.explain(
                    view: view, features: features, key: key, asOf: request.asOf, session: request.session, reader: worker.reader))
            recomputed = .view(try explain(view: view, features, key: key, shard: request.shards.first ?? nil, request))
        }
        return Explanations(asOf: request.asOf.time, session: request.session, online: online, recomputed: recomputed)
    }

    private func explain(
        view number: Int, _ features: [Int], key: String?, shard: OnlineStore.AppliedShard?, _ request: Request
    ) throws -> EntityExplanation {
        let view = lookups.store.runtimes[number]
        guard let key, let shard else { return try lookups.explainWithoutKey(view: number, features, asOf: request.asOf) }
        let (rows, kept) = try history.keptRows(
            of: view.plan, key: key, from: view.earliestKnown(asOf: request.asOf), to: request.asOf.end, upTo: shard.sequence)
        let explained = try view.explain(
            features, rows: rows, asOf: request.asOf, session: overlay(view.plan, key, request), keptFrom: kept)
        guard let explanation = explained else {
            throw LookupError.beyondHistory(view.plan, at: request.asOf.time, keptFrom: kept)
        }
        return EntityExplanation(
            view: view.plan, key: key, place: .init(shard: shard, keptFrom: .min, historyReason: .recomputed), explanation: explanation)
    }
}
