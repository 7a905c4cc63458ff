import WeirAlgebra

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
