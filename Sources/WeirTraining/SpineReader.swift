import WeirAlgebra
import WeirDefinitions
import WeirRecords

/// Which rows of a spine are taken.
package struct SpineSelection: Sendable {
    /// Rows with times in `[from, to)`.
    package var from: EventTime?
    package var to: EventTime?
    /// A share of the rows, from 0 to 1: always the same ones of a file.
    package var sample: Double?

    package init(from: EventTime? = nil, to: EventTime? = nil, sample: Double? = nil) {
        self.from = from
        self.to = to
        self.sample = sample
    }

    func takes(_ time: EventTime, row: Int) -> Bool {
        if let from, time < from { return false }
        if let to, time >= to { return false }
        guard let sample else { return true }
        return Double(StableHash.xxh64(UInt64(row)) >> 11) < sample * 9_007_199_254_740_992
    }
}

/// Some rows of a spine as they were read, not decoded yet.
struct RawSpineBlock: Sendable {
    let records: RecordBatch
    /// The number of the first row in the file; the header is none.
    let firstRow: Int
}

/// Some rows of a spine: requests at past times.
struct SpineBlock: Sendable {
    /// The rows as they stand in the file, without line ends, one after another.
    var text: [UInt8] = []
    var textEnds: [Int] = []
    /// Where each row stands in the file.
    var offsets: [Int64] = []
    var times: [EventTime] = []
    /// For each join the entity's key; null where the request has none.
    var keys: [ColumnBuffer] = []
    /// Empty where no feature is computed from them.
    var requests: [any Sendable] = []

    var count: Int { times.count }

    func text(_ row: Int) -> Range<Int> { (row == 0 ? 0 : textEnds[row - 1])..<textEnds[row] }
}

/// Reads a spine, a CSV file, in blocks of rows: the file may be larger than memory.
struct SpineReader {
    let service: ServicePlan
    let timestampColumn: String
    private let rowsPerBlock: Int
    /// Of the request's fields, and the time.
    private var file: CSVFile
    private let timeField: Int
    private var rowCount = 0
    /// How many blocks were read.
    private(set) var blockCount = 0

    init(path: String, service: ServicePlan, timestampColumn: String, rowsPerBlock: Int) throws {
        self.rowsPerBlock = rowsPerBlock
        self.service = service
        self.timestampColumn = timestampColumn
        var schema = service.requestSchema
        if let known = schema.index(of: timestampColumn) {
            guard [.time, .int64, .text].contains(schema.fields[known].type) else {
                throw ExportError(
                    "the request's field '\(timestampColumn)' of \(service.name) is no time; name another column with --timestamp-column")
            }
            timeField = known
        } else {
            timeField = schema.fields.count
            schema.fields.append(Field(name: timestampColumn, type: .time, isOptional: false))
        }
        do { file = try CSVFile(path: path, schema: schema) } catch { throw ExportError("cannot read the spine \(path)") }
        do { try file.readHeader() } catch let error as RecordError {
            // Its own words for the column that requests do not have.
            let names = file.refusedHeader
            if !names.isEmpty, !names.contains(timestampColumn) {
                throw ExportError(
                    "spine \(path): there is no column '\(timestampColumn)' with the times; name another with --timestamp-column (there are: \(names.joined(separator: ", ")))"
                )
            }
            throw ExportError("spine \(path): \(error)")
        }
        guard let header = file.header else {
            throw ExportError("spine \(path): the file is empty; its first line must name the columns")
        }
        if let clash = (service.outputs + service.labels).first(where: { header.contains($0.name) }) {
            throw ExportError("spine \(path): the column '\(clash.name)' has the name of a feature; rename it")
        }
    }

    var headerText: [UInt8] { file.headerText }
    var size: Int { file.size }
    var bytesRead: Int { file.bytesRead }

    /// The next rows; nil at the end.
    ///
    /// - Throws: `ExportError` that names the line.
    mutating func next() throws -> RawSpineBlock? {
        let records = try file.next(rows: rowsPerBlock)
        if let malformed = records.malformed.first { throw failure(at: malformed.offset, malformed.reason) }
        if records.rows.isEmpty { return nil }
        defer {
            rowCount += records.rows.count
            blockCount += 1
        }
        return RawSpineBlock(records: records, firstRow: rowCount)
    }

    /// Of all of the file; it must have been read to its end.
    func sha256() -> String { file.sha256() }

    func makeDecoder() -> SpineDecoder { SpineDecoder(self, file.schema, timeField) }

    func failure(at offset: Int64, _ reason: String) -> ExportError {
        ExportError("spine \(file.path): line \(file.line(at: offset)): \(reason)")
    }
}

/// Makes requests of a spine's rows. For one thread.
final class SpineDecoder {
    private let reader: SpineReader
    private let timeField: Int
    private let decoder: any RequestRowDecoding

    init(_ reader: SpineReader, _ schema: RecordSchema, _ timeField: Int) {
        self.reader = reader
        self.timeField = timeField
        decoder = reader.service.makeRowDecoder(schema)
    }

    /// - Parameter keepsRequests: features are computed from them.
    func decode(_ raw: RawSpineBlock, _ selection: SpineSelection, keepsRequests: Bool) throws -> SpineBlock {
        let records = raw.records
        let joins = reader.service.trainingJoins
        var block = SpineBlock()
        block.keys = joins.map { _ in ColumnBuffer(type: .text) }
        decoder.load(records)
        for (row, info) in records.rows.enumerated() {
            do throws(RecordError) {
                let time = try time(records, row)
                guard selection.takes(time, row: raw.firstRow + row) else { continue }
                let request = try decoder.decode(row: row)
                for (number, join) in joins.enumerated() {
                    if let key = join.key(request) { block.keys[number].append(text: key) } else { block.keys[number].appendNull() }
                }
                block.times.append(time)
                block.text.append(contentsOf: records.bytes[info.raw])
                block.textEnds.append(block.text.count)
                block.offsets.append(info.offset)
                if keepsRequests { block.requests.append(request) }
            } catch {
                throw reader.failure(at: info.offset, "\(error)")
            }
        }
        return block
    }

    private func time(_ records: RecordBatch, _ row: Int) throws(RecordError) -> EventTime {
        switch records.cell(row: row, field: timeField) {
        case .time(let microseconds): return EventTime(microseconds: microseconds)
        case .int64(let milliseconds):
            let (microseconds, overflow) = milliseconds.multipliedReportingOverflow(by: 1_000)
            if overflow { throw RecordError(field: reader.timestampColumn, "\(milliseconds) milliseconds are beyond all times") }
            return EventTime(microseconds: microseconds)
        case .text(let start, let count) where count > 0: return try TimeText.parse(records.string(start: start, count: count))
        default: throw RecordError(field: reader.timestampColumn, "it is empty")
        }
    }
}
