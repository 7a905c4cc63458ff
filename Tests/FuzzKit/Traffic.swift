import WeirTesting

extension SeededGenerator {
    /// 0 to `count` − 1.
    mutating func below(_ count: Int) -> Int { Int((next() >> 11) % UInt64(count)) }

    mutating func isOne(in count: Int) -> Bool { below(count) == 0 }

    mutating func pick<T>(_ choices: [T]) -> T { choices[below(choices.count)] }
}

/// Makes what clients might send, and what nobody should: valid commands, commands with hostile arguments, frames with bytes changed, and
/// noise. The same generator gives the same bytes.
struct Traffic {
    private enum Slot {
        case word(String)
        case key, feature, service, request, event, session, time, stream, text, number
    }

    private static let commands: [[Slot]] = [
        [.word("HMGET"), .key, .feature], [.word("HMGET"), .key, .feature, .feature, .feature], [.word("HGET"), .key, .feature],
        [.word("EXISTS"), .key, .key], [.word("FEATURES.DESCRIBE"), .text], [.word("FEATURES.GET"), .text, .request],
        [.word("FEATURES.EXPLAIN"), .text, .request], [.word("EVENTS.ADD"), .text, .text], [.word("EVENTS.ADD"), .stream, .text],
        [.word("SESSION.GET"), .text], [.word("SESSION.DROP"), .text], [.word("SESSION.ADD"), .text, .stream, .text],
        [.word("PING")], [.word("PING"), .text], [.word("ECHO"), .text], [.word("HELLO"), .number], [.word("AUTH"), .text],
        [.word("SELECT"), .number], [.word("RESET")], [.word("CLIENT"), .word("SETNAME"), .text], [.word("CLIENT"), .word("GETNAME")],
        [.word("CLIENT"), .word("ID")], [.word("CLIENT"), .word("SETINFO"), .word("LIB-NAME"), .text],
        [.word("CLIENT"), .word("KILL"), .word("ID"), .number], [.word("CLIENT"), .text], [.word("COMMAND"), .word("COUNT")],
        [.word("COMMAND"), .word("INFO"), .text], [.word("ACL"), .word("WHOAMI")], [.word("CONFIG"), .word("GET"), .text],
        [.text], [.text, .text], [.text, .number, .text],
    ]
    /// One of eight: what evaluates or decodes much.
    private static let costly: [[Slot]] = [
        [.word("HGETALL"), .key], [.word("HMGET"), .key, .feature, .feature, .feature, .feature, .feature],
        [.word("FEATURES.GET"), .service, .request], [.word("FEATURES.GET"), .service, .request, .word("META")],
        [.word("FEATURES.GET"), .service, .request, .request, .word("AT"), .time],
        [.word("FEATURES.GET"), .service, .request, .word("SESSION"), .stream, .session],
        [.word("FEATURES.GET"), .service, .request, .word("SESSIONID"), .text],
        [.word("FEATURES.EXPLAIN"), .service, .request], [.word("FEATURES.EXPLAIN"), .key, .feature, .word("JSON")],
        [.word("FEATURES.DESCRIBE"), .service], [.word("FEATURES.DESCRIBE"), .feature], [.word("FEATURES.LIST")],
        [.word("EVENTS.ADD"), .stream, .event], [.word("EVENTS.ADD"), .stream, .event, .event, .event],
        [.word("SESSION.ADD"), .text, .stream, .event], [.word("COMMAND"), .word("DOCS"), .word("HMGET")],
        [.word("HELLO"), .word("3")], [.word("HELLO"), .word("2"), .word("AUTH"), .word("default"), .text, .word("SETNAME"), .text],
        [.word("CLIENT"), .word("INFO")], [.word("CLIENT"), .word("LIST"), .word("ID"), .number],
    ]
    /// Long answers, now and then.
    private static let rare: [[Slot]] = [
        [.word("INFO")], [.word("INFO"), .word("everything")], [.word("COMMAND")], [.word("COMMAND"), .word("DOCS")], [.word("QUIT")],
        [.word("CLIENT"), .word("LIST")], [.word("POST"), .text], [.word("CLIENT"), .word("HELP")],
    ]
    private static let alphabet = Array("*$:+-_,#%~=0123456789\r\n\r\n\"'\\x {}[]\0".utf8)
    private static let numbers = [
        "0", "1", "2", "3", "-1", "01", "+1", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "1e400", "-0", "1.5",
        "NaN",
        "99999999999999999999999", "", " 1", "0x10", "1e-320", "16777217", "1048577",
    ]
    private static let views = ["household_spend", "basket_activity", "store_traffic", "store_hours", "nothing", ""]

