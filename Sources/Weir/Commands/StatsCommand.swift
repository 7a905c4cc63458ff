import ArgumentParser
import WeirAlgebra
import WeirDefinitions
import WeirHistory
import WeirOnlineStore
import WeirRecords
import WeirTraining

struct StatsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stats",
        abstract: "What the stores hold: entities, sizes, watermarks, sources, dead letters. Reads the whole online store.",
        discussion: """
            With a service: how its features were distributed in the latest requests that `weir run --log-requests RATE` logged; with --against
            beside those of a training set, with the population stability index (psi) of each.

              weir stats checkout_offer --against training.csv.manifest.json
            """)

    @OptionGroup var data: DataOption
    @Argument(help: "A service, for the values that were served; by default what the stores hold.") var service: String?
    @Option(help: ArgumentHelp("The manifest of an export of the service.", valueName: "manifest")) var against: String?
    @Option(help: ArgumentHelp("Of the latest requests, so many.", valueName: "count")) var limit: Int = Limits.driftRequests
    @Flag(help: "As one JSON object.") var json: Bool = false

    func validate() throws {
        if against != nil, service == nil { throw ValidationError("--against is of a service: weir stats SERVICE --against MANIFEST") }
        if limit < 1 { throw ValidationError("--limit must be at least 1") }
    }

    func run() throws {
        try data.directory.checkExists()
        let reading = try data.directory.lockForReading()
        defer { withExtendedLifetime(reading) {} }
        if let service { return try printServed(service) }
        try printStores()
    }

    private func printServed(_ name: String) throws {
        let lookups = try openLookups(data, clock: .wall)
        let service = try lookups.service(name)
        let reference = try against.map { try ReferenceStatistics(manifest: $0) }
        if let reference, reference.service != name {
            throw CommandFailure("the manifest \(against ?? "") is of the service '\(reference.service)', not of '\(name)'")
        }
        guard let log = try RequestLogReader(directory: data.directory.path, store: try lookups.history.storeID()) else {
            throw CommandFailure("no request was logged in \(data.directory.path); `weir run --log-requests RATE` logs them")
        }
        let served = try ServedStatistics(service, log: log, limit: limit)
        let report = DriftReport(service: name, served: served, reference: reference?.features)
        print(json ? report.json : report.text)
    }

    private func printStores() throws {
        let catalog = try App.plan()
        let store = try OnlineStore(directory: data.directory.online, catalog: catalog, shards: nil, mode: .read)
        let history = try HistoryReader(directory: data.directory.path, catalog: catalog)
        let watermarks = try history.watermarks()
        let states = try store.states()
        let letters = try history.deadLetterCounts()
        let counters = try history.counters()

        var streams: [[(String, FeatureValue)]] = []
        for stream in catalog.streams {
            var row: [(String, FeatureValue)] = [
                ("stream", .string(stream.name)), ("events", .int(Int64(try history.eventCount(stream: stream.name)))),
                ("watermark", watermarks[stream.name].map { .string(TimeText.format(EventTime(microseconds: $0))) } ?? .null),
            ]
            if stream.timeToLive != nil {
                let keptFrom = try history.keptFrom(stream: stream.name)
                row.append(("kept_from", keptFrom == .min ? .null : .string(TimeText.format(EventTime(microseconds: keptFrom)))))
            }
            for letter in letters where letter.stream == stream.name { row.append((letter.kind, .int(Int64(letter.count)))) }
            for counter in counters where counter.stream == stream.name { row.append((counter.name, .int(counter.value))) }
            streams.append(row)
        }
        var views: [[(String, FeatureValue)]] = []
        for (number, (view, share)) in zip(catalog.views, try store.statistics()).enumerated() {
            let keptFrom = states.map(\.keptFrom[number]).min() ?? .min
            var row: [(String, FeatureValue)] = [
                ("view", .string(view.name)), ("entities", .int(Int64(share.entities))), ("nodes", .int(Int64(share.nodes))),
                ("bytes", .int(Int64(share.bytes))),
                ("bytes_per_entity", share.entities == 0 ? .null : .int(Int64(share.bytes / share.entities))),
                ("oldest_chunk", share.oldestChunk.map { .string(TimeText.format(EventTime(microseconds: $0))) } ?? .null),
                ("kept_from", keptFrom == .min ? .null : .string(TimeText.format(EventTime(microseconds: keptFrom)))),
            ]
            if view.closedWindows != nil {
                let windows = try history.windowCounts(of: view.name)
                row.append(("open_windows", .int(Int64(windows.open))))
                row.append(("closed_windows", .int(Int64(windows.closed))))
            }
            views.append(row)
        }
        let sources: [[(String, FeatureValue)]] = try history.positions().map {
            [("source", .string($0.source)), ("position", .int($0.position))]
        }
        let whole: [(String, FeatureValue)] = [
            ("shards", .int(Int64(store.shardCount))), ("store_bytes", .int(Int64(store.usedBytes))),
            ("history_sequence", .int(try history.latestSequence())),
            ("applied_sequence", .int(states.map(\.appliedSequence).min() ?? 0)),
            ("outputs_waiting", .int(Int64(try history.outputCount()))),
        ]
        print(
            json ? Self.json(whole, ["streams": streams, "views": views, "sources": sources]) : Self.text(whole, streams + views + sources))
    }

    private static func object(_ row: [(String, FeatureValue)]) -> String {
        "{" + row.map { JSONText.string($0) + ": " + $1.json }.joined(separator: ", ") + "}"
    }

    private static func json(_ whole: [(String, FeatureValue)], _ lists: KeyValuePairs<String, [[(String, FeatureValue)]]>) -> String {
        var parts = whole.map { JSONText.string($0) + ": " + $1.json }
        for (name, rows) in lists { parts.append("\"\(name)\": [" + rows.map(object).joined(separator: ", ") + "]") }
        return "{" + parts.joined(separator: ", ") + "}"
    }

    /// One line an object: its name, then what is known of it.
    private static func text(_ whole: [(String, FeatureValue)], _ rows: [[(String, FeatureValue)]]) -> String {
        func line(_ row: [(String, FeatureValue)]) -> String { row.map { "\($0) \($1.text ?? "-")" }.joined(separator: "  ") }
        return ([line(whole)] + rows.map(line)).joined(separator: "\n")
    }
}
