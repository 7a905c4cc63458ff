import ArgumentParser
import Foundation
import WeirAlgebra
import WeirDefinitions
import WeirHistory
import WeirLookup
import WeirOnlineStore
import WeirPipeline
import WeirRecords

struct ApplyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apply", abstract: "Build what is new in the definitions from the history, then switch to it.",
        discussion: """
            Makes an online store for the definitions of this executable beside the one in use, while `weir run` goes on; checks it against the
            history, and logged requests (`weir run --log-requests`) against what they would be answered now; then switches. A `weir run` that
            is under way becomes this executable, with its arguments and its clients: lookups wait for a moment, none fails. What is
            interrupted is gone on with by the next `weir apply`.
            """)

    @OptionGroup var data: DataOption
    @Flag(help: "Build and check, but do not switch; the next `weir apply` goes on from there.") var dryRun: Bool = false
    @Flag(
        help:
            "Switch also where features whose definitions are the same have other values: a closure has changed, and is meant to.")
    var acceptChanges: Bool = false

    func run() throws {
        try data.directory.checkExists()
        // What is built must be of the user as whom `weir run` runs.
        guard data.directory.isOwn else {
            throw CommandFailure(
                "the store in \(data.directory.path) is another user's; run `weir apply` as the user as whom `weir run` runs")
        }
        // Nobody may be forgotten beneath it.
        let reading = try data.directory.lockForReading()
        let catalog = try App.plan()
        let changes = try StoreChanges(data.directory, catalog)
        print(changes.text)
        guard changes.definitions.consequence != .ingestAgain else { throw ExitCode(1) }
        guard changes.closures.isEmpty || acceptChanges else { throw ExitCode(1) }
        let isBuilt = [.rebuild, .rekey].contains(changes.definitions.consequence) || !changes.closures.isEmpty
        if isBuilt {
            try build(catalog, changes.definitions)
        } else {
            try OnlineStoreBuild.discard(data.directory)
        }
        withExtendedLifetime(reading) {}
        if dryRun { return print(isBuilt ? "built and checked; `weir apply` switches to it" : "nothing is to be built") }
        try switchOver(catalog, isBuilt: isBuilt)
    }

    // MARK: Building

    private func build(_ catalog: CatalogPlan, _ changes: DefinitionChanges) throws {
        let history = try HistoryReader(directory: data.directory.path, catalog: catalog)
        // What the switch would come to a stop at is found before.
        if changes.consequence == .rekey {
            for stream in catalog.streams {
                if let clash = try history.identityClash(of: stream.name) { throw CommandFailure(clash) }
            }
        }
        let build = try OnlineStoreBuild(directory: data.directory, catalog: catalog, reader: history, shards: nil, isResumed: true)
        build.uncheck()
        let before = try build.appliedSequence()
        if before > 0 { print("going on with the store that was begun: \(before) events are in it") }
        let progress = ProgressReport("apply")
        var reached = before
        repeat {
            reached = try build.appliedSequence()
            try build.catchUp(history) { progress.update($0, of: $1, unit: "events") }
            // What came meanwhile is taken in, too, until that is little.
        } while try build.appliedSequence() - reached > Int64(Limits.eventsPerCatchUp)
        progress.finish()
        print("built: \(try build.appliedSequence()) events are in \(data.directory.onlineNew)")
        let lookups = try LookupService(
            catalog: catalog, store: build.store, history: history, sessions: SessionStore(timeToLive: .seconds(1)),
            clock: lookupClock(.event))
        let check = try BuildCheck(lookups, history, data.directory, changes)
        print(check.text)
        if check.hasFailed(acceptsChanges: acceptChanges) { throw ExitCode(1) }
        try build.finish(history, isChecked: !dryRun)
    }

    // MARK: Switching

    private func switchOver(_ catalog: CatalogPlan, isBuilt: Bool) throws {
        do {
            let lock = try data.directory.lock()
            guard isBuilt else { return print("nothing is to be done") }
            _ = try StoreWriter(directory: data.directory, catalog: catalog, shards: nil, isSynced: true, lock: lock)
            print("switched: the online store in \(data.directory.online) has the new definitions; `weir run` can start")
        } catch is StoreIsBusy {
            try handOver()
        }
    }

    /// Makes the `weir run` that writes to the store this executable.
    private func handOver() throws {
        guard let process = data.directory.writer else { throw CommandFailure("\(data.directory.path)/lock names no process") }
        guard let executable = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe") else {
            throw CommandFailure("the path of this executable cannot be found; stop `weir run`, then start it as this executable")
        }
        try checkArguments(of: process)
        try HandoverRequest(executable: executable).write(to: data.directory)
        let start = ContinuousClock.now
        while let request = try HandoverRequest.read(from: data.directory) {
            if let refusal = request.refusal {
                HandoverRequest.remove(from: data.directory)
                throw CommandFailure("process \(process) did not hand over: \(refusal)")
            }
            let isAlive = data.directory.isLocked
            // Once it is the new program it may have much to do before it is ready.
            let isNew = Self.program(of: process) == executable
            guard isAlive, isNew || ContinuousClock.now - start < .seconds(Limits.handoverSecondsMax) else {
                HandoverRequest.remove(from: data.directory)
                throw CommandFailure(
                    isAlive
                        ? "process \(process) has not handed over within \(Limits.handoverSecondsMax) s; is it another command than `weir run`? See its log"
                        : "process \(process) ended while it handed over; see its log, and start `weir run` as this executable")
            }
            usleep(20_000)
        }
        guard Self.program(of: process) == executable else {
            throw CommandFailure("process \(process) is not \(executable) now: it was started anew meanwhile; see its log")
        }
        print("switched: process \(process) is \(executable) now")
    }

    private static func program(of process: Int32) -> String? {
        try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(process)/exe")
    }

    /// Whether this executable understands how the running one was started.
    private func checkArguments(of process: Int32) throws {
        guard let bytes = FileManager.default.contents(atPath: "/proc/\(process)/cmdline") else {
            throw CommandFailure(
                "process \(process), which writes to \(data.directory.path), cannot be seen from here; run `weir apply` beside it")
        }
        let arguments = bytes.split(separator: 0, omittingEmptySubsequences: false).dropLast().dropFirst().map {
            String(decoding: $0, as: UTF8.self)
        }
        let command: any ParsableCommand
        do { command = try WeirCommand.parseAsRoot(arguments) } catch {
            throw CommandFailure(
                "process \(process) was started with arguments that this executable does not take (\(WeirCommand.message(for: error))); stop it, then start `weir run` as this executable"
            )
        }
        guard command is RunCommand else {
            throw CommandFailure(
                "process \(process) (`weir \(arguments.first ?? "")`) writes to \(data.directory.path); run `weir apply` again when it is done: what is built is kept"
            )
        }
    }
}

