import Foundation
import Synchronization
import Testing
import WeirEngine
import WeirPipeline
import WeirTesting

/// The engine of production over simulated disks, clocks and brokers, against a naive model. A failure names its seed:
/// `WEIR_SIMULATION_SEED=…` runs that one alone.
@Suite struct SimulationTests {
    private static let environment = ProcessInfo.processInfo.environment

    private static func firstFailure(_ seeds: Range<UInt64>, bug: PlantedBug? = nil) async -> (seed: UInt64, text: String)? {
        let queue = SeedQueue(seeds)
        return await withTaskGroup(of: (seed: UInt64, text: String)?.self) { group in
            for _ in 0..<ProcessInfo.processInfo.activeProcessorCount {
                group.addTask {
                    while let seed = queue.next() {
                        do {
                            try Simulation(seed: seed, bug: bug).run()
                        } catch {
                            queue.stop()
                            return (seed, "\(error)")
                        }
                    }
                    return nil
                }
            }
            var first: (seed: UInt64, text: String)?
            for await failure in group { first = first ?? failure }
            return first
        }
    }

    @Test func stateEqualsTheModel() async {
        let count: UInt64 = Self.environment["WEIR_TEST_LONG"] != nil ? 100_000 : 2_000
        var generator = SeededGenerator()
        let first = generator.next() >> 1
        var seeds = first..<first + count
        if let one = Self.environment["WEIR_SIMULATION_SEED"].flatMap({ UInt64($0) }) { seeds = one..<one + 1 }
        let start = ContinuousClock.now
        let failure = await Self.firstFailure(seeds)
        let seconds = (ContinuousClock.now - start) / .seconds(1)
        print(
            "simulation: \(seeds.count) seeds from \(seeds.lowerBound) in \(seconds) s, \(Int(Double(seeds.count) / seconds * 60)) a minute"
        )
        if let failure { Issue.record("WEIR_SIMULATION_SEED=\(failure.seed): \(failure.text)") }
    }

    /// Each bug shows within so many seeds.
    @Test(arguments: PlantedBug.allCases) func plantedBugsAreCaught(_ bug: PlantedBug) async {
        let failure = await Self.firstFailure(1..<301, bug: bug)
        if let failure { print("planted \(bug.rawValue): caught by seed \(failure.seed): \(failure.text.prefix(160))") }
        #expect(failure != nil, "no seed of 300 catches it")
    }
}

/// What the reader of topics does by itself.
@Suite struct TopicReaderTests {
    private static func reader(_ broker: SimulatedBroker, alignment: Duration?) throws -> TopicReader<SimulatedConsumer> {
        var settings = Settings()
        settings.alignment = alignment
        let catalog = try Settings.$current.withValue(settings) { try simulatedCatalog() }
        return TopicReader(
            consumer: SimulatedConsumer(broker) { min($0 - 1, 2) }, streams: ["sales": catalog.stream(named: "sales")!], start: .earliest
        ) { _ in nil }
    }

    private static func sale(_ number: Int, hour: Int) -> String {
        ModelEvent(
            stream: "sales", time: Int64(hour) * 60 * Model.minute, id: "\(number)", customer: "c", store: 1, price: 1, label: ""
        ).json
    }

    /// A partition too far ahead is paused until the slowest that has more to read has caught up.
    @Test func partitionsAreAligned() throws {
        let broker = SimulatedBroker()
        broker.topics["sales"] = [.init(), .init()]
        for hour in 0..<30 { broker.append(Self.sale(hour, hour: hour), topic: "sales", partition: 0) }
        // The other one has twenty messages for each hour.
        for number in 0..<600 { broker.append(Self.sale(1_000 + number, hour: number / 20), topic: "sales", partition: 1) }
        var reader = try Self.reader(broker, alignment: .hours(3))
        var latest: [Int32: Int64] = [:]
        var events = 0
        var pauses = 0
        func take(_ batch: IncomingBatch) {
            events += batch.batch.count
            if let time = batch.batch.times.max() { latest[batch.source.partition] = time }
        }
        try reader.findPartitions(topic: "sales", ingestTime: 0) { take($0) }
        for _ in 0..<400 {
            _ = try reader.poll(timeoutMilliseconds: 0, ingestTime: 1_700_000_000_000_000) { take($0) }
            if !reader.paused.isEmpty { pauses += 1 }
            let ahead = ((latest[0] ?? 0) - (latest[1] ?? 0)) / (60 * Model.minute)
            // A poll gives two messages, which may be two hours.
            #expect(ahead <= 5 || latest[1] == nil, "\(ahead) hours ahead")
        }
        #expect(events == 630 && pauses > 50 && reader.paused.isEmpty)
    }

