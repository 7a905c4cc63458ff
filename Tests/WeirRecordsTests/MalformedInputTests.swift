import Testing
import WeirAlgebra
import WeirRecords
import WeirTesting

private let fieldNames = [
    "id", "household", "basket", "store", "product", "department", "category", "quantity", "price", "retail_discount",
    "coupon_discount",
    "event_time",
]
private let integers = ["household", "basket", "store", "product", "quantity"]
private let doubles = ["price", "retail_discount", "coupon_discount"]

/// The fields of a purchase as JSON texts.
private func fields(_ purchase: Purchase) -> [String: String] {
    [
        "id": "\"\(purchase.id)\"", "household": "\(purchase.household)", "basket": "\(purchase.basket)",
        "store": "\(purchase.store)",
        "product": "\(purchase.product)", "department": "\"\(purchase.department)\"",
        "category": "\"\(purchase.category)\"",
        "quantity": "\(purchase.quantity)", "price": "\(purchase.price)",
        "retail_discount": "\(purchase.retailDiscount)",
        "coupon_discount": "\(purchase.couponDiscount)", "event_time": "\"\(TimeText.format(purchase.eventTime))\"",
    ]
}

private func json(_ fields: [String: String]) -> String {
    "{" + fieldNames.compactMap { name in fields[name].map { "\"\(name)\":\($0)" } }.joined(separator: ",") + "}"
}

@Suite struct MalformedInputTests {
    /// 1,000 malformed lines among good ones: each with a reason that names the field that was spoilt and what is wrong with it.
    @Test func jsonLines() throws {
        var random = SeededGenerator("malformed jsonLines")
        let schema = try Purchase.schema
        var file: [UInt8] = []
        var expected: [(offset: Int64, field: String?, reason: String)] = []
        for number in 0..<1_000 {
            file.append(contentsOf: (Purchase.sample(number).json + "\n").utf8)
            var values = fields(.sample(number))
            let offset = Int64(file.count)
            func spoil(_ names: [String], _ text: String?, _ reason: String) {
                let name = names.randomElement(using: &random)!
                values[name] = text
                expected.append((offset, "'\(name)'", reason))
            }
            var line: [UInt8]?
            switch number % 14 {
            case 0: spoil(fieldNames, nil, "it is missing")
            case 1: spoil(fieldNames, "null", "it is null")
            case 2: spoil(integers, ["1.5", "1e3", "01", "--1"].randomElement(using: &random)!, "is no integer")
            case 3:
                spoil(
                    integers, ["9223372036854775808", "-99999999999999999999"].randomElement(using: &random)!,
                    "does not fit 64 bits")
            case 4:
                spoil(
                    integers, ["\"1\"", "true", "[1]", "{}", "NaN"].randomElement(using: &random)!,
                    "an integer expected")
            case 5:
                spoil(doubles, ["1e309", "-1e999", "2e308"].randomElement(using: &random)!, "beyond Double's range")
            case 6:
                spoil(
                    doubles, ["NaN", "Infinity", "\"1\"", "true", "[]"].randomElement(using: &random)!,
                    "a number expected")
            case 7:
                spoil(doubles, ["-Infinity", "1.", "01.5", "1e", "-"].randomElement(using: &random)!, "is no number")
            case 8:
                spoil(
                    ["id", "department", "category"], ["1", "true", "[\"a\"]"].randomElement(using: &random)!,
                    "a string expected")
            case 9: spoil(["event_time"], "\"2017-02-29T00:00:00Z\"", "there is no day 29")
            case 10: spoil(["event_time"], "\"2017-01-01T24:00:00Z\"", "no such time of day")
            case 11: spoil(["event_time"], "\"2017-01-01T00:00:00\"", "the offset from UTC is missing")
            case 12:
                line = Array(json(values).utf8)
                line!.removeLast(Int.random(in: 1...line!.count - 1, using: &random))
                expected.append((offset, nil, "truncated"))
            default:
                line = Array(json(values).utf8)
                // Inside of the department's text.
                let start = line!.firstRange(of: Array("GROC".utf8))!.lowerBound
                line![start + 1] = [0xFF, 0xC0, 0x80, 0xED].randomElement(using: &random)!
                expected.append((offset, nil, "no valid UTF-8"))
            }
            file.append(contentsOf: line ?? Array(json(values).utf8))
            file.append(0x0A)
        }
        file.append(contentsOf: Purchase.sample(1_000).json.utf8)
        let batch = readLines(file, schema, pieces: [4_096])
        try check(batch, expected)
    }

