import WeirAlgebra

/// Parses CSV files into records of a schema. Columns are matched by the header in any order; columns that the schema does not
/// have are ignored. An empty field is the empty string for a text, null for an optional field, and malformed otherwise.
public struct CSVRecordParser: Sendable {
    private let schema: RecordSchema
    private var splitter: CSVSplitter
    /// For each field of the schema its column; nil for an optional one that the file does not have.
    private var columns: [Int?] = []
    private var columnCount = 0
    public private(set) var header: [String]?
    /// The header as it stands in the file.
    public private(set) var headerLine: [UInt8] = []
    /// The rest of a line that is too long is still to be read over.
    public private(set) var isSkipping = false

    public init(schema: RecordSchema, recordBytesMax: Int = Limits.csvRecordBytesMax) {
        self.schema = schema
        splitter = CSVSplitter(recordBytesMax: recordBytesMax)
    }

    /// Parses whole rows from the start of a chunk, first of all the header.
    ///
    /// - Returns: how many bytes are done with; call again with the rest and what follows it.
    /// - Throws: `RecordError` for a header without a needed column, or with a column twice.
    public mutating func parse(
        _ chunk: UnsafeRawBufferPointer, isLast: Bool, baseOffset: Int64, into batch: inout RecordBatch,
        recordsMax: Int = .max
    ) throws(RecordError) -> Int {
        var position = 0
        var records = 0
        if header == nil {
            let hasMark = chunk.starts(with: [0xEF, 0xBB, 0xBF])
            if chunk.count < 3, !isLast { return 0 }
            position = hasMark ? 3 : 0
            guard let end = try parseHeader(chunk, from: position, isLast: isLast) else { return 0 }
            position = end
        }
        while position < chunk.count, records < recordsMax {
            let start = position
            if isSkipping {
                let newline = chunk[start...].firstIndex(of: 0x0A)
                isSkipping = newline == nil
                position = newline.map { $0 + 1 } ?? chunk.count
                continue
            }
            let offset = baseOffset + Int64(start)
            switch splitter.next(chunk, from: start, isLast: isLast) {
            case .needsMore: return position
            case .blank(let end): position = end
            case .malformed(let lineEnd, let textEnd, let reason, let isCut):
                batch.appendMalformed(chunk[start..<textEnd], offset: offset, reason)
                isSkipping = isCut
                position = lineEnd
                records += 1
            case .row(let end):
                records += 1
                if splitter.fields.count != columnCount {
                    let reason = "\(splitter.fields.count) fields, where the header has \(columnCount)"
                    // Perhaps a quote too many: what follows the first line gets its own chance.
                    let line =
                        splitter.spansLines
                        ? CSVSplitter.lineEnd(chunk, from: start) : (end, Self.trimmed(chunk, start, end))
                    batch.appendMalformed(chunk[start..<line.1], offset: offset, reason)
                    position = line.0
                    continue
                }
                row(chunk, start..<Self.trimmed(chunk, start, end), offset, &batch)
                position = end
            }
        }
        return position
    }

    private static func trimmed(_ chunk: UnsafeRawBufferPointer, _ start: Int, _ end: Int) -> Int {
        var end = end
        if end > start, chunk[end - 1] == 0x0A { end -= 1 }
        if end > start, chunk[end - 1] == 0x0D { end -= 1 }
        return end
    }

    /// Returns where the header ends; nil where the chunk is too short.
    private mutating func parseHeader(_ chunk: UnsafeRawBufferPointer, from start: Int, isLast: Bool)
        throws(RecordError) -> Int?
    {
        let end: Int
        switch splitter.next(chunk, from: start, isLast: isLast) {
        case .needsMore: return nil
        case .blank: throw RecordError("the first line is empty; it must name the columns")
        case .malformed(_, _, let reason, _): throw RecordError("the header: \(reason)")
        case .row(let rowEnd): end = rowEnd
        }
        var names: [String] = []
        for field in splitter.fields {
            guard let name = String(validating: splitter.text(field, chunk), as: UTF8.self) else {
                throw RecordError("the header is no valid UTF-8")
            }
            names.append(name)
        }
        columns = []
        for field in schema.fields {
            let found = names.indices.filter { names[$0] == field.name }
            if found.count > 1 { throw RecordError("the header names the column '\(field.name)' twice") }
            if found.isEmpty, !field.isOptional {
                throw RecordError("the header has no column '\(field.name)'; it has: \(names.joined(separator: ", "))")
            }
            columns.append(found.first)
        }
        columnCount = names.count
        header = names
        headerLine = Array(chunk[start..<end])
        return end
    }

    private mutating func row(
        _ chunk: UnsafeRawBufferPointer, _ range: Range<Int>, _ offset: Int64, _ batch: inout RecordBatch
    ) {
        let rawStart = batch.bytes.count
        batch.bytes.append(contentsOf: chunk[range])
        let raw = rawStart..<batch.bytes.count
        let cellMark = batch.cells.count
        for (index, field) in schema.fields.enumerated() {
            guard let column = columns[index] else {
                batch.cells.append(.null)
                continue
            }
            let piece = splitter.fields[column]
            do throws(RecordError) {
                if piece.isInChunk {
                    let text = UnsafeRawBufferPointer(rebasing: chunk[piece.start..<piece.start + piece.count])
                    batch.cells.append(try cell(field, text, at: rawStart + piece.start - range.lowerBound))
                } else {
                    let start = batch.bytes.count
                    batch.bytes.append(contentsOf: splitter.text(piece, chunk))
                    let text = Array(batch.bytes[start...])
                    let result: Result<Cell, RecordError> = text.withUnsafeBytes { bytes in
                        do throws(RecordError) { return .success(try cell(field, bytes, at: start)) } catch {
                            return .failure(error)
                        }
                    }
                    batch.cells.append(try result.get())
                }
            } catch {
                batch.cells.removeLast(batch.cells.count - cellMark)
                batch.malformed.append(
                    .init(raw: raw, offset: offset, reason: RecordError(field: field.name, error.reason).description))
                return
            }
        }
        batch.rows.append(.init(raw: raw, offset: offset))
    }

