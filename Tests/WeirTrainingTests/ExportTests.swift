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
import WeirTraining

/// Training sets against one evaluation a row, over rows of the history that are read for it alone.
@Suite struct ExportTests {
    /// A store of random events in a temporary directory.
    private final class Store {
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent("weir-\(UUID().uuidString)").path
        let catalog: CatalogPlan
        private let writer: HistoryWriter
        private var offset: Int64 = 0

        init(segmentRows: Int) throws {
            catalog = try CatalogPlan(Definitions().catalog)
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
            writer = try HistoryWriter(directory: directory, catalog: catalog, isSynced: false, segmentRows: segmentRows)
        }

        deinit { try? FileManager.default.removeItem(atPath: directory) }

        func add(_ stream: String, _ events: [String], ingestTime: Int64 = 0) throws {
            let plan = catalog.stream(named: stream)!
            var parser = JSONRecordParser(schema: plan.schema)
            var records = RecordBatch(schema: plan.schema)
            for event in events { parser.append(Array(event.utf8), to: &records, offset: offset) }
            #expect(records.malformed.isEmpty)
            offset += Int64(events.count)
            let source = SourcePart(kind: .file, name: stream, partition: 0, stream: stream)
            _ = try writer.commit(
                [IncomingBatch(batch: plan.prepare(records), source: source, nextOffset: offset, ingestTime: ingestTime)], now: ingestTime)
        }

        func reader() throws -> HistoryReader { try HistoryReader(directory: directory, catalog: catalog) }

        func export(
            _ service: String, _ spine: String, to name: String = "out.csv", _ change: (inout ExportRequest) -> Void = { _ in }
        ) throws -> [[String]] {
            try Data(spine.utf8).write(to: URL(fileURLWithPath: directory + "/spine.csv"))
            var request = ExportRequest(
                service: catalog.service(named: service)!, catalog: catalog, directory: directory, spinePath: directory + "/spine.csv",
                outPath: directory + "/" + name)
            change(&request)
            _ = try exportTrainingSet(request) { _, _ in }
            let table = try CSVTable([UInt8](FileManager.default.contents(atPath: directory + "/" + name)!))
            return [table.header] + table.rows.map(\.fields)
        }
    }

    private static let start: Int64 = 1_700_000_000_000_000
    private static let customers = ["ann", "bob", "an", "a", "", "customer-00000001", "customer-00000002", "é", "e\u{301}", "zoe"]

    private static func sale(_ number: Int, _ random: inout SeededGenerator) -> String {
        let customer = random.isOne(in: 8) ? "null" : random.isOne(in: 2) ? #""ann""# : #""\#(customers.randomElement(using: &random)!)""#
        // Many events of one time, so that their order matters; now and then a late one.
        var time = start + Int64(number / 4) * 90_000_000
        if random.isOne(in: 20) { time -= Int64.random(in: 0...200_000_000_000, using: &random) }
        let quantity = random.isOne(in: 3) ? "null" : String(Int.random(in: -3...9, using: &random))
        let price = Double(Int.random(in: -500...9_999, using: &random)) / 100
        let department = ["wine", "bread", "dairy", "toys"].randomElement(using: &random)!
        return
            #"{"id":"s\#(UInt32.random(in: 0...UInt32.max, using: &random))-\#(number)","customer":\#(customer),"shop":\#(number % 3),"#
            + #""price":\#(price),"quantity":\#(quantity),"department":"\#(department)","event_time":"\#(TimeText.format(EventTime(microseconds: time)))"}"#
    }

    /// The columns of a training set, computed one by one.
    private static func expected(
        _ store: Store, _ reader: HistoryReader, _ request: (customer: String?, shop: Int, cart: Double), at time: Int64,
        inclusive: Bool = false, knownBy: Int64? = nil, completeUntil: Int64
    ) throws -> [String] {
        let asOf = AsOf(EventTime(microseconds: time), isInclusive: inclusive)
        func values(_ view: ViewPlan, _ key: String?) throws -> [FeatureValue] {
            let runtime = ViewRuntime(view)
            if view.isLabelView {
                let end = EventTime(microseconds: time).advanced(by: 21_600_000_000).microseconds
                if key == nil || end > completeUntil { return view.features.map { _ in .null } }
            }
            guard let key else { return try runtime.emptyEvaluation(asOf: asOf).results.map(\.value) }
            let rows = try reader.rows(
                of: view, key: key, from: .min, to: .max, ingestedBy: view.isLabelView ? nil : knownBy)
            return try runtime.evaluate(rows: rows, asOf: asOf, session: nil).results.map(\.value)
        }
        let customer = try values(store.catalog.view(named: "customer_sales")!, request.customer)
        let shop = try values(store.catalog.view(named: "shop_sales")!, String(request.shop))
        let next = try values(store.catalog.view(named: "customer_next")!, request.customer)
        var all = customer + shop
        if case .double(let wine) = shop[0] { all.append((request.cart / wine).featureValue) } else { all.append(.null) }
        all += next
        if case .double(let after) = next[0], case .double(let before) = customer[1] {
            all.append(.bool(after > before))
        } else {
            all.append(.null)
        }
        return all.map { $0.text ?? "" }
    }

