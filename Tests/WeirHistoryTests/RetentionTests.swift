import Foundation
import GRDB
import Testing
import Weir
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirRecords
import WeirTesting

private enum Rider: Entity {
    typealias ID = Int
    static let name = "rider"
}

private enum Lives {
    @TaskLocal static var timeToLive: Duration? = .hours(48)
}

private struct Ride: Event {
    static let stream = "rides"
    static var disorder: Duration { .minutes(30) }
    static var timeToLive: Duration? { Lives.timeToLive }
    var id: Int
    var rider: Int
    var fare: Int
    var eventTime: EventTime
}

private struct Rides: FeatureView {
    typealias Subject = Rider
    static func key(of ride: Ride) -> Int? { ride.rider }
    static var closedWindows: ClosedWindows? { ClosedWindows(allowedLateness: .hours(1)) }
    let rides = Aggregate.count(over: .lifetime)
    let hourly = Aggregate.count(over: .tumbling(.hours(1)))
    let trip = Aggregate.count(over: .session(gap: .minutes(20)))
}

private struct Builder {
    @CatalogBuilder var catalog: Catalog { Rides.self }
}

/// Events whose time to live is over leave the history, and nothing else does.
@Suite struct RetentionTests {
    private static let minute: Int64 = 60_000_000
    private static let hour = 60 * minute
    private static let riders = 5
    // Of the stream: two days, and an hour that windows wait for late events.
    private static let retention = 49 * hour
    private static let step = 3 * hour

    private struct Known: Hashable {
        var id: Int
        var rider: Int
        var time: Int64
    }

    /// What must become of events, in the plainest way.
    private struct Model {
        var accepted: [Known: Bool] = [:]
        var latest = Int64.min
        var duplicates = 0
        var expired = 0

        var keptFrom: Int64 {
            latest == .min ? .min : EventTime(microseconds: latest - 30 * minute - retention).floored(to: step).microseconds
        }

        mutating func take(_ event: Known) {
            latest = max(latest, event.time)
            if event.time < keptFrom {
                expired += 1
            } else if accepted[event] != nil {
                duplicates += 1
            } else {
                accepted[event] = true
            }
        }

        var kept: Set<Known> { Set(accepted.keys.filter { $0.time >= keptFrom }) }
    }

    private final class Scratch {
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent("weir-\(UUID().uuidString)").path
        init() throws { try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true) }
        deinit { try? FileManager.default.removeItem(atPath: directory) }

