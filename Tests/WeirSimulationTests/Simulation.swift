import Weir
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirPipeline
import WeirRecords
import WeirSources
import WeirTesting

/// What a run found to be wrong.
struct Failure: Error, CustomStringConvertible {
    let description: String
}

private func expect(_ condition: Bool, _ message: @autoclosure () -> String) throws {
    if !condition { throw Failure(description: message()) }
}

/// One run: the engine of production over a simulated log, clock and disks, through whatever the seed brings.
final class Simulation {
    /// What can happen next; each run draws its own weights, so that runs differ in kind ("swarm testing", Groce et al., ISSTA 2012).
    private enum Action: CaseIterable {
        case produce, poll, commit, apply, tick, publish, look, kill, cutPower, growPartitions, trim, rebuild
    }

    /// What a process has in memory.
    private struct Process {
        var arbiter: Arbiter
        var reader: TopicReader<SimulatedConsumer>
        var input: [IncomingBatch] = []
        var queues: [[ShardWork]]
        var publisher: OutputPublisher<SimulatedOutputTopics>
    }

    private let bug: PlantedBug?
    private var random: SeededGenerator
    private let settings: Settings
    private let catalog: CatalogPlan
    private let views: [ViewRuntime]
    private let engine: ShardEngine
    private let isSynced: Bool
    private var isDraining = false

    // The disks and the broker.
    private var history = SimulatedHistory()
    private var earlierHistories: [SimulatedHistory] = []
    private var shards: [SimulatedShard]
    private let broker = SimulatedBroker()
    private let topics = SimulatedOutputTopics()
    // The clocks.
    private var wall = Simulation.epoch + 12 * 60 * Model.minute
    private var monotonic: Int64 = 0
    private var process: Process?
    // What was sent.
    private var sent: [ModelEvent] = []
    private var copies = 0
    private var malformed = 0
    private var messages = 0

    private static let epoch: Int64 = 1_700_000_000_000_000
    private static let topicNames = ["sales", "clicks"]

    init(seed: UInt64, bug: PlantedBug? = nil) throws {
        self.bug = bug
        var random = SeededGenerator(seed: seed)
        var settings = Settings()
        settings.disorder = [.zero, .minutes(5), .hours(1)].randomElement(using: &random)!
        settings.idleTimeout = [.seconds(30), .minutes(5), nil].randomElement(using: &random)!
        settings.alignment = [.hours(1), .hours(4), nil].randomElement(using: &random)!
        settings.lateness = Int.random(in: 0..<5, using: &random) == 0 ? .hours(2) : nil
        settings.maxAhead = Int.random(in: 0..<4, using: &random) == 0 ? .days(30) : nil
        settings.allowedLateness = [.zero, .minutes(30)].randomElement(using: &random)!
        self.settings = settings
        catalog = try Settings.$current.withValue(settings) { try simulatedCatalog() }
        // Small leaves, so that few events make tall trees.
        let leafRows = [2, 3, 8, 128].randomElement(using: &random)!
        let headRows = [0, 1, 3, 64].randomElement(using: &random)!
        views = catalog.views.map { ViewRuntime($0, leafRowsMax: leafRows, headRowsMax: headRows) }
        engine = ShardEngine(catalog: catalog, views: views)
        isSynced = Int.random(in: 0..<4, using: &random) != 0
        let viewCount = catalog.views.count
        shards = (0..<Int.random(in: 1...4, using: &random)).map { _ in SimulatedShard(state: ShardState(views: viewCount)) }
        for topic in Self.topicNames { broker.topics[topic] = Array(repeating: .init(), count: Int.random(in: 1...4, using: &random)) }
        self.random = random
    }

    private func choose(_ count: Int) -> Int { isDraining ? count - 1 : Int.random(in: 0..<count, using: &random) }
    private func oneIn(_ count: Int) -> Bool { !isDraining && Int.random(in: 0..<count, using: &random) == 0 }

