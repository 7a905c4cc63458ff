/// Reads partitions from offsets that the caller keeps: `KafkaConsumer` in production.
package protocol TopicConsumer {
    /// The numbers of a topic's partitions; empty for a topic that does not exist.
    func partitions(of topic: String) throws -> [Int32]
    /// The offset that a start means for a partition, as a number, so that it can be stored.
    func offset(of start: KafkaStart, topic: String, partition: Int32) throws -> Int64
    /// Adds a partition, from an offset on.
    func add(topic: String, partition: Int32, offset: Int64) throws
    /// Stops giving a partition's messages, until it is resumed.
    func pause(topic: String, partition: Int32) throws
    func resume(topic: String, partition: Int32) throws
    /// Waits for up to `timeoutMilliseconds`, then hands over what has come.
    func poll(timeoutMilliseconds: Int32, _ body: (TopicEvent) throws -> Void) throws
}

/// Something that polling gave.
package enum TopicEvent {
    /// `value` is valid during the call only; nil for a tombstone.
    case message(topic: String, partition: Int32, offset: Int64, value: UnsafeRawBufferPointer?)
    /// The end of a partition, for now: everything before this offset was given.
    case end(topic: String, partition: Int32, offset: Int64)
    /// The offset asked for is no longer (or not yet) on the broker.
    case offsetOutOfRange(topic: String, partition: Int32, offset: Int64)
    /// The client goes on by itself.
    case problem(String)
}
