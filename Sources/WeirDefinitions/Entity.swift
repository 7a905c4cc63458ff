/// A thing that features describe: a customer, a basket, a store.
///
/// ```swift
/// enum Household: Entity { typealias ID = Int; static let name = "household" }
/// ```
public protocol Entity: Sendable {
    /// An integer, a string, or a `CompositeKey` of these.
    associatedtype ID: EntityKey
    static var name: String { get }

    /// The names under which the key comes over HTTP, as Feast's join keys: one for the whole key, or one for each part of a
    /// `CompositeKey`. By default the entity's name, which is always understood too. No stored byte depends on them.
    static var joinKeys: [String] { get }
}

extension Entity {
    public static var joinKeys: [String] { [name] }
}

/// A type that identifies an entity. Its text is canonical: equal keys have equal texts, and they are what the stores hold.
public protocol EntityKey: Hashable, Sendable {
    /// The canonical text: integers in decimal, strings as they are, composite keys joined by `:` with `\` as escape.
    var keyText: String { get }
    /// Reads a key as a person or a client writes it (integers may have leading zeros); nil when it is none.
    init?(keyText: String)
    /// For descriptions and messages, such as `int`.
    static var keyTypeName: String { get }
}

extension Int: EntityKey {
    public var keyText: String { String(self) }
    public init?(keyText: String) { self.init(keyText) }
    public static var keyTypeName: String { "int" }
}

extension Int64: EntityKey {
    public var keyText: String { String(self) }
    public init?(keyText: String) { self.init(keyText) }
    public static var keyTypeName: String { "int" }
}

extension String: EntityKey {
    public var keyText: String { self }
    public init?(keyText: String) { self = keyText }
    public static var keyTypeName: String { "string" }
}

/// A key of several parts, such as `CompositeKey(customer, "WINE")`. Its text joins the parts' texts by `:`;
/// `:` and `\` inside a part are preceded by `\`.
public struct CompositeKey<each Part: EntityKey>: EntityKey {
    public let parts: (repeat each Part)

    public init(_ parts: repeat each Part) {
        self.parts = (repeat each parts)
    }

    public var keyText: String {
        var texts: [String] = []
        for part in repeat each parts { texts.append(part.keyText) }
        return compositeKeyText(texts)
    }

    public init?(keyText: String) {
        var rest = unescapedParts(keyText)[...]
        func next<P: EntityKey>(_: P.Type) throws(NoKey) -> P {
            guard let text = rest.popFirst(), let part = P(keyText: text) else { throw NoKey() }
            return part
        }
        guard let parts = try? (repeat next((each Part).self)), rest.isEmpty else { return nil }
        self.parts = parts
    }

    public static var keyTypeName: String {
        var names: [String] = []
        for part in repeat (each Part).self { names.append(part.keyTypeName) }
        return names.joined(separator: ":")
    }

    public static func == (a: Self, b: Self) -> Bool { a.keyText == b.keyText }
    public func hash(into hasher: inout Hasher) { hasher.combine(keyText) }
}

/// The text of a composite key from those of its parts.
package func compositeKeyText(_ parts: [String]) -> String { parts.map(escape).joined(separator: ":") }

/// The parts of a composite key's text.
package func compositeKeyParts(_ text: String) -> [String] { unescapedParts(text) }

private struct NoKey: Error {}

private func escape(_ text: String) -> String {
    var escaped = ""
    for scalar in text.unicodeScalars {
        if scalar == ":" || scalar == "\\" { escaped.unicodeScalars.append("\\") }
        escaped.unicodeScalars.append(scalar)
    }
    return escaped
}

private func unescapedParts(_ text: String) -> [String] {
    var parts = [""]
    var isEscaped = false
    for scalar in text.unicodeScalars {
        if isEscaped || (scalar != ":" && scalar != "\\") {
            parts[parts.count - 1].unicodeScalars.append(scalar)
            isEscaped = false
        } else if scalar == "\\" {
            isEscaped = true
        } else {
            parts.append("")
        }
    }
    return parts
}
