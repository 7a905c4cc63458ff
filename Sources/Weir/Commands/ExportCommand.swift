import ArgumentParser
import Foundation
import Synchronization
import WeirAlgebra
import WeirDefinitions
import WeirHistory
import WeirRecords
import WeirTraining

struct ExportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export", abstract: "Export a training set: what each request of a spine would have been answered at its time.",
        discussion: """
            The spine is a CSV file: each row is a request of the service, with its time in the timestamp column. All of its columns
            stay, in order, then comes one column a feature, then one a label. Beside the output stands its manifest, OUT.manifest.json;
            --manifest with --check computes the file again and says whether a byte differs.
            """)

    @OptionGroup var data: DataOption
    @Argument(help: "The service.") var service: String?
    @Option(help: ArgumentHelp("The requests, with their times.", valueName: "file.csv")) var spine: String?
    @Option(help: ArgumentHelp("The training set.", valueName: "file.csv")) var out: String?
    @Option(help: "The spine's column with the time: RFC 3339 or integer milliseconds.")
    var timestampColumn: String = Environment.string("timestamp-column") ?? "event_timestamp"
    @Flag(help: "Leave out what had not been ingested by a row's time.") var asKnown: Bool = Environment.flag("as-known")
    @Flag(help: "Count events at exactly a row's time, too.") var inclusive: Bool = Environment.flag("inclusive")
    @Option(help: ArgumentHelp("Only rows of the spine from this time on.", valueName: "time")) var from: String?
    @Option(help: ArgumentHelp("Only rows of the spine before this time.", valueName: "time")) var to: String?
    @Option(help: ArgumentHelp("Only this share of the spine's rows, always the same ones.", valueName: "0…1")) var sample: Double?
    @Option(
        help: ArgumentHelp(
            "Make the spine of a stream: a row for each entity and step in which it has an event. It is written to OUT.spine.csv.",
            valueName: "stream"))
    var spineFrom: String?
    @Option(help: ArgumentHelp("The steps of --spine-from: 12h, 7d.", valueName: "duration")) var every: String?
    @Option(help: ArgumentHelp("With --spine-from: a field of the request that the stream does not have.", valueName: "field=value"))
    var spineValue: [String] = []
    @Option(help: ArgumentHelp("With --check: the manifest of an earlier export.", valueName: "file")) var manifest: String?
    @Flag(help: "Compute the training set of --manifest again, and say whether a byte of it differs; exit 1 where one does.")
    var check: Bool = false
    @Option(
        help: ArgumentHelp(
            "What the rows in work may take; a spine that takes more is computed in parts, each of which reads the history once.",
            valueName: "size"))
    var memory: ByteSize = Environment.string("memory").flatMap { ByteSize(argument: $0) } ?? ByteSize(bytes: 300_000_000)
    @Option(help: "Threads; one for each core by default. The result is the same.")
    var threads: Int = Environment.int("threads") ?? ProcessInfo.processInfo.activeProcessorCount

    func validate() throws {
        if !(1...256).contains(threads) { throw ValidationError("--threads must be between 1 and 256") }
        if memory.bytes < 1_000_000 { throw ValidationError("--memory must be at least 1MB") }
        if let sample, !(0...1).contains(sample) { throw ValidationError("--sample is a share between 0 and 1") }
        if check != (manifest != nil) { throw ValidationError("--check needs --manifest FILE, and --manifest needs --check") }
        if check {
            if from != nil || to != nil || sample != nil || spineFrom != nil {
                throw ValidationError("with --check the manifest says which rows there are")
            }
            return
        }
        if service == nil { throw ValidationError("name the service: weir export SERVICE --spine FILE.csv --out FILE.csv") }
        if out == nil { throw ValidationError("say where to write: --out FILE.csv") }
        if (spine == nil) == (spineFrom == nil) {
            throw ValidationError("give either --spine FILE.csv or --spine-from STREAM --every DURATION")
        }
        if (spineFrom == nil) != (every == nil) { throw ValidationError("--spine-from STREAM needs --every DURATION, such as 7d") }
        if spineFrom == nil, !spineValue.isEmpty { throw ValidationError("--spine-value belongs to --spine-from") }
    }

    func run() throws {
        let catalog = try App.plan()
        try data.directory.checkExists()
        let reading = try data.directory.lockForReading()
        defer { withExtendedLifetime(reading) {} }
        if let manifest { return try check(manifest, catalog) }
        guard let service, let out else { return }
        let plan = try self.plan(service, catalog)
        var request = ExportRequest(
            service: plan, catalog: catalog, directory: data.directory.path, spinePath: try spine ?? makeSpine(plan, catalog, out),
            outPath: out)
        request.timestampColumn = timestampColumn
        request.asKnown = asKnown
        request.isInclusive = inclusive
        request.selection = SpineSelection(from: try time("from", from), to: try time("to", to), sample: sample)
        let progress = Mutex(ProgressReport("export"))
        let summary = try exportTrainingSet(bounded(request)) { done, total in
            progress.withLock { $0.update(Int64(done), of: Int64(total), unit: "rows") }
        }
        progress.withLock { $0.finish() }
        let path = URL(fileURLWithPath: out).standardizedFileURL.path
        do {
            try ExportLog(directory: data.directory.path).append(
                .init(path: path, service: service, rows: summary.rows, sha256: summary.sha256, exportedAt: wallClockNow()))
        } catch { report("warning: \(error); `weir forget` will not look through \(path) by itself") }
        let columns = "\(plan.outputs.count) features" + (plan.labels.isEmpty ? "" : " and \(plan.labels.count) labels")
        print("\(summary.rows) rows with \(columns) in \(out), manifest in \(out).manifest.json (sha256 \(summary.sha256))")
    }

    private func plan(_ service: String, _ catalog: CatalogPlan) throws -> ServicePlan {
        guard let plan = catalog.service(named: service) else {
            throw CommandFailure("unknown service '\(service)'; there are: \(catalog.services.map(\.name).joined(separator: ", "))")
        }
        return plan
    }

    private func bounded(_ request: ExportRequest) -> ExportRequest {
        var request = request
        request.memory = memory.bytes
        request.threads = threads
        return request
    }

    private func time(_ option: String, _ text: String?) throws -> EventTime? {
        guard let text else { return nil }
        do throws(RecordError) { return try TimeText.parse(text) } catch {
            throw CommandFailure("--\(option): \(error.reason); or give integer milliseconds since 1970")
        }
    }

    private func makeSpine(_ plan: ServicePlan, _ catalog: CatalogPlan, _ out: String) throws -> String {
        guard let name = spineFrom, let every else { return "" }
        guard let stream = catalog.stream(named: name) else {
            throw CommandFailure("unknown stream '\(name)'; there are: \(catalog.streams.map(\.name).joined(separator: ", "))")
        }
        guard let step = TimeSpan(argument: every)?.microseconds, step > 0 else {
            throw CommandFailure("--every \(every): a duration is a number with a unit: 30s, 15min, 12h, 7d")
        }
        var values: [String: String] = [:]
        for pair in spineValue {
            guard let equals = pair.firstIndex(of: "=") else { throw CommandFailure("--spine-value \(pair): write field=value") }
            values[String(pair[..<equals])] = String(pair[pair.index(after: equals)...])
        }
        let path = out + ".spine.csv"
        let history = try HistoryReader(directory: data.directory.path, catalog: catalog)
        let rows = try StreamSpine(service: plan, stream: stream, every: step, values: values).write(
            to: path, timestampColumn: timestampColumn, history)
        report("\(rows) rows in the spine \(path)")
        return path
    }

    private func check(_ path: String, _ catalog: CatalogPlan) throws {
        let manifest = try ExportedManifest(path: path)
        if let service, service != manifest.service {
            throw CommandFailure("\(path) is of the service \(manifest.service), not \(service)")
        }
        let suffix = ".manifest.json"
        guard let file = out ?? (path.hasSuffix(suffix) ? String(path.dropLast(suffix.count)) : nil) else {
            throw CommandFailure("say which training set the manifest is of: --out FILE.csv")
        }
        var request = ExportRequest(
            service: try plan(manifest.service, catalog), catalog: catalog, directory: data.directory.path,
            spinePath: spine ?? manifest.spine, outPath: file)
        request.timestampColumn = manifest.timestampColumn
        request.asKnown = manifest.asKnown
        request.isInclusive = manifest.inclusive
        request.selection = SpineSelection(
            from: try time("from", manifest.from), to: try time("to", manifest.to), sample: manifest.sample)
        let history = try HistoryReader(directory: data.directory.path, catalog: catalog)
        if try history.snapshot().store == manifest.history.store {
            request.lastSequence = manifest.history.sequence
            request.completeUntil = try manifest.labelsUntil?.compactMapValues { try time("labels_until", $0) }
        } else {
            report("the store is not the one that the training set was made from: all of its events are taken")
        }
        let progress = Mutex(ProgressReport("check"))
        let outcome = try checkTrainingSet(bounded(request), manifest) { done, total in
            progress.withLock { $0.update(Int64(done), of: Int64(total), unit: "rows") }
        }
        progress.withLock { $0.finish() }
        switch outcome {
        case .same(let rows): print("the same: \(rows) rows, sha256 \(manifest.sha256)")
        case .differs(let line, let stored, let computed):
            print("line \(line) of \(file) differs:")
            print("  file:     \(stored ?? "(ends here)")")
            print("  computed: \(computed ?? "(ends here)")")
            throw ExitCode(1)
        }
    }
}
