import Foundation
import Logging
import Testing
import WeirServer

/// Hashes that are fast, for tests.
func quickHash(_ password: String) throws -> PasswordHash {
    try PasswordHash(of: Array(password.utf8), logRounds: 4, blockSize: 8, parallelism: 1, salt: Array("NaCl".utf8))
}

private func users() throws -> UsersFile {
    try UsersFile(
        """
        # name  rights      password
        reader  read        \(quickHash("r").text)
        loader  push        \(quickHash("l").text)
        ops     admin       \(quickHash("o").text)
        both    read,push   \(quickHash("a:b").text)
        """, name: "users")
}

@Suite struct PasswordHashTests {
    @Test func isScryptInPHCFormat() throws {
        // RFC 7914, section 12, cut to the length that we make.
        let known = try #require(
            PasswordHash(
                "$scrypt$ln=10,r=8,p=16$TmFDbA$/bq+HJ00cgB4VucZDQHp/nxq18vII3gw53N2Y0s3MWIurzDZLiKjiG/xCSedmDDaxyevuUqD7m2DYMvfoswGQA"))
        #expect(known.matches(Array("password".utf8)))
        #expect(!known.matches(Array("passwore".utf8)) && !known.matches([]))
        let hash = try PasswordHash(of: Array("secret".utf8))
        #expect(hash.text.hasPrefix("$scrypt$ln=14,r=8,p=5$"))
        #expect(PasswordHash(hash.text) == hash)
        #expect(hash.matches(Array("secret".utf8)))
        // A salt each.
        #expect(try PasswordHash(of: Array("secret".utf8)) != hash)
    }

    @Test(arguments: [
        "", "secret", "$scrypt$", "$scrypt$ln=10,r=8,p=16$TmFDbA$", "$scrypt$ln=10,r=8$TmFDbA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "$scrypt$ln=0,r=8,p=1$TmFDbA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "$scrypt$ln=20,r=32,p=1$TmFDbA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "$scrypt$ln=99999999999999999999,r=8,p=1$TmFDbA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "$bcrypt$ln=10,r=8,p=1$TmFDbA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "$scrypt$ln=10,r=8,p=1$TmFDbA$****", "$scrypt$ln=10,r=8,p=1$TmFDbA$AAAA",
    ])
    func refuses(_ text: String) { #expect(PasswordHash(text) == nil) }
}

@Suite struct UsersFileTests {
    @Test func reads() throws {
        let file = try UsersFile("\n# a comment\r\n  default read nopass\r\nops all " + quickHash("o").text + "\r\n", name: "users")
        #expect(file.entries.map(\.user) == [User(name: "default", rights: .read), User(name: "ops", rights: .all)])
        #expect(try file.entries.map(\.password) == [nil, quickHash("o")])
    }

    @Test(arguments: [
        ("", "users names no users, so nobody could use the server"),
        ("# nobody\n", "users names no users, so nobody could use the server"),
        ("a read\n", "users, line 1: a name, rights and a password hash expected, not 2 words"),
        ("\na write nopass\n", "users, line 2: unknown right 'write'; there are: read, push, admin, all"),
        ("a read, nopass\n", "users, line 1: unknown right ''; there are: read, push, admin, all"),
        ("a read nopass\na push nopass", "users, line 2: the user 'a' is named twice"),
        ("a read s3cret", "users, line 1: the password of 'a' is no hash as `weir hash-password` prints it, nor 'nopass'"),
        ("a:b read nopass", "users, line 1: a user's name is at most 64 visible ASCII characters without ':'"),
    ])
    func refuses(_ text: String, _ message: String) {
        let error = #expect(throws: ServerError.self) { try UsersFile(text, name: "users") }
        #expect(error?.description == message)
    }
}

