import Hummingbird
import NIOCore
import NIOPosix
import WeirAlgebra

/// What the HTTP port answers.
enum HTTPPath: String, CaseIterable {
    case onlineFeatures = "/get-online-features"
    case features = "/features"
    case metrics = "/metrics"
    case health = "/healthz"
    case readiness = "/readyz"

    var method: HTTPRequest.Method { self == .onlineFeatures ? .post : .get }

    /// Empty: open to all, as load balancers ask without credentials.
    var rights: Rights {
        switch self {
        case .onlineFeatures, .features: .read
        case .metrics: .admin
        case .health, .readiness: []
        }
    }

    /// As requests are counted.
    static let list = allCases

    /// For hints.
    static var all: String {
        "there are " + allCases.map { "\($0.method) \($0.rawValue)" }.joined(separator: ", ")
    }
}

/// A request's context, with its connection.
struct HTTPContext: RequestContext {
    var coreContext: CoreRequestContextStorage
    let channel: any Channel

    init(source: ApplicationRequestContextSource) {
        coreContext = CoreRequestContextStorage(source: source)
        channel = source.channel
    }
}

struct HTTPRoutes: Sendable {
    let backend: any HTTPBackend
    let authenticator: Authenticator
    let connections: HTTPConnections
    let metrics = RequestMetrics(
        protocolName: "http", commands: HTTPPath.list.map { String($0.rawValue.dropFirst()) } + ["other"], executors: 1)

    func router() -> Router<HTTPContext> {
        let router = Router(context: HTTPContext.self, options: .autoGenerateHeadEndpoints)
        router.add(middleware: Gate(authenticator: authenticator, metrics: metrics))
        router.post(.init(HTTPPath.onlineFeatures.rawValue)) { request, context in
            try await onlineFeatures(request, context)
        }
        router.get(.init(HTTPPath.features.rawValue)) { _, _ in
            var json: [UInt8] = []
            backend.catalog().appendJSON(to: &json)
            json.append(UInt8(ascii: "\n"))
            return Response(json: json)
        }
        router.get(.init(HTTPPath.metrics.rawValue)) { _, _ in
            let families = try await blocking { own() + backend.metrics() }
            return Response(text: PrometheusText.format(families), contentType: PrometheusText.contentType)
        }
        router.get(.init(HTTPPath.health.rawValue)) { _, _ in Response(text: "ok\n") }
        router.get(.init(HTTPPath.readiness.rawValue)) { _, _ in
            switch try await blocking({ backend.readiness() }) {
            case .ready: Response(text: "ready\n")
            case .notReady(let reason): Response(text: "not ready: \(reason)\n", status: .serviceUnavailable)
            }
        }
        return router
    }

    private func onlineFeatures(_ request: Request, _ context: HTTPContext) async throws -> Response {
        guard let body = await request.readBody(upTo: Limits.httpBodyBytesMax, context) else {
            throw HTTPProblem(
                .tooLarge, "the body has more than \(Limits.httpBodyBytesMax) bytes", hint: "ask for fewer entities in one request")
        }
        try checkContentType(request)
        // From here on nothing waits: the time is that of the answer.
        let start = RequestMetrics.now()
        let wanted = try OnlineFeaturesRequest(body)
        let response = Response(json: try backend.onlineFeatures(wanted).json(for: wanted))
        metrics.observe(nanoseconds: RequestMetrics.now() &- start, executor: 0)
        return response
    }

    /// Browsers send other types to other sites without asking.
    private func checkContentType(_ request: Request) throws(HTTPProblem) {
        let type = request.headers[.contentType] ?? ""
        if type == "application/json" { return }
        let essence = type.prefix { $0 != ";" }.trimmed.lowercased()
        guard essence == "application/json" || (essence.hasPrefix("application/") && essence.hasSuffix("+json")) else {
            throw HTTPProblem(
                .unsupportedMediaType, type.isEmpty ? "the body's type is not given" : "the body's type is '\(essence)'",
                hint: "send the header `Content-Type: application/json`")
        }
    }

    private func own() -> [MetricFamily] {
        let label = MetricFamily.labels(["protocol": "http"])
        return metrics.families() + [
            MetricFamily("weir_connections", .gauge, "Open connections.", [.init(Double(connections.open), label)]),
            MetricFamily(
                "weir_connections_accepted_total", .counter, "Connections since the process started.",
                [.init(Double(connections.accepted), label)]),
        ]
    }

    /// Runs what may wait for a disk on a thread that may.
    private func blocking<R: Sendable>(_ body: @escaping @Sendable () -> R) async throws -> R {
        try await NIOThreadPool.singleton.runIfActive { body() }
    }
}

extension Request {
    /// Reads the body, once; nil where it has more than `bytesMax`.
    ///
    /// Most clients look for an answer only when they have sent all of their body, so what is too much is read and dropped; where that is
    /// very much, the connection is cut when the answer is out.
    fileprivate func readBody(upTo bytesMax: Int, _ context: HTTPContext) async -> [UInt8]? {
        var bytes: [UInt8] = []
        var count = 0
        do {
            for try await part in body {
                count += part.readableBytes
                if count <= bytesMax { bytes.append(contentsOf: part.readableBytesView) }
                if count > bytesMax + 4 * Limits.httpBodyBytesMax {
                    let channel = context.channel
                    channel.eventLoop.scheduleTask(in: .seconds(1)) { channel.close(promise: nil) }
                    return nil
                }
            }
        } catch {
            return nil
        }
        return count <= bytesMax ? bytes : nil
    }
}

extension Substring {
    fileprivate var trimmed: Substring { drop { $0 == " " }.prefix { $0 != " " } }
}

/// What every request passes: it is counted, its sender's rights are checked, and what goes wrong is answered as JSON.
private struct Gate: RouterMiddleware {
    typealias Context = HTTPContext

    let authenticator: Authenticator
    let metrics: RequestMetrics

    func handle(
        _ request: Request, context: HTTPContext, next: (Request, HTTPContext) async throws -> Response
    ) async throws -> Response {
        // The route that was found, and not the path as sent: a path may be written in more than one way.
        let route = context.endpointPath
        let path = HTTPPath.list.firstIndex { $0.rawValue == route }
        let command = path ?? HTTPPath.list.count
        metrics.count(command, executor: 0)
        do {
            if let path, !HTTPPath.list[path].rights.isEmpty {
                do throws(HTTPProblem) {
                    try await authenticator.authorize(request.headers[.authorization], for: HTTPPath.list[path].rights)
                } catch {
                    _ = await request.readBody(upTo: 0, context)
                    throw error
                }
            }
            let response = try await next(request, context)
            if response.status.code >= 400 { metrics.countError(command, executor: 0) }
            return response
        } catch let problem as HTTPProblem {
            metrics.countError(command, executor: 0)
            return problem.response
        } catch let error as HTTPError where error.status == .notFound {
            metrics.countError(command, executor: 0)
            _ = await request.readBody(upTo: 0, context)
            return unknown(request).response
        }
    }

    private func unknown(_ request: Request) -> HTTPProblem {
        guard let path = HTTPPath(rawValue: request.uri.path) else {
            return HTTPProblem(.notFound, "there is no path '\(request.uri.path)'", hint: HTTPPath.all)
        }
        return HTTPProblem(
            .methodNotAllowed, "\(path.rawValue) is asked with \(path.method), not \(request.method)",
            hint: HTTPPath.all, allow: path.method == .get ? "GET, HEAD" : "POST")
    }
}
