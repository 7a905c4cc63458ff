import Logging
import Testing
import WeirServer
import WeirTesting

@Suite(.serialized) struct ServerTests {
    @Test func pipelinedRepliesComeInOrder() async throws {
        let backend = FakeBackend()
        try await withServer(backend) { server in
            let client = try TestClient(port: server.port)
            var bytes: [UInt8] = []
            var expected = ""
            for number in 0..<200 {
                bytes += frame("ECHO", "\(number)")
                expected += "$\(String(number).utf8.count)\r\n\(number)\r\n"
                if number % 10 == 0 {
                    bytes += frame("EVENTS.ADD", "purchases", "{}") + frame("EVENTS.ADD", "none", "{}")
                    expected += ":1\r\n-ERR unknown stream 'none'\r\n"
                }
            }
            client.send(bytes + frame("QUIT"))
            #expect(try client.readToEnd() == expected + "+OK\r\n")
            #expect(backend.pushed.withLock { $0.count } == 20)
        }
    }

    @Test func byteByByteOverASocket() async throws {
        try await withServer { server in
            let client = try TestClient(port: server.port)
            for byte in frame("ECHO", "slow") + Array("PING \"a b\"\r\n".utf8) { client.send([byte]) }
            #expect(try client.reply() == "$4\r\nslow\r\n")
            #expect(try client.reply() == "$3\r\na b\r\n")
        }
    }

    @Test func whatAClientSentBeforeItClosedItsSideIsAnswered() async throws {
        try await withServer { server in
            let client = try TestClient(port: server.port)
            client.send(frame("EVENTS.ADD", "purchases", "{}") + frame("PING") + Array("*1\r\n$4\r\nPI".utf8))
            client.finishSending()
            #expect(try client.readToEnd() == ":1\r\n+PONG\r\n")
        }
    }

    @Test func largeRequestsAndReplies() async throws {
        try await withServer { server in
            let client = try TestClient(port: server.port)
            let text = String(repeating: "0123456789abcdef", count: 1 << 20)
            client.send(frame("ECHO", text))
            #expect(try client.reply() == "$\(text.utf8.count)\r\n\(text)\r\n")
            client.send("*1\r\n$16777217\r\n")
            let refusal = try client.readToEnd()
            #expect(refusal == "-ERR Protocol error: invalid bulk length\r\n")
        }
    }

    /// A client that asks much and reads nothing must neither be cut nor hold up others; when it reads, all is there, once and
    /// in order. The sizes lie on both sides of every limit at which the server writes, blocks and reads on.
    @Test func aSlowReaderIsWaitedFor() async throws {
        var generator = SeededGenerator()
        let texts = (0..<400).map { number in
            let size = Int.random(in: 0..<[100, 100_000, 600_000].randomElement(using: &generator)!, using: &generator)
            return "\(number):" + String(repeating: "x", count: size)
        }
        try await withServer { [texts] server in
            let client = try TestClient(port: server.port)
            let neighbour = try TestClient(port: server.port)
            async let isSent: Void = offPool {
                for text in texts { client.send(frame("ECHO", text)) }
            }
            // Until nothing moves any more: far from all may have been answered into the server's memory.
            var commands = -1
            var before = 0
            var polls = 0
            repeat {
                before = commands
                try await Task.sleep(for: .milliseconds(150))
                let line = try neighbour.ask("INFO", "stats").split(separator: "\r\n")
                    .first { $0.hasPrefix("total_commands_processed:") }
                commands = try #require(line?.split(separator: ":").last.flatMap { Int($0) }) - polls
                polls += 1
            } while commands != before
            #expect(commands > 0 && commands < texts.count / 2, "\(commands) commands were run for a client that reads nothing")
            for text in texts {
                let isRight = try client.reply() == "$\(text.utf8.count)\r\n\(text)\r\n"
                #expect(isRight, "the reply to \(text.prefix(20))")
            }
            try await isSent
            #expect(try client.ask("PING") == "+PONG\r\n")
        }
    }