@Suite(.serialized) struct UserTests {
    @Test func rightsAreKept() async throws {
        let file = try users()
        try await withServer(FakeBackend(), { $0.authenticator = Authenticator(file) }) { server in
            let client = try TestClient(port: server.port)
            #expect(try client.ask("HGETALL", "spend:1") == "-NOAUTH Authentication required.\r\n")
            #expect(try client.ask("AUTH", "r") == "-WRONGPASS invalid username-password pair or user is disabled.\r\n")
            #expect(try client.ask("AUTH", "nobody", "r") == "-WRONGPASS invalid username-password pair or user is disabled.\r\n")
            #expect(try client.ask("AUTH", "reader", "l") == "-WRONGPASS invalid username-password pair or user is disabled.\r\n")
            #expect(try client.ask("ACL", "WHOAMI") == "-NOAUTH Authentication required.\r\n")
            func denied(_ user: String, _ command: String) -> String {
                "-NOPERM User \(user) has no permissions to run the '\(command)' command\r\n"
            }
            // Twice: the second time the password is known.
            for _ in 0..<2 {
                #expect(try client.ask("AUTH", "reader", "r") == "+OK\r\n")
                #expect(try client.ask("ACL", "WHOAMI") == "$6\r\nreader\r\n")
                #expect(try client.ask("HGET", "spend:1", "total") == "$1\r\n7\r\n")
                #expect(try client.ask("FEATURES.LIST").hasPrefix("*3\r\n"))
                #expect(try client.ask("SESSION.GET", "s1").hasPrefix("*1\r\n"))
                #expect(try client.ask("EVENTS.ADD", "purchases", "{}") == denied("reader", "events.add"))
                #expect(try client.ask("SESSION.ADD", "s", "purchases", "{}") == denied("reader", "session.add"))
                #expect(try client.ask("SESSION.DROP", "s") == denied("reader", "session.drop"))
                #expect(try client.ask("CLIENT", "LIST") == denied("reader", "client|list"))
                #expect(try client.ask("CLIENT", "KILL", "ID", "1") == denied("reader", "client|kill"))
                let info = try client.ask("INFO", "everything")
                #expect(
                    info.contains("# Server\r\n") && !info.contains("# Clients") && !info.contains("# Store") && !info.contains("cmdstat"))
                #expect(try client.ask("CLIENT", "INFO").contains(" user=reader "))
                // A refused password changes nothing.
                #expect(try client.ask("AUTH", "loader", "x").hasPrefix("-WRONGPASS"))
                #expect(try client.ask("ACL", "WHOAMI") == "$6\r\nreader\r\n")

                #expect(try client.ask("HELLO", "2", "AUTH", "loader", "l", "SETNAME", "me").hasPrefix("*14\r\n"))
                #expect(try client.ask("EVENTS.ADD", "purchases", "{}") == ":1\r\n")
                #expect(try client.ask("HGET", "spend:1", "total") == denied("loader", "hget"))
                #expect(try client.ask("FEATURES.GET", "checkout", "{}") == denied("loader", "features.get"))
                #expect(try client.ask("PING") == "+PONG\r\n")
                #expect(try client.ask("COMMAND", "COUNT").hasPrefix(":"))

                #expect(try client.ask("AUTH", "ops", "o") == "+OK\r\n")
                #expect(try client.ask("CLIENT", "LIST").contains(" user=ops "))
                #expect(try client.ask("INFO").contains("# Store\r\n"))
                #expect(try client.ask("HGET", "spend:1", "total") == denied("ops", "hget"))
                #expect(try client.ask("AUTH", "both", "a:b") == "+OK\r\n")
                #expect(try client.ask("RESET") == "+RESET\r\n")
                #expect(try client.ask("PING") == "-NOAUTH Authentication required.\r\n")
            }
            // What follows AUTH in a pipeline waits for it.
            let stranger = try TestClient(port: server.port)
            stranger.send(
                frame("HELLO", "3", "AUTH", "both", "a:b") + frame("HGET", "spend:1", "total") + frame("AUTH", "nobody", "x")
                    + frame("HGET", "spend:1", "key"))
            #expect(try stranger.reply().hasPrefix("%7\r\n"))
            #expect(try stranger.reply() == ":7\r\n")
            #expect(try stranger.reply().hasPrefix("-WRONGPASS"))
            #expect(try stranger.reply() == "$1\r\n1\r\n")
            #expect(try stranger.ask("ECHO", String(repeating: "x", count: 20_000)).utf8.count == 20_010)
        }
    }

    @Test func usersMayChangeWhileTheServerRuns() async throws {
        let authenticator = Authenticator(try users())
        try await withServer(FakeBackend(), { $0.authenticator = authenticator }) { server in
            let clients = try ["reader": "r", "loader": "l", "ops": "o"].mapValues { password in
                (try TestClient(port: server.port), password)
            }
            for (user, (client, password)) in clients { #expect(try client.ask("AUTH", user, password) == "+OK\r\n") }
            // The reader may do more, the loader has another password, ops is gone.
            authenticator.replace(
                try UsersFile("reader read,admin \(quickHash("r").text)\nloader push \(quickHash("new").text)", name: "users"))
            server.usersChanged()
            #expect(try clients["loader"]?.0.readToEnd() == "")
            #expect(try clients["ops"]?.0.readToEnd() == "")
            let reader = try #require(clients["reader"]?.0)
            #expect(try reader.ask("CLIENT", "LIST").contains(" user=reader "))
            let loader = try TestClient(port: server.port)
            #expect(try loader.ask("AUTH", "loader", "l").hasPrefix("-WRONGPASS"))
            #expect(try loader.ask("AUTH", "loader", "new") == "+OK\r\n")
        }
    }

    /// A slow hash keeps nobody waiting but who asked for it; those that would wait for too many are refused at once.
    @Test func slowHashesHoldUpNobody() async throws {
        let slow = try PasswordHash(of: Array("s".utf8))
        let text = slow.text
        try await withServer(
            FakeBackend(),
            {
                $0.authenticator = Authenticator(try! UsersFile("default all nopass\nslow read \(text)", name: "users"))
                $0.threadCount = 1
            }
        ) { server in
            let strangers = try (0..<100).map { _ in try TestClient(port: server.port) }
            for stranger in strangers { stranger.send(frame("AUTH", "slow", "wrong")) }
            let neighbour = try TestClient(port: server.port)
            let start = ContinuousClock.now
            for _ in 0..<100 { #expect(try neighbour.ask("PING") == "+PONG\r\n") }
            let seconds = (ContinuousClock.now - start) / .seconds(1)
            #expect(seconds < 1, "100 answers took \(seconds) s while passwords were checked")
            let refusals = try strangers[64...].map { try $0.reply() }
            #expect(
                refusals.allSatisfy {
                    $0 == "-BUSY too many passwords wait to be checked; try again later\r\n" || $0.hasPrefix("-WRONGPASS")
                })
            #expect(refusals.contains { $0.hasPrefix("-BUSY") })
            #expect(try strangers[0].reply().hasPrefix("-WRONGPASS"))
        }
    }

    @Test func authorizationHeaders() async throws {
        let authenticator = Authenticator(try users())
        func user(_ header: String?) async -> String? {
            if case .accepted(let account) = await authenticator.decide(authorization: header) { account.user.name } else { nil }
        }
        func basic(_ text: String) -> String { "Basic " + Data(text.utf8).base64EncodedString() }
        #expect(await user(nil) == nil)
        #expect(await user(basic("reader:r")) == "reader")
        #expect(await user("basic" + basic("reader:r").dropFirst(5)) == "reader")
        #expect(await user(basic("reader:x")) == nil)
        #expect(await user(basic("both:a:b")) == "both")
        #expect(await user("Bearer both:a:b") == "both")
        #expect(await user("Bearer r") == nil)
        for bad in ["", "Basic", "Basic ***", "Basic " + Data("reader".utf8).base64EncodedString(), "Digest x", "reader:r"] {
            #expect(await user(bad) == nil, "\(bad)")
        }
        let one = Authenticator(password: "a:b")
        func isLetIn(_ header: String?) async -> Bool {
            if case .accepted = await one.decide(authorization: header) { true } else { false }
        }
        #expect(await isLetIn("Bearer a:b"))
        #expect(await isLetIn(basic(":a:b")))
        #expect(await isLetIn(basic("default:a:b")))
        #expect(await !isLetIn("Bearer a"))
        #expect(await !isLetIn(nil))
    }

    @Test func loopbackIsKnown() {
        for host in ["127.0.0.1", "127.3.2.1", "::1", "localhost"] { #expect(isLoopback(host), "\(host)") }
        for host in ["0.0.0.0", "::", "192.0.2.1", "no.such.host.invalid", ""] { #expect(!isLoopback(host), "\(host)") }
    }
}
