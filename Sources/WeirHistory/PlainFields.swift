import Foundation
import GRDB
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirRecords

/// How a view's columns are read from the history's fields.
///
/// A column that is a stored property has its field's cells; an event is decoded only where there are filters, or a column that only a
/// decoded event has. That a property has its field's value is what a synthesized `init(from:)` does; one of the user's own may do something
/// else. So every accepted event is compared, and a field that was ever changed is remembered (`PlainFields`); and since the code may have
/// become another since, a scan decodes and compares some rows of each segment.
package struct ColumnSource: Sendable {
    /// For each wanted column of the view its field; nil: events are decoded.
    let fields: [(column: Int, field: Int)]?

    /// Decodes every event.
    package static let events = ColumnSource(fields: nil)

    package var isPlain: Bool { fields != nil }

    init(fields: [(column: Int, field: Int)]?) { self.fields = fields }

    init(_ view: ViewPlan, _ schema: RecordSchema, _ projection: EntityProjection, changedFields: Set<String>) {
        self.init(fields: nil)
        if projection.filters { return }
        var fields: [(column: Int, field: Int)] = []
        for column in projection.columns {
            guard let field = Self.field(of: view.columns[column], schema), !changedFields.contains(schema.fields[field].name) else {
                return
            }
            fields.append((column, field))
        }
        self.init(fields: fields)
    }

    /// The field that a stored property is decoded from by name and type; nil where there is none.
    static func field(of column: ViewPlan.Column, _ schema: RecordSchema) -> Int? {
        guard !column.signature.contains(":"), !column.signature.contains("."), let field = schema.index(of: wireName(column.signature)),
            schema.fields[field].type.isColumn(column.type)
        else { return nil }
        return field
    }
}

extension FieldType {
    fileprivate func isColumn(_ type: ColumnType) -> Bool {
        switch (self, type) {
        case (.int64, .int64), (.float64, .float64), (.bool, .bool), (.text, .text): true
        default: false
        }
    }
}

/// A property does not have its field's value: the events are to be decoded.
package struct ColumnsAreNotPlain: Error {}

/// Notices where an event's own decoding gives a property another value than its field has.
struct PlainFields {
    private let stream: String
    private let schema: RecordSchema
    /// Columns of views that have a field by name and type.
    private var candidates: [(view: Int, column: Int, field: Int)] = []
    private var changed: Set<String> = []

    init(_ stream: any StreamPlan) {
        self.stream = stream.name
        schema = stream.schema
        for (number, view) in stream.views.enumerated() {
            for (index, column) in view.columns.enumerated() {
                guard let field = ColumnSource.field(of: column, schema), !candidates.contains(where: { $0.field == field }) else {
                    continue
                }
                candidates.append((number, index, field))
            }
        }
    }

    /// Writes down which fields the accepted events changed.
    mutating func check(_ accepted: AcceptedBatch, _ db: Database) throws {
        for candidate in candidates where !changed.contains(schema.fields[candidate.field].name) {
            let column = accepted.batch.views[candidate.view].columns[candidate.column]
            guard !accepted.rows.allSatisfy({ isPlain(accepted.batch, $0, column, candidate.field) }) else { continue }
            changed.insert(schema.fields[candidate.field].name)
            try db.execute(
                sql: "INSERT OR REPLACE INTO weir_meta (key, value) VALUES (?, '')",
                arguments: [Self.prefix + stream + "." + schema.fields[candidate.field].name])
        }
    }

    /// Forgets what a transaction that was rolled back has written down.
    mutating func reset() { changed = [] }

    private func isPlain(_ batch: PreparedBatch, _ row: Int, _ column: ColumnBuffer, _ field: Int) -> Bool {
        let isNull = column.isNull(row)
        switch batch.records.cell(row: batch.recordRows[row], field: field) {
        case .null: return isNull
        case .int64(let value), .time(let value): return !isNull && column.int64s[row] == value
        case .bool(let value): return !isNull && column.int64s[row] == (value ? 1 : 0)
        // −0 and 0 are one value of a column.
        case .float64(let value): return !isNull && column.float64s[row].bitPattern == (value + 0).bitPattern
        case .text(let start, let count):
            return !isNull
                && column.withText(row) { text in batch.records.withText(start: start, count: count) { compareBytes(text, $0) == 0 } }
        }
    }

    private static let prefix = "changed by decoding "

    /// For each stream the fields that its events' own decoding has changed.
    static func changed(_ db: Database) throws -> [String: Set<String>] {
        var changed: [String: Set<String>] = [:]
        for key in try String.fetchAll(db, sql: "SELECT key FROM weir_meta WHERE key LIKE ?", arguments: [prefix + "%"]) {
            let parts = key.dropFirst(prefix.count).split(separator: ".")
            if parts.count == 2 { changed[String(parts[0]), default: []].insert(String(parts[1])) }
        }
        return changed
    }
}