    @Test(arguments: [40, 700, 1_000_000]) func everyRowIsWhatItsOwnEvaluationGives(segmentRows: Int) throws {
        var random = SeededGenerator("everyRowIsWhatItsOwnEvaluationGives")
        let store = try Store(segmentRows: segmentRows)
        var number = 0
        while number < 3_000 {
            let count = Int.random(in: 1...150, using: &random)
            // Ingested some time after the events happened.
            let ingestTime = Self.start + Int64(number / 4) * 90_000_000 + 3_600_000_000
            try store.add("sales", (number..<number + count).map { Self.sale($0, &random) }, ingestTime: ingestTime)
            number += count
        }
        let end = Self.start + Int64(number / 4) * 90_000_000
        let reader = try store.reader()
        let completeUntil = try reader.watermarks()["sales"]!
        var requests: [(customer: String?, shop: Int, cart: Double, time: Int64)] = []
        var spine = "extra,event_timestamp,shop,customer,cart\n"
        for row in 0..<400 {
            let customer = random.isOne(in: 9) ? nil : (Self.customers + ["ann", "ann", "nobody"]).randomElement(using: &random)!
            // Also times of events, times before all of them, and times in the future.
            let time =
                random.isOne(in: 2)
                ? Self.start + Int64.random(in: 0..<Int64(number / 4), using: &random) * 90_000_000
                : Int64.random(in: Self.start - 100_000_000_000...end + 400_000_000_000, using: &random)
            // An empty field of an optional text is no customer.
            let request = (customer == "" ? nil : customer, Int.random(in: 0...3, using: &random), Double(row) / 4, time)
            requests.append(request)
            spine +=
                #""x, \#(row)",\#(TimeText.format(EventTime(microseconds: time))),\#(request.1),\#(request.0 ?? ""),\#(request.2)"# + "\n"
            if random.isOne(in: 10) {
                // The same row again.
                requests.append(request)
                spine += String(spine.split(separator: "\n").last!) + "\n"
            }
        }
        for (inclusive, asKnown) in [(false, false), (true, false), (false, true)] {
            let table = try store.export("offer", spine) {
                $0.isInclusive = inclusive
                $0.asKnown = asKnown
                $0.threads = 3
            }
            #expect(table.count == requests.count + 1)
            #expect(table[0].prefix(5) == ["extra", "event_timestamp", "shop", "customer", "cart"])
            #expect(table[0].suffix(3) == ["spend_next_6h", "sales_next_hour", "spends_more"])
            var wrong: [String] = []
            var labels = 0
            for (row, request) in requests.enumerated() {
                let expected = try Self.expected(
                    store, reader, (request.customer, request.shop, request.cart), at: request.time, inclusive: inclusive,
                    knownBy: asKnown ? request.time : nil, completeUntil: completeUntil)
                if Array(table[row + 1].dropFirst(5)) != expected { wrong.append("row \(row): \(table[row + 1]) instead of \(expected)") }
                if expected[expected.count - 2] != "" { labels += 1 }
            }
            #expect(wrong.isEmpty, "seed \(random.seed): \(wrong.count) rows: \(wrong.prefix(2))")
            #expect(labels > 50)
        }
        // Neither threads, memory nor blocks show in the bytes.
        func bytes(_ name: String) -> Data? { FileManager.default.contents(atPath: store.directory + "/" + name) }
        _ = try store.export("offer", spine, to: "one.csv") { $0.threads = 1 }
        _ = try store.export("offer", spine, to: "parts.csv") {
            $0.threads = 2
            $0.rowsPerBlock = 7
            $0.memory = 1
        }
        #expect(bytes("one.csv") == bytes("parts.csv"))
        #expect(bytes("one.csv.manifest.json") == bytes("parts.csv.manifest.json"))
        #expect(try FileManager.default.contentsOfDirectory(atPath: store.directory).allSatisfy { !$0.hasSuffix(".partial") })

        // More events do not change what is made of the history as it was.
        let manifest = try ExportedManifest(path: store.directory + "/one.csv.manifest.json")
        try store.add("sales", (number..<number + 500).map { Self.sale($0, &random) }, ingestTime: end)
        func check() throws -> ExportCheck {
            var request = ExportRequest(
                service: store.catalog.service(named: "offer")!, catalog: store.catalog, directory: store.directory,
                spinePath: manifest.spine, outPath: store.directory + "/one.csv")
            request.lastSequence = manifest.history.sequence
            request.completeUntil = try manifest.labelsUntil?.mapValues { try TimeText.parse($0) }
            return try checkTrainingSet(request, manifest) { _, _ in }
        }
        guard case .same(let rows) = try check() else {
            Issue.record("the training set is not what it was")
            return
        }
        #expect(rows == requests.count)
        var changed = bytes("one.csv")!
        let place = changed.lastIndex(of: UInt8(ascii: ","))! - 1
        changed[place] = changed[place] == UInt8(ascii: "7") ? UInt8(ascii: "8") : UInt8(ascii: "7")
        try changed.write(to: URL(fileURLWithPath: store.directory + "/one.csv"))
        guard case .differs(let line, _, _) = try check() else {
            Issue.record("a changed byte is not seen")
            return
        }
        #expect(line == requests.count + 1)
    }

