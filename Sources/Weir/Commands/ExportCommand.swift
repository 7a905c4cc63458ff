import ArgumentParser
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

    func run() throws {
        let catalog = try App.plan()
        try data.directory.checkExists()
        guard let plan = catalog.service(named: service) else {
            throw CommandFailure("unknown service '\(service)'; there are: \(catalog.services.map(\.name).joined(separator: ", "))")
        }
        let progress = ProgressReport("export")
        let summary = try exportTrainingSet(
            service: plan, catalog: catalog, history: try HistoryReader(directory: data.directory.path, catalog: catalog),
            spinePath: spine, outPath: out, timestampColumn: timestampColumn,
            options: .init(asKnown: asKnown, isInclusive: inclusive)
        ) { progress.update(Int64($0), of: Int64($1), unit: "values") }
        progress.finish()
        print(
            "\(summary.rows) rows with \(plan.outputs.count) features in \(out), manifest in \(out).manifest.json (sha256 \(summary.sha256))"
        )
    }
}
