import WeirAlgebra

/// Parses JSON objects into records of a schema, one pass over the bytes.
public struct JSONRecordParser: Sendable {
    public enum UnknownFields: Sendable {
        /// Read over, as events may have more fields than a view needs.
        case ignored
        /// An error, as a request with a field that nothing reads is a mistake.
        case rejected
    }

    private let schema: RecordSchema
    private let unknownFields: UnknownFields
    private let names: [[UInt8]]
    private var scratch: [UInt8] = []
    private var cells: [Cell] = []
    private var isSet: [Bool] = []
    private var plain: PlainJSONRecord?

    public init(schema: RecordSchema, unknownFields: UnknownFields = .ignored) {
        self.schema = schema
        self.unknownFields = unknownFields
        names = schema.fields.map { Array($0.name.utf8) }
        plain = PlainJSONRecord(schema)
    }

    /// Copies one JSON text into the batch and parses it: a row, or a malformed record with its reason.
    public mutating func append(_ json: [UInt8], to batch: inout RecordBatch, offset: Int64) {
        let start = batch.bytes.count
        batch.bytes.append(contentsOf: json)
        parse(start..<batch.bytes.count, in: &batch, offset: offset)
    }

    public mutating func append(_ json: UnsafeRawBufferPointer, to batch: inout RecordBatch, offset: Int64) {
        let start = batch.bytes.count
        batch.bytes.append(contentsOf: json)
        parse(start..<batch.bytes.count, in: &batch, offset: offset)
    }

    /// Appends the lines at the beginning of a chunk that have the form that machines write; the others are left.
    mutating func appendPlainLines(
        _ chunk: UnsafeRawBufferPointer, baseOffset: Int64, to batch: inout RecordBatch, linesMax: Int, lineBytesMax: Int
    ) -> (lines: Int, bytes: Int) {
        plain?.parseLines(chunk, baseOffset: baseOffset, into: &batch, linesMax: linesMax, lineBytesMax: lineBytesMax) ?? (0, 0)
    }

    /// Parses bytes that are in the batch already.
    mutating func parse(_ range: Range<Int>, in batch: inout RecordBatch, offset: Int64) {
        scratch.removeAll(keepingCapacity: true)
        cells.removeAll(keepingCapacity: true)
        cells.append(contentsOf: repeatElement(.null, count: names.count))
        let isPlain = batch.bytes.withUnsafeBytes { bytes in
            plain?.parse(UnsafeRawBufferPointer(rebasing: bytes[range]), inputStart: range.lowerBound, into: &cells) ?? false
        }
        if isPlain {
            batch.cells.append(contentsOf: cells)
            batch.rows.append(.init(raw: range, offset: offset))
            return
        }
        for field in cells.indices { cells[field] = .null }
        isSet.removeAll(keepingCapacity: true)
        isSet.append(contentsOf: repeatElement(false, count: names.count))
        let base = batch.bytes.count
        let problem: RecordError? = batch.bytes.withUnsafeBytes { bytes in
            do throws(RecordError) {
                try parse(
                    UnsafeRawBufferPointer(rebasing: bytes[range]), inputStart: range.lowerBound, scratchStart: base)
                return nil
            } catch {
                return error
            }
        }
        if let problem {
            batch.malformed.append(.init(raw: range, offset: offset, reason: problem.description))
            return
        }
        batch.bytes.append(contentsOf: scratch)
        batch.cells.append(contentsOf: cells)
        batch.rows.append(.init(raw: range, offset: offset))
    }

    private mutating func parse(_ bytes: UnsafeRawBufferPointer, inputStart: Int, scratchStart: Int) throws(RecordError) {
        var scanner = JSONScanner(bytes)
        guard try scanner.peek() == UInt8(ascii: "{") else { throw scanner.error("a JSON object expected") }
        scanner.position += 1
        var expected = 0
        if try scanner.peek() == UInt8(ascii: "}") {
            scanner.position += 1
        } else {
            repeat {
                guard try scanner.peek() == UInt8(ascii: "\"") else {
                    throw scanner.error("a field's name in quotes expected")
                }
                let scratchMark = scratch.count
                let key = try scanner.string(&scratch)
                try scanner.expect(UInt8(ascii: ":"))
                if let index = field(key, bytes, &expected) {
                    scratch.removeLast(scratch.count - scratchMark)
                    guard !isSet[index] else { throw RecordError(field: schema.fields[index].name, "it occurs twice") }
                    isSet[index] = true
                    cells[index] = try value(&scanner, schema.fields[index], inputStart, scratchStart)
                } else if unknownFields == .rejected {
                    let name = name(key, bytes)
                    throw RecordError(
                        "there is no field '\(name)'; there are: \(schema.fields.map(\.name).joined(separator: ", "))")
                } else {
                    try scanner.skipValue(&scratch)
                    scratch.removeLast(scratch.count - scratchMark)
                }
            } while try scanner.continues(until: UInt8(ascii: "}"))
        }
        scanner.skipSpace()
        guard scanner.isAtEnd else { throw scanner.error("something follows the JSON object") }
        for (index, field) in schema.fields.enumerated() where !field.isOptional && cells[index] == .null {
            throw RecordError(field: field.name, isSet[index] ? "it is null" : "it is missing")
        }
    }

