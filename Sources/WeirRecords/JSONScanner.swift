import WeirAlgebra

/// Reads JSON (RFC 8259, strictly) from bytes, token by token, with every bound checked.
package struct JSONScanner {
    package static let depthMax = 64

    package let bytes: UnsafeRawBufferPointer
    package var position = 0

    package init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    package func error(_ what: String) -> RecordError { RecordError("\(what) at byte \(position)") }

    package var isAtEnd: Bool { position >= bytes.count }

    package mutating func skipSpace() {
        while position < bytes.count {
            switch bytes[position] {
            case 0x20, 0x0A, 0x0D, 0x09: position += 1
            default: return
            }
        }
    }

    /// The next byte after white space.
    package mutating func peek() throws(RecordError) -> UInt8 {
        skipSpace()
        guard position < bytes.count else { throw error("the JSON text is truncated") }
        return bytes[position]
    }

    package mutating func expect(_ byte: UInt8) throws(RecordError) {
        guard try peek() == byte else { throw error("'\(Character(UnicodeScalar(byte)))' expected") }
        position += 1
    }

    /// Reads `,` or the closing byte; returns whether the collection goes on.
    package mutating func continues(until close: UInt8) throws(RecordError) -> Bool {
        let byte = try peek()
        position += 1
        if byte == UInt8(ascii: ",") { return true }
        if byte == close { return false }
        position -= 1
        throw error("',' or '\(Character(UnicodeScalar(close)))' expected")
    }

    /// A string's bytes: a slice of the input, or, where it has escapes, what was appended to `unescaped`.
    package enum Piece {
        case input(Range<Int>)
        case unescaped(Range<Int>)
    }

    package mutating func string(_ unescaped: inout [UInt8]) throws(RecordError) -> Piece {
        try expect(UInt8(ascii: "\""))
        let start = position
        var isASCII = true
        while position < bytes.count {
            let byte = bytes[position]
            if byte == UInt8(ascii: "\"") {
                let range = start..<position
                if !isASCII { try checkUTF8(range) }
                position += 1
                return .input(range)
            }
            if byte == UInt8(ascii: "\\") { return try stringWithEscapes(start, &unescaped) }
            if byte < 0x20 { throw error("an unescaped control character in a string") }
            if byte >= 0x80 { isASCII = false }
            position += 1
        }
        throw error("a string is not closed")
    }

    private func checkUTF8(_ range: Range<Int>) throws(RecordError) {
        guard isValidUTF8(UnsafeRawBufferPointer(rebasing: bytes[range])) else {
            throw error("a string is no valid UTF-8")
        }
    }

    private mutating func stringWithEscapes(_ start: Int, _ unescaped: inout [UInt8]) throws(RecordError) -> Piece {
        let outputStart = unescaped.count
        var runStart = start
        func flush(_ end: Int, _ output: inout [UInt8]) throws(RecordError) {
            try checkUTF8(runStart..<end)
            output.append(contentsOf: bytes[runStart..<end])
        }
        while position < bytes.count {
            let byte = bytes[position]
            if byte == UInt8(ascii: "\"") {
                try flush(position, &unescaped)
                position += 1
                return .unescaped(outputStart..<unescaped.count)
            }
            if byte < 0x20 { throw error("an unescaped control character in a string") }
            guard byte == UInt8(ascii: "\\") else {
                position += 1
                continue
            }
            try flush(position, &unescaped)
            position += 1
            guard position < bytes.count else { break }
            let escape = bytes[position]
            position += 1
            switch escape {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): unescaped.append(escape)
            case UInt8(ascii: "b"): unescaped.append(0x08)
            case UInt8(ascii: "f"): unescaped.append(0x0C)
            case UInt8(ascii: "n"): unescaped.append(0x0A)
            case UInt8(ascii: "r"): unescaped.append(0x0D)
            case UInt8(ascii: "t"): unescaped.append(0x09)
            case UInt8(ascii: "u"):
                var code = try hex4()
                if (0xDC00...0xDFFF).contains(code) { throw error("a lone surrogate in a string") }
                if (0xD800...0xDBFF).contains(code) {
                    guard position + 1 < bytes.count, bytes[position] == UInt8(ascii: "\\"),
                        bytes[position + 1] == UInt8(ascii: "u")
                    else { throw error("a lone surrogate in a string") }
                    position += 2
                    let low = try hex4()
                    guard (0xDC00...0xDFFF).contains(low) else { throw error("a lone surrogate in a string") }
                    code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
                }
                // No surrogate and below 0x110000, so it is a scalar.
                unescaped.append(contentsOf: String(Character(UnicodeScalar(code)!)).utf8)
            default:
                position -= 1
                throw error("an unknown escape in a string")
            }
            runStart = position
        }
        throw error("a string is not closed")
    }

    private mutating func hex4() throws(RecordError) -> UInt32 {
        guard position + 4 <= bytes.count else { throw error("a string is not closed") }
        var value: UInt32 = 0
        for _ in 0..<4 {
            let digit: UInt8
            switch bytes[position] {
            case 48...57: digit = bytes[position] - 48
            case 65...70: digit = bytes[position] - 55
            case 97...102: digit = bytes[position] - 87
            default: throw error("four hexadecimal digits expected after \\u")
            }
            value = value << 4 | UInt32(digit)
            position += 1
        }
        return value
    }

    /// A number's bytes; whether they are a number in JSON's grammar is for the caller to see.
    package mutating func numberText() throws(RecordError) -> UnsafeRawBufferPointer {
        let start = position
        while position < bytes.count {
            switch bytes[position] {
            case 48...57, UInt8(ascii: "-"), UInt8(ascii: "+"), UInt8(ascii: "."), UInt8(ascii: "e"), UInt8(ascii: "E"):
                position += 1
            default:
                if position == start { throw error("a value expected") }
                return UnsafeRawBufferPointer(rebasing: bytes[start..<position])
            }
        }
        return UnsafeRawBufferPointer(rebasing: bytes[start..<position])
    }

    package mutating func literal(_ text: StaticString) throws(RecordError) {
        guard position + text.utf8CodeUnitCount <= bytes.count,
            (0..<text.utf8CodeUnitCount).allSatisfy({ bytes[position + $0] == text.utf8Start[$0] })
        else { throw error("a value expected (numbers, strings, true, false, null, arrays and objects are)") }
        position += text.utf8CodeUnitCount
    }

    /// Reads over any value, checking it all the same.
    package mutating func skipValue(_ scratch: inout [UInt8], depth: Int = 1) throws(RecordError) {
        guard depth <= Self.depthMax else {
            throw error("the JSON text is nested more than \(Self.depthMax) levels deep")
        }
        switch try peek() {
        case UInt8(ascii: "\""): _ = try string(&scratch)
        case UInt8(ascii: "{"):
            position += 1
            if try peek() == UInt8(ascii: "}") {
                position += 1
                return
            }
            repeat {
                _ = try string(&scratch)
                try expect(UInt8(ascii: ":"))
                try skipValue(&scratch, depth: depth + 1)
            } while try continues(until: UInt8(ascii: "}"))
        case UInt8(ascii: "["):
            position += 1
            if try peek() == UInt8(ascii: "]") {
                position += 1
                return
            }
            repeat { try skipValue(&scratch, depth: depth + 1) } while try continues(until: UInt8(ascii: "]"))
        case UInt8(ascii: "t"): try literal("true")
        case UInt8(ascii: "f"): try literal("false")
        case UInt8(ascii: "n"): try literal("null")
        default:
            let text = try numberText()
            guard Numbers.double(text) != nil else { throw error("'\(shown(text))' is no number") }
        }
    }
}

