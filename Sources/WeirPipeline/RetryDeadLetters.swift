import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirRecords

/// What trying dead letters again came to.
package struct RetrySummary: Sendable {
    /// Taken now, or found to be copies of what was taken before.
    package var settled = 0
    package var refused = 0
}

extension StoreWriter {
    /// Tries dead letters again, with the definitions of this build; they count as learned of now. The pipeline must not run.
    package func retry(_ letters: [HistoryReader.DeadLetter], now: Int64) throws -> RetrySummary {
        var summary = RetrySummary()
        let groups = Dictionary(grouping: letters) { [$0.stream, "\(String(describing: $0.encoding))"] }
        for group in groups.values.sorted(by: { $0[0].number < $1[0].number }) {
            guard let stream = catalog.stream(named: group[0].stream), let encoding = group[0].encoding else {
                summary.refused += group.count
                continue
            }
            var records = RecordBatch(schema: stream.schema)
            for letter in group { stream.append(letter, encoding, to: &records) }
            let settled = try history.retry(
                IncomingBatch(
                    batch: stream.prepare(records),
                    source: SourcePart(kind: .retry, name: "dead-letters", partition: 0, stream: stream.name), nextOffset: 0,
                    ingestTime: now,
                    phase: .end, encoding: encoding), letters: group.map(\.number), now: monotonicClock())
            summary.settled += settled
            summary.refused += group.count - settled
        }
        // The shards follow, as after a crash.
        try catchUp { _, _ in }
        return summary
    }
}

extension StreamPlan {
    /// Parses a letter once more; its number is the record's offset.
    func append(_ letter: HistoryReader.DeadLetter, _ encoding: RecordEncoding, to records: inout RecordBatch) {
        switch encoding {
        case .json:
            var parser = JSONRecordParser(schema: schema)
            parser.append(letter.raw, to: &records, offset: letter.number)
        case .message:
            letter.raw.withUnsafeBytes { decode(message: $0, offset: letter.number, into: &records) }
        case .csv(let header):
            var parser = CSVRecordParser(schema: schema)
            let mark = (rows: records.rows.count, malformed: records.malformed.count)
            do {
                // Offsets are those of the text here; the letter's number takes their place.
                _ = try (header + letter.raw).withUnsafeBytes {
                    try parser.parse($0, isLast: true, baseOffset: 0, into: &records)
                }
            } catch {
                records.append(malformed: letter, "\(error)")
            }
            let found = records.rows.count - mark.rows + records.malformed.count - mark.malformed
            for index in mark.rows..<records.rows.count { records.rows[index].offset = letter.number }
            for index in mark.malformed..<records.malformed.count { records.malformed[index].offset = letter.number }
            // Never settled without a trace.
            if found == 0 { records.append(malformed: letter, "there is no record in it") }
        }
    }
}

extension RecordBatch {
    fileprivate mutating func append(malformed letter: HistoryReader.DeadLetter, _ reason: String) {
        let start = bytes.count
        bytes.append(contentsOf: letter.raw)
        malformed.append(.init(raw: start..<bytes.count, offset: letter.number, reason: reason))
    }
}
