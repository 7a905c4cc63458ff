import Foundation
import Synchronization
import Testing
import Weir
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirRecords
import WeirTesting

private enum Customer: Entity {
    typealias ID = Int
    static let name = "customer"
}

private struct Click: Event {
    static let stream = "clicks"
    var id: Int
    var customer: Int
    var eventTime: EventTime
}

private struct Letter: Event {
    static let stream = "letters"
    var id: Int
    var customer: Int
    var text: String
    var eventTime: EventTime
}

private struct Clicks: FeatureView {
    typealias Subject = Customer
    static func key(of click: Click) -> Int? { click.customer }
    let clicks = Aggregate.count(over: .sliding(.hours(1)))
}

private struct Letters: FeatureView {
    typealias Subject = Customer
    static func key(of letter: Letter) -> Int? { letter.customer }
    let letters = Aggregate.count(over: .sliding(.hours(1)))
}

private struct Builder {
    @CatalogBuilder var catalog: Catalog {
        Clicks.self
        Letters.self
    }
}

/// When segments are made, of which stream, and what happens where that is not possible.
@Suite struct SegmentWriterTests {
    private final class Scratch: Sendable {
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent("weir-\(UUID().uuidString)").path
        let catalog: CatalogPlan
        private let reports = Mutex<[String]>([])

        init() throws {
            catalog = try CatalogPlan(Builder().catalog)
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        }

        deinit { try? FileManager.default.removeItem(atPath: directory) }

        var reported: [String] { reports.withLock { $0 } }

        func writer(segmentRows: Int, segmentBytes: Int = 1 << 40) throws -> HistoryWriter {
            try HistoryWriter(
                directory: directory, catalog: catalog, isSynced: false, segmentRows: segmentRows, segmentBytes: segmentBytes
            ) { [weak self] report in self?.reports.withLock { $0.append(report) } }
        }

