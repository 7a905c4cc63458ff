import Support

/// The orders that both servers get, by customer.
struct OrderLog {
    let customers: Int
    let count: Int
    private var events: [PricedEvent]
    /// Where each customer's events begin, and the last one's end.
    private var offsets: [Int]

    /// Makes orders of the last 28 days, ending now, and writes them to a file of JSON Lines in the order of time.
    init(customers: Int, events count: Int, spread: OrderGenerator.Spread, to path: String) throws {
        self.customers = customers
        self.count = count
        let days = 28
        let generator = OrderGenerator(
            events: count, customers: customers, start: wallClock() / 1_000 - Int64(days) * 86_400_000 - 5_000, days: days, seed: 1,
            spread: spread)
        var writer = try LineWriter(path)
        offsets = [Int](repeating: 0, count: customers + 1)
        for order in generator {
            try writer.append(order)
            offsets[order.customer + 1] += 1
        }
        try writer.flush()
        for customer in 0..<customers { offsets[customer + 1] += offsets[customer] }
        var next = offsets
        events = [PricedEvent](repeating: PricedEvent(time: 0, price: 0), count: count)
        for order in generator {
            events[next[order.customer]] = PricedEvent(order)
            next[order.customer] += 1
        }
    }

    subscript(customer: Int) -> ArraySlice<PricedEvent> { events[offsets[customer]..<offsets[customer + 1]] }

    /// The ten features, as of a time after all of the orders.
    func values(of customer: Int, at time: Int64) -> [Double?] {
        var sliding = SlidingTotals(CustomerSpend.windows, at: time)
        for event in self[customer] { sliding.add(event) }
        return CustomerSpend.values(sliding.totals)
    }
}

extension PricedEvent {
    /// A price of cents as JSON has it: the quotient is the double that is nearest to the decimal number.
    init(_ order: GeneratedOrder) {
        self.init(time: order.time * 1_000, price: Double(order.cents) / 100)
    }
}
