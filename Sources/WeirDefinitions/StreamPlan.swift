import WeirAlgebra
import WeirRecords

/// Events of one stream, decoded, with the rows that every view of the stream takes from them. One entry an event.
package struct PreparedBatch: Sendable {
    /// The fields as they go to history; holds the malformed records too.
    package var records: RecordBatch
    /// Which row of `records` each event is.
    package var recordRows: [Int] = []
    /// Event times, microseconds.
    package var times: [Int64] = []
    /// Id texts; empty for streams without ids.
    package var ids = ColumnBuffer(type: .text)
    /// A stable hash of the keys that all views of the stream have for the event: with time and id, its identity.
    package var keyHashes: [UInt64] = []
    /// In the order of the stream's views.
    package var views: [ViewRows] = []

    package var count: Int { times.count }

    /// Gives events without ids their place in the history's order as id, so that they have a total order and none is taken
    /// for a copy of another.
    ///
    /// - Parameters:
    ///   - rows: the accepted events.
    ///   - sequences: their numbers.
    package mutating func assignSequenceIDs(rows: [Int], sequences: [Int64]) {
        var assigned = ColumnBuffer(type: .text)
        var next = 0
        for row in times.indices {
            if next < rows.count, rows[next] == row {
                withUnsafeBytes(of: sequences[next].bigEndian) { assigned.append(text: $0) }
                next += 1
            } else {
                assigned.append(text: "")
            }
        }
        ids = assigned
    }
}

/// A stream as the engine sees it: its schema, and how events become rows of its views.
package protocol StreamPlan: AnyObject, Sendable {
    var name: String { get }
    var schema: RecordSchema { get }
    var views: [ViewPlan] { get }
    /// False for streams whose events have no id: they are ordered by source position and not deduplicated.
    var hasIDs: Bool { get }
    /// Microseconds, as all that follow; nil where the stream declares none.
    var disorder: Int64 { get }
    var idleTimeout: Int64? { get }
    var alignment: Int64? { get }
    var lateness: Int64? { get }
    var maxAhead: Int64? { get }
    var timeToLive: Int64? { get }

    /// Decodes records into events and reads every view's rows from them. What the event's own decoding refuses joins the
    /// malformed records.
    ///
    /// - Parameters:
    ///   - view: reads the rows of this view alone (the others stay empty); nil reads all.
    ///   - keyHashes: what the history has stored of each record; nil computes it from the keys of all views.
    func prepare(_ records: RecordBatch, view: Int?, keyHashes: [UInt64]?) -> PreparedBatch

    /// The event decodes its topic's messages by itself; false where they are JSON.
    var decodesMessages: Bool { get }
    /// Decodes a message of such a topic into a row, or a malformed record with its reason.
    func decode(message: UnsafeRawBufferPointer, offset: Int64, into records: inout RecordBatch)
}

extension StreamPlan {
    package func prepare(_ records: RecordBatch) -> PreparedBatch { prepare(records, view: nil, keyHashes: nil) }

    /// Everything that stored bytes depend on, as text.
    package var definition: String {
        var lines = ["stream \(name)" + (hasIDs ? "" : " without ids")]
        lines += schema.fields.map { "  \($0.name): \($0.type.rawValue)\($0.isOptional ? "?" : "")" }
        // An event's identity includes its keys in all views.
        lines.append(viewsPrefix + views.map(\.name).joined(separator: ", "))
        return lines.joined(separator: "\n")
    }

    package var fingerprint: String { weirFingerprint(of: definition) }

    /// What the online store depends on: fields that no view reads are none of it.
    package var identityDefinition: String {
        definition.split(separator: "\n").filter { $0.hasPrefix("stream ") || $0.hasPrefix(viewsPrefix) }.joined(separator: "\n")
    }