        func incoming(_ stream: String, _ numbers: Range<Int>, textBytes: Int = 0) -> IncomingBatch {
            let plan = catalog.streams.first { $0.name == stream }!
            var parser = JSONRecordParser(schema: plan.schema)
            var records = RecordBatch(schema: plan.schema)
            for number in numbers {
                let time = TimeText.format(EventTime(microseconds: Int64(number) * 1_000))
                let text = stream == "letters" ? #","text":"letter \#(number)\#(String(repeating: ".", count: textBytes))""# : ""
                parser.append(
                    Array(#"{"id":\#(number),"customer":7,"event_time":"\#(time)"\#(text)}"#.utf8), to: &records, offset: Int64(number))
            }
            let source = SourcePart(kind: .file, name: stream, partition: 0, stream: stream)
            return IncomingBatch(batch: plan.prepare(records), source: source, nextOffset: Int64(numbers.upperBound), ingestTime: 0)
        }

        /// Events of a stream that are in no segment.
        func tailRows(_ stream: String) throws -> Int {
            try HistoryTampering.number(
                directory,
                """
                SELECT count(*) FROM \(stream) WHERE _seq >
                    (SELECT coalesce(max(last_sequence), 0) FROM weir_segments WHERE stream = '\(stream)')
                """)
        }

        func reader() throws -> HistoryReader { try HistoryReader(directory: directory, catalog: catalog) }

        func count(_ view: Int, _ reader: HistoryReader) throws -> Int {
            try reader.rows(of: catalog.views[view], key: "7", from: .min, to: .max).count
        }

        func deleteSegments() throws {
            try HistoryTampering.execute(directory, "DELETE FROM weir_segments")
            try HistoryTampering.execute(directory, "DELETE FROM weir_row_groups")
        }
    }

    /// A stream whose few events are large and one of many small events: neither waits for the other for ever.
    @Test func noStreamStarves() throws {
        let scratch = try Scratch()
        let writer = try scratch.writer(segmentRows: 20, segmentBytes: 20_000)
        for step in 0..<120 {
            _ = try writer.commit(
                [
                    scratch.incoming("letters", step * 5..<step * 5 + 5, textBytes: 5_000),
                    scratch.incoming("clicks", step * 2..<step * 2 + 2),
                ], now: 0)
        }
        #expect(try scratch.tailRows("clicks") < 120)
        #expect(try scratch.tailRows("letters") < 40)
        let reader = try scratch.reader()
        #expect(try scratch.count(0, reader) == 240 && scratch.count(1, reader) == 600)
        #expect(try reader.segmentCount(stream: "clicks") > 1 && reader.segmentCount(stream: "letters") > 10)
    }

    /// Large events that a process finds in no segment when it starts go into segments while few others come.
    @Test func largeEventsAreCaughtUpWith() throws {
        let scratch = try Scratch()
        do {
            let writer = try scratch.writer(segmentRows: 1_000)
            for step in 0..<30 {
                _ = try writer.commit([scratch.incoming("letters", step * 10..<step * 10 + 10, textBytes: 1_000)], now: 0)
            }
            #expect(try scratch.tailRows("letters") == 300)
        }
        let writer = try scratch.writer(segmentRows: 1_000, segmentBytes: 4_000)
        for number in 300..<450 { _ = try writer.commit([scratch.incoming("letters", number..<number + 1, textBytes: 1_000)], now: 0) }
        let left = try scratch.tailRows("letters")
        #expect(left < 20)
        #expect(try scratch.count(1, scratch.reader()) == 450)
    }

    /// Segments that vanish under a writer: it stops before it takes a copy for new, and readers find all rows.
    @Test func deletedSegmentsAreNoticed() throws {
        let scratch = try Scratch()
        let reader: HistoryReader
        do {
            let writer = try scratch.writer(segmentRows: 20)
            func take(_ numbers: Range<Int>) throws -> CommitSummary { try writer.commit([scratch.incoming("clicks", numbers)], now: 0).1 }
            for step in 0..<30 { #expect(try take(step * 10..<step * 10 + 10).accepted == 10) }
            reader = try scratch.reader()
            #expect(try scratch.count(0, reader) == 300)
            #expect(try reader.segmentCount(stream: "clicks") > 2)
            #expect(try take(5..<6).duplicates == 1)
            try scratch.deleteSegments()
            #expect(try scratch.count(0, reader) == 300)
            let error = #expect(throws: HistoryError.self) { try take(5..<6) }
            #expect(error?.description.contains("deleted from the history") == true)
            #expect(throws: HistoryError.self) { try take(300..<310) }
        }
        let writer = try scratch.writer(segmentRows: 20)
        #expect(try writer.commit([scratch.incoming("clicks", 0..<310)], now: 0).1.accepted == 10)
        #expect(try scratch.count(0, reader) == 310)
        #expect(try reader.segmentCount(stream: "clicks") > 2)
    }

    /// Positions as they were for a shard that has seen some events: everything before them is among those.
    @Test func positionsAtAnEvent() throws {
        let scratch = try Scratch()
        let writer = try scratch.writer(segmentRows: 20)
        for step in 0..<10 {
            _ = try writer.commit([scratch.incoming("clicks", step * 10..<step * 10 + 10)], now: 0)
            if step % 3 == 1 { _ = try writer.commit([scratch.incoming("letters", step * 5..<step * 5 + 5)], now: 0) }
            // Copies move a position, and are no events.
            if step == 9 { _ = try writer.commit([scratch.incoming("letters", 38..<43)], now: 0) }
        }
        let reader = try scratch.reader()
        func positions(_ sequence: Int64?) throws -> [String] { try reader.positions(at: sequence).map { "\($0.source) \($0.position)" } }
        #expect(try positions(nil) == ["file clicks 100", "file letters 43"])
        // 118 events: ten clicks, then ten and five letters, and so on; the last are three new letters.
        #expect(try positions(118) == ["file clicks 100", "file letters 43"])
        #expect(try positions(117) == ["file clicks 100", "file letters 42"])
        #expect(try positions(115) == ["file clicks 100", "file letters 40"])
        #expect(try positions(114) == ["file clicks 99", "file letters 40"])
        #expect(try positions(25) == ["file clicks 20", "file letters 20"])
        #expect(try positions(0) == ["file clicks 0", "file letters 5"])
        // What a shard that has seen so far answers from history.
        let view = scratch.catalog.views[0]
        for last in [0, 5, 20, 24, 25, 26, 90, 118] as [Int64] {
            let rows = try reader.rows(of: view, key: "7", from: .min, to: .max, upTo: last)
            let letters = try reader.rows(of: scratch.catalog.views[1], key: "7", from: .min, to: .max, upTo: last)
            #expect(Int64(rows.count + letters.count) == last)
        }
    }

    /// A segment that cannot be made is reported and tried again later; events are taken meanwhile.
    @Test func failedSegmentsTakeNothingBack() throws {
        let scratch = try Scratch()
        do {
            let writer = try scratch.writer(segmentRows: 1_000)
            _ = try writer.commit([scratch.incoming("letters", 0..<40, textBytes: 1_000)], now: 0)
            try HistoryTampering.checkpoint(scratch.directory)
        }
        let writer = try scratch.writer(segmentRows: 50)
        // The page with the first events: the writer has read it already, the connection that makes segments has not.
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: HistoryDatabase.path(in: scratch.directory)))
        let bytes = try #require(try file.readToEnd())
        let place = try #require(bytes.range(of: Data("letter 0.".utf8))).lowerBound
        let pageBytes = Int(bytes[16]) << 8 | Int(bytes[17])
        let page = place / pageBytes * pageBytes
        func overwrite(_ data: Data) throws {
            try file.seek(toOffset: UInt64(page))
            try file.write(contentsOf: data)
        }
        try overwrite(Data(count: pageBytes))
        for number in 40..<100 { #expect(try writer.commit([scratch.incoming("letters", number..<number + 1)], now: 0).1.accepted == 1) }
        #expect(scratch.reported.count == 1 && scratch.reported[0].contains("'letters'"), "\(scratch.reported)")
        try overwrite(bytes[page..<page + pageBytes])
        for number in 100..<200 { #expect(try writer.commit([scratch.incoming("letters", number..<number + 1)], now: 0).1.accepted == 1) }
        #expect(try scratch.tailRows("letters") < 80)
        #expect(try scratch.count(1, scratch.reader()) == 200)
    }
}