    /// A property that its event's own decoder changes has what the lookup has, not what the history's field says: where one event in two
    /// hundred is changed, and where the decoder was written after the events were taken.
    @Test(arguments: [false, true]) func decodersOfTheUsersOwnCount(isNewer: Bool) throws {
        let store = try Store(segmentRows: 50)
        for step in 0..<20 {
            try store.add(
                "readings",
                (step * 10..<step * 10 + 10).map { number in
                    let time = TimeText.format(EventTime(microseconds: Self.start + Int64(number) * 1_000_000))
                    let isChanged = isNewer ? number % 5 == 0 : number == 101
                    return #"{"id":\#(number),"device":\#(number % 2),"level":\#(isChanged ? -1.5 : 2.0),"event_time":"\#(time)"}"#
                })
        }
        if isNewer {
            let database = try DatabaseQueue(path: HistoryDatabase.path(in: store.directory))
            try database.write { try $0.execute(sql: "DELETE FROM weir_meta WHERE key LIKE 'changed by decoding %'") }
        }
        let at = TimeText.format(EventTime(microseconds: Self.start + 3_600_000_000))
        let table = try store.export("device_state", "device,event_timestamp\n0,\(at)\n1,\(at)\n2,\(at)\n")
        let expected =
            isNewer ? [["160.0", "0.0"], ["160.0", "0.0"], ["0.0", ""]] : [["200.0", "2.0"], ["198.0", "0.0"], ["0.0", ""]]
        #expect(table.dropFirst().map { Array($0.dropFirst(2)) } == expected)
    }

