import Testing
import Weir
import WeirDefinitions
import WeirEngine
import WeirTesting

private enum Reader: Entity {
    typealias ID = Int
    static let name = "reader"
}

private struct Loan: Event {
    static let stream = "loans"
    var id: String
    var reader: Int
    var pages: Double
    var shelf: String
    var eventTime: EventTime
}

/// Definitions are types, so they read their time to live where they are made.
private enum Life {
    @TaskLocal static var current: Duration?
}

private struct Reading: FeatureView {
    typealias Subject = Reader
    static let name = "reading"
    static var timeToLive: Duration? { Life.current }
    static func key(of loan: Loan) -> Int? { loan.reader }

    let pages1h = Aggregate.sum(\.pages, over: .sliding(.hours(1)))
    let loans6h = Aggregate.count(over: .hopping(.hours(6), every: .hours(1)))
    let pagesNow = Aggregate.sum(\.pages, over: .tumbling(.hours(2)))
    let pagesBefore = Aggregate.sum(\.pages, over: .tumbling(.hours(2)).previous)
    let visit = Aggregate.count(over: .session(gap: .hours(2)))
    let visitPages = Aggregate.sum(\.pages, over: .session(gap: .hours(2)))
    let firstShelf = Aggregate.first(\.shelf)
    let lastShelf = Aggregate.last(\.shelf)
    let lastThree = Aggregate.last(3, \.shelf)
    let all = Aggregate.count(over: .lifetime)
    let pages = Aggregate.mean(\.pages, over: .lifetime)
    let fiction = Aggregate.count(over: .lifetime).where { $0.shelf == "fiction" }
    let shelves = Aggregate.distinctCount(\.shelf, over: .lifetime)
    let decayed = Aggregate.decayedSum(\.pages, halfLife: .hours(3), over: .lifetime)
    let perLoan = Derived(\Reading.pages1h, \Reading.all) { pages, loans in pages / Double(loans) }
}

private struct Builder {
    @CatalogBuilder var catalog: Catalog { Reading.self }
}

private func catalog(_ timeToLive: Duration?) throws -> CatalogPlan {
    try Life.$current.withValue(timeToLive) { try CatalogPlan(Builder().catalog) }
}

private let start: Int64 = 1_700_000_000_000_000
private let hour: Int64 = 3_600_000_000

/// At a time `t` the events of `[t − time to live, t)` count: as in a view without time to live that has seen no others.
@Suite struct TimeToLiveTests {
    private static func rows(_ stream: any StreamPlan, _ count: Int, _ random: inout SeededGenerator) -> EventRows {
        var parser = JSONRecordParser(schema: stream.schema)
        var records = RecordBatch(schema: stream.schema)
        var time = start
        for number in 0..<count {
            // Bursts, ties, and silences that are as long as events live.
            switch Int.random(in: 0..<12, using: &random) {
            case 0: time += Int64.random(in: 0...8, using: &random) * hour
            case 1: time += 0
            case 2: time += 12 * hour
            default: time += Int64.random(in: 1...1_800_000_000, using: &random)
            }
            let shelf = ["fiction", "maps", "", "law"].randomElement(using: &random)!
            let json = """
                {"id":"l\(count - number)","reader":1,"pages":\(Double(Int.random(in: 0...90_000, using: &random)) / 100),\
                "shelf":"\(shelf)","event_time":"\(TimeText.format(EventTime(microseconds: time)))"}
                """
            parser.append(Array(json.utf8), to: &records, offset: Int64(number))
        }
        let batch = stream.prepare(records)
        #expect(batch.records.malformed.isEmpty)
        var rows = EventRows(columns: stream.views[0].columns)
        for row in 0..<batch.count { rows.append(batch, view: 0, row: row) }
        return rows.sorted()
    }

