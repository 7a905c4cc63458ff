/// Reads a server's replies and says whether they are RESP: written from the protocol's specification, and sharing no code with the server.
struct ReplyChecker {
    struct Malformed: Error, CustomStringConvertible {
        let description: String
    }

    private static let depthMax = 16
    private(set) var replyCount = 0
    /// Whether the last reply said that what came was no RESP.
    private(set) var lastIsProtocolError = false
    /// Whether `HELLO 3` was answered: only then a reply may have one of RESP3's types.
    private var mayBeVersion3 = false

    /// Reads whole replies: what is given must end where one does.
    mutating func check(_ bytes: UnsafeRawBufferPointer) throws {
        var at = 0
        while at < bytes.count {
            let start = at
            try value(bytes, &at, depth: 0)
            replyCount += 1
            lastIsProtocolError = ReplyChecker.begins(bytes[start..<at], "-ERR Protocol error: ")
        }
    }

    private static func begins(_ bytes: Slice<UnsafeRawBufferPointer>, _ text: StaticString) -> Bool {
        guard bytes.count >= text.utf8CodeUnitCount else { return false }
        for index in 0..<text.utf8CodeUnitCount where bytes[bytes.startIndex + index] != text.utf8Start[index] { return false }
        return true
    }

    private mutating func value(_ bytes: UnsafeRawBufferPointer, _ at: inout Int, depth: Int) throws {
        guard depth <= ReplyChecker.depthMax else { throw Malformed(description: "nested deeper than \(ReplyChecker.depthMax)") }
        let start = at
        let type = bytes[at]
        at += 1
        let line = try self.line(bytes, &at)
        switch type {
        case UInt8(ascii: "+"): break
        case UInt8(ascii: "-"):
            // An upper-case word comes first.
            let word = line.prefix { $0 != 32 }
            guard word.count >= 2, word.allSatisfy({ (65...90).contains($0) }) else {
                throw Malformed(description: "an error without a code")
            }
        case UInt8(ascii: ":"): _ = try number(line)
        case UInt8(ascii: "$"):
            let count = try number(line)
            if count == -1 { return }
            try string(bytes, &at, count)
        case UInt8(ascii: "*"):
            let count = try number(line)
            guard count >= 0 else { throw Malformed(description: "an array of \(count) elements") }
            for _ in 0..<count { try element(bytes, &at, depth) }
        default: try version3(type, line, bytes, &at, start: start, depth: depth)
        }
    }

    private mutating func version3(
        _ type: UInt8, _ line: Slice<UnsafeRawBufferPointer>, _ bytes: UnsafeRawBufferPointer, _ at: inout Int, start: Int, depth: Int
    ) throws {
        if !mayBeVersion3 {
            guard depth == 0, ReplyChecker.begins(bytes[start...], "%7\r\n$6\r\nserver\r\n") else {
                throw Malformed(description: "a reply of type \(UnicodeScalar(type)) before HELLO 3")
            }
            mayBeVersion3 = true
        }
        switch type {
        case UInt8(ascii: "_"):
            guard line.isEmpty else { throw Malformed(description: "a null with something in it") }
        case UInt8(ascii: "#"):
            guard line.count == 1, line.first == UInt8(ascii: "t") || line.first == UInt8(ascii: "f") else {
                throw Malformed(description: "a boolean that is neither t nor f")
            }
        case UInt8(ascii: ","):
            let text = String(decoding: line, as: UTF8.self)
            guard ["inf", "-inf", "nan"].contains(text) || Double(text) != nil else { throw Malformed(description: "a double '\(text)'") }
        case UInt8(ascii: "="):
            let count = try number(line)
            guard count >= 4, at + 4 <= bytes.count, bytes[at + 3] == UInt8(ascii: ":") else {
                throw Malformed(description: "a verbatim string without its kind")
            }
            try string(bytes, &at, count)
        case UInt8(ascii: "%"):
            let count = try number(line)
            guard count >= 0 else { throw Malformed(description: "a map of \(count) pairs") }
            for _ in 0..<2 * count { try element(bytes, &at, depth) }
        case UInt8(ascii: "~"):
            let count = try number(line)
            guard count >= 0 else { throw Malformed(description: "a set of \(count) elements") }
            for _ in 0..<count { try element(bytes, &at, depth) }
        default: throw Malformed(description: "no such type: byte \(type)")
        }
    }

    private mutating func element(_ bytes: UnsafeRawBufferPointer, _ at: inout Int, _ depth: Int) throws {
        guard at < bytes.count else { throw Malformed(description: "fewer elements than announced") }
        try value(bytes, &at, depth: depth + 1)
    }

    /// The line up to CR LF, which holds neither.
    private func line(_ bytes: UnsafeRawBufferPointer, _ at: inout Int) throws -> Slice<UnsafeRawBufferPointer> {
        let start = at
        while at < bytes.count, bytes[at] != 13 {
            guard bytes[at] != 10 else { throw Malformed(description: "a line feed in a line") }
            at += 1
        }
        guard at + 1 < bytes.count, bytes[at + 1] == 10 else { throw Malformed(description: "a line without an end") }
        at += 2
        return bytes[start..<at - 2]
    }

    private func number(_ line: Slice<UnsafeRawBufferPointer>) throws -> Int {
        let digits = line.first == UInt8(ascii: "-") ? line.dropFirst() : line
        guard !digits.isEmpty, digits.allSatisfy({ (48...57).contains($0) }), digits.count == 1 || digits.first != 48,
            let number = Int(String(decoding: line, as: UTF8.self))
        else { throw Malformed(description: "no number: '\(String(decoding: line, as: UTF8.self))'") }
        return number
    }

    private func string(_ bytes: UnsafeRawBufferPointer, _ at: inout Int, _ count: Int) throws {
        guard count >= 0, at + count + 2 <= bytes.count, bytes[at + count] == 13, bytes[at + count + 1] == 10 else {
            throw Malformed(description: "a string that is not \(count) bytes and CR LF")
        }
        at += count + 2
    }
}
