/// Splits CSV (RFC 4180) into rows and fields, without looking at their types.
struct CSVSplitter: Sendable {
    /// A field's text: a slice of the chunk, or, where it has doubled quotes, of `unquoted`.
    struct Field: Sendable {
        var start: Int
        var count: Int
        var isInChunk: Bool
    }

    enum Outcome {
        /// The row ends before this position; `fields` has its fields.
        case row(end: Int)
        /// A blank line.
        case blank(end: Int)
        /// The physical line from the row's start to this position is no row. Where `isCut`, the line is longer than a record
        /// may be: it goes on behind `lineEnd`, and its rest is to be read over.
        case malformed(lineEnd: Int, textEnd: Int, reason: String, isCut: Bool)
        /// The chunk ends inside of the row.
        case needsMore
    }

    let recordBytesMax: Int
    private(set) var fields: [Field] = []
    private(set) var unquoted: [UInt8] = []
    /// Whether the row holds a line break inside of quotes.
    private(set) var spansLines = false

    init(recordBytesMax: Int) { self.recordBytesMax = recordBytesMax }

    mutating func next(_ chunk: UnsafeRawBufferPointer, from start: Int, isLast: Bool) -> Outcome {
        fields.removeAll(keepingCapacity: true)
        unquoted.removeAll(keepingCapacity: true)
        spansLines = false
        let limit = min(chunk.count, start + recordBytesMax + 1)
        var position = start
        func firstLine(_ reason: String) -> Outcome {
            // Looked for within the limit alone, so that the outcome does not hang on where the chunk happens to end.
            guard let newline = chunk[start..<limit].firstIndex(of: 0x0A) else {
                if chunk.count - start > recordBytesMax {
                    let end = start + recordBytesMax
                    return .malformed(lineEnd: end, textEnd: end, reason: reason, isCut: true)
                }
                return isLast
                    ? .malformed(lineEnd: chunk.count, textEnd: chunk.count, reason: reason, isCut: false) : .needsMore
            }
            let textEnd = newline > start && chunk[newline - 1] == 0x0D ? newline - 1 : newline
            return .malformed(lineEnd: newline + 1, textEnd: textEnd, reason: reason, isCut: false)
        }
        func unfinished(_ reason: String) -> Outcome {
            isLast || chunk.count - start > recordBytesMax ? firstLine(reason) : .needsMore
        }
        while true {
            if position < limit, chunk[position] == UInt8(ascii: "\"") {
                // A quoted field.
                position += 1
                let contentStart = position
                var doubled = false
                while true {
                    guard position < limit else {
                        return unfinished(
                            "a quoted field does not close within the \(recordBytesMax) bytes that a record may have")
                    }
                    if chunk[position] == 0x0A { spansLines = true }
                    if chunk[position] == UInt8(ascii: "\"") {
                        if position + 1 < chunk.count, chunk[position + 1] == UInt8(ascii: "\"") {
                            doubled = true
                            position += 2
                            continue
                        }
                        if position + 1 >= chunk.count, !isLast { return .needsMore }
                        break
                    }
                    position += 1
                }
                if doubled {
                    let fieldStart = unquoted.count
                    var index = contentStart
                    while index < position {
                        unquoted.append(chunk[index])
                        index += chunk[index] == UInt8(ascii: "\"") ? 2 : 1
                    }
                    fields.append(Field(start: fieldStart, count: unquoted.count - fieldStart, isInChunk: false))
                } else {
                    fields.append(Field(start: contentStart, count: position - contentStart, isInChunk: true))
                }
                position += 1
                if position < chunk.count, chunk[position] != UInt8(ascii: ","), chunk[position] != 0x0A,
                    chunk[position] != 0x0D
                {
                    return firstLine("text follows the closing quote of a field")
                }
            } else {
                let fieldStart = position
                while position < limit, chunk[position] != UInt8(ascii: ","), chunk[position] != 0x0A {
                    if chunk[position] == UInt8(ascii: "\"") {
                        return firstLine("a quote inside of a field that does not begin with one")
                    }
                    position += 1
                }
                if position >= limit, !(isLast && limit == chunk.count) {
                    return unfinished("the line is longer than a record may be (\(recordBytesMax) bytes)")
                }
                var end = position
                let endsLine = position >= chunk.count || chunk[position] == 0x0A
                if endsLine, end > fieldStart, chunk[end - 1] == 0x0D { end -= 1 }
                if endsLine, fields.isEmpty, end == fieldStart { return .blank(end: min(position + 1, chunk.count)) }
                fields.append(Field(start: fieldStart, count: end - fieldStart, isInChunk: true))
            }
            if position >= chunk.count {
                return isLast ? .row(end: position) : .needsMore
            }
            if chunk[position] == 0x0D {
                if position + 1 >= chunk.count, !isLast { return .needsMore }
                if position + 1 < chunk.count, chunk[position + 1] != 0x0A {
                    return firstLine("a carriage return without a line feed")
                }
                position += 1
                if position >= chunk.count { return .row(end: position) }
            }
            if chunk[position] == 0x0A { return .row(end: position + 1) }
            position += 1  // the comma
        }
    }

    /// The bytes of a field of the row that was split last.
    func text(_ field: Field, _ chunk: UnsafeRawBufferPointer) -> ArraySlice<UInt8> {
        field.isInChunk
            ? ArraySlice(chunk[field.start..<field.start + field.count])
            : unquoted[field.start..<field.start + field.count]
    }

    /// The end of the physical line that begins at `start`.
    static func lineEnd(_ chunk: UnsafeRawBufferPointer, from start: Int) -> (lineEnd: Int, textEnd: Int) {
        guard let newline = chunk[start...].firstIndex(of: 0x0A) else { return (chunk.count, chunk.count) }
        return (newline + 1, newline > start && chunk[newline - 1] == 0x0D ? newline - 1 : newline)
    }
}
