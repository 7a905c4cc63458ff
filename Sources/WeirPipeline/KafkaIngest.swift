import Foundation
import Synchronization
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirRecords
import WeirSources

/// Streams topics into the stores: all partitions, from the stored positions; new partitions are found.
package final class KafkaIngest: @unchecked Sendable {
    // Used by its own thread, except for `stopping`, which its condition guards.
    package struct Options: Sendable {
        package var brokers: String
        package var options: [(String, String)]
        package var groupID: String
        /// Where to begin with partitions that were never read.
        package var start: KafkaStart
        /// Topics whose names differ from their streams'.
        package var topics: [String: String]

        package init(brokers: String, options: [(String, String)], groupID: String, start: KafkaStart, topics: [String: String]) {
            self.brokers = brokers
            self.options = options
            self.groupID = groupID
            self.start = start
            self.topics = topics
        }
    }

    /// A partition that is read.
    package struct Partition: Sendable {
        package let topic: String
        package let partition: Int32
        /// The offset behind the last message, as the broker said it last; nil before it did.
        package let end: Int64?
    }

    /// What is known of the topics; looked at once a second.
    package struct Status: Sendable {
        package var partitions: [Partition] = []
        /// Whether the broker was asked for the topics' partitions at all.
        package var hasLooked = false
        /// Why the partitions could not be found the last time.
        package var problem: String?
    }

    private let options: Options
    private let topics: [String]
    private let pipeline: Pipeline
    private let report: @Sendable (String) -> Void
    private var reader: TopicReader<KafkaConsumer>
    private let status = Mutex(Status())
    private let condition = NSCondition()
    private var isStopping = false
    private var isDone = false

    package init(
        options: Options, streams: [any StreamPlan], pipeline: Pipeline, history: HistoryWriter,
        report: @escaping @Sendable (String) -> Void
    ) throws {
        self.options = options
        self.pipeline = pipeline
        self.report = report
        var byTopic: [String: any StreamPlan] = [:]
        for stream in streams { byTopic[options.topics[stream.name] ?? stream.name] = stream }
        topics = byTopic.keys.sorted()
        reader = TopicReader(
            consumer: try KafkaConsumer(brokers: options.brokers, groupID: options.groupID, options: options.options), streams: byTopic,
            start: options.start, position: { try history.position(of: $0)?.offset })
    }

    /// - Parameter failed: is called on the thread when reading cannot go on.
    package func start(failed: @escaping @Sendable (any Error) -> Void) {
        BackgroundThread.start("weir kafka") {
            do { try self.run() } catch { failed(error) }
            self.reader.consumer.close()
            self.condition.lock()
            self.isDone = true
            self.condition.broadcast()
            self.condition.unlock()
        }
    }

    package func stop() {
        condition.lock()
        isStopping = true
        while !isDone { condition.wait() }
        condition.unlock()
    }

    package var currentStatus: Status { status.withLock { $0 } }

    private func updateStatus() {
        let partitions = reader.positions.map { topic, partition, _ in
            Partition(
                topic: topic, partition: partition, end: reader.consumer.endOffset(topic: topic, partition: partition))
        }.sorted { ($0.topic, $0.partition) < ($1.topic, $1.partition) }
        status.withLock { $0.partitions = partitions }
    }

    private var shouldStop: Bool {
        condition.lock()
        defer { condition.unlock() }
        return isStopping
    }

    private func run() throws {
        var lastLook = Date.distantPast
        var lastReport = Date()
        var lastStatus = Date.distantPast
        while !shouldStop {
            if Date().timeIntervalSince(lastStatus) > 1 {
                updateStatus()
                lastStatus = Date()
            }
            if Date().timeIntervalSince(lastLook) > (reader.isEmpty ? 1 : 5) {
                var problem: String?
                for topic in topics {
                    do {
                        try reader.findPartitions(topic: topic, ingestTime: wallClock()) { try pipeline.submit($0) }
                    } catch let error as KafkaError {
                        report("\(error)")
                        problem = "\(error)"
                    }
                }
                updateStatus()
                let found = problem
                status.withLock {
                    $0.hasLooked = true
                    $0.problem = found
                }
                lastLook = Date()
            }
            if reader.isEmpty {
                Thread.sleep(forTimeInterval: 0.05)
                continue
            }
            for problem in try reader.poll(timeoutMilliseconds: 50, ingestTime: wallClock(), submit: { try pipeline.submit($0) }) {
                report(problem)
            }
            if Date().timeIntervalSince(lastReport) > 5 {
                reader.consumer.report(reader.positions)
                lastReport = Date()
            }
        }
    }
}
