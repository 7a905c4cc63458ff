import Testing
import Weir
import WeirDefinitions

private enum Shopper: Entity {
    typealias ID = Int
    static let name = "shopper"
}

private enum Before {
    struct Sale: Event {
        static let stream = "sales"
        var id: String
        var shopper: Int
        var price: Double
        var eventTime: EventTime
    }

    struct Spend: FeatureView {
        typealias Subject = Shopper
        static let name = "spend"
        static func key(of sale: Sale) -> Int? { sale.shopper }
        let spend1d = Aggregate.sum(\.price, over: .sliding(.days(1)))
        let sales1d = Aggregate.count(over: .sliding(.days(1)))
        let lastPrice = Aggregate.last(\.price)
    }

    struct Builder {
        @CatalogBuilder var catalog: Catalog { Spend.self }
    }
}

/// The same view with a longer window, a new feature and one gone; the event has a new optional field.
private enum After {
    struct Sale: Event {
        static let stream = "sales"
        var id: String
        var shopper: Int
        var price: Double
        var coupon: String?
        var eventTime: EventTime
    }

    struct Spend: FeatureView {
        typealias Subject = Shopper
        static let name = "spend"
        static func key(of sale: Sale) -> Int? { sale.shopper }
        let spend1d = Aggregate.sum(\.price, over: .sliding(.days(2)))
        let sales1d = Aggregate.count(over: .sliding(.days(1)))
        let spend90d = Aggregate.sum(\.price, over: .sliding(.days(90)))
    }

    struct Builder {
        @CatalogBuilder var catalog: Catalog { Spend.self }
    }
}

/// A required field, and another view: other identities.
private enum Otherwise {
    struct Sale: Event {
        static let stream = "sales"
        var id: String
        var shopper: Int
        var price: Double
        var till: Int
        var eventTime: EventTime
    }

    struct Tills: FeatureView {
        typealias Subject = Shopper
        static let name = "tills"
        static func key(of sale: Sale) -> Int? { sale.till }
        let sales = Aggregate.count(over: .lifetime)
    }

    struct Builder {
        @CatalogBuilder var catalog: Catalog { Tills.self }
    }
}

/// What differs between a store's definitions and the code's, and what that takes.
@Suite struct DefinitionChangesTests {
    private static func changes(from old: Catalog, to new: Catalog) throws -> DefinitionChanges {
        let old = try CatalogPlan(old)
        let online = (["shards 2"] + old.streams.map(\.identityDefinition) + old.views.map(\.definition)).joined(separator: "\n")
        return DefinitionChanges(
            online: online, history: Dictionary(uniqueKeysWithValues: old.streams.map { ($0.name, $0.definition) }),
            catalog: try CatalogPlan(new))
    }

    @Test func nothingDiffers() throws {
        let changes = try Self.changes(from: Before.Builder().catalog, to: Before.Builder().catalog)
        #expect(changes.streams.isEmpty && changes.views.isEmpty && changes.features.isEmpty)
        #expect(changes.consequence == .none)
    }

    @Test func featuresComeChangeAndGo() throws {
        let changes = try Self.changes(from: Before.Builder().catalog, to: After.Builder().catalog)
        #expect(
            changes.features.map { "\($0.kind) \($0.name)" } == [
                "changed spend.spend_1d", "added spend.spend_90d", "removed spend.last_price",
            ])
        #expect(changes.features[0].stored == "double = sum(price) over sliding(86400000000)")
        #expect(changes.features[0].code == "double = sum(price) over sliding(172800000000)")
        #expect(changes.views.isEmpty)
        #expect(changes.streams.map { "\($0.kind) \($0.name)" } == ["changed sales"])
        #expect(changes.consequence == .rebuild)
    }

    @Test func whatTheHistoryCannotTake() throws {
        let changes = try Self.changes(from: Before.Builder().catalog, to: Otherwise.Builder().catalog)
        #expect(changes.views.map { "\($0.kind) \($0.name)" } == ["added tills", "removed spend"])
        #expect(changes.consequence == .ingestAgain)
    }
}
