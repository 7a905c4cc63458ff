import Foundation
import WeirAlgebra
import WeirDefinitions
import WeirHistory
import WeirRecords

/// Makes a spine of a stream, for those who have no labels at hand: one row for each entity and step of time in which it has an event.
///
/// A row stands at the end of its step. The request's fields are the stream's, as the entity's latest event of the step has them.
package struct StreamSpine {
    private let service: ServicePlan
    private let stream: any StreamPlan
    private let every: Int64
    private let values: [String: String]
    private let join: ServicePlan.Join
    private let view: Int
    /// For each field of the request that of the stream; nil: a given value, or none.
    private let sources: [Int?]

    /// - Parameters:
    ///   - every: microseconds; steps are counted from the epoch.
    ///   - values: of fields of the request that the stream does not have.
    /// - Throws: `ExportError` that says which field of the request is missing.
    package init(service: ServicePlan, stream: any StreamPlan, every: Int64, values: [String: String]) throws {
        guard let join = service.joins.first(where: { $0.view.stream == stream.name }) else {
            throw ExportError("the service \(service.name) joins no view of the stream \(stream.name)")
        }
        for name in values.keys where service.requestSchema.index(of: name) == nil {
            throw ExportError("the request of \(service.name) has no field '\(name)'")
        }
        self.service = service
        self.stream = stream
        self.every = every
        self.values = values
        self.join = join
        view = stream.viewIndex(join.view.name)!
        sources = try service.requestSchema.fields.map { field in
            if values[field.name] != nil { return nil }
            if let index = stream.schema.index(of: field.name) { return index }
            if field.isOptional { return nil }
            throw ExportError(
                "the request's field '\(field.name)' is none of the stream \(stream.name): give every row a value with --spine-value \(field.name)=…, or write the spine yourself"
            )
        }
    }

    private struct Place: Hashable {
        let end: Int64
        let key: [UInt8]
    }

    private struct Latest {
        var time: Int64
        var id: [UInt8]
        var text: [UInt8]
    }

    /// Writes the spine, rows by time and then key, and returns how many there are.
    package func write(to path: String, timestampColumn: String, _ history: HistoryReader) throws -> Int {
        var rows: [Place: Latest] = [:]
        // What no longer counts may still be there, or not.
        let keptFrom = try history.keptFrom(stream: stream.name)
        try history.forEachBatch(of: stream.name, after: 0, upTo: .max) { batch, _ in
            let keys = batch.views[view].keys
            for row in 0..<batch.count where !keys.isNull(row) {
                let time = batch.times[row]
                if time < keptFrom { continue }
                let end = EventTime(microseconds: time).floored(to: every).advanced(by: every).microseconds
                let place = Place(end: end, key: keys.withText(row) { Array($0) })
                let id = batch.ids.withText(row) { Array($0) }
                if let known = rows[place], known.time > time || (known.time == time && !known.id.lexicographicallyPrecedes(id)) {
                    continue
                }
                rows[place] = Latest(time: time, id: id, text: text(batch.records, batch.recordRows[row]))
            }
        }
        let file = try OutputFile(path)
        var bytes: [UInt8] = []
        for field in service.requestSchema.fields where field.name != timestampColumn {
            CSVText.appendField(field.name, to: &bytes)
            bytes.append(UInt8(ascii: ","))
        }
        CSVText.appendField(timestampColumn, to: &bytes)
        bytes.append(0x0A)
        let ordered = rows.keys.sorted { $0.end != $1.end ? $0.end < $1.end : $0.key.lexicographicallyPrecedes($1.key) }
        for place in ordered {
            bytes.append(contentsOf: rows[place]!.text)
            bytes.append(contentsOf: TimeText.format(EventTime(microseconds: place.end)).utf8)
            bytes.append(0x0A)
            if bytes.count > 1 << 20 {
                try file.write(bytes)
                bytes.removeAll(keepingCapacity: true)
            }
        }
        try file.write(bytes)
        try file.sync()
        try file.replace()
        return ordered.count
    }

    /// The request's fields, each with a comma behind it.
    private func text(_ records: RecordBatch, _ row: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        for (index, field) in service.requestSchema.fields.enumerated() {
            if let value = values[field.name] {
                CSVText.appendField(value, to: &bytes)
            } else if let source = sources[index] {
                switch records.cell(row: row, field: source) {
                case .null: break
                case .int64(let value): NumberText.append(value, to: &bytes)
                case .float64(let value): NumberText.append(value, to: &bytes)
                case .bool(let value): bytes.append(contentsOf: (value ? "true" : "false").utf8)
                case .time(let value): bytes.append(contentsOf: TimeText.format(EventTime(microseconds: value)).utf8)
                case .text(let start, let count): CSVText.appendField(records.string(start: start, count: count), to: &bytes)
                }
            }
            bytes.append(UInt8(ascii: ","))
        }
        return bytes
    }
}
