import Logging
import Synchronization
import Testing
import WeirAlgebra
import WeirServer

/// Answers `spend:total` and `spend:last` for any household.
final class FakeHTTPBackend: HTTPBackend {
    let state = Mutex(ReadyState.ready)

    func onlineFeatures(_ request: OnlineFeaturesRequest) throws(HTTPProblem) -> OnlineFeatures {
        guard case .features(let range) = request.wanted else { throw HTTPProblem(.notFound, "there is no service") }
        let references = try request.references(range)
        var group = OnlineFeatures.Group(resultsPerRow: 2, eventTimesPerRow: 1, rows: request.rowCount)
        for _ in 0..<request.rowCount {
            group.results += [FeatureResult(.double(2.5), .present), FeatureResult(.list([]), .present)]
            group.eventTimes.append(EventTime(microseconds: 1_500_000))
        }
        return OnlineFeatures(
            echoed: [0],
            columns: references.map { .init(name: $0.feature, group: 0, value: $0.feature == "last" ? 1 : 0, eventTime: 0) },
            groups: [group], views: ["spend"])
    }

    func catalog() -> ReplyValue { .map(["views": .array([.map(["name": .string("spend \"x\""), "window": .null, "count": .int(-3)])])]) }

    func metrics() -> [MetricFamily] { [MetricFamily("weir_sessions", .gauge, "Sessions.", 3)] }

    func readiness() -> ReadyState { state.withLock { $0 } }
}

@Suite(.serialized) struct HTTPServerTests {
    private func ask(_ port: Int, _ method: String, _ path: String, _ headers: [String] = [], body: String = "") async throws -> String {
        try await offPool {
            let client = try TestClient(port: port)
            let length = method == "GET" ? [] : ["Content-Length: \(body.utf8.count)"]
            let head = ["\(method) \(path) HTTP/1.1", "Host: localhost", "Connection: close"] + length + headers
            client.send(head.joined(separator: "\r\n") + "\r\n\r\n" + body)
            return try client.readToEnd()
        }
    }

    private func post(_ port: Int, _ body: String, _ headers: [String] = ["Content-Type: application/json"]) async throws -> String {
        try await ask(port, "POST", "/get-online-features", headers, body: body)
    }

    private func withServer(
        _ backend: FakeHTTPBackend = FakeHTTPBackend(), password: String? = nil, _ body: (Int) async throws -> Void
    ) async throws {
        let server = try await start(backend, authenticator: Authenticator(password: password))
        do {
            try await body(server.port)
            await server.stop()
        } catch {
            await server.stop()
            throw error
        }
    }

    private func start(
        _ backend: FakeHTTPBackend = FakeHTTPBackend(), port: Int = 0, authenticator: Authenticator = Authenticator()
    ) async throws(ServerError) -> HTTPServer {
        var configuration = HTTPServer.Configuration()
        configuration.port = port
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        configuration.authenticator = authenticator
        return try await HTTPServer.start(configuration, backend: backend, logger: logger)
    }

    @Test func healthReadinessAndUnknownPaths() async throws {
        let backend = FakeHTTPBackend()
        backend.state.withLock { $0 = .notReady("shard 3 restores") }
        let server = try await start(backend)
        #expect(server.port > 0)
        let health = try await ask(server.port, "GET", "/healthz")
        #expect(health.hasPrefix("HTTP/1.1 200 OK\r\n") && health.hasSuffix("\r\n\r\nok\n"))
        let notReady = try await ask(server.port, "GET", "/readyz")
        #expect(notReady.hasPrefix("HTTP/1.1 503 "))
        #expect(notReady.hasSuffix("\r\n\r\nnot ready: shard 3 restores\n"))
        backend.state.withLock { $0 = .ready }
        #expect(try await ask(server.port, "GET", "/readyz").hasPrefix("HTTP/1.1 200 OK\r\n"))
        let unknown = try await ask(server.port, "GET", "/nope")
        #expect(unknown.hasPrefix("HTTP/1.1 404 ") && unknown.contains("application/json"))
        #expect(unknown.contains(#"{"error":"there is no path '/nope'","hint":"there are POST /get-online-features, GET /features"#))
        let wrong = try await ask(server.port, "POST", "/metrics")
        #expect(wrong.hasPrefix("HTTP/1.1 405 ") && wrong.contains("Allow: GET, HEAD") && wrong.contains("not POST"))
        #expect(try await ask(server.port, "GET", "/get-online-features").contains("Allow: POST"))
        let idle = try TestClient(port: server.port)
        idle.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        let start = ContinuousClock.now
        await server.stop()
        #expect(ContinuousClock.now - start < .seconds(3))
        #expect(throws: SocketError.self) { try TestClient(port: server.port) }
    }

