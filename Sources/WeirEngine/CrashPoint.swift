import Foundation
import Synchronization

/// The named points of the commit path at which tests kill the process, to show that none of them loses or doubles anything.
///
/// `WEIR_CRASH_AT=history-written:3` makes the process kill itself with SIGKILL when it comes to the point for the third time.
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
    /// In a store that is made anew: when it has taken in some of the history.
    case buildCommitted = "build-committed"
    /// Between the renames that put it in its place.
    case rebuildMoved = "rebuild-moved"
    /// In the erasure of an entity: in the history's transaction, behind it; when a shard has let go of it, when a shard's file is made
    /// anew; when the push log is; when nothing names the entity any more, and when the history's file is made anew.
    case erasureWritten = "erasure-written"
    case erasureCommitted = "erasure-committed"
    case erasureApplied = "erasure-applied"
    case erasureCompacted = "erasure-compacted"
    case erasureTrimmed = "erasure-trimmed"
    case erasureUnnamed = "erasure-unnamed"
    case erasurePurged = "erasure-purged"

    /// While events whose time to live is over leave the history: in a transaction that deletes some, and behind it.
    case retentionWritten = "retention-written"
    case retentionCommitted = "retention-committed"

    private static let armed = ProcessInfo.processInfo.environment["WEIR_CRASH_AT"].flatMap { try? parse($0) }

    /// - Parameter text: a point, or a point and a count.
    package static func parse(_ text: String) throws(CrashPointError) -> (point: CrashPoint, count: Int) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count <= 2, let point = CrashPoint(rawValue: String(parts[0])),
            let count = parts.count == 2 ? Int(parts[1]) : 1, count > 0
        else {
            throw CrashPointError(
                description:
                    "WEIR_CRASH_AT=\(text): POINT or POINT:COUNT expected; the points are \(allCases.map(\.rawValue).joined(separator: ", "))"
            )
        }
        return (point, count)
    }

    /// A mistyped point would be one that nothing ever comes to.
    package static func check() throws(CrashPointError) {
        if let text = ProcessInfo.processInfo.environment["WEIR_CRASH_AT"] { _ = try parse(text) }
    }

    private static let reached = Atomic<Int>(0)

    /// Costs one comparison where nothing is armed.
    package static func reach(_ point: CrashPoint) {
        guard let armed, armed.point == point else { return }
        if reached.add(1, ordering: .relaxed).newValue == armed.count { kill(getpid(), SIGKILL) }
    }
}

package struct CrashPointError: Error, CustomStringConvertible {
    package let description: String
}
