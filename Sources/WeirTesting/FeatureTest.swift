import Foundation
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirLookup
import WeirOnlineStore
import WeirRecords

/// Runs a catalog in memory: events in, values at a time out. No disk, no network; the engine is the one of production.
///
/// ```swift
/// let test = try FeatureTest { HouseholdSpend.self; CheckoutOffer.self }
/// try test.add([Purchase(id: "1", household: 7, price: 2.5, eventTime: noon)])
/// #expect(try test.value(of: "spend_1h", in: "household_spend", key: "7", at: noon.advanced(by: 1)) == .double(2.5))
/// ```
public final class FeatureTest {
    private let catalog: CatalogPlan
    private let engine: ShardEngine
    private let store: Store
    private var seen: Set<[UInt8]> = []
    private var sequence: Int64 = 0

    /// - Throws: `DefinitionError` for definitions that cannot work.
    public init(@CatalogBuilder _ catalog: () -> Catalog) throws {
        self.catalog = try CatalogPlan(catalog())
        engine = ShardEngine(catalog: self.catalog, views: self.catalog.views.map { ViewRuntime($0) })
        store = .memory(MemoryStore())
    }

    private enum Store {
        case memory(MemoryStore)
        case online(OnlineStore)
    }

    /// Keeps the state in an online store of one shard on disk, without a history: for benchmarks. Each `add` is one synced transaction.
    ///
    /// - Parameter directory: is made where there is none.
    public init(onlineStore directory: String, @CatalogBuilder _ catalog: () -> Catalog) throws {
        self.catalog = try CatalogPlan(catalog())
        let online = try OnlineStore(directory: directory, catalog: self.catalog, shards: 1, mode: .write(isSynced: true))
        engine = ShardEngine(catalog: self.catalog, views: online.runtimes)
        store = .online(online)
    }

    /// Entities of all views, and the bytes of their keys and values, of an online store. Reads all of it.
    public func size() throws -> (entities: Int, bytes: Int) {
        guard case .online(let online) = store else { return (0, 0) }
        let views = try online.statistics()
        return (views.reduce(0) { $0 + $1.entities }, views.reduce(0) { $0 + $1.bytes })
    }

    /// Adds events in any order. Further copies of an event count once.
    public func add<E: Event>(_ events: [E]) throws {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .custom { path in WireKey(wireName(path[path.count - 1].stringValue)) }
        try add(E.stream, json: events.map { Array(try encoder.encode($0)) })
    }

    /// Adds events as JSON objects.
    public func add(_ streamName: String, json events: [[UInt8]]) throws {
        try add(DecodedEvents(batch: try decode(streamName, events)))
    }

    /// Events that were decoded and not yet added: so that a benchmark can time one and the other.
    public struct DecodedEvents: Sendable {
        let batch: PreparedBatch
        public var count: Int { batch.count }
    }

    /// Decodes whole lines of JSON.
    ///
    /// - Throws: `TestFailure` for the first malformed event.
    public func decode(_ streamName: String, lines: UnsafeRawBufferPointer) throws -> DecodedEvents {
        guard let stream = catalog.stream(named: streamName) else { throw TestFailure("unknown stream '\(streamName)'") }
        var reader = JSONLinesReader(schema: stream.schema)
        var records = RecordBatch(schema: stream.schema)
        _ = reader.parse(lines, isLast: true, baseOffset: 0, into: &records)
        let batch = stream.prepare(records)
        if let malformed = batch.records.malformed.first { throw TestFailure("event of \(streamName): \(malformed.reason)") }
        return DecodedEvents(batch: batch)
    }

    /// Decodes whole lines of CSV.
    ///
    /// - Parameter header: the file's first line.
    /// - Throws: `TestFailure` for the first malformed event.
    public func decode(_ streamName: String, csv lines: UnsafeRawBufferPointer, header: [UInt8]) throws -> DecodedEvents {
        guard let stream = catalog.stream(named: streamName) else { throw TestFailure("unknown stream '\(streamName)'") }
        var reader = CSVRecordParser(schema: stream.schema)
        var records = RecordBatch(schema: stream.schema)
        do {
            _ = try header.withUnsafeBytes { try reader.parse($0, isLast: true, baseOffset: 0, into: &records, recordsMax: 0) }
            _ = try reader.parse(lines, isLast: true, baseOffset: 0, into: &records)
        } catch {
            throw TestFailure("header of \(streamName): \(error)")
        }
        let batch = stream.prepare(records)
        if let malformed = batch.records.malformed.first { throw TestFailure("event of \(streamName): \(malformed.reason)") }
        return DecodedEvents(batch: batch)
    }

    /// Adds decoded events. Further copies of an event count once.
    ///
    /// - Parameter areNew: there are no copies among them, which is not looked for.
    public func add(_ events: DecodedEvents, areNew: Bool = false) throws {
        var batch = events.batch
        let stream = catalog.stream(named: batch.records.schema.name)!
        var rows: [Int] = []
        for row in 0..<batch.count where areNew || !stream.hasIDs || seen.insert(identity(batch, row)).inserted { rows.append(row) }
        if !stream.hasIDs {
            batch.assignSequenceIDs(rows: rows, sequences: rows.indices.map { sequence + Int64($0) + 1 })
            sequence += Int64(rows.count)
        }
        let slice = Sharding.slices(of: batch, rows: rows, shards: 1)[0]
        let numbers = stream.views.map { view in catalog.views.firstIndex { $0 === view }! }
        switch store {
        case .memory(let memory): try engine.apply(slice, of: batch, viewNumbers: numbers, to: memory)
        case .online(let online): try online.write(shard: 0) { try engine.apply(slice, of: batch, viewNumbers: numbers, to: $0) }
        }
    }

