import WeirAlgebra
import WeirDefinitions
import WeirHistory
import WeirLookup
import WeirRecords

/// How a service's features were distributed in what was served lately: from the latest logged requests that its definitions still answer.
package struct ServedStatistics: Sendable {
    package let columns: [ColumnStatistics]
    /// Requests that were served under other definitions, and are left out.
    package let outdated: Int

    package var rows: Int { columns.first?.rows ?? 0 }

    private static let recordsPerRead = 1_024

    /// - Parameter limit: of requests, the latest.
    package init(_ service: ServiceRuntime, log: RequestLogReader, limit: Int) throws {
        var columns = service.plan.outputs.map { ColumnStatistics(name: $0.name, type: $0.type) }
        var outdated = 0
        var number = try log.number(before: limit, service: service.plan.name)
        while true {
            let records = try log.records(after: number, service: service.plan.name, limit: Self.recordsPerRead)
            guard let last = records.last else { break }
            number = last.number
            for record in records {
                let members = try jsonMembers(Array(record.answer.utf8))
                guard record.definitions == service.fingerprint, members.count == columns.count else {
                    outdated += 1
                    continue
                }
                for (index, member) in members.enumerated() {
                    guard let value = FeatureValue(json: member.value, type: columns[index].type) else {
                        throw HistoryError("the log of served requests is damaged: request \(record.number), \(member.name)")
                    }
                    columns[index].add(value)
                }
            }
        }
        self.columns = columns
        self.outdated = outdated
    }

    /// A feature as served beside the same in a training set.
    package struct Comparison: Sendable {
        package let served: ColumnSummary
        /// nil where the training set has no such feature.
        package let reference: ColumnSummary?
        package let stabilityIndex: Double?
    }

    package func comparisons(with reference: [ColumnSummary]) -> [Comparison] {
        columns.map { column in
            let reference = reference.first { $0.name == column.name }
            return Comparison(
                served: column.summary, reference: reference, stabilityIndex: reference.flatMap { column.stabilityIndex(against: $0) })
        }
    }
}

extension FeatureValue {
    /// A logged value of a feature; lists and maps stay the text that they are. nil for what is none of the type.
    fileprivate init?(json: [UInt8], type: FeatureType) {
        let text = String(decoding: json, as: UTF8.self)
        if text == "null" {
            self = .null
            return
        }
        switch type {
        case .int:
            guard let value = Int64(text) else { return nil }
            self = .int(value)
        case .double:
            guard let value = Double(text), value.isFinite else { return nil }
            self = .double(value)
        case .bool:
            guard text == "true" || text == "false" else { return nil }
            self = .bool(text == "true")
        case .string:
            guard let value = json.withUnsafeBytes({ jsonString($0) }) else { return nil }
            self = .string(value)
        case .intList, .doubleList, .boolList, .stringList, .intMap: self = .string(text)
        }
    }
}
