import WeirAlgebra

/// A feature's value as RESP2 shows it: integers in decimal, doubles in shortest round-trip form, `true`/`false`, strings as they
/// are, lists and maps as JSON text; nil for null.
package func respText(_ value: FeatureValue) -> String? {
    switch value {
    case .null: return nil
    case .int(let number): return String(number)
    case .double(let number): return number.description
    case .bool(let truth): return truth ? "true" : "false"
    case .string(let text): return text
    case .list, .map:
        var json: [UInt8] = []
        appendJSON(value, to: &json)
        return String(decoding: json, as: UTF8.self)
    }
}

private func appendJSON(_ value: FeatureValue, to json: inout [UInt8]) {
    switch value {
    case .null: json += "null".utf8
    case .int(let number): json += String(number).utf8
    case .double(let number): json += number.isFinite ? number.description.utf8 : "null".utf8
    case .bool(let truth): json += truth ? "true".utf8 : "false".utf8
    case .string(let text): appendJSON(text, to: &json)
    case .list(let values):
        json.append(UInt8(ascii: "["))
        for (index, value) in values.enumerated() {
            if index > 0 { json.append(UInt8(ascii: ",")) }
            appendJSON(value, to: &json)
        }
        json.append(UInt8(ascii: "]"))
    case .map(let entries):
        json.append(UInt8(ascii: "{"))
        for (index, entry) in entries.enumerated() {
            if index > 0 { json.append(UInt8(ascii: ",")) }
            appendJSON(entry.key, to: &json)
            json.append(UInt8(ascii: ":"))
            appendJSON(entry.value, to: &json)
        }
        json.append(UInt8(ascii: "}"))
    }
}

/// A JSON string (RFC 8259): what must be escaped is, everything else stays as it is.
private func appendJSON(_ text: String, to json: inout [UInt8]) {
    let hex = Array("0123456789abcdef".utf8)
    json.append(UInt8(ascii: "\""))
    for byte in text.utf8 {
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"): json += [UInt8(ascii: "\\"), byte]
        case 8: json += "\\b".utf8
        case 9: json += "\\t".utf8
        case 10: json += "\\n".utf8
        case 12: json += "\\f".utf8
        case 13: json += "\\r".utf8
        case 0..<32:
            json += "\\u00".utf8
            json += [hex[Int(byte >> 4)], hex[Int(byte & 15)]]
        default: json.append(byte)
        }
    }
    json.append(UInt8(ascii: "\""))
}
