import ArgumentParser
import Foundation
import WeirDefinitions
import WeirPipeline
import WeirRecords

extension FileFormat: ExpressibleByArgument {}

/// A file's format by option or name.
func fileFormat(_ option: FileFormat?, _ path: String) throws -> FileFormat {
    if let format = option ?? FileFormat(path: path) { return format }
    throw ValidationError("\(path): say with --format whether it is csv or jsonl")
}

func streamPlan(_ name: String) throws -> any StreamPlan {
    let catalog = try App.plan()
    guard let stream = catalog.stream(named: name) else {
        throw CommandFailure("unknown stream '\(name)'; there are: \(catalog.streams.map(\.name).joined(separator: ", "))")
    }
    return stream
}

/// Opens the stores for writing, and says so where they have to catch up first.
///
/// - Parameter lock: the writer's lock, where the process has it.
func openStoreWriter(_ data: DataOption, _ options: WriterOptions, lock: WriterLock? = nil) throws -> StoreWriter {
    let progress = ProgressReport("catching up")
    let writer = try StoreWriter(
        directory: data.directory, catalog: try App.plan(), shards: options.shards, isSynced: !options.isUnsynced,
        mapBytes: options.mapBytes, lock: lock, report: { report("warning: \($0)") }
    ) { progress.update($0, of: $1, unit: "events") }
    progress.finish()
    return writer
}

struct IngestCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ingest", abstract: "Take events from files: CSV with a header, or JSON Lines.",
        discussion: """
            A file is known by its content: the same file twice counts once, a file that grew is continued, one whose applied part
            has changed is refused. What cannot be used becomes a dead letter: `weir dead-letters list`.
            """)

    @OptionGroup var data: DataOption
    @OptionGroup var writing: WriterOptions
    @Argument(help: "The stream.") var stream: String
    @Argument(help: "The files.") var files: [String]
    @Option(help: "By default by the file's name.") var format: FileFormat?
    @Option(help: "A column with the time at which an event was learned of; by default it is now.") var ingestTimeColumn: String?
    @Flag(help: "Exit with 3 where there were dead letters.") var strict: Bool = Environment.flag("strict")

    func run() throws {
        let plan = try streamPlan(stream)
        let formats = try files.map { try fileFormat(format, $0) }
        let writer = try openStoreWriter(data, writing)
        let ingests = zip(files, formats).map { FileIngest(stream: plan, path: $0, format: $1, ingestTimeColumn: ingestTimeColumn) }
        writer.pipeline.start()
        let start = ContinuousClock.now
        var known = 0
        for ingest in ingests {
            // Whether a file is known may depend on the one before it.
            try writer.pipeline.flush()
            let filePlan = try ingest.plan(writer.history)
            if filePlan.start == filePlan.size { known += 1 }
            let progress = ProgressReport(ingest.path)
            try ingest.read(filePlan, submit: { try writer.pipeline.submit($0) }) {
                progress.update($0, of: filePlan.size, unit: "bytes")
            }
            progress.finish()
        }
        try writer.pipeline.stop()
        writer.keepSamples()
        let summary = writer.pipeline.summary
        let seconds = Double((ContinuousClock.now - start) / .milliseconds(1)) / 1_000
        var line = "\(summary.accepted) events accepted in \(seconds) s"
        if summary.duplicates > 0 { line += ", \(summary.duplicates) duplicates" }
        if summary.expired > 0 { line += ", \(summary.expired) older than what is kept" }
        if summary.forgotten > 0 { line += ", \(summary.forgotten) of erased entities stayed out" }
        if known > 0 { line += ", \(known) of \(files.count) files known already" }
        print(line)
        if summary.deadLetters > 0 {
            report("\(summary.deadLetters) dead letters; `weir dead-letters list --data \(data.data)` shows them with their reasons")
            if strict { throw ExitCode(3) }
        }
    }
}
