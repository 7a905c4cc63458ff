extension Command {
    /// The commands about the connection itself, as Redis has them.
    static let connection: [Command] = [
        Command("ping", arity: -1, group: "connection", syntax: "[message]", "Answers PONG, or the message.", flags: ["fast"], rights: []) {
            call, writer throws(CommandError) in
            switch call.arguments.count {
            case 1: writer.simple("PONG")
            case 2: writer.bulk(call.arguments[1])
            default: throw CommandError("wrong number of arguments for 'ping' command")
            }
            return .replied
        },
        Command("echo", arity: 2, group: "connection", syntax: "message", "Answers the message.", flags: ["fast"], rights: []) {
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
            if arguments.count == 2, call.server.configuration.authenticator.anonymous != nil {
                throw CommandError(
                    "AUTH <password> called without any password configured for the default user. Are you sure your "
                        + "configuration is correct?")
            }
            return try authenticate(call, user: arguments.count == 3 ? 1 : nil, password: arguments.count - 1, &writer) {
                _, writer throws(CommandError) in writer.simple("OK")
            }
        },
        Command(
            "select", arity: 2, group: "connection", syntax: "index", "Chooses database 0, the only one.", flags: ["fast"], rights: []
        ) {
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
            call.client.account = call.server.configuration.authenticator.anonymous
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
            rights: [], subcommands: clientSubcommands + [help("client", clientSubcommands)]
        ) { _, _ throws(CommandError) in .replied },
        Command(
            "acl", arity: -2, group: "server", "A container for commands about users.", flags: ["noscript"], rights: [],
            subcommands: aclSubcommands + [help("acl", aclSubcommands)]
        ) { _, _ throws(CommandError) in .replied },
    ]

    private static let aclSubcommands = [
        Command("whoami", arity: 2, group: "server", "Answers the name of the connection's user.", rights: []) {
            call, writer throws(CommandError) in
            writer.bulk(call.client.account?.user.name ?? User.defaultName)
            return .replied
        }
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
        let reply: LateReply = { [name, version] caller, writer throws(CommandError) in
            let client = caller.client
            guard client.isAuthenticated else {
                throw CommandError(
                    "HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> "
                        + "option can be used to authenticate the client and select the RESP protocol version at the same time",
                    code: "NOAUTH")
            }
            if let name { client.name = name }
            client.version = version
            writer.version = version
            caller.server.update(client.record)
            writer.write(
                .map([
                    "server": .string("weir"),
                    "version": .string(caller.server.configuration.version),
                    "proto": .int(Int64(version.rawValue)),
                    "id": .int(Int64(client.id)),
                    "mode": .string("standalone"),
                    "role": .string("master"),
                    "modules": .array([]),
                ]))
        }
        if let user { return try authenticate(call, user: user, password: user + 1, &writer, reply) }
        try reply(call.caller, &writer)
        return .replied
    }

    /// Makes the connection that of a user (`default` where nil), then replies: at once where no slow hash is needed, else later.
    private static func authenticate(
        _ call: CommandCall, user: Int?, password: Int, _ writer: inout RESPWriter, _ reply: @escaping LateReply
    ) throws(CommandError) -> CommandOutcome {
        let authenticator = call.server.configuration.authenticator
        let password = call.arguments.array(password)
        // A name that is not UTF-8 is nobody's.
        let user = user.map { call.arguments.text($0) ?? "" } ?? User.defaultName
        if let decision = authenticator.decideNow(user: user, password: password) {
            try enter(decision, call.caller)
            try reply(call.caller, &writer)
            return .replied
        }
        return .replyLater { replyLater in
            authenticator.decide(user: user, password: password) { decision in
                replyLater { caller, writer throws(CommandError) in
                    try enter(decision, caller)
                    try reply(caller, &writer)
                }
            }
        }
    }

    private static func enter(_ decision: Authenticator.Decision, _ caller: CommandCaller) throws(CommandError) {
        switch decision {
        case .accepted(let account):
            caller.client.account = account
            caller.server.update(caller.client.record)
        case .refused:
            caller.server.passwordsRefused.wrappingAdd(1, ordering: .relaxed)
            throw CommandError("invalid username-password pair or user is disabled.", code: "WRONGPASS")
        case .busy: throw CommandError("too many passwords wait to be checked; try again later", code: "BUSY")
        }
    }

    private static func clientWord(_ call: CommandCall, _ index: Int, _ what: String) throws(CommandError) -> String {
        guard call.arguments[index].allSatisfy({ (33...126).contains($0) }) else {
            throw CommandError("\(what) cannot contain spaces, newlines or special characters.")
        }
        return call.arguments.shown(index, limit: .max)
    }

    private static let clientSubcommands: [Command] = [
        Command("id", arity: 2, group: "connection", "Answers the connection's number.", rights: []) { call, writer throws(CommandError) in
            writer.integer(Int64(call.client.id))
            return .replied
        },
        Command("getname", arity: 2, group: "connection", "Answers the connection's name, or null.", rights: []) {
            call, writer throws(CommandError) in
            if call.client.name.isEmpty { writer.null() } else { writer.bulk(call.client.name) }
            return .replied
        },
        Command("setname", arity: 3, group: "connection", syntax: "connection-name", "Names the connection.", rights: []) {
            call, writer throws(CommandError) in
            call.client.name = try clientWord(call, 2, "Client names")
            call.server.update(call.client.record)
            writer.simple("OK")
            return .replied
        },
        Command(
            "setinfo", arity: 4, group: "connection", syntax: "LIB-NAME name | LIB-VER version", "Names the client library.", rights: []
        ) {
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
        Command("info", arity: 2, group: "connection", "Describes this connection.", rights: []) { call, writer throws(CommandError) in
            writer.text(call.client.record.line(command: "client|info") + "\n")
            return .replied
        },
        Command(
            "list", arity: -2, group: "connection", syntax: "[TYPE NORMAL|MASTER|REPLICA|PUBSUB] [ID client-id [client-id ...]]",
            "Describes all connections, or some.", rights: .admin
        ) { call, writer throws(CommandError) in
            let records = try listed(call)
            writer.text(
                records.map { $0.line(command: $0.id == call.client.id ? "client|list" : "NULL") + "\n" }.joined())
            return .replied
        },
        Command(
            "kill", arity: -3, group: "connection",
            syntax: "ip:port | [ID client-id] [ADDR ip:port] [LADDR ip:port] [USER username] [SKIPME yes|no]",
            "Closes connections.", flags: ["admin"], rights: .admin, run: kill),
        flag("no-evict"),
        flag("no-touch"),
    ]

    /// A switch that Redis has for its own memory management; it changes nothing here.
    private static func flag(_ name: String) -> Command {
        Command(name, arity: 3, group: "connection", syntax: "ON | OFF", "Accepted; there is nothing to switch.", rights: []) {
            call, writer throws(CommandError) in
            guard call.arguments.isWord(2, "on") || call.arguments.isWord(2, "off") else { throw CommandError("syntax error") }
            writer.simple("OK")
            return .replied
        }
    }

    private static func listed(_ call: CommandCall) throws(CommandError) -> [ClientRecord] {
        let arguments = call.arguments
        let records = call.server.clientRecords
        if arguments.count == 2 { return records }
        if arguments.isWord(2, "type"), arguments.count == 4 {
            if arguments.isWord(3, "normal") { return records }
            for other: StaticString in ["master", "replica", "slave", "pubsub"] where arguments.isWord(3, other) { return [] }
            throw CommandError("Unknown client type '\(arguments.shown(3))'")
        }
        guard arguments.isWord(2, "id"), arguments.count > 3 else { throw CommandError("syntax error") }
        var ids: Set<UInt64> = []
        for index in 3..<arguments.count { ids.insert(try clientID(arguments[index], "Invalid client ID")) }
        return records.filter { ids.contains($0.id) }
    }

    private static func clientID(_ text: UnsafeRawBufferPointer, _ problem: String) throws(CommandError) -> UInt64 {
        guard let number = RESPParser.integer(text), number > 0 else { throw CommandError(problem) }
        return UInt64(number)
    }

    /// Redis's two forms: an address, answered by OK; or filters that must all fit, answered by how many connections did.
    private static let kill: Run = { call, writer throws(CommandError) in
        let arguments = call.arguments
        if arguments.count == 3 {
            let address = arguments.shown(2)
            guard let record = call.server.clientRecords.first(where: { $0.address == address }) else {
                throw CommandError("No such client")
            }
            writer.simple("OK")
            return end([record], call)
        }
        guard arguments.count % 2 == 0 else { throw CommandError("syntax error") }
        var isSelfSkipped = true
        var records = call.server.clientRecords
        for index in stride(from: 2, to: arguments.count, by: 2) {
            let value = arguments.shown(index + 1)
            if arguments.isWord(index, "id") {
                let id = try clientID(arguments[index + 1], "client-id should be greater than 0")
                records.removeAll { $0.id != id }
            } else if arguments.isWord(index, "addr") {
                records.removeAll { $0.address != value }
            } else if arguments.isWord(index, "laddr") {
                records.removeAll { $0.localAddress != value }
            } else if arguments.isWord(index, "user") {
                guard call.server.configuration.authenticator.hasUser(value) else { throw CommandError("No such user '\(value)'") }
                records.removeAll { $0.user != value }
            } else if arguments.isWord(index, "skipme"), arguments.isWord(index + 1, "yes") || arguments.isWord(index + 1, "no") {
                isSelfSkipped = arguments.isWord(index + 1, "yes")
            } else {
                throw CommandError("syntax error")
            }
        }
        if isSelfSkipped { records.removeAll { $0.id == call.client.id } }
        writer.integer(Int64(records.count))
        return end(records, call)
    }

    private static func end(_ records: [ClientRecord], _ call: CommandCall) -> CommandOutcome {
        call.server.end(records.map(\.id).filter { $0 != call.client.id }, reason: "CLIENT KILL")
        return records.contains { $0.id == call.client.id } ? .close : .replied
    }
}
