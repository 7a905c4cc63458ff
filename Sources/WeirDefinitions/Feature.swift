import WeirAlgebra

/// A feature of a view: an aggregation of one column over a window, perhaps of some events only.
///
/// The property that holds it gives it its name (`avgPrice28d` → `avg_price_28d`). Make one with `Aggregate`.
public struct Feature<Source: Event, Value: FeatureRepresentable>: Sendable {
    let node: AggregateNode<Source>

    /// Counts only the events that `accepts` holds for. For several features with one condition, share a `Filter`.
    ///
    /// - Parameter accepts: pure: no clock, no randomness.
    public func `where`(_ accepts: @escaping @Sendable (Source) -> Bool) -> Feature {
        self.where(Filter(accepts))
    }

    /// Counts only the events that `filter` accepts. A second condition is a programming error: combine them in one closure.
    public func `where`(_ filter: Filter<Source>) -> Feature {
        precondition(node.filter == nil, "a feature has one where; combine the conditions in one closure")
        return Feature(node: node.with { $0.filter = filter })
    }

    /// Gives the feature an explicit wire name instead of its property's.
    public func named(_ name: String) -> Feature {
        Feature(node: node.with { $0.explicitName = name })
    }
}

/// What a view's property defines; found by reflection once at start.
protocol FeatureNode: AnyObject, Sendable {
    var explicitName: String? { get }
    var type: FeatureType { get }
}

protocol FeatureProperty {
    associatedtype Node: FeatureNode
    var node: Node { get }
}

extension Feature: FeatureProperty {}

/// The definition behind a `Feature`.
final class AggregateNode<Source: Event>: FeatureNode {
    struct Parts: Sendable {
        var explicitName: String?
        var type: FeatureType
        var aggregation: any Aggregation
        /// nil where the events themselves are counted.
        var column: ColumnReader<Source>?
        var window: Window
        var filter: Filter<Source>?
    }
    let parts: Parts

    init(_ parts: Parts) { self.parts = parts }

    var explicitName: String? { parts.explicitName }
    var type: FeatureType { parts.type }
    var filter: Filter<Source>? { parts.filter }

    func with(_ change: (inout Parts) -> Void) -> AggregateNode {
        var parts = self.parts
        change(&parts)
        return AggregateNode(parts)
    }
}

/// A feature computed from other features of its view.
///
/// ```swift
/// let priceVsUsual = Derived(\HouseholdSpend.spend1h, \HouseholdSpend.avgPrice28d) { spend, mean in spend / mean }
/// ```
///
/// Where an input is null the value is null and the closure is not called, unless it takes optionals. NaN and infinity
/// become null. The closure must be pure.
public struct Derived<View: FeatureView, Value: FeatureRepresentable>: Sendable {
    let node: DerivedNode

    public init<each Input: FeatureRepresentable>(
        _ inputs: repeat any KeyPath<View, Feature<View.Source, each Input>> & Sendable,
        compute: @escaping @Sendable (repeat each Input) -> Value
    ) {
        node = DerivedNode(
            type: Value.featureType, explicitName: nil,
            inputs: Self.resolvers(repeat each inputs),
            compute: { values in
                guard let arguments = try? Arguments.required(values, as: repeat (each Input).self) else { return .null }
                return compute(repeat each arguments).featureValue
            })
    }

    /// The form for closures that take optionals: called also when inputs are null; nil gives null.
    public init<each Input: FeatureRepresentable>(
        optional inputs: repeat any KeyPath<View, Feature<View.Source, each Input>> & Sendable,
        compute: @escaping @Sendable (repeat (each Input)?) -> Value?
    ) {
        node = DerivedNode(
            type: Value.featureType, explicitName: nil,
            inputs: Self.resolvers(repeat each inputs),
            compute: { values in
                let arguments = Arguments.optional(values, as: repeat (each Input).self)
                return compute(repeat each arguments)?.featureValue ?? .null
            })
    }

    init(node: DerivedNode) { self.node = node }

    /// Gives the feature an explicit wire name instead of its property's.
    public func named(_ name: String) -> Derived {
        Derived(
            node: DerivedNode(type: node.type, explicitName: name, inputs: node.inputs, compute: node.compute))
    }

    private static func resolvers<each Input>(
        _ inputs: repeat any KeyPath<View, Feature<View.Source, each Input>> & Sendable
    ) -> [@Sendable (any Sendable) -> any FeatureNode] {
        var resolvers: [@Sendable (any Sendable) -> any FeatureNode] = []
        for input in repeat each inputs { resolvers.append(resolver(input)) }
        return resolvers
    }

    private static func resolver<Input>(
        _ input: any KeyPath<View, Feature<View.Source, Input>> & Sendable
    ) -> @Sendable (any Sendable) -> any FeatureNode {
        { view in (view as! View)[keyPath: input].node }
    }
}

extension Derived: FeatureProperty {}

final class DerivedNode: FeatureNode {
    let type: FeatureType
    let explicitName: String?
    /// Each gives the input's node, from the view.
    let inputs: [@Sendable (any Sendable) -> any FeatureNode]
    let compute: @Sendable ([FeatureValue]) -> FeatureValue

    init(
        type: FeatureType, explicitName: String?, inputs: [@Sendable (any Sendable) -> any FeatureNode],
        compute: @escaping @Sendable ([FeatureValue]) -> FeatureValue
    ) {
        self.type = type
        self.explicitName = explicitName
        self.inputs = inputs
        self.compute = compute
    }
}

/// Turns feature values into a closure's typed arguments.
enum Arguments {
    struct Missing: Error {}

    static func required<each Input: FeatureRepresentable>(
        _ values: [FeatureValue], as: repeat (each Input).Type
    ) throws -> (repeat each Input) {
        var index = 0
        func next<I: FeatureRepresentable>(_: I.Type) throws -> I {
            defer { index += 1 }
            guard let value = I(featureValue: values[index]) else { throw Missing() }
            return value
        }
        return (repeat try next((each Input).self))
    }

    static func optional<each Input: FeatureRepresentable>(
        _ values: [FeatureValue], as: repeat (each Input).Type
    ) -> (repeat (each Input)?) {
        var index = 0
        func next<I: FeatureRepresentable>(_: I.Type) -> I? {
            defer { index += 1 }
            return I(featureValue: values[index])
        }
        return (repeat next((each Input).self))
    }
}
