import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirRecords
import WeirSources

/// Reads the partitions of topics in batches: all of them, from the stored positions; new ones are found; those whose event times
/// are too far ahead of the others' wait.
///
/// It has no thread and no clock of its own, so that the simulation can drive it.
package struct TopicReader<Consumer: TopicConsumer> {
    package struct Part: Hashable, Sendable {
        package var topic: String
        package var partition: Int32
    }

    private struct Progress {
        var next: Int64
        /// Of the events read so far; nil before any.
        var latestEventTime: Int64?
        /// There is more to read, as far as is known.
        var hasMore = true
        var isPaused = false
    }

    package let consumer: Consumer
    /// By topic.
    private let streams: [String: any StreamPlan]
    private let start: KafkaStart
    /// Where to go on with a source that was read before.
    private let position: (SourcePart) throws -> Int64?
    private var parts: [Part: Progress] = [:]

    package init(
        consumer: Consumer, streams: [String: any StreamPlan], start: KafkaStart, position: @escaping (SourcePart) throws -> Int64?
    ) {
        self.consumer = consumer
        self.streams = streams
        self.start = start
        self.position = position
    }

    package var isEmpty: Bool { parts.isEmpty }
    package var positions: [(topic: String, partition: Int32, offset: Int64)] {
        parts.map { ($0.key.topic, $0.key.partition, $0.value.next) }
    }
    package var paused: [Part] { parts.filter(\.value.isPaused).map(\.key) }

    private func source(_ part: Part, _ stream: any StreamPlan) -> SourcePart {
        SourcePart(kind: .kafka, name: part.topic, partition: part.partition, stream: stream.name)
    }

    /// Begins with topics and partitions that were not there before.
    ///
    /// - Parameter ingestTime: the wall clock's.
    package mutating func findPartitions(topic: String, ingestTime: Int64, submit: (IncomingBatch) throws -> Void) throws {
        guard let stream = streams[topic] else { return }
        let found = try consumer.partitions(of: topic).map { Part(topic: topic, partition: $0) }.filter { parts[$0] == nil }
        let positions = try found.map { try position(source($0, stream)) }
        // A partition that appears in a topic that was read before has nothing from before: all of it is new. Asked before the
        // first partition is taken, so that all those of a topic that is read for the first time begin alike.
        let wasRead = parts.keys.contains { $0.topic == topic } || positions.contains { $0 != nil }
        for (part, position) in zip(found, positions) {
            let (partition, source) = (part.partition, source(part, stream))
            let offset = try position ?? consumer.offset(of: wasRead ? .earliest : start, topic: topic, partition: partition)
            try consumer.add(topic: topic, partition: partition, offset: offset)
            // From here on the partition holds the watermark back, until it counts as idle.
            try submit(
                IncomingBatch(
                    batch: stream.prepare(RecordBatch(schema: stream.schema)), source: source, nextOffset: offset,
                    ingestTime: ingestTime, phase: .start))
            parts[part] = Progress(next: offset)
        }
    }

    /// Reads what has come. Returns what the client says of troubles that it gets over by itself.
    package mutating func poll(
        timeoutMilliseconds: Int32, ingestTime: Int64, submit: (IncomingBatch) throws -> Void
    ) throws -> Set<String> {
        var records: [Part: RecordBatch] = [:]
        var parsers: [String: JSONRecordParser] = [:]
        var ends: [Part: Int64] = [:]
        var problems: Set<String> = []
        try consumer.poll(timeoutMilliseconds: timeoutMilliseconds) { event in
            switch event {
            case .message(let topic, let partition, let offset, let value):
                let part = Part(topic: topic, partition: partition)
                // What a client gives twice, after a pause or a new connection, is not read twice.
                guard let stream = streams[topic], let progress = parts[part], offset >= ends[part] ?? progress.next else { return }
                var batch = records.removeValue(forKey: part) ?? RecordBatch(schema: stream.schema)
                var parser = parsers.removeValue(forKey: topic) ?? JSONRecordParser(schema: stream.schema)
                stream.append(message: value, offset: offset, parser: &parser, to: &batch)
                records[part] = batch
                parsers[topic] = parser
                ends[part] = offset + 1
                parts[part]!.hasMore = true
            case .end(let topic, let partition, let offset):
                // Markers of transactions take offsets, too.
                let part = Part(topic: topic, partition: partition)
                ends[part] = max(ends[part] ?? 0, offset)
                parts[part]?.hasMore = false
            case .offsetOutOfRange(let topic, let partition, _):
                let position = parts[Part(topic: topic, partition: partition)]?.next ?? 0
                throw DataDirectoryError(
                    "\(topic)/\(partition) no longer has the offset \(position) that reading goes on from: the topic's retention has passed it, or the topic was made anew. Ingest what is missing from a file, then start with a topic of another name, or rebuild in another --data directory"
                )
            case .problem(let text):
                problems.insert(text)
            }
        }
        for (part, end) in ends.sorted(by: { ($0.key.topic, $0.key.partition) < ($1.key.topic, $1.key.partition) }) {
            guard let stream = streams[part.topic], let progress = parts[part], end > progress.next || records[part] != nil else {
                continue
            }
            let batch = stream.prepare(records[part] ?? RecordBatch(schema: stream.schema))
            let aheadMax = stream.maxAhead ?? Limits.watermarkAheadMax
            for time in batch.times where time <= ingestTime.addingClamped(aheadMax) {
                parts[part]!.latestEventTime = max(parts[part]!.latestEventTime ?? .min, time)
            }
            parts[part]!.next = end
            try submit(
                IncomingBatch(
                    batch: batch, source: source(part, stream), nextOffset: end, ingestTime: ingestTime,
                    encoding: stream.decodesMessages ? .message : .json))
        }
        if !ends.isEmpty { try align() }
        return problems
    }

    /// Pauses partitions that are further ahead of the slowest one of their stream than it allows, and goes on with those that no
    /// longer are. Partitions that have nothing more to read hold nobody back.
    private mutating func align() throws {
        for (topic, stream) in streams {
            guard let alignment = stream.alignment else { continue }
            let own = parts.filter { $0.key.topic == topic }
            let slowest = own.values.filter(\.hasMore).compactMap(\.latestEventTime).min() ?? .max
            for (part, progress) in own {
                let isAhead = progress.latestEventTime.map { $0 > slowest.addingClamped(alignment) } ?? false
                guard isAhead != progress.isPaused else { continue }
                if isAhead {
                    try consumer.pause(topic: part.topic, partition: part.partition)
                } else {
                    try consumer.resume(topic: part.topic, partition: part.partition)
                }
                parts[part]!.isPaused = isAhead
            }
        }
    }
}

extension StreamPlan {
    /// Parses a topic's message.
    fileprivate func append(
        message: UnsafeRawBufferPointer?, offset: Int64, parser: inout JSONRecordParser, to batch: inout RecordBatch
    ) {
        guard let message else {
            return batch.malformed.append(
                .init(raw: batch.bytes.count..<batch.bytes.count, offset: offset, reason: "the message has no value"))
        }
        guard message.count <= Limits.recordBytesMax else {
            let start = batch.bytes.count
            batch.bytes.append(contentsOf: message.prefix(Limits.recordBytesMax))
            return batch.malformed.append(
                .init(
                    raw: start..<batch.bytes.count, offset: offset,
                    reason: "the message has \(message.count) bytes; a record has at most \(Limits.recordBytesMax)"))
        }
        if decodesMessages {
            decode(message: message, offset: offset, into: &batch)
        } else {
            parser.append(message, to: &batch, offset: offset)
        }
    }
}
