import CRdKafka
import WeirAlgebra

/// Where to begin with a partition that was never read.
package enum KafkaStart: Sendable, Hashable {
    case earliest, latest
    /// At the first message whose timestamp is not before this.
    case time(EventTime)
}

/// Reads partitions from offsets that the caller keeps; the consumer group's id only reports lag.
package final class KafkaConsumer: KafkaClient, TopicConsumer, @unchecked Sendable {
    private let queue: OpaquePointer
    private var messages = [UnsafeMutablePointer<rd_kafka_message_t>?](repeating: nil, count: 4_096)
    private var topicNames: [OpaquePointer: String] = [:]

    package init(brokers: String, groupID: String, options: [(String, String)]) throws(KafkaError) {
        let defaults = [
            ("bootstrap.servers", brokers), ("group.id", groupID), ("enable.auto.commit", "false"), ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"), ("isolation.level", "read_committed"), ("enable.partition.eof", "true"),
            ("receive.message.max.bytes", "1000000000"), ("fetch.wait.max.ms", "10"), ("queued.max.messages.kbytes", "65536"),
        ]
        var queue: OpaquePointer?
        let handle = try KafkaClient(RD_KAFKA_CONSUMER, defaults: defaults, options: options).handle
        rd_kafka_poll_set_consumer(handle)
        queue = rd_kafka_queue_get_consumer(handle)
        guard let queue else { throw KafkaError("librdkafka gives no queue") }
        self.queue = queue
        super.init(adopting: handle)
    }

    package func add(topic: String, partition: Int32, offset: Int64) throws {
        let list = rd_kafka_topic_partition_list_new(1)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        rd_kafka_topic_partition_list_add(list, topic, partition).pointee.offset = offset
        if let error = rd_kafka_incremental_assign(handle, list) {
            defer { rd_kafka_error_destroy(error) }
            throw KafkaError("reading \(topic)/\(partition) from \(offset): \(String(cString: rd_kafka_error_string(error)))")
        }
    }

    package func pause(topic: String, partition: Int32) throws { try turn(rd_kafka_pause_partitions, "pausing", topic, partition) }
    package func resume(topic: String, partition: Int32) throws { try turn(rd_kafka_resume_partitions, "resuming", topic, partition) }

    private func turn(
        _ function: (OpaquePointer?, UnsafeMutablePointer<rd_kafka_topic_partition_list_t>?) -> rd_kafka_resp_err_t, _ what: String,
        _ topic: String, _ partition: Int32
    ) throws {
        let list = rd_kafka_topic_partition_list_new(1)!
        defer { rd_kafka_topic_partition_list_destroy(list) }
        rd_kafka_topic_partition_list_add(list, topic, partition)
        var code = function(handle, list)
        if code == RD_KAFKA_RESP_ERR_NO_ERROR { code = list.pointee.elems[0].err }
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw KafkaError("\(what) \(topic)/\(partition)", code) }
    }

    package func offset(of start: KafkaStart, topic: String, partition: Int32) throws -> Int64 {
        var low: Int64 = 0
        var high: Int64 = 0
        let code = rd_kafka_query_watermark_offsets(handle, topic, partition, &low, &high, 10_000)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw KafkaError("asking for the offsets of \(topic)/\(partition)", code) }
        switch start {
        case .earliest: return low
        case .latest: return high
        case .time(let time):
            let list = rd_kafka_topic_partition_list_new(1)!
            defer { rd_kafka_topic_partition_list_destroy(list) }
            // Milliseconds, rounded up: a message of the same millisecond may be earlier.
            rd_kafka_topic_partition_list_add(list, topic, partition).pointee.offset = time.floored(to: 1_000).microseconds / 1_000
            var code = rd_kafka_offsets_for_times(handle, list, 10_000)
            if code == RD_KAFKA_RESP_ERR_NO_ERROR { code = list.pointee.elems[0].err }
            guard code == RD_KAFKA_RESP_ERR_NO_ERROR else {
                throw KafkaError("asking for the offset of a time in \(topic)/\(partition)", code)
            }
            let found = list.pointee.elems[0].offset
            // All messages are earlier.
            if found == Int64(RD_KAFKA_OFFSET_END) { return high }
            guard found >= 0 else { throw KafkaError("\(topic)/\(partition): the broker gave the offset \(found) for a time") }
            return found
        }
    }

    /// The offset behind a partition's last message, as the broker said it last; nil before it did. Asks nobody.
    package func endOffset(topic: String, partition: Int32) -> Int64? {
        var low: Int64 = 0
        var high: Int64 = 0
        let code = rd_kafka_get_watermark_offsets(handle, topic, partition, &low, &high)
        return code == RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0 ? high : nil
    }

    package func poll(timeoutMilliseconds: Int32, _ body: (TopicEvent) throws -> Void) throws {
        let count = rd_kafka_consume_batch_queue(queue, timeoutMilliseconds, &messages, messages.count)
        guard count > 0 else { return }
        defer { for index in 0..<count { rd_kafka_message_destroy(messages[index]) } }
        for index in 0..<count {
            guard let message = messages[index]?.pointee else { continue }
            let topic = message.rkt.map(name) ?? ""
            switch message.err {
            case RD_KAFKA_RESP_ERR_NO_ERROR:
                let value = message.payload.map { UnsafeRawBufferPointer(start: $0, count: message.len) }
                try body(.message(topic: topic, partition: message.partition, offset: message.offset, value: value))
            case RD_KAFKA_RESP_ERR__PARTITION_EOF:
                try body(.end(topic: topic, partition: message.partition, offset: message.offset))
            case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET, RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
                try body(.offsetOutOfRange(topic: topic, partition: message.partition, offset: message.offset))
            default:
                let text = rd_kafka_message_errstr(messages[index]).map { String(cString: $0) } ?? ""
                try body(.problem("\(topic.isEmpty ? "Kafka" : topic): \(text)"))
            }
        }
    }

    private func name(_ topic: OpaquePointer) -> String {
        if let name = topicNames[topic] { return name }
        let name = String(cString: rd_kafka_topic_name(topic))
        topicNames[topic] = name
        return name
    }

    /// Reports positions under the group's id, for tools that show lag. Failures do not matter.
    package func report(_ positions: [(topic: String, partition: Int32, offset: Int64)]) {
        let list = rd_kafka_topic_partition_list_new(Int32(positions.count))
        defer { rd_kafka_topic_partition_list_destroy(list) }
        for position in positions {
            rd_kafka_topic_partition_list_add(list, position.topic, position.partition).pointee.offset = position.offset
        }
        rd_kafka_commit(handle, list, 1)
    }

    package func close() {
        rd_kafka_queue_destroy(queue)
        rd_kafka_consumer_close(handle)
        rd_kafka_destroy(handle)
    }
}
