import Crypto
import Foundation
import WeirAlgebra
import WeirRecords

/// Reads a CSV file's records in batches: the file may be larger than memory.
struct CSVFile {
    private static let chunkBytes = 1 << 20

    let path: String
    let schema: RecordSchema
    let size: Int
    private var parser: CSVRecordParser
    private let file: FileHandle
    private var pending: [UInt8] = []
    private var pendingStart = 0
    private(set) var bytesRead = 0
    private var isAtEnd = false
    private var hash = SHA256()

    /// - Throws: `ExportError` where the file cannot be read.
    init(path: String, schema: RecordSchema) throws {
        guard let file = FileHandle(forReadingAtPath: path), let size = try? file.seekToEnd() else {
            throw ExportError("cannot read \(path)")
        }
        try file.seek(toOffset: 0)
        self.path = path
        self.schema = schema
        self.file = file
        self.size = Int(size)
        parser = CSVRecordParser(schema: schema, recordBytesMax: Limits.recordBytesMax)
    }

    /// The names of the columns; nil before the header was read, and of an empty file.
    var header: [String]? { parser.header }

    /// The header as it stands in the file, without its line end.
    var headerText: [UInt8] {
        var line = parser.headerLine
        while let last = line.last, last == 0x0A || last == 0x0D { line.removeLast() }
        return line
    }

    /// Reads the header alone, so that what is wrong with it is said before anything else is done.
    ///
    /// - Throws: `RecordError` that says what is wrong with it.
    mutating func readHeader() throws {
        repeat { try fill() } while !pending.contains(0x0A) && !isAtEnd
        var none = RecordBatch(schema: schema)
        try parse(into: &none, rows: 0)
    }

    /// The names in a header that `readHeader` refused.
    var refusedHeader: [String] {
        (try? CSVTable(Array(pending.prefix { $0 != 0x0A }), recordBytesMax: Limits.recordBytesMax))?.header ?? []
    }

    /// The next records, at most so many; fewer only at the end, or where one is malformed.
    ///
    /// - Throws: `RecordError` for a header that the schema does not fit.
    mutating func next(rows: Int) throws -> RecordBatch {
        var records = RecordBatch(schema: schema)
        while true {
            try parse(into: &records, rows: rows - records.rows.count)
            if records.rows.count >= rows || !records.malformed.isEmpty || isAtEnd { return records }
            pending.removeFirst(pendingStart)
            pendingStart = 0
            try fill()
        }
    }

    private mutating func fill() throws {
        guard let data = try file.read(upToCount: Self.chunkBytes), !data.isEmpty else {
            isAtEnd = true
            return
        }
        hash.update(data: data)
        bytesRead += data.count
        pending.append(contentsOf: data)
    }

    private mutating func parse(into records: inout RecordBatch, rows: Int) throws {
        let offset = Int64(bytesRead - (pending.count - pendingStart))
        pendingStart += try pending[pendingStart...].withUnsafeBytes { chunk in
            try parser.parse(chunk, isLast: isAtEnd, baseOffset: offset, into: &records, recordsMax: rows)
        }
    }

    /// Of all of the file; it must have been read to its end.
    func sha256() -> String { hexadecimal(hash.finalize()) }

    /// The line that a byte stands on, counted from 1. Reads the file anew.
    func line(at offset: Int64) -> Int {
        var line = 1
        var left = Int(offset)
        guard let file = FileHandle(forReadingAtPath: path) else { return line }
        while left > 0, let data = try? file.read(upToCount: min(left, Self.chunkBytes)), !data.isEmpty {
            line += data.count { $0 == 0x0A }
            left -= data.count
        }
        return line
    }
}
