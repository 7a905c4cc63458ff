import WeirAlgebra
import WeirDefinitions
import WeirRecords

/// What definitions made of some events, by which a change that their texts do not show is noticed: of what is inside of closures (filters,
/// keys, computed properties, derived features).
///
/// Only hashes are kept: they name nobody. Of each view all sampled events count as one entity's, so that a few events reach every
/// aggregation.
package struct DefinitionSamples: Codable, Sendable, Hashable {
    package struct View: Codable, Sendable, Hashable {
        package var stream: String
        /// The key of each event.
        package var keys: String
        /// For each feature its definition, with those that it is derived from, and its values at some times.
        package var features: [String: Feature]
    }

    package struct Feature: Codable, Sendable, Hashable {
        package var definition: String
        package var values: String
    }

    /// For each stream the numbers of the events.
    package var events: [String: [Int64]] = [:]
    /// And a hash of what their fields held: an event that was changed by hand tells nothing of closures.
    package var contents: [String: String] = [:]
    package var views: [String: View] = [:]

    /// How many events of a stream are sampled at most, and at how many times.
    private static let eventsMax = 256
    private static let timesMax = 16

    package init() {}

    /// Which events to take of a stream whose events have numbers up to this one: the same for the same number, spread over all.
    package static func choice(upTo last: Int64) -> [Int64] {
        let step = max(1, last / Int64(eventsMax))
        return (0..<Int64(eventsMax)).map { 1 + $0 * step }.filter { $0 <= last }
    }

    /// Adds what a stream's views make of events.
    ///
    /// - Parameters:
    ///   - batch: its records have the events' numbers as offsets.
    ///   - runtimes: of all views, in the order of the catalog's.
    package mutating func add(_ batch: PreparedBatch, of stream: any StreamPlan, _ runtimes: [ViewRuntime]) throws {
        events[stream.name] = batch.recordRows.map { batch.records.rows[$0].offset }
        contents[stream.name] = try Self.contents(batch)
        for (position, plan) in stream.views.enumerated() {
            guard let runtime = runtimes.first(where: { $0.plan === plan }) else { continue }
            let keys = batch.views[position].keys
            var rows = EventRows(columns: plan.columns)
            var keyTexts = ""
            for row in 0..<batch.count {
                keyTexts += keys.isNull(row) ? "-" : "=" + keys.withText(row) { String(decoding: $0, as: UTF8.self) }
                keyTexts += "\u{0}"
                // Filters are asked about every event, also about those that the view does not see.
                rows.append(batch, view: position, row: row)
            }
            rows = rows.sorted()
            var values = Array(repeating: "", count: plan.features.count)
            for number in 0..<min(Self.timesMax, rows.count) {
                let row = (number + 1) * rows.count / min(Self.timesMax, rows.count) - 1
                let asOf = AsOf(EventTime(microseconds: rows.times[row]), isInclusive: true)
                let results = try runtime.evaluate(rows: rows, asOf: asOf, session: nil).results
                for (feature, result) in results.enumerated() { values[feature] += result.value.json + "\u{0}" }
            }
            views[plan.name] = View(
                stream: stream.name, keys: weirFingerprint(of: keyTexts),
                features: Dictionary(
                    uniqueKeysWithValues: zip(plan.features.indices, values).map {
                        (
                            plan.features[$0].name,
                            Feature(definition: weirFingerprint(of: plan.wholeDefinition(of: $0)), values: weirFingerprint(of: $1))
                        )
                    }))
        }
    }

    /// Fields that are null are left out: events may have got more optional ones.
    private static func contents(_ batch: PreparedBatch) throws -> String {
        var text = ""
        for row in batch.recordRows {
            var json: [UInt8] = []
            batch.records.appendJSON(row: row, to: &json)
            for (name, value) in try jsonMembers(json).sorted(by: { $0.name < $1.name }) where value != Array("null".utf8) {
                text += name + "=" + String(decoding: value, as: UTF8.self) + "\u{0}"
            }
        }
        return weirFingerprint(of: text)
    }

    /// Whether both are of the same events.
    package func isOfSameEvents(as other: DefinitionSamples) -> Bool { events == other.events && contents == other.contents }

    /// The features, and keys, that make other values of the same events though their definitions are the same: `view.feature`, `view's key`.
    package func changes(to now: DefinitionSamples) -> [String] {
        views.sorted { $0.key < $1.key }.flatMap { name, before -> [String] in
            guard let view = now.views[name], events[before.stream] == now.events[before.stream],
                contents[before.stream] == now.contents[before.stream]
            else { return [] }
            let features = before.features.filter { feature, known in
                view.features[feature].map { $0.definition == known.definition && $0.values != known.values } ?? false
            }
            return (before.keys == view.keys ? [] : ["the key of \(name)"]) + features.keys.sorted().map { "\(name).\($0)" }
        }
    }
}
