import Testing
import WeirAlgebra
import WeirRecords

/// Printed figures; a small run keeps the code from rotting.
@Suite(.serialized) struct RecordBenchmark {
    @Test func parseAndDecodePurchases() throws {
        let count = environment("WEIR_TEST_LONG") == "1" ? 300_000 : 1_000
        let schema = try Purchase.schema
        let lines = (0..<count).map { Purchase.sample($0).json }
        let json = Array((lines.joined(separator: "\n") + "\n").utf8)
        let names = schema.fields.map(\.name).joined(separator: ",")
        let csv = Array(
            (names + "\n"
                + (0..<count).map { number in
                    let p = Purchase.sample(number)
                    return
                        "\(p.id),\(p.household),\(p.basket),\(p.store),\(p.product),\(p.department),\(p.category),\(p.quantity),\(p.price),"
                        + "\(p.retailDiscount),\(p.couponDiscount),\(TimeText.format(p.eventTime))\n"
                }.joined()).utf8)
        let clock = ContinuousClock()
        var batch = RecordBatch(schema: schema)
        func report(_ what: String, _ duration: Duration, _ bytes: Int) {
            let seconds = duration / .seconds(1)
            print("\(what): \(Int(Double(count) / seconds)) records/s, \(Int(Double(bytes) / seconds / 1e6)) MB/s")
        }
        let parsing = clock.measure { batch = readLines(json, schema) }
        report("JSON parse", parsing, json.count)
        #expect(batch.rows.count == count)
        var decoder = RecordDecoder(schema: schema)
        var total = 0
        let decoding = try clock.measure {
            for row in batch.rows.indices { total &+= try decoder.decode(Purchase.self, from: batch, row: row).basket }
        }
        report("decode", decoding, json.count)
        print("decode: \(Int(decoding / .nanoseconds(count))) ns per purchase of 12 fields")
        #expect(total == (0..<count).reduce(0) { $0 + Purchase.sample($1).basket })
        var table = RecordBatch(schema: schema)
        let splitting = try clock.measure { table = try readCSV(csv, schema) }
        report("CSV parse", splitting, csv.count)
        #expect(table.rows.count == count)
        #expect(try decoder.decode(Purchase.self, from: table, row: count - 1) == Purchase.sample(count - 1))
    }
}
