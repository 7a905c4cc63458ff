import WeirAlgebra

/// Limits on what a client may send in one request.
package struct RESPLimits: Sendable {
    /// Arguments of one command, its name included.
    package var argumentCountMax = Limits.commandArgumentsMax
    package var bulkBytesMax = Limits.commandArgumentBytesMax
    package var requestBytesMax = Limits.commandBytesMax
    /// An inline command, and the line that holds a length.
    package var lineBytesMax = Limits.inlineCommandBytesMax

    package init() {}

    /// What a client that has not given the password may send: enough for `AUTH` and `HELLO`, the same as Redis.
    package static let unauthenticated: RESPLimits = {
        var limits = RESPLimits()
        limits.argumentCountMax = 10
        limits.bulkBytesMax = 16_384
        limits.requestBytesMax = 256 << 10
        limits.isUnauthenticated = true
        return limits
    }()

    var isUnauthenticated = false
}

/// Finds commands in the bytes that a client sends: arrays of bulk strings, and inline commands.
///
/// The parser does no I/O and keeps no bytes. The caller holds the bytes that are not consumed yet and passes them again,
/// with what came since, until a step consumes them; no byte is looked at twice however small the pieces are. Redis's
/// protocol (https://redis.io/docs/latest/develop/reference/protocol-spec/), with its error texts; stricter in that CR LF
/// must follow each length and each bulk string.
package struct RESPParser: ~Copyable {
    package enum Step: Equatable, Sendable {
        /// A command; `withArguments(in:_:)` reads it, before the bytes are dropped.
        case command(consumed: Int)
        /// An empty command (`*0`, a blank line), to be dropped without an answer.
        case ignored(consumed: Int)
        case needMore
        /// The bytes are no request and nothing that follows can be understood. The same answer to every later call.
        case failed(String)
    }

    private enum State { case frameStart, inline, argumentCount, bulkLength, bulk }

    package var limits: RESPLimits
    private var state = State.frameStart
    /// The first byte that no state has consumed, from the start of the request.
    private var position = 0
    /// Where the search for the end of a line goes on.
    private var searched = 0
    private var argumentsMissing = 0
    private var bulkBytes = 0
    private var ranges: [Range<Int>] = []
    private var unquoted: [UInt8] = []
    private var isInline = false
    private var failure: String?

    package init(limits: RESPLimits = RESPLimits()) {
        self.limits = limits
    }

    /// Takes one step. `bytes` begins where the last consumed request ended.
    package mutating func parse(_ bytes: UnsafeRawBufferPointer) -> Step {
        if let failure { return .failed(failure) }
        while true {
            switch state {
            case .frameStart:
                guard let first = bytes.first else { return .needMore }
                ranges.removeAll(keepingCapacity: ranges.capacity <= 4_096)
                isInline = first != UInt8(ascii: "*")
                position = isInline ? 0 : 1
                searched = position
                state = isInline ? .inline : .argumentCount
            case .inline:
                return inlineCommand(bytes)
            case .argumentCount:
                switch length(bytes, from: position) {
                case .needMore: return .needMore
                case .tooLong: return fail("too big mbulk count string")
                case .number(let count):
                    guard let count, count <= Int64(Int32.max) else { return fail("invalid multibulk length") }
                    if count > limits.argumentCountMax {
                        return fail(
                            limits.isUnauthenticated ? "unauthenticated multibulk length" : "invalid multibulk length")
                    }
                    if count <= 0 {
                        state = .frameStart
                        return .ignored(consumed: position)
                    }
                    argumentsMissing = Int(count)
                    ranges.reserveCapacity(min(argumentsMissing, 64))
                    state = .bulkLength
                }
            case .bulkLength:
                if let step = parsePlainArguments(bytes) { return step }
                guard position < bytes.count else { return .needMore }
                guard bytes[position] == UInt8(ascii: "$") else {
                    let byte = bytes[position]
                    let got = (33...126).contains(byte) ? String(UnicodeScalar(byte)) : "byte \(byte)"
                    return fail("expected '$', got '\(got)'")
                }
                if searched <= position { searched = position + 1 }
                switch length(bytes, from: position + 1) {
                case .needMore: return .needMore
                case .tooLong: return fail("too big bulk count string")
                case .number(let count):
                    guard let count, count >= 0 else { return fail("invalid bulk length") }
                    if count > limits.bulkBytesMax {
                        return fail(limits.isUnauthenticated ? "unauthenticated bulk length" : "invalid bulk length")
                    }
                    bulkBytes = Int(count)
                    guard position + bulkBytes + 2 <= limits.requestBytesMax else {
                        return fail("too big request, at most \(limits.requestBytesMax) bytes")
                    }
                    state = .bulk
                }
            case .bulk:
                let end = position + bulkBytes
                guard end + 2 <= bytes.count else { return .needMore }
                guard bytes[end] == 13, bytes[end + 1] == 10 else { return fail("expected CR LF after the bulk string") }
                ranges.append(position..<end)
                position = end + 2
                argumentsMissing -= 1
                state = .bulkLength
                if argumentsMissing == 0 {
                    state = .frameStart
                    return .command(consumed: position)
                }
            }
        }
    }

    /// Takes arguments of up to 99 bytes that have arrived as a whole: nearly all of them.
    ///
    /// - Returns: the command when that was the last one; nil where something else comes, which is looked at byte by byte.
    private mutating func parsePlainArguments(_ bytes: UnsafeRawBufferPointer) -> Step? {
        guard let start = bytes.baseAddress, limits.bulkBytesMax >= 99 else { return nil }
        let end = min(bytes.count, limits.requestBytesMax)
        while true {
            // The shortest argument, "$0\r\n\r\n", has six bytes.
            guard position + 6 <= end, start.load(fromByteOffset: position, as: UInt8.self) == UInt8(ascii: "$") else { return nil }
            var length = Int(start.load(fromByteOffset: position + 1, as: UInt8.self) &- 48)
            var line = position + 2
            guard length <= 9 else { return nil }
            let second = Int(start.load(fromByteOffset: line, as: UInt8.self) &- 48)
            if second <= 9 {
                guard length > 0 else { return nil }
                length = 10 * length + second
                line += 1
            }
            let lineEnd = UInt16(littleEndian: start.loadUnaligned(fromByteOffset: line, as: UInt16.self))
            let last = line + 2 + length
            guard lineEnd == 0x0a0d, last + 2 <= end,
                UInt16(littleEndian: start.loadUnaligned(fromByteOffset: last, as: UInt16.self)) == 0x0a0d
            else { return nil }
            ranges.append(line + 2..<last)
            position = last + 2
            argumentsMissing -= 1
            if argumentsMissing == 0 {
                state = .frameStart
                return .command(consumed: position)
            }
        }
    }

    /// The arguments of the command that the last step returned, borrowed from `bytes` (the same as that step had).
    package func withArguments<R>(in bytes: UnsafeRawBufferPointer, _ body: (RESPArguments) throws -> R) rethrows -> R {
        if isInline {
            return try unquoted.withUnsafeBytes { try body(RESPArguments(bytes: $0, ranges: ranges, isInline: true)) }
        }
        return try body(RESPArguments(bytes: bytes, ranges: ranges, isInline: false))
    }

    private mutating func fail(_ text: String) -> Step {
        failure = "Protocol error: \(text)"
        return .failed(failure!)
    }

    private enum Length {
        /// nil where the line is no integer.
        case number(Int64?)
        case needMore
        case tooLong
    }

    /// Reads the line from `start` on as an integer and moves behind it.
    private mutating func length(_ bytes: UnsafeRawBufferPointer, from start: Int) -> Length {
        while searched < bytes.count, bytes[searched] != 13 { searched += 1 }
        if searched - start > limits.lineBytesMax { return .tooLong }
        guard searched + 1 < bytes.count else { return .needMore }
        let line = UnsafeRawBufferPointer(rebasing: bytes[start..<searched])
        let isTerminated = bytes[searched + 1] == 10
        position = searched + 2
        searched = position
        return .number(isTerminated ? RESPParser.integer(line) : nil)
    }

    /// A canonical decimal integer: no leading zero, no plus sign. nil for any other text, and beyond 64 bits.
    package static func integer(_ text: UnsafeRawBufferPointer) -> Int64? {
        let isNegative = text.first == UInt8(ascii: "-")
        let start = isNegative ? 1 : 0
        guard start < text.count, text.count - start <= 19 else { return nil }
        if text[start] == UInt8(ascii: "0") { return text.count == 1 ? 0 : nil }
        var value: Int64 = 0
        for index in start..<text.count {
            let byte = text[index]
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
            let digit = Int64(byte - UInt8(ascii: "0"))
            let (product, overflow) = value.multipliedReportingOverflow(by: 10)
            let (sum, overflow2) =
                isNegative ? product.subtractingReportingOverflow(digit) : product.addingReportingOverflow(digit)
            if overflow || overflow2 { return nil }
            value = sum
        }
        return value
    }

    private mutating func inlineCommand(_ bytes: UnsafeRawBufferPointer) -> Step {
        while searched < bytes.count, bytes[searched] != 10 { searched += 1 }
        if searched > limits.lineBytesMax { return fail("too big inline request") }
        guard searched < bytes.count else { return .needMore }
        let consumed = searched + 1
        unquoted.removeAll(keepingCapacity: true)
        let line = UnsafeRawBufferPointer(rebasing: bytes[0..<searched])
        guard InlineCommand.split(line, into: &unquoted, &ranges) else { return fail("unbalanced quotes in request") }
        state = .frameStart
        return ranges.isEmpty ? .ignored(consumed: consumed) : .command(consumed: consumed)
    }
}

