import Support

/// Counts complete RESP2 replies in a stream that is cut anywhere, without making values of them.
struct ReplyCounter {
    private(set) var replies = 0
    /// Values still to come of the reply that has begun.
    private var open = 0
    /// Bytes of a bulk string, with its line's end, still to come.
    private var skip = 0
    /// The beginning of a line whose end has not come.
    private var line: [UInt8] = []

    /// - Throws: on an error reply, with its text, and on what is no RESP2.
    mutating func consume(_ bytes: UnsafeRawBufferPointer) throws {
        var position = 0
        while true {
            if skip > 0 {
                let taken = min(skip, bytes.count - position)
                skip -= taken
                position += taken
                if skip > 0 { return }
                close()
            }
            guard position < bytes.count else { return }
            var end = position
            while end < bytes.count && bytes[end] != 10 { end += 1 }
            let part = UnsafeRawBufferPointer(rebasing: bytes[position..<end])
            guard end < bytes.count else { return line.append(contentsOf: part) }
            position = end + 1
            if line.isEmpty {
                try header(part)
            } else {
                line.append(contentsOf: part)
                let whole = line
                line.removeAll(keepingCapacity: true)
                try whole.withUnsafeBytes { try header($0) }
            }
        }
    }

    private mutating func header(_ line: UnsafeRawBufferPointer) throws {
        guard line.count >= 2, line[line.count - 1] == 13 else { throw BenchmarkFailure("no RESP2 reply") }
        if open == 0 { open = 1 }
        switch line[0] {
        case UInt8(ascii: "+"), UInt8(ascii: ":"): close()
        case UInt8(ascii: "$"):
            let count = try number(line)
            if count < 0 {
                close()
            } else {
                skip = count + 2
            }
        case UInt8(ascii: "*"):
            open += max(0, try number(line))
            close()
        default: throw BenchmarkFailure("the server answered \(String(decoding: line.dropLast(), as: UTF8.self))")
        }
    }

    private mutating func close() {
        open -= 1
        if open == 0 { replies += 1 }
    }

    private func number(_ line: UnsafeRawBufferPointer) throws -> Int {
        if line.count == 4 && line[1] == UInt8(ascii: "-") && line[2] == UInt8(ascii: "1") { return -1 }
        var value = 0
        for byte in line[1..<line.count - 1] {
            guard (48...57).contains(byte), value < 1 << 40 else { throw BenchmarkFailure("no RESP2 length") }
            value = value * 10 + Int(byte - 48)
        }
        return value
    }
}
