import WeirAlgebra
import Synchronization
import WeirDefinitions
import WeirRecords

/// Sessions that the server holds: events pushed ahead of the lookups that will name the session. In memory, with a time to
/// live since the last push; they do not survive a restart.
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

    private let timeToLive: Duration
    private let sessions = Mutex<[String: Session]>([:])

    package init(timeToLive: Duration) {
        self.timeToLive = timeToLive
    }

    /// Adds decoded events; returns how many the session holds.
    package func add(_ id: String, _ entries: [Entry]) throws(LookupError) -> Int {
        let now = ContinuousClock.now
        let result: Result<Int, LookupError> = sessions.withLock { sessions in
            if sessions[id].map({ $0.expiresAt <= now }) ?? false { sessions[id] = nil }
            if sessions[id] == nil, sessions.count >= Limits.sessionsMax {
                sessions = sessions.filter { $0.value.expiresAt > now }
                if sessions.count >= Limits.sessionsMax {
                    return .failure(LookupError("the server holds \(Limits.sessionsMax) sessions already; drop some with SESSION.DROP"))
                }
            }
            var session = sessions[id] ?? Session(expiresAt: now)
            let added = entries.reduce(0) { $0 + $1.batch.count }
            guard session.eventCount + added <= Limits.sessionEventsMax else {
                return .failure(LookupError("a session holds at most \(Limits.sessionEventsMax) events"))
            }
            session.entries += entries
            session.eventCount += added
            session.expiresAt = now + timeToLive
            sessions[id] = session
            return .success(session.eventCount)
        }
        return try result.get()
    }

    /// Empty for a session that is unknown or has expired.
    package func entries(_ id: String) -> [Entry] {
        let now = ContinuousClock.now
        return sessions.withLock { sessions in
            guard let session = sessions[id] else { return [] }
            if session.expiresAt <= now {
                sessions[id] = nil
                return []
            }
            return session.entries
        }
    }

    package func drop(_ id: String) -> Bool {
        sessions.withLock { $0.removeValue(forKey: id) != nil }
    }

    package var count: Int { sessions.withLock { $0.count } }
}
