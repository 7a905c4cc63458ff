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

    /// - Parameter request: the protocol's number: 0 Produce, 1 Fetch, 2 ListOffsets, 3 Metadata, 9 OffsetFetch, 22 InitProducerId,
    ///   24 AddPartitionsToTxn, 25 AddOffsetsToTxn, 26 EndTxn, 28 TxnOffsetCommit.
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

    /// A broker that refuses to say where a time is in a partition: reading must not begin at its end instead.
    @Test func refusedOffsetsAreErrors() throws {
        let brokers = MockBrokers(count: 1)
        rd_kafka_mock_topic_create(brokers.cluster, "orders", 1, 1)
        let consumer = try KafkaConsumer(brokers: brokers.bootstrap, groupID: "test", options: [])
        defer { consumer.close() }
        let time = KafkaStart.time(EventTime(microseconds: 1_700_000_000_000_000))
        #expect(try consumer.offset(of: time, topic: "orders", partition: 0) == 0)
        // The first two ask for the partition's begin and end.
        brokers.fail(
            request: 2, with: [RD_KAFKA_RESP_ERR_NO_ERROR, RD_KAFKA_RESP_ERR_NO_ERROR, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED])
        let error = #expect(throws: KafkaError.self) { try consumer.offset(of: time, topic: "orders", partition: 0) }
        #expect(error?.code == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED.rawValue, "\(error?.description ?? "")")
    }

    private static func records(_ numbers: ClosedRange<Int64>) -> [(number: Int64, topic: String, key: String, value: String)] {
        numbers.map { ($0, "out", "k", "\($0)") }
    }

    /// What is in the topic, by offset. The mock cluster has no markers of transactions: what was aborted is seen, too.
    private static func values(_ brokers: MockBrokers, count: Int) throws -> [String] {
        let consumer = try KafkaConsumer(brokers: brokers.bootstrap, groupID: "reader", options: [])
        defer { consumer.close() }
        try consumer.add(topic: "out", partition: 0, offset: 0)
        var values: [String] = []
        var isAtEnd = false
        let deadline = Date(timeIntervalSinceNow: 30)
        while values.count < count || !isAtEnd, Date() < deadline {
            try consumer.poll(timeoutMilliseconds: 100) { event in
                switch event {
                case .message(_, _, _, let value): values.append(String(decoding: value!, as: UTF8.self))
                case .end(_, _, let offset): isAtEnd = offset == Int64(values.count)
                default: break
                }
            }
        }
        return values
    }

    private static let transactionRequests: [Int16] = [22, 24, 25, 26, 28]

    /// Troubles that pass, in each request of a transaction: every record once, in order.
    @Test(arguments: transactionRequests) func transactionsGetOverErrors(request: Int16) throws {
        let brokers = MockBrokers(count: 3)
        rd_kafka_mock_topic_create(brokers.cluster, "out", 1, 3)
        let errors = [
            RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE, RD_KAFKA_RESP_ERR_NOT_COORDINATOR, RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
            RD_KAFKA_RESP_ERR__TRANSPORT,
        ]
        // The producer asks for its number when it is made.
        if request == 22 { brokers.fail(request: request, with: errors) }
        let output = try KafkaOutput(
            brokers: brokers.bootstrap, options: [("retry.backoff.ms", "20"), ("reconnect.backoff.max.ms", "200")], topics: ["out"],
            identity: "store", isTransactional: true)
        defer { output.close() }
        try output.publish(Self.records(1...3))
        if request != 22 { brokers.fail(request: request, with: errors) }
        try output.publish(Self.records(4...6))
        try output.publish(Self.records(7...7))
        #expect(try Self.values(brokers, count: 7) == (1...7).map { "\($0)" })
    }

    /// Refusals that do not pass: an error that names what was refused; a new producer goes on.
    @Test(arguments: transactionRequests) func refusedTransactionsAreErrors(request: Int16) throws {
        let brokers = MockBrokers(count: 1)
        rd_kafka_mock_topic_create(brokers.cluster, "out", 1, 1)
        func output() throws -> KafkaOutput {
            try KafkaOutput(
                brokers: brokers.bootstrap, options: [("retry.backoff.ms", "20")], topics: ["out"], identity: "store", isTransactional: true
            )
        }
        let refusal =
            [22, 24, 26].contains(request)
            ? RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED : RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED
        if request == 22 {
            brokers.fail(request: request, with: [refusal])
            #expect(throws: KafkaError.self) { _ = try output() }
        } else {
            let first = try output()
            try first.publish(Self.records(1...3))
            brokers.fail(request: request, with: [refusal])
            #expect(throws: KafkaError.self) { try first.publish(Self.records(4...6)) }
            first.close()
        }
        let second = try output()
        defer { second.close() }
        try second.publish(Self.records(4...6))
        #expect(try Self.values(brokers, count: 3).suffix(3) == ["4", "5", "6"])
    }

    /// A broker that does not say which record was the last: that is not "none", which would send all of them again.
    @Test func unknownLastRecordsAreErrors() throws {
        let brokers = MockBrokers(count: 1)
        rd_kafka_mock_topic_create(brokers.cluster, "out", 1, 1)
        let output = try KafkaOutput(brokers: brokers.bootstrap, options: [], topics: ["out"], identity: "store", isTransactional: false)
        defer { output.close() }
        #expect(try output.lastNumber() == nil)
        try output.publish(Self.records(1...3))
        #expect(try output.lastNumber() == 3)
        brokers.fail(request: 9, with: [RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED])
        #expect(throws: KafkaError.self) { _ = try output.lastNumber() }
        #expect(try output.lastNumber() == 3)
    }
}