    @Test func connectionsAreLimited() async throws {
        try await withServer(FakeBackend(), { $0.connectionCountMax = 2 }) { server in
            let first = try TestClient(port: server.port)
            #expect(try first.ask("PING") == "+PONG\r\n")
            do {
                let second = try TestClient(port: server.port)
                #expect(try second.ask("PING") == "+PONG\r\n")
                let third = try TestClient(port: server.port)
                #expect(try third.readToEnd() == "-ERR max number of clients reached\r\n")
                #expect(try first.ask("INFO", "stats").contains("rejected_connections:1\r\n"))
                #expect(try second.ask("QUIT") == "+OK\r\n")
            }
            while server.connectionCount > 1 { try await Task.sleep(for: .milliseconds(5)) }
            #expect(try TestClient(port: server.port).ask("PING") == "+PONG\r\n")
        }
    }

    @Test func browsersAreCutOff() async throws {
        let backend = FakeBackend()
        try await withServer(backend) { server in
            let client = try TestClient(port: server.port)
            client.send("POST / HTTP/1.1\r\nHost: x\r\n\r\nEVENTS.ADD purchases '{}'\r\n")
            #expect(try client.readToEnd() == "")
            #expect(backend.pushed.withLock { $0.count } == 0)
        }
    }

    @Test func stopAnswersWhatIsInFlight() async throws {
        let backend = FakeBackend()
        var configuration = RESPServer.Configuration()
        configuration.port = 0
        let server = try await RESPServer.start(configuration, backend: backend, logger: Logger(label: "test"))
        let idle = try TestClient(port: server.port)
        let client = try TestClient(port: server.port)
        #expect(try idle.ask("PING") == "+PONG\r\n")
        #expect(try client.ask("PING") == "+PONG\r\n")
        client.send(frame("EVENTS.ADD", "purchases", "{}") + frame("EVENTS.ADD", "purchases", "{}") + frame("PING"))
        let start = ContinuousClock.now
        await server.stop()
        #expect(ContinuousClock.now - start < .seconds(5))
        #expect(try client.readToEnd() == ":1\r\n:1\r\n+PONG\r\n")
        #expect(try idle.readToEnd() == "")
        #expect(throws: SocketError.self) { try TestClient(port: server.port) }
    }

    @Test func aPortInUseIsNamed() async throws {
        try await withServer { server in
            var configuration = RESPServer.Configuration()
            configuration.port = server.port
            let error = await #expect(throws: ServerError.self) {
                _ = try await RESPServer.start(configuration, backend: FakeBackend(), logger: Logger(label: "test"))
            }
            #expect(
                error?.description
                    == "cannot listen on 127.0.0.1:\(server.port): the port is in use by another process; choose another port")
        }
    }

    @Test func eachLoopIsAnExecutor() async throws {
        let backend = FakeBackend()
        try await withServer(backend, { $0.threadCount = 3 }) { server in
            let clients = try (0..<9).map { _ in try TestClient(port: server.port) }
            for client in clients { _ = try client.ask("FEATURES.GET", "checkout", "{}") }
            #expect(backend.executors.withLock { $0 } == [0, 1, 2])
        }
    }

    /// Hostile bytes over sockets: an error or a closed connection, and a neighbour that is always answered.
    @Test func hostileBytesHurtNobody() async throws {
        var generator = SeededGenerator()
        try await withServer { server in
            let neighbour = try TestClient(port: server.port)
            for round in 0..<(isLong ? 20_000 : 2_000) {
                let client = try TestClient(port: server.port)
                client.send(hostileBytes(round, &generator))
                client.finishSending()
                if round % 4 == 0 { _ = try client.readToEnd() }
                if round % 10 == 0 { #expect(try neighbour.ask("ECHO", "\(round)").hasSuffix("\(round)\r\n")) }
            }
            #expect(try neighbour.ask("PING") == "+PONG\r\n")
            while server.connectionCount > 1 { try await Task.sleep(for: .milliseconds(10)) }
        }
    }
}
