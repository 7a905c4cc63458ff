import ExampleFeatures
import Foundation
import Synchronization
import Weir
import WeirAlgebra
import WeirDefinitions
import WeirHistory
import WeirLookup
import WeirPipeline
import WeirServer

/// A bug that a fuzzer must find, or it proves nothing.
package enum PlantedBug: String, CaseIterable, Sendable {
    /// Text from a client stands in a reply as it came.
    case injection
    /// A command that is never answered.
    case lostReply
    /// A decoder that loses a byte where a fragment ends.
    case lostByte
    /// Memory that grows with each request.
    case leak
}

/// The example's store in a temporary directory, filled from the example's data.
package final class FuzzStore: Sendable {
    let events: [[UInt8]]
    let features: [String]
    private let directory: String
    private let writer: StoreWriter

    package init() throws {
        directory = FileManager.default.temporaryDirectory.appendingPathComponent("weir-fuzz-\(UUID().uuidString)").path
        let catalog = try CatalogPlan(FuzzStore.catalog())
        let data = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("../../features/data/purchases.csv")
        let lines = try String(contentsOf: data, encoding: .utf8).split(separator: "\n").prefix(2_000)
        let names = lines[0].split(separator: ",")
        let texts: Set<Substring> = ["id", "department", "category", "event_time"]
        events = lines.dropFirst().prefix(50).map { line in
            let cells = line.split(separator: ",", omittingEmptySubsequences: false)
            let fields = zip(names, cells).map { name, cell in texts.contains(name) ? #""\#(name)":"\#(cell)""# : #""\#(name)":\#(cell)"# }
            return Array(("{" + fields.joined(separator: ",") + "}").utf8)
        }
        features = catalog.views.flatMap { $0.features.map(\.name) }
        writer = try StoreWriter(directory: DataDirectory(directory), catalog: catalog, shards: 2, isSynced: false)
        writer.pipeline.start()
        let file = directory + "/first.csv"
        try lines.joined(separator: "\n").write(toFile: file, atomically: true, encoding: .utf8)
        let ingest = FileIngest(stream: catalog.streams[0], path: file, format: .csv)
        try ingest.read(try ingest.plan(writer.history), submit: { [writer] in try writer.pipeline.submit($0) }) { _ in }
        try writer.pipeline.stop()
    }

    /// Lookups with sessions of their own.
    func makeLookups() throws -> LookupService {
        try LookupService(
            catalog: writer.catalog, store: writer.store, history: writer.reader, sessions: SessionStore(timeToLive: .seconds(60)),
            clock: .event)
    }

    deinit { try? FileManager.default.removeItem(atPath: directory) }

    @CatalogBuilder static func catalog() -> Catalog {
        HouseholdSpend.self
        BasketActivity.self
        StoreTraffic.self
        StoreHours.self
        CheckoutOffer.self
    }
}

/// The server's own backend; pushes are decoded and checked as there, and acknowledged without a disk.
final class FuzzBackend: FeatureBackend {
    private let backend: ServerBackend
    private let lookups: LookupService
    private let bug: PlantedBug?
    private let kept = Mutex<[[UInt8]]>([])

    init(_ lookups: LookupService, executors: Int, bug: PlantedBug?) {
        self.lookups = lookups
        backend = ServerBackend(lookups: lookups, pushLog: nil, executors: executors)
        self.bug = bug
    }

    func features(_ request: FeaturesGet, executor: Int) throws(CommandError) -> [FeatureRow] {
        if bug == .leak { kept.withLock { $0.append([UInt8](repeating: 1, count: 32_768)) } }
        return try backend.features(request, executor: executor)
    }

    func explain(_ request: FeaturesExplain, executor: Int) throws(CommandError) -> ReplyValue {
        try backend.explain(request, executor: executor)
    }

    func selection(view: String, features: [String]?) throws(CommandError) -> ViewSelection {
        try backend.selection(view: view, features: features)
    }

    func viewFeatures(
        _ selection: ViewSelection, key: UnsafeRawBufferPointer, executor: Int, _ body: (borrowing [FeatureResult], Bool) -> Void
    ) throws(CommandError) {
        try backend.viewFeatures(selection, key: key, executor: executor, body)
    }

    func endBatch(executor: Int) { backend.endBatch(executor: executor) }

    func listFeatures() throws(CommandError) -> [CatalogEntry] { backend.listFeatures() }

    func describe(_ name: String) throws(CommandError) -> ReplyValue {
        if bug == .injection { return .simple("nothing is named \(name)") }
        return try backend.describe(name)
    }

    func addEvents(stream: String, events: [[UInt8]], completion: @escaping @Sendable (Result<Int, CommandError>) -> Void) {
        if bug == .lostReply, events.count == 3 { return }
        do {
            _ = try lookups.decodeEvents(stream, events)
            completion(.success(events.count))
        } catch {
            completion(.failure(CommandError("\(error)")))
        }
    }

    func sessionAdd(_ id: String, stream: String, events: [[UInt8]]) throws(CommandError) -> Int {
        try backend.sessionAdd(id, stream: stream, events: events)
    }

    func sessionGet(_ id: String) throws(CommandError) -> [SessionEvent] { backend.sessionGet(id) }

    func sessionDrop(_ id: String) throws(CommandError) -> Bool { backend.sessionDrop(id) }

    func info(executor: Int) -> [InfoSection] { backend.info(executor: executor) }
}
