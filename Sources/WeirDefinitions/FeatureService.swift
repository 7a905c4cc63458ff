import WeirAlgebra
import WeirRecords

/// What one model asks for: a typed request, and the features that answer it.
///
/// ```swift
/// struct CheckoutOffer: FeatureService {
///     static let name = "checkout_offer"
///     struct Request: Codable, Sendable { var household: Int?; var cartValue: Double }
///     let household = Join(HouseholdSpend.self, on: { (request: Request) in request.household })
///     var outputs: [Output<Request>] {
///         household.avgPrice28d
///         OnDemand("cart_vs_usual", household.avgPrice28d, request.cartValue) { mean, cart in cart / mean }
///     }
/// }
/// ```
public protocol FeatureService: Sendable {
    associatedtype Request: Codable & Sendable

    /// The service's wire name; by default the snake_case of the type's name.
    static var name: String { get }

    /// What is answered, in this order.
    @OutputBuilder<Request> var outputs: [Output<Request>] { get }

    /// What is to be predicted, from label views (`.following` windows): columns of training sets behind the outputs, never served.
    @OutputBuilder<Request> var labels: [Output<Request>] { get }

    init()
}

extension FeatureService {
    public var labels: [Output<Request>] { [] }

    public static var name: String { wireName(String(describing: Self.self)) }

    /// The fields of the request, as inputs of on-demand features: `request.cartValue`.
    public var request: RequestFields<Request> { RequestFields() }
}

/// Says which entity's features of a view a request asks for.
@dynamicMemberLookup
public struct Join<View: FeatureView, Request: Codable & Sendable>: Sendable {
    let node: JoinNode

    /// - Parameter on: the entity's key; nil gives empty values.
    public init(_: View.Type, on key: @escaping @Sendable (Request) -> View.Subject.ID?) {
        node = JoinNode(viewName: View.storedName, viewType: View.self) { request in key(request as! Request)?.keyText }
    }

    public subscript<Value>(
        dynamicMember feature: any KeyPath<View, Feature<View.Source, Value>> & Sendable
    ) -> JoinedFeature<Request, Value> {
        JoinedFeature(join: node) { view in (view as! View)[keyPath: feature].node }
    }

    public subscript<Value>(
        dynamicMember feature: any KeyPath<View, Derived<View, Value>> & Sendable
    ) -> JoinedFeature<Request, Value> {
        JoinedFeature(join: node) { view in (view as! View)[keyPath: feature].node }
    }

    /// All features of the view, in the order of their definition.
    public var all: [Output<Request>] {
        [Output(.allOf(node))]
    }
}

final class JoinNode: Sendable {
    let viewName: String
    let viewType: any FeatureView.Type
    /// The key's text from a request.
    let key: @Sendable (any Sendable) -> String?

    init(viewName: String, viewType: any FeatureView.Type, key: @escaping @Sendable (any Sendable) -> String?) {
        self.viewName = viewName
        self.viewType = viewType
        self.key = key
    }
}

/// An input of an on-demand feature: a joined feature, or a field of the request.
public protocol ServiceInput: Sendable {
    associatedtype Value: FeatureRepresentable
    var source: ServiceInputSource { get }
}

/// Where an on-demand feature's input comes from.
public struct ServiceInputSource: Sendable {
    enum Kind: Sendable {
        case feature(JoinNode, @Sendable (any Sendable) -> any FeatureNode)
        case request(@Sendable (any Sendable) -> FeatureValue)
    }
    let kind: Kind
    /// The request that the input belongs to.
    let requestType: any Sendable.Type
    /// Of a request's field, where its key path tells it.
    var requestField: String?
}

/// A view's feature, for the entity that a request names.
public struct JoinedFeature<Request: Codable & Sendable, Value: FeatureRepresentable>: ServiceInput {
    let join: JoinNode
    let feature: @Sendable (any Sendable) -> any FeatureNode

    public var source: ServiceInputSource { ServiceInputSource(kind: .feature(join, feature), requestType: Request.self) }
}

/// A field of a request.
public struct RequestField<Request: Codable & Sendable, Value: FeatureRepresentable>: ServiceInput {
    let name: String?
    let read: @Sendable (any Sendable) -> FeatureValue

    /// - Parameter path: as a key path is described: `\\Request.cartValue`.
    init(_ path: String, _ read: @escaping @Sendable (any Sendable) -> FeatureValue) {
        let last = path.split(separator: ".").last.map(String.init) ?? ""
        name = path.hasPrefix("\\") && last.allSatisfy { $0.isLetter || $0.isNumber || $0 == "_" } ? wireName(last) : nil
        self.read = read
    }

