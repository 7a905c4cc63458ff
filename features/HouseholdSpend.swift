import Weir

/// What a household spends, and on what.
public struct HouseholdSpend: FeatureView {
    public typealias Subject = Household
    public static func key(of purchase: Purchase) -> Household.ID? { purchase.household }

    let avgPrice28d = Aggregate.mean(\.price, over: .sliding(.days(28)))
    let spend28d = Aggregate.sum(\.price, over: .sliding(.days(28)))
    let purchases28d = Aggregate.count(over: .sliding(.days(28)))
    let minPrice28d = Aggregate.min(\.price, over: .sliding(.days(28)))
    let maxPrice28d = Aggregate.max(\.price, over: .sliding(.days(28)))
    let stddevPrice28d = Aggregate.standardDeviation(\.price, over: .sliding(.days(28)))
    let medianPrice28d = Aggregate.quantile(0.5, of: \.price, over: .sliding(.days(28)))
    let baskets28d = Aggregate.distinctCount(\.basket, over: .sliding(.days(28)))
    let grocerySpend28d = Aggregate.sum(\.price, over: .sliding(.days(28))).where { $0.department == "GROCERY" }
    let topDepartments28d = Aggregate.topK(3, \.department, over: .sliding(.days(28)))
    let spend7d = Aggregate.sum(\.price, over: .sliding(.days(7)))
    let spend1h = Aggregate.sum(\.price, over: .sliding(.hours(1)))
    let spendToday = Aggregate.sum(\.price, over: .tumbling(.days(1)))
    let avgPrice90dDaily = Aggregate.mean(\.price, over: .hopping(.days(90), every: .days(1)))
    let lastDepartment = Aggregate.last(\.department)
    let lastFiveDepartments = Aggregate.last(5, \.department)
    let purchasesLifetime = Aggregate.count(over: .lifetime)
    let priceVsUsual = Derived(\HouseholdSpend.spend1h, \HouseholdSpend.avgPrice28d) { spend, mean in spend / mean }

    public init() {}
}
