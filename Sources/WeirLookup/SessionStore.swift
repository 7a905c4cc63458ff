import Foundation
import WeirAlgebra
import Synchronization
import WeirDefinitions
import WeirRecords

/// Sessions that the server holds: events pushed ahead of the lookups that will name the session. In memory, with a time to
/// live since the last push; they do not survive a restart, but a program hands them over to the one that the process becomes.
package final class SessionStore: Sendable {
    package struct Entry: Sendable {
        package let stream: String
        package let json: [UInt8]
        package let batch: PreparedBatch

        package init(stream: String, json: [UInt8], batch: PreparedBatch) {
            self.stream = stream
            self.json = json
            self.batch = batch
        }
    }

    private struct Session {
        var entries: [Entry] = []
        var eventCount = 0
        /// Microseconds of the monotonic clock.
        var expiresAt: ContinuousClock.Instant
    }

    /// The sessions, and when each push's time to live ends, in the order of pushes, which is that of the ends.
    private struct State {
        var sessions: [String: Session] = [:]
        private var ends: [(id: String, at: ContinuousClock.Instant)] = []
        private var firstEnd = 0

        mutating func remember(_ id: String, until end: ContinuousClock.Instant) { ends.append((id, end)) }

        /// Forgets what has expired. Each push is looked at once.
        mutating func expire(_ now: ContinuousClock.Instant) {
            while firstEnd < ends.count, ends[firstEnd].at <= now {
                let id = ends[firstEnd].id
                // A later push may have given it more time.
                if let session = sessions[id], session.expiresAt <= now { sessions[id] = nil }
                firstEnd += 1
            }
            if firstEnd > 64, firstEnd * 2 > ends.count {
                ends.removeFirst(firstEnd)
                firstEnd = 0
            }
        }
    }

    private let timeToLive: Duration
    private let state = Mutex(State())

    package init(timeToLive: Duration) {
        self.timeToLive = timeToLive
    }

    /// Adds decoded events; returns how many the session holds.
    package func add(_ id: String, _ entries: [Entry], now: ContinuousClock.Instant = .now) throws(LookupError) -> Int {
        let result: Result<Int, LookupError> = state.withLock { state in
            state.expire(now)
            if state.sessions[id] == nil, state.sessions.count >= Limits.sessionsMax {
                return .failure(LookupError("the server holds \(Limits.sessionsMax) sessions already; drop some with SESSION.DROP"))
            }
            var session = state.sessions[id] ?? Session(expiresAt: now)
            let added = entries.reduce(0) { $0 + $1.batch.count }
            guard session.eventCount + added <= Limits.sessionEventsMax else {
                return .failure(LookupError("a session holds at most \(Limits.sessionEventsMax) events"))
            }
            session.entries += entries
            session.eventCount += added
            session.expiresAt = now + timeToLive
            state.sessions[id] = session
            state.remember(id, until: session.expiresAt)
            return .success(session.eventCount)
        }
        return try result.get()
    }

    /// Empty for a session that is unknown or has expired.
    package func entries(_ id: String, now: ContinuousClock.Instant = .now) -> [Entry] {
        state.withLock { state in
            state.expire(now)
            return state.sessions[id]?.entries ?? []
        }
    }

    /// A session as it goes from one program to the next.
    package struct HandedOver: Codable, Sendable {
        package struct Push: Codable, Sendable {
            package var stream: String
            /// One event as JSON.
            package var event: Data
        }
        package var id: String
        package var pushes: [Push]
        package var secondsLeft: Double
    }

    /// All sessions, in the order in which they end.
    package func handOver(now: ContinuousClock.Instant = .now) -> [HandedOver] {
        state.withLock { state in
            state.expire(now)
            return state.sessions.sorted { ($0.value.expiresAt, $0.key) < ($1.value.expiresAt, $1.key) }.map { id, session in
                HandedOver(
                    id: id, pushes: session.entries.map { .init(stream: $0.stream, event: Data($0.json)) },
                    secondsLeft: (session.expiresAt - now) / .seconds(1))
            }
        }
    }

    /// Takes a session that another program held.
    package func take(_ session: HandedOver, _ entries: [Entry], now: ContinuousClock.Instant = .now) throws(LookupError) {
        _ = try add(session.id, entries, now: now + .seconds(session.secondsLeft) - timeToLive)
    }

    package func drop(_ id: String) -> Bool {
        state.withLock { $0.sessions.removeValue(forKey: id) != nil }
    }

    package var count: Int { count(now: .now) }

    package func count(now: ContinuousClock.Instant) -> Int {
        state.withLock { state in
            state.expire(now)
            return state.sessions.count
        }
    }
}
