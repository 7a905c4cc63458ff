import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirLookup
import WeirRecords
import WeirServer

/// How an answer came about, as lines for people and as JSON.
struct ExplanationReply {
    private let asOf: EventTime
    /// nil for an entity of a view.
    private let service: ServiceExplanation?
    private let entities: [EntityExplanation]
    private let sessionEvents: Int
    private let sessionEventsLater: Int
    private let positions: [(source: String, position: Int64)]
    /// By stream.
    private let watermarks: [String: Int64]

    init(_ explanation: ServiceExplanation, asOf: EventTime, session: SessionEvents, _ lookups: LookupService) throws {
        try self.init(explanation, explanation.entities, asOf, session, lookups)
    }

    init(_ explanation: EntityExplanation, asOf: EventTime, session: SessionEvents, _ lookups: LookupService) throws {
        try self.init(nil, [explanation], asOf, session, lookups)
    }

    init(_ explanations: RequestVerifier.Explanations, _ side: RequestVerifier.Explanations.Answered, _ lookups: LookupService) throws {
        switch side {
        case .service(let explanation): try self.init(explanation, asOf: explanations.asOf, session: explanations.session, lookups)
        case .view(let explanation): try self.init(explanation, asOf: explanations.asOf, session: explanations.session, lookups)
        }
    }

    private init(
        _ service: ServiceExplanation?, _ entities: [EntityExplanation], _ asOf: EventTime, _ session: SessionEvents,
        _ lookups: LookupService
    ) throws {
        self.service = service
        self.entities = entities
        self.asOf = asOf
        sessionEvents = session.batches.reduce(0) { $0 + $1.count }
        sessionEventsLater = session.countAfter(asOf)
        positions = try lookups.positions(of: entities.compactMap(\.place?.shard))
        watermarks = try lookups.history.watermarks()
    }

    // MARK: Lines

    var lines: [String] {
        var lines = ["\(service?.service.name ?? entities[0].view.name) at \(time(asOf.microseconds))"]
        if sessionEvents > 0 {
            let later = sessionEventsLater > 0 ? ", \(sessionEventsLater) of them ignored: after the time asked for" : ""
            lines.append("session: \(events(sessionEvents))\(later)")
        }
        if !positions.isEmpty {
            lines.append("sources applied: " + positions.map { "\($0.source) up to \($0.position)" }.joined(separator: ", "))
        }
        for entity in entities { appendLines(of: entity, to: &lines) }
        if let service {
            for (number, output) in service.service.outputs.enumerated() {
                guard let inputs = service.inputs[number] else { continue }
                let shown = zip(output.inputNames, inputs).map { "\($0) = \($1.json)" }.joined(separator: ", ")
                lines.append("\(output.name) = \(shownResult(service.results[number])): on demand from \(shown)")
            }
        }
        return lines
    }

    private func appendLines(of entity: EntityExplanation, to lines: inout [String]) {
        let view = entity.view
        let explanation = entity.explanation
        guard let key = entity.key, let place = entity.place else {
            lines.append("\(view.name): the request names no \(view.entity), the values are those of no events")
            return appendResults(entity, explanation.features, to: &lines, indent: "  ")
        }
        lines.append(
            "\(view.name), \(view.entity) \(JSONText.string(key)): from \(place.historyReason == nil ? "the online store" : "history"), "
                + "shard \(place.shard.number) with events up to number \(place.shard.sequence)")
        if let reason = place.historyReason { lines.append("  history answers: \(text(reason, entity))") }
        var freshness =
            explanation.latestEvent.map { latest in
                "latest event \(time(latest.microseconds)), \(about(Double(asOf.microseconds &- latest.microseconds))) before"
            } ?? (explanation.isKnown ? "no event before that time" : "no events: the \(view.entity) is unknown")
        if let watermark = watermarks[view.stream] { freshness += "; watermark of \(view.stream) \(time(watermark))" }
        lines.append("  " + freshness)
        let session = explanation.session
        if session.given > 0 {
            let left = [
                (session.known, "in the store already"), (session.later, "after the time asked for"),
                (session.expired, "older than the time to live"), (session.repeated, "repeated"),
            ]
            let out = left.filter { $0.0 > 0 }.map { ", \($0.0) \($0.1)" }.joined()
            lines.append("  session: \(events(session.given)) of this \(view.entity), \(session.counted) counted\(out)")
        }
        for part in explanation.windows {
            let window = view.windows[part.window]
            let bounds = "[\(part.start == .min ? "the beginning" : time(part.start)), \(time(part.end)))"
            lines.append("  \(shownWindow(window))" + (part.start > part.end ? ": none is open" : " \(bounds): \(merged(part))"))
            let own = explanation.features.filter { feature in
                if case .aggregate(_, part.window, _) = view.features[feature.number].computation { true } else { false }
            }
            appendResults(entity, own, part, to: &lines, indent: "    ")
        }
        let derived = explanation.features.filter { feature in
            if case .derived = view.features[feature.number].computation { true } else { false }
        }
        appendResults(entity, derived, to: &lines, indent: "  ")
    }

