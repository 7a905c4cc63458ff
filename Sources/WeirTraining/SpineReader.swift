import Crypto
import Foundation
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
    private static let chunkBytes = 1 << 20

    let path: String
    private let rowsPerBlock: Int
    let service: ServicePlan
    let timestampColumn: String
    let header: [String]
    /// The header as it stands in the file, without its line end.
    let headerText: [UInt8]
    let size: Int
    /// The request's fields, and the time.
    private let schema: RecordSchema
    private let timeField: Int
    private var parser: CSVRecordParser
    private let file: FileHandle
    private var pending: [UInt8] = []
    private var pendingStart = 0
    private(set) var bytesRead = 0
    private var isAtEnd = false
    private var rowCount = 0
    /// How many blocks were read.
    private(set) var blockCount = 0
    private var hash = SHA256()

    init(path: String, service: ServicePlan, timestampColumn: String, rowsPerBlock: Int) throws {
        self.path = path
        self.rowsPerBlock = rowsPerBlock
        self.service = service
        self.timestampColumn = timestampColumn
        guard let file = FileHandle(forReadingAtPath: path), let size = try? file.seekToEnd() else {
            throw ExportError("cannot read the spine \(path)")
        }
        try file.seek(toOffset: 0)
        self.file = file
        self.size = Int(size)
        let request = service.requestSchema
        if let known = request.index(of: timestampColumn) {
            guard [.time, .int64, .text].contains(request.fields[known].type) else {
                throw ExportError(
                    "the request's field '\(timestampColumn)' of \(service.name) is no time; name another column with --timestamp-column")
            }
            schema = request
            timeField = known
        } else {
            schema = RecordSchema(
                name: request.name, fields: request.fields + [Field(name: timestampColumn, type: .time, isOptional: false)],
                timestampUnit: request.timestampUnit)
            timeField = request.fields.count
        }
        parser = CSVRecordParser(schema: schema, recordBytesMax: Limits.recordBytesMax)
        // The header alone, so that what is wrong with it is said before anything is computed.
        var head = RecordBatch(schema: schema)
        repeat { try Self.fill(&pending, file, &bytesRead, &isAtEnd, &hash) } while !pending.contains(0x0A) && !isAtEnd
        do throws(RecordError) {
            pendingStart = try Self.parse(&parser, pending[...], isLast: isAtEnd, offset: 0, &head, rows: 0)
        } catch {
            // Its own words for the column that requests do not have.
            let names = Self.names(pending)
            if !names.isEmpty, !names.contains(timestampColumn) {
                throw ExportError(
                    "spine \(path): there is no column '\(timestampColumn)' with the times; name another with --timestamp-column (there are: \(names.joined(separator: ", ")))"
                )
            }
            throw ExportError("spine \(path): \(error)")
        }
        guard let header = parser.header else {
            throw ExportError("spine \(path): the file is empty; its first line must name the columns")
        }
        if let clash = (service.outputs + service.labels).first(where: { header.contains($0.name) }) {
            throw ExportError("spine \(path): the column '\(clash.name)' has the name of a feature; rename it")
        }
        self.header = header
        var line = parser.headerLine
        while let last = line.last, last == 0x0A || last == 0x0D { line.removeLast() }
        headerText = line
    }

    /// The names in a header that the parser refused.
    private static func names(_ bytes: [UInt8]) -> [String] {
        (try? CSVTable(Array(bytes.prefix { $0 != 0x0A }), recordBytesMax: Limits.recordBytesMax))?.header ?? []
    }

    private static func fill(
        _ pending: inout [UInt8], _ file: FileHandle, _ bytesRead: inout Int, _ isAtEnd: inout Bool, _ hash: inout SHA256
    ) throws {
        guard let data = try file.read(upToCount: chunkBytes), !data.isEmpty else {
            isAtEnd = true
            return
        }
        hash.update(data: data)
        bytesRead += data.count
        pending.append(contentsOf: data)
    }

    private static func parse(
        _ parser: inout CSVRecordParser, _ bytes: ArraySlice<UInt8>, isLast: Bool, offset: Int, _ records: inout RecordBatch, rows: Int
    ) throws(RecordError) -> Int {
        let result: Result<Int, RecordError> = bytes.withUnsafeBytes { chunk in
            do throws(RecordError) {
                return .success(try parser.parse(chunk, isLast: isLast, baseOffset: Int64(offset), into: &records, recordsMax: rows))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    /// The next rows; nil at the end.
    ///
    /// - Throws: `ExportError` that names the line.
    mutating func next() throws -> RawSpineBlock? {
        var records = RecordBatch(schema: schema)
        while records.rows.count < rowsPerBlock {
            let offset = bytesRead - (pending.count - pendingStart)
            do throws(RecordError) {
                pendingStart += try Self.parse(
                    &parser, pending[pendingStart...], isLast: isAtEnd, offset: offset, &records,
                    rows: rowsPerBlock - records.rows.count)
            } catch {
                throw ExportError("spine \(path): \(error)")
            }
            if let malformed = records.malformed.first { throw failure(at: malformed.offset, malformed.reason) }
            if records.rows.count >= rowsPerBlock { break }
            if isAtEnd { break }
            pending.removeFirst(pendingStart)
            pendingStart = 0
            try Self.fill(&pending, file, &bytesRead, &isAtEnd, &hash)
        }
        if records.rows.isEmpty { return nil }
        defer {
            rowCount += records.rows.count
            blockCount += 1
        }
        return RawSpineBlock(records: records, firstRow: rowCount)
    }

    /// Of all of the file; it must have been read to its end.
    func sha256() -> String { hexadecimal(hash.finalize()) }

    func makeDecoder() -> SpineDecoder { SpineDecoder(self, schema, timeField) }

    func failure(at offset: Int64, _ reason: String) -> ExportError {
        // Lines are counted where one is to be named.
        var line = 1
        var left = Int(offset)
        if let file = FileHandle(forReadingAtPath: path) {
            while left > 0, let data = try? file.read(upToCount: min(left, Self.chunkBytes)), !data.isEmpty {
                line += data.count { $0 == 0x0A }
                left -= data.count
            }
        }
        return ExportError("spine \(path): line \(line): \(reason)")
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
        let joins = reader.service.joins + reader.service.labelJoins
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

func hexadecimal(_ digest: some Sequence<UInt8>) -> String {
    digest.map { byte in
        let digits = String(byte, radix: 16)
        return byte < 16 ? "0" + digits : digits
    }.joined()
}
