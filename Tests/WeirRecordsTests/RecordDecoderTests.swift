import Testing
import WeirAlgebra
import WeirRecords

private enum Department: String, Codable, CaseIterable {
    case grocery = "GROCERY"
    case wine = "WINE"
}
private enum Level: Int, Codable, CaseIterable {
    case low = 3
    case high = 7
}
private enum Closed: String, Codable { case open = "OPEN" }

private func failure<T: Decodable>(_ type: T.Type, _ json: String) -> String {
    do {
        return "no error, but \(try decode(type, json))"
    } catch {
        return "\(error)"
    }
}

@Suite struct RecordDecoderTests {
    @Test func aPurchase() throws {
        let purchase = Purchase.sample(17)
        #expect(try decode(Purchase.self, purchase.json) == purchase)
    }

    @Test func rowsOfOneBatchAndOfTheNext() throws {
        let schema = try Purchase.schema
        var decoder = RecordDecoder(schema: schema)
        var parser = JSONRecordParser(schema: schema)
        for start in [0, 50, 7] {
            var batch = RecordBatch(schema: schema)
            for number in start..<start + 20 {
                parser.append(Array(Purchase.sample(number).json.utf8), to: &batch, offset: Int64(number))
            }
            for row in batch.rows.indices.reversed() {
                #expect(try decoder.decode(Purchase.self, from: batch, row: row) == Purchase.sample(start + row))
            }
        }
    }

    @Test func optionalFields() throws {
        struct Sparse: Codable, Equatable {
            var a: Int?
            var b: String?
            var c: Double?
            var d: Bool?
            var e: EventTime?
            var f: Department?
            var g: [Int]?
            var h: Int
        }
        #expect(try decode(Sparse.self, #"{"h":1}"#) == Sparse(h: 1))
        #expect(
            try decode(Sparse.self, #"{"a":null,"b":null,"c":null,"d":null,"e":null,"f":null,"g":null,"h":1}"#)
                == Sparse(h: 1))
        #expect(
            try decode(Sparse.self, #"{"a":1,"b":"","c":2.5,"d":false,"e":1500,"f":"WINE","g":[1,2],"h":1}"#)
                == Sparse(
                    a: 1, b: "", c: 2.5, d: false, e: EventTime(microseconds: 1_500_000), f: .wine, g: [1, 2], h: 1))
        #expect(failure(Sparse.self, "{}").contains("'h': it is missing"))
    }

    @Test func enumerationsAndWrappers() throws {
        struct Wrapper: Codable, Equatable {
            var value: Int
            init(value: Int) { self.value = value }
            init(from decoder: any Decoder) throws { value = try decoder.singleValueContainer().decode(Int.self) }
            func encode(to encoder: any Encoder) throws {
                var container = encoder.singleValueContainer()
                try container.encode(value)
            }
        }
        struct Typed: Codable, Equatable {
            var department: Department
            var level: Level
            var wrapper: Wrapper
            var state: Closed?
        }
        #expect(
            try decode(Typed.self, #"{"department":"WINE","level":7,"wrapper":5,"state":"OPEN"}"#)
                == Typed(department: .wine, level: .high, wrapper: Wrapper(value: 5), state: .open))
        #expect(failure(Typed.self, #"{"department":"BEER","level":7,"wrapper":5}"#).contains("'department': "))
        #expect(failure(Typed.self, #"{"department":"BEER","level":7,"wrapper":5}"#).contains("BEER"))
        #expect(failure(Typed.self, #"{"department":"WINE","level":4,"wrapper":5}"#).contains("'level': "))
        #expect(
            failure(Typed.self, #"{"department":"WINE","level":7,"wrapper":5,"state":"SHUT"}"#).contains("'state': "))
    }

    /// Its values come as plain text in CSV, not as JSON.
    @Test func anOptionalEnumerationIsTextInCSV() throws {
        struct Row: Codable, Equatable {
            var id: Int
            var state: Closed?
        }
        let schema = try RecordSchema.probe(Row.self, name: "rows", timestampUnit: nil)
        let batch = try readCSV(Array("id,state\n1,OPEN\n2,\n".utf8), schema)
        try #require(batch.rows.count == 2, "\(batch.malformed.map(\.reason))")
        var decoder = RecordDecoder(schema: schema)
        #expect(try decoder.decode(Row.self, from: batch, row: 0) == Row(id: 1, state: .open))
        #expect(try decoder.decode(Row.self, from: batch, row: 1) == Row(id: 2, state: nil))
    }

    @Test func nestedValues() throws {
        struct Line: Codable, Equatable {
            var productID: Int
            var unitPrice: Double
            var addedAt: EventTime?
            var isGift: Bool?
        }
        struct Basket: Codable, Equatable {
            var basketLines: [Line]
            var byStore: [String: Int]
            var owner: Line?
            var matrix: [[Int]]
            var mixed: [String?]
        }
        let json = """
            {"basket_lines":[{"product_id":1,"unit_price":2.5,"added_at":"1970-01-01T00:00:01Z"},{"unit_price":1e2,"product_id":2,
            "is_gift":true,"other":[]}],"by_store":{"userID":1,"a_b":2},"owner":{"product_id":3,"unit_price":0},"matrix":[[1],[],[2,3]],
            "mixed":["a",null,"\\u00e9"]}
            """
        #expect(
            try decode(Basket.self, json)
                == Basket(
                    basketLines: [
                        Line(productID: 1, unitPrice: 2.5, addedAt: EventTime(microseconds: 1_000_000)),
                        Line(productID: 2, unitPrice: 100, isGift: true),
                    ], byStore: ["userID": 1, "a_b": 2], owner: Line(productID: 3, unitPrice: 0),
                    matrix: [[1], [], [2, 3]],
                    mixed: ["a", nil, "é"]))
        let wrong = failure(Basket.self, json.replacing("\"product_id\":2", with: "\"product_id\":\"2\""))
        #expect(wrong.contains("'basket_lines': "), "\(wrong)")
        #expect(wrong.contains("integer"), "\(wrong)")
    }

