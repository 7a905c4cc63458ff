import ArgumentParser
import Foundation
import WeirAlgebra
import WeirHistory
import WeirLookup
import WeirRecords
import WeirServer

struct VerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Recompute served requests from the history and compare every bit; also beside a running `weir run`.",
        discussion: """
            The requests are those that `weir run --log-requests RATE` logged. Each is answered again with the events that had been applied and
            the session's events; an answer that differs is shown with how both came about. Exit code 1 where any differs. Requests that
            cannot be answered again, since definitions or the history changed, are counted as such.
            """)

    @OptionGroup var data: DataOption
    @Argument(help: "Requests of this service alone; by default all, also those for features of views.") var service: String?
    @Option(help: ArgumentHelp("Check the latest requests alone.", valueName: "count")) var limit: Int?
    @Flag(help: "As one JSON object, with every difference.") var json: Bool = false

    func validate() throws {
        if let limit, limit < 1 { throw ValidationError("--limit must be at least 1") }
    }

    func run() throws {
        let lookups = try openLookups(data, clock: .wall)
        if let service { _ = try lookups.service(service) }
        guard let log = try RequestLogReader(directory: data.directory.path, store: try lookups.history.storeID()) else {
            throw CommandFailure("no request was logged in \(data.directory.path); `weir run --log-requests RATE` logs them")
        }
        let first = try limit.map { try log.number(before: $0, service: service) } ?? 0
        let total = min(limit ?? .max, try log.count(service: service))
        let progress = ProgressReport("verify")
        var shown: [Difference] = []
        let summary = try VerificationSummary.verify(
            lookups, history: lookups.history, log: log, service: service, after: first,
            looked: { progress.update(Int64($0), of: Int64(max(total, $0)), unit: "requests") },
            differs: { record, differences, verifier in
                guard shown.count < Limits.differencesShownMax else { return }
                shown.append(try Difference(record, differences, verifier, lookups))
            })
        progress.finish()
        print(json ? Self.json(summary, shown) : Self.text(summary, shown))
        if summary.differing > 0 { throw ExitCode(1) }
    }

    /// A request whose answers differ, with explanations of both.
    private struct Difference {
        let record: RequestRecord
        let features: [RequestVerifier.Difference]
        let online: ExplanationReply?
        let recomputed: ExplanationReply?

        init(
            _ record: RequestRecord, _ features: [RequestVerifier.Difference], _ verifier: RequestVerifier, _ lookups: LookupService
        ) throws {
            self.record = record
            self.features = features
            let explanations = try lookups.store.explaining { try verifier.explain(record) }
            online = try explanations.map { try ExplanationReply($0, $0.online, lookups) }
            recomputed = try explanations.map { try ExplanationReply($0, $0.recomputed, lookups) }
        }

        var asOf: String { TimeText.format(EventTime(microseconds: record.asOf)) }
    }

    private static func text(_ summary: VerificationSummary, _ shown: [Difference]) -> String {
        var lines: [String] = []
        for difference in shown {
            let record = difference.record
            lines.append(
                "request \(record.number), \(record.service ?? record.view ?? "") \(record.request) at \(difference.asOf)"
                    + (record.session == nil ? "" : ", with session events") + ":")
            lines += difference.features.map { "  \($0.name): served \($0.served), recomputed \($0.recomputed)" }
            lines.append("  as the lookup service explains it now:")
            lines += (difference.online?.lines ?? []).map { "    \($0)" }
            lines.append("  as it is recomputed:")
            lines += (difference.recomputed?.lines ?? []).map { "    \($0)" }
        }
        if shown.count < summary.differing { lines.append("… and \(summary.differing - shown.count) more that differ") }
        return (lines + [summary.text]).joined(separator: "\n")
    }

    private static func json(_ summary: VerificationSummary, _ shown: [Difference]) -> String {
        let obstacles = RequestVerifier.Obstacle.allCases.map { obstacle in
            ReplyValue.Entry(obstacle.rawValue, .int(Int64(summary.uncheckable[obstacle] ?? 0)))
        }
        let whole: [ReplyValue.Entry] = [
            .init("checked", .int(Int64(summary.checked))), .init("equal", .int(Int64(summary.checked - summary.differing))),
            .init("differing", .int(Int64(summary.differing))), .init("uncheckable", .map(obstacles)),
            .init("differences", .array(shown.map(tree))),
        ]
        var bytes: [UInt8] = []
        ReplyValue.map(whole).appendJSON(to: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func tree(_ difference: Difference) -> ReplyValue {
        func text(_ text: String?) -> ReplyValue { text.map { .string($0) } ?? .null }
        let record = difference.record
        let features = difference.features.map { feature -> ReplyValue in
            .map(["name": .string(feature.name), "served": .string(feature.served), "recomputed": .string(feature.recomputed)])
        }
        let entries: [ReplyValue.Entry] = [
            .init("number", .int(record.number)), .init("logged_at", .string(TimeText.format(EventTime(microseconds: record.loggedAt)))),
            .init("service", text(record.service)), .init("view", text(record.view)), .init("request", .string(record.request)),
            .init("session", text(record.session)), .init("as_of", .string(difference.asOf)), .init("features", .array(features)),
            .init("online", difference.online?.tree ?? .null), .init("history", difference.recomputed?.tree ?? .null),
        ]
        return .map(entries)
    }
}