    private func name(_ key: JSONScanner.Piece, _ bytes: UnsafeRawBufferPointer) -> String {
        switch key {
        case .input(let range): shown(UnsafeRawBufferPointer(rebasing: bytes[range]))
        case .unescaped(let range): scratch.withUnsafeBytes { shown(UnsafeRawBufferPointer(rebasing: $0[range])) }
        }
    }

    /// The field that a key names; tried first is the one after the last, since writers keep an order.
    private func field(_ key: JSONScanner.Piece, _ bytes: UnsafeRawBufferPointer, _ expected: inout Int) -> Int? {
        func find(_ key: UnsafeRawBufferPointer, _ expected: inout Int) -> Int? {
            for step in 0..<names.count {
                var index = expected + step
                if index >= names.count { index -= names.count }
                if names[index].count == key.count, names[index].elementsEqual(key) {
                    expected = index + 1 == names.count ? 0 : index + 1
                    return index
                }
            }
            return nil
        }
        switch key {
        case .input(let range): return find(UnsafeRawBufferPointer(rebasing: bytes[range]), &expected)
        case .unescaped(let range):
            return scratch.withUnsafeBytes { find(UnsafeRawBufferPointer(rebasing: $0[range]), &expected) }
        }
    }

    private mutating func value(
        _ scanner: inout JSONScanner, _ field: Field, _ inputStart: Int, _ scratchStart: Int
    ) throws(RecordError) -> Cell {
        let first = try scanner.peek()
        if first == UInt8(ascii: "n") {
            try scanner.literal("null")
            return .null
        }
        func wrong(_ wanted: String) -> RecordError {
            RecordError(field: field.name, "\(wanted) expected at byte \(scanner.position)")
        }
        let isNumber = first == UInt8(ascii: "-") || (48...57).contains(first)
        switch field.type {
        case .int64:
            guard isNumber else { throw wrong("an integer") }
            let text = try scanner.numberText()
            do throws(Numbers.IntegerProblem) {
                return .int64(try Numbers.int64(text))
            } catch {
                throw RecordError(
                    field: field.name,
                    error == .outOfRange ? "\(shown(text)) does not fit 64 bits" : "'\(shown(text))' is no integer")
            }
        case .float64:
            guard isNumber else { throw wrong("a number") }
            let text = try scanner.numberText()
            guard let value = Numbers.double(text) else {
                throw RecordError(field: field.name, "'\(shown(text))' is no number")
            }
            guard value.isFinite else {
                throw RecordError(field: field.name, "\(shown(text)) is beyond Double's range")
            }
            return .float64(value)
        case .bool:
            if first == UInt8(ascii: "t") {
                try scanner.literal("true")
                return .bool(true)
            }
            guard first == UInt8(ascii: "f") else { throw wrong("true or false") }
            try scanner.literal("false")
            return .bool(false)
        case .text:
            guard first == UInt8(ascii: "\"") else { throw wrong("a string") }
            switch try scanner.string(&scratch) {
            case .input(let range): return .text(start: inputStart + range.lowerBound, count: range.count)
            case .unescaped(let range): return .text(start: scratchStart + range.lowerBound, count: range.count)
            }
        case .time:
            do throws(RecordError) {
                if isNumber {
                    let text = try scanner.numberText()
                    // JSON is stricter than the time's own grammar: no `01`, no `1.`
                    guard Numbers.double(text) != nil else { throw RecordError("'\(shown(text))' is no number") }
                    return .time(try TimeText.parseNumber(text, unit: schema.timestampUnit))
                }
                guard first == UInt8(ascii: "\"") else { throw wrong("a time as RFC 3339 text") }
                let mark = scratch.count
                switch try scanner.string(&scratch) {
                case .input(let range):
                    return .time(try TimeText.parseRFC3339(UnsafeRawBufferPointer(rebasing: scanner.bytes[range])))
                case .unescaped(let range):
                    let text = Array(scratch[range])
                    scratch.removeLast(scratch.count - mark)
                    return .time(try TimeText.parseRFC3339(String(decoding: text, as: UTF8.self)))
                }
            } catch {
                throw error.field == nil ? RecordError(field: field.name, error.reason) : error
            }
        case .json:
            let start = scanner.position
            let mark = scratch.count
            try scanner.skipValue(&scratch)
            scratch.removeLast(scratch.count - mark)
            return .text(start: inputStart + start, count: scanner.position - start)
        }
    }
}

