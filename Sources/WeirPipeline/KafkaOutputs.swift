import Foundation
import Synchronization
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirSources

/// Takes output records to their topics, on a thread of its own.
package final class KafkaOutputs: Sendable {
    package struct Options: Sendable {
        package var brokers: String
        package var options: [(String, String)]
        package var isTransactional: Bool
        package var topics: [String]

        package init(brokers: String, options: [(String, String)], topics: [String], isTransactional: Bool) {
            self.topics = topics
            self.brokers = brokers
            self.options = options
            self.isTransactional = isTransactional
        }
    }

    private struct Topics: OutputTopics {
        let output: KafkaOutput
        func lastNumber() throws -> Int64? { try output.lastNumber() }
        func publish(_ records: [(number: Int64, record: OutputRecord)]) throws {
            try output.publish(records.map { ($0.number, $0.record.topic, $0.record.key, $0.record.value) })
            CrashPoint.reach(.outputCommitted)
        }
    }

    private let options: Options
    private let identity: String
    private let reader: HistoryReader
    private let pipeline: Pipeline
    private let report: @Sendable (String) -> Void
    private let isStopping = Atomic<Bool>(false)
    private let done = DispatchSemaphore(value: 0)

    package init(
        options: Options, reader: HistoryReader, history: HistoryWriter, pipeline: Pipeline, report: @escaping @Sendable (String) -> Void
    ) throws {
        self.options = options
        self.reader = reader
        self.pipeline = pipeline
        self.report = report
        identity = "weir-\(try history.storeID())"
    }

    package func start() {
        BackgroundThread.start("weir outputs") {
            while !self.isStopping.load(ordering: .relaxed) {
                do { try self.run() } catch {
                    // A new producer goes on behind the last record that the topics have.
                    self.report("output topics: \(error)")
                    self.sleep(1)
                }
            }
            self.done.signal()
        }
    }

    /// Publishes what there is, then ends the thread.
    package func stop() {
        isStopping.store(true, ordering: .relaxed)
        done.wait()
    }

    private func run() throws {
        let output = try KafkaOutput(
            brokers: options.brokers, options: options.options, topics: options.topics, identity: identity,
            isTransactional: options.isTransactional
        ) { CrashPoint.reach(.outputSent) }
        defer { output.close() }
        var publisher = try OutputPublisher(Topics(output: output))
        while true {
            pipeline.published(upTo: publisher.taken)
            let hasMore = try publisher.publish { try reader.outputs(after: $0, limit: $1) }
            if hasMore { continue }
            pipeline.published(upTo: publisher.taken)
            if isStopping.load(ordering: .relaxed) { return }
            sleep(0.05)
        }
    }

    private func sleep(_ seconds: Double) {
        let end = Date(timeIntervalSinceNow: seconds)
        while Date() < end, !isStopping.load(ordering: .relaxed) { Thread.sleep(forTimeInterval: min(0.05, seconds)) }
    }
}
