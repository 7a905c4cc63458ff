extension Command {
    /// The commands about the connection itself, as Redis has them.
    static let connection: [Command] = [
        Command("ping", arity: -1, group: "connection", syntax: "[message]", "Answers PONG, or the message.", flags: ["fast"]) {
            call, writer throws(CommandError) in
            switch call.arguments.count {
            case 1: writer.simple("PONG")
            case 2: writer.bulk(call.arguments[1])
            default: throw CommandError("wrong number of arguments for 'ping' command")
            }
            return .replied
        },
        Command("echo", arity: 2, group: "connection", syntax: "message", "Answers the message.", flags: ["fast"]) {
            call, writer throws(CommandError) in
            writer.bulk(call.arguments[1])
            return .replied
        },
        Command(
            "hello", arity: -1, group: "connection", syntax: "[protover [AUTH username password] [SETNAME clientname]]",
            "Chooses RESP2 or RESP3 and shows the server.", flags: ["noscript", "fast"], isAllowedUnauthenticated: true, run: hello),
        Command(
            "auth", arity: -2, group: "connection", syntax: "[username] password", "Gives the password.",
            flags: ["noscript", "fast"], isAllowedUnauthenticated: true
        ) { call, writer throws(CommandError) in
            let arguments = call.arguments
            guard arguments.count <= 3 else { throw CommandError("syntax error") }
            if arguments.count == 2, call.server.configuration.password == nil {
                throw CommandError(
                    "AUTH <password> called without any password configured for the default user. Are you sure your "
                        + "configuration is correct?")
            }
            try authenticate(call, user: arguments.count == 3 ? 1 : nil, password: arguments.count - 1)
            writer.simple("OK")
            return .replied
        },
        Command("select", arity: 2, group: "connection", syntax: "index", "Chooses database 0, the only one.", flags: ["fast"]) {
            call, writer throws(CommandError) in
            guard let index = RESPParser.integer(call.arguments[1]) else {
                throw CommandError("value is not an integer or out of range")
            }
            guard index == 0 else { throw CommandError("DB index is out of range") }
            writer.simple("OK")
            return .replied
        },
        Command(
            "reset", arity: 1, group: "connection", "Puts the connection back to how it began.",
            flags: ["noscript", "fast"], isAllowedUnauthenticated: true
        ) { call, writer throws(CommandError) in
            call.client.version = .resp2
            call.client.name = ""
            call.client.isAuthenticated = call.server.configuration.password == nil
            call.server.update(call.client.record)
            writer.version = .resp2
            writer.simple("RESET")
            return .replied
        },
        Command(
            "quit", arity: -1, group: "connection", "Closes the connection.", flags: ["noscript", "fast"],
            isAllowedUnauthenticated: true
        ) { _, writer throws(CommandError) in
            writer.simple("OK")
            return .close
        },
        Command(
            "client", arity: -2, group: "connection", "A container for commands about clients.", flags: ["noscript"],
            subcommands: clientSubcommands + [help("client", clientSubcommands)]
        ) { _, _ throws(CommandError) in .replied },
    ]

    private static let hello: Run = { call, writer throws(CommandError) in
        let arguments = call.arguments
        var version = call.client.version
        if arguments.count > 1 {
            guard let number = RESPParser.integer(arguments[1]) else {
                throw CommandError("Protocol version is not an integer or out of range")
            }
            guard let known = Int(exactly: number).flatMap(RESPVersion.init(rawValue:)) else {
                throw CommandError("unsupported protocol version", code: "NOPROTO")
            }
            version = known
        }
        var name: String?
        var user: Int?
        var index = 2
        while index < arguments.count {
            if arguments.isWord(index, "auth"), index + 2 < arguments.count {
                user = index + 1
                index += 3
            } else if arguments.isWord(index, "setname"), index + 1 < arguments.count {
                name = try clientWord(call, index + 1, "Client names")
                index += 2
            } else {
                throw CommandError("Syntax error in HELLO option '\(arguments.shown(index))'")
            }
        }
        if let user { try authenticate(call, user: user, password: user + 1) }
        guard call.client.isAuthenticated else {
            throw CommandError(
                "HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> "
                    + "option can be used to authenticate the client and select the RESP protocol version at the same time",
                code: "NOAUTH")
        }
        if let name { call.client.name = name }
        call.client.version = version
        writer.version = version
        call.server.update(call.client.record)
        writer.write(
            .map([
                "server": .string("weir"),
                "version": .string(call.server.configuration.version),
                "proto": .int(Int64(version.rawValue)),
                "id": .int(Int64(call.client.id)),
                "mode": .string("standalone"),
                "role": .string("master"),
                "modules": .array([]),
            ]))
        return .replied
    }

    /// There is one user, `default`. Without a password configured it takes any, as in Redis.
    private static func authenticate(_ call: CommandCall, user: Int?, password: Int) throws(CommandError) {
        let isUser = user.map { call.arguments[$0].elementsEqual("default".utf8) } ?? true
        let isPassword = call.server.configuration.password.map { isEqual(call.arguments[password], $0) } ?? true
        guard isUser, isPassword else {
            throw CommandError("invalid username-password pair or user is disabled.", code: "WRONGPASS")
        }
        call.client.isAuthenticated = true
    }

    /// In a time that does not depend on where the two differ.
    private static func isEqual(_ given: UnsafeRawBufferPointer, _ password: String) -> Bool {
        let password = Array(password.utf8)
        var difference: UInt8 = given.count == password.count ? 0 : 1
        for index in 0..<given.count {
            difference |= given[index] ^ (password.isEmpty ? 0 : password[index % password.count])
        }
        return difference == 0
    }

    private static func clientWord(_ call: CommandCall, _ index: Int, _ what: String) throws(CommandError) -> String {
        guard call.arguments[index].allSatisfy({ (33...126).contains($0) }) else {
            throw CommandError("\(what) cannot contain spaces, newlines or special characters.")
        }
        return call.arguments.shown(index, limit: .max)
    }

    private static let clientSubcommands: [Command] = [
        Command("id", arity: 2, group: "connection", "Answers the connection's number.") { call, writer throws(CommandError) in
            writer.integer(Int64(call.client.id))
            return .replied
        },
        Command("getname", arity: 2, group: "connection", "Answers the connection's name, or null.") {
            call, writer throws(CommandError) in
            if call.client.name.isEmpty { writer.null() } else { writer.bulk(call.client.name) }
            return .replied
        },
        Command("setname", arity: 3, group: "connection", syntax: "connection-name", "Names the connection.") {
            call, writer throws(CommandError) in
            call.client.name = try clientWord(call, 2, "Client names")
            call.server.update(call.client.record)
            writer.simple("OK")
            return .replied
        },
        Command("setinfo", arity: 4, group: "connection", syntax: "LIB-NAME name | LIB-VER version", "Names the client library.") {
            call, writer throws(CommandError) in
            if call.arguments.isWord(2, "lib-name") {
                call.client.libraryName = try clientWord(call, 3, "lib-name")
            } else if call.arguments.isWord(2, "lib-ver") {
                call.client.libraryVersion = try clientWord(call, 3, "lib-ver")
            } else {
                throw CommandError("Unrecognized option '\(call.arguments.shown(2))'")
            }
            call.server.update(call.client.record)
            writer.simple("OK")
            return .replied
        },
        Command("info", arity: 2, group: "connection", "Describes this connection.") { call, writer throws(CommandError) in
            writer.text(call.client.record.line(command: "client|info") + "\n")
            return .replied
        },
        Command("list", arity: -2, group: "connection", "Describes all connections.") { call, writer throws(CommandError) in
            guard call.arguments.count == 2 else { throw CommandError("syntax error") }
            writer.text(
                call.server.clientRecords.map {
                    $0.line(command: $0.id == call.client.id ? "client|list" : "NULL") + "\n"
                }.joined())
            return .replied
        },
        flag("no-evict"),
        flag("no-touch"),
    ]

    /// A switch that Redis has for its own memory management; it changes nothing here.
    private static func flag(_ name: String) -> Command {
        Command(name, arity: 3, group: "connection", syntax: "ON | OFF", "Accepted; there is nothing to switch.") {
            call, writer throws(CommandError) in
            guard call.arguments.isWord(2, "on") || call.arguments.isWord(2, "off") else { throw CommandError("syntax error") }
            writer.simple("OK")
            return .replied
        }
    }
}
