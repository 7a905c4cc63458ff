import WeirAlgebra
import WeirRecords

/// All feature views and services of a feature repository.
///
/// ```swift
/// var catalog: Catalog { HouseholdSpend.self; BasketActivity.self; CheckoutOffer.self }
/// ```
public struct Catalog: Sendable {
    enum Item: Sendable {
        case view(any FeatureView.Type)
        case service(any FeatureService.Type)
    }
    let items: [Item]
}

@resultBuilder
public enum CatalogBuilder {
    public static func buildExpression<V: FeatureView>(_ view: V.Type) -> Catalog { Catalog(items: [.view(view)]) }
    public static func buildExpression<S: FeatureService>(_ service: S.Type) -> Catalog { Catalog(items: [.service(service)]) }
    public static func buildExpression(_ catalog: Catalog) -> Catalog { catalog }
    public static func buildBlock(_ parts: Catalog...) -> Catalog { Catalog(items: parts.flatMap(\.items)) }
    public static func buildOptional(_ part: Catalog?) -> Catalog { part ?? Catalog(items: []) }
    public static func buildEither(first: Catalog) -> Catalog { first }
    public static func buildEither(second: Catalog) -> Catalog { second }
    public static func buildArray(_ parts: [Catalog]) -> Catalog { Catalog(items: parts.flatMap(\.items)) }
}

/// The catalog, checked and made ready for the engine: once at start.
package struct CatalogPlan: Sendable {
    package let streams: [any StreamPlan]
    package let views: [ViewPlan]
    package let services: [ServicePlan]

    /// - Throws: `DefinitionError` that names the feature, view or service and says what would be right.
    package init(_ catalog: Catalog) throws(DefinitionError) {
        var builders: [any StreamBuilding] = []
        var views: [ViewPlan] = []
        for case .view(let type) in catalog.items {
            let plan = try addView(type, to: &builders)
            if views.contains(where: { $0.name == plan.name }) {
                throw DefinitionError(
                    "two feature views are named '\(plan.name)'; give one a `static let name`, or another `static let revision`")
            }
            views.append(plan)
        }
        var streams: [any StreamPlan] = []
        for builder in builders { streams.append(try builder.build()) }
        var services: [ServicePlan] = []
        for case .service(let type) in catalog.items {
            let service = try makeServicePlan(type, views: views)
            if services.contains(where: { $0.name == service.name }) || views.contains(where: { $0.name == service.name }) {
                throw DefinitionError("two services or views are named '\(service.name)'; give one a `static let name`")
            }
            services.append(service)
        }
        self.streams = streams
        self.views = views
        self.services = services
    }

    package func stream(named name: String) -> (any StreamPlan)? { streams.first { $0.name == name } }
    package func view(named name: String) -> ViewPlan? { views.first { $0.name == name } }

    /// The view that a client names: `spend` for the latest revision, `spend@2` for a certain one.
    package func viewNumber(_ name: some StringProtocol) -> Int? {
        if let at = name.lastIndex(of: "@") {
            guard let revision = Int(name[name.index(after: at)...]) else { return nil }
            return views.firstIndex { $0.baseName == name[..<at] && $0.revision == revision }
        }
        return views.indices.filter { views[$0].baseName == name }.max { views[$0].revision < views[$1].revision }
    }
    package func service(named name: String) -> ServicePlan? { services.first { $0.name == name } }
}

/// Collects the views of one stream until all are known.
private protocol StreamBuilding: AnyObject {
    var eventType: any Event.Type { get }
    var streamName: String { get }
    func build() throws(DefinitionError) -> any StreamPlan
}

private final class StreamBuilder<E: Event>: StreamBuilding {
    var views: [TypedView<E>] = []
    var eventType: any Event.Type { E.self }
    var streamName: String { E.stream }
    func build() throws(DefinitionError) -> any StreamPlan { try TypedStream(views: views) }
}

