import Testing
import WeirLookup

/// Sessions that the server holds.
@Suite struct SessionStoreTests {
    /// Sessions that nobody asks for again go when their time to live ends, not when there is no more room for others.
    @Test func expiredSessionsGo() throws {
        let store = SessionStore(timeToLive: .seconds(400))
        let start = ContinuousClock.now
        func after(_ seconds: Int) -> ContinuousClock.Instant { start + .seconds(seconds) }
        for number in 0..<1_000 { _ = try store.add("visit-\(number)", [], now: start) }
        #expect(store.count(now: after(399)) == 1_000)
        // A push gives a session more time.
        _ = try store.add("visit-7", [], now: after(250))
        #expect(store.count(now: after(401)) == 1)
        #expect(store.count(now: after(651)) == 0)
        _ = try store.add("visit-7", [], now: after(700))
        #expect(store.drop("visit-7"))
        #expect(!store.drop("visit-7"))
        // What is left of a dropped session's pushes takes nothing from a new one.
        _ = try store.add("visit-7", [], now: after(900))
        #expect(store.count(now: after(1_200)) == 1)
    }
}
