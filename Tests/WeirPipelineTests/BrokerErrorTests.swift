import CRdKafka
import Foundation
import Testing
import Weir
import WeirDefinitions
import WeirEngine
import WeirPipeline
import WeirSources

/// What librdkafka's own brokers can be made to answer.
final class MockBrokers {
    private let owner: OpaquePointer
    let cluster: OpaquePointer
    var bootstrap: String { String(cString: rd_kafka_mock_cluster_bootstraps(cluster)) }

    init(count: Int32) {
        owner = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), nil, 0)!
        cluster = rd_kafka_mock_cluster_new(owner, count)!
    }

    deinit {
        rd_kafka_mock_cluster_destroy(cluster)
        rd_kafka_destroy(owner)
    }

    /// - Parameter request: the protocol's number: 0 Produce, 1 Fetch, 2 ListOffsets, 3 Metadata.
    func fail(request: Int16, with errors: [rd_kafka_resp_err_t]) {
        var errors = errors
        rd_kafka_mock_push_request_errors_array(cluster, request, errors.count, &errors)
    }
}

@Suite(.serialized) struct BrokerErrorTests {
    /// Errors of brokers, brokers that go and come back, slow brokers: every message once, in order.
    @Test func errorsAreGotOver() throws {
        let brokers = MockBrokers(count: 3)
        rd_kafka_mock_topic_create(brokers.cluster, "orders", 4, 3)
        let producer = try KafkaProducer(brokers: brokers.bootstrap, options: [])
        let topic = try producer.topic("orders")
        defer { producer.close(topic: topic) }
        let catalog = try plan(First.Orders.self)
        let consumer = try KafkaConsumer(
            brokers: brokers.bootstrap, groupID: "test",
            options: [("reconnect.backoff.max.ms", "200"), ("fetch.message.max.bytes", "4000"), ("fetch.error.backoff.ms", "50")])
        defer { consumer.close() }
        brokers.fail(request: 2, with: [RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE])
        var reader = TopicReader(consumer: consumer, streams: ["orders": catalog.streams[0]], start: .earliest) { _ in nil }
        var seen: [Int32: [Int64]] = [:]
        func take(_ batch: IncomingBatch) {
            seen[batch.source.partition, default: []] += batch.batch.records.rows.map(\.offset)
        }
        let deadline = Date(timeIntervalSinceNow: 90)
        while reader.isEmpty, Date() < deadline {
            do {
                try reader.findPartitions(topic: "orders", ingestTime: 0) { take($0) }
            } catch is KafkaError { continue }
        }
        var sent = 0
        for round in 0..<6 {
            let isBrokerDown = round == 2
            switch round {
            case 1:
                brokers.fail(
                    request: 1,
                    with: [
                        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE,
                        RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR, RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                    ])
            case 2: rd_kafka_mock_broker_set_down(brokers.cluster, 2)
            case 3: rd_kafka_mock_broker_set_rtt(brokers.cluster, 1, 200)
            case 4: brokers.fail(request: 0, with: [RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT])
            case 5: brokers.fail(request: 3, with: [RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE, RD_KAFKA_RESP_ERR__TRANSPORT])
            default: break
            }
            for _ in 0..<400 {
                let json = #"{"id":"\#(sent)","shop":\#(sent % 7),"price":1,"channel":"web","event_time":"2026-01-01T00:00:00Z"}"#
                try producer.send(
                    topic: topic, key: Array("\(sent % 97)".utf8), value: Array(json.utf8), timestamp: EventTime(microseconds: 1))
                sent += 1
            }
            var polls = 0
            while seen.values.reduce(0, { $0 + $1.count }) < sent, Date() < deadline {
                _ = try reader.poll(timeoutMilliseconds: 100, ingestTime: 0) { take($0) }
                polls += 1
                if isBrokerDown, polls == 8 { rd_kafka_mock_broker_set_up(brokers.cluster, 2) }
            }
            #expect(seen.values.reduce(0) { $0 + $1.count } == sent, "round \(round)")
        }
        for offsets in seen.values { #expect(offsets == Array(0..<Int64(offsets.count))) }
    }
}
