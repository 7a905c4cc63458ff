import Logging
import Synchronization
import Testing
import WeirServer

@Suite(.serialized) struct HTTPServerTests {
    private func get(_ port: Int, _ path: String) async throws -> String {
        try await offPool {
            let client = try TestClient(port: port)
            client.send("GET \(path) HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return try client.readToEnd()
        }
    }

    private func logger() -> Logger {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        return logger
    }

    @Test func healthReadinessAndUnknownPaths() async throws {
        let state = StateBox()
        let server = try await HTTPServer.start(port: 0, logger: logger()) { state.value.withLock { $0 } }
        #expect(server.port > 0)
        let health = try await get(server.port, "/healthz")
        #expect(health.hasPrefix("HTTP/1.1 200 OK\r\n") && health.hasSuffix("\r\n\r\nok\n"))
        let notReady = try await get(server.port, "/readyz")
        #expect(notReady.hasPrefix("HTTP/1.1 503 "))
        #expect(notReady.hasSuffix("\r\n\r\nnot ready: shard 3 restores\n"))
        state.value.withLock { $0 = .ready }
        #expect(try await get(server.port, "/readyz").hasPrefix("HTTP/1.1 200 OK\r\n"))
        let unknown = try await get(server.port, "/nope")
        #expect(unknown.hasPrefix("HTTP/1.1 404 ") && unknown.contains("application/json"))
        #expect(unknown.hasSuffix(#"{"error":"not found","hint":"there are GET /healthz and GET /readyz"}"# + "\n"))
        let idle = try TestClient(port: server.port)
        idle.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        let start = ContinuousClock.now
        await server.stop()
        #expect(ContinuousClock.now - start < .seconds(3))
        #expect(throws: SocketError.self) { try TestClient(port: server.port) }
    }

    @Test func aPortInUseIsNamed() async throws {
        let server = try await HTTPServer.start(port: 0, logger: logger()) { .ready }
        let error = await #expect(throws: ServerError.self) {
            _ = try await HTTPServer.start(port: server.port, logger: logger()) { .ready }
        }
        #expect(error?.description.hasPrefix("cannot listen on 127.0.0.1:\(server.port): the port is in use") == true)
        await server.stop()
    }

    private final class StateBox: Sendable {
        let value = Mutex(ReadyState.notReady("shard 3 restores"))
    }
}
