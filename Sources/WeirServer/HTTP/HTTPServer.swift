import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import NIOPosix
import Synchronization
import WeirAlgebra

/// Whether the store can answer.
package enum ReadyState: Sendable, Hashable {
    case ready
    /// Not yet or not any more, and why, in one line.
    case notReady(String)
}

/// The HTTP port. Paths: `HTTPPath`. Errors are JSON with a hint.
package final class HTTPServer: Sendable {
    package struct Configuration: Sendable {
        package var host = "127.0.0.1"
        /// 0: any free port; `HTTPServer.port` tells which.
        package var port = 6_480
        /// A connection that sends nothing for so long is closed.
        package var idleTime = Duration.seconds(600)
        /// Further connections wait until one closes.
        package var connectionCountMax = Limits.httpConnectionsMax
        package var authenticator = Authenticator()
        /// nil: clients speak plain HTTP.
        package var tls: TLSCertificates?

        package init() {}
    }

    /// The port that is listened on.
    package let port: Int
    private let listener: any Channel
    private let running: Task<Void, Never>

    private init(port: Int, listener: any Channel, running: Task<Void, Never>) {
        self.port = port
        self.listener = listener
        self.running = running
    }

    /// Binds and starts to serve.
    package static func start(
        _ configuration: Configuration, backend: any HTTPBackend, logger: Logger
    ) async throws(ServerError) -> HTTPServer {
        guard (0...65_535).contains(configuration.port) else {
            throw ServerError("there is no port \(configuration.port); ports are 1 to 65535, and 0 for any free one")
        }
        let started = Started()
        // NIO's own loops, a thread a core: Hummingbird's server still uses its loops when it has ended, so they cannot be shut down with it.
        let group = MultiThreadedEventLoopGroup.singleton
        let connections = HTTPConnections()
        let idleTime = TimeAmount.nanoseconds(Int64(configuration.idleTime / .nanoseconds(1)))
        let application = Application(
            router: HTTPRoutes(backend: backend, authenticator: configuration.authenticator, connections: connections).router(),
            server: HTTPServerBuilder { responder in
                LoopChannel(
                    HTTP1Channel(responder: responder, configuration: .init(idleTimeout: idleTime)), tls: configuration.tls, group: group,
                    connections: connections)
            },
            configuration: ApplicationConfiguration(
                address: .hostname(configuration.host, port: configuration.port), serverName: "weir",
                availableConnectionsDelegate: MaximumAvailableConnections(configuration.connectionCountMax)),
            onServerRunning: { channel in started.resolve(.success(channel)) },
            logger: logger)
        let running = Task {
            do {
                try await application.run()
                started.resolve(.failure(ServerError("the HTTP server ended before it was up")))
            } catch {
                started.resolve(.failure(ServerError(bindFailure(configuration.host, configuration.port, error))))
            }
        }
        let listener = try await started.result().get()
        return HTTPServer(port: listener.localAddress?.port ?? configuration.port, listener: listener, running: running)
    }

    /// Stops accepting and closes the connections.
    package func stop() async {
        listener.close(promise: nil)
        running.cancel()
        await running.value
    }
}

/// The outcome of a start, awaited once.
private final class Started: Sendable {
    private struct State {
        var result: Result<any Channel, ServerError>?
        var waiter: CheckedContinuation<Result<any Channel, ServerError>, Never>?
    }

    private let state = Mutex(State())

    /// The first result counts.
    func resolve(_ result: Result<any Channel, ServerError>) {
        let waiter = state.withLock { state in
            guard state.result == nil else { return nil as CheckedContinuation<Result<any Channel, ServerError>, Never>? }
            state.result = result
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume(returning: result)
    }

    func result() async -> Result<any Channel, ServerError> {
        await withCheckedContinuation { continuation in
            let result = state.withLock { state in
                if state.result == nil { state.waiter = continuation }
                return state.result
            }
            if let result { continuation.resume(returning: result) }
        }
    }
}
