import WeirAlgebra

/// Values as text: JSON, and the plain form of RESP2 and CSV.
public enum JSONText {
    /// A JSON string, quotes included. Non-ASCII characters stay as they are.
    public static func appendString(_ text: String, to bytes: inout [UInt8]) {
        bytes.append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                bytes.append(UInt8(ascii: "\\"))
                bytes.append(byte)
            case 0x08: bytes.append(contentsOf: "\\b".utf8)
            case 0x09: bytes.append(contentsOf: "\\t".utf8)
            case 0x0A: bytes.append(contentsOf: "\\n".utf8)
            case 0x0C: bytes.append(contentsOf: "\\f".utf8)
            case 0x0D: bytes.append(contentsOf: "\\r".utf8)
            case 0..<0x20, 0x7F:
                bytes.append(contentsOf: ("\\u00" + hexadecimal(CollectionOfOne(byte))).utf8)
            default: bytes.append(byte)
            }
        }
        bytes.append(UInt8(ascii: "\""))
    }

    public static func string(_ text: String) -> String {
        var bytes: [UInt8] = []
        appendString(text, to: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }
}

extension FeatureValue {
    public func appendJSON(to bytes: inout [UInt8]) {
        switch self {
        case .null: bytes.append(contentsOf: "null".utf8)
        case .int(let value): NumberText.append(value, to: &bytes)
        case .double(let value): NumberText.append(value, to: &bytes)
        case .bool(let value): bytes.append(contentsOf: (value ? "true" : "false").utf8)
        case .string(let value): JSONText.appendString(value, to: &bytes)
        case .list(let values):
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

    public var json: String {
        var bytes: [UInt8] = []
        appendJSON(to: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }

    /// The text of RESP2 and CSV: integers in decimal, doubles in the shortest form that reads back as the same bits, lists and
    /// maps as JSON; nil for null.
    public var text: String? {
        switch self {
        case .null: nil
        case .string(let value): value
        default: json
        }
    }
}

extension RecordBatch {
    /// A row as one JSON object in the schema's order; absent optional fields are left out.
    public func appendJSON(row: Int, to output: inout [UInt8]) {
        output.append(UInt8(ascii: "{"))
        var isFirst = true
        for (index, field) in schema.fields.enumerated() {
            let cell = cell(row: row, field: index)
            if cell == .null { continue }
            if !isFirst { output.append(UInt8(ascii: ",")) }
            isFirst = false
            JSONText.appendString(field.name, to: &output)
            output.append(UInt8(ascii: ":"))
            switch cell {
            case .null: break
            case .int64(let value): NumberText.append(value, to: &output)
            case .float64(let value): NumberText.append(value, to: &output)
            case .bool(let value): output.append(contentsOf: (value ? "true" : "false").utf8)
            case .time(let value): JSONText.appendString(TimeText.format(EventTime(microseconds: value)), to: &output)
            case .text(let start, let count):
                if field.type == .json {
                    output.append(contentsOf: bytes[start..<start + count])
                } else {
                    JSONText.appendString(string(start: start, count: count), to: &output)
                }
            }
        }
        output.append(UInt8(ascii: "}"))
    }
}
