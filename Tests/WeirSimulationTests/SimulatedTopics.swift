import WeirEngine
import WeirPipeline
import WeirSources

/// Topics on a simulated broker.
final class SimulatedBroker {
    struct Log {
        /// The offset of the first message that retention has left.
        var first: Int64 = 0
        var messages: [[UInt8]] = []
        var end: Int64 { first + Int64(messages.count) }
    }
    var topics: [String: [Log]] = [:]

    func append(_ message: String, topic: String, partition: Int) { topics[topic]![partition].messages.append(Array(message.utf8)) }

    /// Lets go of messages before an offset.
    func trim(topic: String, partition: Int, before offset: Int64) {
        let log = topics[topic]![partition]
        guard offset > log.first else { return }
        topics[topic]![partition].messages.removeFirst(Int(min(offset, log.end) - log.first))
        topics[topic]![partition].first = min(offset, log.end)
    }
}

/// A client of one process life.
final class SimulatedConsumer: TopicConsumer {
    private struct Part {
        var topic: String
        var partition: Int32
        var next: Int64
        var isPaused = false
        var saidEnd: Int64 = -1
    }
    private let broker: SimulatedBroker
    private var parts: [Part] = []
    /// Chooses how many messages a poll gives, and whether some are given again.
    var choose: (Int) -> Int

    init(_ broker: SimulatedBroker, choose: @escaping (Int) -> Int) {
        self.broker = broker
        self.choose = choose
    }

    func partitions(of topic: String) throws -> [Int32] { (broker.topics[topic] ?? []).indices.map { Int32($0) } }

    func offset(of start: KafkaStart, topic: String, partition: Int32) throws -> Int64 {
        let log = broker.topics[topic]![Int(partition)]
        return start == .latest ? log.end : log.first
    }

    func add(topic: String, partition: Int32, offset: Int64) throws {
        parts.append(Part(topic: topic, partition: partition, next: offset))
    }

    func pause(topic: String, partition: Int32) throws { set(topic, partition, true) }
    func resume(topic: String, partition: Int32) throws { set(topic, partition, false) }

    private func set(_ topic: String, _ partition: Int32, _ isPaused: Bool) {
        for index in parts.indices where parts[index].topic == topic && parts[index].partition == partition {
            parts[index].isPaused = isPaused
        }
    }

    func poll(timeoutMilliseconds: Int32, _ body: (TopicEvent) throws -> Void) throws {
        let first = parts.isEmpty ? 0 : choose(parts.count)
        for step in parts.indices {
            let index = (first + step) % parts.count
            let part = parts[index]
            if part.isPaused { continue }
            let log = broker.topics[part.topic]![Int(part.partition)]
            guard part.next >= log.first, part.next <= log.end else {
                return try body(.offsetOutOfRange(topic: part.topic, partition: part.partition, offset: part.next))
            }
            let count = choose(Int(log.end - part.next) + 1)
            for offset in part.next..<part.next + Int64(count) {
                func give(_ offset: Int64) throws {
                    try log.messages[Int(offset - log.first)].withUnsafeBytes {
                        try body(.message(topic: part.topic, partition: part.partition, offset: offset, value: $0))
                    }
                }
                // A client may give a message again, after a pause or a new connection.
                if offset > log.first, choose(20) == 0 { try give(offset - 1) }
                try give(offset)
            }
            parts[index].next += Int64(count)
            if parts[index].next == log.end, parts[index].saidEnd != log.end {
                parts[index].saidEnd = log.end
                try body(.end(topic: part.topic, partition: part.partition, offset: log.end))
            }
        }
    }
}

/// Topics for output records; a transaction that is not committed leaves nothing.
final class SimulatedOutputTopics: OutputTopics {
    private(set) var records: [(number: Int64, record: OutputRecord)] = []
    private var last: Int64?
    /// Set where the next transaction is interrupted: before its commit, or behind it.
    var interruption: (isBehindCommit: Bool, error: Interruption)?

    func lastNumber() throws -> Int64? { last }

    func publish(_ batch: [(number: Int64, record: OutputRecord)]) throws {
        let interruption = interruption
        self.interruption = nil
        if let interruption, !interruption.isBehindCommit { throw interruption.error }
        records += batch
        last = batch.last?.number
        if let interruption { throw interruption.error }
    }
}
