import ArgumentParser
import Foundation
import Synchronization
import WeirHistory
import WeirTraining

struct ExportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export", abstract: "Export a training set: what each request of a spine would have been answered at its time.",
        discussion: """
            The spine is a CSV file: each row is a request of the service, with its time in the timestamp column. All of its columns
            stay, in order, then comes one column a feature. Beside the output stands its manifest, OUT.manifest.json.
            """)

    @OptionGroup var data: DataOption
    @Argument(help: "The service.") var service: String
    @Option(help: ArgumentHelp("The requests, with their times.", valueName: "file.csv")) var spine: String
    @Option(help: ArgumentHelp("The training set.", valueName: "file.csv")) var out: String
    @Option(help: "The spine's column with the time: RFC 3339 or integer milliseconds.")
    var timestampColumn: String = Environment.string("timestamp-column") ?? "event_timestamp"
    @Flag(help: "Leave out what had not been ingested by a row's time.") var asKnown: Bool = Environment.flag("as-known")
    @Flag(help: "Count events at exactly a row's time, too.") var inclusive: Bool = Environment.flag("inclusive")

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
    }

    func run() throws {
        let catalog = try App.plan()
        try data.directory.checkExists()
        guard let plan = catalog.service(named: service) else {
            throw CommandFailure("unknown service '\(service)'; there are: \(catalog.services.map(\.name).joined(separator: ", "))")
        }
        var request = ExportRequest(
            service: plan, catalog: catalog, directory: data.directory.path, spinePath: spine, outPath: out)
        request.timestampColumn = timestampColumn
        request.asKnown = asKnown
        request.isInclusive = inclusive
        request.memory = memory.bytes
        request.threads = threads
        let progress = Mutex(ProgressReport("export"))
        let summary = try exportTrainingSet(request) { done, total in
            progress.withLock { $0.update(Int64(done), of: Int64(total), unit: "rows") }
        }
        progress.withLock { $0.finish() }
        print(
            "\(summary.rows) rows with \(plan.outputs.count) features in \(out), manifest in \(out).manifest.json (sha256 \(summary.sha256))"
        )
    }
}
