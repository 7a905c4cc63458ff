import Testing
import WeirRecords
import WeirTesting

@Suite struct WireNameTests {
    @Test(arguments: [
        ("avgPrice28d", "avg_price_28d"), ("spend1h", "spend_1h"), ("p90Price90d", "p90_price_90d"),
        ("avgPrice90dDaily", "avg_price_90d_daily"), ("eventTime", "event_time"), ("userID", "user_id"),
        ("HTTPServer", "http_server"), ("lastFive", "last_five"), ("storeBaskets1h", "store_baskets_1h"),
        ("spend30min", "spend_30min"), ("delay5ms", "delay_5ms"), ("delay5us", "delay_5us"), ("spend2w", "spend_2w"),
        ("spend3mo", "spend_3mo"), ("spend1y", "spend_1y"), ("spend10s", "spend_10s"), ("spend5m", "spend_5m"),
        // No unit, or letters that only begin like one: no word of their own.
        ("top3", "top3"), ("md5sum", "md5sum"), ("utf8", "utf8"), ("vitaminB12", "vitamin_b12"),
        ("p90Price", "p90_price"),
        ("CheckoutOffer", "checkout_offer"), ("id", "id"), ("ID", "id"), ("x", "x"), ("", ""), ("28d", "28d"),
        ("event_time", "event_time"), ("avg_price_28d", "avg_price_28d"), ("_private", "_private"), ("größe", "größe"),
    ])
    func names(swift: String, wire: String) { #expect(wireName(swift) == wire) }

    /// Names of fields that have been mapped already stay, for words in any order with amounts of time between them.
    @Test func aWireNameIsItsOwnWireName() {
        var random = SeededGenerator("aWireNameIsItsOwnWireName")
        let words = ["Avg", "Price", "HTTP", "Daily", "X", "P90", "Größe", "Mo"]
        for _ in 0..<20_000 {
            let name = (0..<Int.random(in: 1...4, using: &random)).map { _ in
                let amount =
                    random.chance(2)
                    ? "\(Int.random(in: 0...99, using: &random))\(["d", "h", "min", "mo", "us"].randomElement(using: &random)!)"
                    : ""
                return words.randomElement(using: &random)! + amount
            }.joined()
            let wire = wireName(name)
            #expect(wire.allSatisfy { !$0.isUppercase })
            #expect(wireName(wire) == wire, "of \(name)")
        }
    }
}