    private let features: [String]
    private let services: [String]
    private let streams: [String]
    private let events: [[UInt8]]
    private var generator: SeededGenerator
    private var text: [UInt8] = []
    /// Whether frames are whole: what is hostile is inside of them, where it does not end the connection.
    private let isFramed: Bool

    /// - Parameters:
    ///   - events: valid JSON of the first stream.
    init(seed: UInt64, features: [String], services: [String], streams: [String], events: [[UInt8]]) {
        generator = SeededGenerator(seed: seed)
        isFramed = !generator.isOne(in: 3)
        self.features = features
        self.services = services
        self.streams = streams
        self.events = events
    }

    /// Appends the bytes of one input.
    mutating func append(to bytes: inout [UInt8]) {
        let start = bytes.count
        if isFramed { return frame(&bytes) }
        switch generator.below(20) {
        case 0:
            for _ in 0..<generator.below(80) { bytes.append(UInt8(truncatingIfNeeded: generator.next())) }
        case 1:
            for _ in 0..<generator.below(60) { bytes.append(generator.pick(Traffic.alphabet)) }
        case 2...3: inline(&bytes)
        case 4...7:
            frame(&bytes)
            for _ in 0...generator.below(3) { mutate(&bytes, from: start) }
        default: frame(&bytes)
        }
    }