    /// A start counts for all partitions of a topic that is read for the first time; one that appears later is new from its first
    /// message on, also while the process was away.
    @Test func startsCountForWholeTopics() throws {
        let broker = SimulatedBroker()
        broker.topics["sales"] = [.init(), .init(), .init()]
        for number in 0..<15 { broker.append(Self.sale(number, hour: 1), topic: "sales", partition: number % 3) }
        let catalog = try Settings.$current.withValue(Settings()) { try simulatedCatalog() }
        var stored: [SourcePart: Int64] = [:]
        func reader() -> TopicReader<SimulatedConsumer> {
            TopicReader(
                consumer: SimulatedConsumer(broker) { $0 - 1 }, streams: ["sales": catalog.stream(named: "sales")!], start: .latest
            ) { stored[$0] }
        }
        var events = 0
        func take(_ batch: IncomingBatch) {
            events += batch.batch.count
            stored[batch.source] = batch.nextOffset
        }
        func offsets() -> [Int64] { stored.sorted { $0.key.partition < $1.key.partition }.map(\.value) }
        var first = reader()
        try first.findPartitions(topic: "sales", ingestTime: 0, submit: take)
        #expect(offsets() == [5, 5, 5])
        // It appears while the process runs.
        broker.topics["sales"]!.append(.init())
        for number in 15..<18 { broker.append(Self.sale(number, hour: 1), topic: "sales", partition: 3) }
        try first.findPartitions(topic: "sales", ingestTime: 0, submit: take)
        #expect(offsets() == [5, 5, 5, 0])
        _ = try first.poll(timeoutMilliseconds: 0, ingestTime: 0, submit: take)
        #expect(offsets() == [5, 5, 5, 3] && events == 3)
        // And while it does not.
        broker.topics["sales"]!.append(.init())
        for number in 18..<20 { broker.append(Self.sale(number, hour: 1), topic: "sales", partition: 4) }
        var second = reader()
        try second.findPartitions(topic: "sales", ingestTime: 0, submit: take)
        #expect(offsets() == [5, 5, 5, 3, 0])
        _ = try second.poll(timeoutMilliseconds: 0, ingestTime: 0, submit: take)
        #expect(offsets() == [5, 5, 5, 3, 2] && events == 5)
    }

    /// An offset that retention has passed ends reading with what to do.
    @Test func lostOffsetsAreRefused() throws {
        let broker = SimulatedBroker()
        broker.topics["sales"] = [.init()]
        for number in 0..<10 { broker.append(Self.sale(number, hour: 1), topic: "sales", partition: 0) }
        var reader = try Self.reader(broker, alignment: nil)
        try reader.findPartitions(topic: "sales", ingestTime: 0) { _ in }
        broker.trim(topic: "sales", partition: 0, before: 5)
        let error = #expect(throws: DataDirectoryError.self) { _ = try reader.poll(timeoutMilliseconds: 0, ingestTime: 0) { _ in } }
        #expect(error?.description.contains("sales/0 no longer has the offset 0") == true)
    }
}

/// Seeds that workers share.
private final class SeedQueue: Sendable {
    private let seeds: Mutex<Range<UInt64>>
    init(_ seeds: Range<UInt64>) { self.seeds = Mutex(seeds) }
    func next() -> UInt64? {
        seeds.withLock { seeds in
            guard let seed = seeds.first else { return nil }
            seeds.removeFirst()
            return seed
        }
    }
    func stop() { seeds.withLock { $0 = 0..<0 } }
}
