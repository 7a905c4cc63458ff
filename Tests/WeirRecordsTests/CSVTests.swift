import Testing
import WeirAlgebra
import WeirRecords
import WeirTesting

private struct Item: Codable, Equatable {
    var id: Int
    var name: String
    var price: Double
    var note: String?
    var at: EventTime?
    var isNew: Bool?
}

private let schema = try! RecordSchema.probe(Item.self, name: "items", timestampUnit: .milliseconds)
private let header = "id,name,price,note,at,is_new\n"

private func read(_ text: String, max: Int = 64 << 10) throws -> RecordBatch {
    try readCSV(Array(text.utf8), schema, recordBytesMax: max)
}

private func items(_ text: String, max: Int = 64 << 10) throws -> [Item] {
    let batch = try read(text, max: max)
    #expect(batch.malformed.isEmpty, "\(batch.malformed.map(\.reason))")
    var decoder = RecordDecoder(schema: schema)
    return try batch.rows.indices.map { try decoder.decode(Item.self, from: batch, row: $0) }
}

@Suite struct CSVTests {
    @Test func columnsInAnyOrderWithExtraOnes() throws {
        let expected = [Item(id: 7, name: "x", price: 1.5, note: nil, at: nil, isNew: true)]
        #expect(try items("extra,price,is_new,name,id,more\n1,1.5,true,x,7,2\n") == expected)
        #expect(try items("\u{FEFF}id,name,price,note,at,is_new\r\n7,x,1.5,,,1\r\n") == expected)
        #expect(try items("\"id\",\"name\",price,is_new\n7,x,1.5,TRUE") == expected)
        #expect(try items("id,name,price,is_new,extra,extra\n7,x,1.5,1,,\n") == expected)
    }

