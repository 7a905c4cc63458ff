import Foundation
import Testing
import Weir
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirRecords
import WeirTesting

private enum Customer: Entity {
    typealias ID = String
    static let name = "customer"
}

private enum Till: Entity {
    typealias ID = Int
    static let name = "till"
}

private struct Sale: Event {
    static let stream = "sales"
    var id: Int
    var customer: String?
    var till: Int?
    var price: Double
    var note: String?
    var eventTime: EventTime
}

private struct ByCustomer: FeatureView {
    typealias Subject = Customer
    static func key(of sale: Sale) -> String? { sale.customer }
    let spend = Aggregate.sum(\.price, over: .sliding(.hours(1)))
    let notes = Aggregate.last(3, \.note)
}

private struct ByTill: FeatureView {
    typealias Subject = Till
    static func key(of sale: Sale) -> Int? { sale.till }
    let spend = Aggregate.sum(\.price, over: .sliding(.hours(1))).where { $0.customer != nil }
}

private struct Builder {
    @CatalogBuilder var catalog: Catalog {
        ByCustomer.self
        ByTill.self
    }
}

/// The history's order of entities against a list: whatever is in segments, in the tail or in an open transaction, in whatever order
/// rows came, readers beside the writer find the same rows, and copies and conflicts are known.
@Suite struct SegmentTests {
    private struct Row: Hashable {
        var id: Int
        var customer: String?
        var till: Int?
        var cents: Int
        var note: String?
        var time: Int64
        var ingestTime: Int64 = 0

        var json: String {
            let customer = customer.map { "\"\($0)\"" } ?? "null"
            let till = till.map(String.init) ?? "null"
            let note = note.map { "\"\($0)\"" } ?? "null"
            return """
                {"id":\(id),"customer":\(customer),"till":\(till),"price":\(Double(cents) / 100),"note":\(note),\
                "event_time":"\(TimeText.format(EventTime(microseconds: time)))"}
                """
        }
        /// What makes two rows one event.
        var identity: [String] { ["\(id)", "\(time)", customer ?? "-", till.map(String.init) ?? "-"] }
    }

    private static func batch(_ stream: any StreamPlan, _ rows: [Row]) -> PreparedBatch {
        var parser = JSONRecordParser(schema: stream.schema)
        var records = RecordBatch(schema: stream.schema)
        for (number, row) in rows.enumerated() { parser.append(Array(row.json.utf8), to: &records, offset: Int64(number)) }
        return stream.prepare(records)
    }

