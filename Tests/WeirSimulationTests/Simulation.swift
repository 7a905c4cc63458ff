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
        case produce, poll, commit, apply, tick, publish, look, kill, cutPower, growPartitions, trim, trimUnread, rebuild
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
    private var wall = Simulation.epoch + 12 * 60 * Model.minute {
        didSet { wallRange = min(wallRange.lowerBound, wall)...max(wallRange.upperBound, wall) }
    }
    private var monotonic: Int64 = 0
    private var process: Process?
    // What was sent.
    private var sent: [ModelEvent] = []
    /// How often each message of the sales was sent: events, copies, and copies that were altered.
    private var sentSales: [ModelEvent: Int] = [:]
    private var malformed = 0
    private var messages = 0
    /// The topic that each stream is read from now.
    private var topicNames = ["sales": "sales", "clicks": "clicks"]
    private var files = 0
    /// Between which the wall clock has been.
    private var wallRange: ClosedRange<Int64>

    private static let epoch: Int64 = 1_700_000_000_000_000
    private static let streamNames = ["sales", "clicks"]

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
        settings.revisionsFor = [nil, nil, .zero, .hours(2)].randomElement(using: &random)!
        settings.emits = Int.random(in: 0..<3, using: &random) == 0 ? .updates : .final
        settings.timeToLive = [nil, nil, .hours(2), .hours(5)].randomElement(using: &random)!
        self.settings = settings
        wallRange = wall...wall
        catalog = try Settings.$current.withValue(settings) { try simulatedCatalog() }
        // Small leaves, so that few events make tall trees.
        let leafRows = [2, 3, 8, 128].randomElement(using: &random)!
        let headRows = [0, 1, 3, 64].randomElement(using: &random)!
        views = catalog.views.map { ViewRuntime($0, leafRowsMax: leafRows, headRowsMax: headRows) }
        engine = ShardEngine(catalog: catalog, views: views)
        isSynced = Int.random(in: 0..<4, using: &random) != 0
        let viewCount = catalog.views.count
        shards = (0..<Int.random(in: 1...4, using: &random)).map { _ in SimulatedShard(state: ShardState(views: viewCount)) }
        for topic in Self.streamNames { broker.topics[topic] = Array(repeating: .init(), count: Int.random(in: 1...4, using: &random)) }
        self.random = random
    }

    private func choose(_ count: Int) -> Int { isDraining ? count - 1 : Int.random(in: 0..<count, using: &random) }
    private func oneIn(_ count: Int) -> Bool { !isDraining && Int.random(in: 0..<count, using: &random) == 0 }

    func run() throws {
        var weights = Action.allCases.map { _ in [0.2, 1, 1, 3].randomElement(using: &random)! }
        for (index, action) in Action.allCases.enumerated() {
            switch action {
            case .produce, .poll, .commit, .apply: weights[index] *= 4
            case .trimUnread: weights[index] *= oneIn(2) ? 0 : 0.1
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
            let topic = topicNames[Self.streamNames[choose(2)]]!
            if broker.topics[topic]!.count < 6 { broker.topics[topic]!.append(.init()) }
        case .trim:
            // Retention takes what was read long ago.
            guard let source = history.sources.randomElement(using: &random), isSynced, source.kind == .kafka else { return }
            broker.trim(topic: source.name, partition: Int(source.partition), before: history.positions[source]!)
        case .trimUnread: try trimUnread()
        case .rebuild: try rebuild()
        }
    }

    // MARK: The log

    private func produce() {
        for _ in 0...choose(6) {
            messages += 1
            let stream = oneIn(4) ? "clicks" : "sales"
            let topic = topicNames[stream]!
            let partition = choose(broker.topics[topic]!.count)
            if oneIn(30) {
                malformed += 1
                broker.append([#"{"id":"#, "[]", #"{"store":"x"}"#][choose(3)], topic: topic, partition: partition)
                continue
            }
            if stream == "sales", oneIn(8), var copy = sent.filter({ $0.stream == "sales" }).randomElement(using: &random) {
                // Which of two contents of one event is the first depends on which comes first.
                if oneIn(4) { copy.price += 1 }
                sentSales[copy, default: 0] += 1
                broker.append(copy.json, topic: topic, partition: partition)
                continue
            }
            let event = event(stream)
            sent.append(event)
            if stream == "sales" { sentSales[event, default: 0] += 1 }
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
        for stream in catalog.streams { streams[topicNames[stream.name]!] = stream }
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
            for topic in topicNames.values.sorted() {
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
            let accepted = try waiting.prefix(count).map { incoming in
                var incoming = incoming
                if bug == .trustedFuture, settings.maxAhead == nil {
                    incoming.ingestTime = max(incoming.ingestTime, incoming.batch.times.max() ?? .min)
                }
                return try arbiter.take(incoming, now: monotonic, in: transaction, &summary)
            }
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

    /// Returns whether there may be more.
    @discardableResult
    private func publish() throws -> Bool {
        guard process != nil else { return false }
        defer { topics.interruption = nil }
        if oneIn(8) { topics.interruption = (oneIn(2), Interruption(kind: .crash)) }
        do {
            return try process!.publisher.publish { after, limit in
                let batch = Array(history.outputs.filter { $0.number > after }.prefix(limit))
                if bug == .outputsForgottenFirst, let last = batch.last { history.outputs.removeAll { $0.number <= last.number } }
                return batch
            }
        } catch is Interruption {
            process = nil
            return false
        }
    }

    /// Retention takes what was not read yet: the process says so and ends. The operator does what it says: ingests what is missing
    /// from a file, and goes on with a topic of another name.
    private func trimUnread() throws {
        guard isSynced else { return }
        let candidates = history.sources.filter { source in
            source.kind == .kafka && topicNames[source.stream] == source.name
                && broker.topics[source.name]![Int(source.partition)].end > history.positions[source]!
        }
        guard let source = candidates.randomElement(using: &random) else { return }
        let (stream, topic) = (source.stream, source.name)
        process = nil
        // What the operator has elsewhere: everything that was not read of the topic.
        let parts = broker.topics[topic]!.enumerated().map { partition, log in
            let part = SourcePart(kind: .kafka, name: topic, partition: Int32(partition), stream: stream)
            return Array(log.messages.dropFirst(Int((history.positions[part] ?? log.first) - log.first)))
        }
        let position = history.positions[source]!
        let log = broker.topics[topic]![Int(source.partition)]
        broker.trim(topic: topic, partition: Int(source.partition), before: position + 1 + Int64(choose(Int(log.end - position))))
        while try !start() {}
        var reader = process!.reader
        for topic in topicNames.values.sorted() { try reader.findPartitions(topic: topic, ingestTime: wall) { _ in } }
        do {
            _ = try reader.poll(timeoutMilliseconds: 0, ingestTime: wall) { _ in }
            throw Failure(description: "\(topic)/\(source.partition) is read on past what retention took from \(position) on")
        } catch let error as DataDirectoryError {
            try expect(error.description.contains("\(topic)/\(source.partition) no longer has the offset \(position)"), "\(error)")
        }
        process = nil
        files += 1
        let plan = catalog.stream(named: stream)!
        var records = RecordBatch(schema: plan.schema)
        var parser = JSONRecordParser(schema: plan.schema)
        for (offset, message) in parts.joined().enumerated() { parser.append(message, to: &records, offset: Int64(offset)) }
        let file = SourcePart(kind: .file, name: "missing-\(files)", partition: 0, stream: stream)
        while history.positions[file] == nil {
            guard try start() else { continue }
            process!.input = [
                IncomingBatch(
                    batch: plan.prepare(records), source: file, nextOffset: Int64(parts.joined().count), ingestTime: wall, phase: .end)
            ]
            try commit()
            for shard in shards.indices { try apply(shard: shard) }
        }
        process = nil
        topicNames[stream] = "\(stream)-\(files)"
        broker.topics[topicNames[stream]!] = Array(repeating: .init(), count: choose(4) + 1)
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
            try look(view: number, key: key, at: time, session: session)
        }
    }

    private func look(view number: Int, key: String, at time: Int64, session: [ModelEvent]) throws {
        let view = views[number]
        let shard = shards[Sharding.shard(ofKey: key, count: shards.count)]
        let nodes = SimulatedReader(table: shard.tables[EntityID(view: number, key: Array(key.utf8))] ?? NodeTable())
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
        let expected = Model.values(
            view.plan.name, key: key, at: time, stored: base, session: session, timeToLive: settings.timeToLive?.wholeMicroseconds)
        try expect(
            got == expected, "\(view.plan.name):\(key) at \(time) with \(session.count) session events: \(got), expected \(expected)")
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
            let isRead = topicNames.allSatisfy { stream, topic in
                broker.topics[topic]!.indices.allSatisfy { partition in
                    let source = SourcePart(kind: .kafka, name: topic, partition: Int32(partition), stream: stream)
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
        while try publish() {}
        isDraining = false
    }

    private func check() throws {
        let accepted = stored(upTo: .max)
        let letters = history.letters
        // Nothing lost, nothing twice.
        func count(_ kind: DeadLetter.Kind) -> Int { letters.count { $0.kind == kind } }
        let (late, ahead, conflicts) = (count(.tooLate), count(.aheadOfTime), count(.conflictingDuplicate))
        try expect(
            count(.malformed) == malformed && letters.count == malformed + late + ahead + conflicts,
            "\(letters.count) dead letters, sent \(malformed) malformed, \(late) too late, \(ahead) ahead of time, \(conflicts) conflicts")
        let duplicates = history.counters["sales duplicates"] ?? 0
        try expect(
            accepted.count + duplicates + letters.count == messages,
            "\(messages) messages; \(accepted.count) accepted, \(duplicates) copies, \(letters.count) dead letters; missing \(Set(sent.map(\.json)).subtracting(accepted.map(\.json))), read to \(history.positions)"
        )
        let known = Set(accepted.map(\.json)).union(letters.map { String(decoding: $0.raw, as: UTF8.self) })
        let missing = Set(sent.map(\.json)).union(sentSales.keys.map(\.json)).subtracting(known)
        try expect(missing.isEmpty, "neither accepted nor a dead letter: \(missing)")
        try checkSales(accepted.filter { $0.stream == "sales" }, duplicates, late, conflicts)
        func anonymous(_ events: [ModelEvent]) -> [String] { events.filter { $0.stream == "clicks" }.map(\.json).sorted() }
        try expect(anonymous(accepted) == anonymous(sent), "other clicks than were sent")
        try checkTime(letters)
        for (number, shard) in shards.enumerated() {
            let sequence = shard.state.appliedSequence
            try expect(sequence == history.lastSequence, "shard \(number) is at \(sequence), the history at \(history.lastSequence)")
        }
        for _ in 0..<10 { try look() }
        // Every entity, at the latest event, just behind it, and when it has left the windows.
        let times = accepted.map(\.time)
        let latest = Set([times.max(), times.filter { $0 < Self.epoch + 1_440 * 30 * Model.minute }.max()].compactMap { $0 })
        for (number, view) in views.enumerated() {
            for key in view.plan.name == "store_sales" ? (0..<3).map(String.init) : (0..<4).map({ "c\($0)" }) {
                for time in latest.sorted() {
                    for later in [0, 1, 60 * Model.minute, 120 * Model.minute + 1] {
                        try look(view: number, key: key, at: time + later, session: [])
                    }
                }
            }
        }
        try checkClosedWindows(accepted)
    }

    /// Of each sale one content is accepted, the first that came: what equals it is a copy, the rest conflicts with it.
    private func checkSales(_ accepted: [ModelEvent], _ duplicates: Int, _ late: Int, _ conflicts: Int) throws {
        let contents = Dictionary(grouping: sentSales.keys, by: \.id)
        for event in accepted { try expect(sentSales[event] != nil, "accepted and never sent: \(event.json)") }
        let byID = Dictionary(accepted.map { ($0.id, $0) }) { first, _ in first }
        try expect(byID.count == accepted.count, "a sale was accepted twice")
        // A refused copy of an event may be too late where the event was not.
        guard settings.lateness == nil else { return }
        try expect(late == 0, "\(late) too late where the stream allows all")
        // Events from the far future are refused, and so are their copies, where the stream says how far ahead they may be.
        func isAllowed(_ event: ModelEvent) -> Bool {
            settings.maxAhead == nil || event.time < Self.epoch + 1_440 * 30 * Model.minute
        }
        let wanted = Set(contents.filter { isAllowed($0.value[0]) }.keys)
        try expect(Set(byID.keys) == wanted, "other sales than were sent: \(Set(byID.keys).symmetricDifference(wanted))")
        let copies = accepted.reduce(0) { $0 + sentSales[$1]! - 1 }
        try expect(duplicates == copies, "\(duplicates) copies, sent \(copies) of what was accepted")
        let others = accepted.reduce(0) { sum, event in
            sum + contents[event.id]!.reduce(0) { $0 + ($1 == event ? 0 : sentSales[$1]!) }
        }
        try expect(conflicts == others, "\(conflicts) conflicts, sent \(others) altered copies of what was accepted")
    }

    /// The watermark against the events that were sent: the engine's own would hide one that is wrong.
    private func checkTime(_ letters: [DeadLetter]) throws {
        let disorder = settings.disorder.wholeMicroseconds!
        for stream in Self.streamNames {
            let times = (sent + Array(sentSales.keys)).filter { $0.stream == stream }.map(\.time)
            let ahead = stream == "sales" ? settings.maxAhead?.wholeMicroseconds ?? Limits.watermarkAheadMax : Limits.watermarkAheadMax
            let watermark = history.watermarks[stream]
            // The wall clock goes back now and then: what it trusted at no time, and at all times.
            let highest = times.filter { $0 <= wallRange.upperBound + ahead }.max().map { $0 - disorder }
            if let watermark {
                try expect(
                    watermark <= highest ?? .min, "\(stream): the watermark \(watermark) is ahead of what was sent, \(highest ?? .min)")
            }
            // At last all inputs are idle, and the furthest one counts.
            if settings.idleTimeout != nil, let lowest = times.filter({ $0 <= wallRange.lowerBound + ahead }).max().map({ $0 - disorder }) {
                try expect(watermark ?? .min >= lowest, "\(stream): the watermark \(watermark ?? .min) stays behind \(lowest)")
            }
            guard stream == "sales", let lateness = settings.lateness?.wholeMicroseconds else { continue }
            let plan = catalog.stream(named: stream)!
            for letter in letters where letter.kind == .tooLate {
                var parser = JSONRecordParser(schema: plan.schema)
                var records = RecordBatch(schema: plan.schema)
                parser.append(letter.raw, to: &records, offset: 0)
                let time = plan.prepare(records).times[0]
                try expect(time < watermark! - lateness, "refused as too late at \(time), the watermark is \(watermark!)")
            }
        }
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
        let watermark = history.watermarks["sales"] ?? .min
        let allowed = settings.allowedLateness.wholeMicroseconds!
        /// Whether late events may have left a window as it is. A session's could be joined from some that they have left.
        func mayBeFrozen(_ window: Model.ClosedWindow) -> Bool {
            guard let revisionsFor = settings.revisionsFor?.wholeMicroseconds else { return false }
            let firstEnd = window.kind == "session" ? window.start + Model.gap + 1 : window.end
            return firstEnd + allowed + revisionsFor <= watermark
        }
        let expected = Model.closedWindows(
            accepted, watermark: watermark, allowedLateness: allowed, timeToLive: settings.timeToLive?.wholeMicroseconds)
        let misses = history.counters["sales late for a closed window"] ?? 0
        if misses == 0 {
            try expect(
                final == expected,
                "closed windows: \(final.subtracting(expected)) instead of \(expected.subtracting(final)), watermark \(history.watermarks)")
        } else {
            try expect(settings.revisionsFor != nil, "\(misses) events left windows as they were, where all are revised")
            /// A late event that touches a session which stays as it is begins one of its own.
            func isPart(_ window: Model.ClosedWindow) -> Bool {
                window.kind == "session"
                    && expected.contains {
                        $0.kind == "session" && $0.key == window.key && $0.start <= window.start && window.end <= $0.end && mayBeFrozen($0)
                    }
            }
            let wrong = final.symmetricDifference(expected).filter { !mayBeFrozen($0) && !isPart($0) }
            try expect(wrong.isEmpty, "closed windows that may still be revised: \(wrong), watermark \(watermark)")
            try checkMisses(final, expected, misses)
        }
        // A power cut takes from an unsynced history what the topic has.
        guard isSynced else { return }
        try expect(Set(topics.records.map(\.number)).count == topics.records.count, "a record is twice in the topic")
        try expect(topics.records.map(\.number) == Array(1..<history.nextOutput), "output records are missing or twice")
        let windows = topics.records.filter { $0.record.topic == "spend-windows" }.map(\.record)
        if settings.emits == .final {
            let firsts = history.closed.filter { $0.record.revision == 0 && $0.values != nil }
            try expect(windows.count == firsts.count, "\(windows.count) records in the topic, \(firsts.count) windows that closed")
            try expect(Set(windows).count == windows.count, "a record is twice in the topic")
        } else {
            try checkUpdates(windows, accepted, hasMisses: misses > 0, mayBeFrozen)
        }
        try checkEntities(accepted)
    }

    /// Events that came too late for windows are missing there, and only so many.
    private func checkMisses(_ final: Set<Model.ClosedWindow>, _ expected: Set<Model.ClosedWindow>, _ misses: Int) throws {
        func counts(_ windows: Set<Model.ClosedWindow>) -> [String: Int] {
            var counts: [String: Int] = [:]
            for window in windows where window.kind == "hopping" {
                counts["\(window.key) \(window.start)"] = Int(window.values.filter(\.isNumber))!
            }
            return counts
        }
        let (found, all) = (counts(final), counts(expected))
        try expect(found.allSatisfy { $0.value <= all[$0.key] ?? 0 }, "a window has more than there is")
        let missing = all.reduce(0) { $0 + $1.value - (found[$1.key] ?? 0) }
        try expect(missing <= misses, "\(missing) events are missing in hopping windows, \(misses) came too late for any")
    }

    /// The last record of each window, open or closed, has what the window holds; that of a session that became part of another, nothing.
    private func checkUpdates(
        _ records: [OutputRecord], _ accepted: [ModelEvent], hasMisses: Bool, _ mayBeFrozen: (Model.ClosedWindow) -> Bool
    ) throws {
        /// A record without its values, its state and its revision.
        func place(_ key: String, _ window: String, _ start: Int64, _ end: Int64) -> String {
            #""entity_key":"\#(key)","window":"\#(window)","window_start":"\#(TimeText.format(EventTime(microseconds: start)))","window_end":"\#(TimeText.format(EventTime(microseconds: end)))""#
        }
        var last: [String: String] = [:]
        for record in records {
            let text = record.value
            guard let first = text.range(of: "\"entity_key\""), let end = text.range(of: ",\"is_final\""),
                let features = text.range(of: "\"features\":")
            else { throw Failure(description: "no update: \(text)") }
            last[String(text[first.lowerBound..<end.lowerBound])] = String(text[features.upperBound...].dropLast())
        }
        let signatures = Dictionary(
            uniqueKeysWithValues: views[0].plan.windows.map { (String($0.signature.prefix { $0 != "(" }), $0.signature) }.filter {
                ["hopping", "tumbling", "session"].contains($0.0)
            })
        var places: Set<String> = []
        let all = Model.closedWindows(
            accepted, watermark: .max, allowedLateness: 0, timeToLive: settings.timeToLive?.wholeMicroseconds)
        for window in all {
            let place = place(window.key, signatures[window.kind]!, window.start, window.end)
            places.insert(place)
            if hasMisses, mayBeFrozen(window) { continue }
            try expect(last[place] == window.values, "the last update of \(place) is \(last[place] ?? "none"), expected \(window.values)")
        }
        if hasMisses { return }
        for (place, values) in last where !places.contains(place) {
            try expect(values == "null", "\(place) is no window any more, and its last update is \(values)")
        }
    }

    private func checkEntities(_ accepted: [ModelEvent]) throws {
        for (store, own) in Dictionary(grouping: accepted.filter { $0.stream == "sales" }, by: \.store) {
            let latest = own.map(\.time).max()!
            let values = Model.values("store_sales", key: "\(store)", at: latest, stored: own, session: own, timeToLive: nil)
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
