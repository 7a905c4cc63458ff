import Foundation
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

    private struct Part: Hashable {
        var topic: String
        var partition: Int32
    }

    private let options: Options
    private let streams: [String: any StreamPlan]
    private let pipeline: Pipeline
    private let history: HistoryWriter
    private let report: @Sendable (String) -> Void
    private let consumer: KafkaConsumer
    private var next: [Part: Int64] = [:]
    private let condition = NSCondition()
    private var isStopping = false
    private var isDone = false

    package init(
        options: Options, streams: [any StreamPlan], pipeline: Pipeline, history: HistoryWriter,
        report: @escaping @Sendable (String) -> Void
    ) throws {
        self.options = options
        self.pipeline = pipeline
        self.history = history
        self.report = report
        var byTopic: [String: any StreamPlan] = [:]
        for stream in streams { byTopic[options.topics[stream.name] ?? stream.name] = stream }
        self.streams = byTopic
        consumer = try KafkaConsumer(brokers: options.brokers, groupID: options.groupID, options: options.options)
    }

    /// - Parameter failed: is called on the thread when reading cannot go on.
    package func start(failed: @escaping @Sendable (any Error) -> Void) {
        let thread = Thread {
            do { try self.run() } catch { failed(error) }
            self.consumer.close()
            self.condition.lock()
            self.isDone = true
            self.condition.broadcast()
            self.condition.unlock()
        }
        thread.name = "weir kafka"
        thread.stackSize = 8 << 20
        thread.start()
    }

    package func stop() {
        condition.lock()
        isStopping = true
        while !isDone { condition.wait() }
        condition.unlock()
    }

    private var shouldStop: Bool {
        condition.lock()
        defer { condition.unlock() }
        return isStopping
    }

    private func run() throws {
        var lastLook = Date.distantPast
        var lastReport = Date()
        while !shouldStop {
            if Date().timeIntervalSince(lastLook) > (next.isEmpty ? 1 : 5) {
                findPartitions()
                lastLook = Date()
            }
            if next.isEmpty {
                Thread.sleep(forTimeInterval: 0.05)
                continue
            }
            try poll()
            if Date().timeIntervalSince(lastReport) > 5 {
                consumer.report(next.map { ($0.key.topic, $0.key.partition, $0.value) })
                lastReport = Date()
            }
        }
    }

    /// Topics and partitions that were not there before.
    private func findPartitions() {
        for (topic, stream) in streams {
            do {
                for partition in try consumer.partitions(of: topic) where next[Part(topic: topic, partition: partition)] == nil {
                    let source = SourcePart(kind: .kafka, name: topic, partition: partition, stream: stream.name)
                    // A partition that appears later has nothing that was there before: all of it is new.
                    let isNew = next.keys.contains { $0.topic == topic }
                    let offset =
                        try history.position(of: source)?.offset
                        ?? consumer.offset(of: isNew ? .earliest : options.start, topic: topic, partition: partition)
                    try consumer.add(topic: topic, partition: partition, offset: offset)
                    // From here on the partition holds the watermark back, until it counts as idle.
                    try pipeline.submit(
                        IncomingBatch(
                            batch: stream.prepare(RecordBatch(schema: stream.schema)), source: source, nextOffset: offset,
                            ingestTime: wallClock(), phase: .start))
                    next[Part(topic: topic, partition: partition)] = offset
                }
            } catch {
                report("\(error)")
            }
        }
    }

    private func poll() throws {
        var records: [Part: RecordBatch] = [:]
        var parsers: [String: JSONRecordParser] = [:]
        var ends: [Part: Int64] = [:]
        var problems: [String] = []
        try consumer.poll(timeoutMilliseconds: 50) { event in
            switch event {
            case .message(let topic, let partition, let offset, let value):
                let part = Part(topic: topic, partition: partition)
                guard let stream = streams[topic] else { return }
                var batch = records.removeValue(forKey: part) ?? RecordBatch(schema: stream.schema)
                var parser = parsers.removeValue(forKey: topic) ?? JSONRecordParser(schema: stream.schema)
                if let value, value.count <= Limits.recordBytesMax {
                    parser.append(value, to: &batch, offset: offset)
                } else if let value {
                    batch.bytes.append(contentsOf: value.prefix(Limits.recordBytesMax))
                    batch.malformed.append(
                        .init(
                            raw: batch.bytes.count - Limits.recordBytesMax..<batch.bytes.count, offset: offset,
                            reason: "the message has \(value.count) bytes; a record has at most \(Limits.recordBytesMax)"))
                } else {
                    batch.malformed.append(
                        .init(raw: batch.bytes.count..<batch.bytes.count, offset: offset, reason: "the message has no value"))
                }
                records[part] = batch
                parsers[topic] = parser
                ends[part] = offset + 1
            case .end(let topic, let partition, let offset):
                // Markers of transactions take offsets, too.
                let part = Part(topic: topic, partition: partition)
                ends[part] = max(ends[part] ?? 0, offset)
            case .offsetOutOfRange(let topic, let partition, _):
                let position = next[Part(topic: topic, partition: partition)] ?? 0
                throw DataDirectoryError(
                    "\(topic)/\(partition) no longer has the offset \(position) that reading goes on from: the topic's retention has passed it, or the topic was made anew. Ingest what is missing from a file, then start with a topic of another name, or rebuild in another --data directory"
                )
            case .problem(let text):
                problems.append(text)
            }
        }
        for (part, end) in ends where end > next[part] ?? 0 || records[part] != nil {
            guard let stream = streams[part.topic] else { continue }
            let source = SourcePart(kind: .kafka, name: part.topic, partition: part.partition, stream: stream.name)
            let batch = stream.prepare(records[part] ?? RecordBatch(schema: stream.schema))
            try pipeline.submit(IncomingBatch(batch: batch, source: source, nextOffset: end, ingestTime: wallClock()))
            next[part] = end
        }
        for problem in Set(problems) { report(problem) }
    }
}
