import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirOnlineStore

/// How an entity's features of one view came about, and where they were read.
package struct EntityExplanation: Sendable {
    package var view: ViewPlan
    /// The canonical one; nil where the request names no entity.
    package var key: String?
    /// nil where there is no key.
    package var place: Place?
    package var explanation: Explanation

    package struct Place: Sendable {
        package var shard: OnlineStore.AppliedShard
        /// The online store keeps single events from here on; `Int64.min` for all.
        package var keptFrom: Int64
        /// Why history answered; nil where the online store did.
        package var historyReason: HistoryReason?
    }
}

/// How a service's answer came about.
package struct ServiceExplanation: Sendable {
    package var service: ServicePlan
    /// In the order of the service's joins. Of a view they have what the outputs are made of.
    package var entities: [EntityExplanation]
    /// In the order of the service's outputs.
    package var results: [FeatureResult]
    /// For each output the values of an on-demand feature's inputs; nil for other outputs.
    package var inputs: [[FeatureValue]?]
}

extension LookupService {
    /// How far each source is in what was read: applied in each of the shards. Empty where none was read.
    package func positions(of shards: some Sequence<OnlineStore.AppliedShard>) throws -> [(source: String, position: Int64)] {
        guard let least = shards.map(\.sequence).min() else { return [] }
        return try history.positions(at: least)
    }

    /// Answers a request as `answer` does, and says how.
    package func explain(
        _ service: ServicePlan, _ request: any Sendable, asOf: AsOf, session: SessionEvents, reader: OnlineStore.Reader
    ) throws -> ServiceExplanation {
        try explain(service, request) { _, view, features, key in
            try explain(view: view, features: features, key: key, asOf: asOf, session: session, reader: reader)
        }
    }

    /// - Parameter body: gets a join's number, its view, features of that, and the entity's key.
    func explain(
        _ service: ServicePlan, _ request: any Sendable, _ body: (Int, Int, [Int], String?) throws -> EntityExplanation
    ) throws -> ServiceExplanation {
        var entities: [EntityExplanation] = []
        var joined: [[FeatureResult]] = []
        for (number, join) in service.joins.enumerated() {
            let view = catalog.views.firstIndex { $0 === join.view }!
            let entity = try body(number, view, service.features(ofJoin: number), join.key(request))
            var results = Array(repeating: FeatureResult(.null, .notFound), count: join.view.features.count)
            for feature in entity.explanation.features { results[feature.number] = feature.result }
            entities.append(entity)
            joined.append(results)
        }
        return ServiceExplanation(
            service: service, entities: entities,
            results: service.outputs.map { $0.computation.result(request) { joined[$0][$1] } },
            inputs: service.outputs.map { $0.computation.inputs(request) { joined[$0][$1].value } })
    }

    /// Features of no entity.
    func explainWithoutKey(view number: Int, _ features: [Int], asOf: AsOf) throws -> EntityExplanation {
        let view = store.runtimes[number]
        let none = try view.explain(features, rows: EventRows(columns: view.plan.columns), asOf: asOf, session: nil, keptFrom: .min)!
        return EntityExplanation(view: view.plan, explanation: none)
    }

    /// Evaluates features of a view as lookups do, and says how.
    ///
    /// - Parameters:
    ///   - features: numbers of the view's features.
    ///   - key: the canonical one; nil for values of no entity.
    package func explain(
        view number: Int, features: [Int], key: String?, asOf: AsOf, session: SessionEvents, reader: OnlineStore.Reader
    ) throws -> EntityExplanation {
        let view = store.runtimes[number]
        guard var key else { return try explainWithoutKey(view: number, features, asOf: asOf) }
        guard key.utf8.count <= Limits.keyBytesMax else {
            throw LookupError("a key of \(view.plan.entity) has at most \(Limits.keyBytesMax) bytes")
        }
        let viewIndex = catalog.stream(named: view.plan.stream)!.viewIndex(view.plan.name)!
        let overlay = session.batches.isEmpty ? nil : session.rows(of: view.plan, viewIndex: viewIndex, key: key)
        let shard = try key.withUTF8 { try reader.applied(key: UnsafeRawBufferPointer($0)) }
        let (keptFrom, evaluated) = try reader.withEntity(view: number, key: key) { nodes, keptFrom in
            (keptFrom, try view.explain(features, nodes: nodes, asOf: asOf, session: overlay, keptFrom: keptFrom))
        }
        var place = EntityExplanation.Place(shard: shard, keptFrom: keptFrom)
        switch evaluated {
        case .success(let explanation): return EntityExplanation(view: view.plan, key: key, place: place, explanation: explanation)
        case .failure(let gap):
            place.historyReason = gap.reason
            let (rows, kept) = try history.keptRows(
                of: view.plan, key: key, from: view.earliestKnown(asOf: asOf), to: asOf.end, upTo: shard.sequence)
            guard let explanation = try view.explain(features, rows: rows, asOf: asOf, session: overlay, keptFrom: kept) else {
                throw LookupError.beyondHistory(view.plan, at: asOf.time, keptFrom: kept)
            }
            return EntityExplanation(view: view.plan, key: key, place: place, explanation: explanation)
        }
    }
}

extension ServicePlan {
    /// The features of a joined view that outputs are made of, each once, in the order in which they are needed.
    fileprivate func features(ofJoin number: Int) -> [Int] {
        var features: [Int] = []
        func add(_ join: Int, _ feature: Int) { if join == number, !features.contains(feature) { features.append(feature) } }
        for output in outputs {
            switch output.computation {
            case .feature(let join, let feature): add(join, feature)
            case .onDemand(let inputs, _):
                for case .feature(let join, let feature) in inputs { add(join, feature) }
            }
        }
        return features
    }
}
