import Synchronization
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirLookup
import WeirOnlineStore
import WeirRecords
import WeirServer

/// Answers `POST /get-online-features`: features of views, or of a service, for the rows of a request, in one snapshot of the store.
package final class OnlineFeatureReader: Sendable {
    private let lookups: LookupService
    private let requestLogger: RequestLogger?
    /// What requests asked for, as far as it does not depend on their entities: clients ask for the same again and again.
    private let plans = Mutex<[PlanKey: Plan]>([:])
    private let workers = Mutex<[IdleWorker]>([])

    private static let plansMax = 1_000
    private static let plannedBytesMax = 16 << 10

    private struct PlanKey: Hashable {
        /// The features' JSON, or a service's name.
        var wanted: [UInt8]
        var isService: Bool
        var fullFeatureNames: Bool
    }

    private struct Selection: Sendable {
        let view: Int
        let evaluation: EvaluationPlan
        let names: [String]
        /// For a key that is null.
        let empty: [FeatureResult]
    }

    private enum Source: Sendable {
        case views([Selection])
        case service(ServiceRuntime)
    }

    // One that nobody works with; who takes it is the only one who does.
    private struct IdleWorker: @unchecked Sendable {
        let worker: LookupWorker
    }

    private final class Plan: Sendable {
        let source: Source
        let columns: [OnlineFeatures.Column]
        /// The views that are read.
        let views: [ViewPlan]

        init(source: Source, columns: [OnlineFeatures.Column], views: [ViewPlan]) {
            self.source = source
            self.columns = columns
            self.views = views
        }
    }

    /// - Parameter requestLogger: nil where served requests are not logged.
    package init(lookups: LookupService, requestLogger: RequestLogger? = nil) {
        self.lookups = lookups
        self.requestLogger = requestLogger
    }

    package func read(_ request: OnlineFeaturesRequest) throws(HTTPProblem) -> OnlineFeatures {
        let plan = try plan(request)
        let values = request.rowCount * plan.columns.count
        guard values <= Limits.valuesPerAnswerMax else {
            throw HTTPProblem(
                .invalid, "\(request.rowCount) rows of \(plan.columns.count) features are \(values) values",
                hint: "an answer has at most \(Limits.valuesPerAnswerMax); send several requests")
        }
        let echoed = try entityColumns(request, plan)
        do {
            let groups = try withWorker { worker in
                let asOf = AsOf(try request.at ?? lookups.now(worker.reader))
                switch plan.source {
                case .views(let selections): return try selections.map { try rows($0, request, asOf, worker) }
                case .service(let service): return [try rows(service, request, asOf, worker)]
                }
            }
            return OnlineFeatures(echoed: echoed, columns: plan.columns, groups: groups, views: plan.views.map(\.name))
        } catch let problem as HTTPProblem {
            throw problem
        } catch let error as LookupError {
            throw HTTPProblem(.invalid, error.description)
        } catch {
            throw HTTPProblem(.failed, "\(error)")
        }
    }

    /// Lends a worker, whose snapshots end with `body`.
    private func withWorker<R>(_ body: (LookupWorker) throws -> R) throws -> R {
        let worker = workers.withLock { $0.popLast() }?.worker ?? makeWorker()
        defer {
            worker.endBatch()
            let idle = IdleWorker(worker: worker)
            workers.withLock { $0.append(idle) }
        }
        return try lookups.store.explaining { try body(worker) }
    }

    private func makeWorker() -> LookupWorker {
        let worker = lookups.makeWorker()
        worker.sampler = Sampler(rate: requestLogger?.rate ?? 0)
        return worker
    }

    // MARK: What is asked for

    private func plan(_ request: OnlineFeaturesRequest) throws(HTTPProblem) -> Plan {
        let key: PlanKey
        switch request.wanted {
        case .features(let range):
            key = PlanKey(wanted: Array(request.body[range]), isService: false, fullFeatureNames: request.fullFeatureNames)
        case .service(let name): key = PlanKey(wanted: Array(name.utf8), isService: true, fullFeatureNames: request.fullFeatureNames)
        }
        if let known = plans.withLock({ $0[key] }) { return known }
        let plan: Plan
        switch request.wanted {
        case .features(let range): plan = try viewPlan(try request.references(range), fullNames: request.fullFeatureNames)
        case .service(let name): plan = try servicePlan(name, fullNames: request.fullFeatureNames)
        }
        guard key.wanted.count <= Self.plannedBytesMax else { return plan }
        plans.withLock { plans in
            if plans.count >= Self.plansMax { plans.removeAll() }
            plans[key] = plan
        }
        return plan
    }

    private func viewPlan(_ references: [(view: String, feature: String)], fullNames: Bool) throws(HTTPProblem) -> Plan {
        let catalog = lookups.catalog
        var selections: [(view: Int, features: [Int])] = []
        var columns: [OnlineFeatures.Column] = []
        var names: Set<String> = []
        for (viewName, featureName) in references {
            guard let view = catalog.viewNumber(viewName) else {
                throw HTTPProblem(
                    .notFound, "there is no view '\(viewName)'", hint: "there are: \(catalog.views.map(\.name).joined(separator: ", "))")
            }
            let plan = catalog.views[view]
            guard let feature = plan.feature(named: featureName) else {
                throw HTTPProblem(
                    .notFound, "there is no feature '\(featureName)' of \(viewName)",
                    hint: "there are: \(plan.features.map(\.name).joined(separator: ", "))")
            }
            let name = fullNames ? "\(viewName)__\(featureName)" : featureName
            guard names.insert(name).inserted else {
                throw HTTPProblem(
                    .invalid, "two columns of the answer would be named '\(name)'",
                    hint: fullNames ? "name each feature once" : "give \"full_feature_names\": true")
            }
            let group = selections.firstIndex { $0.view == view } ?? selections.count
            if group == selections.count { selections.append((view, [])) }
            selections[group].features.append(feature)
            columns.append(.init(name: name, group: group, value: selections[group].features.count - 1, eventTime: 0))
        }
        let source: Source
        do {
            source = .views(
                try selections.map { view, features in
                    let empty = try lookups.store.runtimes[view].emptyEvaluation(asOf: AsOf(EventTime(microseconds: 0))).results
                    return Selection(
                        view: view, evaluation: lookups.evaluation(view: view, of: features),
                        names: features.map { catalog.views[view].features[$0].name }, empty: features.map { empty[$0] })
                })
        } catch {
            throw HTTPProblem(.failed, "\(error)")
        }
        return Plan(source: source, columns: columns, views: selections.map { catalog.views[$0.view] })
    }

    private func servicePlan(_ name: String, fullNames: Bool) throws(HTTPProblem) -> Plan {
        guard let service = try? lookups.service(name) else {
            let known = lookups.catalog.services.map(\.name).joined(separator: ", ")
            throw HTTPProblem(.notFound, "there is no service '\(name)'", hint: "there are: \(known.isEmpty ? "none" : known)")
        }
        var columns: [OnlineFeatures.Column] = []
        for (number, output) in service.plan.outputs.enumerated() {
            var source = service.plan.name
            var join: Int?
            if case .feature(let number, _) = output.computation {
                join = number
                source = service.plan.joins[number].view.name
            }
            columns.append(.init(name: fullNames ? "\(source)__\(output.name)" : output.name, group: 0, value: number, eventTime: join))
        }
        return Plan(source: .service(service), columns: columns, views: service.plan.joins.map(\.view))
    }

    // MARK: Entities

    /// The columns that name entities of the catalog, which come back. Of views others are mistakes; of a service they are fields of its
    /// request.
    private func entityColumns(_ request: OnlineFeaturesRequest, _ plan: Plan) throws(HTTPProblem) -> [Int] {
        func isEntity(_ name: String, of views: [ViewPlan]) -> Bool {
            views.contains { $0.entity == name || $0.joinKeys.contains(name) }
        }
        if case .service = plan.source { return request.columns.indices.filter { isEntity(request.columns[$0].name, of: plan.views) } }
        if let stranger = request.columns.first(where: {
            !isEntity($0.name, of: plan.views) && !isEntity($0.name, of: lookups.catalog.views)
        }) {
            throw HTTPProblem(
                .invalid, "there is no entity '\(stranger.name)'",
                hint: "the features asked for are of: \(Self.entityNames(plan.views))")
        }
        return Array(request.columns.indices)
    }

    private static func entityNames(_ views: [ViewPlan]) -> String {
        var names: [String] = []
        for view in views where !names.contains(view.joinKeys.joined(separator: " and ")) {
            names.append(view.joinKeys.joined(separator: " and "))
        }
        return names.joined(separator: ", ")
    }

    /// How the keys of a view come with a request.
    private struct Keys {
        let view: ViewPlan
        let request: OnlineFeaturesRequest
        var columns: [OnlineFeaturesRequest.Column]
        /// Of each column: whether it takes texts alone.
        var areTexts: [Bool]

        init(of view: ViewPlan, _ request: OnlineFeaturesRequest) throws(HTTPProblem) {
            self.view = view
            self.request = request
            func column(_ name: String) -> OnlineFeaturesRequest.Column? { request.columns.first { $0.name == name } }
            columns = view.joinKeys.compactMap(column)
            areTexts = view.keyTypeName.split(separator: ":").map { $0 == "string" }
            if columns.count < view.joinKeys.count {
                guard let whole = column(view.entity) else {
                    throw HTTPProblem(
                        .invalid, "'entities' has no '\(view.joinKeys.filter { column($0) == nil }.joined(separator: "', '"))'",
                        hint: "\(view.name) is of \(OnlineFeatureReader.entityNames([view])), which is \(view.keyTypeName)")
                }
                columns = [whole]
            }
            // One column for several parts has their text.
            if columns.count < areTexts.count { areTexts = [true] }
        }

        /// Hands over the canonical key of a row; nil where a part of it is null.
        func withKey(_ row: Int, _ body: (UnsafeRawBufferPointer?) throws -> Void) throws {
            func handOver(_ spelled: UnsafeRawBufferPointer) throws {
                let isKey = try view.withCanonicalKey(spelled) { key in
                    try check(key, row)
                    try body(key)
                }
                if !isKey { throw noKey(String(decoding: spelled, as: UTF8.self), 0, row) }
            }
            if columns.count == 1, let value = try plain(0, row) {
                return try request.body.withUnsafeBytes { try handOver(UnsafeRawBufferPointer(rebasing: $0[value])) }
            }
            var parts: [String] = []
            for column in columns.indices {
                guard let part = try text(column, row) else { return try body(nil) }
                parts.append(part)
            }
            var text = parts.count == 1 ? parts[0] : compositeKeyText(parts)
            try text.withUTF8 { try handOver(UnsafeRawBufferPointer($0)) }
        }

        private func check(_ key: UnsafeRawBufferPointer, _ row: Int) throws(HTTPProblem) {
            guard key.count <= Limits.keyBytesMax else { throw noKey(String(decoding: key, as: UTF8.self), 0, row) }
        }

        /// Where a value's text stands in the body as it is; nil for null and for strings with escapes.
        private func plain(_ column: Int, _ row: Int) throws(HTTPProblem) -> Range<Int>? {
            let value = columns[column].values[row]
            switch request.body[value.lowerBound] {
            case UInt8(ascii: "n"): return nil
            case UInt8(ascii: "\""):
                let inside = value.lowerBound + 1..<value.upperBound - 1
                return request.body[inside].contains(UInt8(ascii: "\\")) ? nil : inside
            case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): if !areTexts[column] { return value }
            default: break
            }
            throw noKey(String(decoding: request.body[value], as: UTF8.self), column, row)
        }

        /// A value as a part of a key; nil for null.
        private func text(_ column: Int, _ row: Int) throws(HTTPProblem) -> String? {
            if let plain = try plain(column, row) { return String(decoding: request.body[plain], as: UTF8.self) }
            return request.body.withUnsafeBytes { jsonString(UnsafeRawBufferPointer(rebasing: $0[columns[column].values[row]])) }
        }

        private func noKey(_ text: String, _ column: Int, _ row: Int) -> HTTPProblem {
            let shown = text.unicodeScalars.count > 60 ? String(text.unicodeScalars.prefix(60)) + "…" : text
            return HTTPProblem(
                .invalid, "'\(columns[column].name)' in row \(row): \(shown) is no key of \(view.entity)",
                hint: "it is \(view.keyTypeName), of at most \(Limits.keyBytesMax) bytes")
        }
    }

    // MARK: Rows

    private func rows(
        _ selection: Selection, _ request: OnlineFeaturesRequest, _ asOf: AsOf, _ worker: LookupWorker
    ) throws -> OnlineFeatures.Group {
        let keys = try Keys(of: lookups.catalog.views[selection.view], request)
        var group = OnlineFeatures.Group(resultsPerRow: selection.names.count, eventTimesPerRow: 1, rows: request.rowCount)
        for row in 0..<request.rowCount {
            try keys.withKey(row) { key in
                let isLogged = requestLogger != nil && worker.sampler.takes()
                guard let key else {
                    group.results += selection.empty
                    if isLogged { log(selection, nil, asOf, group, nil) }
                    return group.eventTimes.append(nil)
                }
                var isKnown = false
                try lookups.features(view: selection.view, selection.evaluation, key: key, asOf: asOf, worker) { results, exists in
                    for index in selection.names.indices { group.results.append(results[index]) }
                    isKnown = exists
                }
                if isLogged { log(selection, key, asOf, group, try worker.reader.applied(key: key)) }
                group.eventTimes.append(
                    isKnown ? try lookups.latestEvent(view: selection.view, key: key, asOf: asOf, worker) : nil)
            }
        }
        return group
    }

    /// Logs a group's last row.
    private func log(
        _ selection: Selection, _ key: UnsafeRawBufferPointer?, _ asOf: AsOf, _ group: OnlineFeatures.Group,
        _ shard: OnlineStore.AppliedShard?
    ) {
        requestLogger?.add(
            ServedRequest(
                .view(
                    lookups.catalog.views[selection.view], names: selection.names, key: key.map { String(decoding: $0, as: UTF8.self) }),
                asOf: asOf.time, results: Array(group.results.suffix(selection.names.count)), shards: [shard]))
    }

    /// A row of the columns is a request of the service.
    private func rows(
        _ service: ServiceRuntime, _ request: OnlineFeaturesRequest, _ asOf: AsOf, _ worker: LookupWorker
    ) throws -> OnlineFeatures.Group {
        var json: [UInt8] = []
        let names = request.columns.map { column in
            var name: [UInt8] = []
            JSONText.appendString(column.name, to: &name)
            return name
        }
        var group = OnlineFeatures.Group(
            resultsPerRow: service.plan.outputs.count, eventTimesPerRow: service.plan.joins.count, rows: request.rowCount)
        for row in 0..<request.rowCount {
            json.removeAll(keepingCapacity: true)
            for (name, column) in zip(names, request.columns) {
                json.append(json.isEmpty ? UInt8(ascii: "{") : UInt8(ascii: ","))
                json += name
                json.append(UInt8(ascii: ":"))
                json += request.body[column.values[row]]
            }
            json.append(UInt8(ascii: "}"))
            let decoded: any Sendable
            do {
                decoded = try lookups.decodeRequest(service, json, worker)
            } catch {
                throw HTTPProblem(
                    .invalid, "row \(row) of 'entities', \(error)",
                    hint: "\(service.plan.name) asks for: "
                        + service.plan.requestSchema.fields.map { "\($0.name) (\($0.type.rawValue)\($0.isOptional ? ", optional" : ""))" }
                        .joined(separator: ", "))
            }
            let answer = try lookups.answer(service, decoded, asOf: asOf, session: SessionEvents(), worker)
            if let requestLogger, worker.sampler.takes() {
                requestLogger.add(
                    ServedRequest(.service(service, json), asOf: asOf.time, results: worker.results, shards: worker.joinShards))
            }
            group.results += worker.results
            group.eventTimes += try lookups.latestEvents(service, answer, worker)
        }
        return group
    }
}
