import Foundation
import Logging
import Testing
import WeirServer

/// How much one client may take, and what becomes of the others when there is too much to do.
@Suite(.serialized) struct LimitTests {
    private func field(_ client: TestClient, _ name: String) throws -> Int? {
        try client.ask("INFO", "stats").split(separator: "\r\n").first { $0.hasPrefix(name + ":") }
            .flatMap { Int($0.dropFirst(name.utf8.count + 1)) }
    }

    @Test func idleConnectionsAreClosed() async throws {
        try await withServer(FakeBackend(), { $0.idleTimeout = .milliseconds(1_500) }) { server in
            let port = server.port
            // All on one thread: other tests hold the pool's threads for longer than a connection may idle.
            let (cut, ending) = try await offPool {
                let idle = try TestClient(port: port)
                let half = try TestClient(port: port)
                let busy = try TestClient(port: port)
                #expect(try idle.ask("PING") == "+PONG\r\n")
                half.send("*1\r\n$4\r\nPI")
                for _ in 0..<100 {
                    usleep(30_000)
                    #expect(try busy.ask("PING") == "+PONG\r\n")
                }
                let ending = try idle.readToEnd() + half.readToEnd()
                return (try busy.ask("INFO", "stats").contains("cut_connections:2\r\n"), ending)
            }
            #expect(ending == "")
            #expect(cut)
        }
    }

    @Test func strangersMustSayWhoTheyAre() async throws {
        try await withServer(
            FakeBackend(),
            {
                $0.authenticator = Authenticator(password: "s")
                $0.handshakeTimeout = .milliseconds(500)
            }
        ) { server in
            let stranger = try TestClient(port: server.port)
            let known = try TestClient(port: server.port)
            #expect(try known.ask("AUTH", "s") == "+OK\r\n")
            #expect(try stranger.ask("PING").hasPrefix("-NOAUTH"))
            try await Task.sleep(for: .milliseconds(1_200))
            #expect(try stranger.readToEnd() == "")
            #expect(try known.ask("PING") == "+PONG\r\n")
        }
    }

    /// A client that does not take its replies is not read any more, and after a time it is cut.
    @Test func slowReadersAreCut() async throws {
        try await withServer(FakeBackend(), { $0.slowReaderTimeout = .seconds(1) }) { server in
            let client = try TestClient(port: server.port)
            let neighbour = try TestClient(port: server.port)
            let request = frame("ECHO", String(repeating: "x", count: 100_000))
            let isSent = Task { try await offPool { (0..<1_000).reduce(0) { sum, _ in sum + client.send(request) } } }
            while try field(neighbour, "cut_connections") != 1 { try await Task.sleep(for: .milliseconds(50)) }
            let sent = try await isSent.value
            #expect(sent < 40_000_000, "\(sent) bytes were taken from a client that reads nothing")
            #expect(try field(neighbour, "total_net_output_bytes").map { $0 < 40_000_000 } ?? false)
            #expect(try neighbour.ask("PING") == "+PONG\r\n")
        }
    }

    @Test func waitingRepliesAreBounded() async throws {
        try await withServer(FakeBackend(), { $0.outputBytesMax = 8 << 20 }) { server in
            let neighbour = try TestClient(port: server.port)
            // One reply of 12 MiB, and nobody who takes it.
            let client = try TestClient(port: server.port)
            client.send(frame("ECHO", String(repeating: "x", count: 12 << 20)))
            while try field(neighbour, "cut_connections") != 1 { try await Task.sleep(for: .milliseconds(20)) }
            // 6 MiB wait for as long as they may.
            let patient = try TestClient(port: server.port)
            let text = String(repeating: "y", count: 6 << 20)
            patient.send(frame("ECHO", text))
            try await Task.sleep(for: .milliseconds(300))
            #expect(try patient.reply().utf8.count == text.utf8.count + 12)
            #expect(try field(neighbour, "cut_connections") == 1)
        }
    }