private func addView<V: FeatureView>(_: V.Type, to builders: inout [any StreamBuilding]) throws(DefinitionError) -> ViewPlan {
    guard V.revision >= 1 else { throw DefinitionError("view \(V.name): its revision is \(V.revision); revisions begin with 1") }
    guard isWireName(V.name) else {
        throw DefinitionError("view \(V.self): '\(V.name)' is no wire name; use lower-case letters, digits and _")
    }
    let builder: StreamBuilder<V.Source>
    if let existing = builders.first(where: { $0.streamName == V.Source.stream }) {
        guard let same = existing as? StreamBuilder<V.Source> else {
            throw DefinitionError(
                "events \(existing.eventType) and \(V.Source.self) both name the stream '\(V.Source.stream)'; one stream has one event type"
            )
        }
        builder = same
    } else {
        builder = StreamBuilder()
        builders.append(builder)
    }
    let view = try TypedView(V())
    builder.views.append(view)
    return view.plan
}

/// A service as the lookup and the export see it.
package final class ServicePlan: Sendable {
    package struct Join: Sendable {
        package let view: ViewPlan
        /// The entity key's canonical text from a decoded request; nil for empty values.
        package let key: @Sendable (any Sendable) -> String?
    }

    package enum Source: Sendable {
        case feature(join: Int, feature: Int)
        case request(@Sendable (any Sendable) -> FeatureValue)

        fileprivate func value(_ request: any Sendable, _ joined: (_ join: Int, _ feature: Int) -> FeatureValue) -> FeatureValue {
            switch self {
            case .feature(let join, let feature): joined(join, feature)
            case .request(let read): read(request)
            }
        }
    }

    package enum Computation: Sendable {
        case feature(join: Int, feature: Int)
        case onDemand(inputs: [Source], compute: @Sendable ([FeatureValue]) -> FeatureValue)

        /// - Parameter joined: a join's feature, by the numbers that stand here.
        package func result(_ request: any Sendable, _ joined: (_ join: Int, _ feature: Int) -> FeatureResult) -> FeatureResult {
            switch self {
            case .feature(let join, let feature): return joined(join, feature)
            case .onDemand(let inputs, let compute):
                let value = compute(inputs.map { $0.value(request) { joined($0, $1).value } })
                return FeatureResult(value, value == .null ? .nullValue : .present)
            }
        }

        /// The value alone, from values.
        package func value(_ request: any Sendable, _ joined: (_ join: Int, _ feature: Int) -> FeatureValue) -> FeatureValue {
            switch self {
            case .feature(let join, let feature): joined(join, feature)
            case .onDemand(let inputs, let compute): compute(inputs.map { $0.value(request, joined) })
            }
        }

        /// What an on-demand feature is computed from; nil for a feature of a view.
        package func inputs(_ request: any Sendable, _ joined: (_ join: Int, _ feature: Int) -> FeatureValue) -> [FeatureValue]? {
            guard case .onDemand(let inputs, _) = self else { return nil }
            return inputs.map { $0.value(request, joined) }
        }

        /// The same with other numbers for the joins' features.
        package func numbered(_ number: (_ join: Int, _ feature: Int) -> Int) -> Computation {
            switch self {
            case .feature(let join, let feature): return .feature(join: join, feature: number(join, feature))
            case .onDemand(let inputs, let compute):
                return .onDemand(
                    inputs: inputs.map { input in
                        guard case .feature(let join, let feature) = input else { return input }
                        return .feature(join: join, feature: number(join, feature))
                    }, compute: compute)
            }
        }
    }

    package struct Output: Sendable {
        package let name: String
        package let type: FeatureType
        package let computation: Computation
        /// For people: of an on-demand feature's inputs the features and the request's fields; empty otherwise.
        package var inputNames: [String] = []
    }

    package let name: String
    package let requestSchema: RecordSchema
    package let joins: [Join]
    /// Behind the joins: those of labels alone.
    package let labelJoins: [Join]
    /// What a training set joins.
    package var trainingJoins: [Join] { joins + labelJoins }
    package let outputs: [Output]
    /// Columns of training sets behind the outputs; lookups do not have them.
    package let labels: [Output]

    /// Everything that answers depend on, as text; what is inside of closures cannot be seen.
    package var definition: String {
        var lines = ["service \(name)"]
        lines += requestSchema.fields.map { "  request \($0.name): \($0.type.rawValue)\($0.isOptional ? "?" : "")" }
        lines += joins.map { "  join \($0.view.name) \($0.view.fingerprint)" }
        lines += outputs.map { output in
            let computation =
                switch output.computation {
                case .feature(let join, let feature): "\(join).\(feature)"
                case .onDemand: "on demand from \(output.inputNames.joined(separator: ", "))"
                }
            return "  \(output.name): \(output.type.rawValue) = \(computation)"
        }
        return lines.joined(separator: "\n")
    }

    package var fingerprint: String { weirFingerprint(of: definition) }

    package let makeDecoder: @Sendable () -> any RequestDecoding
    /// For records of a schema that has the request's fields and perhaps others.
    package let makeRowDecoder: @Sendable (RecordSchema) -> any RequestRowDecoding

    init(
        name: String, requestSchema: RecordSchema, joins: [Join], labelJoins: [Join], outputs: [Output], labels: [Output],
        makeDecoder: @escaping @Sendable () -> any RequestDecoding,
        makeRowDecoder: @escaping @Sendable (RecordSchema) -> any RequestRowDecoding
    ) {
        self.name = name
        self.requestSchema = requestSchema
        self.joins = joins
        self.labelJoins = labelJoins
        self.outputs = outputs
        self.labels = labels
        self.makeDecoder = makeDecoder
        self.makeRowDecoder = makeRowDecoder
    }
}

