import Testing
import WeirServer
import WeirTesting

/// What a parser makes of bytes: the commands, then perhaps why it stopped.
private struct Parsed: Equatable, CustomStringConvertible {
    var commands: [[[UInt8]]] = []
    var failure: String?
    var rest = 0

    var description: String {
        let shown = commands.map { $0.map { String(decoding: $0, as: UTF8.self) } }
        return "\(shown) failure: \(failure ?? "none") rest: \(rest)"
    }
}

/// Feeds bytes in pieces that end at the given offsets.
private func parse(_ bytes: [UInt8], cuts: [Int], limits: RESPLimits = RESPLimits()) -> Parsed {
    var parser = RESPParser(limits: limits)
    var parsed = Parsed()
    var start = 0
    feeding: for end in cuts + [bytes.count] {
        while true {
            // A copy of exactly these bytes, so that reading behind them is out of bounds.
            let piece = Array(bytes[start..<end])
            let step = piece.withUnsafeBytes { raw in
                let step = parser.parse(raw)
                if case .command = step {
                    parsed.commands.append(parser.withArguments(in: raw) { arguments in arguments.arrays(from: 0) })
                }
                return step
            }
            switch step {
            case .command(let consumed), .ignored(let consumed): start += consumed
            case .needMore: continue feeding
            case .failed(let text):
                parsed.failure = text
                return parsed
            }
        }
    }
    parsed.rest = bytes.count - start
    return parsed
}

private func words(_ line: String) -> [String]? {
    let parsed = parse(Array((line + "\r\n").utf8), cuts: [])
    guard parsed.failure == nil else { return nil }
    return parsed.commands.first.map { $0.map { String(decoding: $0, as: UTF8.self) } } ?? []
}

