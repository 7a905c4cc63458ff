import Foundation
import Testing
import Weir
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirPipeline
import WeirRecords

private enum Person: Entity {
    typealias ID = String
    static let name = "person"
}

private enum Place: Entity {
    typealias ID = CompositeKey<Int, String>
    static let name = "place"
}

private struct Step: Event {
    static let stream = "steps"
    var id: String
    var person: String?
    var room: Int
    var eventTime: EventTime
}

private struct PersonSteps: FeatureView {
    typealias Subject = Person
    static func key(of step: Step) -> String? { step.person }
    let steps = Aggregate.count(over: .lifetime)
}

private struct PlaceSteps: FeatureView {
    typealias Subject = Place
    static func key(of step: Step) -> Place.ID? { CompositeKey(step.room, "a:b") }
    static var closedWindows: ClosedWindows? { ClosedWindows(topic: "places") }
    let steps = Aggregate.count(over: .session(gap: .minutes(6)))
    let last = Aggregate.last(\.id, over: .session(gap: .minutes(6)))
    let hourSteps = Aggregate.count(over: .tumbling(.hours(1)))
}

private struct Builder {
    @CatalogBuilder var catalog: Catalog {
        PersonSteps.self
        PlaceSteps.self
    }
}

@Suite struct ErasureTests {
    private let catalog: CatalogPlan

    init() throws { catalog = try CatalogPlan(Builder().catalog) }