    @Test func numbersThatDoNotFit() {
        struct Narrow: Codable {
            var level: Int8?
            var port: UInt16?
            var weight: Float?
            var parts: [Float]?
        }
        #expect(failure(Narrow.self, #"{"level":300}"#).contains("'level': 300 is out of the range of Int8"))
        #expect(failure(Narrow.self, #"{"port":-1}"#).contains("'port': -1 is out of the range of UInt16"))
        #expect(failure(Narrow.self, #"{"weight":1e300}"#).contains("'weight': 1e+300 is out of the range of Float"))
        #expect(failure(Narrow.self, #"{"parts":[1,1e300]}"#).contains("'parts': "))
    }

    @Test func checksOfACustomInitializer() {
        struct Positive: Codable {
            var price: Double
            var count: Int
            var note: String
            init(from decoder: any Decoder) throws {
                let container = try decoder.container(keyedBy: CodingKeys.self)
                price = try container.decode(Double.self, forKey: .price)
                count = try container.decode(Int.self, forKey: .count)
                note = try container.decode(String.self, forKey: .note)
                guard price >= 0 else {
                    throw DecodingError.dataCorruptedError(
                        forKey: .price, in: container, debugDescription: "a price is not negative")
                }
            }
        }
        let message = failure(Positive.self, #"{"price":-1,"count":1,"note":"n"}"#)
        #expect(message.contains("'price': a price is not negative"), "\(message)")
    }

    @Test func fieldsInAnotherOrderThanTheSchema() throws {
        struct Backwards: Decodable, Equatable {
            var a: Int
            var b: Int
            var c: Int?
            enum CodingKeys: CodingKey { case a, b, c }
            init(from decoder: any Decoder) throws {
                let container = try decoder.container(keyedBy: CodingKeys.self)
                c = try container.decodeIfPresent(Int.self, forKey: .c)
                b = try container.decode(Int.self, forKey: .b)
                a = try container.contains(.a) ? container.decode(Int.self, forKey: .a) : 0
            }
        }
        let schema = RecordSchema(
            name: "abc", fields: ["a", "b", "c"].map { Field(name: $0, type: .int64, isOptional: true) },
            timestampUnit: nil)
        var batch = RecordBatch(schema: schema)
        var parser = JSONRecordParser(schema: schema)
        for json in [#"{"a":1,"b":2,"c":3}"#, #"{"b":5}"#, #"{"c":6,"b":7,"a":8}"#] {
            parser.append(Array(json.utf8), to: &batch, offset: 0)
        }
        var decoder = RecordDecoder(schema: schema)
        let values = try batch.rows.indices.map { try decoder.decode(Backwards.self, from: batch, row: $0) }
        #expect(values.map(\.a) == [1, 0, 8])
        #expect(values.map(\.b) == [2, 5, 7])
        #expect(values.map(\.c) == [3, nil, 6])
    }
}