/// Decodes a service's requests one after another, in memory of its own. For one thread.
package protocol RequestDecoding: AnyObject {
    /// - Throws: `RecordError` that names the field and says what is wrong.
    func decode(_ json: UnsafeRawBufferPointer) throws(RecordError) -> any Sendable
}

/// Decodes requests from records that are there already. For one thread.
package protocol RequestRowDecoding: AnyObject {
    func load(_ batch: RecordBatch)
    /// - Throws: `RecordError` that names the field and says what is wrong.
    func decode(row: Int) throws(RecordError) -> any Sendable
}

private final class RequestRowDecoder<Request: Codable & Sendable>: RequestRowDecoding {
    private var decoder: RecordDecoder

    init(_ schema: RecordSchema) { decoder = RecordDecoder(schema: schema) }

    func load(_ batch: RecordBatch) { decoder.load(batch) }
    func decode(row: Int) throws(RecordError) -> any Sendable { try decoder.decode(Request.self, row: row) }
}

private final class RequestDecoder<Request: Codable & Sendable>: RequestDecoding {
    private var parser: JSONRecordParser
    private var decoder: RecordDecoder

    init(_ schema: RecordSchema) {
        parser = JSONRecordParser(schema: schema, unknownFields: .rejected)
        decoder = RecordDecoder(schema: schema)
    }

    func decode(_ json: UnsafeRawBufferPointer) throws(RecordError) -> any Sendable {
        try decoder.load(json, &parser)
        return try decoder.decode(Request.self, row: 0)
    }
}

