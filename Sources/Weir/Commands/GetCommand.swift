import ArgumentParser
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirLookup
import WeirOnlineStore
import WeirPipeline
import WeirRecords

/// The stores opened for lookups only, beside a process that writes.
func openLookups(_ data: DataOption, clock: ClockKind, sessionSeconds: Int = 1_800) throws -> LookupService {
    let catalog = try App.plan()
    let store = try OnlineStore(directory: data.directory.online, catalog: catalog, shards: nil, mode: .read)
    let history = try HistoryReader(directory: data.directory.path, catalog: catalog)
    try checkClosures(of: store, history)
    return try LookupService(
        catalog: catalog, store: store, history: history,
        sessions: SessionStore(timeToLive: .seconds(sessionSeconds)), clock: lookupClock(clock))
}

struct GetCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "get", abstract: "Answer one request from the stores, also beside a running `weir run`.",
        discussion: """
            weir get checkout_offer '{"household": 1, "basket": 2, "store": 3, "cart_value": 20}' --at 2017-03-01T12:00:00Z
            """)

    @OptionGroup var data: DataOption
    @Argument(help: "The service.") var service: String
    @Argument(help: "The request as a JSON object.") var request: String
    @Option(help: "The time asked for, as RFC 3339 or integer milliseconds; now by default.") var at: String?
    @Option(help: ArgumentHelp("Events of the running session: a stream and a JSON array.", valueName: "stream=json")) var session:
        [String] = []
    @Flag(help: "Says how each number of the answer came about: what its window is and what was merged.") var explain: Bool = false
    @Flag(help: "With --explain: as JSON, which the plain answer always is.") var json: Bool = false
    @Option(help: "What now is: the wall clock, or just after the latest event.") var clock: ClockKind =
        ClockKind(rawValue: Environment.string("clock") ?? "") ?? .wall

    func run() throws {
        try data.directory.checkExists()
        let reading = try data.directory.lockForReading()
        defer { withExtendedLifetime(reading) {} }
        let lookups = try openLookups(data, clock: clock)
        let service = try lookups.service(service)
        let worker = lookups.makeWorker()
        defer { worker.endBatch() }
        let request = try lookups.decodeRequest(service, Array(request.utf8), worker)
        var batches: [PreparedBatch] = []
        for session in session {
            guard let equals = session.firstIndex(of: "=") else {
                throw ValidationError("--session \(session): a stream, '=' and a JSON array expected")
            }
            let events = try jsonArrayElements(Array(session[session.index(after: equals)...].utf8))
            batches.append(try lookups.decodeEvents(String(session[..<equals]), events))
        }
        let session = SessionEvents(batches)
        let time = try lookups.store.explaining { try at.map { try TimeText.parse($0) } ?? lookups.now(worker.reader) }
        if explain {
            let explanation = try lookups.store.explaining {
                try lookups.explain(service.plan, request, asOf: AsOf(time), session: session, reader: worker.reader)
            }
            let reply = try ExplanationReply(explanation, asOf: time, session: session, lookups)
            return print(json ? String(decoding: reply.json, as: UTF8.self) : reply.lines.joined(separator: "\n"))
        }
        _ = try lookups.store.explaining { try lookups.answer(service, request, asOf: AsOf(time), session: session, worker) }
        var text: [UInt8] = Array("{\n".utf8)
        for (index, output) in service.plan.outputs.enumerated() {
            text.append(contentsOf: "  ".utf8)
            JSONText.appendString(output.name, to: &text)
            text.append(contentsOf: ": ".utf8)
            worker.results[index].value.appendJSON(to: &text)
            text.append(contentsOf: (index + 1 < service.plan.outputs.count ? ",\n" : "\n").utf8)
        }
        print(String(decoding: text, as: UTF8.self) + "}")
    }
}