    @Test(arguments: [
        ("id,name\n1,a\n", "'price'"), ("id,name,price,id\n", "'id' twice"), ("", "empty"), ("\n", "empty"),
        ("ID,name,price\n", "'id'"), ("id,\"name,price\n", "header"), ("id;name;price\n", "'id'"),
    ])
    func headerErrors(text: String, reason: String) {
        #expect {
            try read(text)
        } throws: { "\($0)".contains(reason) }
    }

    @Test func quoting() throws {
        let text =
            header
            + "1,\"a,b\",1,\"say \"\"hi\"\"\",,\n2,\"two\nlines\",1,\"\"\"\",,\n3,\"crlf\r\n\",1,\"\",,\r\n\n\r\n4,,1,é,,\n5,\"\",1,\"x\""
            + ",\"2017-01-01T00:00:00Z\",false"
        let read = try items(text)
        #expect(read.map(\.name) == ["a,b", "two\nlines", "crlf\r\n", "", ""])
        #expect(read.map(\.note) == ["say \"hi\"", "\"", nil, "é", "x"])
        #expect(read.map(\.at) == [nil, nil, nil, nil, EventTime(microseconds: 1_483_228_800_000_000)])
    }

    @Test(arguments: [
        ("1,a,1,,", "5 fields, where the header has 6"), ("1,a,1,,,,", "7 fields, where the header has 6"),
        (",a,1,,,", "'id': it is empty"),
        ("1,a,,,,", "'price': it is empty"), ("x,a,1,,,", "'id': 'x' is no integer"),
        ("1.0,a,1,,,", "'id': '1.0' is no integer"),
        (" 1,a,1,,,", "'id': ' 1' is no integer"),
        ("9223372036854775808,a,1,,,", "'id': 9223372036854775808 does not fit 64 bits"),
        ("1,a,NaN,,,", "'price': 'NaN' is no number"), ("1,a,inf,,,", "'price': 'inf' is no number"),
        ("1,a,-Infinity,,,", "'price': '-Infinity' is no number"), ("1,a,0x1p3,,,", "'price': '0x1p3' is no number"),
        ("1,a,1e999,,,", "'price': 1e999 is beyond Double's range"), ("1,a,1 ,,,", "'price': '1 ' is no number"),
        ("1,a,1,,,yes", "'is_new': 'yes' is neither true nor false"), ("1,a,1,,today,", "'at': "),
        ("1,a,1,,2017-02-29T00:00:00Z,", "'at': there is no day 29"), ("1,a\"b,1,,,", "a quote inside of a field"),
        ("1,\"a\"b,1,,,", "text follows the closing quote"), ("1,\"a\" ,1,,,", "text follows the closing quote"),
        ("1,\"a,1,,,", "does not close"), ("\"", "does not close"),
    ])
    func malformedRows(line: String, reason: String) throws {
        // The first of two good rows behind it has a quoted field, which a wrong recovery would swallow.
        let batch = try read(header + line + "\n2,b,2,,,\n3,c,3,,,\n")
        #expect(batch.rows.count == 2)
        try #require(batch.malformed.count == 1)
        #expect(batch.malformed[0].reason.contains(reason), "\(batch.malformed[0].reason)")
        #expect(String(decoding: batch.bytes[batch.malformed[0].raw], as: UTF8.self) == line)
        #expect(batch.malformed[0].offset == Int64(header.utf8.count))
    }

    @Test func aQuoteThatNeverClosesCostsItsFirstLineAlone() throws {
        let batch = try read(header + "1,\"open,1,,,\n2,b,2,,,\n3,c,3,,,\n4,\"also open\n5,e,5,,,")
        #expect(batch.rows.count == 3)
        #expect(
            batch.malformed.map { String(decoding: batch.bytes[$0.raw], as: UTF8.self) } == [
                "1,\"open,1,,,", "4,\"also open",
            ])
        #expect(
            batch.malformed.allSatisfy { $0.reason.contains("does not close") || $0.reason.contains("text follows") })
    }

    @Test func badUTF8IsMalformedWhereItIsRead() throws {
        let bytes = Array((header + "1,").utf8) + [0xFF, 0xC3] + Array(",1,,,\n2,b,2,,,\n".utf8)
        let batch = try readCSV(bytes, schema)
        #expect(batch.rows.count == 1)
        #expect(batch.malformed.map(\.reason) == ["field 'name': it is no valid UTF-8"])
    }

    @Test func numbersWithASign() throws {
        let read = try items(header + "+7,a,+1.5,,,\n-7,b,-.5,,-1500,\n007,c,5.,,1500.5,\n")
        #expect(read.map(\.id) == [7, -7, 7])
        #expect(read.map(\.price) == [1.5, -0.5, 5])
        #expect(read.map(\.at?.microseconds) == [nil, -1_500_000, 1_500_500])
    }

    static let file = Array(
        ("\u{FEFF}" + header
            + "1,\"a,\"\"b\"\"\",1,\"x\r\ny\",,\r\n\r\n2,,2.5,é,2017-01-01T00:00:00Z,true\n3,\"a\"b,1,,,\n4,c\"d,1,,,\n"
            + "5,e,1,,\n6,\"\n\n\",1,,,\n7,g,1,\"\"\"\",,\n8,\"open,1,,,\n9,i,9,,,").utf8)

    @Test(arguments: 1...50) func theSameInPiecesOfAnySize(size: Int) throws {
        let whole = outcome(try readCSV(Self.file, schema))
        #expect(whole.count == 9)
        #expect(outcome(try readCSV(Self.file, schema, pieces: [size])) == whole)
        #expect(outcome(try readCSV(Self.file, schema, pieces: [size, 1, 7], recordsMax: 1)) == whole)
    }

    @Test func everyCutInTwo() throws {
        let whole = outcome(try readCSV(Self.file, schema))
        for cut in 1..<Self.file.count {
            #expect(outcome(try readCSV(Self.file, schema, pieces: [cut, Self.file.count])) == whole, "cut at \(cut)")
        }
    }

    /// Random files over the characters that matter: no trap, no byte unread, and the same whole and in pieces.
    @Test func hostileFiles() throws {
        var random = SeededGenerator("hostileFiles")
        let alphabet = Array("\"\"\"\",,\n\n\r1a.".utf8) + [0xC3, 0xFF]
        for _ in 0..<4_000 {
            let body = (0..<Int.random(in: 0...60, using: &random)).map { _ in alphabet.randomElement(using: &random)! }
            let bytes = Array("id,name,price\n".utf8) + body
            let whole = outcome(try readCSV(bytes, schema))
            let pieces = (0..<5).map { _ in Int.random(in: 1...9, using: &random) }
            #expect(
                outcome(try readCSV(bytes, schema, pieces: pieces)) == whole,
                "\(String(decoding: body, as: UTF8.self).debugDescription)")
        }
    }

    @Test func rowsOfATable() throws {
        let table = try CSVTable(Array("\u{FEFF}a,b\n1,\"x\ny\"\n\n\"q\"\"\",\r\n".utf8))
        #expect(table.header == ["a", "b"])
        #expect(table.rows.map(\.fields) == [["1", "x\ny"], ["q\"", ""]])
        #expect(table.rows.map(\.line) == [2, 5])
        for (text, reason) in [
            ("", "empty"), ("a,b\n1\n", "line 2: 1 fields"), ("a\n1\n\"x", "line 3: "),
            ("a\n\"x\"y\n", "line 2: text follows"),
        ] {
            #expect {
                try CSVTable(Array(text.utf8))
            } throws: { "\($0)".contains(reason) }
        }
    }

    @Test func writtenFieldsReadBack() throws {
        var random = SeededGenerator("writtenFieldsReadBack")
        let pieces = ["a", "\"", ",", "\n", "\r\n", "é", " ", "\r", "1"]
        for _ in 0..<2_000 {
            let fields = (0..<Int.random(in: 2...5, using: &random)).map { _ in
                (0..<Int.random(in: 0...5, using: &random)).map { _ in pieces.randomElement(using: &random)! }.joined()
            }
            var bytes: [UInt8] = []
            for row in [fields, fields] {
                for (index, field) in row.enumerated() {
                    if index > 0 { bytes.append(UInt8(ascii: ",")) }
                    CSVText.appendField(field, to: &bytes)
                }
                bytes.append(0x0A)
            }
            let table = try CSVTable(bytes)
            #expect(table.header == fields)
            #expect(table.rows.map(\.fields) == [fields])
        }
    }
}