    private func appendResults(
        _ entity: EntityExplanation, _ features: [Explanation.Feature], _ part: Explanation.WindowPart? = nil, to lines: inout [String],
        indent: String
    ) {
        let view = entity.view
        for feature in features {
            let plan = view.features[feature.number]
            var line = "\(indent)\(plan.name) = \(shownResult(feature.result)): "
            switch plan.computation {
            case .derived(let inputs, _):
                line += "derived from "
                line += inputs.map { input in
                    let value = entity.explanation.features.first { $0.number == input }?.result.value ?? .null
                    return "\(view.features[input].name) = \(value.json)"
                }.joined(separator: ", ")
            case .aggregate(let slot, let window, _):
                line += plan.signature.replacing(" over \(view.windows[window].signature)", with: "")
                // Where all events count there is nothing to say.
                let slot = view.slots[slot]
                if let part, let used = feature.usedEvents, slot.filter != nil || slot.column != nil, used < part.singleEvents {
                    line += ", of \(used) of the \(part.singleEvents) single events"
                }
            }
            lines.append(line)
        }
    }

    private func shownResult(_ result: FeatureResult) -> String {
        result.value.json + (result.status == .present ? "" : " (\(result.status.rawValue))")
    }

    /// Of what a window is made.
    private func merged(_ part: Explanation.WindowPart) -> String {
        var parts: [String] = []
        if let totals = part.totals { parts.append("\(totals.events) in the totals up to \(time(totals.end))") }
        for level in Set(part.tiles.compactMap(\.level)).sorted(by: >) {
            let tiles = part.tiles.filter { $0.level == level }
            let count = tiles.reduce(UInt64(0)) { $0 &+ $1.events }
            parts.append("\(count) in \(tiles.count) \(tiles.count == 1 ? "tile" : "tiles") of \(span(level))")
        }
        if !part.leaves.isEmpty {
            let count = part.leaves.reduce(0) { $0 + $1.events }
            let all = part.leaves.reduce(0) { $0 + $1.of }
            parts.append("\(count) of \(all) in \(part.leaves.count) \(part.leaves.count == 1 ? "leaf" : "leaves")")
        }
        if part.headEvents > 0 { parts.append("\(part.headEvents) in the head record") }
        if part.historyEvents > 0 { parts.append("\(part.historyEvents) from history") }
        if part.sessionEvents > 0 { parts.append("\(part.sessionEvents) of the session") }
        let all = part.storedEvents &+ UInt64(part.sessionEvents)
        return parts.isEmpty ? "no events" : "\(all) \(all == 1 ? "event" : "events"): " + parts.joined(separator: " + ")
    }

