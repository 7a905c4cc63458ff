import Testing
import WeirLookup

/// Sessions that the server holds.
@Suite struct SessionStoreTests {
    /// Sessions that nobody asks for again go when their time to live ends, not when there is no more room for others.
    @Test func expiredSessionsGo() async throws {
        let store = SessionStore(timeToLive: .milliseconds(400))
        for number in 0..<1_000 { _ = try store.add("visit-\(number)", []) }
        #expect(store.count == 1_000)
        try await Task.sleep(for: .milliseconds(250))
        _ = try store.add("visit-7", [])
        try await Task.sleep(for: .milliseconds(250))
        // A push gave it more time.
        #expect(store.count == 1)
        #expect(store.drop("visit-7"))
        #expect(!store.drop("visit-7"))
        _ = try store.add("visit-7", [])
        #expect(store.count == 1)
    }
}