    /// Appends a body of `POST /get-online-features`, valid or hostile.
    mutating func appendHTTPBody(to bytes: inout [UInt8]) {
        if generator.isOne(in: 20) {
            for _ in 0..<generator.below(80) {
                bytes.append(generator.isOne(in: 2) ? UInt8(truncatingIfNeeded: generator.next()) : generator.pick(Traffic.alphabet))
            }
            return
        }
        text.removeAll(keepingCapacity: true)
        let isService = generator.isOne(in: 3)
        let view = generator.pick(Traffic.views)
        if isService {
            text += #"{"feature_service":""#.utf8
            argument(.service)
            text += #"","entities":{"#.utf8
        } else {
            text += #"{"features":["#.utf8
            for index in 0..<1 + generator.below(4) {
                text += (index > 0 ? ",\"" : "\"").utf8
                text += view.utf8
                text.append(58)
                argument(.feature)
                text.append(34)
            }
            text += #"],"entities":{"#.utf8
        }
        let names = isService ? ["household", "basket", "store", "cart_value"] : [generator.pick(["household", "basket", "store", "x"])]
        let rows = generator.below(4)
        for (index, name) in names.enumerated() {
            text += "\(index > 0 ? "," : "")\"\(name)\":[".utf8
            for row in 0..<(generator.isOne(in: 20) ? generator.below(4) : rows) {
                if row > 0 { text.append(44) }
                switch generator.below(8) {
                case 0: text += "null".utf8
                case 1:
                    text.append(34)
                    number()
                    text.append(34)
                default: number()
                }
            }
            text.append(93)
        }
        text += "}".utf8
        if generator.isOne(in: 4) { text += #","full_feature_names":true"#.utf8 }
        if generator.isOne(in: 4) {
            text += #","at":"#.utf8
            number()
        }
        text += "}".utf8
        if generator.isOne(in: 3) { for _ in 0...generator.below(3) { mutateText() } }
        bytes += text
    }

    private mutating func command() -> [Slot] {
        if generator.isOne(in: 4_000) { return generator.pick(Traffic.rare) }
        return generator.isOne(in: 8) ? generator.pick(Traffic.costly) : generator.pick(Traffic.commands)
    }

    private mutating func frame(_ bytes: inout [UInt8]) {
        let command = command()
        // Arguments more or fewer than they should be, now and then.
        let count = generator.isOne(in: 30) ? generator.below(command.count + 3) : command.count
        Traffic.header(42, count, &bytes)
        for index in 0..<count {
            text.removeAll(keepingCapacity: true)
            argument(index < command.count ? command[index] : .text)
            if generator.isOne(in: 12) { for _ in 0...generator.below(3) { mutateText() } }
            Traffic.header(36, text.count, &bytes)
            bytes += text
            bytes += [13, 10]
        }
    }

    private static func header(_ type: UInt8, _ count: Int, _ bytes: inout [UInt8]) {
        bytes.append(type)
        var digits: UInt64 = 0
        var length = 0
        var rest = count
        repeat {
            digits = digits << 8 | UInt64(48 + rest % 10)
            rest /= 10
            length += 1
        } while rest > 0
        for _ in 0..<length {
            bytes.append(UInt8(truncatingIfNeeded: digits))
            digits >>= 8
        }
        bytes.append(13)
        bytes.append(10)
    }

    private mutating func inline(_ bytes: inout [UInt8]) {
        for slot in command() {
            text.removeAll(keepingCapacity: true)
            argument(slot)
            let quote: [UInt8] = generator.pick([[], [34], [39]])
            bytes += quote
            bytes += text
            bytes += quote
            bytes.append(32)
        }
        if generator.isOne(in: 4) { mutate(&bytes, from: max(0, bytes.count - 20)) }
        bytes.append(10)
    }

    private mutating func argument(_ slot: Slot) {
        switch slot {
        case .word(let word): text += word.utf8
        case .key:
            text += generator.pick(Traffic.views).utf8
            text.append(58)
            if generator.isOne(in: 8) { garbage() } else { text += String(generator.below(2_500)).utf8 }
        case .feature: if generator.isOne(in: 20) { garbage() } else { text += generator.pick(features).utf8 }
        case .service: if generator.isOne(in: 20) { garbage() } else { text += generator.pick(services).utf8 }
        case .stream: if generator.isOne(in: 20) { garbage() } else { text += generator.pick(streams).utf8 }
        case .request:
            text += #"{"household": "#.utf8
            number()
            text += #", "basket": "#.utf8
            number()
            text += #", "store": "#.utf8
            number()
            text += #", "cart_value": "#.utf8
            number()
            text += "}".utf8
        case .event: text += generator.pick(events)
        case .session:
            text.append(91)
            for index in 0..<generator.below(3) {
                if index > 0 { text.append(44) }
                text += generator.pick(events)
            }
            text.append(93)
        case .time:
            if generator.isOne(in: 3) {
                text +=
                    generator.pick(["2017-01-05T10:00:00Z", "2017-03-01T00:00:00.123456Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
                    .utf8
            } else {
                number()
            }
        case .number: number()
        case .text: garbage()
        }
    }

    private mutating func number() {
        if generator.isOne(in: 12) { text += generator.pick(Traffic.numbers).utf8 } else { text += String(generator.below(3_000)).utf8 }
    }

    private mutating func garbage() {
        switch generator.below(6) {
        case 0: for _ in 0..<generator.below(20) { text.append(UInt8(truncatingIfNeeded: generator.next())) }
        case 1: for _ in 0..<generator.below(20) { text.append(generator.pick(Traffic.alphabet)) }
        case 2:
            let byte = UInt8(truncatingIfNeeded: generator.next())
            for _ in 0..<generator.below(500) { text.append(byte) }
        // A few names, so that sessions are found again.
        default: text += generator.pick(["a", "b", "session-1", "é\u{301}", "x\r\n+OK"]).utf8
        }
    }

    private mutating func mutateText() {
        var whole = text
        mutate(&whole, from: 0)
        text = whole
    }

    private mutating func mutate(_ bytes: inout [UInt8], from start: Int) {
        guard bytes.count > start else { return }
        let index = start + generator.below(bytes.count - start)
        switch generator.below(9) {
        case 0: bytes[index] = UInt8(truncatingIfNeeded: generator.next())
        case 1: bytes[index] ^= 1 << UInt8(generator.below(8))
        case 2: bytes.remove(at: index)
        case 3: bytes.insert(generator.pick(Traffic.alphabet), at: index)
        case 4: bytes.removeSubrange(index...)
        case 5:
            // A part twice.
            let end = min(bytes.count, index + 1 + generator.below(12))
            bytes.insert(contentsOf: Array(bytes[index..<end]), at: index)
        case 6:
            let end = min(bytes.count, index + 1 + generator.below(12))
            bytes.removeSubrange(index..<end)
        case 7: bytes.insert(contentsOf: generator.pick(Traffic.numbers).utf8, at: index)
        default:
            // A digit of a length, perhaps.
            if let digit = bytes[index...].firstIndex(where: { (48...57).contains($0) }) { bytes[digit] = UInt8(48 + generator.below(10)) }
        }
    }
}
