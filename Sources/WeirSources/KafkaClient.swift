import CRdKafka
import Glibc
import WeirAlgebra

/// What Kafka's client or broker refused, and what to do.
package struct KafkaError: Error, CustomStringConvertible {
    package let code: Int32
    package let description: String

    init(_ what: String, _ code: rd_kafka_resp_err_t) {
        self.code = code.rawValue
        description = "\(what): \(String(cString: rd_kafka_err2str(code))) (\(String(cString: rd_kafka_err2name(code))))"
    }

    init(_ description: String) {
        code = -1
        self.description = description
    }
}

/// A client handle of librdkafka with its configuration.
package class KafkaClient: @unchecked Sendable {
    // librdkafka's handles may be used from any thread.
    let handle: OpaquePointer

    typealias DeliveryReport =
        @convention(c) (OpaquePointer?, UnsafePointer<rd_kafka_message_t>?, UnsafeMutableRawPointer?) -> Void

    init(adopting handle: OpaquePointer) { self.handle = handle }

    init(
        _ type: rd_kafka_type_t, defaults: [(String, String)], options: [(String, String)], onDelivery: DeliveryReport? = nil
    ) throws(KafkaError) {
        guard let configuration = rd_kafka_conf_new() else { throw KafkaError("librdkafka has no memory") }
        var text = [CChar](repeating: 0, count: 512)
        for (name, value) in defaults + options {
            guard rd_kafka_conf_set(configuration, name, value, &text, text.count) == RD_KAFKA_CONF_OK else {
                rd_kafka_conf_destroy(configuration)
                throw KafkaError("--kafka-option \(name)=\(value): \(string(text))")
            }
        }
        rd_kafka_conf_set_log_cb(configuration) { _, level, facility, message in
            // Warnings and worse; the rest only confuses.
            guard level <= 4, let facility, let message else { return }
            let line = "kafka \(String(cString: facility)): \(String(cString: message))\n"
            _ = line.withCString { write(2, $0, strlen($0)) }
        }
        if let onDelivery { rd_kafka_conf_set_dr_msg_cb(configuration, onDelivery) }
        guard let handle = rd_kafka_new(type, configuration, &text, text.count) else {
            rd_kafka_conf_destroy(configuration)
            throw KafkaError("cannot make a Kafka client: \(string(text))")
        }
        self.handle = handle
    }

    /// The numbers of a topic's partitions; empty for a topic that does not exist.
    package func partitions(of topic: String) throws -> [Int32] {
        let timeoutMilliseconds: Int32 = 10_000
        let reference = rd_kafka_topic_new(handle, topic, nil)
        defer { rd_kafka_topic_destroy(reference) }
        var metadata: UnsafePointer<rd_kafka_metadata>?
        let code = rd_kafka_metadata(handle, 0, reference, &metadata, timeoutMilliseconds)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR, let metadata else {
            throw KafkaError("asking the brokers for the topic '\(topic)'", code)
        }
        defer { rd_kafka_metadata_destroy(metadata) }
        guard metadata.pointee.topic_cnt > 0 else { return [] }
        let found = metadata.pointee.topics[0]
        if found.err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || found.err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC { return [] }
        guard found.err == RD_KAFKA_RESP_ERR_NO_ERROR else { throw KafkaError("the topic '\(topic)'", found.err) }
        return (0..<Int(found.partition_cnt)).map { found.partitions[$0].id }.sorted()
    }
}

func string(_ text: [CChar]) -> String {
    String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

/// Makes a topic where there is none.
package func createTopic(
    brokers: String, options: [(String, String)], topic: String, partitions: Int32, configuration: [(String, String)] = []
) throws {
    let client = try KafkaClient(RD_KAFKA_PRODUCER, defaults: [("bootstrap.servers", brokers)], options: options)
    defer { rd_kafka_destroy(client.handle) }
    var text = [CChar](repeating: 0, count: 512)
    guard let new = rd_kafka_NewTopic_new(topic, partitions, -1, &text, text.count) else {
        throw KafkaError("the topic '\(topic)': \(string(text))")
    }
    defer { rd_kafka_NewTopic_destroy(new) }
    for (name, value) in configuration { rd_kafka_NewTopic_set_config(new, name, value) }
    let queue = rd_kafka_queue_new(client.handle)
    defer { rd_kafka_queue_destroy(queue) }
    var topics: [OpaquePointer?] = [new]
    rd_kafka_CreateTopics(client.handle, &topics, 1, nil, queue)
    guard let event = rd_kafka_queue_poll(queue, 30_000) else { throw KafkaError("no broker at \(brokers) answered") }
    defer { rd_kafka_event_destroy(event) }
    let code = rd_kafka_event_error(event)
    guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw KafkaError("making the topic '\(topic)'", code) }
    var count = 0
    let results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &count)
    for index in 0..<count {
        let error = rd_kafka_topic_result_error(results?[index])
        guard error == RD_KAFKA_RESP_ERR_NO_ERROR || error == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS else {
            throw KafkaError("making the topic '\(topic)'", error)
        }
    }
}