    /// What does not decode is an entity's where it is named as a word: rather once too often.
    @Test(arguments: [
        ("5", #"{"person":5}"#, true), ("5", #"{"person":"5","#, true), ("5", "a,5,b", true), ("5", "5", true), ("5", "x 5 ", true),
        ("5", "15", false), ("5", "52", false), ("5", "5.2", false), ("5", "2.5", false), ("5", "-5", false), ("5", "12:05", false),
        ("5", "x5", false), ("5", "5x", false), ("5", "a_5", false), ("5", "5.", true), ("5", "é5", false), ("5", "", false),
        ("anna", "anna", true), ("anna", "annabel", false), ("anna", #""\u0061nna""#, true), ("anna", #""joanna""#, false),
        ("a/b", #"{"x":"a\/b"}"#, true),
    ]) func words(key: String, text: String, isNamed: Bool) throws {
        #expect(ErasedEntity(entity: "person", key: key, catalog: catalog).isNamed(in: Array(text.utf8)) == isNamed)
    }

    @Test func partsAndIDs() {
        // All parts of a composite key have to stand there.
        let place = ErasedEntity(entity: "place", key: #"17:a\:b"#, catalog: catalog)
        #expect(place.isNamed(in: Array(#"{"room":17,"name":"a:b"}"#.utf8)))
        #expect(!place.isNamed(in: Array(#"{"room":17,"name":"a"}"#.utf8)))
        // One id is enough; short ones stand everywhere.
        let person = ErasedEntity(entity: "person", key: "anna", catalog: catalog, ids: ["id-000001", "7"])
        #expect(person.isNamed(in: Array("id-000001".utf8)) && !person.isNamed(in: Array("id-0000012,7".utf8)))
    }

    /// What is older than an erasure: by position where the source was known, by event time where it was not.
    @Test func whatStaysOut() {
        let stream = catalog.streams[0]
        let known = SourcePart(kind: .kafka, name: "steps", partition: 0, stream: "steps")
        let file = SourcePart(kind: .file, name: "/a", partition: 0, stream: "steps")
        let tombstones = Tombstones([
            .init(
                entity: "person", keyHash: Array("anna".utf8), positions: [known: 10, file: 100], letters: 4,
                latestEventTimes: ["steps": 5_000_000])
        ]) { _, key in Array(key) }
        /// Which events of anna and of bert at offsets and seconds stay out.
        func withheld(_ source: SourcePart, _ events: [(offset: Int64, seconds: Int)]) -> [Int64] {
            var records = RecordBatch(schema: stream.schema)
            var parser = JSONRecordParser(schema: stream.schema)
            for (offset, seconds) in events {
                for person in [#""anna""#, #""bert""#, "null"] {
                    let json = #"{"id":"x","person":\#(person),"room":1,"event_time":"1970-01-01T00:00:0\#(seconds)Z"}"#
                    parser.append(Array(json.utf8), to: &records, offset: offset)
                }
            }
            let batch = stream.prepare(records)
            let incoming = IncomingBatch(batch: batch, source: source, nextOffset: 0, ingestTime: 0)
            return tombstones.withheld(incoming, of: stream).sorted().map { row in
                #expect(row % 3 == 0)
                return batch.records.rows[batch.recordRows[row]].offset
            }
        }
        func part(_ kind: SourcePart.Kind, _ name: String, _ partition: Int32 = 0) -> SourcePart {
            SourcePart(kind: kind, name: name, partition: partition, stream: "steps")
        }
        let events: [(Int64, Int)] = [(3, 9), (9, 1), (10, 1), (99, 5), (100, 6)]
        #expect(withheld(known, events) == [3, 9])
        #expect(withheld(file, events) == [3, 9, 10, 99])
        #expect(withheld(part(.file, "/b"), events) == [9, 10, 99])
        #expect(withheld(part(.kafka, "other"), events) == [9, 10, 99])
        // A partition that is new in a topic that was read, and pushes, have nothing from before.
        #expect(withheld(part(.kafka, "steps", 1), events) == [])
        #expect(withheld(part(.push, "push"), events) == [])
        #expect(withheld(part(.retry, "dead-letters"), events) == [3])
    }

    /// Windows of others: a session that falls apart, one that is gone, an hour that is empty; with the numbers of their revisions.
    @Test func windowsOfOthers() throws {
        let scratch = Scratch()
        func step(_ id: String, _ person: String, _ room: Int, _ time: String) -> String {
            #"{"id":"\#(id)","person":"\#(person)","room":\#(room),"event_time":"2026-01-01T\#(time):00Z"}"# + "\n"
        }
        var text = step("a", "anna", 1, "10:00") + step("b", "bert", 1, "10:05") + step("c", "anna", 1, "10:10")
        text +=
            step("d", "bert", 1, "11:30") + step("e", "bert", 2, "11:40") + step("f", "anna", 1, "12:30") + step("g", "anna", 3, "15:00")
        // Late: the first session gets a second revision, and other bounds.
        _ = try scratch.ingest(text, catalog)
        _ = try scratch.ingest(step("h", "bert", 1, "10:15"), catalog)
        let receipts = try eraseEntity("person", key: "bert", directory: DataDirectory(scratch.path), catalog: catalog)
        let receipt = try #require(receipts.first)
        #expect(receipts.count == 1 && receipt.events == ["steps": 4])
        #expect(receipt.changedEntities == ["place_steps": 1] && receipt.goneEntities == ["place_steps": 1])
        let reader = try HistoryReader(directory: scratch.path, catalog: catalog)
        func minutes(_ time: Int64) -> String { String(TimeText.format(EventTime(microseconds: time)).dropFirst(11).prefix(5)) }
        let closed = try reader.closedWindows(of: "place_steps").map {
            "\($0.window.prefix(4)) \($0.key) \(minutes($0.start))-\(minutes($0.end)) \($0.revision) \($0.values ?? "-")"
        }
        #expect(
            closed == [
                #"sess 1:a\:b 10:00-10:06 4 {"steps":1,"last":"a"}"#,
                // It had become part of a longer one before.
                #"sess 1:a\:b 10:00-10:16 1 -"#,
                #"sess 1:a\:b 10:10-10:16 4 {"steps":1,"last":"c"}"#,
                #"sess 1:a\:b 10:00-10:21 3 -"#,
                #"tumb 1:a\:b 10:00-11:00 2 {"hour_steps":2}"#,
                #"sess 1:a\:b 11:30-11:36 1 -"#,
                #"tumb 1:a\:b 11:00-12:00 1 -"#,
                #"sess 1:a\:b 12:30-12:36 0 {"steps":1,"last":"f"}"#,
                #"tumb 1:a\:b 12:00-13:00 0 {"hour_steps":1}"#,
            ], "\(closed.joined(separator: "\n"))")
        let outputs = try reader.outputs(after: 0).map(\.record.value)
        #expect(outputs.allSatisfy { !$0.contains("bert") && !$0.contains(#"2:a\\:b"#) && !$0.contains(#""last":"b""#) }, "\(outputs)")
    }
}