/// What a store that was made for new definitions answers, against the history; and what was served, against what would be served now.
struct BuildCheck {
    private var answers = 0
    private var wrong: [String] = []
    private var logged = 0
    private var uncheckable = 0
    /// New ones, by which the history cannot be asked before it has their keys.
    private var newViews: Set<String> = []
    /// For each feature whose definition is the same, logged requests that it answers otherwise now; and one of them.
    private var changed: [String: (count: Int, example: String)] = [:]

    init(_ lookups: LookupService, _ history: HistoryReader, _ directory: DataDirectory, _ changes: DefinitionChanges) throws {
        newViews = Set(try lookups.catalog.views.filter { try !history.hasKeys(of: $0) }.map(\.name))
        let verifier = RequestVerifier(lookups, history: history)
        try checkLatest(lookups, history, verifier)
        guard let log = try RequestLogReader(directory: directory.path, store: try history.storeID()) else { return }
        let served = RequestVerifier(lookups, history: history, takesOtherDefinitions: true)
        let meant = Self.meant(changes, lookups.catalog)
        var number = try log.number(before: Limits.requestsCheckedByApply)
        while true {
            let records = try log.records(after: number, limit: 256)
            guard let last = records.last else { break }
            number = last.number
            try served.refresh()
            logged += records.count
            for record in records {
                let joined = record.service.flatMap { lookups.catalog.service(named: $0) }?.joins.map(\.view.name) ?? []
                guard newViews.isDisjoint(with: joined) else {
                    uncheckable += 1
                    continue
                }
                try take(try served.checkStore(record), record)
                switch try served.check(record) {
                case .equal: break
                case .uncheckable: uncheckable += 1
                case .differs(let differences): note(differences, record, meant, lookups)
                }
            }
        }
    }

