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
        /// Event loops, each a thread, which requests are answered on.
        package var threadCount = 2
        /// A connection that sends nothing for so long is closed.
        package var idleTime = Duration.seconds(600)

        package init() {}
    }

    /// The port that is listened on.
    package let port: Int
    private let listener: any Channel
    private let running: Task<Void, Never>
    private let group: MultiThreadedEventLoopGroup

    private init(port: Int, listener: any Channel, running: Task<Void, Never>, group: MultiThreadedEventLoopGroup) {
        self.port = port
        self.listener = listener
        self.running = running
        self.group = group
    }

    /// Binds and starts to serve.
    ///
    /// - Parameter authenticator: nil: everybody may read.
    package static func start(
        _ configuration: Configuration, backend: any HTTPBackend, authenticator: (any HTTPAuthenticator)? = nil, logger: Logger
    ) async throws(ServerError) -> HTTPServer {
        guard configuration.threadCount > 0 else { throw ServerError("the server needs at least one thread") }
        guard (0...65_535).contains(configuration.port) else {
            throw ServerError("there is no port \(configuration.port); ports are 1 to 65535, and 0 for any free one")
        }
        let started = Started()
        let group = MultiThreadedEventLoopGroup(numberOfThreads: configuration.threadCount)
        let connections = HTTPConnections()
        let idleTime = TimeAmount.nanoseconds(Int64(configuration.idleTime / .nanoseconds(1)))
        let application = Application(
            router: HTTPRoutes(backend: backend, authenticator: authenticator, connections: connections).router(),
            server: HTTPServerBuilder { responder in
                LoopChannel(
                    HTTP1Channel(responder: responder, configuration: .init(idleTimeout: idleTime)), group: group, connections: connections)
            },
            configuration: ApplicationConfiguration(
                address: .hostname(configuration.host, port: configuration.port), serverName: "weir"),
            onServerRunning: { channel in started.resolve(.success(channel)) },
            eventLoopGroupProvider: .shared(group), logger: logger)
        let running = Task {
            do {
                try await application.run()
                started.resolve(.failure(ServerError("the HTTP server ended before it was up")))
            } catch {
                started.resolve(.failure(ServerError(bindFailure(configuration.host, configuration.port, error))))
            }
        }
        do throws(ServerError) {
            let listener = try await started.result().get()
            let port = listener.localAddress?.port ?? configuration.port
            return HTTPServer(port: port, listener: listener, running: running, group: group)
        } catch {
            await running.value
            try? await group.shutdownGracefully()
            throw error
        }
    }

    /// Stops accepting and closes the connections.
    package func stop() async {
        listener.close(promise: nil)
        running.cancel()
        await running.value
        try? await group.shutdownGracefully()
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
