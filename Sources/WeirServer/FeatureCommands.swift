import Foundation
import WeirAlgebra
import WeirRecords

extension Command {
    /// The commands about services and the catalog.
    static let features: [Command] = [
        Command(
            "features.get", arity: -3, group: "features",
            syntax: "service request-json [request-json ...] [AT time] [SESSION stream json-array] [SESSIONID id] [META]",
            "Answers the features of a service for one or more requests.", run: featuresGet),
        Command(
            "features.explain", arity: -2, group: "features",
            syntax: "service request-json | view:key [feature ...] [AT time] [SESSION stream json-array] [SESSIONID id] [JSON]",
            "Says how each number of an answer came about."
        ) { call, writer throws(CommandError) in
            writer.write(try call.backend.explain(try parseFeaturesExplain(call), executor: call.client.loop.executor))
            return .replied
        },
        Command("features.list", arity: 1, group: "features", "Lists services, views and streams.") {
            call, writer throws(CommandError) in
            let entries = try call.backend.listFeatures()
            writer.array(count: entries.count)
            for entry in entries { writer.write(entry.reply) }
            return .replied
        },
        Command("features.describe", arity: 2, group: "features", syntax: "name", "Describes a service, view, stream or feature.") {
            call, writer throws(CommandError) in
            writer.write(try call.backend.describe(try call.name(1, "name")))
            return .replied
        },
    ]

    /// The commands that read features of one entity of a view: `view:key`.
    static let views: [Command] = [
        Command("hmget", arity: -3, group: "views", syntax: "view:key feature [feature ...]", "Answers features of an entity.") {
            call, writer throws(CommandError) in
            let selection = try selection(call, from: 2)
            try forEntity(call, selection, &writer) { results, _, writer in writer.writeArray(results) }
            return .replied
        },
        Command("hget", arity: 3, group: "views", syntax: "view:key feature", "Answers one feature of an entity.") {
            call, writer throws(CommandError) in
            let selection = try selection(call, from: 2)
            try forEntity(call, selection, &writer) { results, _, writer in writer.write(featureValue: results[0].value) }
            return .replied
        },
        Command("hgetall", arity: 2, group: "views", syntax: "view:key", "Answers all features of an entity.") {
            call, writer throws(CommandError) in
            let selection = try selection(call)
            try forEntity(call, selection, &writer) { results, _, writer in writer.writeMap(selection.names, results) }
            return .replied
        },
        Command("exists", arity: -2, group: "views", syntax: "view:key [view:key ...]", "Counts the entities that have events.") {
            call, writer throws(CommandError) in
            var count: Int64 = 0
            for index in 1..<call.arguments.count {
                try forEntity(call, try selection(call, key: index), key: index, &writer) { _, exists, _ in if exists { count += 1 } }
            }
            writer.integer(count)
            return .replied
        },
    ]

    /// The argument `view:key`, split at the first colon.
    private static func entity(
        _ call: CommandCall, _ index: Int
    ) throws(CommandError) -> (view: UnsafeRawBufferPointer, key: UnsafeRawBufferPointer) {
        let text = call.arguments[index]
        guard let start = text.baseAddress, let found = memchr(start, 58, text.count) else {
            throw CommandError("'\(call.arguments.shown(index))' names no entity; write view:key, such as household_spend:42")
        }
        let colon = UnsafeRawPointer(found) - start
        return (UnsafeRawBufferPointer(rebasing: text[..<colon]), UnsafeRawBufferPointer(rebasing: text[(colon + 1)...]))
    }

    private static func forEntity(
        _ call: CommandCall, _ selection: ViewSelection, key index: Int = 1, _ writer: inout RESPWriter,
        _ body: (borrowing [FeatureResult], Bool, inout RESPWriter) -> Void
    ) throws(CommandError) {
        let key = try entity(call, index).key
        try call.backend.viewFeatures(selection, key: key, executor: call.client.loop.executor) { results, exists in
            body(results, exists, &writer)
        }
    }

    /// The view that an argument names, with the features named from an index on; all without one.
    private static func selection(_ call: CommandCall, key index: Int = 1, from: Int? = nil) throws(CommandError) -> ViewSelection {
        let view = try entity(call, index).view
        // The names as they stand in the command, with what is between them; inline commands have nothing there.
        let features = from.flatMap { call.arguments.isInline ? nil : call.arguments.span(from: $0) }
        if let from, let features, let known = call.client.selected, known.count == call.arguments.count - from,
            isSame(known.features, features), isSame(known.view, view)
        {
            return known.selection
        }
        guard let name = String(validating: view, as: UTF8.self) else { throw CommandError("the view's name is not valid UTF-8") }
        var names: [String]?
        if let from {
            var some: [String] = []
            some.reserveCapacity(call.arguments.count - from)
            for index in from..<call.arguments.count { some.append(try call.name(index, "feature's name")) }
            names = some
        }
        let selection = try call.backend.selection(view: name, features: names)
        if let features, features.count <= selectedBytesMax {
            call.client.selected = .init(view: Array(view), features: Array(features), count: selection.names.count, selection: selection)
        }
        return selection
    }

