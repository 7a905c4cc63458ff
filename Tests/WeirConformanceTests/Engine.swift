import Foundation
import Synchronization
import Weir
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirRecords

/// What a case sets: definitions are types, so it is set before the catalog is made.
struct Profile: Sendable {
    var window = Window.tumbling(.seconds(1))
    var disorder = Duration.zero
    var closed: ClosedWindows?
}

let profile = Mutex(Profile())

enum Key: Entity {
    typealias ID = String
    static let name = "key"
}

/// A record of the tables. Without ids: equal ones are two.
struct Input: Event {
    static let stream = "input"
    static var disorder: Duration { profile.withLock(\.disorder) }
    static var idleTimeout: Duration? { nil }
    var key: String?
    var value: Double
    var text: String
    var eventTime: EventTime
}

/// Texts in the order of arrival, which the ids of a stream without ids are.
struct Concatenation: Accumulation, Aggregation {
    struct Entry: Hashable, Sendable {
        var id: [UInt8]
        var text: [UInt8]
    }
    typealias Input = Text
    typealias Accumulator = Concatenation
    var signature: String { "concatenation" }
    var empty: [Entry] { [] }
    func add(_ input: Text, at position: EventPosition, to partial: inout [Entry]) {
        merge([Entry(id: position.idBytes, text: Array(input.bytes))], into: &partial)
    }
    func merge(_ other: [Entry], into partial: inout [Entry]) {
        partial = (partial + other).sorted { $0.id.lexicographicallyPrecedes($1.id) }
    }
    func encode(_ partial: [Entry], into writer: inout ByteWriter) {
        writer.writeVarint(UInt64(partial.count))
        for entry in partial {
            writer.writeBytes(entry.id)
            writer.writeBytes(entry.text)
        }
    }
    func decode(_ reader: inout ByteReader) throws(FormatError) -> [Entry] {
        var entries: [Entry] = []
        for _ in 0..<(try reader.readCount(unit: 2)) {
            entries.append(Entry(id: Array(try reader.readBytes()), text: Array(try reader.readBytes())))
        }
        return entries
    }
    func value(of partial: [Entry], at time: EventTime) -> AggregateResult<String> {
        .value(partial.map { "+" + String(decoding: $0.text, as: UTF8.self) }.joined())
    }
}

struct Windowed: FeatureView {
    typealias Subject = Key
    static var closedWindows: ClosedWindows? { profile.withLock(\.closed) }
    static func key(of input: Input) -> String? { input.key }
    let count = Aggregate.count(over: profile.withLock(\.window))
    let sum = Aggregate.sum(\.value, over: profile.withLock(\.window))
    let concat = Aggregate.custom(Concatenation(), \.text, over: profile.withLock(\.window))
}

/// The engine of production over a history of its own.
final class Engine {
    private let directory = FileManager.default.temporaryDirectory.appendingPathComponent("weir-\(UUID().uuidString)").path
    private let catalog: CatalogPlan
    private var writer: HistoryWriter
    let reader: HistoryReader
    private var records: Int64 = 0
    private var outputs: Int64 = 0
    private var closed: Set<HistoryReader.ClosedWindow> = []
    private let source = SourcePart(kind: .kafka, name: "input", partition: 0, stream: "input")

    init(_ settings: Profile) throws {
        profile.withLock { $0 = settings }
        struct Builder {
            @CatalogBuilder var catalog: Catalog { Windowed.self }
        }
        catalog = try CatalogPlan(Builder().catalog)
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        writer = try HistoryWriter(directory: directory, catalog: catalog, isSynced: false)
        reader = try HistoryReader(directory: directory, catalog: catalog)
    }

    deinit { try? FileManager.default.removeItem(atPath: directory) }

    /// As after a crash: what is not in the history is gone.
    func restore() throws { writer = try HistoryWriter(directory: directory, catalog: catalog, isSynced: false) }

    func add(key: String?, value: Double = 0, text: String = "", microseconds: Int64) throws {
        var parser = JSONRecordParser(schema: catalog.streams[0].schema)
        var batch = RecordBatch(schema: catalog.streams[0].schema)
        var json: [String: Any] = ["value": value, "text": text]
        json["event_time"] = TimeText.format(EventTime(microseconds: microseconds))
        if let key { json["key"] = key }
        parser.append(Array(try JSONSerialization.data(withJSONObject: json)), to: &batch, offset: records)
        precondition(batch.malformed.isEmpty, "\(batch.malformed)")
        records += 1
        _ = try writer.commit(
            [
                IncomingBatch(
                    batch: catalog.streams[0].prepare(batch), source: source, nextOffset: records, ingestTime: 1_000_000_000_000_000)
            ], now: 0)
    }

    /// What went to the topic since the last call.
    func emitted() throws -> [[String: Any]] {
        let new = try reader.outputs(after: outputs)
        outputs = new.last?.number ?? outputs
        return try new.map { try JSONSerialization.jsonObject(with: Data($0.record.value.utf8)) as! [String: Any] }
    }

    /// The closed windows, of any revision, that were written since the last call.
    func closedWindows() throws -> [HistoryReader.ClosedWindow] {
        let all = try reader.closedWindows(of: "windowed")
        defer { closed = Set(all) }
        return all.filter { !closed.contains($0) }
    }

    func counter(_ name: String) throws -> Int64 { try reader.counters().first { $0.name == name }?.value ?? 0 }

    /// Over everything that was accepted.
    func evaluation(key: String, at time: EventTime) throws -> [FeatureValue] {
        let rows = try reader.rows(of: catalog.views[0], key: key, from: .min, to: .max)
        return try ViewRuntime(catalog.views[0]).evaluate(rows: rows, asOf: AsOf(time), session: nil).results.map(\.value)
    }
}
