import WeirAlgebra
import WeirDefinitions
import WeirEngine

/// A service, made ready for lookups: what it evaluates of each view.
package final class ServiceRuntime: Sendable {
    package let plan: ServicePlan
    /// Of the plan, those that are evaluated.
    package let planJoins: [ServicePlan.Join]
    package let names: [String]
    package struct Join: Sendable {
        package let view: Int
        /// Of the view, those whose results there are.
        package let featureNumbers: [Int]
        package let features: EvaluationPlan
        package let empty: [FeatureResult]
    }
    package let joins: [Join]
    /// With the features numbered as the joins' results are.
    package let outputs: [ServicePlan.Computation]
    /// Changes whenever a definition does that answers depend on, as far as that can be seen: what is inside of closures cannot.
    package let fingerprint: String

    /// - Parameter includesLabels: for a training set; the outputs are followed by the labels.
    package init(_ plan: ServicePlan, _ catalog: CatalogPlan, _ runtimes: [ViewRuntime], includesLabels: Bool = false) throws {
        self.plan = plan
        let wanted = plan.outputs + (includesLabels ? plan.labels : [])
        names = wanted.map(\.name)
        fingerprint = plan.fingerprint
        planJoins = includesLabels ? plan.trainingJoins : plan.joins
        var features: [[Int]] = Array(repeating: [], count: planJoins.count)
        func place(_ join: Int, _ feature: Int) -> Int {
            if let known = features[join].firstIndex(of: feature) { return known }
            features[join].append(feature)
            return features[join].count - 1
        }
        outputs = wanted.map { $0.computation.numbered(place) }
        joins = try planJoins.enumerated().map { number, join in
            let view = catalog.views.firstIndex { $0 === join.view }!
            let empty = try runtimes[view].emptyEvaluation(asOf: AsOf(EventTime(microseconds: 0))).results
            return Join(
                view: view, featureNumbers: features[number], features: runtimes[view].evaluation(of: features[number]),
                empty: features[number].map { empty[$0] })
        }
    }

    /// The outputs from what the joins gave.
    package func finish(
        _ request: any Sendable, _ joined: (_ join: Int, _ result: Int) -> FeatureResult, into results: inout [FeatureResult]
    ) {
        results.removeAll(keepingCapacity: true)
        for output in outputs { results.append(output.result(request, joined)) }
    }
}
