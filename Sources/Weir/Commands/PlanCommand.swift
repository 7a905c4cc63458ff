import ArgumentParser
import Foundation
import WeirAlgebra
import WeirDefinitions
import WeirHistory
import WeirOnlineStore
import WeirPipeline
import WeirRecords

struct PlanCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan", abstract: "What differs between the definitions in the code and those that the stores were built with.",
        discussion: """
            Says which streams, views and features are new, changed or gone, and what that takes: nothing, `weir rebuild`, or that events are
            ingested again. Changes nothing. Closures (filters, derived and on-demand features) cannot be compared.
            """)

    @OptionGroup var data: DataOption
    @Flag(help: "As one JSON object.") var json: Bool = false

    func run() throws {
        try data.directory.checkExists()
        let reading = try data.directory.lockForReading()
        defer { withExtendedLifetime(reading) {} }
        let changes = try StoreChanges(data.directory, try App.plan())
        print(json ? changes.json : changes.text)
    }
}

/// What differs between the definitions in the code and a store, and what that takes.
struct StoreChanges {
    let definitions: DefinitionChanges
    /// Features that make other values of the same events by the same definition.
    let closures: [String]
    /// What a new online store is made from.
    let events: Int
    /// What the one in use takes; the new one stands beside it for a while.
    let storeBytes: Int64

    /// The caller has the readers' lock.
    init(_ directory: DataDirectory, _ catalog: CatalogPlan) throws {
        let history = try HistoryReader(directory: directory.path, catalog: catalog)
        let (stored, services) = try history.definitions()
        definitions = DefinitionChanges(
            online: try OnlineStore.storedDefinition(in: directory.online) ?? "", history: stored, services: services, catalog: catalog)
        storeBytes = directory.onlineBytes
        closures = try changedClosures(in: directory.online, catalog, history)
        events = try catalog.streams.filter { stored[$0.name] != nil }.reduce(0) { try $0 + history.eventCount(stream: $1.name) }
    }

    private var building: String {
        "`weir apply` makes the online store anew from the history's \(events) events, beside the one in use (\(Double(storeBytes / 100_000) / 10) MB on disk), and switches to it"
    }

    var text: String {
        let changes = definitions
        var lines: [String] = []
        func add(_ what: String, _ list: [DefinitionChanges.Change]) {
            for change in list {
                let sign =
                    switch change.kind {
                    case .added: "+"
                    case .changed: "~"
                    case .removed: "-"
                    }
                lines.append("\(sign) \(what) \(change.name)")
                if what == "stream" || what == "service", let stored = change.stored, let code = change.code {
                    lines.append(definitionDifference(stored: stored, code: code))
                } else {
                    if let stored = change.stored { lines.append("    stored: \(stored.split(separator: "\n")[0])") }
                    if let code = change.code { lines.append("    code:   \(code.split(separator: "\n")[0])") }
                }
            }
        }
        add("stream", changes.streams)
        add("view", changes.views)
        add("feature", changes.features)
        add("service", changes.services)
        for name in closures {
            lines.append(
                "~ closure of \(name): other values come of the same events by the same definition; raise the view's `revision`, or `weir apply --accept-changes`"
            )
        }
        switch changes.consequence {
        case .none where !closures.isEmpty:
            lines.append("to do: \(building)")
        case .none:
            lines.append(
                lines.isEmpty
                    ? "nothing differs"
                    : "nothing is to be built: new streams begin empty, what is gone stays in the history; `weir apply` makes a running `weir run` this executable"
            )
        case .fieldsAreAdded: lines.append("nothing is to be built: the history takes the new fields when `weir run` starts")
        case .rebuild:
            lines.append(
                "to do: \(building); the history stays as it is"
            )
        case .rekey:
            lines.append(
                "to do: \(building). The history's rows then get their keys in its views: lookups wait for as long as that takes"
            )
        case .ingestAgain:
            lines.append(
                "to do: the history cannot take this. Keep the old fields and make new fields optional, or ingest the events again into another --data directory"
            )
        }
        return lines.joined(separator: "\n")
    }

    var json: String {
        let changes = definitions
        func list(_ changes: [DefinitionChanges.Change]) -> FeatureValue {
            .list(
                changes.map { change in
                    .map([
                        .init(key: "change", value: .string(change.kind.rawValue)), .init(key: "name", value: .string(change.name)),
                        .init(key: "stored", value: change.stored.map { .string($0) } ?? .null),
                        .init(key: "code", value: change.code.map { .string($0) } ?? .null),
                    ])
                })
        }
        return FeatureValue.map([
            .init(key: "streams", value: list(changes.streams)), .init(key: "views", value: list(changes.views)),
            .init(key: "features", value: list(changes.features)),
            .init(key: "services", value: list(changes.services)), .init(key: "consequence", value: .string(changes.consequence.rawValue)),
            .init(key: "closures", value: .list(closures.map { .string($0) })),
            .init(key: "events", value: .int(Int64(events))), .init(key: "store_bytes", value: .int(storeBytes)),
        ]).json
    }
}
