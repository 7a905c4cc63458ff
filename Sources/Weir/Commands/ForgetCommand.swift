import ArgumentParser
import Foundation
import WeirDefinitions
import WeirHistory
import WeirPipeline
import WeirTraining

struct ForgetCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "forget",
        abstract: "Erase one entity from everything in the data directory, and say what still holds it.",
        discussion: """
            Every event of the entity goes, also where it is an event of other entities: their features change, and the receipt says whose.
            Nothing else may use the store meanwhile. What is interrupted is finished by the next `forget`, `run` or `ingest`.

              weir forget household 1234 --json > receipt.json
            """)

    @OptionGroup var data: DataOption
    @Argument(help: "The entity, such as household.") var entity: String
    @Argument(help: "Its key.") var key: String
    @Option(
        help: ArgumentHelp(
            "Training sets besides those that were exported from here, or directories with such, that are looked through for it; may be repeated.",
            valueName: "path"))
    var exports: [String] = Environment.list("exports")
    @Flag(help: "The receipt as one JSON object in a line.") var json: Bool = false

    func run() throws {
        try data.directory.checkExists()
        let catalog = try App.plan()
        guard let view = catalog.views.first(where: { $0.entity == entity }) else {
            let known = Set(catalog.views.map(\.entity)).sorted().joined(separator: ", ")
            throw CommandFailure("unknown entity '\(entity)'; there are: \(known)")
        }
        guard let key = view.canonicalKey(key) else { throw CommandFailure("that is no key of '\(entity)': \(view.keyTypeName) expected") }
        // Found before anything is erased, so that a wrong path costs nothing.
        let search = ExportSearch(catalog: catalog, entity: entity, key: key)
        let named = try exports.flatMap { try search.trainingSets(at: $0) }
        let found =
            try named.map { ErasureReceipt.File(path: $0, count: try search.rows(in: $0)) } + knownExports(search, besides: named)
        let progress = ProgressReport("catching up")
        var receipts = try eraseEntity(
            entity, key: key, directory: data.directory, catalog: catalog, report: { report("warning: \($0)") }
        ) { progress.update($0, of: $1, unit: "events") }
        progress.finish()
        receipts[receipts.count - 1].exports = found.filter { $0.count > 0 }
        for receipt in receipts { print(json ? try receipt.json() : Self.text(receipt)) }
        if let left = receipts.compactMap(\.filesOfTheStore).first(where: { !$0.isEmpty }) {
            throw CommandFailure(
                "it still stands in \(left.map { "\(data.data)/\($0.path)" }.joined(separator: ", ")): delete what is not weir's own, then try again"
            )
        }
    }

    /// Those of the training sets that the store has exported which are still there. One that cannot be looked through is named.
    private func knownExports(_ search: ExportSearch, besides named: [String]) -> [ErasureReceipt.File] {
        func absolute(_ path: String) -> String { URL(fileURLWithPath: path).standardizedFileURL.path }
        let searched = Set(named.map(absolute))
        return ExportLog(directory: data.directory.path).entries().compactMap { entry in
            guard !searched.contains(entry.path), FileManager.default.fileExists(atPath: entry.path) else { return nil }
            do { return ErasureReceipt.File(path: entry.path, count: try search.rows(in: entry.path)) } catch {
                report("warning: the training set \(entry.path) was not looked through: \(error)")
                return nil
            }
        }
    }

    private static func text(_ receipt: ErasureReceipt) -> String {
        func counted(_ counts: [String: Int]) -> String {
            counts.filter { $0.value > 0 }.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }.joined(separator: ", ")
        }
        var lines = ["an entity '\(receipt.entity)' is erased (its keyed hash: \(receipt.keyHash))"]
        if receipt.isEmpty { lines = ["nothing was found of an entity '\(receipt.entity)' (its keyed hash: \(receipt.keyHash))"] }
        if receipt.wasInterrupted { lines.append("  this erasure had been interrupted") }
        func add(_ what: String, _ text: String) { if !text.isEmpty { lines.append("  \(what): \(text)") } }
        add("events", counted(receipt.events))
        add(
            "records",
            counted([
                "of the online store": receipt.onlineRecords, "open windows": receipt.openWindows, "closed windows": receipt.closedWindows,
                "on their way to topics": receipt.outputRecords, "dead letters": receipt.deadLetters,
                "dead letters by their bytes": receipt.deadLettersByBytes,
            ]))
        if receipt.loggedRequests > 0 { add("logged requests", "\(receipt.loggedRequests), all that there were") }
        if receipt.pushLogBytes > 0 { add("push log", "\(receipt.pushLogBytes) bytes, of all pushes that were taken in") }
        add("other entities that have fewer events", counted(receipt.changedEntities))
        add("other entities that had no other events, and are gone", counted(receipt.goneEntities))
        if receipt.changedWindows > 0 { add("windows of others written anew", String(receipt.changedWindows)) }
        for part in receipt.topics {
            add(
                "still in the topic",
                "\(part.topic)/\(part.partition): \(part.events) messages from offset \(part.firstOffset) to \(part.lastOffset)")
        }
        add("output topics that may have it", receipt.outputTopics.joined(separator: ", "))
        for file in receipt.files { add("still in the file", "\(file.path): \(file.count) events") }
        for file in receipt.exports { add("still in the training set", "\(file.path): \(file.count) rows") }
        add("streams that the definitions do not have, which were not touched", receipt.unknownStreams.joined(separator: ", "))
        return lines.joined(separator: "\n")
    }
}
