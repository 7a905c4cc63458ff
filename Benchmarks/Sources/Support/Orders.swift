import Foundation

/// One order as it stands in a file or is pushed. Times are milliseconds since 1970, the price is in cents.
public struct GeneratedOrder: Sendable {
    public var customer: Int
    public var time: Int64
    public var cents: Int

    public init(customer: Int, time: Int64, cents: Int) {
        self.customer = customer
        self.time = time
        self.cents = cents
    }

    /// As JSON, in the form that Weir's stream `orders` has.
    public func encode(into bytes: inout [UInt8]) {
        bytes.append("{\"customer\":")
        bytes.append(decimal: customer)
        bytes.append(",\"event_time\":")
        bytes.append(decimal: Int(time))
        bytes.append(",\"price\":")
        bytes.append(cents: cents)
        bytes.append("}")
    }
}

/// Orders over some days, times growing evenly and up to five seconds out of order. The same seed gives the same orders.
public struct OrderGenerator: Sequence, IteratorProtocol, Sendable {
    public enum Spread: Sendable {
        /// The busiest tenth of the customers has about half of the orders.
        case skewed
        /// As many orders for each customer, evenly over the time; the customers' order is mixed.
        case even
    }

    private let events: UInt64
    private let customers: UInt64
    private let start: UInt64
    private let span: UInt64
    private let spread: Spread
    private var number: UInt64 = 0
    private var random: SplitMix64

    /// - Parameter start: in milliseconds since 1970; the last order is at most five seconds after `start` and the days.
    public init(events: Int, customers: Int, start: Int64, days: Int, seed: UInt64, spread: Spread = .skewed) {
        self.events = UInt64(events)
        self.customers = UInt64(customers)
        self.start = UInt64(start)
        span = UInt64(days) * 86_400_000
        self.spread = spread
        random = SplitMix64(seed: seed)
    }

    public mutating func next() -> GeneratedOrder? {
        guard number < events else { return nil }
        let customer =
            switch spread {
            case .skewed: UInt64(random.nextSkewed(below: Int(customers)))
            // A prime that no number of customers here is a multiple of.
            case .even: number % customers * 7_368_787 % customers
            }
        let inOrder = start + number * span / events + 5_000
        let cents = 1 + random.next() % 20_000
        number += 1
        return GeneratedOrder(customer: Int(customer), time: Int64(inOrder - random.next() % 5_000), cents: Int(cents))
    }
}

extension SplitMix64 {
    /// From 0 and below `count`, small ones more often: the cube of an even number.
    public mutating func nextSkewed(below count: Int) -> Int {
        let uniform = Double(next() >> 11) / 9_007_199_254_740_992
        return Int(uniform * uniform * uniform * Double(count))
    }
}

extension [UInt8] {
    public mutating func append(_ text: StaticString) {
        append(contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    /// With two decimals.
    public mutating func append(cents: Int) {
        append(decimal: cents / 100)
        append(cents % 100 < 10 ? ".0" : ".")
        append(decimal: cents % 100)
    }

    public mutating func append(decimal value: Int) {
        if value >= 10 { append(decimal: value / 10) }
        append(UInt8(48 + value % 10))
    }
}

/// Writes lines to a file, many at once.
public struct LineWriter {
    private let file: UnsafeMutablePointer<FILE>
    private var buffer: [UInt8] = []

    public init(_ path: String) throws {
        guard let file = fopen(path, "w") else { throw BenchmarkFailure("cannot write \(path)") }
        self.file = file
        buffer.reserveCapacity(1 << 20)
    }

    public mutating func append(_ order: GeneratedOrder) throws {
        try append { bytes in
            order.encode(into: &bytes)
            bytes.append("\n")
        }
    }

    public mutating func append(_ text: StaticString) throws { try append { $0.append(text) } }

    /// - Parameter encode: adds to the bytes that it is given.
    public mutating func append(_ encode: (inout [UInt8]) -> Void) throws {
        encode(&buffer)
        if buffer.count > 1 << 19 { try flush() }
    }

    /// Must be called at the end.
    public mutating func flush() throws {
        guard fwrite(buffer, 1, buffer.count, file) == buffer.count, fflush(file) == 0 else { throw BenchmarkFailure("cannot write") }
        buffer.removeAll(keepingCapacity: true)
    }
}