    @Test func aPortInUseIsNamed() async throws {
        let server = try await start()
        let error = await #expect(throws: ServerError.self) { _ = try await start(port: server.port) }
        #expect(error?.description.hasPrefix("cannot listen on 127.0.0.1:\(server.port): the port is in use") == true)
        await server.stop()
    }

    @Test func answersInFeastsShape() async throws {
        try await withServer { port in
            let answer = try await post(
                port,
                #"{"features":["spend:total","spend:last"],"entities":{"household":[7,null]},"include_feature_view_version_metadata":true}"#
            )
            #expect(answer.hasPrefix("HTTP/1.1 200 ") && answer.contains("Content-Type: application/json\r\n"))
            let epoch = #""1970-01-01T00:00:00Z""#
            let time = #""1970-01-01T00:00:01.500Z""#
            let expected =
                #"{"metadata":{"feature_names":["household","total","last"],"feature_view_metadata":[{"name":"spend"}]},"results":["#
                + #"{"values":[7,null],"statuses":["PRESENT","NULL_VALUE"],"event_timestamps":[\#(epoch),\#(epoch)]},"#
                + #"{"values":[2.5,2.5],"statuses":["PRESENT","PRESENT"],"event_timestamps":[\#(time),\#(time)]},"#
                + #"{"values":[null,null],"statuses":["NULL_VALUE","NULL_VALUE"],"event_timestamps":[\#(time),\#(time)]}]}"# + "\n"
            #expect(answer.hasSuffix("\r\n\r\n" + expected), "\(answer)")
            let empty = try await post(port, #"{"features":["spend:total"],"entities":{"household":[]}}"#)
            #expect(empty.contains(#"{"values":[],"statuses":[],"event_timestamps":[]}"#))
            let catalog = try await ask(port, "GET", "/features")
            #expect(catalog.hasSuffix(#"{"views":[{"name":"spend \"x\"","window":null,"count":-3}]}"# + "\n"))
        }
    }

    @Test func refusesOtherBodies() async throws {
        try await withServer { port in
            let body = #"{"features":["spend:total"],"entities":{"household":[7]}}"#
            for headers in [[], ["Content-Type: text/plain"], ["Content-Type: application/jsonp"]] {
                let answer = try await post(port, body, headers)
                #expect(answer.hasPrefix("HTTP/1.1 415 ") && answer.contains("Content-Type: application/json"), "\(headers)")
            }
            #expect(try await post(port, body, ["Content-Type: application/json ; charset=utf-8"]).hasPrefix("HTTP/1.1 200 "))
            let large = try await post(port, String(repeating: " ", count: Limits.httpBodyBytesMax + 1))
            #expect(large.hasPrefix("HTTP/1.1 413 ") && large.contains("fewer entities"))
            #expect(try await post(port, "{").hasPrefix("HTTP/1.1 400 "))
            #expect(try await post(port, #"{"feature_service":"x","entities":{"household":[7]}}"#).hasPrefix("HTTP/1.1 404 "))
        }
    }

    @Test func thePasswordGuardsEverySpellingOfAPath() async throws {
        try await withServer(password: "s3cret") { port in
            for path in ["/metrics", "/metrics/", "//metrics", "/features", "/features/", "/%66eatures", "/features?x=1"] {
                for headers in [[], ["Authorization: Basic ZGVmYXVsdDp3cm9uZw=="], ["Authorization: Bearer s3cre"], ["Authorization: x"]] {
                    let answer = try await ask(port, "GET", path, headers)
                    #expect(answer.hasPrefix("HTTP/1.1 401 ") || answer.hasPrefix("HTTP/1.1 404 "), "\(path) \(headers)")
                    #expect(answer.contains(#"{"error":"#))
                }
            }
            #expect(try await ask(port, "HEAD", "/metrics").hasPrefix("HTTP/1.1 401 "))
            let refused = try await post(port, "{}")
            #expect(refused.hasPrefix("HTTP/1.1 401 ") && refused.contains("WWW-Authenticate: Basic"))
            // default:s3cret, and the same password for another user.
            #expect(try await ask(port, "GET", "/metrics", ["Authorization: Basic ZGVmYXVsdDpzM2NyZXQ="]).hasPrefix("HTTP/1.1 200 "))
            #expect(try await ask(port, "GET", "/metrics", ["Authorization: Basic YWRtaW46czNjcmV0"]).hasPrefix("HTTP/1.1 401 "))
            #expect(try await ask(port, "GET", "/features", ["authorization: bearer s3cret"]).hasPrefix("HTTP/1.1 200 "))
            #expect(try await ask(port, "GET", "/healthz").hasPrefix("HTTP/1.1 200 "))
            #expect(try await ask(port, "GET", "/readyz").hasPrefix("HTTP/1.1 200 "))
        }
    }

    @Test func rightsAreKept() async throws {
        let users = try ["reader read", "loader push", "ops admin"].map { "\($0) \(try quickHash(String($0.prefix(1))).text)" }
        let authenticator = Authenticator(try UsersFile(users.joined(separator: "\n"), name: "users"))
        let server = try await start(authenticator: authenticator)
        func status(_ path: String, _ token: String?) async throws -> Substring {
            try await ask(server.port, "GET", path, token.map { ["Authorization: Bearer \($0)"] } ?? []).dropFirst(9).prefix(3)
        }
        #expect(try await status("/healthz", nil) == "200")
        #expect(try await status("/features", nil) == "401")
        #expect(try await status("/features", "reader:x") == "401")
        #expect(try await status("/features", "reader:r") == "200")
        #expect(try await status("/features", "loader:l") == "403")
        #expect(try await status("/features", "ops:o") == "403")
        #expect(try await status("/metrics", "reader:r") == "403")
        #expect(try await status("/metrics", "ops:o") == "200")
        let denied = try await ask(server.port, "GET", "/metrics", ["Authorization: Bearer loader:l"])
        #expect(denied.contains(#"{"error":"the user 'loader' may not do this","hint":"the users file gives the right: admin"}"#))
        await server.stop()
    }

    @Test func furtherConnectionsWait() async throws {
        var configuration = HTTPServer.Configuration()
        configuration.port = 0
        configuration.connectionCountMax = 2
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let server = try await HTTPServer.start(configuration, backend: FakeHTTPBackend(), logger: logger)
        let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        var clients = try (0..<2).map { _ in try TestClient(port: server.port) }
        for client in clients {
            client.send(request)
            #expect(try client.readSome() > 0)
        }
        let third = try TestClient(port: server.port)
        third.send(request)
        try await Task.sleep(for: .milliseconds(200))
        #expect(!third.hasBytes)
        _ = clients.removeLast()
        #expect(try third.readSome() > 0)
        await server.stop()
    }

    @Test func requestsAreCounted() async throws {
        try await withServer { port in
            _ = try await post(port, #"{"features":["spend:total"],"entities":{"household":[7]}}"#)
            _ = try await post(port, "{")
            _ = try await ask(port, "GET", "/nope")
            let metrics = try await ask(port, "GET", "/metrics")
            #expect(metrics.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"))
            for line in [
                #"weir_requests_total{protocol="http",command="get-online-features"} 2"#,
                #"weir_request_errors_total{protocol="http",command="get-online-features"} 1"#,
                #"weir_requests_total{protocol="http",command="other"} 1"#,
                #"weir_request_errors_total{protocol="http",command="other"} 1"#,
                #"weir_requests_total{protocol="http",command="metrics"} 1"#, #"weir_request_duration_seconds_count{protocol="http"} 1"#,
                "# TYPE weir_sessions gauge", "weir_sessions 3",
            ] { #expect(metrics.contains(line + "\n"), "\(line)") }
        }
    }

    @Test func aRequestThatStallsDoesNotHoldUpTheStop() async throws {
        let server = try await start(authenticator: Authenticator(password: "s3cret"))
        let clients = try ["", "Authorization: Bearer s3cret\r\n"].map { header in
            let client = try TestClient(port: server.port)
            client.send(
                "POST /get-online-features HTTP/1.1\r\nHost: x\r\n\(header)Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
            return client
        }
        try await Task.sleep(for: .milliseconds(100))
        let start = ContinuousClock.now
        await server.stop()
        #expect(ContinuousClock.now - start < .seconds(3))
        for client in clients { try await offPool { _ = try client.readToEnd() } }
    }

    @Test(.enabled(if: isLong)) func anEndlessBodyIsCut() async throws {
        try await withServer { port in
            let sent = try await offPool {
                let client = try TestClient(port: port)
                client.send(
                    "POST /get-online-features HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9999999999\r\n\r\n")
                let chunk = [UInt8](repeating: 32, count: 1 << 20)
                var sent = 0
                while sent < 50_000, client.send(chunk) == chunk.count { sent += 1 }
                return sent
            }
            // Megabytes: it is cut a second after it was refused.
            #expect((80..<50_000).contains(sent))
        }
    }

    @Test func pipelinedRequestsAreAnsweredInOrder() async throws {
        try await withServer { port in
            let answers = try await offPool {
                let client = try TestClient(port: port)
                var text = ""
                for household in 1...50 {
                    let body = #"{"features":["spend:total"],"entities":{"household":[\#(household)]}}"#
                    text += "POST /get-online-features HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                    text += "Content-Length: \(body.utf8.count)\r\n\r\n\(body)"
                }
                client.send(text + "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return try client.readToEnd()
            }
            let found = answers.matches(of: #/"results":\[\{"values":\[(\d+)\]/#).map { Int($0.1) }
            #expect(found == Array(1...50))
            #expect(answers.hasSuffix("ok\n"))
        }
    }
}

@Suite struct OnlineFeaturesRequestTests {
    private func parse(_ text: String) throws(HTTPProblem) -> OnlineFeaturesRequest { try OnlineFeaturesRequest(Array(text.utf8)) }

    @Test func readsEveryMember() throws {
        let request = try parse(
            """
             { "entities" : {"household":[1, "2" ,null ], "c\\u0061rt":[1.5,{"a":[2]},true]},"full_feature_names":true,
             "unknown":{"a":[1,"]"]}, "features":["a:b:c", "v:\\"f\\""], "at":"1970-01-01T00:00:01Z" , "feature_service":null}
            """)
        #expect(request.columns.map(\.name) == ["household", "cart"])
        #expect(request.rowCount == 3)
        func texts(_ column: Int) -> [String] { request.columns[column].values.map { String(decoding: request.body[$0], as: UTF8.self) } }
        #expect(texts(0) == ["1", #""2""#, "null"])
        #expect(texts(1) == ["1.5", #"{"a":[2]}"#, "true"])
        #expect(request.fullFeatureNames && !request.includesVersions)
        #expect(request.at == EventTime(microseconds: 1_000_000))
        guard case .features(let range) = request.wanted else { throw SocketError(what: "no features") }
        let references = try request.references(range)
        #expect(references.map(\.view) == ["a", "v"] && references.map(\.feature) == ["b:c", #""f""#])
        #expect(try parse(#"{"features":[],"feature_service":"s","entities":{"a":[]},"at":-5}"#).wanted == .service("s"))
        #expect(try parse(#"{"feature_service":"s","entities":{"a":[]},"at":-5}"#).at == EventTime(microseconds: -5_000))
    }

    @Test(arguments: [
        ("", 400, "truncated"), ("{", 400, "truncated"), ("{\"features\":[\"a:b\"],\"entities\":{\"a\":[1]}} x", 400, "follows"),
        (#"{"features":["a:b"],"entities":{"a":[01]}}"#, 400, "no number"),
        (#"{"features":["a:b"],"entities":{"a":[1,]}}"#, 400, "a value expected"),
        (#"{"features":["a:b"],"entities":{"a":[1}}"#, 400, "',' or ']' expected"), ("{\"a\":\"\u{1}\"}", 400, "control"),
        ("[]", 422, "no JSON object"), ("{}", 422, "neither 'features' nor"), (#"{"features":["a:b"]}"#, 422, "'entities' is missing"),
        (#"{"features":["a:b"],"entities":[]}"#, 422, "'entities' is no JSON object"),
        (#"{"features":["a:b"],"entities":{}}"#, 422, "'entities' is empty"),
        (#"{"features":["a:b"],"entities":{"a":1}}"#, 422, "'a' in 'entities' is no array"),
        (#"{"features":["a:b"],"entities":{"a":[1],"b":[1,2]}}"#, 422, "differ in length: 'a' has 1 values, 'b' has 2"),
        (#"{"features":["a:b"],"entities":{"a":[1],"a":[1]}}"#, 422, "'a' is given twice"),
        (#"{"features":["a:b"],"features":["a:b"],"entities":{"a":[1]}}"#, 422, "'features' is given twice"),
        (#"{"features":["a:b"],"feature_service":"s","entities":{"a":[1]}}"#, 422, "both"),
        (#"{"feature_service":7,"entities":{"a":[1]}}"#, 422, "'feature_service' is no string"),
        (#"{"features":["a:b"],"entities":{"a":[1]},"full_feature_names":1}"#, 422, "'full_feature_names' is neither"),
        (#"{"features":["a:b"],"entities":{"a":[1]},"at":"yesterday"}"#, 422, "'at': "),
        (#"{"features":["a:b"],"entities":{"a":[1]},"at":1e300}"#, 422, "'at': "),
    ]) func otherBodiesAreRefused(_ body: String, _ status: Int, _ message: String) {
        let problem = #expect(throws: HTTPProblem.self) { try parse(body) }
        #expect(problem?.kind.rawValue == status, "\(body): \(String(describing: problem))")
        #expect(problem?.error.contains(message) == true, "\(body): \(String(describing: problem))")
    }

    @Test(arguments: [#"{"a":1}"#, "7", #"["a:b",7]"#, #"["a"]"#, "[]"]) func otherReferencesAreRefused(_ features: String) throws {
        let request = try parse(#"{"features":\#(features),"entities":{"a":[1]}}"#)
        guard case .features(let range) = request.wanted else { throw SocketError(what: "no features") }
        #expect(throws: HTTPProblem.self) { try request.references(range) }
    }

    /// Cut and changed at every byte, a body is answered or refused, and never a trap.
    @Test func anyBytesAreAnsweredOrRefused() {
        let body = Array(
            #"{"features":["a:b","c:\u00e9"],"entities":{"a":[1,"x\n",null,[{}]]},"full_feature_names":true,"at":"2017-01-01T00:00:00Z"}"#
                .utf8)
        var accepted = 0
        for position in body.indices {
            for byte in [UInt8(0), 34, 44, 58, 91, 92, 93, 110, 123, 125, 255] {
                var changed = body
                changed[position] = byte
                for candidate in [changed, Array(changed[...position])] {
                    guard let request = try? OnlineFeaturesRequest(candidate) else { continue }
                    accepted += 1
                    if case .features(let range) = request.wanted { _ = try? request.references(range) }
                }
            }
        }
        #expect(accepted > 0)
    }

    @Test func thousandsOfRowsAreTooMany() {
        let rows = Array(repeating: "1", count: Limits.requestsPerCommandMax + 1).joined(separator: ",")
        let problem = #expect(throws: HTTPProblem.self) { try parse(#"{"features":["a:b"],"entities":{"a":[\#(rows)]}}"#) }
        #expect(problem?.hint == "send several requests")
    }
}