    /// Longer lists of names are looked up each time.
    private static let selectedBytesMax = 4_096

    private static func isSame(_ a: [UInt8], _ b: UnsafeRawBufferPointer) -> Bool {
        a.count == b.count && a.withUnsafeBytes { a in a.isEmpty || memcmp(a.baseAddress!, b.baseAddress!, a.count) == 0 }
    }

    /// `FEATURES.GET`: the arguments that start with `{` are requests; the words of options are read in any case and order.
    ///
    /// One request is answered by a map of feature to value, several by an array of maps. With `META` the map is instead
    /// `{"features": {feature: value}, "meta": {feature: {"event_time": RFC 3339 or null, "freshness_ms": integer or null,
    /// "status": text, "fingerprint": text or null}}, "as_of": RFC 3339, "session_events_ignored": integer, "applied": {shard: integer},
    /// "positions": {source: integer}}`.
    private static let featuresGet: Run = { call, writer throws(CommandError) in
        let request = try parseFeaturesGet(call)
        let rows = try call.backend.features(request, executor: call.client.loop.executor)
        guard rows.count == request.requests.count else {
            throw CommandError("internal error: \(rows.count) answers to \(request.requests.count) requests")
        }
        if request.requests.count > 1 { writer.array(count: rows.count) }
        for row in rows {
            guard request.meta else {
                writer.writeMap(row.names, row.results)
                continue
            }
            guard let meta = row.meta else { throw CommandError("internal error: the answer has no META") }
            writer.write(row, meta)
        }
        return .replied
    }

    private static func parseFeaturesGet(_ call: CommandCall) throws(CommandError) -> FeaturesGet {
        let arguments = call.arguments
        var request = FeaturesGet(service: try call.name(1, "service's name"), requests: [])
        var index = 2
        while index < arguments.count {
            if arguments[index].first == UInt8(ascii: "{") {
                request.requests.append(arguments.array(index))
                index += 1
            } else if try takeOption(call, &index, at: &request.at, session: &request.session, sessionID: &request.sessionID) {
                continue
            } else if arguments.isWord(index, "meta") {
                request.meta = true
                index += 1
            } else {
                throw CommandError(
                    "syntax error at '\(arguments.shown(index, limit: 40))': a request is a JSON object that starts with '{'; the "
                        + "options are AT time, SESSION stream json-array, SESSIONID id, META")
            }
        }
        guard !request.requests.isEmpty else {
            throw CommandError(
                "no request: write FEATURES.GET \(arguments.shown(1, limit: 40)) '{...}' with the fields that the service asks for")
        }
        return request
    }

    /// Takes one of the options that say when and with which session; false where none of them stands at the index.
    private static func takeOption(
        _ call: CommandCall, _ index: inout Int, at: inout EventTime?, session: inout [SessionEvent], sessionID: inout String?
    ) throws(CommandError) -> Bool {
        let arguments = call.arguments
        func operand(_ offset: Int, _ usage: String) throws(CommandError) -> Int {
            guard index + offset < arguments.count else { throw CommandError("syntax error: write \(usage)") }
            return index + offset
        }
        if arguments.isWord(index, "at") {
            let text = try call.name(try operand(1, "AT time"), "time of AT")
            guard at == nil else { throw CommandError("syntax error: AT is given twice") }
            do throws(RecordError) {
                at = try TimeText.parse(text)
            } catch {
                throw CommandError("AT: \(error.reason); or give integer milliseconds since 1970")
            }
            index += 2
        } else if arguments.isWord(index, "session") {
            let stream = try call.name(try operand(1, "SESSION stream json-array"), "stream's name")
            let json = arguments.array(try operand(2, "SESSION stream json-array"))
            session.append(SessionEvent(stream: stream, json: json))
            index += 3
        } else if arguments.isWord(index, "sessionid") {
            let id = try call.name(try operand(1, "SESSIONID id"), "session's id")
            guard sessionID == nil else { throw CommandError("syntax error: SESSIONID is given twice") }
            sessionID = id
            index += 2
        } else {
            return false
        }
        return true
    }

