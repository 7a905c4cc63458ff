import Weir

/// One line of a receipt.
public struct Purchase: Event {
    public static let stream = "purchases"
    public var id: String
    public var household: Int
    /// One visit to a store: the session.
    public var basket: Int
    public var store: Int
    public var product: Int
    public var department: String
    public var category: String
    public var quantity: Int
    /// What was paid for the line.
    public var price: Double
    public var retailDiscount: Double
    public var couponDiscount: Double
    public var eventTime: EventTime
}

public enum Household: Entity {
    public typealias ID = Int
    public static let name = "household"
}

public enum Basket: Entity {
    public typealias ID = Int
    public static let name = "basket"
}

public enum Store: Entity {
    public typealias ID = Int
    public static let name = "store"
}