    private func text(_ reason: HistoryReason, _ entity: EntityExplanation) -> String {
        func window(_ number: Int) -> String { shownWindow(entity.view.windows[number]) }
        let kept = time(entity.place?.keptFrom ?? .min)
        return switch reason {
        case .window(let number, let start):
            "the window \(window(number)) begins at \(time(start)), the online store keeps events from \(kept) on"
        case .session(let number):
            "the session of \(window(number)) may have begun before \(kept), from where on the online store keeps events"
        case .totals(_, let before): "of what came before \(time(before)) the online store keeps totals alone"
        case .unknownEntity(let liveFrom): "an event from \(time(liveFrom)) on would count, the online store keeps events from \(kept) on"
        case .recomputed: "it is asked to recompute what was served"
        case .sessionEvent(let before):
            "an event of the session is from before \(time(before)), where the online store cannot tell copies any more"
        }
    }

    private func events(_ count: Int) -> String { count == 1 ? "1 event" : "\(count) events" }
    private func time(_ microseconds: Int64) -> String { TimeText.format(EventTime(microseconds: microseconds)) }

    private func shownWindow(_ window: Window) -> String {
        let length = duration(window.length ?? 0)
        let shift = (window.offset ?? 0) == 0 ? "" : " from \(duration(window.offset ?? 0))"
        return switch window.kind {
        case .sliding: "sliding \(length)"
        case .hopping(let every): "hopping \(length) every \(duration(every))\(shift)"
        case .tumbling(let closed): "tumbling \(length)\(shift)" + (closed ? ", the last closed" : "")
        case .session: "session gap \(length)"
        case .lifetime: "lifetime"
        case .following: "following \(length)"
        }
    }

    private func span(_ level: Int) -> String {
        "16^\(level) us (\(about((0..<level).reduce(1) { span, _ in span * 16 })))"
    }

    /// A time's length in microseconds, rounded.
    private func about(_ microseconds: Double) -> String {
        let units: [(Double, String)] = [(86_400e6, "d"), (3_600e6, "h"), (60e6, "min"), (1e6, "s"), (1e3, "ms")]
        let (unit, name) = units.first { microseconds >= $0.0 } ?? (1, "us")
        return "\((microseconds / unit * 10).rounded() / 10) \(name)"
    }

    /// In the largest unit that it is whole in.
    private func duration(_ microseconds: Int64) -> String {
        let units: [(Int64, String)] = [
            (86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "min"), (1_000_000, "s"), (1_000, "ms"),
        ]
        for (unit, name) in units where microseconds != 0 && microseconds % unit == 0 { return "\(microseconds / unit) \(name)" }
        return "\(microseconds) us"
    }

    // MARK: JSON

    var json: [UInt8] {
        var bytes: [UInt8] = []
        tree.appendJSON(to: &bytes)
        return bytes
    }

    var tree: ReplyValue {
        var entries: [ReplyValue.Entry] = []
        if let service { entries.append(.init("service", .string(service.service.name))) }
        entries.append(.init("as_of", .string(time(asOf.microseconds))))
        entries.append(
            .init("session", .map(["events": .int(Int64(sessionEvents)), "ignored": .int(Int64(sessionEventsLater))])))
        entries.append(.init("positions", .map(positions.map { .init($0.source, .int($0.position)) })))
        entries.append(.init("views", .array(entities.map(tree))))
        if let service {
            entries.append(
                .init(
                    "on_demand",
                    .array(
                        service.service.outputs.indices.compactMap { number in
                            let output = service.service.outputs[number]
                            guard let inputs = service.inputs[number] else { return nil }
                            return .map(
                                result(output.name, service.results[number]) + [
                                    .init("inputs", .map(zip(output.inputNames, inputs).map { .init($0, .feature($1)) }))
                                ])
                        }))
            )
        }
        return .map(entries)
    }

    private func result(_ name: String, _ result: FeatureResult) -> [ReplyValue.Entry] {
        [.init("name", .string(name)), .init("value", .feature(result.value)), .init("status", .string(result.status.rawValue))]
    }

    /// null for none, and for the beginning and the end of all time.
    private func nullable(_ microseconds: Int64?) -> ReplyValue {
        guard let microseconds, microseconds > .min, microseconds < .max else { return .null }
        return .string(time(microseconds))
    }

