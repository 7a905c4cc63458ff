extension Command {
    /// The commands by which clients and people look at the server.
    static let introspection: [Command] = [
        Command("info", arity: -1, group: "server", syntax: "[section ...]", "Describes the server and its store.") {
            call, writer throws(CommandError) in
            let wanted = Set(call.arguments.arrays(from: 1).map { bytes in bytes.withUnsafeBytes { RESPArguments.lowercased($0) } })
            let isAll = wanted.isEmpty || !wanted.isDisjoint(with: ["all", "default", "everything"])
            var text = ""
            for section in sections(call) where isAll || wanted.contains(section.title.lowercased()) {
                if !text.isEmpty { text += "\r\n" }
                text += "# \(section.title)\r\n"
                for field in section.fields { text += "\(field.key):\(field.value)\r\n" }
            }
            writer.text(text)
            return .replied
        },
        Command(
            "command", arity: -1, group: "server", "A container for commands about commands.", flags: ["loading"],
            subcommands: commandSubcommands + [help("command", commandSubcommands)]
        ) { call, writer throws(CommandError) in
            writer.array(count: call.server.commands.commands.count)
            for command in call.server.commands.commands { writer.write(command.info()) }
            return .replied
        },
        Command(
            "config", arity: -2, group: "server", "A container for configuration commands.",
            subcommands: configSubcommands + [help("config", configSubcommands)]
        ) { _, _ throws(CommandError) in .replied },
    ]

    private static let configSubcommands = [
        // Load generators ask for Redis's settings before they start; there are none.
        Command("get", arity: -3, group: "server", syntax: "parameter [parameter ...]", "Answers nothing: there are no settings.") {
            _, writer throws(CommandError) in
            writer.map(count: 0)
            return .replied
        }
    ]

    private static let commandSubcommands: [Command] = [
        Command("count", arity: 2, group: "server", "Counts the commands.") { call, writer throws(CommandError) in
            writer.integer(Int64(call.server.commands.commands.count))
            return .replied
        },
        Command("list", arity: 2, group: "server", "Lists the commands' names.") { call, writer throws(CommandError) in
            writer.write(.array(call.server.commands.commands.map { .string($0.name) }))
            return .replied
        },
        Command("info", arity: -2, group: "server", syntax: "[command-name ...]", "Describes commands for clients.") {
            call, writer throws(CommandError) in
            guard call.arguments.count > 2 else {
                writer.write(.array(call.server.commands.commands.map { $0.info() }))
                return .replied
            }
            writer.array(count: call.arguments.count - 2)
            for index in 2..<call.arguments.count {
                writer.write(call.server.commands.command(named: call.arguments[index])?.info() ?? .null)
            }
            return .replied
        },
        Command("docs", arity: -2, group: "server", syntax: "[command-name ...]", "Documents commands for people.") {
            call, writer throws(CommandError) in
            var commands = call.server.commands.commands
            if call.arguments.count > 2 {
                commands = []
                for index in 2..<call.arguments.count {
                    guard let command = call.server.commands.command(named: call.arguments[index]) else { continue }
                    if !commands.contains(where: { $0.name == command.name }) { commands.append(command) }
                }
            }
            writer.map(count: commands.count)
            for command in commands {
                writer.bulk(command.name)
                writer.write(command.documentation())
            }
            return .replied
        },
    ]

    /// The ten elements of `COMMAND INFO`. No command has keys in Redis's sense: there is no cluster to route to.
    private func info(parent: String? = nil) -> ReplyValue {
        .array([
            .string(parent.map { "\($0)|\(name)" } ?? name), .int(Int64(arity)), .array(flags.map { .simple($0) }),
            .int(0), .int(0), .int(0), .array([]), .array([]), .array([]),
            .array(subcommands.map { $0.info(parent: name) }),
        ])
    }

    /// The map of `COMMAND DOCS`; `redis-cli` makes its hints from it.
    private func documentation(parent: String? = nil) -> ReplyValue {
        var entries = [
            ReplyValue.Entry("summary", .string(summary)), ReplyValue.Entry("since", .string("0.1.0")),
            ReplyValue.Entry("group", .string(group)),
        ]
        if !syntax.isEmpty {
            let argument = ReplyValue.map(["name": .string(syntax), "type": .string("string"), "display_text": .string(syntax)])
            entries.append(ReplyValue.Entry("arguments", .array([argument])))
        }
        if !subcommands.isEmpty {
            let documented = subcommands.map {
                ReplyValue.Entry("\(name)|\($0.name)", $0.documentation(parent: name))
            }
            entries.append(ReplyValue.Entry("subcommands", .map(documented)))
        }
        return .map(entries)
    }

    /// The server's sections, then the backend's; sections of one title are joined.
    private static func sections(_ call: CommandCall) -> [InfoSection] {
        let server = call.server
        var sections = [
            InfoSection(
                "Server",
                [
                    .init("weir_version", server.configuration.version),
                    // For clients that look at the version to choose commands.
                    .init("redis_version", "7.2.0"), .init("redis_mode", "standalone"),
                    .init("tcp_port", String(server.port.load(ordering: .relaxed))),
                    .init("uptime_in_seconds", String((ContinuousClock.now - server.startedAt).components.seconds)),
                    .init("io_threads", String(server.configuration.threadCount)),
                ]),
            InfoSection(
                "Clients",
                [
                    .init("connected_clients", String(server.clientCount)),
                    .init("maxclients", String(server.configuration.connectionCountMax)),
                ]),
            InfoSection(
                "Stats",
                [
                    .init("total_connections_received", String(server.connectionsReceived.load(ordering: .relaxed))),
                    .init("total_commands_processed", String(server.commandsProcessed.load(ordering: .relaxed))),
                    .init("rejected_connections", String(server.connectionsRejected.load(ordering: .relaxed))),
                ]),
        ]
        for section in call.backend.info(executor: call.client.executor) {
            if let index = sections.firstIndex(where: { $0.title == section.title }) {
                sections[index].fields += section.fields
            } else {
                sections.append(section)
            }
        }
        return sections
    }
}