/// The arguments of one command, its name first. Borrowed: valid while the request's bytes are.
package struct RESPArguments {
    let bytes: UnsafeRawBufferPointer
    let ranges: [Range<Int>]
    /// Nothing stands between the arguments of an inline command.
    let isInline: Bool

    package var count: Int { ranges.count }

    package subscript(index: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: bytes[ranges[index]])
    }

    /// The arguments from one on, with what stands between them.
    func span(from index: Int) -> UnsafeRawBufferPointer {
        guard index < count else { return UnsafeRawBufferPointer(start: nil, count: 0) }
        return UnsafeRawBufferPointer(rebasing: bytes[ranges[index].lowerBound..<ranges[count - 1].upperBound])
    }

    package func array(_ index: Int) -> [UInt8] { [UInt8](self[index]) }

    package func arrays(from index: Int) -> [[UInt8]] {
        index < count ? (index..<count).map { array($0) } : []
    }

    /// The argument as text; nil where it is not UTF-8.
    package func text(_ index: Int) -> String? { String(validating: self[index], as: UTF8.self) }

    /// The argument for a message: repaired, at most `limit` bytes.
    package func shown(_ index: Int, limit: Int = 128) -> String {
        String(decoding: self[index].prefix(limit), as: UTF8.self)
    }

    /// Whether the argument is an option word, given in lower case; ASCII case is ignored.
    package func isWord(_ index: Int, _ word: StaticString) -> Bool {
        let argument = self[index]
        guard argument.count == word.utf8CodeUnitCount else { return false }
        for offset in 0..<argument.count
        where RESPArguments.lowercased(argument[offset]) != word.utf8Start[offset] {
            return false
        }
        return true
    }

    static func lowercased(_ byte: UInt8) -> UInt8 {
        (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte) ? byte | 0x20 : byte
    }

    static func lowercased(_ text: UnsafeRawBufferPointer) -> String {
        String(decoding: text.map { lowercased($0) }, as: UTF8.self)
    }
}
