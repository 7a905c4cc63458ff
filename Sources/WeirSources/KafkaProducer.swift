import CRdKafka
import WeirAlgebra

/// Writes keyed and timestamped messages; idempotent, partitioned as Kafka's own clients do (murmur2 of the key).
package final class KafkaProducer: KafkaClient, @unchecked Sendable {
    package init(brokers: String, options: [(String, String)]) throws(KafkaError) {
        let defaults = [
            ("bootstrap.servers", brokers), ("enable.idempotence", "true"), ("partitioner", "murmur2_random"), ("linger.ms", "20"),
            ("compression.type", "lz4"),
        ]
        let handle = try KafkaClient(RD_KAFKA_PRODUCER, defaults: defaults, options: options, onDelivery: Self.delivered).handle
        super.init(adopting: handle)
        failures = UnsafeMutablePointer.allocate(capacity: 1)
        failures.initialize(to: 0)
    }

    nonisolated(unsafe) private var failures: UnsafeMutablePointer<Int>!

    private static let delivered: @convention(c) (OpaquePointer?, UnsafePointer<rd_kafka_message_t>?, UnsafeMutableRawPointer?) -> Void = {
        _, message, _ in
        guard let message, message.pointee.err != RD_KAFKA_RESP_ERR_NO_ERROR else { return }
        // Each message carries the producer's counter; delivery reports come on the thread that polls.
        message.pointee._private?.assumingMemoryBound(to: Int.self).pointee += 1
    }

    /// Queues a message; waits while the queue is full.
    ///
    /// - Parameter timestamp: the message's time.
    package func send(topic: OpaquePointer, key: [UInt8], value: [UInt8], timestamp: EventTime) throws {
        while true {
            let error = key.withUnsafeBytes { key in
                value.withUnsafeBytes { value in
                    var arguments = [rd_kafka_vu_t](repeating: rd_kafka_vu_t(), count: 6)
                    arguments[0].vtype = RD_KAFKA_VTYPE_RKT
                    arguments[0].u.rkt = topic
                    arguments[1].vtype = RD_KAFKA_VTYPE_KEY
                    arguments[1].u.mem = .init(ptr: UnsafeMutableRawPointer(mutating: key.baseAddress), size: key.count)
                    arguments[2].vtype = RD_KAFKA_VTYPE_VALUE
                    arguments[2].u.mem = .init(ptr: UnsafeMutableRawPointer(mutating: value.baseAddress), size: value.count)
                    arguments[3].vtype = RD_KAFKA_VTYPE_TIMESTAMP
                    arguments[3].u.i64 = timestamp.floored(to: 1_000).microseconds / 1_000
                    arguments[4].vtype = RD_KAFKA_VTYPE_MSGFLAGS
                    arguments[4].u.i = Int32(RD_KAFKA_MSG_F_COPY)
                    arguments[5].vtype = RD_KAFKA_VTYPE_OPAQUE
                    arguments[5].u.ptr = UnsafeMutableRawPointer(failures)
                    return rd_kafka_produceva(handle, &arguments, arguments.count)
                }
            }
            guard let error else {
                rd_kafka_poll(handle, 0)
                return
            }
            defer { rd_kafka_error_destroy(error) }
            guard rd_kafka_error_code(error) == RD_KAFKA_RESP_ERR__QUEUE_FULL else {
                throw KafkaError("writing to Kafka: \(String(cString: rd_kafka_error_string(error)))")
            }
            rd_kafka_poll(handle, 100)
        }
    }

    package func topic(_ name: String) throws -> OpaquePointer {
        guard let topic = rd_kafka_topic_new(handle, name, nil) else { throw KafkaError("the topic '\(name)'", rd_kafka_last_error()) }
        return topic
    }

    /// Waits until everything is acknowledged.
    ///
    /// - Throws: `KafkaError` with how many messages did not arrive.
    package func flush(timeoutMilliseconds: Int32) throws {
        let code = rd_kafka_flush(handle, timeoutMilliseconds)
        let left = Int(rd_kafka_outq_len(handle))
        if code != RD_KAFKA_RESP_ERR_NO_ERROR || left > 0 || failures.pointee > 0 {
            throw KafkaError("\(failures.pointee) messages were refused and \(left) are not acknowledged; is the broker reachable?")
        }
    }

    package func close(topic: OpaquePointer) {
        rd_kafka_topic_destroy(topic)
        rd_kafka_destroy(handle)
        failures.deallocate()
    }
}