    /// Whatever the store looks like, in whatever order events came, what has expired in it, with sessions and without: the same bits.
    @Test func valuesAreThoseOfTheEventsThatLive() throws {
        var random = SeededGenerator()
        let seed = random.seed
        print("valuesAreThoseOfTheEventsThatLive: WEIR_TEST_SEED=\(seed)")
        let endless = try catalog(nil)
        let naive = ViewRuntime(endless.views[0])
        var fromHistory = 0
        var unknown = 0
        var known = 0
        for (count, headRows) in [(1, 64), (40, 64), (300, 0), (500, 3), (900, 64)] {
            let life = [7 * hour, 12 * hour, 12 * hour + 1, 72 * hour].randomElement(using: &random)!
            let plan = try catalog(.microseconds(life)).views[0]
            let view = ViewRuntime(plan, leafRowsMax: 8, headRowsMax: headRows)
            let all = Self.rows(endless.streams[0], count, &random)
            var stored = EventRows(columns: plan.columns)
            var session = EventRows(columns: plan.columns)
            for row in 0..<all.count {
                let fate = Int.random(in: 0..<20, using: &random)
                if fate != 0 { stored.append(all, row: row) }
                if fate < 2 { session.append(all, row: row) }
            }
            let nodes = MemoryNodes()
            let tree = TimeTree(view: view, nodes: nodes)
            try tree.insertInAnyOrder(stored, of: count, using: &random)
            var keptFrom = Int64.min
            for round in 0..<160 {
                if round == 80, stored.count > 20 {
                    keptFrom = stored.times[stored.count / 3]
                    try tree.expire(before: keptFrom)
                    #expect(nodes.base() == nil, "totals of what no longer lives")
                }
                let near = all.times.randomElement(using: &random)!
                let moved = [0, 1, hour, life - 1, life, life + 1].randomElement(using: &random)!
                let asOf = AsOf(EventTime(microseconds: near + moved), isInclusive: Int.random(in: 0..<4, using: &random) == 0)
                let liveFrom = asOf.time.microseconds - life
                let offered = Bool.random(using: &random) ? session : nil
                func alive(_ rows: EventRows) -> EventRows { rows.slice(rows.lowerBound(liveFrom)..<rows.count) }
                let place = "seed \(seed), \(count) events, life \(life), \(asOf), kept from \(keptFrom), session \(offered != nil)"

                let expected = try naive.evaluate(rows: alive(stored), asOf: asOf, session: offered.map(alive))
                let stands =
                    stored.times.contains { $0 >= liveFrom && $0 < asOf.end }
                    || offered?.times.contains { $0 >= liveFrom && $0 <= asOf.time.microseconds } == true
                var results = expected.results
                for index in results.indices where !stands { results[index].status = .notFound }
                if stands { known += 1 } else { unknown += 1 }

                let fromRows = try view.evaluate(rows: stored, asOf: asOf, session: offered)
                #expect(fromRows.results.map(\.value) == results.map(\.value), "\(place)")
                #expect(fromRows.isKnown == stands && (fromRows.latestEvent != nil) == stands, "\(place)")
                if !stands { #expect(fromRows.results.allSatisfy { $0.status == .notFound }, "\(place)") }
                let reached = stored.slice(stored.lowerBound(view.earliestKnown(asOf: asOf))..<stored.lowerBound(asOf.end))
                #expect(try view.evaluate(rows: reached, asOf: asOf, session: offered).results == fromRows.results, "\(place)")

                guard let got = try view.evaluate(nodes: nodes, asOf: asOf, session: offered, keptFrom: keptFrom) else {
                    // Only where something that lives may be gone.
                    #expect(liveFrom < keptFrom, "\(place)")
                    fromHistory += 1
                    continue
                }
                #expect(got.results == fromRows.results, "\(place)")
                #expect(got.latestEvent == fromRows.latestEvent && got.isKnown == stands, "\(place)")
                #expect(got.knownSessionEvents == fromRows.knownSessionEvents || keptFrom > .min, "\(place)")
                // What is explained is what is answered.
                guard
                    case .success(let explained) = try view.explain(
                        Array(plan.features.indices), nodes: nodes, asOf: asOf, session: offered, keptFrom: keptFrom)
                else {
                    Issue.record("\(place): answered, and not explained")
                    continue
                }
                #expect(explained.features.map(\.result) == got.results && explained.latestEvent == got.latestEvent, "\(place)")
                #expect(explained.session.expired == (offered?.times.count { $0 < liveFrom } ?? 0), "\(place)")
                #expect(explained.windows.allSatisfy { $0.start >= liveFrom }, "\(place)")
            }
        }
        #expect(fromHistory > 20 && unknown > 20 && known > 200, "\(fromHistory), \(unknown), \(known)")
    }

    /// Exact to the microsecond.
    @Test func anEventLivesExactlySoLong() throws {
        let test = try Life.$current.withValue(.hours(7)) { try FeatureTest { Reading.self } }
        let born = EventTime(microseconds: start)
        try test.add([Loan(id: "1", reader: 7, pages: 2.5, shelf: "maps", eventTime: born)])
        func value(_ feature: String, after microseconds: Int64) throws -> FeatureValue {
            try test.value(of: feature, in: "reading", key: "7", at: born.advanced(by: microseconds))
        }
        #expect(try value("all", after: 0) == .int(0))
        #expect(try value("all", after: 1) == .int(1))
        #expect(try value("all", after: 7 * hour) == .int(1))
        #expect(try value("last_shelf", after: 7 * hour) == .string("maps"))
        #expect(try value("all", after: 7 * hour + 1) == .int(0))
        #expect(try value("last_shelf", after: 7 * hour + 1) == .null)
        #expect(try value("last_three", after: 7 * hour + 1) == .list([]))
    }

    /// A session that goes on for longer than its events live is cut.
    @Test func longSessionsAreCut() throws {
        let test = try Life.$current.withValue(.hours(7)) { try FeatureTest { Reading.self } }
        // An event an hour for a day: one session.
        try test.add(
            (0..<24).map { Loan(id: "\($0)", reader: 7, pages: 1, shelf: "law", eventTime: EventTime(microseconds: start + $0 * hour)) })
        let value = try test.value(of: "visit", in: "reading", key: "7", at: EventTime(microseconds: start + 23 * hour + 1))
        // Those of 17 to 23 o'clock.
        #expect(value == .int(7))
    }

    @Test func windowsThatHoldMoreThanLivesAreRefused() throws {
        // 7 hours: a hopping window of 6 in steps of one.
        #expect(throws: Never.self) { try catalog(.hours(7)) }
        for (life, named) in [
            (Duration.hours(7) - .microseconds(1), "hopping(21600000000,3600000000)"), (.hours(3), "hopping(21600000000,3600000000)"),
            (.seconds(0), "positive"), (.seconds(-1), "positive"), (.nanoseconds(1), "whole number"),
        ] {
            let error = #expect(throws: DefinitionError.self) { try catalog(life) }
            #expect(error?.description.contains(named) == true, "\(error?.description ?? "")")
        }
    }

    private struct Next: FeatureView {
        typealias Subject = Reader
        static let name = "next"
        static var timeToLive: Duration? { .days(30) }
        static func key(of loan: Loan) -> Int? { loan.reader }
        let loansNext7d = Aggregate.count(over: .following(.days(7)))
    }

    @Test func labelsHaveNone() {
        struct Labels { @CatalogBuilder var catalog: Catalog { Next.self } }
        let error = #expect(throws: DefinitionError.self) { try CatalogPlan(Labels().catalog) }
        #expect(error?.description.contains("labels") == true)
    }

    /// Stores of views without one are as they were; with another one they are refused, and made anew.
    @Test func itIsPartOfTheDefinition() throws {
        let endless = try catalog(nil)
        #expect(endless.views[0].definition.hasPrefix("view reading of reader (int) from loans\n"), "\(endless.views[0].definition)")
        let living = try catalog(.days(30))
        #expect(living.views[0].definition.hasPrefix("view reading of reader (int) from loans, time to live 2592000000000\n"))
        func changes(_ old: CatalogPlan, _ new: CatalogPlan) -> DefinitionChanges {
            let online = (["shards 2"] + old.streams.map(\.identityDefinition) + old.views.map(\.definition)).joined(separator: "\n")
            return DefinitionChanges(
                online: online, history: Dictionary(uniqueKeysWithValues: old.streams.map { ($0.name, $0.definition) }), catalog: new)
        }
        for (old, new) in [(endless, living), (living, endless), (living, try catalog(.days(60)))] {
            let changes = changes(old, new)
            #expect(changes.views.map { "\($0.kind) \($0.name)" } == ["changed reading"] && changes.features.isEmpty)
            #expect(changes.consequence == .rebuild)
        }
        #expect(changes(living, living).consequence == .none)
    }
}