@Suite struct RESPParserTests {
    static let stream: [UInt8] =
        frame("PING") + frame("FEATURES.GET", "checkout", #"{"household": 7}"#, "AT", "-5") + Array("PING\r\n".utf8)
        + Array("*0\r\n\r\n*-1\r\n".utf8) + frame([[0, 13, 10, 36, 255], [], Array("x".utf8)])
        + Array("set  \"a\\x41 b\"  'c\\'d' e\n".utf8) + frame("ECHO", "*1\r\n$4\r\nPING\r\n")
        + frame((0..<40).map { Array("argument \($0)".utf8) }) + Array("QUIT".utf8)

    @Test func everyFragmentationGivesTheSameCommands() {
        let whole = parse(Self.stream, cuts: [])
        #expect(whole.commands.count == 7)
        #expect(whole.failure == nil)
        #expect(whole.rest == 4)
        #expect(whole.commands[2].map { String(decoding: $0, as: UTF8.self) } == ["PING"])
        #expect(whole.commands[3] == [[0, 13, 10, 36, 255], [], Array("x".utf8)])
        #expect(whole.commands[4].map { String(decoding: $0, as: UTF8.self) } == ["set", "aA b", "c'd", "e"])
        #expect(whole.commands[6].count == 40)
        for cut in 0...Self.stream.count {
            #expect(parse(Self.stream, cuts: [cut]) == whole, "cut at \(cut)")
        }
        #expect(parse(Self.stream, cuts: Array(0...Self.stream.count)) == whole)
        var generator = SeededGenerator()
        for _ in 0..<500 {
            let cuts = (0..<Int.random(in: 1...30, using: &generator)).map { _ in
                Int.random(in: 0...Self.stream.count, using: &generator)
            }
            #expect(parse(Self.stream, cuts: cuts.sorted()) == whole)
        }
    }

    @Test(arguments: [
        ("*x\r\n", "invalid multibulk length"), ("*01\r\n", "invalid multibulk length"),
        ("*99999999999999999999\r\n", "invalid multibulk length"), ("*2147483648\r\n", "invalid multibulk length"),
        ("*100001\r\n", "invalid multibulk length"), ("*1\rx", "invalid multibulk length"), ("*\r\n", "invalid multibulk length"),
        ("*1\r\n:1\r\n", "expected '$', got ':'"), ("*1\r\n\u{1}", "expected '$', got 'byte 1'"),
        ("*1\r\n$-1\r\n", "invalid bulk length"), ("*1\r\n$abc\r\n", "invalid bulk length"),
        ("*1\r\n$16777217\r\n", "invalid bulk length"), ("*1\r\n$9223372036854775807\r\n", "invalid bulk length"),
        ("*1\r\n$9223372036854775808\r\n", "invalid bulk length"), ("*1\r\n$+1\r\n", "invalid bulk length"),
        ("*1\r\n$1\r\nabc", "expected CR LF after the bulk string"),
        ("*" + String(repeating: "1", count: 70_000), "too big mbulk count string"),
        ("*1\r\n$" + String(repeating: "1", count: 70_000), "too big bulk count string"),
        (String(repeating: "a", count: 65_537), "too big inline request"),
        (String(repeating: "a", count: 65_537) + "\n", "too big inline request"),
        ("get \"a\r\n", "unbalanced quotes in request"), ("get \"a\"b\r\n", "unbalanced quotes in request"),
    ])
    func refuses(_ text: String, _ reason: String) {
        let bytes = Array(text.utf8)
        #expect(parse(bytes, cuts: []).failure == "Protocol error: " + reason)
        if bytes.count < 100 { #expect(parse(bytes, cuts: Array(0..<bytes.count)).failure == "Protocol error: " + reason) }
    }

    @Test func limitsAreTheLastAccepted() {
        var limits = RESPLimits()
        limits.argumentCountMax = 3
        limits.bulkBytesMax = 10
        limits.requestBytesMax = 40
        limits.lineBytesMax = 20
        let ten = String(repeating: "x", count: 10)
        #expect(parse(frame("a", "b", "c"), cuts: [], limits: limits).commands.count == 1)
        #expect(parse(frame("a", "b", "c", "d"), cuts: [], limits: limits).failure != nil)
        #expect(parse(frame(ten), cuts: [], limits: limits).commands.count == 1)
        #expect(parse(frame(ten + "x"), cuts: [], limits: limits).failure != nil)
        // 4 + 17 + 17 bytes, and two more.
        #expect(parse(frame(ten, ten), cuts: [], limits: limits).commands.count == 1)
        #expect(
            parse(frame(ten, ten, "a"), cuts: [], limits: limits).failure
                == "Protocol error: too big request, at most 40 bytes")
        #expect(parse(Array((ten + ten + "\n").utf8), cuts: [], limits: limits).commands.count == 1)
        #expect(parse(Array((ten + ten + "x\n").utf8), cuts: [], limits: limits).failure != nil)
        let many = frame((0..<100_000).map { _ in [UInt8(ascii: "a")] })
        #expect(parse(many, cuts: []).commands.first?.count == 100_000)
        #expect(
            parse(frame((0..<11).map { _ in [0] }), cuts: [], limits: .unauthenticated).failure
                == "Protocol error: unauthenticated multibulk length")
        #expect(
            parse(frame([[UInt8](repeating: 0, count: 16_385)]), cuts: [], limits: .unauthenticated).failure
                == "Protocol error: unauthenticated bulk length")
    }

    @Test func inlineQuotingIsRedis() {
        #expect(words("") == [])
        #expect(words("   \t ") == [])
        #expect(words("ping") == ["ping"])
        #expect(words(" set k  v ") == ["set", "k", "v"])
        #expect(words(#"a "b c" d"#) == ["a", "b c", "d"])
        #expect(words(#"a "" ''"#) == ["a", "", ""])
        #expect(words(#""\n\r\t\b\a\\\"\q""#) == ["\n\r\t\u{8}\u{7}\\\"q"])
        #expect(words(#""\x41\x7a\xZZ""#) == ["AzxZZ"])
        #expect(words(#"'it\'s \n'"#) == [#"it's \n"#])
        #expect(words(#"ab"cd" e"#) == ["abcd", "e"])
        #expect(words(#"ab"cd"e"#) == nil)
        #expect(words("'a") == nil)
        #expect(words(#""a\""#) == nil)
        #expect(words("a\0b c") == ["a"])
        #expect(words(#"FEATURES.GET s {"a":1}"#) == nil)
        #expect(words(#"FEATURES.GET s '{"a":1}'"#) == ["FEATURES.GET", "s", #"{"a":1}"#])
    }

    /// Random bytes, and requests with bytes changed: no trap, and the same whole as byte by byte.
    @Test func hostileBytesNeverTrap() {
        var generator = SeededGenerator()
        var failures = 0
        var commands = 0
        for round in 0..<(isLong ? 400_000 : 24_000) {
            let bytes = hostileBytes(round, &generator)
            let whole = parse(bytes, cuts: [])
            #expect(parse(bytes, cuts: Array(0..<bytes.count)) == whole)
            failures += whole.failure == nil ? 0 : 1
            commands += whole.commands.count
        }
        // The inputs reach both ends.
        #expect(failures > 1_000)
        #expect(commands > 1_000)
    }
}

/// Bytes nobody should send: noise, the protocol's own bytes in any order, and mutated requests.
func hostileBytes(_ round: Int, _ generator: inout SeededGenerator) -> [UInt8] {
    let alphabet = Array("*$:+-_,#%~0123456789\r\n\r\n\"'\\x {}".utf8)
    let requests = [
        frame("PING"), frame("ECHO", "hello"), frame("FEATURES.GET", "checkout", "{}", "META"), frame("HGETALL", "spend:1"),
        frame("HELLO", "3"), frame("EVENTS.ADD", "purchases", "{}"), frame("COMMAND", "DOCS"), Array("PING \"a\"\r\n".utf8),
    ]
    switch round % 4 {
    case 0:
        return (0..<Int.random(in: 0...80, using: &generator)).map { _ in UInt8.random(in: 0...255, using: &generator) }
    case 1:
        return (0..<Int.random(in: 0...60, using: &generator)).map { _ in alphabet.randomElement(using: &generator)! }
    default:
        var bytes = (0..<Int.random(in: 1...3, using: &generator)).flatMap { _ in requests.randomElement(using: &generator)! }
        for _ in 0..<Int.random(in: 1...4, using: &generator) where !bytes.isEmpty {
            let index = Int.random(in: 0..<bytes.count, using: &generator)
            switch Int.random(in: 0...3, using: &generator) {
            case 0: bytes[index] = UInt8.random(in: 0...255, using: &generator)
            case 1: bytes.remove(at: index)
            case 2: bytes.insert(alphabet.randomElement(using: &generator)!, at: index)
            default: bytes.removeSubrange(index...)
            }
        }
        return bytes
    }
}
