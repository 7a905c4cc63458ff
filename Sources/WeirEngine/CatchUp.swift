import WeirAlgebra
import WeirDefinitions

/// The history as a log: every accepted event in the order of acceptance.
package protocol EventLog {
    /// - Parameter body: gets a batch, whose records have their numbers as offsets, and the last number in it.
    func forEachBatch(
        of stream: String, after sequence: Int64, upTo last: Int64, _ body: (PreparedBatch, Int64) throws -> Void
    ) throws
    /// Events of a stream before this time no longer count, and may be gone; `Int64.min` where all count.
    func keptFrom(stream: String) throws -> Int64
}

/// The shards of an online store.
package protocol ShardSet {
    associatedtype Transaction: ShardTransaction
    var shardCount: Int { get }
    func states() throws -> [ShardState]
    /// Runs `body` in one transaction of a shard; on an error nothing of it stays.
    func write(shard: Int, _ body: (Transaction) throws -> Void) throws
}

/// Why a store cannot be caught up.
package struct CatchUpError: Error, CustomStringConvertible {
    package let description: String
}

extension ShardEngine {
    /// Brings shards that are behind the history up to it: after a crash, and for a rebuild from nothing.
    ///
    /// - Parameters:
    ///   - last: the number of the history's last event.
    ///   - watermarks: for each view its stream's; `Int64.min` where that is not known.
    ///   - progress: is told the number that every shard has reached.
    package func catchUp(
        _ shards: some ShardSet, from log: some EventLog, upTo last: Int64, latestEventTime: Int64, watermarks: [Int64],
        progress: (Int64) throws -> Void = { _ in }
    ) throws {
        let states = try shards.states()
        if let ahead = states.map(\.appliedSequence).max(), ahead > last {
            throw CatchUpError(
                description:
                    "the online store has applied events up to number \(ahead), the history ends at \(last): the history was replaced, or lost what was not synced; `weir rebuild` makes the online store anew from it"
            )
        }
        let historyKeptFrom = try catalog.views.map { try log.keptFrom(stream: $0.stream) }
        var position = states.map(\.appliedSequence).min() ?? 0
        while position < last {
            let end = min(position + Limits.eventsPerCatchUp, last)
            var works = states.map { _ in ShardWork(sequence: end, latestEventTime: latestEventTime, watermarks: []) }
            for stream in catalog.streams {
                try log.forEachBatch(of: stream.name, after: position, upTo: end) { batch, _ in
                    for (shard, state) in states.enumerated() where state.appliedSequence < end {
                        let rows = (0..<batch.count).filter { batch.records.rows[batch.recordRows[$0]].offset > state.appliedSequence }
                        guard !rows.isEmpty else { continue }
                        let work = self.works(
                            [AcceptedBatch(batch: batch, rows: rows, firstSequence: 0)], shards: states.count, sequence: end,
                            latestEventTime: latestEventTime, watermarks: [])[shard]
                        works[shard].slices += work.slices
                    }
                }
            }
            for (shard, state) in states.enumerated() where state.appliedSequence < end {
                // Events are replayed in the order of acceptance: let go only at the end, of what lies before the horizon.
                works[shard].watermarks = end == last ? watermarks : watermarks.map { _ in .min }
                works[shard].historyKeptFrom = historyKeptFrom
                try shards.write(shard: shard) { transaction in
                    // Another process that writes to the store would have each event in it twice.
                    guard transaction.state.appliedSequence == max(state.appliedSequence, position) else {
                        throw CatchUpError(description: "another process writes to the same online store; nothing more is taken in")
                    }
                    try apply([works[shard]], to: transaction)
                }
            }
            position = end
            try progress(end)
        }
    }
}