    @Test func csv() throws {
        var random = SeededGenerator("malformed csv")
        let schema = try Purchase.schema
        var file = Array((fieldNames.joined(separator: ",") + "\n").utf8)
        func columns(_ purchase: Purchase) -> [String] {
            let values = fields(purchase)
            return fieldNames.map { values[$0]!.replacing("\"", with: "") }
        }
        var expected: [(offset: Int64, field: String?, reason: String)] = []
        for number in 0..<1_000 {
            file.append(contentsOf: (columns(.sample(number)).joined(separator: ",") + "\n").utf8)
            var values = columns(.sample(number))
            let offset = Int64(file.count)
            func spoil(_ names: [String], _ text: String, _ reason: String) {
                let name = names.randomElement(using: &random)!
                values[fieldNames.firstIndex(of: name)!] = text
                expected.append((offset, "'\(name)'", reason))
            }
            switch number % 13 {
            case 0: spoil(integers + doubles + ["event_time"], "", "it is empty")
            case 1:
                spoil(
                    integers, ["x", "1.0", " 1", "1e3", "0x1", "+", "٣"].randomElement(using: &random)!, "is no integer"
                )
            case 2:
                spoil(
                    integers, ["9223372036854775808", "-9223372036854775809"].randomElement(using: &random)!,
                    "does not fit 64 bits")
            case 3:
                spoil(
                    doubles,
                    ["NaN", "nan", "inf", "-Infinity", "1,5", "1 ", "0x1p3"].map { $0 == "1,5" ? "\"1,5\"" : $0 }
                        .randomElement(using: &random)!, "is no number")
            case 4: spoil(doubles, ["1e309", "-1e999"].randomElement(using: &random)!, "beyond Double's range")
            case 5: spoil(["event_time"], "2017-13-01T00:00:00Z", "there is no month 13")
            case 6: spoil(["event_time"], "2016-12-31T23:59:60Z", "no such time of day")
            case 7: spoil(["event_time"], ["now", "01/02/2017", "x"].randomElement(using: &random)!, "in the time")
            case 8:
                values.removeLast(Int.random(in: 1...11, using: &random))
                expected.append((offset, nil, "\(values.count) fields, where the header has 12"))
            case 9:
                values.append("more")
                expected.append((offset, nil, "13 fields, where the header has 12"))
            case 10:
                values[5] = "\"GROCERY\"x"
                expected.append((offset, nil, "text follows the closing quote"))
            case 11:
                values[5] = "GRO\"CERY"
                expected.append((offset, nil, "a quote inside of a field"))
            default:
                values[5] = "GRO?CERY"
                expected.append((offset, "'department'", "no valid UTF-8"))
            }
            var line = Array(values.joined(separator: ",").utf8)
            if let mark = line.firstIndex(of: UInt8(ascii: "?")) { line[mark] = 0xFF }
            file.append(contentsOf: line)
            file.append(0x0A)
        }
        file.append(contentsOf: columns(.sample(1_000)).joined(separator: ",").utf8)
        let batch = try readCSV(file, schema, pieces: [4_096])
        try check(batch, expected)
    }

    /// All of the malformed ones have their reasons, and all of the good ones around them were read.
    private func check(_ batch: RecordBatch, _ expected: [(offset: Int64, field: String?, reason: String)]) throws {
        try #require(batch.malformed.count == 1_000)
        for (malformed, wanted) in zip(batch.malformed, expected) {
            #expect(malformed.offset == wanted.offset)
            // A text cut off in a string or a number ends there, not between values.
            let reasons =
                wanted.reason == "truncated" ? ["truncated", "is not closed", "is no number"] : [wanted.reason]
            #expect(reasons.contains { malformed.reason.contains($0) }, "\(malformed.reason); not \(wanted)")
            if let field = wanted.field {
                #expect(malformed.reason.contains(field), "\(malformed.reason); not \(wanted)")
            }
        }
        try #require(batch.rows.count == 1_001)
        var decoder = RecordDecoder(schema: batch.schema)
        for row in batch.rows.indices {
            #expect(try decoder.decode(Purchase.self, from: batch, row: row) == .sample(row))
        }
    }
}