    public var source: ServiceInputSource {
        ServiceInputSource(kind: .request(read), requestType: Request.self, requestField: name)
    }
}

@dynamicMemberLookup
public struct RequestFields<Request: Codable & Sendable>: Sendable {
    public subscript<Value: FeatureRepresentable>(
        dynamicMember field: any KeyPath<Request, Value> & Sendable
    ) -> RequestField<Request, Value> {
        RequestField("\(field)") { request in (request as! Request)[keyPath: field].featureValue }
    }

    public subscript<Value: FeatureRepresentable>(
        dynamicMember field: any KeyPath<Request, Value?> & Sendable
    ) -> RequestField<Request, Value> {
        RequestField("\(field)") { request in (request as! Request)[keyPath: field]?.featureValue ?? .null }
    }
}

/// One feature of a service's answer.
public struct Output<Request: Codable & Sendable>: Sendable {
    enum Kind: Sendable {
        case joined(ServiceInputSource, name: String?)
        case allOf(JoinNode)
        case onDemand(OnDemandNode)
    }
    let kind: Kind

    init(_ kind: Kind) { self.kind = kind }
}

/// A feature computed at lookup from the request and from joined features.
///
/// Where an input is null the value is null and the closure is not called, unless it takes optionals. NaN and infinity
/// become null. The closure must be pure: it also runs when a training set is exported.
public struct OnDemand<Request: Codable & Sendable>: Sendable {
    let node: OnDemandNode

    public init<each Input: ServiceInput, Value: FeatureRepresentable>(
        _ name: String, _ inputs: repeat each Input,
        compute: @escaping @Sendable (repeat (each Input).Value) -> Value
    ) {
        var sources: [ServiceInputSource] = []
        for input in repeat each inputs { sources.append(input.source) }
        node = OnDemandNode(name: name, type: Value.featureType, inputs: sources) { values in
            guard let arguments = try? Arguments.required(values, as: repeat (each Input).Value.self) else { return .null }
            return compute(repeat each arguments).featureValue
        }
    }

    /// The form for closures that take optionals: called also when inputs are null; nil gives null.
    public init<each Input: ServiceInput, Value: FeatureRepresentable>(
        _ name: String, optional inputs: repeat each Input,
        compute: @escaping @Sendable (repeat (each Input).Value?) -> Value?
    ) {
        var sources: [ServiceInputSource] = []
        for input in repeat each inputs { sources.append(input.source) }
        node = OnDemandNode(name: name, type: Value.featureType, inputs: sources) { values in
            let arguments = Arguments.optional(values, as: repeat (each Input).Value.self)
            return compute(repeat each arguments)?.featureValue ?? .null
        }
    }
}

final class OnDemandNode: Sendable {
    let name: String
    let type: FeatureType
    let inputs: [ServiceInputSource]
    let compute: @Sendable ([FeatureValue]) -> FeatureValue

    init(
        name: String, type: FeatureType, inputs: [ServiceInputSource],
        compute: @escaping @Sendable ([FeatureValue]) -> FeatureValue
    ) {
        self.name = name
        self.type = type
        self.inputs = inputs
        self.compute = compute
    }
}

@resultBuilder
public enum OutputBuilder<Request: Codable & Sendable> {
    public static func buildExpression<V>(_ feature: JoinedFeature<Request, V>) -> [Output<Request>] {
        [Output(.joined(feature.source, name: nil))]
    }
    public static func buildExpression(_ onDemand: OnDemand<Request>) -> [Output<Request>] {
        [Output(.onDemand(onDemand.node))]
    }
    public static func buildExpression(_ outputs: [Output<Request>]) -> [Output<Request>] { outputs }
    public static func buildBlock(_ parts: [Output<Request>]...) -> [Output<Request>] { parts.flatMap { $0 } }
    public static func buildOptional(_ part: [Output<Request>]?) -> [Output<Request>] { part ?? [] }
    public static func buildEither(first: [Output<Request>]) -> [Output<Request>] { first }
    public static func buildEither(second: [Output<Request>]) -> [Output<Request>] { second }
    public static func buildArray(_ parts: [[Output<Request>]]) -> [Output<Request>] { parts.flatMap { $0 } }
}

extension JoinedFeature {
    /// Answers the feature under another name than its view's.
    public func named(_ name: String) -> [Output<Request>] {
        [Output(.joined(source, name: name))]
    }
}
