import WeirAlgebra
import WeirEngine

/// Topics that take output records.
package protocol OutputTopics {
    /// The number of the last record that the topics have; nil where they have none.
    func lastNumber() throws -> Int64?
    /// Writes records and the number of the last one: all of it, or none.
    func publish(_ records: [(number: Int64, record: OutputRecord)]) throws
}

/// Takes output records from the history to their topics, each once.
///
/// The records are numbered in the transaction of the state that they follow from. The topics keep the number of the last one
/// that they took together with it, so that a crash anywhere leaves none out and sends none twice.
package struct OutputPublisher<Topics: OutputTopics> {
    package let topics: Topics
    /// The topics have everything up to this number: the history may forget it.
    package private(set) var taken: Int64

    package init(_ topics: Topics) throws {
        self.topics = topics
        taken = try topics.lastNumber() ?? 0
    }

    /// Publishes what there is. Returns whether there may be more.
    ///
    /// - Parameter records: the records after a number, in order, at most so many.
    package mutating func publish(
        _ records: (_ after: Int64, _ limit: Int) throws -> [(number: Int64, record: OutputRecord)]
    ) throws -> Bool {
        let batch = try records(taken, Limits.outputRecordsPerTransaction)
        guard let last = batch.last else { return false }
        try topics.publish(batch)
        taken = last.number
        return batch.count == Limits.outputRecordsPerTransaction
    }
}