    func run() throws {
        var weights = Action.allCases.map { _ in [0.2, 1, 1, 3].randomElement(using: &random)! }
        for (index, action) in Action.allCases.enumerated() {
            switch action {
            case .produce, .poll, .commit, .apply: weights[index] *= 4
            case .rebuild, .growPartitions, .cutPower, .kill: weights[index] *= oneIn(3) ? 0 : 0.4
            case .tick, .publish, .look, .trim: break
            }
        }
        let total = weights.reduce(0, +)
        for _ in 0..<Int.random(in: 40...260, using: &random) {
            var point = Double.random(in: 0..<total, using: &random)
            let index = weights.firstIndex { weight in
                point -= weight
                return point < 0
            }
            try perform(Action.allCases[index ?? 0])
        }
        try drain()
        try check()
    }

    private func perform(_ action: Action) throws {
        switch action {
        case .produce: produce()
        case .poll: try poll()
        case .commit: try commit()
        case .apply: try apply(shard: choose(shards.count))
        case .tick: try tick()
        case .publish: try publish()
        case .look: try look()
        case .kill: process = nil
        case .cutPower: cutPower()
        case .growPartitions:
            let topic = Self.topicNames[choose(2)]
            if broker.topics[topic]!.count < 6 { broker.topics[topic]!.append(.init()) }
        case .trim:
            // Retention takes what was read long ago.
            guard let source = history.sources.randomElement(using: &random), isSynced else { return }
            broker.trim(topic: source.name, partition: Int(source.partition), before: history.positions[source]!)
        case .rebuild: try rebuild()
        }
    }

    // MARK: The log

