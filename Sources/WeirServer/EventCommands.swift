extension Command {
    /// The commands that bring events: to a stream, or to a session that the server holds.
    static let events: [Command] = [
        Command(
            "events.add", arity: -3, group: "events", syntax: "stream json [json ...]",
            "Adds events to a stream; answers the number taken once they are durable.", flags: ["write"], rights: .push
        ) { call, _ throws(CommandError) in
            let stream = try call.name(1, "stream's name")
            let events = call.arguments.arrays(from: 2)
            let backend = call.backend
            return .replyLater { reply in
                backend.addEvents(stream: stream, events: events) { result in
                    reply { _, writer throws(CommandError) in writer.integer(Int64(try result.get())) }
                }
            }
        },
        Command(
            "session.add", arity: -4, group: "sessions", syntax: "id stream json [json ...]",
            "Adds events to a session that the server holds; answers how many it holds now.", flags: ["write"], rights: .push
        ) { call, writer throws(CommandError) in
            let count = try call.backend.sessionAdd(
                try call.name(1, "session's id"), stream: try call.name(2, "stream's name"),
                events: call.arguments.arrays(from: 3))
            writer.integer(Int64(count))
            return .replied
        },
        Command("session.get", arity: 2, group: "sessions", syntax: "id", "Lists a session's events: pairs of stream and JSON.") {
            call, writer throws(CommandError) in
            let events = try call.backend.sessionGet(try call.name(1, "session's id"))
            writer.array(count: events.count)
            for event in events {
                writer.array(count: 2)
                writer.bulk(event.stream)
                event.json.withUnsafeBytes { writer.bulk($0) }
            }
            return .replied
        },
        Command(
            "session.drop", arity: 2, group: "sessions", syntax: "id", "Forgets a session; answers whether there was one.",
            flags: ["write"], rights: .push
        ) { call, writer throws(CommandError) in
            writer.integer(try call.backend.sessionDrop(try call.name(1, "session's id")) ? 1 : 0)
            return .replied
        },
    ]
}
