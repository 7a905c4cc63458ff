import Foundation
import Testing
import Weir
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirPipeline
import WeirRecords

private enum Person: Entity {
    typealias ID = String
    static let name = "person"
}

private struct Visit: Event {
    enum Page: String, Codable, Sendable, CaseIterable { case home, cart }
    static let stream = "visits"
    static var timestampUnit: TimestampUnit? { .seconds }
    static var lateness: Duration? { .hours(1) }
    var id: String
    var person: String
    var page: Page
    var eventTime: EventTime

    static func json(_ id: String, person: String = "p", page: String = "home", time: String = "1700000000") -> String {
        #"{"id":"\#(id)","person":"\#(person)","page":"\#(page)","event_time":\#(time)}"#
    }
}

private struct Visits: FeatureView {
    typealias Subject = Person
    static func key(of visit: Visit) -> String? { visit.person }
    static var closedWindows: ClosedWindows? { ClosedWindows(allowedLateness: .hours(2)) }
    let perHour = Aggregate.count(over: .tumbling(.hours(1)))
    let perDay = Aggregate.count(over: .hopping(.days(1), every: .hours(6)))
    let perSession = Aggregate.count(over: .session(gap: .minutes(30)))
    let total = Aggregate.count(over: .lifetime)
}

/// Computes what its views read.
private struct Ratio: Event {
    static let stream = "ratios"
    var id: String
    var person: String
    var part: Double
    var whole: Double
    var eventTime: EventTime
    var ratio: Double { part / whole }
}

private struct Ratios: FeatureView {
    typealias Subject = Person
    static func key(of ratio: Ratio) -> String? { ratio.person }
    let sum = Aggregate.sum(\.ratio, over: .lifetime)
    let mean = Aggregate.mean(\.ratio, over: .lifetime)
    let deviation = Aggregate.standardDeviation(\.ratio, over: .lifetime)
    let median = Aggregate.quantile(0.5, of: \.ratio, over: .lifetime)
    let largest = Aggregate.max(\.ratio, over: .lifetime)
    let different = Aggregate.distinctCount(\.ratio, over: .lifetime)
    let decayed = Aggregate.decayedSum(\.ratio, halfLife: .days(1), over: .lifetime)
    let latest = Aggregate.last(2, \.ratio, over: .lifetime)
    let events = Aggregate.count(over: .lifetime)
}

/// What cannot be used is refused with its reason, once, and stops nothing.
@Suite struct RefusedRecordTests {
    /// Numbers are parsed in the plain way and in the general one, which white space in a name asks for; and a message's own decoding
    /// may give any time at all.
    @Test func timesOutsideOfTheYearsAreMalformed() throws {
        let catalog = try plan(Visits.self)
        let wrong = [
            "9223372036854", "-9223372036854", "9223372036854775807", "-9223372036854775808", "253402300800", "-62167219201", "1e300",
        ]
        let right = ["-62167219200", "1700000000", "253402300799"]
        let lines = (wrong + right).enumerated().flatMap { number, time in
            [Visit.json("\(number)", time: time), Visit.json("\(number)e", person: "\\u0070", time: time)]
        }
        let scratch = Scratch()
        let summary = try scratch.ingest(lines.joined(separator: "\n") + "\n", catalog)
        // The year 9999 is ahead of all clocks, but no `maxAhead` is declared; it moves no watermark.
        #expect(summary.accepted == 2 * right.count && summary.deadLetters == 2 * wrong.count)
        let letters = try HistoryReader(directory: scratch.path, catalog: catalog).deadLetters()
        #expect(letters.allSatisfy { $0.kind == "malformed" && $0.reason.contains("event_time") })
        #expect(letters.count { $0.reason.contains("years 0 to 9999") } >= 2 * 4, "\(letters.map(\.reason))")
        let packed = try plan(PackedView.self)
        var records = RecordBatch(schema: packed.streams[0].schema)
        for (offset, time) in [Int64.max, .min, 0, 253_402_300_800_000_000].enumerated() {
            Array("p;7;2.5;\(time);".utf8).withUnsafeBytes {
                packed.streams[0].decode(message: $0, offset: Int64(offset), into: &records)
            }
        }
        let batch = packed.streams[0].prepare(records)
        #expect(batch.times == [0] && batch.records.malformed.map(\.offset) == [0, 1, 3])
    }