private func makeServicePlan<S: FeatureService>(
    _: S.Type, views: [ViewPlan]
) throws(DefinitionError) -> ServicePlan {
    guard isWireName(S.name) else {
        throw DefinitionError("service \(S.self): '\(S.name)' is no wire name; use lower-case letters, digits and _")
    }
    let schema: RecordSchema
    do {
        schema = try RecordSchema.probe(S.Request.self, name: S.name, timestampUnit: .milliseconds)
    } catch {
        throw DefinitionError("request of service \(S.name): \(error)")
    }

    var nodes: [JoinNode] = []
    var joins: [ServicePlan.Join] = []
    func joinIndex(_ node: JoinNode) throws(DefinitionError) -> Int {
        if let known = nodes.firstIndex(where: { $0 === node }) { return known }
        guard let view = views.first(where: { $0.name == node.viewName }) else {
            throw DefinitionError("service \(S.name) joins the view \(node.viewName), which is not in the catalog")
        }
        nodes.append(node)
        joins.append(.init(view: view, key: node.key))
        return joins.count - 1
    }
    // One instance a joined view, as the join's own properties refer to it, resolves key paths to features.
    func resolve(
        _ join: JoinNode, _ feature: @Sendable (any Sendable) -> any FeatureNode
    ) throws(DefinitionError) -> (join: Int, feature: Int) {
        let index = try joinIndex(join)
        let instance = makeView(join.viewType)
        let wanted = feature(instance)
        var position = 0
        for child in Mirror(reflecting: instance).children {
            guard let property = child.value as? any FeatureProperty else { continue }
            let node: any FeatureNode = property.node
            if node === wanted { return (index, position) }
            position += 1
        }
        throw DefinitionError("service \(S.name): a feature of \(join.viewName) is no stored property of the view")
    }
    func source(_ source: ServiceInputSource) throws(DefinitionError) -> ServicePlan.Source {
        guard source.requestType == S.Request.self else {
            throw DefinitionError(
                "service \(S.name): an on-demand feature's input is of the request \(source.requestType), not \(S.Request.self)")
        }
        switch source.kind {
        case .request(let read): return .request(read)
        case .feature(let join, let feature):
            let place = try resolve(join, feature)
            return .feature(join: place.join, feature: place.feature)
        }
    }

    var outputs: [ServicePlan.Output] = []
    func append(_ output: ServicePlan.Output) throws(DefinitionError) {
        guard isWireName(output.name) else {
            throw DefinitionError("service \(S.name): '\(output.name)' is no wire name; use lower-case letters, digits and _")
        }
        if outputs.contains(where: { $0.name == output.name }) {
            throw DefinitionError("service \(S.name): two features are named '\(output.name)'; rename one with .named")
        }
        if schema.index(of: output.name) != nil {
            throw DefinitionError(
                "service \(S.name): the feature '\(output.name)' has the name of a field of the request; rename it with .named")
        }
        outputs.append(output)
    }
    func add(_ output: Output<S.Request>) throws(DefinitionError) {
        switch output.kind {
        case .joined(let input, let name):
            guard case .feature(let join, let feature) = try source(input) else { return }
            let plan = joins[join].view.features[feature]
            try append(.init(name: name ?? plan.name, type: plan.type, computation: .feature(join: join, feature: feature)))
        case .allOf(let node):
            let join = try joinIndex(node)
            for (index, feature) in joins[join].view.features.enumerated() {
                try append(.init(name: feature.name, type: feature.type, computation: .feature(join: join, feature: index)))
            }
        case .onDemand(let node):
            var inputs: [ServicePlan.Source] = []
            var names: [String] = []
            for input in node.inputs {
                inputs.append(try source(input))
                if case .feature(let join, let feature) = inputs.last {
                    names.append(joins[join].view.features[feature].name)
                } else {
                    names.append(input.requestField ?? "request")
                }
            }
            try append(
                .init(
                    name: node.name, type: node.type, computation: .onDemand(inputs: inputs, compute: node.compute), inputNames: names))
        }
    }
    let instance = S()
    for output in instance.outputs { try add(output) }
    if outputs.isEmpty { throw DefinitionError("service \(S.name) has no outputs") }
    let servedCount = outputs.count
    let servedJoins = joins.count
    if let label = joins.first(where: { $0.view.isLabelView }) {
        throw DefinitionError("service \(S.name): \(label.view.name) has labels, which nobody can be served; list them in `labels`")
    }
    for label in instance.labels { try add(label) }
    if let feature = joins[servedJoins...].first(where: { !$0.view.isLabelView }) {
        throw DefinitionError("service \(S.name): \(feature.view.name) has no labels: list its features in `outputs`")
    }
    let labels = Array(outputs[servedCount...])
    outputs.removeLast(labels.count)

    return ServicePlan(
        name: S.name, requestSchema: schema, joins: Array(joins[..<servedJoins]), labelJoins: Array(joins[servedJoins...]),
        outputs: outputs, labels: labels,
        makeDecoder: { RequestDecoder<S.Request>(schema) }, makeRowDecoder: { RequestRowDecoder<S.Request>($0) })
}

private func makeView(_ type: any FeatureView.Type) -> any FeatureView { type.init() }
