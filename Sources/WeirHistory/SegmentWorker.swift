import Foundation
import GRDB
import Synchronization

/// Makes segments beside the writer: on a thread and a connection of its own.
final class SegmentWorker: Sendable {
    private enum State {
        case idle
        case working
        case done(Result<Segment?, any Error>)
    }

    private let queue: DatabaseQueue
    private let state = Mutex(State.idle)
    private let thread = DispatchQueue(label: "weir segments")

    init(directory: String) throws { queue = try HistoryDatabase.openForReading(directory: directory) }

    /// Nothing is being made, and nothing waits to be taken.
    var isIdle: Bool { state.withLock { if case .idle = $0 { true } else { false } } }

    /// Begins to make the segment of the first rows after a number.
    ///
    /// - Parameter collected: these rows; nil reads them.
    func start(_ table: StreamTable, after sequence: Int64, count: Int, collected: SegmentCutter?) {
        state.withLock { $0 = .working }
        thread.async {
            let result = Result {
                try collected.map { $0.segment() }
                    ?? self.queue.read { db in try SegmentCutter.cut(table, after: sequence, count: count, db) }
            }
            self.state.withLock { $0 = .done(result) }
        }
    }

    /// What was made; nil while nothing was.
    ///
    /// - Parameter waits: waits for what is being made.
    func take(waits: Bool) throws -> Segment? {
        if waits { thread.sync {} }
        let result = state.withLock { state -> Result<Segment?, any Error>? in
            guard case .done(let result) = state else { return nil }
            state = .idle
            return result
        }
        return try result?.get()
    }
}