    /// Whether a history that was made with a stored definition can go on with this one: it is the same but for new optional fields, and
    /// for other views.
    package func canFollow(_ stored: String) -> Bool {
        let old = stored.split(separator: "\n").filter { !$0.hasPrefix(viewsPrefix) }
        let new = definition.split(separator: "\n").filter { !$0.hasPrefix(viewsPrefix) }
        return old.allSatisfy(new.contains) && new.allSatisfy { old.contains($0) || $0.hasSuffix("?") }
    }

    /// Whether a stored definition has other views, or the same in another order.
    package func hasOtherViews(than stored: String) -> Bool { streamViewNames(ofDefinition: stored) != views.map(\.name) }

    /// How far behind the watermark events may still be needed: for an answer, or for a window that is not closed yet. Microseconds; nil
    /// where they always may.
    package var retention: Int64? {
        timeToLive?.addingClamped(views.compactMap { $0.closedWindows?.allowedLateness }.max() ?? 0)
    }

    /// What is kept begins at a multiple of this.
    package var retentionStep: Int64 { min(max((timeToLive ?? 0) / 16, 1), 86_400_000_000) }

    package func viewIndex(_ name: String) -> Int? { views.firstIndex { $0.name == name } }
}

private let viewsPrefix = "  views: "

/// The views that a stream's definition names.
package func streamViewNames(ofDefinition definition: String) -> [String] {
    definition.split(separator: "\n").first { $0.hasPrefix(viewsPrefix) }?.dropFirst(viewsPrefix.count)
        .split(separator: ", ").map(String.init) ?? []
}

final class TypedStream<E: Event>: StreamPlan {
    let schema: RecordSchema
    let typedViews: [TypedView<E>]
    let views: [ViewPlan]
    let disorder: Int64
    let idleTimeout: Int64?
    let alignment: Int64?
    let lateness: Int64?
    let maxAhead: Int64?
    let timeToLive: Int64?

    init(views: [TypedView<E>]) throws(DefinitionError) {
        guard isWireName(E.stream.replacingDashes) else {
            throw DefinitionError("stream '\(E.stream)' of \(E.self): use lower-case letters, digits, _ and -")
        }
        do {
            schema = try RecordSchema.probe(E.self, name: E.stream, timestampUnit: E.timestampUnit)
        } catch {
            throw DefinitionError("event \(E.self): \(error)")
        }
        func microseconds(_ duration: Duration?, _ what: String) throws(DefinitionError) -> Int64? {
            guard let duration else { return nil }
            guard let whole = duration.wholeMicroseconds, whole >= 0 else {
                throw DefinitionError("event \(E.self): \(what) must be a whole number of microseconds, not negative")
            }
            return whole
        }
        disorder = try microseconds(E.disorder, "disorder") ?? 0
        idleTimeout = try microseconds(E.idleTimeout, "idleTimeout")
        if idleTimeout == 0 { throw DefinitionError("event \(E.self): idleTimeout must be positive") }
        alignment = try microseconds(E.alignment, "alignment")
        lateness = try microseconds(E.lateness, "lateness")
        maxAhead = try microseconds(E.maxAhead, "maxAhead")
        timeToLive = try microseconds(E.timeToLive, "timeToLive")
        if timeToLive == 0 { throw DefinitionError("event \(E.self): timeToLive must be positive") }
        typedViews = views
        self.views = views.map(\.plan)
    }

    var name: String { E.stream }
    var hasIDs: Bool { E.ID.isPresent }

    var decodesMessages: Bool { E.self is any MessageDecodable.Type }

    func decode(message: UnsafeRawBufferPointer, offset: Int64, into records: inout RecordBatch) {
        let start = records.bytes.count
        records.bytes.append(contentsOf: message)
        let raw = start..<records.bytes.count
        do {
            guard let type = E.self as? any MessageDecodable.Type, let event = try type.init(message: Array(message)) as? E else { return }
            try records.append(event, raw: raw, offset: offset)
        } catch {
            records.malformed.append(.init(raw: raw, offset: offset, reason: "the message does not decode: \(error)"))
        }
    }