    @Test func spinesOfAllShapes() throws {
        let store = try Store(segmentRows: 50)
        try store.add(
            "readings", [#"{"id":1,"device":7,"level":2.5,"event_time":"2024-01-01T00:00:00Z"}"#])
        // Milliseconds, a byte order mark, carriage returns, quotes and blank lines; columns stay as they are written.
        let table = try store.export(
            "device_state", "\u{FEFF}event_timestamp,note,device\r\n1704067200001,\"a \"\"b\"\"\nc\",007\r\n\r\n1704067200000,,7\r\n")
        #expect(table[1] == ["1704067200001", "a \"b\"\nc", "007", "2.5", "2.5"])
        #expect(table[2] == ["1704067200000", "", "7", "0.0", ""])
        func failure(_ spine: String, _ column: String = "event_timestamp") -> String {
            do {
                _ = try store.export("device_state", spine) { $0.timestampColumn = column }
                return "none"
            } catch { return "\(error)" }
        }
        #expect(failure("device,event_timestamp\n7,2024-01-01T00:00:00Z\n7,\n").contains("line 3: field 'event_timestamp': it is empty"))
        #expect(failure("device,event_timestamp\n7,yesterday\n").contains("line 2: field 'event_timestamp'"))
        #expect(failure("device,event_timestamp\nseven,1\n").contains("line 2: field 'device'"))
        #expect(failure("device,event_timestamp\n\"7\n8\",1\n").contains("line 2: field 'device'"))
        #expect(failure("device,at\n7,1\n").contains("there is no column 'event_timestamp'"))
        #expect(failure("event_timestamp\n1\n").contains("the header has no column 'device'"))
        #expect(failure("device,event_timestamp,total\n7,1,1\n").contains("the column 'total' has the name of a feature"))
        #expect(failure("").contains("spine.csv: "))
        #expect(failure("device,event_timestamp\n7\n").contains("line 2: 1 fields, where the header has 2"))
        #expect(failure("device,at\n7,1\n", "at") == "none")
        // A failure leaves what was there, and no part of a file.
        #expect(try FileManager.default.contentsOfDirectory(atPath: store.directory).allSatisfy { !$0.hasSuffix(".partial") })

        let spine = "device,event_timestamp\n" + (0..<2_000).map { "7,\(1_704_067_200_000 + $0 * 1_000)\n" }.joined()
        #expect(try store.export("device_state", spine).count == 2_001)
        let part = try store.export("device_state", spine) {
            $0.selection = SpineSelection(
                from: EventTime(microseconds: 1_704_067_300_000_000), to: EventTime(microseconds: 1_704_067_400_000_000))
        }
        #expect(part.count == 101 && part[1][1] == "1704067300000")
        let sample = try store.export("device_state", spine) { $0.selection = SpineSelection(sample: 0.25) }
        #expect((400...600).contains(sample.count))
        #expect(try store.export("device_state", spine) { $0.selection = SpineSelection(sample: 0.25) } == sample)
    }

    /// An entity that a training set asks for in its labels alone is found in it, too.
    @Test func entitiesOfLabelsAreFound() throws {
        let store = try Store(segmentRows: 50)
        _ = try store.export("forecast", "customer,shop,event_timestamp\nann,1,1704067200000\nbob,1,1704067200000\nann,2,1704067200000\n")
        func rows(_ entity: String, _ key: String) throws -> Int {
            let search = ExportSearch(catalog: store.catalog, entity: entity, key: key)
            return try search.trainingSets(at: store.directory).reduce(0) { try $0 + search.rows(in: $1) }
        }
        #expect(try rows("customer", "ann") == 2)
        #expect(try rows("customer", "carl") == 0)
        #expect(try rows("shop", "1") == 2)
    }

    /// A row for each entity and step in which it has an event, at the end of the step.
    @Test func spinesOfStreams() throws {
        let store = try Store(segmentRows: 50)
        func sale(_ id: String, _ customer: String, _ shop: Int, _ time: String) -> String {
            #"{"id":"\#(id)","customer":\#(customer),"shop":\#(shop),"price":1,"quantity":null,"department":"wine","event_time":"\#(time)"}"#
        }
        try store.add(
            "sales",
            [
                sale("a", #""ann""#, 1, "2024-01-01T10:00:00Z"), sale("b", #""ann""#, 2, "2024-01-01T11:00:00Z"),
                sale("c", #""bob""#, 3, "2024-01-02T00:00:00Z"), sale("d", "null", 3, "2024-01-02T00:00:00Z"),
            ])
        let path = store.directory + "/made.csv"
        let spine = try StreamSpine(
            service: store.catalog.service(named: "offer")!, stream: store.catalog.stream(named: "sales")!, every: 86_400_000_000,
            values: ["cart": "9.5"])
        #expect(try spine.write(to: path, timestampColumn: "event_timestamp", store.reader()) == 2)
        #expect(
            String(decoding: FileManager.default.contents(atPath: path)!, as: UTF8.self)
                == "customer,shop,cart,event_timestamp\nann,2,9.5,2024-01-02T00:00:00Z\nbob,3,9.5,2024-01-03T00:00:00Z\n")
        #expect(throws: ExportError.self) {
            try StreamSpine(
                service: store.catalog.service(named: "offer")!, stream: store.catalog.stream(named: "sales")!, every: 1, values: [:])
        }
    }
}

extension SeededGenerator {
    /// True once in so many times.
    fileprivate mutating func isOne(in count: Int) -> Bool { Int.random(in: 0..<count, using: &self) == 0 }
}
