import Foundation
import Testing
import WeirAlgebra
import WeirRecords
import WeirTesting

@Suite struct JSONTextTests {
    @Test(
        arguments: [
            (.null, "null", nil), (.int(-5), "-5", "-5"), (.int(.min), "-9223372036854775808", "-9223372036854775808"),
            (.double(0.1), "0.1", "0.1"),
            (.double(3), "3.0", "3.0"), (.double(1e-7), "1e-07", "1e-07"), (.double(-0.0), "-0.0", "-0.0"),
            (.bool(true), "true", "true"),
            (.bool(false), "false", "false"), (.string("a\"b"), #""a\"b""#, "a\"b"), (.string(""), #""""#, ""),
            (.list([]), "[]", "[]"), (.list([.string("é"), .null, .int(1)]), #"["é",null,1]"#, #"["é",null,1]"#),
            (
                .map([.init(key: "a\n", value: .int(1)), .init(key: "b", value: .int(2))]), #"{"a\n":1,"b":2}"#,
                #"{"a\n":1,"b":2}"#
            ),
        ] as [(FeatureValue, String, String?)])
    func forms(value: FeatureValue, json: String, text: String?) {
        #expect(value.json == json)
        #expect(value.text == text)
    }

    @Test func stringsAgainstFoundation() throws {
        var random = SeededGenerator("stringsAgainstFoundation")
        for code in 0..<0x800 as Range<UInt32> {
            let text = "a\(Character(UnicodeScalar(code)!))b"
            #expect(try JSONDecoder().decode([String].self, from: Data("[\(JSONText.string(text))]".utf8)) == [text])
        }
        for _ in 0..<2_000 {
            let scalars = (0..<8).compactMap { _ in UnicodeScalar(UInt32.random(in: 0...0x10FFFF, using: &random)) }
            let text = String(String.UnicodeScalarView(scalars))
            #expect(try JSONDecoder().decode([String].self, from: Data("[\(JSONText.string(text))]".utf8)) == [text])
        }
    }

    @Test func doublesReadBackAsTheSameBits() throws {
        var random = SeededGenerator("doublesReadBackAsTheSameBits")
        struct One: Codable { var value: Double }
        for _ in 0..<20_000 {
            let value = Double(bitPattern: random.next())
            guard value.isFinite else { continue }
            #expect(
                try decode(One.self, "{\"value\":\(FeatureValue.double(value).json)}").value.bitPattern
                    == value.bitPattern)
        }
    }

    /// A row as JSON reads back as the same row.
    @Test func rowsReadBack() throws {
        let schema = try Mixed.schema
        for json in [
            #"{"name":"a\"\u00e9\n","count":-3,"price":1e-7,"is_member":true,"at":1500,"tags":["b", {"c":[1]}],"note":"n","discount":0.5}"#,
            #"{"name":"","count":0,"price":-0.0,"is_member":false,"at":"1969-12-31T23:59:59.5Z","tags":[],"note":null}"#,
        ] {
            let batch = parseJSON(json, schema)
            var written: [UInt8] = []
            batch.appendJSON(row: 0, to: &written)
            let again = parseJSON(written, schema)
            #expect(outcome(again) == outcome(batch), "\(String(decoding: written, as: UTF8.self))")
            #expect(again.rows.count == 1)
        }
    }
}
