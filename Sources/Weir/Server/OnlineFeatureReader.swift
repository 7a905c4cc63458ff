import Synchronization
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirLookup
import WeirOnlineStore
import WeirRecords
import WeirServer

/// Answers `POST /get-online-features`: features of views, or of a service, for the rows of a request, in one snapshot of the store.
final class OnlineFeatureReader: Sendable {
    private let lookups: LookupService
    /// What requests asked for, as far as it does not depend on their entities: clients ask for the same again and again.
    private let plans = Mutex<[PlanKey: Plan]>([:])

    private static let plansMax = 1_000
    private static let plannedBytesMax = 16 << 10

    private struct PlanKey: Hashable {
        /// The features' JSON, or a service's name.
        var wanted: [UInt8]
        var isService: Bool
        var fullFeatureNames: Bool
    }

    private enum Source: Sendable {
        /// By view its features.
        case views([(view: Int, features: [Int])])
        case service(ServicePlan)
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

    init(lookups: LookupService) {
        self.lookups = lookups
    }

    func read(_ request: OnlineFeaturesRequest) throws(HTTPProblem) -> OnlineFeatures {
        let plan = try plan(request)
        let values = request.rowCount * plan.columns.count
        guard values <= Limits.valuesPerAnswerMax else {
            throw HTTPProblem(
                .invalid, "\(request.rowCount) rows of \(plan.columns.count) features are \(values) values",
                hint: "an answer has at most \(Limits.valuesPerAnswerMax); send several requests")
        }
        let echoed = try entityColumns(request, plan)
        do {
            let groups: [[OnlineFeatures.Row]]
            switch plan.source {
            case .views(let selections): groups = try rows(selections, request)
            case .service(let service): groups = [try rows(service, request)]
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
            guard let view = catalog.views.firstIndex(where: { $0.name == viewName }) else {
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
        return Plan(source: .views(selections), columns: columns, views: selections.map { catalog.views[$0.view] })
    }

    private func servicePlan(_ name: String, fullNames: Bool) throws(HTTPProblem) -> Plan {
        guard let service = lookups.catalog.service(named: name) else {
            let known = lookups.catalog.services.map(\.name).joined(separator: ", ")
            throw HTTPProblem(.notFound, "there is no service '\(name)'", hint: "there are: \(known.isEmpty ? "none" : known)")
        }
        var columns: [OnlineFeatures.Column] = []
        for (number, output) in service.outputs.enumerated() {
            var source = service.name
            var join: Int?
            if case .feature(let number, _) = output.computation {
                join = number
                source = service.joins[number].view.name
            }
            columns.append(.init(name: fullNames ? "\(source)__\(output.name)" : output.name, group: 0, value: number, eventTime: join))
        }
        return Plan(source: .service(service), columns: columns, views: service.joins.map(\.view))
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

    /// Canonical keys, a row each; nil where a part is null.
    private func keys(of view: ViewPlan, _ request: OnlineFeaturesRequest) throws(HTTPProblem) -> [String?] {
        func column(_ name: String) -> OnlineFeaturesRequest.Column? { request.columns.first { $0.name == name } }
        var columns = view.joinKeys.compactMap(column)
        var types = view.keyTypeName.split(separator: ":").map(String.init)
        if columns.count < view.joinKeys.count {
            guard let whole = column(view.entity) else {
                let missing = view.joinKeys.filter { column($0) == nil }.joined(separator: ", ")
                throw HTTPProblem(
                    .invalid, "'entities' has no '\(missing)'",
                    hint: "\(view.name) is of \(Self.entityNames([view])), which is \(view.keyTypeName)")
            }
            columns = [whole]
        }
        if columns.count < types.count { types = [types.count == 1 ? types[0] : "string"] }
        var keys: [String?] = []
        keys.reserveCapacity(request.rowCount)
        for row in 0..<request.rowCount {
            var parts: [String] = []
            for (column, type) in zip(columns, types) {
                guard let part = try text(of: column, row, type, view, request) else { break }
                parts.append(part)
            }
            guard parts.count == columns.count else {
                keys.append(nil)
                continue
            }
            let text = parts.count == 1 ? parts[0] : compositeKeyText(parts)
            guard let key = view.canonicalKey(text), key.utf8.count <= Limits.keyBytesMax else {
                throw Self.noKey(text, row, columns[0].name, view)
            }
            keys.append(key)
        }
        return keys
    }

    /// A JSON value as a part of a key; nil for null.
    private func text(
        of column: OnlineFeaturesRequest.Column, _ row: Int, _ type: String, _ view: ViewPlan, _ request: OnlineFeaturesRequest
    ) throws(HTTPProblem) -> String? {
        let range = column.values[row]
        let text = request.body.withUnsafeBytes { body -> String? in
            let value = UnsafeRawBufferPointer(rebasing: body[range])
            switch value[0] {
            case UInt8(ascii: "\""): return jsonString(value)
            case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"):
                return type == "string" ? nil : String(decoding: value, as: UTF8.self)
            default: return nil
            }
        }
        if let text { return text }
        let written = String(decoding: request.body[range].prefix(60), as: UTF8.self)
        if written == "null" { return nil }
        throw Self.noKey(written, row, column.name, view)
    }

    private static func noKey(_ text: String, _ row: Int, _ column: String, _ view: ViewPlan) -> HTTPProblem {
        let shown = text.unicodeScalars.count > 60 ? String(text.unicodeScalars.prefix(60)) + "…" : text
        return HTTPProblem(
            .invalid, "'\(column)' in row \(row): \(shown) is no key of \(view.entity)",
            hint: "it is \(view.keyTypeName), of at most \(Limits.keyBytesMax) bytes")
    }

    // MARK: Rows

    private func rows(
        _ selections: [(view: Int, features: [Int])], _ request: OnlineFeaturesRequest
    ) throws -> [[OnlineFeatures.Row]] {
        // Before a snapshot is taken.
        let keys = try selections.map { try self.keys(of: lookups.catalog.views[$0.view], request) }
        return try lookups.store.withReader { reader in
            let asOf = AsOf(try request.at ?? lookups.now())
            return try zip(selections, keys).map { selection, keys in
                try keys.map { try row(selection.view, selection.features, key: $0, asOf: asOf, reader: reader) }
            }
        }
    }

    /// Some features of one entity; a null key has empty values.
    private func row(
        _ view: Int, _ features: [Int], key: String?, asOf: AsOf, reader: OnlineStore.Reader
    ) throws -> OnlineFeatures.Row {
        let evaluation =
            if let key {
                try lookups.evaluate(view: view, key: key, asOf: asOf, session: SessionEvents(), reader: reader)
            } else {
                try lookups.store.runtimes[view].emptyEvaluation(asOf: asOf)
            }
        return OnlineFeatures.Row(
            values: features.map { evaluation.results[$0].value }, statuses: features.map { evaluation.results[$0].status },
            eventTimes: [evaluation.latestEvent])
    }

    /// A row of the columns is a request of the service.
    private func rows(_ service: ServicePlan, _ request: OnlineFeaturesRequest) throws -> [OnlineFeatures.Row] {
        var parser = JSONRecordParser(schema: service.requestSchema, unknownFields: .rejected)
        var batch = RecordBatch(schema: service.requestSchema)
        var json: [UInt8] = []
        let names = request.columns.map { column in
            var name: [UInt8] = []
            JSONText.appendString(column.name, to: &name)
            return name
        }
        for row in 0..<request.rowCount {
            json.removeAll(keepingCapacity: true)
            for (name, column) in zip(names, request.columns) {
                json.append(json.isEmpty ? UInt8(ascii: "{") : UInt8(ascii: ","))
                json += name
                json.append(UInt8(ascii: ":"))
                json += request.body[column.values[row]]
            }
            json.append(UInt8(ascii: "}"))
            parser.append(json, to: &batch, offset: Int64(row))
            if let malformed = batch.malformed.first {
                throw HTTPProblem(
                    .invalid, "row \(row) of 'entities': \(malformed.reason)",
                    hint: "\(service.name) asks for: "
                        + service.requestSchema.fields.map { "\($0.name) (\($0.type.rawValue)\($0.isOptional ? ", optional" : ""))" }
                        .joined(separator: ", "))
            }
        }
        let decoded = try (0..<request.rowCount).map { try lookups.decodeRequest(service, batch, row: $0) }
        return try lookups.store.withReader { reader in
            let asOf = AsOf(try request.at ?? lookups.now())
            return try decoded.map { decoded in
                let answer = try lookups.answer(service, decoded, asOf: asOf, session: SessionEvents(), reader: reader)
                return OnlineFeatures.Row(
                    values: answer.results.map(\.value), statuses: answer.results.map(\.status), eventTimes: answer.latestEvents)
            }
        }
    }
}