    @Test(arguments: [16, 100, 1_000]) func rowsOfAnEntityAreFound(segmentRows: Int) throws {
        var random = SeededGenerator()
        print("rowsOfAnEntityAreFound(\(segmentRows)): WEIR_TEST_SEED=\(random.seed)")
        let catalog = try CatalogPlan(Builder().catalog)
        let stream = catalog.streams[0]
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent("weir-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        // One entity has most of the rows, some keys are prefixes of others or long, some rows have no key in any view.
        let customers: [String?] = [
            "a", "ab", "b", "", String(repeating: "k", count: 40) + "1", String(repeating: "k", count: 40) + "2", nil,
        ]
        func row(_ number: Int) -> Row {
            Row(
                id: number, customer: Bool.random(using: &random) ? "a" : customers.randomElement(using: &random)!,
                till: [1, 1, 2, 30, nil].randomElement(using: &random)!, cents: Int.random(in: 0...5_000, using: &random),
                note: ["x", "", nil].randomElement(using: &random)!,
                time: Int64(number) * 1_000_000 + Int64.random(in: -40...0, using: &random) * 1_000_000)
        }
        var accepted: [Row] = []
        var known: [[String]: Row] = [:]
        var writer = try HistoryWriter(directory: directory, catalog: catalog, isSynced: false, segmentRows: segmentRows)
        var reader = try HistoryReader(directory: directory, catalog: catalog)
        let source = SourcePart(kind: .file, name: "sales", partition: 0, stream: "sales")
        var duplicates = 0
        var conflicts = 0
        var number = 0
        for step in 0..<60 {
            var rows: [Row] = []
            for _ in 0..<Int.random(in: 1...60, using: &random) {
                switch Int.random(in: 0..<10, using: &random) {
                case 0:
                    if let copy = accepted.randomElement(using: &random) { rows.append(copy) }
                case 1:
                    if var other = accepted.randomElement(using: &random) {
                        other.cents += 1
                        rows.append(other)
                    }
                case 2:
                    // Long before the others.
                    var late = row(number - Int.random(in: 0...2_000, using: &random))
                    late.id = 1_000_000 + accepted.count + rows.count
                    rows.append(late)
                default:
                    rows.append(row(number))
                    number += 1
                }
            }
            var expected = CommitSummary()
            for index in rows.indices {
                rows[index].ingestTime = Int64(step)
                if let earlier = known[rows[index].identity] {
                    var same = rows[index]
                    same.ingestTime = earlier.ingestTime
                    if same == earlier { expected.duplicates += 1 } else { expected.deadLetters += 1 }
                } else {
                    known[rows[index].identity] = rows[index]
                    accepted.append(rows[index])
                    expected.accepted += 1
                }
            }
            let incoming = IncomingBatch(
                batch: Self.batch(stream, rows), source: source, nextOffset: Int64(step), ingestTime: Int64(step))
            if step % 5 == 2 {
                // Letters that are tried again are rows like others.
                var again = incoming
                again.source.kind = .retry
                _ = try writer.retry(again, letters: [], now: 0)
            } else {
                let (_, summary) = try writer.commit([incoming], now: 0)
                #expect(summary.accepted == expected.accepted)
                #expect(summary.duplicates == expected.duplicates)
                #expect(summary.deadLetters == expected.deadLetters)
                duplicates += summary.duplicates
                conflicts += summary.deadLetters
            }
            if step % 7 == 3 {
                writer = try HistoryWriter(directory: directory, catalog: catalog, isSynced: false, segmentRows: segmentRows)
            }
            if step % 11 == 5 { reader = try HistoryReader(directory: directory, catalog: catalog) }
            for _ in 0..<6 {
                let start = Int64.random(in: -2_000...Int64(number), using: &random) * 1_000_000
                let end = start + Int64.random(in: 0...2_000, using: &random) * 1_000_000
                let by: Int64? = Bool.random(using: &random) ? nil : Int64.random(in: 0...Int64(step), using: &random)
                let isCustomer = Bool.random(using: &random)
                let key =
                    isCustomer
                    ? (customers.randomElement(using: &random)! ?? "nobody") : ["1", "2", "30", "4"].randomElement(using: &random)!
                let view = catalog.views[isCustomer ? 0 : 1]
                let rows = try reader.rows(of: view, key: key, from: start, to: end, ingestedBy: by)
                let wanted = accepted.filter { row in
                    (isCustomer ? row.customer : row.till.map(String.init)) == key && start <= row.time && row.time < end
                        && row.ingestTime <= by ?? .max
                }.sorted { a, b in a.time != b.time ? a.time < b.time : String(a.id).utf8.lexicographicallyPrecedes(String(b.id).utf8) }
                let isSame =
                    rows.times == wanted.map(\.time)
                    && (0..<rows.count).map { rows.float64($0, column: 0) } == wanted.map { Double($0.cents) / 100 }
                    && (!isCustomer || (0..<rows.count).map { rows.isNull($0, column: 1) } == wanted.map { $0.note == nil })
                #expect(isSame, "step \(step): \(rows.count) rows of \(key) from \(start) to \(end), \(wanted.count) expected")
            }
        }
        #expect(duplicates > 0 && conflicts > 0)
        // A segment takes all rows that wait, a multiple of it where batches are larger.
        #expect(try reader.segmentCount(stream: "sales") >= min(5, accepted.count / segmentRows - 1))
    }

    /// Damage in a row group is said with the way out, and that way leads out.
    @Test func damageIsFound() throws {
        let catalog = try CatalogPlan(Builder().catalog)
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent("weir-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let rows = (0..<200).map { Row(id: $0, customer: "a", till: 1, cents: $0, note: nil, time: Int64($0)) }
        let source = SourcePart(kind: .file, name: "sales", partition: 0, stream: "sales")
        do {
            let writer = try HistoryWriter(directory: directory, catalog: catalog, isSynced: false, segmentRows: 50)
            for step in 0..<20 {
                let some = Array(rows[step * 10..<step * 10 + 10])
                _ = try writer.commit(
                    [IncomingBatch(batch: Self.batch(catalog.streams[0], some), source: source, nextOffset: Int64(step), ingestTime: 0)],
                    now: 0)
            }
            for _ in 0..<200 where try HistoryReader(directory: directory, catalog: catalog).segmentCount(stream: "sales") == 0 {
                _ = try writer.tick(now: 0)
                usleep(10_000)
            }
        }
        func count() throws -> Int {
            try HistoryReader(directory: directory, catalog: catalog).rows(of: catalog.views[0], key: "a", from: 0, to: 1_000).count
        }
        #expect(try count() == 200)
        try HistoryTampering.execute(directory, "UPDATE weir_row_groups SET rows = zeroblob(length(rows)) WHERE \"order\" = 0")
        let error = #expect(throws: HistoryError.self) { try count() }
        #expect(error?.description.contains("weir_row_groups") == true)
        try HistoryTampering.execute(directory, "DELETE FROM weir_segments")
        try HistoryTampering.execute(directory, "DELETE FROM weir_row_groups")
        #expect(try count() == 200)
    }
}
