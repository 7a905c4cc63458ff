import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirOnlineStore
import WeirRecords

/// An answer as it was given, to be logged: taking it copies no more than the results.
package struct ServedRequest: Sendable {
    package enum Subject: Sendable {
        /// With the request's JSON.
        case service(ServiceRuntime, [UInt8])
        /// Features of a view, by name; the canonical key.
        case view(ViewPlan, names: [String], key: String?)
    }

    private let subject: Subject
    private let asOf: EventTime
    private let session: SessionEvents
    private let results: [FeatureResult]
    private let shards: [OnlineStore.AppliedShard?]

    /// - Parameter shards: for each join of the service, or for the view.
    package init(
        _ subject: Subject, asOf: EventTime, session: SessionEvents = SessionEvents(), results: [FeatureResult],
        shards: [OnlineStore.AppliedShard?]
    ) {
        self.subject = subject
        self.asOf = asOf
        self.session = session
        self.results = results
        self.shards = shards
    }

    /// About what it takes in memory and in the log.
    package var bytes: Int {
        let request =
            switch subject {
            case .service(_, let json): json.count
            case .view(_, _, let key): key?.utf8.count ?? 0
            }
        return 128 + request + 32 * results.count + session.batches.reduce(0) { $0 + $1.records.bytes.count + 64 * $1.count }
    }

    /// - Parameter now: microseconds since the epoch.
    package func record(now: Int64) -> RequestRecord {
        let applied = "[" + shards.map { $0.map { "[\($0.number),\($0.sequence)]" } ?? "null" }.joined(separator: ",") + "]"
        switch subject {
        case .service(let service, let json):
            return RequestRecord(
                loggedAt: now, service: service.plan.name, view: nil, definitions: service.fingerprint, asOf: asOf.microseconds,
                request: String(decoding: json, as: UTF8.self), session: sessionText, applied: applied,
                answer: answerText(service.names, results))
        case .view(let view, let names, let key):
            return RequestRecord(
                loggedAt: now, service: nil, view: view.name, definitions: view.fingerprint, asOf: asOf.microseconds,
                request: key.map { JSONText.string($0) } ?? "null", session: nil, applied: applied, answer: answerText(names, results))
        }
    }

    /// Batch by batch, since the order of events without ids depends on how they came.
    private var sessionText: String? {
        if session.batches.isEmpty { return nil }
        var bytes: [UInt8] = [UInt8(ascii: "[")]
        for (index, batch) in session.batches.enumerated() {
            bytes.append(contentsOf: (index > 0 ? ",{\"stream\":" : "{\"stream\":").utf8)
            JSONText.appendString(batch.records.schema.name, to: &bytes)
            bytes.append(contentsOf: ",\"events\":[".utf8)
            for row in 0..<batch.count {
                if row > 0 { bytes.append(UInt8(ascii: ",")) }
                batch.records.appendJSON(row: batch.recordRows[row], to: &bytes)
            }
            bytes.append(contentsOf: "]}".utf8)
        }
        bytes.append(UInt8(ascii: "]"))
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// Feature to value as one JSON object. Two answers of the same features have the same text exactly where they have the same bits.
func answerText(_ names: [String], _ results: [FeatureResult]) -> String {
    var bytes: [UInt8] = [UInt8(ascii: "{")]
    for (index, name) in names.enumerated() {
        if index > 0 { bytes.append(UInt8(ascii: ",")) }
        JSONText.appendString(name, to: &bytes)
        bytes.append(UInt8(ascii: ":"))
        results[index].value.appendJSON(to: &bytes)
    }
    bytes.append(UInt8(ascii: "}"))
    return String(decoding: bytes, as: UTF8.self)
}
