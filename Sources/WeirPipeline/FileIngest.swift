import Foundation
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirRecords

package enum FileFormat: String, Sendable, CaseIterable {
    case csv, jsonl

    /// By the file's name: `.csv`, or `.jsonl`, `.ndjson` and `.json`.
    package init?(path: String) {
        let name = path.lowercased()
        if name.hasSuffix(".csv") {
            self = .csv
        } else if [".jsonl", ".ndjson", ".json"].contains(where: { name.hasSuffix($0) }) {
            self = .jsonl
        } else {
            return nil
        }
    }
}

package struct FileIngestError: Error, CustomStringConvertible {
    package let description: String
    init(_ description: String) { self.description = description }
}

/// Reads a file of events, from where it was left.
package struct FileIngest {
    let stream: any StreamPlan
    package let path: String
    let format: FileFormat
    /// The column with the time at which an event was learned of.
    let ingestTimeColumn: String?

    package init(stream: any StreamPlan, path: String, format: FileFormat, ingestTimeColumn: String? = nil) {
        self.stream = stream
        self.path = path
        self.format = format
        self.ingestTimeColumn = ingestTimeColumn
    }

    package struct Plan {
        /// What the history knows the file as.
        let source: SourcePart
        package let start: Int64
        package let size: Int64
    }

    /// Finds out whether the file is new, has grown, or is known; refuses one whose applied part has changed.
    package func plan(_ history: HistoryWriter) throws -> Plan {
        guard let file = FileHandle(forReadingAtPath: path) else {
            throw FileIngestError("cannot read \(path): \(String(cString: strerror(errno)))")
        }
        defer { try? file.close() }
        let size = Int64(try file.seekToEnd())
        let absolute = URL(fileURLWithPath: path).standardizedFileURL.path
        var best: (source: SourcePart, offset: Int64)?
        var changed: Int64?
        for known in try history.positions(kind: .file) where known.source.stream == stream.name && known.offset > 0 {
            guard let detail = known.detail else { continue }
            let fingerprint = try FileFingerprint(detail)
            let difference = size < fingerprint.length ? size : try fingerprint.firstDifference(in: file)
            if difference == nil {
                if known.offset > best?.offset ?? 0 { best = (known.source, known.offset) }
            } else if known.source.name == absolute {
                changed = difference
            }
        }
        if let best { return Plan(source: best.source, start: best.offset, size: size) }
        if let changed {
            throw FileIngestError(
                "\(path) has changed where it was applied already, from byte \(changed) on; events cannot be taken back: restore the file, or ingest the new events from a file of their own"
            )
        }
        return Plan(source: SourcePart(kind: .file, name: absolute, partition: 0, stream: stream.name), start: 0, size: size)
    }

    /// Reads the file from the plan's start, in batches.
    ///
    /// - Parameters:
    ///   - submit: takes each batch; may wait.
    ///   - progress: is called with the bytes read.
    package func read(_ plan: Plan, submit: (IncomingBatch) throws -> Void, progress: (Int64) -> Void) throws {
        guard let file = FileHandle(forReadingAtPath: path) else {
            throw FileIngestError("cannot read \(path): \(String(cString: strerror(errno)))")
        }
        defer { try? file.close() }
        let schema = try readingSchema()
        var csv = CSVRecordParser(schema: schema)
        var jsonl = JSONLinesReader(schema: schema)
        var fingerprint = FingerprintBuilder()
        // What was applied goes into the fingerprint again; a CSV file's header comes first in any case.
        if plan.start > 0 {
            var left = plan.start
            var head: [UInt8] = []
            while left > 0, let data = try file.read(upToCount: Int(min(left, Int64(Limits.fileChunkBytes)))), !data.isEmpty {
                data.withUnsafeBytes { fingerprint.append($0) }
                if head.count < 1 << 20 { head.append(contentsOf: data) }
                left -= Int64(data.count)
            }
            if format == .csv { try parseHeader(&csv, head) }
        }
        var carry: [UInt8] = []
        var offset = plan.start
        var isLast = false
        var batch = RecordBatch(schema: schema)
        while !isLast {
            let data = try file.read(upToCount: Limits.fileChunkBytes) ?? Data()
            carry.append(contentsOf: data)
            // A read that gives less than asked for ends the file, as far as it is now.
            isLast = data.count < Limits.fileChunkBytes
            var used = 0
            while used < carry.count || (isLast && used == 0 && carry.isEmpty == false) {
                let consumed = try carry.withUnsafeBytes { bytes in
                    let chunk = UnsafeRawBufferPointer(rebasing: bytes[used...])
                    let base = offset + Int64(used)
                    do {
                        return switch format {
                        case .csv:
                            try csv.parse(chunk, isLast: isLast, baseOffset: base, into: &batch, recordsMax: Limits.recordsPerFileBatch)
                        case .jsonl:
                            jsonl.parse(chunk, isLast: isLast, baseOffset: base, into: &batch, recordsMax: Limits.recordsPerFileBatch)
                        }
                    } catch {
                        throw FileIngestError("\(path): \(error)")
                    }
                }
                if consumed == 0 { break }
                carry.withUnsafeBytes { fingerprint.append(UnsafeRawBufferPointer(rebasing: $0[used..<used + consumed])) }
                used += consumed
                progress(offset + Int64(used))
                // A position in the middle of a line that is too long would make its rest a line of its own.
                if format == .csv ? csv.isSkipping : jsonl.isSkipping { continue }
                try submit(incoming(batch, plan, nextOffset: offset + Int64(used), fingerprint.fingerprint, csv.headerLine))
                batch = RecordBatch(schema: schema)
            }
            offset += Int64(used)
            carry.removeFirst(used)
        }
        // A file that ends does not hold the watermark back.
        var end = incoming(batch, plan, nextOffset: offset, fingerprint.fingerprint, csv.headerLine)
        end.phase = .end
        try submit(end)
    }

    /// Decodes the whole file, for those who do not keep positions.
    package func readAll(_ body: (PreparedBatch) throws -> Void) throws {
        let source = SourcePart(kind: .file, name: path, partition: 0, stream: stream.name)
        try read(Plan(source: source, start: 0, size: 0), submit: { try body($0.batch) }, progress: { _ in })
    }

    private func parseHeader(_ csv: inout CSVRecordParser, _ head: [UInt8]) throws {
        var none = RecordBatch(schema: stream.schema)
        do {
            _ = try head.withUnsafeBytes { try csv.parse($0, isLast: true, baseOffset: 0, into: &none, recordsMax: 0) }
        } catch {
            throw FileIngestError("\(path): \(error)")
        }
    }

    /// The stream's schema, and the column with ingest times where it is no field of the event.
    private func readingSchema() throws -> RecordSchema {
        var schema = stream.schema
        guard let ingestTimeColumn else { return schema }
        if let index = schema.index(of: ingestTimeColumn) {
            guard schema.fields[index].type == .time else { throw FileIngestError("the column '\(ingestTimeColumn)' is no time") }
        } else {
            schema.fields.append(Field(name: ingestTimeColumn, type: .time, isOptional: false))
        }
        return schema
    }

    private func incoming(
        _ batch: RecordBatch, _ plan: Plan, nextOffset: Int64, _ fingerprint: FileFingerprint, _ header: [UInt8]
    ) -> IncomingBatch {
        var records = batch
        var ingestTimes: [Int64]?
        if let ingestTimeColumn, let index = batch.schema.index(of: ingestTimeColumn) {
            let width = batch.schema.fields.count
            ingestTimes = batch.rows.indices.map { row in
                if case .time(let time) = batch.cells[row * width + index] { time } else { wallClock() }
            }
            if width > stream.schema.fields.count {
                records = RecordBatch(schema: stream.schema)
                records.bytes = batch.bytes
                records.rows = batch.rows
                records.malformed = batch.malformed
                for row in batch.rows.indices { records.cells += batch.cells[row * width..<(row + 1) * width - 1] }
            }
        }
        return IncomingBatch(
            batch: stream.prepare(records), source: plan.source, nextOffset: nextOffset, detail: fingerprint.encoded,
            ingestTime: wallClock(), ingestTimes: ingestTimes, encoding: format == .csv ? .csv(header: header) : .json)
    }
}
