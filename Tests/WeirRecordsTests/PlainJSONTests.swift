import Foundation
import Testing
import WeirAlgebra
import WeirRecords
import WeirTesting

/// Objects in the form that machines write take a way of their own through the parser: it gives what the general way gives.
@Suite struct PlainJSONTests {
    private static let fields = [
        Field(name: "id", type: .text, isOptional: false), Field(name: "customer", type: .int64, isOptional: false),
        Field(name: "price", type: .float64, isOptional: true), Field(name: "is_new", type: .bool, isOptional: true),
        Field(name: "event_time", type: .time, isOptional: false), Field(name: "note", type: .text, isOptional: true),
    ]
    private static let schema = RecordSchema(name: "orders", fields: fields, timestampUnit: .milliseconds)
    /// A further field of nested JSON keeps a schema from the plain way; no text here has it.
    private static let general = RecordSchema(
        name: "orders", fields: fields + [Field(name: "nested", type: .json, isOptional: true)], timestampUnit: .milliseconds)

    /// What became of a text: the cells with their texts, or the reason.
    private static func outcome(_ json: [UInt8], _ schema: RecordSchema) -> String {
        let batch = parseJSON(json, schema)
        if let malformed = batch.malformed.first { return malformed.reason }
        return (0..<fields.count).map { field in
            switch batch.cell(row: 0, field: field) {
            case .text(let start, let count): "text " + batch.string(start: start, count: count)
            case .float64(let value): "float64 \(value.bitPattern)"
            case let cell: "\(cell)"
            }
        }.joined(separator: "|")
    }

    private static func value(_ random: inout SeededGenerator) -> String {
        switch Int.random(in: 0..<16, using: &random) {
        case 0: "null"
        case 1: "true"
        case 2: "false"
        case 3: "\"\(String(repeating: "x", count: Int.random(in: 0...40, using: &random)))\""
        case 4: ["\"ä€😀\"", "\"a\\\"b\"", "\"\\u00e9\"", "\"\t\"", "\"a\\u0000\"", "\"\\ud800\""].randomElement(using: &random)!
        case 5:
            "\"2026-01-0\(Int.random(in: 0...9, using: &random))T10:00:0\(Int.random(in: 0...9, using: &random)).\(Int.random(in: 0...9, using: &random))Z\""
        case 6: "\"2026-02-30T10:00:00Z\""
        case 7:
            ["-0", "0", "-0.0", "00", "01", "1.", ".5", "1e3", "1E-3", "-", "+1", "1.5.2", "0x1", "1_0", "12a"].randomElement(
                using: &random)!
        case 8:
            [
                "9223372036854775807", "9223372036854775808", "-9223372036854775808", "999999999999999999",
                "123456789012345678901234567890",
                "253402300799999", "253402300800000", "-62167219200000", "-62167219200001",
            ].randomElement(using: &random)!
        case 9: "\(Int64.random(in: .min ... .max, using: &random))"
        case 10: "\(Double(Int64.random(in: -999_999_999_999_999...999_999_999_999_999, using: &random)) / 1_000)"
        case 11: "\(Double(bitPattern: UInt64.random(in: 0...UInt64.max, using: &random)))"
        case 12: "0.\(Int.random(in: 0...Int.max, using: &random))"
        case 13: ["[1]", "{\"a\":1}", "nul", "truex", "\"open", ""].randomElement(using: &random)!
        case 14: "17672256\(Int.random(in: 10_000...99_999, using: &random))"
        default: "\(Int.random(in: -1_000...1_000, using: &random)).\(Int.random(in: 10...99, using: &random))"
        }
    }