    /// A long pipeline is answered bit by bit: neither its requests nor its replies are held as a whole.
    @Test func pipelinesMayBeLong() async throws {
        try await withServer { server in
            let client = try TestClient(port: server.port)
            let count = isLong ? 3_000_000 : 300_000
            let part = (0..<1_000).flatMap { _ in frame("PING") }
            // Threads, since tests block those that run tasks.
            let sender = Thread { for _ in 0..<count / 1_000 where client.send(part) < part.count { break } }
            sender.start()
            let bytes = try await offPool {
                var bytes = 0
                while bytes < count * 7 { bytes += try client.readSome() }
                return bytes
            }
            #expect(bytes == count * 7)
            #expect(try client.ask("ECHO", "end") == "$3\r\nend\r\n")
        }
    }

    /// What waits for too long is refused at once; those that come later are answered, and so is what does not use the store.
    @Test func overloadIsShedAndPasses() async throws {
        let backend = FakeBackend(delay: .milliseconds(2))
        try await withServer(
            backend,
            {
                $0.threadCount = 1
                $0.queueDelayMax = .milliseconds(100)
            }
        ) { server in
            // Forty clients ask for eight seconds' work at once.
            let clients = try (0..<40).map { _ in try TestClient(port: server.port) }
            let pipeline = (0..<100).flatMap { _ in frame("HGET", "spend:1", "total") } + frame("PING")
            let start = ContinuousClock.now
            for client in clients { client.send(pipeline) }
            var answered = 0
            var shed = 0
            for client in clients {
                for _ in 0..<100 {
                    switch try client.reply() {
                    case "$1\r\n7\r\n": answered += 1
                    case "-BUSY the server is overloaded and did nothing; try again later\r\n": shed += 1
                    case let reply: Issue.record("\(reply)")
                    }
                }
                #expect(try client.reply() == "+PONG\r\n")
            }
            let seconds = (ContinuousClock.now - start) / .seconds(1)
            #expect(answered > 50 && shed > 1_000, "\(answered) answered, \(shed) refused")
            #expect(seconds < 4, "\(seconds) s: refusing took as long as answering")
            // It has recovered: one at a time nobody is refused.
            for client in clients { #expect(try client.ask("HGET", "spend:1", "total") == "$1\r\n7\r\n") }
            #expect(try field(clients[0], "shed_commands") == shed)
        }
    }

    /// A server that stops answers what was sent before, to the last command or up to one: never a part of a reply, never a reset.
    @Test(arguments: [100, 200_000]) func stoppingEndsBetweenCommands(_ count: Int) async throws {
        var configuration = RESPServer.Configuration()
        configuration.port = 0
        configuration.drainTimeout = .milliseconds(300)
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let backend = FakeBackend(delay: .microseconds(count > 1_000 ? 20 : 0))
        let server = try await RESPServer.start(configuration, backend: backend, logger: logger)
        let clients = try (0..<4).map { _ in try TestClient(port: server.port) }
        let part = (0..<100).flatMap { _ in frame("HGET", "spend:1", "total") }
        let received = clients.map { client in
            Task {
                try await offPool {
                    let sender = Thread { for _ in 0..<count / 100 where client.send(part) < part.count { break } }
                    sender.start()
                    return try client.readToEndStrictly()
                }
            }
        }
        try await Task.sleep(for: .milliseconds(count > 1_000 ? 200 : 5))
        let start = ContinuousClock.now
        await server.stop()
        #expect(ContinuousClock.now - start < .seconds(4))
        for received in received {
            let text = try await received.value
            let replies = text.utf8.count / 7
            #expect(text.utf8.count % 7 == 0 && text == String(repeating: "$1\r\n7\r\n", count: replies), "cut within a reply")
            if count <= 100 { #expect(replies == count) } else { #expect(replies > 0 && replies <= count) }
        }
    }
}
