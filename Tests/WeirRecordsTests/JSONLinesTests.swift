import Testing
import WeirAlgebra
import WeirRecords

private struct Item: Codable, Equatable {
    var id: Int
    var name: String
}

private let schema = try! RecordSchema.probe(Item.self, name: "items", timestampUnit: nil)

@Suite struct JSONLinesTests {
    static let file = Array(
        """
        {"id":1,"name":"a"}\n\r\n   \t\n{"id":2,"name":"b\\n"}\r\n{"id":"x","name":"c"}\n{"id":3\n{"id":4,"name":"é"} x\n\
        {"id":5,"name":"\(String(repeating: "y", count: 80))"}\n{"id":6,"name":"e"}\n\(String(repeating: "z", count: 200))\r\n\
        {"id":7,"name":"last"}
        """.utf8)

    @Test func linesWithTheirOffsets() {
        let batch = readLines(Self.file, schema, recordBytesMax: 64)
        #expect(batch.rows.count == 4)
        #expect(batch.malformed.count == 5)
        for row in batch.rows {
            let raw = Array(batch.bytes[row.raw])
            #expect(Array(Self.file[Int(row.offset)..<Int(row.offset) + raw.count]) == raw)
        }
        for malformed in batch.malformed {
            let raw = Array(batch.bytes[malformed.raw])
            #expect(raw.count <= 64)
            #expect(Array(Self.file[Int(malformed.offset)..<Int(malformed.offset) + raw.count]) == raw)
        }
        #expect(batch.malformed.count { $0.reason.contains("longer than a record may be") } == 2)
    }

    @Test(arguments: 1...40) func theSameInPiecesOfAnySize(size: Int) {
        let whole = outcome(readLines(Self.file, schema, recordBytesMax: 64))
        #expect(outcome(readLines(Self.file, schema, pieces: [size], recordBytesMax: 64)) == whole)
        #expect(
            outcome(readLines(Self.file, schema, pieces: [size, 1, 7], recordBytesMax: 64, recordsMax: 1)) == whole)
    }

    @Test func everyCutInTwo() {
        let whole = outcome(readLines(Self.file, schema, recordBytesMax: 64))
        for cut in 1..<Self.file.count {
            #expect(
                outcome(readLines(Self.file, schema, pieces: [cut, Self.file.count], recordBytesMax: 64)) == whole,
                "cut at \(cut)")
        }
    }

    @Test func recordsMaxStopsBehindARecord() {
        var batch = RecordBatch(schema: schema)
        var reader = JSONLinesReader(schema: schema)
        let bytes = Array("{\"id\":1,\"name\":\"a\"}\n{\"id\":2,\"name\":\"b\"}\n".utf8)
        let done = bytes.withUnsafeBytes {
            reader.parse($0, isLast: true, baseOffset: 100, into: &batch, recordsMax: 1)
        }
        #expect(done == bytes.count / 2)
        #expect(batch.rows.map(\.offset) == [100])
    }

    /// The carriage return may be the last byte of a chunk, behind a line of just the limit.
    @Test func aCarriageReturnInsideOfALineAtTheLimit() {
        let bytes = Array("\(String(repeating: "y", count: 64))\rmore\n{\"id\":2,\"name\":\"b\"}\n".utf8)
        let whole = outcome(readLines(bytes, schema, recordBytesMax: 64))
        #expect(whole.count == 2)
        #expect(outcome(readLines(bytes, schema, pieces: [65, bytes.count], recordBytesMax: 64)) == whole)
    }

    @Test func anEmptyFileHasNoRecords() {
        #expect(outcome(readLines([], schema)).isEmpty)
        #expect(outcome(readLines([0x0A, 0x0D, 0x0A], schema)).isEmpty)
    }
}