    /// `FEATURES.EXPLAIN`: a service and its request, or `view:key` and features; the words of options are read in any case and order.
    private static func parseFeaturesExplain(_ call: CommandCall) throws(CommandError) -> FeaturesExplain {
        let arguments = call.arguments
        let name = try call.name(1, "service's or view's name")
        let isEntity = arguments[1].contains(UInt8(ascii: ":"))
        var requests: [[UInt8]] = []
        var features: [String] = []
        var request = FeaturesExplain(.service(name, request: []))
        var index = 2
        while index < arguments.count {
            if try takeOption(call, &index, at: &request.at, session: &request.session, sessionID: &request.sessionID) { continue }
            if arguments.isWord(index, "json") {
                request.isJSON = true
            } else if isEntity {
                features.append(try call.name(index, "feature's name"))
            } else if arguments[index].first == UInt8(ascii: "{"), requests.isEmpty {
                requests.append(arguments.array(index))
            } else {
                throw CommandError(
                    "syntax error at '\(arguments.shown(index, limit: 40))': write FEATURES.EXPLAIN service '{...}' or FEATURES.EXPLAIN "
                        + "view:key [feature ...]; the options are AT time, SESSION stream json-array, SESSIONID id, JSON")
            }
            index += 1
        }
        if isEntity {
            let (view, key) = try entity(call, 1)
            guard let view = String(validating: view, as: UTF8.self), let key = String(validating: key, as: UTF8.self) else {
                throw CommandError("the key is not valid UTF-8")
            }
            request.subject = .entity(view: view, key: key, features: features)
        } else {
            guard let json = requests.first else {
                throw CommandError(
                    "no request: write FEATURES.EXPLAIN \(arguments.shown(1, limit: 40)) '{...}' with the fields that the service asks for")
            }
            request.subject = .service(name, request: json)
        }
        return request
    }
}

extension CatalogEntry {
    /// A map of `kind`, `name`, for views `entity` and `stream`, and `features` (for streams `fields`).
    var reply: ReplyValue {
        var entries = [ReplyValue.Entry("kind", .string(kind.rawValue)), ReplyValue.Entry("name", .string(name))]
        if let entity { entries.append(ReplyValue.Entry("entity", .string(entity))) }
        if let stream { entries.append(ReplyValue.Entry("stream", .string(stream))) }
        entries.append(ReplyValue.Entry(kind == .stream ? "fields" : "features", .array(members.map { .string($0) })))
        return .map(entries)
    }
}

extension RESPWriter {
    /// A map of feature to value.
    mutating func writeMap(_ names: [String], _ results: borrowing [FeatureResult]) {
        map(count: names.count)
        for index in names.indices {
            bulk(names[index])
            write(featureValue: results[index].value)
        }
    }

    /// - Parameter results: at least one.
    mutating func writeArray(_ results: borrowing [FeatureResult]) {
        array(count: results.count)
        if writeScalars(results) { return }
        for index in 0..<results.count { write(featureValue: results[index].value) }
    }

    /// A row with its META, in the shape that `FEATURES.GET` documents.
    mutating func write(_ row: FeatureRow, _ meta: RowMeta) {
        map(count: 6)
        bulk("features")
        writeMap(row.names, row.results)
        bulk("meta")
        map(count: row.names.count)
        for (index, name) in row.names.enumerated() {
            bulk(name)
            map(count: 4)
            bulk("event_time")
            if let time = meta.eventTimes.element(index) { bulk(TimeText.format(time)) } else { null() }
            bulk("freshness_ms")
            if let freshness = meta.freshnessMicroseconds.element(index) {
                write(featureValue: .int(freshness / 1_000))
            } else {
                null()
            }
            bulk("status")
            bulk(row.results[index].status.rawValue)
            bulk("fingerprint")
            if let fingerprint = meta.fingerprints.element(index) { bulk(fingerprint) } else { null() }
        }
        bulk("as_of")
        bulk(TimeText.format(meta.asOf))
        bulk("session_events_ignored")
        write(featureValue: .int(Int64(meta.sessionEventsIgnored)))
        bulk("applied")
        write(meta.applied)
        bulk("positions")
        write(meta.positions)
    }

    /// A map of source to position.
    private mutating func write(_ positions: [SourcePosition]) {
        map(count: positions.count)
        for position in positions {
            bulk(position.source)
            write(featureValue: .int(position.position))
        }
    }
}

extension Array {
    fileprivate func element<Wrapped>(_ index: Int) -> Wrapped? where Element == Wrapped? {
        index < count ? self[index] : nil
    }
}
