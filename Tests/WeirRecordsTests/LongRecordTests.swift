import Testing
import WeirAlgebra
import WeirRecords
import WeirTesting

private struct Item: Codable, Equatable {
    var id: Int
    var name: String
}

private let schema = try! RecordSchema.probe(Item.self, name: "items", timestampUnit: nil)

/// Records beyond the limit, in every cut: what a chunk happens to hold must not change what is read.
@Suite struct LongRecordTests {
    private static let long = String(repeating: "x", count: 100)

    @Test(arguments: [
        "1,\(long)\n2,b\n", "1,\(long)\r\n2,b\n", "1,\"\(long)\n2,b\n", "1,\"\(long)\"\n2,b\n", "1,\"\(long)\"x\n2,b\n",
        "1,a\"\(long)\n2,b\n",
        "1,\"open\n\(long)\n2,b\n", "1,\"\(long)\n\(long)\n\(long)", "1,a\n\(long)", "1,\"\"\(long)\n2,b\n",
        "1,\"\(String(repeating: "\"\"", count: 60))\"\n2,b",
    ])
    func csv(body: String) throws {
        let bytes = Array(("id,name\n" + body).utf8)
        let batch = try readCSV(bytes, schema, recordBytesMax: 32)
        for malformed in batch.malformed { #expect(malformed.raw.count <= 33, "\(malformed.reason)") }
        let whole = outcome(batch)
        if body.contains("2,b") { #expect(whole.last?.contains("int64(2) text(\"b\")") == true, "\(whole)") }
        for cut in 1..<bytes.count {
            #expect(
                outcome(try readCSV(bytes, schema, pieces: [cut, bytes.count], recordBytesMax: 32)) == whole,
                "cut at \(cut)")
        }
        for size in 1...40 {
            #expect(
                outcome(try readCSV(bytes, schema, pieces: [size], recordBytesMax: 32)) == whole, "in pieces of \(size)"
            )
        }
    }

    @Test func anOverlongLineIsOneMalformedRecord() throws {
        let batch = try readCSV(Array("id,name\n1,\(Self.long)\n2,b\n".utf8), schema, pieces: [10], recordBytesMax: 32)
        #expect(batch.rows.count == 1)
        #expect(batch.malformed.map(\.offset) == [8])
    }

    /// Lengths around the limit, with every line end.
    @Test(arguments: 24...40, ["\n", "\r\n", ""]) func around(length: Int, end: String) throws {
        let lines =
            Array(("\(String(repeating: "y", count: length))\(end)").utf8) + Array("{\"id\":2,\"name\":\"b\"}\n".utf8)
        let csv = Array(
            ("id,name\n1,\(String(repeating: "y", count: length - 2))\(end.isEmpty ? "\"" : end)2,b\n").utf8)
        let wholeLines = outcome(readLines(lines, schema, recordBytesMax: 32))
        let wholeCSV = outcome(try readCSV(csv, schema, recordBytesMax: 32))
        for size in 1...45 {
            #expect(outcome(readLines(lines, schema, pieces: [size], recordBytesMax: 32)) == wholeLines)
            #expect(outcome(try readCSV(csv, schema, pieces: [size], recordBytesMax: 32)) == wholeCSV)
        }
    }

    @Test func randomFilesWithASmallLimit() throws {
        var random = SeededGenerator("randomFilesWithASmallLimit")
        let alphabet = Array("\"\"\"\",,\n\r\naaaa1".utf8)
        for _ in 0..<6_000 {
            let body = (0..<Int.random(in: 0...80, using: &random)).map { _ in alphabet.randomElement(using: &random)! }
            let bytes = Array("id,name\n".utf8) + body
            let pieces = (0..<5).map { _ in Int.random(in: 1...25, using: &random) }
            let shown = String(decoding: body, as: UTF8.self).debugDescription
            #expect(
                outcome(try readCSV(bytes, schema, pieces: pieces, recordBytesMax: 12))
                    == outcome(try readCSV(bytes, schema, recordBytesMax: 12)), "\(shown)")
            #expect(
                outcome(readLines(bytes, schema, pieces: pieces, recordBytesMax: 12))
                    == outcome(readLines(bytes, schema, recordBytesMax: 12)), "\(shown)")
        }
    }
}
