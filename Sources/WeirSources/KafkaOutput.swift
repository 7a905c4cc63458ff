import CRdKafka

/// Writes records to topics in transactions, each together with the number of its last record: as an offset of a consumer group of
/// the producer's own, for the topic of that record, so that the broker keeps both or none.
///
/// Without transactions (`isTransactional: false`, for brokers that have none) the producer is idempotent and the number follows the
/// records: a crash between the two repeats records. Each has its number as the header `weir-number`, by which a reader tells.
package final class KafkaOutput: KafkaClient, @unchecked Sendable {
    private let identity: String
    private let isTransactional: Bool
    private let brokers: String
    private let options: [(String, String)]
    private let onSent: () -> Void
    private let topics: [String]
    private var failures: UnsafeMutablePointer<Int>
    private static let timeoutMilliseconds: Int32 = 30_000

    /// - Parameters:
    ///   - topics: all that are written to; those that do not exist are made, with one partition.
    ///   - identity: names the store; two producers of one identity exclude each other.
    ///   - onSent: is called when records are sent and not yet committed.
    package init(
        brokers: String, options: [(String, String)], topics: [String], identity: String, isTransactional: Bool,
        onSent: @escaping () -> Void = {}
    ) throws {
        self.topics = topics
        self.identity = identity
        self.isTransactional = isTransactional
        self.brokers = brokers
        self.options = options
        self.onSent = onSent
        failures = UnsafeMutablePointer.allocate(capacity: 1)
        failures.initialize(to: 0)
        var defaults = [
            ("bootstrap.servers", brokers), ("enable.idempotence", "true"), ("partitioner", "murmur2_random"), ("linger.ms", "5"),
            ("compression.type", "lz4"),
        ]
        if isTransactional { defaults.append(("transactional.id", identity)) }
        let handle = try KafkaClient(RD_KAFKA_PRODUCER, defaults: defaults, options: options, onDelivery: Self.delivered).handle
        super.init(adopting: handle)
        for topic in topics where try partitions(of: topic).isEmpty {
            try createTopic(brokers: brokers, options: options, topic: topic, partitions: 1)
        }
        if isTransactional { try check("beginning with transactions") { rd_kafka_init_transactions(handle, Self.timeoutMilliseconds) } }
    }

    private static let delivered: @convention(c) (OpaquePointer?, UnsafePointer<rd_kafka_message_t>?, UnsafeMutableRawPointer?) -> Void = {
        _, message, _ in
        guard let message, message.pointee.err != RD_KAFKA_RESP_ERR_NO_ERROR else { return }
        message.pointee._private?.assumingMemoryBound(to: Int.self).pointee += 1
    }

    /// Calls again where that may help: an unanswered commit may have happened, and calling again finds out.
    private func check(_ what: String, _ call: () -> OpaquePointer?) throws {
        var attempts = 0
        while let error = call() {
            defer { rd_kafka_error_destroy(error) }
            attempts += 1
            if rd_kafka_error_is_retriable(error) != 0, attempts < 10 { continue }
            throw KafkaError("\(what): \(String(cString: rd_kafka_error_string(error)))")
        }
    }

    /// The number of the last record that the topics have; nil where there is none.
    package func lastNumber() throws -> Int64? {
        let consumer = try KafkaClient(
            RD_KAFKA_CONSUMER, defaults: [("bootstrap.servers", brokers), ("group.id", identity), ("enable.auto.commit", "false")],
            options: options)
        defer { rd_kafka_destroy(consumer.handle) }
        let list = rd_kafka_topic_partition_list_new(Int32(topics.count))!
        defer { rd_kafka_topic_partition_list_destroy(list) }
        for topic in topics { rd_kafka_topic_partition_list_add(list, topic, 0) }
        let code = rd_kafka_committed(consumer.handle, list, Self.timeoutMilliseconds)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw KafkaError("asking for the last record of the output topics", code) }
        var last: Int64?
        for index in 0..<Int(list.pointee.cnt) {
            let element = list.pointee.elems[index]
            // A number that is not known must not count as none: all records would go out again.
            guard element.err == RD_KAFKA_RESP_ERR_NO_ERROR else {
                throw KafkaError("asking for the last record of the output topic '\(topics[index])'", element.err)
            }
            if element.offset >= 0 { last = max(last ?? 0, element.offset) }
        }
        return last
    }

    private func mark(_ topic: String, _ number: Int64) -> UnsafeMutablePointer<rd_kafka_topic_partition_list_t> {
        let list = rd_kafka_topic_partition_list_new(1)!
        rd_kafka_topic_partition_list_add(list, topic, 0).pointee.offset = number
        return list
    }

    /// Writes records and the number of the last one.
    package func publish(_ records: [(number: Int64, topic: String, key: String, value: String)]) throws {
        guard let last = records.last else { return }
        guard isTransactional else {
            try send(records)
            onSent()
            return try markIdempotently(last.topic, last.number)
        }
        try check("beginning a transaction") { rd_kafka_begin_transaction(handle) }
        do {
            try send(records)
            let list = mark(last.topic, last.number)
            defer { rd_kafka_topic_partition_list_destroy(list) }
            guard let group = rd_kafka_consumer_group_metadata_new(identity) else { throw KafkaError("librdkafka has no memory") }
            defer { rd_kafka_consumer_group_metadata_destroy(group) }
            try check("adding the last record's number") {
                rd_kafka_send_offsets_to_transaction(handle, list, group, Self.timeoutMilliseconds)
            }
            onSent()
            try check("committing a transaction") { rd_kafka_commit_transaction(handle, Self.timeoutMilliseconds) }
        } catch {
            if let failed = rd_kafka_abort_transaction(handle, Self.timeoutMilliseconds) { rd_kafka_error_destroy(failed) }
            throw error
        }
    }

    private func send(_ records: [(number: Int64, topic: String, key: String, value: String)]) throws {
        failures.pointee = 0
        for record in records {
            while true {
                let code = produce(record)
                if code == RD_KAFKA_RESP_ERR_NO_ERROR { break }
                guard code == RD_KAFKA_RESP_ERR__QUEUE_FULL else { throw KafkaError("writing to the topic '\(record.topic)'", code) }
                rd_kafka_poll(handle, 100)
            }
        }
        let code = rd_kafka_flush(handle, Self.timeoutMilliseconds)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR, failures.pointee == 0 else {
            throw KafkaError("\(failures.pointee) of \(records.count) records for output topics were not taken", code)
        }
    }

    private func produce(_ record: (number: Int64, topic: String, key: String, value: String)) -> rd_kafka_resp_err_t {
        let number = Array(String(record.number).utf8)
        return Array(record.key.utf8).withUnsafeBytes { key in
            Array(record.value.utf8).withUnsafeBytes { value in
                number.withUnsafeBytes { number in
                    record.topic.withCString { topic in
                        "weir-number".withCString { name in
                            var arguments = [rd_kafka_vu_t](repeating: rd_kafka_vu_t(), count: 6)
                            arguments[0].vtype = RD_KAFKA_VTYPE_TOPIC
                            arguments[0].u.cstr = topic
                            arguments[1].vtype = RD_KAFKA_VTYPE_KEY
                            arguments[1].u.mem = .init(ptr: UnsafeMutableRawPointer(mutating: key.baseAddress), size: key.count)
                            arguments[2].vtype = RD_KAFKA_VTYPE_VALUE
                            arguments[2].u.mem = .init(ptr: UnsafeMutableRawPointer(mutating: value.baseAddress), size: value.count)
                            arguments[3].vtype = RD_KAFKA_VTYPE_MSGFLAGS
                            arguments[3].u.i = Int32(RD_KAFKA_MSG_F_COPY)
                            arguments[4].vtype = RD_KAFKA_VTYPE_HEADER
                            arguments[4].u.header = .init(name: name, val: number.baseAddress, size: number.count)
                            arguments[5].vtype = RD_KAFKA_VTYPE_OPAQUE
                            arguments[5].u.ptr = UnsafeMutableRawPointer(failures)
                            guard let error = rd_kafka_produceva(handle, &arguments, arguments.count) else {
                                return RD_KAFKA_RESP_ERR_NO_ERROR
                            }
                            defer { rd_kafka_error_destroy(error) }
                            return rd_kafka_error_code(error)
                        }
                    }
                }
            }
        }
    }

    private func markIdempotently(_ topic: String, _ number: Int64) throws {
        let consumer = try KafkaClient(
            RD_KAFKA_CONSUMER, defaults: [("bootstrap.servers", brokers), ("group.id", identity), ("enable.auto.commit", "false")],
            options: options)
        defer { rd_kafka_destroy(consumer.handle) }
        let list = mark(topic, number)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        let code = rd_kafka_commit(consumer.handle, list, 0)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw KafkaError("storing the last record's number", code) }
    }

    package func close() { rd_kafka_destroy(handle) }
}