        func sql(_ query: String) throws -> [Row] {
            try DatabaseQueue(path: directory + "/history.sqlite").read { db in try Row.fetchAll(db, sql: query) }
        }
    }

    private static func incoming(_ catalog: CatalogPlan, _ events: [Known], offset: Int64) -> IncomingBatch {
        let plan = catalog.streams[0]
        var parser = JSONRecordParser(schema: plan.schema)
        var records = RecordBatch(schema: plan.schema)
        for event in events {
            let json = """
                {"id":\(event.id),"rider":\(event.rider),"fare":\(event.id % 7),\
                "event_time":"\(TimeText.format(EventTime(microseconds: event.time)))"}
                """
            parser.append(Array(json.utf8), to: &records, offset: offset)
        }
        let source = SourcePart(kind: .file, name: "rides", partition: 0, stream: "rides")
        return IncomingBatch(
            batch: plan.prepare(records), source: source, nextOffset: offset + Int64(events.count), ingestTime: 2_000_000_000_000_000)
    }

    private static func rows(_ reader: HistoryReader, _ view: ViewPlan) throws -> Set<Known> {
        var found: Set<Known> = []
        for rider in 0..<riders {
            let rows = try reader.rows(of: view, key: String(rider), from: .min, to: .max)
            for row in 0..<rows.count {
                let id = rows.withID(row) { Int(String(decoding: $0, as: UTF8.self))! }
                #expect(found.insert(Known(id: id, rider: rider, time: rows.times[row])).inserted, "twice: \(id)")
            }
        }
        return found
    }

    /// In any batches, with restarts, with deletions whenever there is time: what is accepted, kept and refused is the model's.
    @Test(arguments: [30, 500]) func whatIsOldLeaves(segmentRows: Int) throws {
        var random = SeededGenerator()
        let seed = random.seed
        print("whatIsOldLeaves(\(segmentRows)): WEIR_TEST_SEED=\(seed)")
        let scratch = try Scratch()
        let catalog = try CatalogPlan(Builder().catalog)
        let view = catalog.views[0]
        func open() throws -> HistoryWriter {
            try HistoryWriter(directory: scratch.directory, catalog: catalog, isSynced: false, segmentRows: segmentRows)
        }
        var writer = try open()
        // One that remembers what it has read of segments.
        let early = try HistoryReader(directory: scratch.directory, catalog: catalog)
        var model = Model()
        var sent: [Known] = []
        var time: Int64 = 1_700_000_000_000_000
        var offset: Int64 = 0
        var lastSequence: Int64 = 0
        var segments: [Int64: Int64] = [:]
        for round in 0..<120 {
            var events: [Known] = []
            for _ in 0..<Int.random(in: 1...40, using: &random) {
                time +=
                    random.isOne(in: 60)
                    ? Int64.random(in: 0...12, using: &random) * Self.hour : Int64.random(in: 0...3 * Self.minute, using: &random)
                // Late, some by more than anything is kept; and now and then a copy.
                let late = random.isOne(in: 10) ? Int64.random(in: 0...60, using: &random) * Self.hour : 0
                if random.isOne(in: 15), let copy = sent.randomElement(using: &random) {
                    events.append(copy)
                } else {
                    sent.append(
                        Known(id: sent.count, rider: Int.random(in: 0..<Self.riders, using: &random), time: time - late))
                    events.append(sent.last!)
                }
            }
            let (_, summary) = try writer.commit([Self.incoming(catalog, events, offset: offset)], now: 0)
            offset += Int64(events.count)
            let before = model
            for event in events { model.take(event) }
            #expect(summary.expired == model.expired - before.expired, "seed \(seed), round \(round)")
            #expect(summary.duplicates == model.duplicates - before.duplicates, "seed \(seed), round \(round)")
            #expect(writer.keptFrom(of: "rides") == model.keptFrom, "seed \(seed), round \(round)")
            #expect(writer.latestSequence >= lastSequence && summary.lastSequence == writer.latestSequence)
            lastSequence = writer.latestSequence
            for _ in 0..<Int.random(in: 0...3, using: &random) { _ = try writer.sweep() }
            if random.isOne(in: 12) {
                writer = try open()
                #expect(writer.latestSequence == lastSequence, "seed \(seed): a number is given twice")
            }
            for row in try scratch.sql("SELECT number, last_sequence FROM weir_segments") {
                #expect(segments.updateValue(row[1], forKey: row[0]) ?? row[1] == row[1] as Int64, "seed \(seed): another segment")
            }
            if random.isOne(in: 4) {
                // Whatever was deleted by now: what counts is there.
                let kept = try Self.rows(early, view).filter { $0.time >= model.keptFrom }
                #expect(kept == model.kept, "seed \(seed), round \(round)")
                #expect(try early.keptFrom(stream: "rides") == model.keptFrom)
            }
        }
        while try writer.sweep() { usleep(200) }
        #expect(model.expired > 5 && model.kept.count < model.accepted.count && model.kept.count > 50)
        // Nothing else is left, in the log and in the segments, for readers old and new.
        #expect(try Self.rows(early, view) == model.kept, "seed \(seed)")
        let fresh = try HistoryReader(directory: scratch.directory, catalog: catalog)
        #expect(try Self.rows(fresh, view) == model.kept, "seed \(seed)")
        #expect(try scratch.sql("SELECT count(*) FROM rides WHERE event_time < \(model.keptFrom)")[0][0] == 0)
        #expect(try scratch.sql("SELECT count(*) FROM weir_segments WHERE first_time < \(model.keptFrom)")[0][0] == 0)
        #expect(
            try scratch.sql("SELECT count(*) FROM weir_row_groups WHERE segment NOT IN (SELECT number FROM weir_segments)")[0][0] == 0)
        #expect(try scratch.sql("SELECT value FROM weir_counters WHERE name = 'expired'")[0][0] == model.expired)
        try checkWindows(scratch, model, seed)
        #expect(try !writer.sweep())

        // All of it again: nothing comes back.
        let again = try HistoryWriter(directory: scratch.directory, catalog: catalog, isSynced: false, segmentRows: segmentRows)
        let before = try scratch.sql("SELECT count(*) FROM rides")[0][0] as Int?
        let (_, summary) = try again.commit([Self.incoming(catalog, sent, offset: offset)], now: 0)
        #expect(summary.accepted == 0, "seed \(seed)")
        #expect(summary.duplicates == model.kept.count && summary.expired == sent.count - model.kept.count, "seed \(seed): \(summary)")
        #expect(try scratch.sql("SELECT count(*) FROM rides")[0][0] as Int? == before)
    }

    /// Closed windows of which a part is kept are, with the values that they closed with; those that lie before are gone.
    private func checkWindows(_ scratch: Scratch, _ model: Model, _ seed: UInt64) throws {
        #expect(try scratch.sql("SELECT count(*) FROM weir_closed_windows WHERE window_end < \(model.keptFrom)")[0][0] == 0, "seed \(seed)")
        #expect(
            try scratch.sql("SELECT count(*) FROM weir_windows WHERE is_open = 0 AND window_end < \(model.keptFrom)")[0][0] == 0,
            "seed \(seed)")
        var counts: [[Int64]: Int] = [:]
        for event in model.kept { counts[[Int64(event.rider), event.time - event.time % Self.hour], default: 0] += 1 }
        let watermark = model.latest - 30 * Self.minute
        let found = try scratch.sql(
            """
            SELECT entity_key, window_start, "values" FROM weir_closed_windows w WHERE "window" LIKE 'tumbling%' AND revision =
                (SELECT max(revision) FROM weir_closed_windows v WHERE v.view = w.view AND v."window" = w."window"
                 AND v.entity_key = w.entity_key AND v.window_start = w.window_start)
            """)
        var closed: [[Int64]: Int] = [:]
        for row in found {
            let values: String = row["values"]
            closed[[Int64(row["entity_key"] as String)!, row["window_start"]]] = Int(values.filter(\.isNumber))!
        }
        for (window, count) in counts where window[1] >= model.keptFrom && window[1] + 2 * Self.hour <= watermark {
            #expect(closed[window] == count, "seed \(seed), hour \(window)")
        }
        #expect(closed.keys.allSatisfy { $0[1] + Self.hour >= model.keptFrom }, "seed \(seed)")
    }

    /// A history that events have left has no values of everything any more.
    @Test func whatLeftIsMissed() throws {
        let scratch = try Scratch()
        let catalog = try CatalogPlan(Builder().catalog)
        do {
            let writer = try HistoryWriter(directory: scratch.directory, catalog: catalog, isSynced: false)
            let events = (0..<100).map { Known(id: $0, rider: 1, time: Int64($0) * Self.hour) }
            _ = try writer.commit([Self.incoming(catalog, events, offset: 0)], now: 0)
        }
        let endless = try Lives.$timeToLive.withValue(nil) { try CatalogPlan(Builder().catalog) }
        for open in [
            { _ = try HistoryWriter(directory: scratch.directory, catalog: endless) },
            { _ = try HistoryReader(directory: scratch.directory, catalog: endless) },
        ] {
            let error = #expect(throws: HistoryError.self) { try open() }
            #expect(error?.description.contains("timeToLive") == true, "\(error?.description ?? "")")
        }
        // A longer one is another definition, and is taken.
        let longer = try Lives.$timeToLive.withValue(.hours(96)) { try CatalogPlan(Builder().catalog) }
        let writer = try HistoryWriter(directory: scratch.directory, catalog: longer, isSynced: false)
        #expect(writer.keptFrom(of: "rides") == (99 * Self.hour - 30 * Self.minute - Self.retention) / Self.step * Self.step)
    }
}

extension SeededGenerator {
    fileprivate mutating func isOne(in count: Int) -> Bool { Int.random(in: 0..<count, using: &self) == 0 }
}
