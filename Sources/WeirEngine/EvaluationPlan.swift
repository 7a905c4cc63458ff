import WeirAlgebra
import WeirDefinitions

/// How some of a view's features are evaluated together.
package final class EvaluationPlan: Sendable {
    /// Windows that end at the same time.
    struct Chain: Sendable {
        /// Of the view's windows.
        let windows: [Int]
        /// Of a window that ends elsewhere than at the time asked for: a closed one, or a label's.
        let isClosed: Bool
        let slots: [SlotEvaluator]
    }

    struct DerivedFeature: Sendable {
        let result: Int
        /// Places among the results.
        let inputs: [Int]
        let compute: @Sendable ([FeatureValue]) -> FeatureValue
    }

    /// Of the view's columns, those that it reads.
    package let columns: Set<Int>
    /// Whether it looks at the events' ids.
    package let usesIDs: Bool
    package let usesFilters: Bool
    let chains: [Chain]
    let derived: [DerivedFeature]
    /// The features that were asked for; further results are what derived ones are computed from.
    package let count: Int
    let resultCount: Int

    init(_ plan: ViewPlan, _ runners: [SlotRunner], features: [Int]) {
        // A feature that is asked for twice is evaluated twice.
        var evaluated = features
        var derived: [DerivedFeature] = []
        var index = 0
        while index < evaluated.count {
            if case .derived(let inputs, let compute) = plan.features[evaluated[index]].computation {
                let places = inputs.map { input in
                    if let known = evaluated.firstIndex(of: input) { return known }
                    evaluated.append(input)
                    return evaluated.count - 1
                }
                derived.append(DerivedFeature(result: index, inputs: places, compute: compute))
            }
            index += 1
        }
        count = features.count
        resultCount = evaluated.count
        // A derived feature's inputs come before it in the view.
        self.derived = derived.sorted { evaluated[$0.result] < evaluated[$1.result] }

        func isClosed(_ window: Int) -> Bool { [.tumbling(closed: true), .following].contains(plan.windows[window].kind) }
        var slots: [(slot: Int, feature: SlotFeature)] = []
        for (result, number) in evaluated.enumerated() {
            if case .aggregate(let slot, let window, let aggregation) = plan.features[number].computation {
                slots.append((slot, SlotFeature(window: window, result: result, aggregation: aggregation)))
            }
        }
        let usedSlots = Set(slots.map(\.slot)).map { plan.slots[$0] }
        columns = Set(usedSlots.compactMap(\.column))
        usesIDs = usedSlots.contains { type(of: $0.accumulation).usesIDs }
        usesFilters = usedSlots.contains { $0.filter != nil }
        func chain(_ windows: [Int], isClosed: Bool) -> Chain {
            let evaluators = runners.indices.compactMap { slot in
                let features = slots.filter { $0.slot == slot && windows.contains($0.feature.window) }.map(\.feature)
                return features.isEmpty ? nil : runners[slot].evaluator(features)
            }
            return Chain(windows: windows, isClosed: isClosed, slots: evaluators)
        }
        let used = Set(slots.map(\.feature.window)).sorted()
        let open = used.filter { !isClosed($0) }
        chains =
            (open.isEmpty ? [] : [chain(open, isClosed: false)]) + used.filter(isClosed).map { chain([$0], isClosed: true) }
    }
}
