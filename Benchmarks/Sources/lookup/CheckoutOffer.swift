import Foundation
import Support

/// `checkout_offer` of the example: 24 features, of three views and on demand, with and without the events of a session. Redis is asked
/// for what it would hold instead: the views' features in three hashes, and the session's events in a list.
struct CheckoutOffer {
    private struct Purchase {
        var household: Int
        var basket: Int
        var store: Int
        var event: PricedEvent
    }

    private struct Request {
        var purchase: Purchase
        var session: [PricedEvent]
        var sessionJSON: [String]

        /// - Parameter session: whether the session's events go along.
        func command(session: Bool) -> [String] {
            let request = """
                {"household":\(purchase.household),"basket":\(purchase.basket),"store":\(purchase.store),"cart_value":20}
                """
            return ["FEATURES.GET", CheckoutOffer.service, request]
                + (session ? ["SESSION", "purchases", "[" + sessionJSON.joined(separator: ",") + "]"] : [])
        }
    }

    private static let service = "checkout_offer"
    private static let windows = [hour, 7 * day, 28 * day, Int64.max]
    /// Those that brute force knows.
    private static let checked = [
        "spend_1h", "spend_7d", "avg_price_28d", "spend_28d", "purchases_28d", "min_price_28d", "max_price_28d", "purchases_lifetime",
    ]
    private static func values(_ totals: [Totals]) -> [Double?] {
        let month = totals[2]
        return [totals[0].sum, totals[1].sum, month.mean, month.sum, Double(month.count), month.min, month.max, Double(totals[3].count)]
    }

    private let rounds: Int
    private let total: Int
    private let data: String
    private let redis: Server
    private let live: LiveStream
    private let events: [Int: [PricedEvent]]
    private let requests: [Request]
    /// The names of each view's features.
    private let names: [String: [String]]

    init(rounds: Int, requests total: Int, directory: String) throws {
        self.rounds = rounds
        self.total = total
        data = directory + "/data"
        let file = directory + "/purchases.csv"
        report("moving the purchases to now")
        let purchases = try Self.move(Support.purchases, to: file)
        report("Weir takes them in")
        _ = try run(weir, ["ingest", "purchases", file, "--data", data, "--unsynced"])
        events = Dictionary(grouping: purchases, by: \.household).mapValues { $0.map(\.event) }
        var random = SplitMix64(seed: 11)
        let now = wallClock() / 1_000
        requests = (0..<1_000).map { number in
            let purchase = purchases[Int(random.next() % UInt64(purchases.count))]
            let orders = (0..<5).map {
                GeneratedOrder(customer: purchase.household, time: now - 1_000 * Int64(5 - $0), cents: 250 + 100 * $0)
            }
            return Request(
                purchase: purchase, session: orders.map { PricedEvent($0) },
                sessionJSON: orders.enumerated().map { place, order in
                    var bytes: [UInt8] = []
                    Self.encode(order, id: "till-\(number)-\(place)", basket: purchase.basket, store: purchase.store, into: &bytes)
                    return String(decoding: bytes, as: UTF8.self)
                })
        }
        let last = Dictionary(purchases.map { ($0.household, $0) }, uniquingKeysWith: { $1 })
        let households = purchases.map(\.household)
        live = LiveStream(
            stream: "purchases", pick: { households[Int($0.next() % UInt64(households.count))] },
            encode: { order, number, bytes in
                let purchase = last[order.customer]!
                Self.encode(order, id: "live-\(number)", basket: purchase.basket, store: purchase.store, into: &bytes)
            })
        redis = try Server.redis(directory: directory)
        report("Redis takes over what Weir has")
        let source = try Server.weir(weir, data: data)
        defer { source.stop() }
        names = try Self.copy(
            from: Connection(port: source.port), to: Connection(port: redis.port),
            entities: [
                ("household_spend", Set(households)), ("basket_activity", Set(purchases.map(\.basket))),
                ("store_traffic", Set(purchases.map(\.store))),
            ])
        let connection = try Connection(port: redis.port)
        for request in requests {
            _ = try connection.ask(["DEL", "session:\(request.purchase.basket)"])
            guard case .integer(5) = try connection.ask(["RPUSH", "session:\(request.purchase.basket)"] + request.sessionJSON) else {
                throw BenchmarkFailure("Redis takes no session")
            }
        }
    }

    /// Writes the file anew, with times that end a minute ago.
    private static func move(_ source: String, to file: String) throws -> [Purchase] {
        let lines = try lines(of: source)
        var rows: [(fields: [Substring], time: Int)] = []
        for line in lines.dropFirst() {
            let fields = line.split(separator: ",", omittingEmptySubsequences: false)
            guard let text = fields.last, let time = try? Date(String(text), strategy: .iso8601) else {
                throw BenchmarkFailure("\(source) has a line without a time: \(line)")
            }
            rows.append((fields, Int(time.timeIntervalSince1970)))
        }
        let shift = Int(wallClock() / 1_000_000) - 60 - (rows.map(\.time).max() ?? 0)
        var text = String(lines[0]) + "\n"
        var purchases: [Purchase] = []
        for (fields, time) in rows {
            // A field in the middle may be quoted and hold commas: these are counted from both ends.
            guard let household = Int(fields[1]), let basket = Int(fields[2]), let store = Int(fields[3]),
                let price = Double(fields[fields.count - 4])
            else { throw BenchmarkFailure("\(source) has other columns") }
            let moved = Int64(time + shift)
            text += fields.dropLast().joined(separator: ",") + "," + timestamp(moved * 1_000) + "\n"
            purchases.append(
                Purchase(household: household, basket: basket, store: store, event: PricedEvent(time: moved * 1_000_000, price: price)))
        }
        try text.write(toFile: file, atomically: false, encoding: .utf8)
        return purchases
    }

