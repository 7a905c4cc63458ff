import Testing
import WeirAlgebra
import WeirRecords
import WeirTesting

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

extension SeededGenerator {
    mutating func chance(_ oneIn: Int) -> Bool { Int.random(in: 0..<oneIn, using: &self) == 0 }
}

func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

struct Purchase: Codable, Equatable {
    var id: String
    var household: Int
    var basket: Int
    var store: Int
    var product: Int
    var department: String
    var category: String
    var quantity: Int
    var price: Double
    var retailDiscount: Double
    var couponDiscount: Double
    var eventTime: EventTime

    static var schema: RecordSchema {
        get throws { try RecordSchema.probe(Purchase.self, name: "purchases", timestampUnit: .milliseconds) }
    }

    static func sample(_ number: Int) -> Purchase {
        Purchase(
            id: "p\(number)", household: number % 2_500, basket: 31_198_570_044 + number, store: number % 300,
            product: 1_095_275 + number, department: "GROCERY", category: "FACIAL TISS/DNR NAPKIN",
            quantity: 1 + number % 3,
            price: Double(number % 2_000) / 100, retailDiscount: 0.1, couponDiscount: 0,
            eventTime: EventTime(microseconds: 1_483_271_606_000_000 + Int64(number) * 1_000_000))
    }

    var json: String {
        """
        {"id":"\(id)","household":\(household),"basket":\(basket),"store":\(store),"product":\(product),\
        "department":"\(department)","category":"\(category)","quantity":\(quantity),"price":\(price),\
        "retail_discount":\(retailDiscount),"coupon_discount":\(couponDiscount),"event_time":"\(TimeText.format(eventTime))"}
        """
    }
}

/// A flat record with one field of each type.
struct Mixed: Codable, Equatable {
    var name: String
    var count: Int
    var price: Double
    var isMember: Bool
    var at: EventTime
    var tags: [String]
    var note: String?
    var discount: Double?

    static var schema: RecordSchema {
        get throws { try RecordSchema.probe(Mixed.self, name: "mixed", timestampUnit: .milliseconds) }
    }
}

/// Parses one JSON text; returns the batch, which has one row or one malformed record.
func parseJSON(_ json: [UInt8], _ schema: RecordSchema) -> RecordBatch {
    var batch = RecordBatch(schema: schema)
    var parser = JSONRecordParser(schema: schema)
    parser.append(json, to: &batch, offset: 0)
    return batch
}

func parseJSON(_ json: String, _ schema: RecordSchema) -> RecordBatch { parseJSON(Array(json.utf8), schema) }

func decode<T: Decodable>(_ type: T.Type, _ json: String) throws -> T {
    let schema = try RecordSchema.probe(type, name: "test", timestampUnit: .milliseconds)
    let batch = parseJSON(json, schema)
    if let malformed = batch.malformed.first { throw RecordError(malformed.reason) }
    var decoder = RecordDecoder(schema: schema)
    return try decoder.decode(type, from: batch, row: 0)
}

/// Feeds bytes in pieces, as a source does: what was not consumed is given again with what follows it.
func feed(
    _ bytes: [UInt8], pieces: [Int], _ parse: (UnsafeRawBufferPointer, Bool, Int64) throws -> Int
) rethrows {
    var pending: [UInt8] = []
    var base: Int64 = 0
    var position = 0
    var piece = 0
    while position < bytes.count || piece == 0 {
        let size = pieces.isEmpty ? bytes.count : min(pieces[piece % pieces.count], bytes.count - position)
        piece += 1
        pending.append(contentsOf: bytes[position..<position + size])
        position += size
        let isLast = position == bytes.count
        while true {
            let done = try pending.withUnsafeBytes { try parse($0, isLast, base) }
            precondition((0...pending.count).contains(done))
            pending.removeFirst(done)
            base += Int64(done)
            // A reader that stops after `recordsMax` is called again for the rest.
            if done == 0 || pending.isEmpty { break }
        }
        if isLast { precondition(pending.isEmpty, "\(pending.count) bytes were never consumed") }
    }
}

/// What came out of a file, in one comparable form: a line for each record with its offset.
func outcome(_ batch: RecordBatch) -> [String] {
    var lines: [(Int64, String)] = []
    let width = batch.schema.fields.count
    for (index, row) in batch.rows.enumerated() {
        let cells = (0..<width).map { field in
            switch batch.cell(row: index, field: field) {
            case .text(let start, let count): "text(\(batch.string(start: start, count: count).debugDescription))"
            case let cell: "\(cell)"
            }
        }
        lines.append((row.offset, "\(row.offset): \(cells.joined(separator: " "))"))
    }
    for malformed in batch.malformed {
        let raw = String(decoding: batch.bytes[malformed.raw], as: UTF8.self).debugDescription
        lines.append((malformed.offset, "\(malformed.offset): MALFORMED \(raw): \(malformed.reason)"))
    }
    return lines.sorted { $0.0 < $1.0 }.map(\.1)
}

func readLines(
    _ bytes: [UInt8], _ schema: RecordSchema, pieces: [Int] = [], recordBytesMax: Int = 1 << 20, recordsMax: Int = .max
) -> RecordBatch {
    var batch = RecordBatch(schema: schema)
    var reader = JSONLinesReader(schema: schema, recordBytesMax: recordBytesMax)
    feed(bytes, pieces: pieces) { chunk, isLast, base in
        reader.parse(chunk, isLast: isLast, baseOffset: base, into: &batch, recordsMax: recordsMax)
    }
    return batch
}

func readCSV(
    _ bytes: [UInt8], _ schema: RecordSchema, pieces: [Int] = [], recordBytesMax: Int = 64 << 10, recordsMax: Int = .max
) throws -> RecordBatch {
    var batch = RecordBatch(schema: schema)
    var reader = CSVRecordParser(schema: schema, recordBytesMax: recordBytesMax)
    try feed(bytes, pieces: pieces) { chunk, isLast, base in
        try reader.parse(chunk, isLast: isLast, baseOffset: base, into: &batch, recordsMax: recordsMax)
    }
    return batch
}