    func prepare(_ records: RecordBatch, view: Int?, keyHashes: [UInt64]?) -> PreparedBatch {
        prepare(records, view: view, keyHashes: keyHashes, without: [])
    }

    /// - Parameter refused: rows that have too long a key.
    private func prepare(_ records: RecordBatch, view: Int?, keyHashes: [UInt64]?, without refused: Set<Int>) -> PreparedBatch {
        var batch = PreparedBatch(records: records)
        var events: [E] = []
        events.reserveCapacity(records.rows.count)
        var decoder = RecordDecoder(schema: schema)
        decoder.load(records)
        for row in records.rows.indices {
            if !refused.isEmpty, refused.contains(row) {
                batch.reject(row, "its key is longer than \(Limits.keyBytesMax) bytes")
                continue
            }
            do throws(RecordError) {
                let event = try decoder.decode(E.self, row: row)
                // What the history took before is never refused. An event may make its time itself, past the check of its text.
                guard keyHashes != nil || EventTime.ofEvents.contains(event.eventTime) else {
                    throw RecordError(
                        field: "event_time", "the time \(event.eventTime.microseconds) µs lies outside of the years 0 to 9999")
                }
                events.append(event)
                batch.recordRows.append(row)
            } catch {
                batch.reject(row, error.description)
            }
        }
        batch.views = typedViews.indices.map { index in
            view == nil || view == index ? typedViews[index].rows(of: events) : ViewRows(columns: [])
        }
        let tooLong = batch.rowsWithLongKeys()
        // Rare: read the rows again without all of these. The records stay as they are, since ingest times are found by their rows.
        if !tooLong.isEmpty { return prepare(records, view: view, keyHashes: nil, without: tooLong) }
        batch.times = events.map { $0.eventTime.microseconds }
        batch.ids.reserve(events.count)
        if !hasIDs {
            batch.ids = ColumnBuffer(textEnds: Array(repeating: 0, count: events.count), textBytes: [], nulls: [])
        }
        for event in events where hasIDs { batch.ids.append(text: event.id.idText ?? "") }
        if let keyHashes { batch.keyHashes = keyHashes } else { batch.hashKeys() }
        return batch
    }
}

extension PreparedBatch {
    mutating func reject(_ row: Int, _ reason: String) {
        let info = records.rows[row]
        records.malformed.append(.init(raw: info.raw, offset: info.offset, reason: reason))
    }

    /// The records whose key in some view is too long.
    fileprivate func rowsWithLongKeys() -> Set<Int> {
        var found: Set<Int> = []
        for view in views {
            for row in 0..<view.keys.count where view.keys.textRange(row).count > Limits.keyBytesMax { found.insert(recordRows[row]) }
        }
        return found
    }

    /// Makes `keyHashes` from the keys of all views.
    package mutating func hashKeys() {
        keyHashes.removeAll()
        keyHashes.reserveCapacity(times.count)
        let keys = views.map(\.keys)
        withUnsafeTemporaryAllocation(byteCount: keys.count * (4 + Limits.keyBytesMax), alignment: 8) { bytes in
            for row in times.indices {
                var count = 0
                for view in keys.indices {
                    let range = keys[view].textRange(row)
                    // A null key and an empty one differ, and no key can reach into the next one's place.
                    let length = keys[view].isNull(row) ? UInt32.max : UInt32(range.count)
                    bytes.storeBytes(of: length.littleEndian, toByteOffset: count, as: UInt32.self)
                    keys[view].textBytes.withUnsafeBytes { text in
                        UnsafeMutableRawBufferPointer(rebasing: bytes[(count + 4)...]).copyMemory(
                            from: UnsafeRawBufferPointer(rebasing: text[range]))
                    }
                    count += 4 + range.count
                }
                keyHashes.append(StableHash.xxh64(UnsafeRawBufferPointer(rebasing: bytes[..<count])))
            }
        }
    }
}

extension String {
    fileprivate var replacingDashes: String { String(map { $0 == "-" || $0 == "." ? "_" : $0 }) }
}