    private func cell(_ field: Field, _ text: UnsafeRawBufferPointer, at start: Int) throws(RecordError) -> Cell {
        if text.isEmpty {
            if field.isOptional { return .null }
            if field.type == .text { return .text(start: start, count: 0) }
            throw RecordError("it is empty")
        }
        switch field.type {
        case .int64:
            do throws(Numbers.IntegerProblem) {
                return .int64(try Numbers.int64(text, isLenient: true))
            } catch {
                throw RecordError(
                    error == .outOfRange ? "\(shown(text)) does not fit 64 bits" : "'\(shown(text))' is no integer")
            }
        case .float64:
            guard let value = Numbers.double(text, isLenient: true) else {
                throw RecordError("'\(shown(text))' is no number")
            }
            guard value.isFinite else { throw RecordError("\(shown(text)) is beyond Double's range") }
            return .float64(value)
        case .bool:
            switch String(decoding: text, as: UTF8.self) {
            case "true", "True", "TRUE", "1": return .bool(true)
            case "false", "False", "FALSE", "0": return .bool(false)
            default: throw RecordError("'\(shown(text))' is neither true nor false")
            }
        case .text:
            guard isValidUTF8(text) else { throw RecordError("it is no valid UTF-8") }
            return .text(start: start, count: text.count)
        case .time:
            let isNumber = text.allSatisfy {
                (48...57).contains($0) || $0 == UInt8(ascii: ".") || $0 == UInt8(ascii: "-")
            }
            // A date has a second dash; a negative number has one at its start alone.
            if isNumber, !text.dropFirst().contains(UInt8(ascii: "-")) {
                return .time(try TimeText.parseNumber(text, unit: schema.timestampUnit))
            }
            return .time(try TimeText.parseRFC3339(text))
        case .json:
            _ = try JSONTreeParser.parse(text)
            return .text(start: start, count: text.count)
        }
    }
}

extension RecordBatch {
    mutating func appendMalformed(_ raw: Slice<UnsafeRawBufferPointer>, offset: Int64, _ reason: String) {
        let start = bytes.count
        bytes.append(contentsOf: raw)
        malformed.append(.init(raw: start..<bytes.count, offset: offset, reason: reason))
    }
}

/// All rows of a CSV file as text, for files whose columns are carried along, such as spines.
public struct CSVTable: Sendable {
    public struct Row: Sendable {
        public var fields: [String]
        /// The physical line that it begins on; the header is on line 1.
        public var line: Int
    }
    public let header: [String]
    public private(set) var rows: [Row] = []

    /// - Throws: `RecordError` that names the line.
    public init(_ bytes: [UInt8], recordBytesMax: Int = Limits.recordBytesMax) throws(RecordError) {
        let result: Result<([String], [Row]), RecordError> = bytes.withUnsafeBytes { chunk in
            do throws(RecordError) { return .success(try Self.split(chunk, recordBytesMax)) } catch {
                return .failure(error)
            }
        }
        (header, rows) = try result.get()
    }

    private static func split(_ chunk: UnsafeRawBufferPointer, _ recordBytesMax: Int) throws(RecordError) -> (
        [String], [Row]
    ) {
        var splitter = CSVSplitter(recordBytesMax: recordBytesMax)
        var position = chunk.starts(with: [0xEF, 0xBB, 0xBF]) ? 3 : 0
        var line = 1
        var header: [String]?
        var rows: [Row] = []
        while position < chunk.count {
            let start = position
            switch splitter.next(chunk, from: start, isLast: true) {
            case .needsMore: throw RecordError("line \(line): the file is truncated")
            case .blank(let end): position = end
            case .malformed(_, _, let reason, _): throw RecordError("line \(line): \(reason)")
            case .row(let end):
                var fields: [String] = []
                for field in splitter.fields {
                    guard let text = String(validating: splitter.text(field, chunk), as: UTF8.self) else {
                        throw RecordError("line \(line): no valid UTF-8")
                    }
                    fields.append(text)
                }
                if let header {
                    guard fields.count == header.count else {
                        throw RecordError("line \(line): \(fields.count) fields, where the header has \(header.count)")
                    }
                    rows.append(Row(fields: fields, line: line))
                } else {
                    header = fields
                }
                position = end
            }
            line += chunk[start..<position].count { $0 == 0x0A }
        }
        guard let header else { throw RecordError("the file is empty; its first line must name the columns") }
        return (header, rows)
    }
}

/// Writes CSV as RFC 4180 says, with line feeds.
public enum CSVText {
    public static func appendField(_ text: String, to bytes: inout [UInt8]) {
        let needsQuotes = text.utf8.contains {
            $0 == UInt8(ascii: ",") || $0 == UInt8(ascii: "\"") || $0 == 0x0A || $0 == 0x0D
        }
        guard needsQuotes else { return bytes.append(contentsOf: text.utf8) }
        bytes.append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            if byte == UInt8(ascii: "\"") { bytes.append(byte) }
            bytes.append(byte)
        }
        bytes.append(UInt8(ascii: "\""))
    }
}
