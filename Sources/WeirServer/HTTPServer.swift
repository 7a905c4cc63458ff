import Hummingbird
import Logging
import NIOCore
import Synchronization

/// Whether the store can answer.
package enum ReadyState: Sendable, Hashable {
    case ready
    /// Not yet or not any more, and why, in one line.
    case notReady(String)
}

/// The HTTP port: `GET /healthz` (200 while the process runs) and `GET /readyz` (200 when lookups are answered, else 503 with the
/// reason). Other paths get 404 with a JSON body that lists these.
package final class HTTPServer: Sendable {
    /// The port that is listened on.
    package let port: Int
    private let listener: any Channel
    private let running: Task<Void, Never>

    private init(port: Int, listener: any Channel, running: Task<Void, Never>) {
        self.port = port
        self.listener = listener
        self.running = running
    }

    /// Binds and starts to serve; `port` 0 takes any free port.
    package static func start(
        host: String = "127.0.0.1", port: Int = 6_480, logger: Logger, readiness: @escaping @Sendable () -> ReadyState
    ) async throws(ServerError) -> HTTPServer {
        guard (0...65_535).contains(port) else {
            throw ServerError("there is no port \(port); ports are 1 to 65535, and 0 for any free one")
        }
        let started = Started()
        let application = Application(
            router: router(readiness),
            configuration: ApplicationConfiguration(address: .hostname(host, port: port), serverName: "weir"),
            onServerRunning: { channel in started.resolve(.success(channel)) },
            logger: logger)
        let running = Task {
            do {
                try await application.run()
                started.resolve(.failure(ServerError("the HTTP server ended before it was up")))
            } catch {
                started.resolve(.failure(ServerError(bindFailure(host, port, error))))
            }
        }
        let listener = try await started.result().get()
        return HTTPServer(port: listener.localAddress?.port ?? port, listener: listener, running: running)
    }

    /// Stops accepting and closes the connections.
    package func stop() async {
        listener.close(promise: nil)
        running.cancel()
        await running.value
    }

    private static func router(_ readiness: @escaping @Sendable () -> ReadyState) -> Router<BasicRequestContext> {
        let router = Router(options: .autoGenerateHeadEndpoints)
        router.add(middleware: UnknownPaths())
        router.get("/healthz") { _, _ in plain(.ok, "ok\n") }
        router.get("/readyz") { _, _ in
            switch readiness() {
            case .ready: plain(.ok, "ready\n")
            case .notReady(let reason): plain(.serviceUnavailable, "not ready: \(reason)\n")
            }
        }
        return router
    }

    private static func plain(_ status: HTTPResponse.Status, _ text: String) -> Response {
        Response(
            status: status, headers: [.contentType: "text/plain; charset=utf-8"],
            body: ResponseBody(byteBuffer: ByteBuffer(string: text)))
    }
}

/// Answers paths that there are not with where to look.
private struct UnknownPaths: RouterMiddleware {
    typealias Context = BasicRequestContext

    func handle(
        _ request: Request, context: BasicRequestContext, next: (Request, BasicRequestContext) async throws -> Response
    ) async throws -> Response {
        do {
            return try await next(request, context)
        } catch let error as HTTPError where error.status == .notFound {
            return Response(
                status: .notFound, headers: [.contentType: "application/json; charset=utf-8"],
                body: ResponseBody(
                    byteBuffer: ByteBuffer(string: #"{"error":"not found","hint":"there are GET /healthz and GET /readyz"}"# + "\n")))
        }
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
