extension Command {
    /// The commands by which clients and people look at the server.
    static let introspection: [Command] = [
        Command(
            "info", arity: -1, group: "server", syntax: "[section [section ...]]", "Describes the server and its store.", rights: []
        ) { call, writer throws(CommandError) in
            let wanted = Set(call.arguments.arrays(from: 1).map { bytes in bytes.withUnsafeBytes { RESPArguments.lowercased($0) } })
            let isEverything = !wanted.isDisjoint(with: ["all", "everything"])
            let isDefault = wanted.isEmpty || wanted.contains("default")
            var text = ""
            for section in sections(call, withCommands: isEverything || wanted.contains("commandstats"))
            where isEverything || wanted.contains(section.title.lowercased()) || isDefault {
                if !text.isEmpty { text += "\r\n" }
                text += "# \(section.title)\r\n"
                for field in section.fields { text += "\(field.key):\(field.value)\r\n" }
            }
            writer.text(text)
            return .replied
        },
        Command(
            "command", arity: -1, group: "server", "A container for commands about commands.", flags: ["loading"], rights: [],
            subcommands: commandSubcommands + [help("command", commandSubcommands)]
        ) { call, writer throws(CommandError) in
            writer.array(count: call.server.commands.commands.count)
            for command in call.server.commands.commands { writer.write(command.info()) }
            return .replied
        },
        Command(
            "config", arity: -2, group: "server", "A container for configuration commands.", rights: [],
            subcommands: configSubcommands + [help("config", configSubcommands)]
        ) { _, _ throws(CommandError) in .replied },
    ]

    private static let configSubcommands = [
        // Load generators ask for Redis's settings before they start; there are none.
        Command(
            "get", arity: -3, group: "server", syntax: "parameter [parameter ...]", "Answers nothing: there are no settings.", rights: []
        ) {
            _, writer throws(CommandError) in
            writer.map(count: 0)
            return .replied
        }
    ]

    private static let commandSubcommands: [Command] = [
        Command("count", arity: 2, group: "server", "Counts the commands.", rights: []) { call, writer throws(CommandError) in
            writer.integer(Int64(call.server.commands.commands.count))
            return .replied
        },
        Command("list", arity: 2, group: "server", "Lists the commands' names.", rights: []) { call, writer throws(CommandError) in
            writer.write(.array(call.server.commands.commands.map { .string($0.name) }))
            return .replied
        },
        Command(
            "info", arity: -2, group: "server", syntax: "[command-name [command-name ...]]", "Describes commands for clients.", rights: []
        ) {
            call, writer throws(CommandError) in
            guard call.arguments.count > 2 else {
                writer.write(.array(call.server.commands.commands.map { $0.info() }))
                return .replied
            }
            writer.array(count: call.arguments.count - 2)
            for index in 2..<call.arguments.count {
                let found = call.server.commands.described(call.arguments[index])
                writer.write(found.map { $0.command.info(parent: $0.parent?.name) } ?? .null)
            }
            return .replied
        },
        Command(
            "docs", arity: -2, group: "server", syntax: "[command-name [command-name ...]]", "Documents commands for people.", rights: []
        ) {
            call, writer throws(CommandError) in
            var documented: [ReplyValue.Entry] = []
            if call.arguments.count == 2 {
                documented = call.server.commands.commands.map { ReplyValue.Entry($0.name, $0.documentation()) }
            }
            var names: Set<String> = []
            for index in 2..<call.arguments.count {
                guard let (command, parent) = call.server.commands.described(call.arguments[index]) else { continue }
                let name = command.fullName(parent?.name)
                if names.insert(name).inserted { documented.append(ReplyValue.Entry(name, command.documentation())) }
            }
            writer.write(.map(documented))
            return .replied
        },
    ]

    private func fullName(_ parent: String?) -> String { parent.map { "\($0)|\(name)" } ?? name }

    /// The ten elements of `COMMAND INFO`. No command has keys in Redis's sense: there is no cluster to route to.
    private func info(parent: String? = nil) -> ReplyValue {
        .array([
            .string(fullName(parent)), .int(Int64(arity)), .array(flags.map { .simple($0) }),
            .int(0), .int(0), .int(0), .array(categories.map { .simple($0) }), .array([]), .array([]),
            .array(subcommands.map { $0.info(parent: name) }),
        ])
    }

    /// Redis's names of what a user needs.
    private var categories: [String] {
        (rights.contains(.read) ? ["@read"] : []) + (rights.contains(.push) ? ["@write"] : [])
            + (rights.contains(.admin) ? ["@admin"] : []) + (group == "connection" ? ["@connection"] : [])
    }

    /// The map of `COMMAND DOCS`; `redis-cli` makes its hints from it.
    private func documentation() -> ReplyValue {
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
                ReplyValue.Entry("\(name)|\($0.name)", $0.documentation())
            }
            entries.append(ReplyValue.Entry("subcommands", .map(documented)))
        }
        return .map(entries)
    }
}