    @Test func bothWaysAgree() {
        var random = SeededGenerator()
        print("bothWaysAgree(): WEIR_TEST_SEED=\(random.seed)")
        var accepted = 0
        for _ in 0..<60_000 {
            var members = Self.fields.map { field -> String in
                let fitting: String =
                    switch field.type {
                    case .text: "\"p\(Int.random(in: 0...999, using: &random))\""
                    case .int64: "\(Int.random(in: -99...99_999, using: &random))"
                    case .float64: "\(Double(Int.random(in: 0...9_999, using: &random)) / 100)"
                    case .bool: "true"
                    default: "1767225600123"
                    }
                return "\"\(field.name)\":" + (Int.random(in: 0..<8, using: &random) == 0 ? Self.value(&random) : fitting)
            }
            if Int.random(in: 0..<6, using: &random) == 0 { members.shuffle(using: &random) }
            if Int.random(in: 0..<12, using: &random) == 0 { members.remove(at: Int.random(in: 0..<members.count, using: &random)) }
            if Int.random(in: 0..<16, using: &random) == 0 { members.append(members[0]) }
            if Int.random(in: 0..<16, using: &random) == 0 { members.append("\"other\":[1,{}]") }
            let space = ["", " ", "\t\r\n "].randomElement(using: &random)!
            var text = Array(("{" + members.joined(separator: "," + space) + space + "}").utf8)
            if Int.random(in: 0..<10, using: &random) == 0 {
                text[Int.random(in: 0..<text.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            if Int.random(in: 0..<20, using: &random) == 0 { text.removeLast(Int.random(in: 1...text.count, using: &random)) }
            if Int.random(in: 0..<30, using: &random) == 0 { text += Array("}".utf8) }
            let plain = Self.outcome(text, Self.schema)
            let general = Self.outcome(text, Self.general)
            #expect(plain == general, "\(String(decoding: text, as: UTF8.self))")
            accepted += plain.contains("|") ? 1 : 0
        }
        #expect(accepted > 10_000)
    }

    /// Lines that are parsed many at once are the lines that are parsed one by one: whatever stands between them, wherever a chunk ends.
    @Test func linesAtOnceAgreeWithOneByOne() {
        var random = SeededGenerator()
        print("linesAtOnceAgreeWithOneByOne(): WEIR_TEST_SEED=\(random.seed)")
        let limit = 120
        for round in 0..<400 {
            var file: [UInt8] = []
            let oddness = [2, 20, 1_000].randomElement(using: &random)!
            for number in 0..<Int.random(in: 1...300, using: &random) {
                var line = "{\"id\":\"p\(number)\",\"customer\":\(number % 7),\"price\":1.5,\"event_time\":\(1_767_225_600_000 + number)}"
                if Int.random(in: 0..<oddness, using: &random) == 0 {
                    line = [
                        "", "  ", "{\"id\":\"\\u0041\",\"customer\":1,\"event_time\":1}", "{\"id\":1}", "nothing", " " + line,
                        "{\"id\":\"\(String(repeating: "l", count: limit))\",\"customer\":1,\"event_time\":1}",
                    ].randomElement(using: &random)!
                }
                file += Array(line.utf8) + (Int.random(in: 0..<9, using: &random) == 0 ? [0x0D, 0x0A] : [0x0A])
            }
            if Bool.random(using: &random) { file.removeLast() }
            func read(_ schema: RecordSchema, chunks: Bool) -> [String] {
                var reader = JSONLinesReader(schema: schema, recordBytesMax: limit)
                var outcomes: [String] = []
                var position = 0
                while position < file.count {
                    let end = chunks ? min(file.count, position + Int.random(in: 1...2_000, using: &random)) : file.count
                    var batch = RecordBatch(schema: schema)
                    let used = file.withUnsafeBytes { bytes in
                        reader.parse(
                            UnsafeRawBufferPointer(rebasing: bytes[position..<end]), isLast: end == file.count, baseOffset: Int64(position),
                            into: &batch, recordsMax: chunks ? Int.random(in: 1...50, using: &random) : .max)
                    }
                    for (row, info) in batch.rows.enumerated() {
                        let cells = (0..<Self.fields.count).map { field in
                            if case .text(let start, let count) = batch.cell(row: row, field: field) {
                                return batch.string(start: start, count: count)
                            }
                            return "\(batch.cell(row: row, field: field))"
                        }
                        outcomes.append("\(info.offset) \(String(decoding: batch.bytes[info.raw], as: UTF8.self)) \(cells)")
                    }
                    outcomes += batch.malformed.map {
                        "\($0.offset) \(String(decoding: batch.bytes[$0.raw], as: UTF8.self)) \($0.reason)"
                    }
                    position += used
                }
                return outcomes.sorted()
            }
            // A schema with a field of nested JSON has no plain way: its lines are parsed one by one.
            #expect(read(Self.schema, chunks: true) == read(Self.general, chunks: false), "round \(round)")
        }
    }
}
