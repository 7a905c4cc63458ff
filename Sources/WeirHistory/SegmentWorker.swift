import Foundation
import GRDB
import Synchronization
import WeirEngine

/// Makes segments beside the writer: on threads and a connection of its own. One collects rows while the other puts those of a segment
/// in order, so that no batches wait in memory, which are much larger than the columns that are made of them.
final class SegmentWorker: Sendable {
    private enum State {
        case idle
        case working
        case done(Result<Segment, any Error>)
    }

    private let queue: DatabaseQueue
    private let rowsMax: Int
    private let bytesMax: Int
    private let state = Mutex(State.idle)
    private let thread = DispatchQueue(label: "weir segments")
    private let collector = DispatchQueue(label: "weir rows of segments")
    /// For each stream the rows that were accepted since its last segment was begun. Belongs to `collector`.
    private nonisolated(unsafe) var collected: [String: SegmentCutter] = [:]

    /// - Parameters:
    ///   - rowsMax: of a segment whose rows have to be read.
    ///   - bytesMax: of their texts.
    init(directory: String, rowsMax: Int, bytesMax: Int) throws {
        queue = try HistoryDatabase.openForReading(directory: directory)
        self.rowsMax = rowsMax
        self.bytesMax = bytesMax
    }

    /// Nothing is being made, and nothing waits to be taken.
    var isIdle: Bool { state.withLock { if case .idle = $0 { true } else { false } } }

    /// Takes rows as they were accepted, so that they need not be read again.
    func collect(_ table: StreamTable, _ accepted: AcceptedBatch, of incoming: IncomingBatch) {
        let stream = table.stream.name
        collector.async {
            if self.collected[stream] == nil { self.collected[stream] = try? SegmentCutter(table) }
            self.collected[stream]?.append(accepted, incoming)
        }
    }

    /// Begins to make the segment of the rows after a number: all that are in none, or the first of them where they are too many.
    func start(_ table: StreamTable, after sequence: Int64, count: Int) {
        state.withLock { $0 = .working }
        collector.async {
            let collected = self.collected.removeValue(forKey: table.stream.name)
            self.thread.async {
                let result = Result { () throws -> Segment in
                    // After a restart some were not collected.
                    if let collected, collected.count == count { return collected.segment() }
                    let segment = try self.queue.read { db in
                        try SegmentCutter.cut(table, after: sequence, rowsMax: min(count, self.rowsMax), bytesMax: self.bytesMax, db)
                    }
                    guard let segment else { throw HistoryError("the table '\(table.stream.name)' has no rows after \(sequence)") }
                    return segment
                }
                self.state.withLock { $0 = .done(result) }
            }
        }
    }

    /// What was made; nil while nothing was. Throws why it could not be made.
    ///
    /// - Parameter waits: waits for what is being made.
    func take(waits: Bool) throws -> Segment? {
        if waits {
            collector.sync {}
            thread.sync {}
        }
        let result = state.withLock { state -> Result<Segment, any Error>? in
            guard case .done(let result) = state else { return nil }
            state = .idle
            return result
        }
        return try result?.get()
    }
}
