import Foundation
import Synchronization

/// The named points of the commit path at which tests kill the process, to show that none of them loses or doubles anything.
///
/// `WEIR_CRASH_AT=history-inserted:3` makes the process kill itself with SIGKILL when it comes to the point for the third time.
package enum CrashPoint: String, CaseIterable, Sendable {
    /// A batch was handed over by its source.
    case submitted
    /// In the history's transaction: before anything, and when all is written.
    case historyBegun = "history-begun"
    case historyWritten = "history-written"
    case historyCommitted = "history-committed"
    /// In a shard's transaction.
    case shardApplied = "shard-applied"
    case shardCommitted = "shard-committed"
    /// While shards that are behind the history catch up with it.
    case catchUpCommitted = "catch-up-committed"
    /// In the transaction of output topics: when records are sent, when it is committed, and when the history has forgotten them.
    case outputSent = "output-sent"
    case outputCommitted = "output-committed"
    case outputForgotten = "output-forgotten"
    /// A push is in the log, and not yet acknowledged.
    case pushLogged = "push-logged"
    /// Between the renames of a rebuild.
    case rebuildMoved = "rebuild-moved"

    private static let armed: (point: CrashPoint, count: Int)? = {
        guard let text = ProcessInfo.processInfo.environment["WEIR_CRASH_AT"] else { return nil }
        let parts = text.split(separator: ":")
        guard let point = parts.first.flatMap({ CrashPoint(rawValue: String($0)) }) else { return nil }
        return (point, parts.count > 1 ? Int(parts[1]) ?? 1 : 1)
    }()
    private static let reached = Atomic<Int>(0)

    /// Costs one comparison where nothing is armed.
    package static func reach(_ point: CrashPoint) {
        guard let armed, armed.point == point else { return }
        if reached.add(1, ordering: .relaxed).newValue == armed.count { kill(getpid(), SIGKILL) }
    }
}
