import Crypto
import Foundation
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirRecords

package struct ExportSummary: Sendable {
    package let rows: Int
    package let sha256: String
}

/// Reads a spine, computes its training set, and writes it with its manifest: the same inputs give the same bytes.
///
/// The files appear whole or not at all: they are written beside their place, synced, and renamed.
package func exportTrainingSet(
    service: ServicePlan, catalog: CatalogPlan, history: HistoryReader, spinePath: String, outPath: String,
    timestampColumn: String, options: TrainingSet.Options, progress: (Int, Int) -> Void
) throws -> ExportSummary {
    guard let spineBytes = FileManager.default.contents(atPath: spinePath) else {
        throw ExportError("cannot read the spine \(spinePath)")
    }
    let table: CSVTable
    let spine: Spine
    do throws(RecordError) {
        table = try CSVTable(Array(spineBytes))
        spine = try readSpine(table, bytes: Array(spineBytes), service: service, timestampColumn: timestampColumn)
    } catch {
        throw ExportError("spine \(spinePath): \(error)")
    }
    if let clash = service.outputs.first(where: { table.header.contains($0.name) }) {
        throw ExportError("spine \(spinePath): the column '\(clash.name)' has the name of a feature; rename it")
    }
    // Positions first: what is ingested meanwhile may be in the values, but nothing that they name is missing.
    let positions = try history.positions()
    let results = try TrainingSet(service: service, history: history, options: options).compute(spine, progress: progress)

    var csv: [UInt8] = []
    for (index, name) in (table.header + service.outputs.map(\.name)).enumerated() {
        if index > 0 { csv.append(UInt8(ascii: ",")) }
        CSVText.appendField(name, to: &csv)
    }
    csv.append(0x0A)
    var nulls = Array(repeating: 0, count: service.outputs.count)
    for (row, fields) in table.rows.enumerated() {
        for (index, field) in fields.fields.enumerated() {
            if index > 0 { csv.append(UInt8(ascii: ",")) }
            CSVText.appendField(field, to: &csv)
        }
        for (index, result) in results[row].enumerated() {
            csv.append(UInt8(ascii: ","))
            if let text = result.value.text { CSVText.appendField(text, to: &csv) } else { nulls[index] += 1 }
        }
        csv.append(0x0A)
    }
    let sha256 = hex(SHA256.hash(data: csv))
    var manifest = Manifest()
    manifest.add("service", .string(service.name))
    manifest.add("rows", .int(Int64(table.rows.count)))
    manifest.add("sha256", .string(sha256))
    manifest.add("spine_sha256", .string(hex(SHA256.hash(data: Array(spineBytes)))))
    manifest.add("timestamp_column", .string(timestampColumn))
    manifest.add("as_known", .bool(options.asKnown))
    manifest.add("inclusive", .bool(options.isInclusive))
    let views = service.joins.map(\.view)
    manifest.add("views", .map(views.map { .init(key: $0.name, value: .string($0.fingerprint)) }))
    let streams = catalog.streams.filter { stream in views.contains { $0.stream == stream.name } }
    manifest.add("streams", .map(streams.map { .init(key: $0.name, value: .string($0.fingerprint)) }))
    manifest.add("positions", .map(positions.map { .init(key: $0.source, value: .int($0.position)) }))
    manifest.add(
        "features",
        .list(
            service.outputs.enumerated().map { index, output in
                .map([
                    .init(key: "name", value: .string(output.name)), .init(key: "type", value: .string(output.type.rawValue)),
                    .init(key: "nulls", value: .int(Int64(nulls[index]))),
                ])
            }))
    try replaceFile(outPath, with: csv)
    try replaceFile(outPath + ".manifest.json", with: manifest.json)
    return ExportSummary(rows: table.rows.count, sha256: sha256)
}

/// Decodes each row into the service's request.
private func readSpine(
    _ table: CSVTable, bytes: [UInt8], service: ServicePlan, timestampColumn: String
) throws(RecordError) -> Spine {
    guard let column = table.header.firstIndex(of: timestampColumn) else {
        throw RecordError(
            "there is no column '\(timestampColumn)' with the times; name another with --timestamp-column (there are: \(table.header.joined(separator: ", ")))"
        )
    }
    // The request's own parser sees the same rows, by type.
    var parser = CSVRecordParser(schema: service.requestSchema, recordBytesMax: 1 << 20)
    var records = RecordBatch(schema: service.requestSchema)
    let consumed: Result<Int, RecordError> = bytes.withUnsafeBytes { chunk in
        do throws(RecordError) {
            return .success(try parser.parse(chunk, isLast: true, baseOffset: 0, into: &records))
        } catch {
            return .failure(error)
        }
    }
    _ = try consumed.get()
    func line(at offset: Int64) -> Int { 1 + bytes[..<Int(offset)].count { $0 == 0x0A } }
    if let malformed = records.malformed.first { throw RecordError("line \(line(at: malformed.offset)): \(malformed.reason)") }
    var spine = Spine()
    for (row, fields) in table.rows.enumerated() {
        do throws(RecordError) {
            if fields.fields[column].isEmpty { throw RecordError(field: timestampColumn, "it is empty") }
            spine.times.append(try TimeText.parse(fields.fields[column]))
            spine.requests.append(try service.decode(records, row))
        } catch {
            throw RecordError("line \(fields.line): \(error)")
        }
    }
    return spine
}

/// A JSON object in the order in which it is filled, without clock times.
private struct Manifest {
    private var entries: [FeatureValue.MapEntry] = []

    mutating func add(_ key: String, _ value: FeatureValue) { entries.append(.init(key: key, value: value)) }

    /// One member a line.
    var json: [UInt8] {
        var bytes: [UInt8] = Array("{\n".utf8)
        for (index, entry) in entries.enumerated() {
            bytes.append(contentsOf: "  ".utf8)
            JSONText.appendString(entry.key, to: &bytes)
            bytes.append(contentsOf: ": ".utf8)
            entry.value.appendJSON(to: &bytes)
            bytes.append(contentsOf: (index + 1 < entries.count ? ",\n" : "\n").utf8)
        }
        bytes.append(contentsOf: "}\n".utf8)
        return bytes
    }
}

private func hex(_ digest: some Sequence<UInt8>) -> String {
    digest.map { byte in
        let digits = String(byte, radix: 16)
        return byte < 16 ? "0" + digits : digits
    }.joined()
}

private func replaceFile(_ path: String, with bytes: [UInt8]) throws {
    let temporary = path + ".partial"
    let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    func failure(_ what: String) -> ExportError { ExportError("\(what) \(temporary): \(String(cString: strerror(errno)))") }
    guard descriptor >= 0 else { throw failure("cannot write") }
    defer { close(descriptor) }
    var written = 0
    while written < bytes.count {
        let count = bytes[written...].withUnsafeBytes { write(descriptor, $0.baseAddress, min($0.count, 1 << 26)) }
        if count < 0 {
            let error = failure("cannot write")
            unlink(temporary)
            throw error
        }
        written += count
    }
    guard fsync(descriptor) == 0, rename(temporary, path) == 0 else { throw failure("cannot put in place") }
}