    private func produce() {
        for _ in 0...choose(6) {
            messages += 1
            let topic = oneIn(4) ? "clicks" : "sales"
            let partition = choose(broker.topics[topic]!.count)
            if oneIn(30) {
                malformed += 1
                broker.append([#"{"id":"#, "[]", #"{"store":"x"}"#][choose(3)], topic: topic, partition: partition)
                continue
            }
            if topic == "sales", oneIn(8), let copy = sent.filter({ $0.stream == "sales" }).randomElement(using: &random) {
                copies += 1
                broker.append(copy.json, topic: topic, partition: partition)
                continue
            }
            let event = event(topic)
            sent.append(event)
            broker.append(event.json, topic: topic, partition: partition)
        }
    }

    private func event(_ stream: String) -> ModelEvent {
        // Time goes on with what is sent; events scatter around it, and some are far off.
        var time = Self.epoch + Int64(min(sent.count, 240)) * 3 * Model.minute
        switch choose(12) {
        case 0: time -= Int64(choose(600)) * Model.minute
        case 1: time = Model.floor(time, 10 * Model.minute)
        case 2: time = sent.last?.time ?? time
        case 3: time = (sent.last?.time ?? time) + Model.gap
        case 4: time += oneIn(6) ? 3_650 * 1_440 * Model.minute : 1
        default: time += Int64(choose(8 * 60)) * 1_000_000
        }
        let customer = stream == "sales" && oneIn(12) ? nil : "c\(choose(4))"
        return ModelEvent(
            stream: stream, time: time, id: stream == "sales" ? "s\(sent.count)" : "", customer: customer, store: choose(3),
            price: Double(choose(400)) / 4, label: "l\(choose(5))", number: stream == "sales" ? 0 : Int64(sent.count))
    }

    // MARK: The process

    /// Starts the process unless it runs. It may die on the way.
    private func start() throws -> Bool {
        if process != nil { return true }
        do {
            try catchUp()
        } catch is CatchUpError {
            // The history lost more than the shards did: what the message advises.
            try expect(!isSynced, "a synced history lost commits")
            shards = shards.map { _ in SimulatedShard(state: ShardState(views: views.count)) }
            return false
        } catch is Interruption {
            return false
        }
        let consumer = SimulatedConsumer(broker) { [unowned self] in choose($0) }
        var streams: [String: any StreamPlan] = [:]
        for stream in catalog.streams { streams[stream.name] = stream }
        process = Process(
            arbiter: Arbiter(
                catalog: catalog, views: views, lastSequence: history.lastSequence, restored: history.restored(catalog)),
            reader: TopicReader(consumer: consumer, streams: streams, start: .earliest) { [unowned self] in history.positions[$0] },
            queues: shards.map { _ in [] }, publisher: try OutputPublisher(topics))
        return true
    }

    private var watermarks: [Int64] { catalog.views.map { history.watermarks[$0.stream] ?? .min } }
    private var latestEventTime: Int64 { history.rows.map { $0.batch.times[$0.row] }.max() ?? .min }

    private func catchUp() throws {
        try engine.catchUp(
            Disks(simulation: self), from: SimulatedLog(history: history, catalog: catalog), upTo: history.lastSequence,
            latestEventTime: latestEventTime, watermarks: watermarks
        ) { _ in if oneIn(20) { throw Interruption(kind: .crash) } }
    }

    private struct Disks: ShardSet {
        let simulation: Simulation
        var shardCount: Int { simulation.shards.count }
        func states() throws -> [ShardState] { simulation.shards.map(\.state) }
        func write(shard: Int, _ body: (SimulatedShardTransaction) throws -> Void) throws { try simulation.write(shard: shard, body) }
    }

    private func write(shard: Int, _ body: (SimulatedShardTransaction) throws -> Void) throws {
        let transaction = SimulatedShardTransaction(shards[shard], views: views, bug: bug)
        try body(transaction)
        if oneIn(25) { throw Interruption(kind: .crash) }
        shards[shard].unsynced.append(SnapshotOfShard(state: shards[shard].state, tables: shards[shard].tables))
        // Synced commits last, except that the last one's root may be lost (MDB_NOMETASYNC).
        shards[shard].unsynced = Array(shards[shard].unsynced.suffix(isSynced ? 1 : 4))
        if bug == .forgottenPosition { transaction.state.appliedSequence = shards[shard].state.appliedSequence }
        shards[shard].state = transaction.state
        shards[shard].tables = transaction.tables
        if oneIn(40) { throw Interruption(kind: .crash) }
    }

    private func cutPower() {
        process = nil
        for number in shards.indices {
            let back = choose(shards[number].unsynced.count + 1)
            if back > 0 {
                let snapshot = shards[number].unsynced[shards[number].unsynced.count - back]
                shards[number].state = snapshot.state
                shards[number].tables = snapshot.tables
            }
            shards[number].unsynced = []
        }
        if !isSynced, !earlierHistories.isEmpty { history = earlierHistories[choose(earlierHistories.count)] }
        earlierHistories = []
    }

    private func rebuild() throws {
        process = nil
        shards = (0..<(oneIn(2) ? choose(4) + 1 : shards.count)).map { _ in SimulatedShard(state: ShardState(views: views.count)) }
        _ = try start()
    }

    private func poll() throws {
        guard try start(), process!.input.count < 12 else { return }
        var reader = process!.reader
        var batches: [IncomingBatch] = []
        if oneIn(6) || reader.isEmpty || isDraining {
            for topic in Self.topicNames {
                try reader.findPartitions(topic: topic, ingestTime: wall) { batches.append($0) }
            }
        }
        _ = try reader.poll(timeoutMilliseconds: 0, ingestTime: wall) { batches.append($0) }
        process!.reader = reader
        process!.input += batches
    }

    /// Runs a transaction of the history. Returns nil where it did not come to its end.
    private func transaction<R>(
        _ body: (inout Arbiter, SimulatedHistoryTransaction, inout Process) throws -> R
    ) throws -> R? {
        let isInterrupted = oneIn(12)
        let transaction = SimulatedHistoryTransaction(
            history, catalog: catalog, interruption: Interruption(kind: oneIn(3) ? .refusal : .crash),
            after: isInterrupted ? choose(12) : nil)
        if bug == .positionsBeforeState { transaction.leak = { [unowned self] in history.positions[$0] = $1 } }
        var process = self.process!
        let before = process.arbiter
        do {
            var arbiter = before
            let result = try body(&arbiter, transaction, &process)
            process.arbiter = arbiter
            if bug != .outputsForgottenFirst {
                let taken = process.publisher.taken
                transaction.state.outputs.removeAll { $0.number <= taken }
            }
            if oneIn(25) { throw Interruption(kind: .crash) }
            try expect(
                history.watermarks.allSatisfy { transaction.state.watermarks[$0.key] ?? .min >= $0.value }, "a stored watermark went back")
            earlierHistories = (earlierHistories + [history]).suffix(3)
            history = transaction.state
            self.process = oneIn(40) ? nil : process
            return result
        } catch let interruption as Interruption {
            // A disk that refuses leaves everything as it was, and the batch waits.
            before.forget()
            if interruption.kind == .crash { self.process = nil }
            return nil
        }
    }

    private func commit() throws {
        guard try start(), let waiting = process?.input, !waiting.isEmpty, process!.queues.allSatisfy({ $0.count < 10 }) else { return }
        let count = choose(min(3, waiting.count)) + 1
        let accepted: [AcceptedBatch]? = try transaction { arbiter, transaction, process in
            var summary = CommitSummary()
            let accepted = try waiting.prefix(count).map { try arbiter.take($0, now: monotonic, in: transaction, &summary) }
            try arbiter.writeUpdates(in: transaction)
            process.input.removeFirst(count)
            return accepted
        }
        if let accepted { dispatch(accepted) }
    }

    private func dispatch(_ accepted: [AcceptedBatch]) {
        guard process != nil else { return }
        let works = engine.works(
            accepted, shards: shards.count, sequence: process!.arbiter.lastSequence,
            latestEventTime: process!.arbiter.latestEventTime ?? .min,
            watermarks: catalog.views.map { process!.arbiter.watermark(of: $0.stream) ?? .min })
        for (shard, work) in works.enumerated() { process!.queues[shard].append(work) }
    }

    private func apply(shard: Int) throws {
        guard let queue = process?.queues[shard], !queue.isEmpty else { return }
        let count = choose(queue.count) + 1
        do {
            try write(shard: shard) { try engine.apply(Array(queue.prefix(count)), to: $0) }
            process!.queues[shard].removeFirst(count)
        } catch is Interruption {
            process = nil
        }
    }

    private func tick() throws {
        let step = Int64(choose(oneIn(5) ? 120 : 10)) * 1_000_000
        monotonic += step
        wall += oneIn(10) ? -step * 60 : step
        guard process != nil, process!.arbiter.check(now: monotonic) else { return }
        let isMoved: Bool? = try transaction { arbiter, transaction, _ in
            try arbiter.advance(in: transaction)
            return true
        }
        if isMoved != nil { dispatch([]) }
    }

    private func publish() throws {
        guard process != nil else { return }
        if oneIn(8) { topics.interruption = (oneIn(2), Interruption(kind: .crash)) }
        do {
            _ = try process!.publisher.publish { after, limit in
                let batch = Array(history.outputs.filter { $0.number > after }.prefix(limit))
                if bug == .outputsForgottenFirst, let last = batch.last { history.outputs.removeAll { $0.number <= last.number } }
                return batch
            }
        } catch is Interruption {
            process = nil
        }
        topics.interruption = nil
    }

    // MARK: Looking

    private func stored(upTo sequence: Int64) -> [ModelEvent] {
        history.rows.filter { $0.sequence <= sequence }.map { row in
            let views = row.batch.views
            let time = row.batch.times[row.row]
            func text(_ field: String) -> String {
                let records = row.batch.records
                if case .text(let start, let count) = records.cell(
                    row: row.batch.recordRows[row.row], field: records.schema.index(of: field)!)
                {
                    return records.string(start: start, count: count)
                }
                return ""
            }
            func cell(_ field: String) -> Cell {
                let records = row.batch.records
                return records.cell(row: row.batch.recordRows[row.row], field: records.schema.index(of: field)!)
            }
            let customer = views[0].keys.isNull(row.row) ? nil : text("customer")
            guard row.stream == "sales" else {
                guard case .int64(let weight) = cell("weight") else { preconditionFailure() }
                return ModelEvent(
                    stream: "clicks", time: time, id: "", customer: customer, store: Int(weight), price: 0, label: "", number: row.sequence)
            }
            guard case .int64(let store) = cell("store"), case .float64(let price) = cell("price") else { preconditionFailure() }
            return ModelEvent(
                stream: "sales", time: time, id: text("id"), customer: customer, store: Int(store), price: price, label: text("label"))
        }
    }

    /// Lookups against a scan: what each shard answers, wherever it is just now, with and without a session.
    private func look() throws {
        // Behind a power cut that took more from the history than from the shards, until the next start finds it out.
        if shards.contains(where: { $0.state.appliedSequence > history.lastSequence }) { return }
        for _ in 0..<4 {
            let number = choose(views.count)
            let view = views[number]
            let key = view.plan.name == "store_sales" ? String(choose(3)) : "c\(choose(4))"
            var time = Self.epoch + Int64(choose(14 * 60)) * Model.minute
            if oneIn(2), let event = history.rows.randomElement(using: &random) {
                time = event.batch.times[event.row] + [0, 1, Model.gap, 60 * Model.minute][choose(4)]
            }
            let shard = shards[Sharding.shard(ofKey: key, count: shards.count)]
            let nodes = SimulatedReader(table: shard.tables[EntityID(view: number, key: Array(key.utf8))] ?? NodeTable())
            var session: [ModelEvent] = []
            if view.plan.name == "spend", oneIn(2) {
                let known = stored(upTo: .max).filter { $0.stream == "sales" && $0.customer == key }
                for index in 0..<choose(4) {
                    if let copy = known.randomElement(using: &random), oneIn(2) {
                        session.append(copy)
                    } else {
                        session.append(
                            ModelEvent(
                                stream: "sales", time: time - Int64(choose(30)) * Model.minute, id: "x\(index)", customer: key, store: 1,
                                price: 2.5, label: "session"))
                    }
                }
            }
            let overlay = try rows(session, of: view.plan)
            let asOf = AsOf(EventTime(microseconds: time))
            let got: [FeatureValue]
            let base: [ModelEvent]
            if let evaluation = try view.evaluate(nodes: nodes, asOf: asOf, session: overlay, keptFrom: shard.state.keptFrom[number]) {
                got = evaluation.results.map(\.value)
                base = stored(upTo: shard.state.appliedSequence)
            } else {
                // It has expired: the history answers.
                let rows = history.eventRows(
                    of: view.plan, in: catalog, key: key, from: view.earliestReach(asOf: asOf), to: asOf.end)
                got = try view.evaluate(rows: rows, asOf: asOf, session: overlay).results.map(\.value)
                base = stored(upTo: .max)
            }
            let expected = Model.values(view.plan.name, key: key, at: time, stored: base, session: session)
            try expect(
                got == expected, "\(view.plan.name):\(key) at \(time) with \(session.count) session events: \(got), expected \(expected)")
        }
    }

    private func rows(_ events: [ModelEvent], of view: ViewPlan) throws -> EventRows? {
        if events.isEmpty { return nil }
        let stream = catalog.stream(named: view.stream)!
        var parser = JSONRecordParser(schema: stream.schema)
        var records = RecordBatch(schema: stream.schema)
        for event in events { parser.append(Array(event.json.utf8), to: &records, offset: 0) }
        let batch = stream.prepare(records)
        try expect(batch.records.malformed.isEmpty, "\(batch.records.malformed)")
        var rows = EventRows(columns: view.columns)
        for row in 0..<batch.count { rows.append(batch, view: stream.viewIndex(view.name)!, row: row) }
        return rows.sorted()
    }

    // MARK: The end

    /// Lets everything come through.
    private func drain() throws {
        isDraining = true
        for _ in 0..<10_000 {
            try poll()
            while process.map({ !$0.input.isEmpty }) ?? true {
                try commit()
                for shard in shards.indices { try apply(shard: shard) }
            }
            let isRead = Self.topicNames.allSatisfy { topic in
                broker.topics[topic]!.indices.allSatisfy { partition in
                    let source = SourcePart(kind: .kafka, name: topic, partition: Int32(partition), stream: topic)
                    return history.positions[source] == broker.topics[topic]![partition].end
                }
            }
            if isRead { break }
        }
        // Everything is idle at last.
        for _ in 0..<3 {
            monotonic += 10_000_000_000
            try tick()
        }
        for shard in shards.indices { try apply(shard: shard) }
        try publish()
        isDraining = false
    }

    private func check() throws {
        let accepted = stored(upTo: .max)
        let letters = history.letters
        // Nothing lost, nothing twice.
        let late = letters.filter { $0.kind == .tooLate }.count
        let ahead = letters.filter { $0.kind == .aheadOfTime }.count
        try expect(
            letters.count == malformed + late + ahead,
            "\(letters.count) dead letters, sent \(malformed) malformed, \(late) too late, \(ahead) ahead of time")
        let sales = sent.filter { $0.stream == "sales" && (settings.maxAhead == nil || $0.time < Self.epoch + 1_440 * 30 * Model.minute) }
        let duplicates = history.counters["sales duplicates"] ?? 0
        try expect(
            accepted.count + duplicates + letters.count == messages,
            "\(messages) messages; \(accepted.count) accepted, \(duplicates) copies, \(letters.count) dead letters; missing \(Set(sent.map(\.json)).subtracting(accepted.map(\.json))), read to \(history.positions)"
        )
        if settings.lateness == nil {
            try expect(late == 0, "\(late) too late where the stream allows all")
            // Events from the far future are refused, and so are their copies, where the stream says how far ahead they may be.
            try expect(
                duplicates == copies - (ahead - (sent.count { $0.stream == "sales" } - sales.count)), "\(duplicates) copies, sent \(copies)"
            )
            try expect(Set(accepted.filter { $0.stream == "sales" }) == Set(sales), "other sales than were sent")
            func anonymous(_ events: [ModelEvent]) -> [String] { events.filter { $0.stream == "clicks" }.map(\.json).sorted() }
            try expect(anonymous(accepted) == anonymous(sent), "other clicks than were sent")
        }
        for (number, shard) in shards.enumerated() {
            let sequence = shard.state.appliedSequence
            try expect(sequence == history.lastSequence, "shard \(number) is at \(sequence), the history at \(history.lastSequence)")
        }
        for _ in 0..<10 { try look() }
        try checkClosedWindows(accepted)
    }

    private func checkClosedWindows(_ accepted: [ModelEvent]) throws {
        let closed = Dictionary(grouping: history.closed) { [$0.series.window, $0.record.key, "\($0.record.start)", "\($0.record.end)"] }
        var final: Set<Model.ClosedWindow> = []
        for revisions in closed.values {
            let last = revisions.max { $0.record.revision < $1.record.revision }!
            try expect(Set(revisions.map(\.record.revision)).count == revisions.count, "two closed windows of one revision")
            guard let values = last.values else { continue }
            let kind = String(last.series.window.prefix { $0 != "(" })
            final.insert(.init(kind: kind, key: last.record.key, start: last.record.start, end: last.record.end, values: values))
        }
        let expected = Model.closedWindows(
            accepted, watermark: history.watermarks["sales"] ?? .min, allowedLateness: settings.allowedLateness.wholeMicroseconds!)
        try expect(
            final == expected,
            "closed windows: \(final.subtracting(expected)) instead of \(expected.subtracting(final)), watermark \(history.watermarks)")
        // A power cut takes from an unsynced history what the topic has.
        guard isSynced else { return }
        let firsts = history.closed.filter { $0.record.revision == 0 && $0.values != nil }
        let windows = topics.records.filter { $0.record.topic == "spend-windows" }
        try expect(windows.count == firsts.count, "\(windows.count) records in the topic, \(firsts.count) windows that closed")
        try expect(Set(windows.map(\.record)).count == windows.count, "a record is twice in the topic")
        try expect(topics.records.map(\.number) == Array(1..<history.nextOutput), "output records are missing or twice")
        for (store, own) in Dictionary(grouping: accepted.filter { $0.stream == "sales" }, by: \.store) {
            let latest = own.map(\.time).max()!
            let values = Model.values("store_sales", key: "\(store)", at: latest, stored: own, session: own)
            let value = """
                {"view":"store_sales","entity_key":"\(store)","as_of":"\(TimeText.format(EventTime(microseconds: latest)))",\
                "features":{"count_1h":\(values[0].json),"sum_2h":\(values[1].json)}}
                """
            let last = topics.records.last { $0.record.topic == "store-sales" && $0.record.key == "\(store)" }
            try expect(
                last?.record.value == value, "the last update of store \(store) is \(last?.record.value ?? "none"), expected \(value)")
        }
    }
}
