import Dispatch
import Foundation
import Support
import Synchronization

/// Events of now that are pushed into Weir at a fixed rate, with a record of each, so that answers can be checked while they arrive.
final class LiveStream: Sendable {
    private struct Entry {
        var event: PricedEvent
        var batch: Int
    }

    private struct State {
        /// By what `pick` gave.
        var entries: [Int: [Entry]] = [:]
        var count = 0
        /// When each batch was sent and acknowledged, microseconds; 0: not yet.
        var batches: [(sent: Int64, acknowledged: Int64)] = []
        var failure: (any Error)?
        var stopping = false
        var running = 0
        var begun: Int64 = 0
        var pushed = 0
    }

    private let stream: String
    private let pick: @Sendable (inout SplitMix64) -> Int
    private let encode: @Sendable (GeneratedOrder, Int, inout [UInt8]) -> Void
    private let state = Mutex(State())

    /// - Parameter pick: draws the key of an event. All events of a key go over one connection, so that they become visible in their order.
    /// - Parameter encode: writes an event as JSON; its number is its alone.
    init(
        stream: String, pick: @escaping @Sendable (inout SplitMix64) -> Int,
        encode: @escaping @Sendable (GeneratedOrder, Int, inout [UInt8]) -> Void
    ) {
        self.stream = stream
        self.pick = pick
        self.encode = encode
    }

    func start(port: Int, rate: Double, batch: Int, connections: Int = 1) throws {
        state.withLock {
            $0.stopping = false
            $0.running = connections
            $0.begun = wallClock()
            $0.pushed = 0
        }
        for index in 0..<connections {
            let thread = Thread { [self] in
                do {
                    try push(port: port, index: index, connections: connections, batch: batch, interval: Double(batch * connections) / rate)
                } catch { state.withLock { $0.failure = error } }
                state.withLock { $0.running -= 1 }
            }
            thread.start()
        }
    }

    /// - Returns: events a second that were acknowledged.
    @discardableResult
    func stop() throws -> Double {
        let rate = state.withLock { state in
            state.stopping = true
            return Double(state.pushed) / Double(wallClock() - state.begun) * 1e6
        }
        while state.withLock({ $0.running > 0 }) { usleep(1_000) }
        if let failure = state.withLock({ $0.failure }) { throw failure }
        return rate
    }

    private func push(port: Int, index: Int, connections: Int, batch: Int, interval: Double) throws {
        let connection = try Connection(port: port)
        var random = SplitMix64(seed: UInt64(wallClock()) &+ UInt64(index))
        var due = DispatchTime.now().uptimeNanoseconds
        while !state.withLock({ $0.stopping }) {
            let now = wallClock()
            let orders = (0..<batch).map { _ in
                var key = pick(&random)
                while key % connections != index { key = pick(&random) }
                return GeneratedOrder(customer: key, time: now / 1_000, cents: 1 + Int(random.next() % 20_000))
            }
            let (number, first) = state.withLock { state in
                let number = state.batches.count
                state.batches.append((sent: now, acknowledged: 0))
                for order in orders { state.entries[order.customer, default: []].append(Entry(event: PricedEvent(order), batch: number)) }
                defer { state.count += batch }
                return (number, state.count)
            }
            var request: [UInt8] = []
            append("EVENTS.ADD", stream, count: batch, to: &request) { place, bytes in encode(orders[place], first + place, &bytes) }
            try connection.send(request)
            guard case .integer(batch) = try connection.reply() else { throw BenchmarkFailure("\(stream) took no events") }
            state.withLock { state in
                state.batches[number].acknowledged = wallClock()
                state.pushed += batch
            }
            due += UInt64(interval * 1e9)
            // What was missed for long is not caught up with: the rate that is reported tells.
            due = max(due, DispatchTime.now().uptimeNanoseconds &- 1_000_000_000)
            sleep(until: due)
        }
    }

    private func append(
        _ command: String, _ stream: String, count: Int, to bytes: inout [UInt8], _ event: (Int, inout [UInt8]) -> Void
    ) {
        bytes.append("*")
        bytes.append(decimal: count + 2)
        bytes.append("\r\n")
        var text: [UInt8] = []
        for place in -2..<count {
            text.removeAll(keepingCapacity: true)
            switch place {
            case -2: text += command.utf8
            case -1: text += stream.utf8
            default: event(place, &text)
            }
            bytes.append("$")
            bytes.append(decimal: text.count)
            bytes.append("\r\n")
            bytes += text
            bytes.append("\r\n")
        }
    }

    /// The events so far of some keys, in their order, with the times at which they were sent and acknowledged.
    func entries(of keys: Set<Int>) -> [Int: [(event: PricedEvent, sent: Int64, acknowledged: Int64)]] {
        state.withLock { state in
            var found: [Int: [(event: PricedEvent, sent: Int64, acknowledged: Int64)]] = [:]
            for key in keys {
                found[key] = state.entries[key]?.map { ($0.event, state.batches[$0.batch].sent, state.batches[$0.batch].acknowledged) }
            }
            return found
        }
    }
}
