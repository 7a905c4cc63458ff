import Testing
import WeirAlgebra
import WeirServer

@Suite(.serialized) struct CommandTests {
    @Test func featuresGetInBothProtocols() async throws {
        let backend = FakeBackend()
        try await withServer(backend) { server in
            let client = try TestClient(port: server.port)
            let flat =
                "*14\r\n$5\r\ncount\r\n$3\r\n-42\r\n$4\r\nmean\r\n$5\r\n1e-05\r\n$6\r\nis_new\r\n$4\r\ntrue\r\n$4\r\nlast\r\n$4\r\né\r\n\r\n"
                + "$3\r\ntop\r\n$15\r\n[\"a\\\"b\",2,null]\r\n$6\r\nshares\r\n$9\r\n{\"k\":2.5}\r\n$4\r\nnone\r\n$-1\r\n"
            #expect(try client.ask("FEATURES.GET", "checkout", #"{"a":1}"#) == flat)
            #expect(
                backend.lastRequest.withLock { $0 }
                    == FeaturesGet(service: "checkout", requests: [Array(#"{"a":1}"#.utf8)]))
            #expect(try client.ask("features.get", "checkout", "{}", "{}") == "*2\r\n" + flat + flat)
            #expect(try client.ask("HELLO", "3").hasPrefix("%7\r\n$6\r\nserver\r\n$4\r\nweir\r\n"))
            let map =
                "%7\r\n$5\r\ncount\r\n:-42\r\n$4\r\nmean\r\n,1e-05\r\n$6\r\nis_new\r\n#t\r\n$4\r\nlast\r\n$4\r\né\r\n\r\n"
                + "$3\r\ntop\r\n*3\r\n$3\r\na\"b\r\n:2\r\n_\r\n$6\r\nshares\r\n%1\r\n$1\r\nk\r\n,2.5\r\n$4\r\nnone\r\n_\r\n"
            #expect(try client.ask("FEATURES.GET", "checkout", "{}") == map)
            #expect(try client.ask("FEATURES.GET", "checkout", "{}", "{}", "{}") == "*3\r\n" + map + map + map)
            let meta = try client.ask("FEATURES.GET", "checkout", "{}", "META")
            #expect(meta.hasPrefix("%6\r\n$8\r\nfeatures\r\n" + map + "$4\r\nmeta\r\n%7\r\n"))
            #expect(
                meta.contains(
                    "$5\r\ncount\r\n%4\r\n$10\r\nevent_time\r\n$22\r\n1970-01-01T00:00:01.5Z\r\n$12\r\nfreshness_ms\r\n:2\r\n"
                        + "$6\r\nstatus\r\n$7\r\nPRESENT\r\n$11\r\nfingerprint\r\n$4\r\nf00d\r\n"))
            #expect(meta.contains("$12\r\nfreshness_ms\r\n_\r\n$6\r\nstatus\r\n$10\r\nNULL_VALUE\r\n"))
            #expect(
                meta.hasSuffix(
                    "$5\r\nas_of\r\n$27\r\n1969-12-31T23:59:59.999999Z\r\n$22\r\nsession_events_ignored\r\n:3\r\n$7\r\napplied\r\n"
                        + "%1\r\n$1\r\n1\r\n:23\r\n$9\r\npositions\r\n%1\r\n$17\r\nkafka:purchases/0\r\n:17\r\n"))
            #expect(meta.contains("NULL_VALUE\r\n$11\r\nfingerprint\r\n_\r\n"))
            #expect(try client.ask("HELLO", "2").hasPrefix("*14\r\n"))
            #expect(try client.ask("FEATURES.GET", "checkout", "{}", "META").hasPrefix("*12\r\n$8\r\nfeatures\r\n*14\r\n"))
        }
    }

    @Test func featuresExplain() async throws {
        let backend = FakeBackend()
        try await withServer(backend) { server in
            let client = try TestClient(port: server.port)
            func parsed(_ arguments: String...) throws -> FeaturesExplain? {
                backend.explained.withLock { $0 = nil }
                client.send(frame((["FEATURES.EXPLAIN"] + arguments).map { Array($0.utf8) }))
                let reply = try client.reply()
                let request = backend.explained.withLock { $0 }
                let expected = request.map { $0.isJSON ? "$2\r\n{}\r\n" : "*2\r\n$3\r\none\r\n$3\r\ntwo\r\n" }
                #expect(expected.map { $0 == reply } ?? reply.hasPrefix("-ERR"), "\(reply)")
                return request
            }
            let service = FeaturesExplain.Subject.service("checkout", request: Array("{}".utf8))
            #expect(try parsed("checkout", "{}") == FeaturesExplain(service))
            #expect(
                try parsed("checkout", "at", "1500", "{}", "json", "SESSION", "purchases", "[]", "SessionId", "s")
                    == FeaturesExplain(
                        service, at: EventTime(microseconds: 1_500_000),
                        session: [SessionEvent(stream: "purchases", json: Array("[]".utf8))], sessionID: "s", isJSON: true))
            #expect(
                try parsed("spend:a:{b}", "total", "AT", "0", "key")
                    == FeaturesExplain(.entity(view: "spend", key: "a:{b}", features: ["total", "key"]), at: EventTime(microseconds: 0)))
            #expect(try parsed("spend:", "JSON") == FeaturesExplain(.entity(view: "spend", key: "", features: []), isJSON: true))
            #expect(try parsed("checkout") == nil)
            #expect(try parsed("checkout", "JSON") == nil)
            #expect(try parsed("checkout", "{}", "{}") == nil)
            #expect(try parsed("checkout", "{}", "META") == nil)
            #expect(try parsed("checkout", "{}", "AT") == nil)
            #expect(try client.ask("FEATURES.EXPLAIN") == "-ERR wrong number of arguments for 'features.explain' command\r\n")
        }
    }

    @Test func featuresGetOptions() async throws {
        let backend = FakeBackend()
        try await withServer(backend) { server in
            let client = try TestClient(port: server.port)
            func parsed(_ options: String...) throws -> FeaturesGet? {
                backend.lastRequest.withLock { $0 = nil }
                client.send(frame((["FEATURES.GET", "checkout"] + options).map { Array($0.utf8) }))
                let reply = try client.reply()
                #expect(reply.hasPrefix("-ERR") == (backend.lastRequest.withLock { $0 } == nil), "\(reply)")
                return backend.lastRequest.withLock { $0 }
            }
            #expect(try parsed("{}", "AT", "1500")?.at == EventTime(microseconds: 1_500_000))
            #expect(try parsed("{}", "at", "-1")?.at == EventTime(microseconds: -1_000))
            #expect(try parsed("{}", "At", "1970-01-01T00:00:01.000001Z")?.at == EventTime(microseconds: 1_000_001))
            #expect(try parsed("{}", "AT", "yesterday") == nil)
            #expect(try parsed("{}", "AT") == nil)
            #expect(try parsed("{}", "AT", "9223372036854775807") == nil)
            #expect(try parsed("{}", "AT", "1", "AT", "1") == nil)
            #expect(try parsed("{}", "WHEN", "1") == nil)
            #expect(try parsed("AT", "1") == nil)
            #expect(try parsed("{}", "SESSION", "purchases") == nil)
            let all = try parsed(
                "session", "purchases", "[{}]", "{\"a\":1}", "SESSION", "{odd}", "[]", "SESSIONID", "at", "meta", "{}")
            #expect(
                all
                    == FeaturesGet(
                        service: "checkout", requests: [Array(#"{"a":1}"#.utf8), Array("{}".utf8)], at: nil,
                        session: [
                            SessionEvent(stream: "purchases", json: Array("[{}]".utf8)),
                            SessionEvent(stream: "{odd}", json: Array("[]".utf8)),
                        ], sessionID: "at", meta: true))
            // An error of the backend is one line, and the connection goes on.
            #expect(
                try client.ask("FEATURES.GET", "nothing", "{}") == "-ERR unknown service 'nothing';  there is: checkout\r\n")
            client.send(frame([Array("FEATURES.GET".utf8), [0xFF], Array("{}".utf8)]))
            #expect(try client.reply() == "-ERR the service's name is not valid UTF-8\r\n")
            #expect(try client.ask("PING") == "+PONG\r\n")
        }
    }

    @Test func viewsEventsAndSessions() async throws {
        try await withServer { server in
            let client = try TestClient(port: server.port)
            #expect(try client.ask("HMGET", "spend:a:b", "total", "key") == "*2\r\n$1\r\n7\r\n$3\r\na:b\r\n")
            #expect(try client.ask("HGET", "spend:", "key") == "$0\r\n\r\n")
            #expect(try client.ask("HGETALL", "spend:1") == "*4\r\n$3\r\nkey\r\n$1\r\n1\r\n$5\r\ntotal\r\n$1\r\n7\r\n")
            #expect(try client.ask("EXISTS", "spend:1") == ":1\r\n")
            #expect(try client.ask("EXISTS", "spend:nobody", "spend:1", "spend:2") == ":2\r\n")
            #expect(try client.ask("HMGET", "spend:1", "nope") == "-ERR unknown feature 'nope' of view 'spend'\r\n")
            #expect(try client.ask("HGETALL", "other:1") == "-ERR unknown view 'other'\r\n")
            #expect(try client.ask("HGETALL", "spend").hasPrefix("-ERR 'spend' names no entity; write view:key"))
            #expect(try client.ask("EVENTS.ADD", "purchases", "{}", "{}") == ":2\r\n")
            #expect(try client.ask("EVENTS.ADD", "other", "{}") == "-ERR unknown stream 'other'\r\n")
            #expect(try client.ask("SESSION.ADD", "s1", "purchases", "{}", "{}") == ":2\r\n")
            #expect(try client.ask("SESSION.GET", "s1") == "*1\r\n*2\r\n$9\r\npurchases\r\n$2\r\n{}\r\n")
            #expect(try client.ask("SESSION.GET", "s2") == "*0\r\n")
            #expect(try client.ask("SESSION.DROP", "s1") == ":1\r\n")
            #expect(try client.ask("SESSION.DROP", "s2") == ":0\r\n")
            #expect(
                try client.ask("FEATURES.LIST").hasPrefix(
                    "*3\r\n*6\r\n$4\r\nkind\r\n$7\r\nservice\r\n$4\r\nname\r\n$8\r\ncheckout\r\n$8\r\nfeatures\r\n*1\r\n"))
            #expect(try client.ask("FEATURES.DESCRIBE", "checkout").hasPrefix("*4\r\n$4\r\nname\r\n"))
            #expect(try client.ask("FEATURES.DESCRIBE", "nope") == "-ERR nothing is named 'nope'\r\n")
        }
    }

    @Test func connectionCommandsAnswerAsRedis() async throws {
        try await withServer { server in
            let client = try TestClient(port: server.port)
            #expect(try client.ask("PING") == "+PONG\r\n")
            #expect(try client.ask("ping", "hi") == "$2\r\nhi\r\n")
            #expect(try client.ask("PING", "a", "b") == "-ERR wrong number of arguments for 'ping' command\r\n")
            #expect(try client.ask("ECHO", "a\r\nb") == "$4\r\na\r\nb\r\n")
            #expect(try client.ask("Foo", "a", "b") == "-ERR unknown command 'Foo', with args beginning with: 'a' 'b' \r\n")
            #expect(
                try client.ask("FEATURES.FORGET", "x")
                    == "-ERR unknown command 'FEATURES.FORGET', with args beginning with: 'x' \r\n")
            #expect(try client.ask("a\r\n+OK") == "-ERR unknown command 'a  +OK', with args beginning with: \r\n")
            #expect(try client.ask("") == "-ERR unknown command '', with args beginning with: \r\n")
            #expect(try client.ask("HMGET", "spend:1") == "-ERR wrong number of arguments for 'hmget' command\r\n")
            #expect(try client.ask("SELECT", "0") == "+OK\r\n")
            #expect(try client.ask("SELECT", "1") == "-ERR DB index is out of range\r\n")
            #expect(try client.ask("SELECT", "x") == "-ERR value is not an integer or out of range\r\n")
            #expect(
                try client.ask("AUTH", "x")
                    == "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n"
            )
            #expect(try client.ask("AUTH", "default", "x") == "+OK\r\n")
            #expect(try client.ask("AUTH", "bob", "x") == "-WRONGPASS invalid username-password pair or user is disabled.\r\n")
            #expect(try client.ask("HELLO", "4") == "-NOPROTO unsupported protocol version\r\n")
            #expect(try client.ask("HELLO", "x") == "-ERR Protocol version is not an integer or out of range\r\n")
            #expect(try client.ask("HELLO", "2", "FOO") == "-ERR Syntax error in HELLO option 'FOO'\r\n")
            #expect(try client.ask("CLIENT", "GETNAME") == "$-1\r\n")
            #expect(try client.ask("HELLO", "3", "AUTH", "default", "x", "SETNAME", "me").hasPrefix("%7"))
            #expect(try client.ask("CLIENT", "GETNAME") == "$2\r\nme\r\n")
            #expect(try client.ask("CLIENT", "SETNAME", "a b").hasPrefix("-ERR Client names cannot contain spaces"))
            #expect(try client.ask("CLIENT", "SETINFO", "LIB-NAME", "lib") == "+OK\r\n")
            #expect(try client.ask("CLIENT", "SETINFO", "LIB", "x") == "-ERR Unrecognized option 'LIB'\r\n")
            #expect(try client.ask("CLIENT", "NO-EVICT", "on") == "+OK\r\n")
            #expect(try client.ask("CLIENT", "NO-TOUCH", "maybe") == "-ERR syntax error\r\n")
            #expect(try client.ask("CLIENT", "PAUSE") == "-ERR unknown subcommand 'PAUSE'. Try CLIENT HELP.\r\n")
            #expect(try client.ask("CLIENT", "ID", "x") == "-ERR wrong number of arguments for 'client|id' command\r\n")
            #expect(try client.ask("CLIENT") == "-ERR wrong number of arguments for 'client' command\r\n")
            let other = try TestClient(port: server.port)
            #expect(try other.ask("CLIENT", "ID") != client.ask("CLIENT", "ID"))
            let list = try other.ask("CLIENT", "LIST")
            #expect(list.contains(" name=me ") && list.contains(" resp=3 lib-name=lib ") && list.contains(" cmd=client|list "))
            #expect(try client.ask("CLIENT", "INFO").contains(" name=me "))
            #expect(try client.ask("RESET") == "+RESET\r\n")
            #expect(try client.ask("CLIENT", "GETNAME") == "$-1\r\n")
            #expect(try client.ask("CONFIG", "GET", "save") == "*0\r\n")
            let count = try client.ask("COMMAND", "COUNT")
            let commands = try client.ask("COMMAND")
            #expect(commands.hasPrefix("*" + count.dropFirst()))
            #expect(
                try client.ask("COMMAND", "INFO", "ping", "nope")
                    == "*2\r\n*10\r\n$4\r\nping\r\n:-1\r\n*1\r\n+fast\r\n:0\r\n:0\r\n:0\r\n*1\r\n+@connection\r\n*0\r\n*0\r\n*0\r\n$-1\r\n")
            #expect(try client.ask("COMMAND", "DOCS", "PING", "ping").hasPrefix("*2\r\n$4\r\nping\r\n*8\r\n$7\r\nsummary\r\n"))
            let info = try client.ask("INFO")
            #expect(info.contains("# Server\r\n") && info.contains("# Store\r\nshards:8\r\n"))
            #expect(info.contains("tcp_port:\(server.port)\r\n") && info.contains("rejected_connections:0\r\n"))
            #expect(info.contains("acl_access_denied_cmd:0\r\nevents_applied:5\r\n"))
            #expect(try client.ask("INFO", "STORE") == "$19\r\n# Store\r\nshards:8\r\n\r\n")
            #expect(try client.ask("INFO", "nope") == "$0\r\n\r\n")
            #expect(try client.ask("QUIT") == "+OK\r\n")
            #expect(try client.readToEnd() == "")
        }
    }

    @Test func passwordIsAsked() async throws {
        try await withServer(FakeBackend(), { $0.authenticator = Authenticator(password: "s3cret") }) { server in
            let client = try TestClient(port: server.port)
            #expect(try client.ask("PING") == "-NOAUTH Authentication required.\r\n")
            #expect(try client.ask("NOPE") == "-NOAUTH Authentication required.\r\n")
            #expect(try client.ask("CLIENT", "LIST") == "-NOAUTH Authentication required.\r\n")
            #expect(try client.ask("HELLO", "3").hasPrefix("-NOAUTH HELLO must be called with the client already authenticated"))
            for wrong in ["", "s", "s3creT", "s3cretx", "s3crets3cret"] {
                #expect(try client.ask("AUTH", wrong).hasPrefix("-WRONGPASS"))
            }
            #expect(try client.ask("AUTH", "s3cret") == "+OK\r\n")
            #expect(try client.ask("PING") == "+PONG\r\n")
            #expect(try client.ask("ECHO", String(repeating: "x", count: 20_000)).utf8.count == 20_010)
            #expect(try client.ask("RESET") == "+RESET\r\n")
            #expect(try client.ask("PING") == "-NOAUTH Authentication required.\r\n")
            #expect(try client.ask("HELLO", "3", "AUTH", "default", "s3cret").hasPrefix("%7"))
            #expect(try client.ask("CLIENT", "GETNAME") == "_\r\n")
            let stranger = try TestClient(port: server.port)
            stranger.send("*1\r\n$20000\r\n")
            #expect(try stranger.readToEnd() == "-ERR Protocol error: unauthenticated bulk length\r\n")
        }
    }

    /// What a lookup selects is remembered by the bytes that named it: other names with the same bytes are other names.
    @Test func namesWithTheSameBytesAreNotMixedUp() async throws {
        try await withServer(FakeBackend(features: ["a", "ab", "bc", "c", "abc"])) { server in
            let client = try TestClient(port: server.port)
            func inline(_ line: String) throws -> String {
                client.send(line + "\r\n")
                return try client.reply()
            }
            #expect(try inline("HMGET spend:1 a bc") == "*2\r\n$1\r\na\r\n$2\r\nbc\r\n")
            #expect(try inline("HMGET spend:1 ab c") == "*2\r\n$2\r\nab\r\n$1\r\nc\r\n")
            #expect(try inline("HMGET spend:1 abc") == "*1\r\n$3\r\nabc\r\n")
            #expect(try inline("HGETALL spend:1").hasPrefix("*10\r\n"))
            // In frames the lengths stand between the names, but a name may hold what looks like them.
            #expect(try client.ask("HMGET", "spend:1", "a", "bc") == "*2\r\n$1\r\na\r\n$2\r\nbc\r\n")
            #expect(try client.ask("HMGET", "spend:1", "a\r\n$2\r\nbc").hasPrefix("-ERR unknown feature"))
            #expect(try client.ask("HMGET", "spend:1", "a", "c", "bc").hasPrefix("*3\r\n"))
            #expect(try client.ask("HMGET", "spend:1", "a\r\n$1\r\nc", "bc").hasPrefix("-ERR unknown feature"))
            #expect(try inline("HMGET spend:1 a bc") == "*2\r\n$1\r\na\r\n$2\r\nbc\r\n")
            // More names than are remembered.
            let many = (0..<3_000).map { ["a", "ab", "abc"][$0 % 3] }
            for names in [many, many.reversed()] {
                client.send(frame((["HMGET", "spend:1"] + names).map { Array($0.utf8) }))
                let reply = try client.reply()
                #expect(reply == "*3000\r\n" + names.map { "$\($0.utf8.count)\r\n\($0)\r\n" }.joined())
            }
        }
    }

    @Test func clientsAreListedAndEnded() async throws {
        try await withServer { server in
            let client = try TestClient(port: server.port)
            let other = try TestClient(port: server.port)
            let third = try TestClient(port: server.port)
            func id(_ client: TestClient) throws -> String { String(try client.ask("CLIENT", "ID").filter(\.isNumber)) }
            let (mine, its) = (try id(client), try id(other))
            #expect(try client.ask("CLIENT", "LIST", "ID", its).contains("id=\(its) addr=127.0.0.1:"))
            #expect(try !client.ask("CLIENT", "LIST", "ID", its).contains("id=\(mine) "))
            #expect(try client.ask("CLIENT", "LIST", "TYPE", "pubsub") == "$0\r\n\r\n")
            #expect(try client.ask("CLIENT", "LIST", "TYPE", "odd") == "-ERR Unknown client type 'odd'\r\n")
            #expect(try client.ask("CLIENT", "LIST", "ID", "x") == "-ERR Invalid client ID\r\n")
            #expect(try client.ask("CLIENT", "LIST", "NOW") == "-ERR syntax error\r\n")
            #expect(try client.ask("CLIENT", "KILL", "1.2.3.4:5") == "-ERR No such client\r\n")
            #expect(try client.ask("CLIENT", "KILL", "ID", "0") == "-ERR client-id should be greater than 0\r\n")
            #expect(try client.ask("CLIENT", "KILL", "ID", "1", "USER") == "-ERR syntax error\r\n")
            #expect(try client.ask("CLIENT", "KILL", "USER", "nobody") == "-ERR No such user 'nobody'\r\n")
            #expect(try client.ask("CLIENT", "KILL", "ID", its, "ADDR", "1.2.3.4:5") == ":0\r\n")
            #expect(try client.ask("CLIENT", "KILL", "ID", mine) == ":0\r\n")
            #expect(try client.ask("CLIENT", "KILL", "ID", its) == ":1\r\n")
            #expect(try other.readToEnd() == "")
            let list = try third.ask("CLIENT", "INFO")
            let address = try #require(list.split(separator: " ").first { $0.hasPrefix("addr=") }).dropFirst(5)
            #expect(try client.ask("CLIENT", "KILL", String(address)) == "+OK\r\n")
            #expect(try third.readToEnd() == "")
            #expect(try client.ask("CLIENT", "KILL", "SKIPME", "no", "ID", mine) == ":1\r\n")
            #expect(try client.readToEnd() == "")
        }
    }

    @Test func informationHasRealSections() async throws {
        try await withServer { server in
            let client = try TestClient(port: server.port)
            func field(_ name: String, _ section: String) throws -> Int? {
                let line = try client.ask("INFO", section).split(separator: "\r\n").first { $0.hasPrefix(name + ":") }
                return line.flatMap { Int($0.dropFirst(name.utf8.count + 1)) }
            }
            let before = try #require(try field("total_net_input_bytes", "stats"))
            let text = String(repeating: "x", count: 1_000)
            #expect(try client.ask("ECHO", text).utf8.count == 1_009)
            #expect(try #require(try field("total_net_input_bytes", "stats")) >= before + 1_000)
            #expect(try #require(try field("total_net_output_bytes", "stats")) >= 1_009)
            #expect(try #require(try field("used_memory", "memory")) > 100_000)
            #expect(try #require(try field("used_memory_rss", "memory")) > 1_000_000)
            #expect(try client.ask("INFO", "cpu").contains("used_cpu_user:"))
            _ = try client.ask("HMGET", "spend:1")
            _ = try client.ask("HMGET", "spend:1", "none")
            _ = try client.ask("HMGET", "spend:1", "total")
            let stats = try client.ask("INFO", "commandstats")
            #expect(stats.contains("cmdstat_hmget:calls=3,failed_calls=2\r\n"), "\(stats)")
            #expect(stats.contains("cmdstat_echo:calls=1,failed_calls=0\r\n"))
            #expect(try !client.ask("INFO").contains("# Commandstats"))
            #expect(try client.ask("INFO", "all").contains("# Commandstats"))
            #expect(try client.ask("COMMAND", "INFO", "client|list").contains("$11\r\nclient|list\r\n"))
            #expect(try client.ask("COMMAND", "DOCS", "client|kill").hasPrefix("*2\r\n$11\r\nclient|kill\r\n"))
        }
    }
}
