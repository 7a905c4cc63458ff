import ExampleFeatures
import Testing
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirTesting

/// What is said of an answer, against a list of all events: values to the bit, and every count.
@Suite struct ExplanationTests {
    /// What happens to an event in a round of the test.
    private enum Fate: CaseIterable { case stored, stored2, stored3, stored4, both, session, twiceInSession }

    @Test(arguments: [0, 1, 2]) func countsAreThose(number: Int) throws {
        var random = SeededGenerator()
        let seed = random.seed
        print("countsAreThose(\(number)): WEIR_TEST_SEED=\(seed)")
        let catalog = try TimeTreeTests.catalog()
        let plan = catalog.views[number]
        var tiles = 0
        var totals = 0
        var reasons: Set<String> = []
        var knownEvents = 0
        for (count, headRows) in [(1, 64), (60, 64), (300, 0), (700, 3), (1_500, 64), (1_500, 20)] {
            let view = ViewRuntime(plan, leafRowsMax: 16, headRowsMax: headRows)
            let batch = TimeTreeTests.batch(catalog.streams[0], count, &random)
            var stored = EventRows(columns: plan.columns)
            var session = EventRows(columns: plan.columns)
            for row in 0..<batch.count {
                let isLate = row >= count - 30 || Int.random(in: 0..<50, using: &random) == 0
                let fate = isLate ? Fate.allCases.randomElement(using: &random)! : .stored
                if fate != .session, fate != .twiceInSession { stored.append(batch, view: number, row: row) }
                if fate == .both || fate == .session || fate == .twiceInSession { session.append(batch, view: number, row: row) }
                if fate == .twiceInSession { session.append(batch, view: number, row: row) }
            }
            stored = stored.sorted()
            session = session.sorted()
            let nodes = MemoryNodes()
            let tree = TimeTree(view: view, nodes: nodes)
            try tree.insertInAnyOrder(stored, of: count, using: &random)
            var keptFrom = Int64.min
            for round in 0..<60 {
                if round == 40, stored.count > 50 {
                    keptFrom = stored.times[stored.count / 2]
                    try tree.expire(before: keptFrom)
                }
                let base = Bool.random(using: &random) || session.isEmpty ? stored.times : session.times
                guard let near = base.randomElement(using: &random) else { continue }
                let moved = [0, 0, 1, TimeTreeTests.hour, 28 * 24 * TimeTreeTests.hour].randomElement(using: &random)!
                let asOf = AsOf(EventTime(microseconds: near + moved), isInclusive: Int.random(in: 0..<4, using: &random) == 0)
                let offered = Bool.random(using: &random) ? session : nil
                let wanted = Array(plan.features.indices).shuffled(using: &random).prefix(
                    Int.random(in: 1...plan.features.count, using: &random))
                let scratch = EvaluationScratch()
                let outcome = try view.evaluate(
                    view.evaluation(of: Array(wanted)), nodes: nodes, asOf: asOf, session: offered, keptFrom: keptFrom, scratch)
                #expect(outcome == nil || scratch.results.count == wanted.count)
                switch try view.explain(Array(wanted), nodes: nodes, asOf: asOf, session: offered, keptFrom: keptFrom) {
                case .failure(let gap):
                    #expect(outcome == nil, "seed \(seed): \(gap.reason)")
                    switch gap.reason {
                    case .window(let window, let start):
                        #expect(start < keptFrom && plan.windows[window].bounds(at: asOf.time)?.start.microseconds == start)
                    case .session(let window): #expect(plan.windows[window].kind == .session)
                    case .totals(_, let before): #expect(before == keptFrom && asOf.end < before)
                    case .sessionEvent(let before): #expect(before == keptFrom && session.times[0] < before)
                    case .unknownEntity, .recomputed: Issue.record("seed \(seed): \(gap.reason)")
                    }
                    reasons.insert("\(gap.reason)".prefix { $0 != "(" }.description)
                    // The history, from all rows.
                    let explained = try view.explain(Array(wanted), rows: stored, asOf: asOf, session: offered, keptFrom: .min)!
                    _ = try view.evaluate(view.evaluation(of: Array(wanted)), rows: stored, asOf: asOf, session: offered, scratch)
                    try check(explained, scratch, isHistory: true)
                case .success(let explained):
                    #expect(outcome?.isKnown == explained.isKnown && outcome?.knownSessionEvents == explained.session.known)
                    try check(explained, scratch, isHistory: false)
                    knownEvents += explained.session.known
                }

                func check(_ explained: Explanation, _ scratch: EvaluationScratch, isHistory: Bool) throws {
                    let place = "seed \(seed), \(count) events, \(asOf)"
                    #expect(explained.features.prefix(wanted.count).map(\.number) == Array(wanted), "\(place)")
                    #expect(
                        explained.features.prefix(wanted.count).map(\.result) == Array(scratch.results.prefix(wanted.count)), "\(place)")
                    let stored = stored.slice(0..<stored.lowerBound(asOf.end))
                    // What tiles can have: all but the head record.
                    var inTree = stored
                    if let leaf = try nodes.head().flatMap({ try HeadView($0, columns: plan.columns).leaf }) {
                        inTree = EventRows(columns: plan.columns)
                        for row in 0..<stored.count
                        where !stored.withID(row, { leaf.contains(time: stored.times[row], id: $0, tag: stored.tags[row]) }) {
                            inTree.append(stored, row: row)
                        }
                    }
                    // The session's events that are new, each once.
                    var overlay = EventRows(columns: plan.columns)
                    var known = 0
                    var seen: Set<[String]> = []
                    for row in 0..<(offered?.count ?? 0) where session.times[row] <= asOf.time.microseconds {
                        let id = session.withID(row) { String(decoding: $0, as: UTF8.self) }
                        // A copy of what has expired is in no window, and not looked for.
                        let isKept = isHistory || session.times[row] >= keptFrom
                        if isKept, session.withID(row, { stored.contains(time: session.times[row], id: $0, tag: session.tags[row]) }) {
                            known += 1
                        } else if seen.insert([id, "\(session.times[row])", "\(session.tags[row])"]).inserted {
                            overlay.append(session, row: row)
                        }
                    }
                    let all = offered?.count ?? 0
                    let later = offered?.times.count { $0 > asOf.time.microseconds } ?? 0
                    let part = explained.session
                    #expect(part.given == all && part.later == later && part.known == known && part.counted == overlay.count, "\(place)")
                    #expect(explained.latestEvent?.microseconds == (stored.times + overlay.times).max(), "\(place)")
                    for part in explained.windows {
                        let window = plan.windows[part.window]
                        if let bounds = window.bounds(at: asOf.time) {
                            #expect(part.start == bounds.start.microseconds, "\(place)")
                            let isClosed = window.kind == .tumbling(closed: true)
                            #expect(part.end == (isClosed ? bounds.end.microseconds : asOf.end), "\(place)")
                        } else {
                            #expect(part.start == sessionStart(stored.times + overlay.times, asOf, gap: window.length!), "\(place)")
                        }
                        func rows(_ rows: EventRows, from start: Int64, to end: Int64) -> Range<Int> {
                            rows.lowerBound(start)..<max(rows.lowerBound(start), rows.lowerBound(end))
                        }
                        let storedRows = rows(stored, from: part.start, to: part.end)
                        let sessionRows = rows(overlay, from: part.start, to: part.sessionEnd)
                        #expect(part.storedEvents == UInt64(storedRows.count), "\(place), \(part)")
                        #expect(part.sessionEvents == sessionRows.count, "\(place)")
                        #expect(isHistory ? part.historyEvents == storedRows.count : part.historyEvents == 0, "\(place)")
                        var end = part.start
                        for tile in (part.totals.map { [$0] } ?? []) + part.tiles {
                            #expect(tile.start >= end && tile.end <= part.end, "\(place)")
                            #expect(UInt64(rows(inTree, from: tile.start, to: tile.end).count) == tile.events, "\(place)")
                            if let level = tile.level { #expect(tile.end - tile.start == 1 << Int64(4 * level)) }
                            end = tile.end
                        }
                        for leaf in part.leaves {
                            #expect(leaf.events > 0 && leaf.events <= leaf.of && leaf.start < leaf.end)
                            #expect(part.tiles.allSatisfy { leaf.end <= $0.start || $0.end <= leaf.start })
                        }
                        tiles += part.tiles.count
                        totals += part.totals == nil ? 0 : 1
                        for feature in explained.features {
                            guard case .aggregate(let slot, part.window, _) = plan.features[feature.number].computation else { continue }
                            func passing(_ rows: EventRows, _ range: Range<Int>) -> Int {
                                range.count { row in
                                    let slot = plan.slots[slot]
                                    if let filter = slot.filter, rows.filterBits(row) & 1 << UInt64(filter) == 0 { return false }
                                    if let column = slot.column, rows.isNull(row, column: column) { return false }
                                    return true
                                }
                            }
                            var passed = passing(stored, storedRows) + passing(overlay, sessionRows)
                            for tile in part.tiles + (part.totals.map { [$0] } ?? []) {
                                passed -= passing(inTree, rows(inTree, from: tile.start, to: tile.end))
                            }
                            #expect(feature.usedEvents == passed, "\(place), \(plan.features[feature.number].name)")
                        }
                    }
                    let used = Set(
                        explained.features.compactMap { feature in
                            if case .aggregate(_, let window, _) = plan.features[feature.number].computation { window } else { nil }
                        })
                    #expect(Set(explained.windows.map(\.window)) == used, "\(place)")
                }
            }
        }
        // Else it would not be much of a test.
        #expect(knownEvents > 100)
        #expect(number != 0 || (tiles > 100 && totals > 0 && reasons.isSuperset(of: ["window", "sessionEvent"])), "\(totals) \(reasons)")
        #expect(number != 1 || reasons == ["session"], "\(reasons)")
    }

    /// Where the session begins that is open at a time; behind it where none is.
    private func sessionStart(_ times: [Int64], _ asOf: AsOf, gap: Int64) -> Int64 {
        var start = asOf.time.microseconds + 1
        var reach = asOf.time.microseconds - gap
        for time in times.sorted().reversed() {
            guard time >= reach else { break }
            start = min(start, time)
            reach = start - gap
        }
        return start
    }
}
