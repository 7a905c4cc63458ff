import Foundation
import Testing
import WeirAlgebra
import WeirRecords
import WeirTesting

private struct Anything: Codable { var value: [Int]? }
private struct One<T: Codable>: Codable { var value: T }

/// Whether a text is accepted as the value of a field that takes any JSON, and of one that nobody reads.
private func accepts(_ value: [UInt8]) throws -> Bool {
    let schema = RecordSchema(
        name: "any", fields: [Field(name: "value", type: .json, isOptional: true)], timestampUnit: nil)
    let known = parseJSON(Array(#"{"value":"#.utf8) + value + [UInt8(ascii: "}")], schema)
    let unknown = parseJSON(Array(#"{"other":"#.utf8) + value + [UInt8(ascii: "}")], schema)
    #expect(known.rows.count == unknown.rows.count, "\(String(decoding: value, as: UTF8.self))")
    #expect(known.rows.count + known.malformed.count == 1)
    return known.rows.count == 1
}

private func reason(_ json: String, _ schema: RecordSchema) -> String {
    parseJSON(json, schema).malformed.first?.reason ?? "none"
}

@Suite struct JSONRecordParserTests {
    /// In the spirit of JSONTestSuite (Nicolas Seriot, "Parsing JSON is a minefield").
    @Test(arguments: [
        "0", "-0", "1", "-1", "123456789", "1.5", "-1.5e3", "1E+2", "1e-2", "0e1", "0.0", "20e1", "1e22",
        "1.0000000000000000001",
        "true", "false", "null", "\"\"", "\"a\"", "\" \"", "\"\u{7F}\"", "\"é\u{10FFFF}\u{2028}\u{FFFF}\"",
        #""\"\\\/\b\f\n\r\t""#,
        #""\u0000""#, #""\u00e9\uD834\uDD1E\uDBFF\uDFFF""#, "[]", "[ ]", "[1,2]", "[[],[[]]]", "[null,1,\"2\",{}]",
        "{}", "{ }",
        #"{"a":1}"#, #"{"a":{"b":[]}}"#, #"{"":0}"#, #"{"a":1,"a":2}"#, " 1 ", "\t[\n1\r,2 ]", "1e400", "-1e-400",
        "123456789012345678901234567890", String(repeating: "[", count: 64) + String(repeating: "]", count: 64),
    ])
    func accepted(value: String) throws { #expect(try accepts(Array(value.utf8))) }

    @Test(arguments: [
        "", " ", "-", "+1", "01", "-01", "1.", ".5", "1.e1", "1e", "1e+", "1.5.2", "1-1", "0x1", "1 2", "1_000",
        "Infinity",
        "-Infinity", "NaN", "nan", "inf", "-NaN", "True", "nul", "nulll", "truee", "tru", "'a'", "a", "\"", "\"a",
        "\"\\\"",
        "\"\t\"", "\"\n\"", "\"\u{0}\"", "\"\u{1F}\"", #""\x41""#, #""\a""#, #""\u12""#, #""\u12G4""#, #""\uD800""#,
        #""\uD800a""#,
        #""\uD800\n""#, #""\uD800\uD800""#, #""\uDC00""#, #""\uD834\u0041""#, #""\"#, #""\u"#, #""\uD834\"#, "[", "]",
        "[1", "[1,",
        "[1,]", "[,1]", "[1 2]", "[1,,2]", "[1}", "{", "{a:1}", "{1:1}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}",
        "{\"a\":1", "{\"a\" 1}",
        "{,}", "{\"a\":1]", "[1]]", "\u{FEFF}1", "\u{A0}1", "\u{0B}1", "1/**/", "// a\n1", "#1", "[1]x", "{}{}", "*",
        String(repeating: "[", count: 65) + String(repeating: "]", count: 65), String(repeating: "[", count: 100_000),
        String(repeating: "{\"a\":", count: 100_000),
    ])
    func refused(value: String) throws { #expect(try !accepts(Array(value.utf8))) }

    @Test(
        arguments: [
            [0xFF], [0x80], [0xC3], [0xC0, 0xAF], [0xE0, 0x80, 0xAF], [0xED, 0xA0, 0x80], [0xF0, 0x80, 0x80, 0x80],
            [0xF4, 0x90, 0x80, 0x80],
            [0xF5, 0x80, 0x80, 0x80], [0xE2, 0x82], [0xFE, 0xFE, 0xFF, 0xFF],
        ] as [[UInt8]])
    func badUTF8(bytes: [UInt8]) throws {
        let quote = UInt8(ascii: "\"")
        #expect(try !accepts([quote] + bytes + [quote]))
        #expect(try !accepts(Array("\"\\n".utf8) + bytes + [quote]))
        #expect(try !accepts(bytes))
        #expect(try !accepts(Array("{\"".utf8) + bytes + Array("\":1}".utf8)))
    }

    @Test(arguments: [
        "", " ", "[]", "1", "null", "\"a\"", "{", "{}x", "{},", "{}{}", "}", "\u{FEFF}{}", "{\"a\":1} {\"a\":1}",
    ])
    func notOneObject(json: String) throws {
        let schema = try RecordSchema.probe(Anything.self, name: "any", timestampUnit: nil)
        #expect(parseJSON(json, schema).malformed.count == 1)
    }

    @Test func fieldsInAnyOrderAndUnknownOnesReadOver() throws {
        let json = """
             { "unknown" : [1,{"count":"x"}], "at":"2017-01-01T00:00:00Z", "tags": [ "a" , "b" ] , "is_member":true,
             "price":1.25,"no\\u0074e":"\\u00e9\\n","other":"\\n", "count":-3, "name":"n\\"m" , "discount":null }
            """
        let value = try decode(Mixed.self, json)
        #expect(
            value
                == Mixed(
                    name: "n\"m", count: -3, price: 1.25, isMember: true,
                    at: EventTime(microseconds: 1_483_228_800_000_000),
                    tags: ["a", "b"], note: "é\n", discount: nil))
    }

    @Test func nestedTextIsKeptAsWritten() throws {
        let schema = RecordSchema(
            name: "any", fields: [Field(name: "value", type: .json, isOptional: true)], timestampUnit: nil)
        let batch = parseJSON(#"{"value": { "a" : [1.50, "\u00e9"] } }"#, schema)
        guard case .text(let start, let count) = batch.cell(row: 0, field: 0) else {
            Issue.record("no text")
            return
        }
        #expect(batch.string(start: start, count: count) == #"{ "a" : [1.50, "\u00e9"] }"#)
    }

    @Test(arguments: [
        (#""name":"a""#, #""name":1"#, "'name': a string expected"),
        (#""name":"a""#, #""name":null"#, "'name': it is null"),
        (#""name":"a","#, "", "'name': it is missing"),
        (#""count":1"#, #""count":1.0"#, "'count': '1.0' is no integer"),
        (#""count":1"#, #""count":1e2"#, "'count': '1e2' is no integer"),
        (#""count":1"#, #""count":01"#, "'count': '01' is no integer"),
        (#""count":1"#, #""count":"1""#, "'count': an integer expected"),
        (#""count":1"#, #""count":true"#, "'count': an integer expected"),
        (#""count":1"#, #""count":9223372036854775808"#, "'count': 9223372036854775808 does not fit 64 bits"),
        (#""count":1"#, #""count":1,"count":1"#, "'count': it occurs twice"),
        (#""count":1"#, #""count":null,"count":1"#, "'count': it occurs twice"),
        (#""count":1"#, #""count":1,"co\u0075nt":1"#, "'count': it occurs twice"),
        (#""price":1.5"#, #""price":"1.5""#, "'price': a number expected"),
        (#""price":1.5"#, #""price":NaN"#, "'price': a number expected"),
        (#""price":1.5"#, #""price":-"#, "'price': '-' is no number"),
        (#""price":1.5"#, #""price":1."#, "'price': '1.' is no number"),
        (#""price":1.5"#, #""price":1e400"#, "'price': 1e400 is beyond Double's range"),
        (#""price":1.5"#, #""price":-1e309"#, "'price': -1e309 is beyond Double's range"),
        (#""is_member":true"#, #""is_member":1"#, "'is_member': true or false expected"),
        (#""is_member":true"#, #""is_member":"true""#, "'is_member': true or false expected"),
        (#""at":0"#, #""at":"yesterday""#, "'at': a digit is missing"),
        (#""at":0"#, #""at":true"#, "'at': a time as RFC 3339 text expected"),
        (#""at":0"#, #""at":01"#, "'at': '01' is no number"), (#""at":0"#, #""at":1."#, "'at': '1.' is no number"),
        (#""at":0"#, #""at":1e3"#, "'at': "),
        (#""at":0"#, #""at":0.0001"#, "'at': the time 0.0001 is no whole number of microseconds"),
        (#""at":0"#, #""at":99999999999999999999"#, "'at': the time 99999999999999999999 is out of range"),
        (#""at":0"#, #""at":"2017-02-30T00:00:00Z""#, "'at': there is no day 30"),
        (#""tags":[]"#, #""tags":[1,]"#, "a value expected"),
    ])
    func reasonsNameTheField(old: String, new: String, reason expected: String) throws {
        let good = #"{"name":"a","count":1,"price":1.5,"is_member":true,"at":0,"tags":[]}"#
        let schema = try Mixed.schema
        #expect(parseJSON(good, schema).rows.count == 1)
        let bad = good.replacingOccurrences(of: old, with: new)
        #expect(bad != good)
        #expect(reason(bad, schema).contains(expected), "\(reason(bad, schema))")
    }

    @Test func unknownFieldsOfARequestAreRefusedByName() throws {
        let schema = try Mixed.schema
        var batch = RecordBatch(schema: schema)
        var parser = JSONRecordParser(schema: schema, unknownFields: .rejected)
        parser.append(Array(#"{"name":"a","cuont":1}"#.utf8), to: &batch, offset: 0)
        #expect(batch.malformed.first?.reason.contains("'cuont'") == true)
        #expect(batch.malformed.first?.reason.contains("count") == true)
    }

    @Test func integersAtTheEndsOfTheRange() throws {
        #expect(try decode(One<Int>.self, #"{"value":9223372036854775807}"#).value == .max)
        #expect(try decode(One<Int>.self, #"{"value":-9223372036854775808}"#).value == .min)
        #expect(throws: RecordError.self) { try decode(One<Int>.self, #"{"value":-9223372036854775809}"#) }
        #expect(try decode(One<Int>.self, #"{"value":-0}"#).value == 0)
    }

    /// Doubles against the C library's `strtod`, to the bit: short ones, shortest forms, long ones, halfway cases, subnormals.
    @Test func doublesAreRoundedCorrectly() throws {
        var random = SeededGenerator("doublesAreRoundedCorrectly")
        func digits(_ count: Int, _ random: inout SeededGenerator) -> String {
            (0..<count).map { _ in String(Int.random(in: 0...9, using: &random)) }.joined()
        }
        var texts = [
            "0", "-0", "-0.0", "0.1", "1e22", "1e23", "123456789012345e22", "999999999999999e22", "9007199254740993",
            "9007199254740991",
            "9007199254740992.5", "9007199254740993.0000000000000000000000000000000000000001", "4.9e-324",
            "2.4703282292062327e-324",
            "2.4703282292062328e-324", "2.2250738585072011e-308", "2.2250738585072014e-308", "1.7976931348623157e308",
            "1.7976931348623158e308", "0.000000000000000000000000000001", "1e-400", "-1e-400", "0e400", "0.0e-400",
            "100000000000000000000000000000000000000000000", "0." + String(repeating: "0", count: 400) + "1e400",
            "1" + String(repeating: "0", count: 400) + "e-400",
        ]
        for _ in 0..<30_000 {
            switch Int.random(in: 0..<4, using: &random) {
            case 0:
                texts.append(
                    "\(Int.random(in: -99_999...99_999, using: &random)).\(digits(Int.random(in: 1...4, using: &random), &random))"
                )
            case 1:
                let value = Double(bitPattern: random.next())
                if value.isFinite { texts.append("\(value)") }
            case 2:
                let exponent = Int.random(in: -330...300, using: &random)
                texts.append(
                    "\(Int.random(in: 1...9, using: &random))\(digits(Int.random(in: 0...24, using: &random), &random))e\(exponent)"
                )
            default:
                let value = Double(Int.random(in: 1 << 53..<1 << 60, using: &random))
                texts.append(String(format: "%.0f", value.nextUp / 2 + value / 2))
            }
        }
        for text in texts {
            let expected = strtod(text, nil)
            guard expected.isFinite else { continue }
            let parsed = try decode(One<Double>.self, "{\"value\":\(text)}").value
            #expect(parsed.bitPattern == expected.bitPattern, "\(text)")
        }
    }

    /// Random records, written by Foundation, read by both.
    @Test func randomRecordsAgreeWithFoundation() throws {
        struct Flat: Codable, Equatable {
            var text: String
            var count: Int
            var price: Double
            var flag: Bool
            var note: String?
            var rank: Int?
            var list: [String]
            var nested: [String: [Double]]
        }
        var random = SeededGenerator("randomRecordsAgreeWithFoundation")
        let pieces = [
            "a", "é", "\"", "\\", "/", "\n", "\t", "\u{0}", "\u{1F}", "𝄞", "日本", " ", "\u{2028}", "{", "}", ",",
            "\u{7F}", "👩‍👩‍👧",
        ]
        func text() -> String {
            (0..<Int.random(in: 0...8, using: &random)).map { _ in pieces.randomElement(using: &random)! }.joined()
        }
        func price() -> Double {
            let value =
                random.chance(2)
                ? Double(bitPattern: random.next()) : Double(Int.random(in: -9_999...9_999, using: &random)) / 100
            return value.isFinite ? value : 0
        }
        let encoder = JSONEncoder()
        let schema = try RecordSchema.probe(Flat.self, name: "flat", timestampUnit: nil)
        var decoder = RecordDecoder(schema: schema)
        for round in 0..<3_000 {
            let value = Flat(
                text: text(), count: Int(truncatingIfNeeded: random.next()), price: price(), flag: random.chance(2),
                note: random.chance(2) ? text() : nil,
                rank: random.chance(2) ? Int.random(in: -9...9, using: &random) : nil,
                list: (0..<Int.random(in: 0...3, using: &random)).map { _ in text() },
                nested: random.chance(2) ? [:] : [text(): [price()], text() + "x": []])
            encoder.outputFormatting = round % 2 == 0 ? [.sortedKeys] : [.prettyPrinted, .withoutEscapingSlashes]
            let json = try encoder.encode(value)
            let batch = parseJSON(Array(json), schema)
            try #require(batch.rows.count == 1, "\(batch.malformed): \(String(decoding: json, as: UTF8.self))")
            let ours = try decoder.decode(Flat.self, from: batch, row: 0)
            #expect(ours == (try JSONDecoder().decode(Flat.self, from: json)))
            #expect(ours.price.bitPattern == value.price.bitPattern)
        }
    }

    @Test func arraysOfElements() throws {
        let elements = try jsonArrayElements(Array(#" [ {"a":[1,2]} , 3,"x]" ] "#.utf8)).map {
            String(decoding: $0, as: UTF8.self)
        }
        #expect(elements == [#"{"a":[1,2]}"#, "3", #""x]""#])
        #expect(try jsonArrayElements(Array("[]".utf8)).isEmpty)
        for bad in ["", "{}", "[", "[1", "[1,]", "[1] 2", "[\"a]"] {
            #expect(throws: RecordError.self, "\(bad)") { try jsonArrayElements(Array(bad.utf8)) }
        }
    }

    /// Any bytes, and good records with a few bytes changed: one row or one reason, and never a trap.
    @Test func hostileBytes() throws {
        var random = SeededGenerator("hostileBytes")
        let schema = try Mixed.schema
        let good = Array(
            #"{"name":"\u00e9a","count":12,"price":1.5e2,"is_member":true,"at":"2017-01-01T00:00:00Z","tags":[{"a":[1]}]}"#
                .utf8)
        let alphabet = Array(#"{}[]",:\u0dD8e+-.1tfnrasl "#.utf8) + [0, 10, 13, 0xC3, 0xA9, 0xED, 0xF0, 0xFF]
        var decoder = RecordDecoder(schema: schema)
        var rows = 0
        for round in 0..<60_000 {
            var bytes: [UInt8]
            if round % 3 == 0 {
                bytes = (0..<Int.random(in: 0...40, using: &random)).map { _ in alphabet.randomElement(using: &random)!
                }
            } else {
                bytes = good
                for _ in 0..<Int.random(in: 1...3, using: &random) where !bytes.isEmpty {
                    let index = Int.random(in: 0..<bytes.count, using: &random)
                    switch Int.random(in: 0..<4, using: &random) {
                    case 0: bytes.remove(at: index)
                    case 1: bytes.insert(alphabet.randomElement(using: &random)!, at: index)
                    case 2: bytes.removeSubrange(index...)
                    default: bytes[index] = alphabet.randomElement(using: &random)!
                    }
                }
            }
            let batch = parseJSON(bytes, schema)
            #expect(batch.rows.count + batch.malformed.count == 1)
            #expect(batch.cells.count == batch.rows.count * schema.fields.count)
            if let malformed = batch.malformed.first {
                #expect(!malformed.reason.isEmpty)
                #expect(Array(batch.bytes[malformed.raw]) == bytes)
            } else {
                rows += 1
                _ = try? decoder.decode(Mixed.self, from: batch, row: 0)
            }
        }
        #expect(rows > 100, "the changed records should not all be malformed")
    }
}