/// Parses a nested value into a tree.
enum JSONTreeParser {
    static func parse(_ bytes: UnsafeRawBufferPointer) throws(RecordError) -> JSONTree {
        var scanner = JSONScanner(bytes)
        let tree = try value(&scanner, depth: 1)
        scanner.skipSpace()
        guard scanner.isAtEnd else { throw scanner.error("something follows the JSON value") }
        return tree
    }

    private static func value(_ scanner: inout JSONScanner, depth: Int) throws(RecordError) -> JSONTree {
        guard depth <= JSONScanner.depthMax else {
            throw scanner.error("the JSON text is nested more than \(JSONScanner.depthMax) levels deep")
        }
        switch try scanner.peek() {
        case UInt8(ascii: "\""): return .string(try text(&scanner))
        case UInt8(ascii: "t"):
            try scanner.literal("true")
            return .bool(true)
        case UInt8(ascii: "f"):
            try scanner.literal("false")
            return .bool(false)
        case UInt8(ascii: "n"):
            try scanner.literal("null")
            return .null
        case UInt8(ascii: "["):
            scanner.position += 1
            var elements: [JSONTree] = []
            if try scanner.peek() == UInt8(ascii: "]") {
                scanner.position += 1
                return .array(elements)
            }
            repeat {
                elements.append(try value(&scanner, depth: depth + 1))
            } while try scanner.continues(until: UInt8(ascii: "]"))
            return .array(elements)
        case UInt8(ascii: "{"):
            scanner.position += 1
            var members: [(key: String, value: JSONTree)] = []
            if try scanner.peek() == UInt8(ascii: "}") {
                scanner.position += 1
                return .object(members)
            }
            repeat {
                let key = try text(&scanner)
                try scanner.expect(UInt8(ascii: ":"))
                members.append((key, try value(&scanner, depth: depth + 1)))
            } while try scanner.continues(until: UInt8(ascii: "}"))
            return .object(members)
        default:
            let number = try scanner.numberText()
            guard Numbers.double(number) != nil else { throw scanner.error("'\(shown(number))' is no number") }
            return .number(String(decoding: number, as: UTF8.self))
        }
    }

