import NIOCore
import Synchronization

/// What belongs to one event loop: its number, its connections, how late it is, and its share of the counters.
// Used on its event loop alone, except for the counters, which are atomic.
package final class LoopState: @unchecked Sendable {
    /// The backend's executor.
    package let executor: Int
    let bytesRead = Atomic<Int>(0)
    let bytesWritten = Atomic<Int>(0)
    /// The connections, by number.
    var handlers: [UInt64: RESPConnectionHandler] = [:]
    /// Connections with replies, until all are written.
    private var unwritten: [RESPConnectionHandler] = []
    private var isRoundOpen = false
    /// When the loop is to look at its clock next. A loop that has more to do than it can gets to it late.
    private var tickDue: NIODeadline?
    private var ticks = 0

    init(executor: Int) { self.executor = executor }

    /// How long what arrives now has waited, at least: the time by which the loop's clock is overdue.
    func delay(at now: NIODeadline) -> TimeAmount {
        guard let tickDue, now > tickDue else { return .zero }
        return now - tickDue
    }

    /// Something was read: when the loop has read from all connections that it found ready, the snapshot that their lookups shared ends, and
    /// all replies are written. So a client with many connections finds many replies when it wakes, and the store is opened once.
    func beginRound(on eventLoop: any EventLoop, _ backend: any FeatureBackend) {
        guard !isRoundOpen else { return }
        isRoundOpen = true
        eventLoop.assumeIsolated().execute { [self] in
            isRoundOpen = false
            backend.endBatch(executor: executor)
            let handlers = unwritten
            unwritten.removeAll(keepingCapacity: true)
            for handler in handlers { handler.writeReplies() }
        }
    }

    /// Writes the connection's replies when the round ends.
    func writeLater(_ handler: RESPConnectionHandler) { unwritten.append(handler) }

    private static let tick = TimeAmount.milliseconds(50)
    private static let ticksPerLook = 5

    /// Starts the loop's clock.
    func start(on eventLoop: any EventLoop) {
        tickDue = .now() + LoopState.tick
        eventLoop.scheduleRepeatedTask(initialDelay: .zero, delay: LoopState.tick) { [self] _ in
            let now = NIODeadline.now()
            tickDue = now + LoopState.tick
            ticks += 1
            guard ticks % LoopState.ticksPerLook == 0 else { return }
            for handler in Array(handlers.values) { handler.checkTimes(now) }
        }
    }
}
