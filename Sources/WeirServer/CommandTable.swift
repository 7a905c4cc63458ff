/// One command, or a subcommand of one.
final class Command: Sendable {
    typealias Run = @Sendable (CommandCall, inout RESPWriter) throws(CommandError) -> CommandOutcome

    /// In lower case.
    let name: String
    /// As Redis counts: the number of arguments, names included; negative where that is the least.
    let arity: Int
    let group: String
    let summary: String
    /// The arguments as the documentation writes them.
    let syntax: String
    let flags: [String]
    /// What a user needs: all of them.
    let rights: Rights
    let isAllowedUnauthenticated: Bool
    let subcommands: [Command]
    let run: Run

    init(
        _ name: String, arity: Int, group: String, syntax: String = "", _ summary: String,
        flags: [String] = ["readonly"], rights: Rights = .read, isAllowedUnauthenticated: Bool = false, subcommands: [Command] = [],
        run: @escaping Run
    ) {
        self.name = name
        self.arity = arity
        self.group = group
        self.summary = summary
        self.syntax = syntax
        self.flags = flags
        self.rights = rights
        self.isAllowedUnauthenticated = isAllowedUnauthenticated
        self.subcommands = subcommands
        self.run = run
    }

    /// Whether it reads or changes the store: what an overloaded server refuses. The others keep answering, so that people can look.
    var usesStore: Bool { !rights.isDisjoint(with: [.read, .push]) }

    func accepts(_ count: Int) -> Bool { arity >= 0 ? count == arity : count >= -arity }
}

/// A command being run: its arguments, whose it is, and what it may use.
struct CommandCall {
    let arguments: RESPArguments
    let client: Client
    let server: ServerContext
    /// Whether the event loop is too far behind to do more than say so.
    var isOverloaded = false

    var backend: any FeatureBackend { server.backend }
    var caller: CommandCaller { CommandCaller(client: client, server: server) }

    /// An argument that names something.
    func name(_ index: Int, _ what: String) throws(CommandError) -> String {
        guard let text = arguments.text(index) else { throw CommandError("the \(what) is not valid UTF-8") }
        return text
    }
}

/// Writes a reply that had to be waited for.
typealias LateReply = @Sendable (CommandCaller, inout RESPWriter) throws(CommandError) -> Void

/// Whose command it is, and on what server.
struct CommandCaller {
    let client: Client
    let server: ServerContext
}

enum CommandOutcome {
    /// The reply is in the writer.
    case replied
    /// The reply is written by what the closure's argument is called with, on the connection's event loop; the connection's later
    /// commands wait for it.
    case replyLater(@Sendable (@escaping @Sendable (@escaping LateReply) -> Void) -> Void)
    /// What is in the writer is the last reply.
    case close
}

/// Finds commands by name, and answers for them what Redis would where they do not fit.
struct CommandTable: Sendable {
    let commands: [Command]
    /// The commands by the length of their names, so that the hot path compares two or three names and allocates nothing.
    private let byLength: [[Int]]

    init() {
        let commands = Command.features + Command.events + Command.views + Command.connection + Command.introspection
        var byLength = [[Int]](repeating: [], count: 1 + (commands.map(\.name.utf8.count).max() ?? 0))
        for (index, command) in commands.enumerated() { byLength[command.name.utf8.count].append(index) }
        self.commands = commands
        self.byLength = byLength
    }

    /// What requests are counted as: the commands in their order, then what is none of them.
    var countedNames: [String] { commands.map(\.name) + ["other"] }

    func command(named name: UnsafeRawBufferPointer) -> Command? { number(of: name).map { commands[$0] } }

    /// A command's place in the table, which it is counted by.
    private func number(of name: UnsafeRawBufferPointer) -> Int? {
        guard name.count < byLength.count else { return nil }
        return byLength[name.count].first { CommandTable.isEqual(name, commands[$0].name) }
    }

    /// A command, or `command|subcommand`.
    func described(_ name: UnsafeRawBufferPointer) -> (command: Command, parent: Command?)? {
        guard let bar = name.firstIndex(of: UInt8(ascii: "|")) else { return command(named: name).map { ($0, nil) } }
        guard let parent = command(named: UnsafeRawBufferPointer(rebasing: name[..<bar])) else { return nil }
        let rest = UnsafeRawBufferPointer(rebasing: name[(bar + 1)...])
        return parent.subcommands.first { CommandTable.isEqual(rest, $0.name) }.map { ($0, parent) }
    }

    static func isEqual(_ name: UnsafeRawBufferPointer, _ lowercased: String) -> Bool {
        var index = 0
        for byte in lowercased.utf8 {
            guard index < name.count, RESPArguments.lowercased(name[index]) == byte else { return false }
            index += 1
        }
        return index == name.count
    }