/// Reads files of JSON Lines: one record a line, blank lines are skipped.
public struct JSONLinesReader: Sendable {
    private var parser: JSONRecordParser
    private let recordBytesMax: Int

    public init(schema: RecordSchema, recordBytesMax: Int = Limits.recordBytesMax) {
        parser = JSONRecordParser(schema: schema)
        self.recordBytesMax = recordBytesMax
    }

    /// The rest of a line that is too long is still to be read over.
    public private(set) var isSkipping = false

    /// Parses whole lines from the start of a chunk.
    ///
    /// - Parameters:
    ///   - isLast: nothing follows the chunk, so its last line ends with it.
    ///   - baseOffset: where in the file the chunk begins.
    ///   - recordsMax: stops after so many records.
    /// - Returns: how many bytes are done with; call again with the rest and what follows it. 0 where the chunk is too short
    ///   to hold a line and is not the last.
    public mutating func parse(
        _ chunk: UnsafeRawBufferPointer, isLast: Bool, baseOffset: Int64, into batch: inout RecordBatch,
        recordsMax: Int = .max
    ) -> Int {
        var position = 0
        var records = 0
        while position < chunk.count, records < recordsMax {
            let rest = UnsafeRawBufferPointer(rebasing: chunk[position...])
            if !isSkipping {
                let plain = parser.appendPlainLines(
                    rest, baseOffset: baseOffset + Int64(position), to: &batch, linesMax: recordsMax - records, lineBytesMax: recordBytesMax
                )
                if plain.lines > 0 {
                    records += plain.lines
                    position += plain.bytes
                    continue
                }
            }
            let newline = firstLineFeed(rest)
            if isSkipping {
                isSkipping = newline == nil
                position += newline.map { $0 + 1 } ?? rest.count
                continue
            }
            // One byte more than the limit may be a carriage return, whose line feed is still to come.
            if newline == nil, !isLast, rest.count <= recordBytesMax + 1 { break }
            var line = UnsafeRawBufferPointer(rebasing: rest[..<(newline ?? rest.count)])
            if line.last == 0x0D { line = UnsafeRawBufferPointer(rebasing: line.dropLast()) }
            let offset = baseOffset + Int64(position)
            if line.count > recordBytesMax {
                let start = batch.bytes.count
                batch.bytes.append(contentsOf: line.prefix(recordBytesMax))
                batch.malformed.append(
                    .init(
                        raw: start..<batch.bytes.count, offset: offset,
                        reason:
                            "the line is longer than a record may be (\(recordBytesMax) bytes); its beginning is kept"))
                isSkipping = newline == nil
                records += 1
            } else if line.first == UInt8(ascii: "{") || line.contains(where: { $0 != 0x20 && $0 != 0x09 }) {
                parser.append(line, to: &batch, offset: offset)
                records += 1
            }
            position += newline.map { $0 + 1 } ?? rest.count
        }
        return position
    }
}

/// Eight bytes at a time: the lowest marked byte of `(x − 0x01…) & ~x & 0x80…` is the first zero byte of x.
func firstLineFeed(_ bytes: UnsafeRawBufferPointer) -> Int? {
    var position = 0
    while position + 8 <= bytes.count {
        let word = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: position, as: UInt64.self)) ^ 0x0A0A_0A0A_0A0A_0A0A
        let marked = (word &- 0x0101_0101_0101_0101) & ~word & 0x8080_8080_8080_8080
        if marked != 0 { return position + marked.trailingZeroBitCount / 8 }
        position += 8
    }
    while position < bytes.count {
        if bytes[position] == 0x0A { return position }
        position += 1
    }
    return nil
}