    /// What an earlier build took, or a decoder that nobody thought of lets through, still must not end the process.
    @Test func anyTimeGoesThroughTheArbiter() throws {
        let catalog = try plan(Visits.self)
        let scratch = Scratch()
        try DataDirectory(scratch.path).create()
        let times: [Int64] = [.min + 10, .max - 10, 0, .min, .max, .min + 3_600_000_000, 1_700_000_000_000_000]
        var records = RecordBatch(schema: catalog.streams[0].schema)
        var parser = JSONRecordParser(schema: catalog.streams[0].schema)
        for number in times.indices { parser.append(Array(Visit.json("\(number)").utf8), to: &records, offset: Int64(number)) }
        var batch = catalog.streams[0].prepare(records)
        batch.times = times
        let history = try HistoryWriter(directory: scratch.path, catalog: catalog)
        let source = SourcePart(kind: .push, name: "push", partition: 0, stream: "visits")
        let (_, summary) = try history.commit(
            [IncomingBatch(batch: batch, source: source, nextOffset: 7, ingestTime: 1_700_000_000_000_000)], now: 0)
        #expect(summary.accepted + summary.deadLetters == times.count && summary.accepted >= 3)
    }

    /// A property that comes to no number is null: in every aggregation, and at no cost to the process.
    @Test func computedNumbersThatAreNoneAreNull() throws {
        let catalog = try plan(Ratios.self)
        let scratch = Scratch()
        let lines = [(0, 0), (1, 0), (-1, 0), (6, 2)].enumerated().map { number, values in
            #"{"id":"\#(number)","person":"p","part":\#(values.0),"whole":\#(values.1),"event_time":"2026-01-01T00:00:00Z"}"#
        }
        #expect(try scratch.ingest(lines.joined(separator: "\n") + "\n", catalog).accepted == 4)
        let values = try scratch.withWriter(catalog) { writer in
            try writer.store.withReader { reader in
                try reader.withEntity(view: 0, key: "p") { nodes, keptFrom in
                    let asOf = AsOf(EventTime(microseconds: 1_767_225_600_000_001))
                    let evaluation = try ViewRuntime(catalog.views[0]).evaluate(nodes: nodes, asOf: asOf, session: nil, keptFrom: keptFrom)
                    return zip(catalog.views[0].features.map(\.name), evaluation!.results.map(\.value.json)).map { "\($0) \($1)" }
                }
            }
        }
        #expect(values.contains("sum 3.0") && values.contains("mean 3.0") && values.contains("deviation null"), "\(values)")
        #expect(values.contains("largest 3.0") && values.contains("different 1") && values.contains("latest [3.0]"), "\(values)")
        #expect(values.contains("events 4"), "\(values)")
    }

    /// The fixed windows of a time at either end of the range.
    @Test(arguments: [Int64.min, .min + 1, -1, 0, .max - 1, .max]) func windowsAtTheEnds(time: Int64) {
        for window in [
            Window.tumbling(.hours(1)), .hopping(.days(1), every: .hours(6)), .hopping(.days(1), every: .hours(7), offset: .hours(-3)),
        ] {
            let windows = window.windows(containing: EventTime(microseconds: time))
            #expect(windows.count <= 4 && windows.allSatisfy { $0.lowerBound <= time })
        }
    }

    /// Each record that cannot be used is one letter, whatever else is wrong in its batch.
    @Test func longKeysAndUndecodableRecordsAreOneLetterEach() throws {
        let catalog = try plan(Visits.self)
        let stream = catalog.streams[0]
        let long = String(repeating: "k", count: Limits.keyBytesMax + 1)
        let lines = [
            Visit.json("0", person: long), Visit.json("1"), Visit.json("2", page: "exit"), "{", Visit.json("4", person: long),
            Visit.json("5", page: "exit"), Visit.json("6", person: long), Visit.json("7"),
        ]
        var records = RecordBatch(schema: stream.schema)
        var parser = JSONRecordParser(schema: stream.schema)
        for (offset, line) in lines.enumerated() { parser.append(Array(line.utf8), to: &records, offset: Int64(offset)) }
        let batch = stream.prepare(records)
        #expect(batch.records.malformed.map(\.offset).sorted() == [0, 2, 3, 4, 5, 6])
        #expect(batch.count == 2 && batch.keyHashes.count == 2 && batch.views[0].keys.count == 2)
        // The rows are those of the records as they came, by which ingest times are found.
        #expect(batch.recordRows.map { batch.records.rows[$0].offset } == [1, 7] && batch.records.rows == records.rows)
        let scratch = Scratch()
        let summary = try scratch.ingest(lines.joined(separator: "\n") + "\n", catalog)
        #expect(summary.accepted == 2 && summary.deadLetters == 6)
        // All of a batch, and many: in one pass.
        let all = (0..<4_000).map { Visit.json("\($0)", person: long) }
        let start = ContinuousClock.now
        #expect(try Scratch().ingest(all.joined(separator: "\n") + "\n", catalog).deadLetters == 4_000)
        #expect(ContinuousClock.now - start < .seconds(30))
    }
}