    private func identity(_ batch: PreparedBatch, _ row: Int) -> [UInt8] {
        var writer = ByteWriter()
        writer.writeString(batch.records.schema.name)
        writer.write(batch.times[row])
        writer.write(batch.keyHashes[row])
        batch.ids.withText(row) { writer.writeBytes($0) }
        return writer.bytes
    }

    private func decode(_ streamName: String, _ events: [[UInt8]]) throws -> PreparedBatch {
        guard let stream = catalog.stream(named: streamName) else { throw TestFailure("unknown stream '\(streamName)'") }
        var parser = JSONRecordParser(schema: stream.schema)
        var records = RecordBatch(schema: stream.schema)
        for event in events { parser.append(event, to: &records, offset: 0) }
        let batch = stream.prepare(records)
        if let malformed = batch.records.malformed.first { throw TestFailure("event of \(streamName): \(malformed.reason)") }
        return batch
    }

    /// All features of a view for one entity at a time, by name, in the order of their definition.
    ///
    /// - Parameter key: as in `HMGET view:key`.
    public func values(of view: String, key: String, at time: EventTime) throws -> [(name: String, value: FeatureValue)] {
        guard let number = catalog.viewNumber(view) else { throw TestFailure("unknown view '\(view)'") }
        let plan = catalog.views[number]
        guard let key = plan.canonicalKey(key) else { throw TestFailure("'\(key)' is no key of \(plan.entity)") }
        let results = try evaluate(number, key: key, AsOf(time), session: nil)
        return zip(plan.features, results).map { ($0.name, $1.value) }
    }

    /// One feature of a view.
    public func value(of feature: String, in view: String, key: String, at time: EventTime) throws -> FeatureValue {
        guard let found = try values(of: view, key: key, at: time).first(where: { $0.name == feature }) else {
            throw TestFailure("unknown feature '\(feature)' of \(view)")
        }
        return found.value
    }

    /// What a service answers to a request, given as JSON, perhaps with events of the running session.
    public func answer<E: Event>(
        _ service: String, _ request: String, at time: EventTime, session: [E]
    ) throws -> [(name: String, value: FeatureValue)] {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .custom { path in WireKey(wireName(path[path.count - 1].stringValue)) }
        return try answer(service, request, at: time, sessionStream: E.stream, sessionJSON: session.map { Array(try encoder.encode($0)) })
    }

    /// What a service answers to a request, given as JSON.
    public func answer(_ service: String, _ request: String, at time: EventTime) throws -> [(name: String, value: FeatureValue)] {
        try answer(service, request, at: time, sessionStream: nil, sessionJSON: [])
    }

    private func answer(
        _ service: String, _ request: String, at time: EventTime, sessionStream: String?, sessionJSON: [[UInt8]]
    ) throws -> [(name: String, value: FeatureValue)] {
        guard let plan = catalog.service(named: service) else { throw TestFailure("unknown service '\(service)'") }
        var parser = JSONRecordParser(schema: plan.requestSchema, unknownFields: .rejected)
        var records = RecordBatch(schema: plan.requestSchema)
        parser.append(Array(request.utf8), to: &records, offset: 0)
        if let malformed = records.malformed.first { throw TestFailure("request of \(service): \(malformed.reason)") }
        let decoder = plan.makeRowDecoder(plan.requestSchema)
        decoder.load(records)
        let decoded = try decoder.decode(row: 0)
        let batch = try sessionStream.map { try decode($0, sessionJSON) }
        let joined = try plan.joins.map { join in
            let number = catalog.views.firstIndex { $0 === join.view }!
            guard let key = join.key(decoded) else { return try engine.views[number].emptyEvaluation(asOf: AsOf(time)).results }
            let viewIndex = catalog.stream(named: join.view.stream)!.viewIndex(join.view.name)!
            let session = SessionEvents(batch.map { [$0] } ?? []).rows(of: join.view, viewIndex: viewIndex, key: key)
            return try evaluate(number, key: key, AsOf(time), session: session)
        }
        return plan.outputs.map { ($0.name, $0.computation.value(decoded) { joined[$0][$1].value }) }
    }

    private func evaluate(_ view: Int, key: String, _ asOf: AsOf, session: EventRows?) throws -> [FeatureResult] {
        // Nothing expires here, so that there is always an answer.
        switch store {
        case .memory(let memory):
            try engine.views[view].evaluate(nodes: memory.nodes(view: view, key: key), asOf: asOf, session: session, keptFrom: .min)!
                .results
        case .online(let online):
            try online.withReader { reader in
                try reader.withEntity(view: view, key: key) { nodes, keptFrom in
                    try engine.views[view].evaluate(nodes: nodes, asOf: asOf, session: session, keptFrom: keptFrom)!.results
                }
            }
        }
    }
}

/// Why a feature test cannot go on.
public struct TestFailure: Error, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
}

private struct WireKey: CodingKey {
    let stringValue: String
    init(_ name: String) { stringValue = name }
    init?(stringValue: String) { self.stringValue = stringValue }
    var intValue: Int? { nil }
    init?(intValue: Int) { nil }
}
