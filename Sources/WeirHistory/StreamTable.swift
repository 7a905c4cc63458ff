import GRDB
import WeirDefinitions
import WeirRecords

/// The table of one stream: names of columns, and the SQL over them.
///
/// Columns that are not the event's own begin with `_`: `_seq` (the order of acceptance, over all streams), `_ingest_time`,
/// `_source`, `_partition`, `_offset`, `_key_hash` (with event time and id the identity), `_key_VIEW` (the entity's key in a view).
package struct StreamTable: Sendable {
    package let stream: any StreamPlan
    package let name: String
    /// Of the event time: the field `event_time`.
    package let timeColumn: String
    package let idColumn: String?
    let idField: Int?

    package init(_ stream: any StreamPlan) throws(DefinitionError) {
        self.stream = stream
        name = Self.quote(stream.name)
        if stream.name.hasPrefix("weir_") || stream.name.hasPrefix("sqlite_") || stream.name.hasPrefix("grdb_") {
            throw DefinitionError("stream '\(stream.name)': names that begin with weir_, sqlite_ or grdb_ are taken by the history")
        }
        guard let time = stream.schema.fields.first(where: { $0.name == "event_time" && $0.type == .time && !$0.isOptional })
        else {
            throw DefinitionError(
                "stream '\(stream.name)': the event needs a stored property `eventTime: EventTime` with the wire name event_time")
        }
        timeColumn = Self.quote(time.name)
        if stream.hasIDs {
            guard let id = stream.schema.fields.first(where: { $0.name == "id" && !$0.isOptional }) else {
                throw DefinitionError("stream '\(stream.name)': the event's `id` must be a stored property with the wire name id")
            }
            idColumn = Self.quote(id.name)
            idField = stream.schema.index(of: id.name)
        } else {
            idColumn = nil
            idField = nil
        }
        if let clash = stream.schema.fields.first(where: { $0.name.hasPrefix("_") }) {
            throw DefinitionError("stream '\(stream.name)': the field '\(clash.name)' begins with _, as only the history's own columns do")
        }
    }

    static func quote(_ name: String) -> String { "\"" + name + "\"" }

    static func keyColumn(_ view: ViewPlan) -> String { quote("_key_" + view.name) }

    /// Makes the table, or refuses one that was made for other fields.
    func create(_ db: Database) throws {
        let fields = stream.schema.fields.map { field in
            "\(Self.quote(field.name)) \(field.type.sqlType)\(field.isOptional ? "" : " NOT NULL")"
        }
        let keys = stream.views.map { "\(Self.keyColumn($0)) TEXT" }
        let own = [
            "_seq INTEGER PRIMARY KEY", "_ingest_time INTEGER NOT NULL", "_source INTEGER NOT NULL", "_partition INTEGER NOT NULL",
            "_offset INTEGER NOT NULL", "_key_hash INTEGER NOT NULL",
        ]
        try db.execute(sql: "CREATE TABLE IF NOT EXISTS \(name) (\((own + keys + fields).joined(separator: ", "))) STRICT")
        // What earlier builds kept: segments and the tail's index do their work.
        for index in [stream.name + "_identity", stream.name + "_time"] + stream.views.map({ stream.name + "_" + $0.name }) {
            try db.execute(sql: "DROP INDEX IF EXISTS \(Self.quote(index))")
        }
    }

    /// Columns for fields that the event did not have when the table was made.
    func addMissingColumns(_ db: Database) throws {
        let known = Set(try db.columns(in: stream.name).map(\.name))
        for field in stream.schema.fields where !known.contains(field.name) {
            try db.execute(sql: "ALTER TABLE \(name) ADD COLUMN \(Self.quote(field.name)) \(field.type.sqlType)")
        }
    }

    /// What is bound of one row.
    var insertedColumns: Int { 6 + stream.views.count + stream.schema.fields.count }

    /// - Parameter rows: how many one statement takes.
    func insertSQL(rows: Int) -> String {
        let columns =
            ["_seq", "_ingest_time", "_source", "_partition", "_offset", "_key_hash"]
            + stream.views.map(Self.keyColumn) + stream.schema.fields.map { Self.quote($0.name) }
        let marks = Array(repeating: "?", count: columns.count).joined(separator: ", ")
        let values = Array(repeating: "(\(marks))", count: rows).joined(separator: ", ")
        return "INSERT INTO \(name) (\(columns.joined(separator: ", "))) VALUES \(values)"
    }

    /// `_seq`, `_key_hash`, then the fields.
    var selectList: String {
        (["_seq", "_key_hash"] + fieldColumns).joined(separator: ", ")
    }

    /// Columns that the table has not: of optional fields and views that are new. Code that is newer than the history reads it beside who
    /// writes to it.
    private var missing: Set<String> = []

    /// - Parameter known: the table's columns.
    mutating func leaveOut(columnsOtherThan known: Set<String>) {
        let known = Set(known.map(Self.quote))
        missing = Set(stream.schema.fields.map { Self.quote($0.name) } + stream.views.map(Self.keyColumn)).subtracting(known)
    }

    private func selected(_ column: String) -> String { missing.contains(column) ? "NULL" : column }

    private var fieldColumns: [String] { stream.schema.fields.map { selected(Self.quote($0.name)) } }
    private var keyColumns: [String] { stream.views.map { selected(Self.keyColumn($0)) } }

    /// What a segment is made of: `_seq`, `_ingest_time`, `_key_hash`, the keys, the fields.
    var segmentSQL: String {
        let columns = ["_seq", "_ingest_time", "_key_hash"] + keyColumns + fieldColumns
        return "SELECT \(columns.joined(separator: ", ")) FROM \(name) WHERE _seq > ? ORDER BY _seq LIMIT ?"
    }

    /// What the tail's index is made of: `_seq`, event time, `_key_hash`, the id (or null), the keys.
    var tailSQL: String {
        let columns = ["_seq", timeColumn, "_key_hash", idColumn ?? "NULL"] + keyColumns
        return "SELECT \(columns.joined(separator: ", ")) FROM \(name) WHERE _seq > ? ORDER BY _seq"
    }

    /// One row of a view's entity, as `selectList` has it, that was learned of by a time.
    func rowSQL(_ view: ViewPlan) -> String {
        "SELECT \(selectList) FROM \(name) WHERE _seq = ? AND \(Self.keyColumn(view)) = ? AND _ingest_time <= ?"
    }

    /// The fields of one row, where it has an identity.
    var identitySQL: String {
        "SELECT \(fieldColumns.joined(separator: ", ")) FROM \(name) WHERE _seq = ? AND \(timeColumn) = ? AND \(idColumn ?? "NULL") = ? AND _key_hash = ?"
    }
}

extension FieldType {
    fileprivate var sqlType: String {
        switch self {
        case .int64, .bool, .time: "INTEGER"
        case .float64: "REAL"
        case .text, .json: "TEXT"
        }
    }
}