    /// Runs one command: checks its name and the number of its arguments, and that the client may. A refusal is a reply too.
    func run(_ call: CommandCall, _ writer: inout RESPWriter) -> CommandOutcome {
        let start = writer.buffer.writerIndex
        let known = number(of: call.arguments[0])
        let command = known.map { commands[$0] }
        let number = known ?? commands.count
        let (metrics, executor) = (call.server.metrics, call.client.loop.executor)
        metrics.count(number, executor: executor)
        do throws(CommandError) {
            let outcome = try dispatch(command, call, &writer)
            guard case .replyLater(let begin) = outcome else { return outcome }
            let isGiven = AtomicFlag()
            return .replyLater { done in
                begin { reply in
                    // A second reply changes nothing.
                    guard isGiven.set() else { return }
                    done { caller, writer throws(CommandError) in
                        do throws(CommandError) {
                            try reply(caller, &writer)
                        } catch {
                            metrics.countError(number, executor: executor)
                            throw error
                        }
                    }
                }
            }
        } catch {
            metrics.countError(number, executor: executor)
            // No half replies: what the command may have written before it failed goes.
            writer.buffer.moveWriterIndex(to: start)
            writer.error(error)
            return .replied
        }
    }

    private func dispatch(
        _ command: Command?, _ call: CommandCall, _ writer: inout RESPWriter
    ) throws(CommandError) -> CommandOutcome {
        let arguments = call.arguments
        guard let command else {
            // A browser that was lured into posting to this port must not get its body run as inline commands.
            if arguments.isWord(0, "post") || arguments.isWord(0, "host:") {
                call.server.logger.warning("closed a connection that speaks HTTP on the Redis port")
                return .close
            }
            try checkAuthenticated(call)
            throw CommandTable.unknownCommand(arguments)
        }
        try check(command, call)
        return try (subcommand(command, arguments) ?? command).run(call, &writer)
    }

    private func subcommand(_ command: Command, _ arguments: RESPArguments) -> Command? {
        guard arguments.count > 1, !command.subcommands.isEmpty else { return nil }
        return command.subcommands.first { CommandTable.isEqual(arguments[1], $0.name) }
    }

    /// Whether the command may run: what Redis checks before it does.
    private func check(_ command: Command, _ call: CommandCall) throws(CommandError) {
        let arguments = call.arguments
        if arguments.count > 1, !command.subcommands.isEmpty {
            guard let subcommand = subcommand(command, arguments) else {
                if !command.isAllowedUnauthenticated { try checkAuthenticated(call) }
                throw CommandError("unknown subcommand '\(arguments.shown(1))'. Try \(command.name.uppercased()) HELP.")
            }
            guard subcommand.accepts(arguments.count) else {
                if !command.isAllowedUnauthenticated { try checkAuthenticated(call) }
                throw CommandError("wrong number of arguments for '\(command.name)|\(subcommand.name)' command")
            }
            return try checkRights(subcommand, parent: command, call)
        }
        guard command.accepts(arguments.count) else {
            if !command.isAllowedUnauthenticated { try checkAuthenticated(call) }
            throw CommandError("wrong number of arguments for '\(command.name)' command")
        }
        try checkRights(command, parent: nil, call)
    }

    private func checkRights(_ command: Command, parent: Command?, _ call: CommandCall) throws(CommandError) {
        if (parent ?? command).isAllowedUnauthenticated { return }
        guard let account = call.client.account else { return try checkAuthenticated(call) }
        guard account.user.rights.isSuperset(of: command.rights) else {
            call.server.commandsDenied.wrappingAdd(1, ordering: .relaxed)
            let name = parent.map { "\($0.name)|\(command.name)" } ?? command.name
            throw CommandError("User \(account.user.name) has no permissions to run the '\(name)' command", code: "NOPERM")
        }
        if call.isOverloaded, command.usesStore {
            call.server.commandsShed.wrappingAdd(1, ordering: .relaxed)
            throw CommandError("the server is overloaded and did nothing; try again later", code: "BUSY")
        }
    }

    private func checkAuthenticated(_ call: CommandCall) throws(CommandError) {
        guard call.client.isAuthenticated else { throw CommandError("Authentication required.", code: "NOAUTH") }
    }

    /// Redis's text: the arguments up to 128 bytes.
    private static func unknownCommand(_ arguments: RESPArguments) -> CommandError {
        var shown = ""
        for index in 1..<max(1, arguments.count) where shown.utf8.count < 128 {
            shown += "'\(arguments.shown(index, limit: 128 - shown.utf8.count))' "
        }
        return CommandError("unknown command '\(arguments.shown(0))', with args beginning with: \(shown)")
    }
}

extension Command {
    /// `HELP` of a command with subcommands.
    static func help(_ name: String, _ subcommands: [Command]) -> Command {
        Command("help", arity: 2, group: "server", "Shows the subcommands.", rights: []) { _, writer throws(CommandError) in
            writer.array(count: 1 + subcommands.count)
            writer.simple("\(name.uppercased()) <subcommand> [<arg> ...]. Subcommands are:")
            for subcommand in subcommands {
                writer.simple("\(subcommand.name.uppercased()) \(subcommand.syntax): \(subcommand.summary)")
            }
            return .replied
        }
    }
}
