import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirLookup
import WeirRecords
import WeirServer

extension ServerBackend {
    package func explain(_ request: FeaturesExplain, executor: Int) throws(CommandError) -> ReplyValue {
        try translating {
            let worker = worker(executor)
            let session = try sessionEvents(request.session, id: request.sessionID)
            let reply: ExplanationReply
            switch request.subject {
            case .service(let name, let json):
                let service = try lookups.service(name)
                let decoded = try lookups.decodeRequest(service, json, worker)
                reply = try lookups.store.explaining {
                    let asOf = AsOf(try request.at ?? lookups.now(worker.reader))
                    let explained = try lookups.explain(service.plan, decoded, asOf: asOf, session: session, reader: worker.reader)
                    return try ExplanationReply(explained, asOf: asOf.time, session: session, lookups)
                }
            case .entity(let view, let key, let features):
                let numbers = try lookups.numbers(ofFeatures: features.isEmpty ? nil : features, view: view)
                let plan = lookups.catalog.views[numbers.view]
                guard let canonical = plan.canonicalKey(key) else { throw LookupError.noKey(key, of: plan) }
                reply = try lookups.store.explaining {
                    let asOf = AsOf(try request.at ?? lookups.now(worker.reader))
                    let explained = try lookups.explain(
                        view: numbers.view, features: numbers.features, key: canonical, asOf: asOf, session: session, reader: worker.reader)
                    return try ExplanationReply(explained, asOf: asOf.time, session: session, lookups)
                }
            }
            return request.isJSON ? .bytes(reply.json) : .array(reply.lines.map { .string($0) })
        }
    }
}

extension LookupService {
    /// Finds a view and some of its features; nil: all.
    func numbers(ofFeatures names: [String]?, view name: String) throws(LookupError) -> (view: Int, features: [Int]) {
        guard let number = catalog.viewNumber(name) else {
            throw LookupError("unknown view '\(name)'; there are: \(catalog.views.map(\.name).joined(separator: ", "))")
        }
        let view = catalog.views[number]
        guard !view.isLabelView else {
            throw LookupError("\(name) has labels, which are known only afterwards; `weir export` writes them into training sets")
        }
        guard let names else { return (number, Array(view.features.indices)) }
        var features: [Int] = []
        for feature in names {
            guard let index = view.feature(named: feature) else {
                throw LookupError(
                    "unknown feature '\(feature)' of \(name); there are: \(view.features.map(\.name).joined(separator: ", "))")
            }
            features.append(index)
        }
        return (number, features)
    }
}

extension LookupError {
    static func noKey(_ key: String, of view: ViewPlan) -> LookupError {
        LookupError("'\(key)' is no key of \(view.entity), which is \(view.keyTypeName)")
    }
}