    /// The features whose values may be others: `view.feature` where its definition is, or one that it is derived from; `service.feature`
    /// where an input's is, or the service's.
    private static func meant(_ changes: DefinitionChanges, _ catalog: CatalogPlan) -> Set<String> {
        var meant = Set(changes.features.map(\.name))
        let views = Set(changes.views.map(\.name))
        for view in catalog.views {
            for feature in view.features {
                let name = view.name + "." + feature.name
                if views.contains(view.name) { meant.insert(name) }
                if case .derived(let inputs, _) = feature.computation,
                    inputs.contains(where: { meant.contains(view.name + "." + view.features[$0].name) })
                {
                    meant.insert(name)
                }
            }
        }
        let services = Set(changes.services.map(\.name))
        for service in catalog.services {
            for output in service.outputs {
                guard case .onDemand(let inputs, _) = output.computation else { continue }
                let isMeant = inputs.contains { input in
                    guard case .feature(let join, let feature) = input else { return false }
                    let view = service.joins[join].view
                    return meant.contains(view.name + "." + view.features[feature].name)
                }
                if isMeant || services.contains(service.name) { meant.insert(service.name + "." + output.name) }
            }
        }
        return meant
    }

    /// The entities of the latest events, in every view.
    private mutating func checkLatest(_ lookups: LookupService, _ history: HistoryReader, _ verifier: RequestVerifier) throws {
        let last = try history.latestSequence()
        guard let latest = try history.latestEventTime() else { return }
        for stream in lookups.catalog.streams {
            try history.forEachBatch(of: stream.name, after: max(0, last - Int64(Limits.eventsCheckedByApply)), upTo: last) { batch, _ in
                for (position, plan) in stream.views.enumerated() where !plan.isLabelView && !newViews.contains(plan.name) {
                    let view = lookups.catalog.views.firstIndex { $0 === plan }!
                    let keys = batch.views[position].keys
                    let texts = Set(
                        (0..<batch.count).filter { !keys.isNull($0) }.map { keys.withText($0) { String(decoding: $0, as: UTF8.self) } })
                    for key in texts {
                        try take(
                            try verifier.checkStore(view: view, key: key, asOf: EventTime(microseconds: latest + 1)),
                            "\(plan.name):\(key)")
                    }
                }
            }
        }
    }

    private mutating func take(_ verdict: RequestVerifier.Verdict, _ record: RequestRecord) throws {
        try take(verdict, "request \(record.number), \(record.service ?? record.view ?? "") \(record.request)")
    }

    private mutating func take(_ verdict: RequestVerifier.Verdict, _ what: String) throws {
        guard case .differs(let differences) = verdict else {
            if case .equal = verdict { answers += 1 }
            return
        }
        answers += 1
        wrong += differences.map { "\(what): \($0.name) is \($0.served), from the history \($0.recomputed)" }
    }

    private mutating func note(
        _ differences: [RequestVerifier.Difference], _ record: RequestRecord, _ meant: Set<String>, _ lookups: LookupService
    ) {
        for difference in differences {
            let name: String
            if let service = record.service, let plan = lookups.catalog.service(named: service) {
                let output = plan.outputs.first { $0.name == difference.name }
                // On-demand features follow from others, and are shown by their own name.
                if case .feature(let join, let feature) = output?.computation {
                    let view = plan.joins[join].view
                    name = view.name + "." + view.features[feature].name
                } else {
                    name = service + "." + difference.name
                }
            } else {
                name = (record.view ?? "") + "." + difference.name
            }
            if meant.contains(name) { continue }
            let example = "request \(record.number): served \(difference.served), now \(difference.recomputed)"
            changed[name] = ((changed[name]?.count ?? 0) + 1, changed[name]?.example ?? example)
        }
    }

    func hasFailed(acceptsChanges: Bool) -> Bool { !wrong.isEmpty || !changed.isEmpty && !acceptsChanges }

    var text: String {
        var lines = wrong.prefix(Limits.differencesShownMax).map { "wrong: \($0)" }
        for (name, found) in changed.sorted(by: { $0.key < $1.key }) {
            lines.append(
                "changed: \(name) has the same definition, and other values in \(found.count) logged requests (\(found.example)): is a closure another one? Raise the view's `revision`, or `weir apply --accept-changes`"
            )
        }
        lines.append(
            "checked: \(answers) answers of the new store against the history, \(wrong.isEmpty ? "all equal" : "\(wrong.count) features differ"); \(logged) logged requests"
                + (uncheckable > 0 ? ", of which \(uncheckable) cannot be answered by the new definitions" : ""))
        if !newViews.isEmpty { lines.append("not checked: new views: \(newViews.sorted().joined(separator: ", "))") }
        return lines.joined(separator: "\n")
    }
}