    private static func text(_ scanner: inout JSONScanner) throws(RecordError) -> String {
        var unescaped: [UInt8] = []
        switch try scanner.string(&unescaped) {
        case .input(let range): return String(decoding: scanner.bytes[range], as: UTF8.self)
        case .unescaped: return String(decoding: unescaped, as: UTF8.self)
        }
    }
}

/// The elements of a JSON array, each as its own text; for `SESSION stream json-array`.
public func jsonArrayElements(_ json: [UInt8]) throws(RecordError) -> [[UInt8]] {
    let result: Result<[[UInt8]], RecordError> = json.withUnsafeBytes { bytes in
        do throws(RecordError) {
            var scanner = JSONScanner(bytes)
            var scratch: [UInt8] = []
            var elements: [[UInt8]] = []
            guard try scanner.peek() == UInt8(ascii: "[") else { throw scanner.error("a JSON array expected") }
            scanner.position += 1
            if try scanner.peek() == UInt8(ascii: "]") {
                scanner.position += 1
            } else {
                repeat {
                    _ = try scanner.peek()
                    let start = scanner.position
                    try scanner.skipValue(&scratch)
                    elements.append(Array(bytes[start..<scanner.position]))
                } while try scanner.continues(until: UInt8(ascii: "]"))
            }
            scanner.skipSpace()
            guard scanner.isAtEnd else { throw scanner.error("something follows the JSON array") }
            return .success(elements)
        } catch {
            return .failure(error)
        }
    }
    return try result.get()
}

/// The members of a JSON object in their order, each value as its own text.
package func jsonMembers(_ json: [UInt8]) throws(RecordError) -> [(name: String, value: [UInt8])] {
    let result: Result<[(name: String, value: [UInt8])], RecordError> = json.withUnsafeBytes { bytes in
        do throws(RecordError) {
            var scanner = JSONScanner(bytes)
            var scratch: [UInt8] = []
            var members: [(name: String, value: [UInt8])] = []
            try scanner.expect(UInt8(ascii: "{"))
            if try scanner.peek() == UInt8(ascii: "}") {
                scanner.position += 1
            } else {
                repeat {
                    let name: String
                    switch try scanner.string(&scratch) {
                    case .input(let range): name = String(decoding: bytes[range], as: UTF8.self)
                    case .unescaped(let range): name = String(decoding: scratch[range], as: UTF8.self)
                    }
                    try scanner.expect(UInt8(ascii: ":"))
                    _ = try scanner.peek()
                    let start = scanner.position
                    try scanner.skipValue(&scratch)
                    members.append((name, Array(bytes[start..<scanner.position])))
                } while try scanner.continues(until: UInt8(ascii: "}"))
            }
            scanner.skipSpace()
            guard scanner.isAtEnd else { throw scanner.error("something follows the JSON object") }
            return .success(members)
        } catch {
            return .failure(error)
        }
    }
    return try result.get()
}

/// The text of a JSON string; nil for any other JSON, and for what is none.
package func jsonString(_ json: UnsafeRawBufferPointer) -> String? {
    guard json.first == UInt8(ascii: "\"") else { return nil }
    var scanner = JSONScanner(json)
    var unescaped: [UInt8] = []
    guard let piece = try? scanner.string(&unescaped), scanner.isAtEnd else { return nil }
    switch piece {
    case .input(let range): return String(decoding: json[range], as: UTF8.self)
    case .unescaped: return String(decoding: unescaped, as: UTF8.self)
    }
}