    private func tree(_ entity: EntityExplanation) -> ReplyValue {
        let view = entity.view
        let explanation = entity.explanation
        let latest = explanation.latestEvent?.microseconds
        var entries: [ReplyValue.Entry] = [
            .init("view", .string(view.name)), .init("fingerprint", .string(view.fingerprint)), .init("entity", .string(view.entity)),
            .init("key", entity.key.map { .string($0) } ?? .null), .init("known", .bool(explanation.isKnown)),
        ]
        if let place = entity.place {
            entries += [
                .init("answered_by", .string(place.historyReason == nil ? "online store" : "history")),
                .init("reason", place.historyReason.map { .string(text($0, entity)) } ?? .null),
                .init("shard", .int(Int64(place.shard.number))), .init("applied", .int(place.shard.sequence)),
                .init("kept_from", nullable(place.keptFrom)),
            ]
        }
        entries += [
            .init("event_time", nullable(latest)), .init("freshness_us", latest.map { .int(asOf.microseconds &- $0) } ?? .null),
            .init("watermark", nullable(watermarks[view.stream])),
            .init(
                "session",
                .map([
                    "events": .int(Int64(explanation.session.given)), "counted": .int(Int64(explanation.session.counted)),
                    "known": .int(Int64(explanation.session.known)), "ignored": .int(Int64(explanation.session.later)),
                    "expired": .int(Int64(explanation.session.expired)),
                    "repeated": .int(Int64(explanation.session.repeated)),
                ])), .init("windows", .array(explanation.windows.map { tree($0, view) })),
            .init("features", .array(explanation.features.map { tree($0, entity) })),
        ]
        return .map(entries)
    }

    private func tree(_ part: Explanation.WindowPart, _ view: ViewPlan) -> ReplyValue {
        func span(_ start: Int64, _ end: Int64) -> [ReplyValue.Entry] {
            [.init("start", nullable(start)), .init("end", nullable(end))]
        }
        func tile(_ tile: Explanation.Tile) -> ReplyValue {
            .map(
                (tile.level.map { [.init("level", .int(Int64($0)))] } ?? []) + span(tile.start, tile.end) + [
                    .init("events", .int(Int64(clamping: tile.events)))
                ])
        }
        return .map(
            [.init("window", .string(view.windows[part.window].signature))] + span(part.start, part.end) + [
                .init("events", .int(Int64(clamping: part.storedEvents &+ UInt64(part.sessionEvents)))),
                .init("totals", part.totals.map(tile) ?? .null), .init("tiles", .array(part.tiles.map(tile))),
                .init(
                    "leaves",
                    .array(
                        part.leaves.map { leaf in
                            .map(
                                span(leaf.start, leaf.end) + [.init("events", .int(Int64(leaf.events))), .init("of", .int(Int64(leaf.of)))])
                        })), .init("head_events", .int(Int64(part.headEvents))), .init("history_events", .int(Int64(part.historyEvents))),
                .init("session_events", .int(Int64(part.sessionEvents))),
            ])
    }

    private func tree(_ feature: Explanation.Feature, _ entity: EntityExplanation) -> ReplyValue {
        let plan = entity.view.features[feature.number]
        var entries = result(plan.name, feature.result)
        entries.append(.init("definition", .string(plan.signature)))
        switch plan.computation {
        case .aggregate(_, let window, _):
            entries.append(.init("window", .string(entity.view.windows[window].signature)))
            if let used = feature.usedEvents { entries.append(.init("single_events_used", .int(Int64(used)))) }
        case .derived(let inputs, _):
            entries.append(
                .init(
                    "inputs",
                    .map(
                        inputs.map { input in
                            let value = entity.explanation.features.first { $0.number == input }?.result.value ?? .null
                            return .init(entity.view.features[input].name, .feature(value))
                        })))
        }
        return .map(entries)
    }
}

extension Explanation.WindowPart {
    /// Those that are looked at one by one.
    fileprivate var singleEvents: Int { headEvents + historyEvents + sessionEvents + leaves.reduce(0) { $0 + $1.events } }
}