    /// RFC 3339 of milliseconds since 1970.
    private static func timestamp(_ milliseconds: Int64) -> String {
        let seconds = Date(timeIntervalSince1970: Double(milliseconds / 1_000)).formatted(.iso8601)
        return seconds.dropLast() + ".\(String(milliseconds % 1_000 + 1_000).dropFirst())Z"
    }

    private static func encode(_ order: GeneratedOrder, id: String, basket: Int, store: Int, into bytes: inout [UInt8]) {
        let price = "\(order.cents / 100).\(order.cents % 100 < 10 ? "0" : "")\(order.cents % 100)"
        bytes +=
            """
            {"id":"\(id)","household":\(order.customer),"basket":\(basket),"store":\(store),"product":1,"department":"DELI","category":"",\
            "quantity":1,"price":\(price),"retail_discount":0,"coupon_discount":0,"event_time":"\(timestamp(order.time))"}
            """.utf8
    }

    /// Reads all features of the entities and writes them into hashes of the same names.
    private static func copy(
        from weir: Connection, to redis: Connection, entities: [(view: String, keys: Set<Int>)]
    ) throws -> [String: [String]] {
        var names: [String: [String]] = [:]
        for (view, keys) in entities {
            for key in keys {
                let items = try weir.ask(["HGETALL", "\(view):\(key)"]).items()
                var command = ["HSET", "\(view):\(key)"]
                for index in stride(from: 0, to: items.count, by: 2) {
                    if let name = items[index].text, let value = items[index + 1].text { command += [name, value] }
                }
                guard case .integer(1...) = try redis.ask(command) else { throw BenchmarkFailure("Redis does not take \(command)") }
                names[view] = stride(from: 0, to: items.count, by: 2).compactMap { items[$0].text }
            }
        }
        return names
    }

    private func check(_ server: Server, session: Bool) throws {
        let connection = try Connection(port: server.port)
        guard server.name == "weir" else { return try checkRedis(connection, session: session) }
        var answers = Answers()
        for request in requests {
            let household = request.purchase.household
            let events = (events[household] ?? []) + (session ? request.session : [])
            try answers.read(request.command(session: session), from: connection, key: household, events: events[...]) { items in
                try Self.checked.map { name in
                    guard let place = items.firstIndex(where: { $0.text == name }), place % 2 == 0 else {
                        throw BenchmarkFailure("\(name) is missing")
                    }
                    return items[place + 1]
                }
            }
        }
        try answers.check(Self.windows, live: live, values: Self.values)
    }

    /// Redis holds something for each of the reads.
    private func checkRedis(_ connection: Connection, session: Bool) throws {
        for request in requests {
            try connection.send(try redisReads(request, session: session))
            for place in 0..<(session ? 4 : 3) {
                let items = try connection.reply().items()
                guard place < 3 ? items.contains(where: { $0.text != nil }) : items.count == request.session.count else {
                    throw BenchmarkFailure("Redis has no values for \(request.command(session: false))")
                }
            }
        }
    }

    /// The reads that one request replaces, as one write.
    private func redisReads(_ request: Request, session: Bool) throws -> [UInt8] {
        var bytes: [UInt8] = []
        for (view, key) in [
            ("household_spend", request.purchase.household), ("basket_activity", request.purchase.basket),
            ("store_traffic", request.purchase.store),
        ] {
            append(command: ["HMGET", "\(view):\(key)"] + (names[view] ?? []), to: &bytes)
        }
        if session { append(command: ["LRANGE", "session:\(request.purchase.basket)", "0", "-1"], to: &bytes) }
        return bytes
    }

    func compare() throws -> [String: Any] {
        defer { redis.stop() }
        let rows = try [("without_session", false), ("session_of_5_events", true)].map { name, session in
            Row(
                name: name,
                weir: .saturate(
                    connections: 50, total: total, requests: requests.map { encodedCommand($0.command(session: session)) },
                    repliesPerRequest: 1),
                redis: .saturate(
                    connections: 50, total: total, requests: try requests.map { try redisReads($0, session: session) },
                    repliesPerRequest: session ? 4 : 3))
        }
        return try Contest(
            rounds: rounds, redis: redis, live: live, startWeir: { try Server.weir(weir, data: data, threads: $0) },
            check: { server, row in try check(server, session: row.name.hasPrefix("session")) }
        ).run(rows)
    }
}
