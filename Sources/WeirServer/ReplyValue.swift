import WeirAlgebra
import WeirRecords

/// The version of the protocol that a connection speaks: 2 until the client says `HELLO 3`.
package enum RESPVersion: Int, Sendable {
    case resp2 = 2
    case resp3 = 3
}

/// A reply as a tree, for commands off the hot path.
package indirect enum ReplyValue: Hashable, Sendable {
    /// One line of text, such as `OK`.
    case simple(String)
    case error(CommandError)
    case null
    case int(Int64)
    case double(Double)
    case bool(Bool)
    case string(String)
    case bytes([UInt8])
    /// Text for people: a verbatim string in RESP3, a bulk string in RESP2.
    case text(String)
    case feature(FeatureValue)
    case array([ReplyValue])
    case map([Entry])

    package struct Entry: Hashable, Sendable {
        package var key: String
        package var value: ReplyValue

        package init(_ key: String, _ value: ReplyValue) {
            self.key = key
            self.value = value
        }
    }

    package static func map(_ entries: KeyValuePairs<String, ReplyValue>) -> ReplyValue {
        .map(entries.map { Entry($0.key, $0.value) })
    }

    package static let ok = ReplyValue.simple("OK")
}

extension ReplyValue {
    /// As JSON; an error as its text, a double that JSON has no number for as null.
    package func appendJSON(to bytes: inout [UInt8]) {
        switch self {
        case .simple(let text), .string(let text), .text(let text): JSONText.appendString(text, to: &bytes)
        case .error(let error): JSONText.appendString("\(error)", to: &bytes)
        case .bytes(let text): JSONText.appendString(String(decoding: text, as: UTF8.self), to: &bytes)
        case .null: FeatureValue.null.appendJSON(to: &bytes)
        case .int(let value): FeatureValue.int(value).appendJSON(to: &bytes)
        case .double(let value): value.featureValue.appendJSON(to: &bytes)
        case .bool(let value): FeatureValue.bool(value).appendJSON(to: &bytes)
        case .feature(let value): value.appendJSON(to: &bytes)
        case .array(let values):
            bytes.append(UInt8(ascii: "["))
            for (index, value) in values.enumerated() {
                if index > 0 { bytes.append(UInt8(ascii: ",")) }
                value.appendJSON(to: &bytes)
            }
            bytes.append(UInt8(ascii: "]"))
        case .map(let entries):
            bytes.append(UInt8(ascii: "{"))
            for (index, entry) in entries.enumerated() {
                if index > 0 { bytes.append(UInt8(ascii: ",")) }
                JSONText.appendString(entry.key, to: &bytes)
                bytes.append(UInt8(ascii: ":"))
                entry.value.appendJSON(to: &bytes)
            }
            bytes.append(UInt8(ascii: "}"))
        }
    }
}

/// Why a command was refused: what is wrong, and what would be right. Answered as `-CODE message`; the connection stays usable.
package struct CommandError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The first word of the error line, which client libraries tell errors apart by.
    package let code: String
    package let message: String

    package init(_ message: String, code: String = "ERR") {
        self.code = code
        self.message = message
    }

    package var description: String { "\(code) \(message)" }
}
