import Crypto
import Foundation
import Synchronization
import WeirAlgebra
import WeirDefinitions
import WeirHistory
import WeirRecords

package struct ExportSummary: Sendable {
    package let rows: Int
    package let sha256: String
}

/// What a training set is made of, and how.
package struct ExportRequest: Sendable {
    package let service: ServicePlan
    package let catalog: CatalogPlan
    /// The directory of the stores.
    package let directory: String
    package let spinePath: String
    package let outPath: String
    package var timestampColumn = "event_timestamp"
    package var asKnown = false
    package var isInclusive = false
    package var selection = SpineSelection()
    /// Bytes that the rows in work may take; the history's, which are read piece by piece, and what a thread needs come on top. A spine that
    /// takes more is computed in parts, each of which reads the history once.
    package var memory = 300 << 20
    package var threads = ProcessInfo.processInfo.activeProcessorCount
    /// Rows of the spine that are read, decoded and written together.
    package var rowsPerBlock = 8_192
    /// Of the history, the last accepted event that counts; nil: all.
    package var lastSequence: Int64?
    /// For each stream the time up to which labels take it for complete, in place of its watermark; nil: the watermarks.
    package var completeUntil: [String: EventTime]?

    package init(service: ServicePlan, catalog: CatalogPlan, directory: String, spinePath: String, outPath: String) {
        self.service = service
        self.catalog = catalog
        self.directory = directory
        self.spinePath = spinePath
        self.outPath = outPath
    }
}

/// A manifest with what its file is made from.
package struct ExportedManifest: Decodable, Sendable {
    package struct History: Decodable, Sendable {
        package let store: String
        package let sequence: Int64
    }
    package let service: String
    package let sha256: String
    package let spine: String
    package let spineSHA256: String
    package let timestampColumn: String
    package let asKnown: Bool
    package let inclusive: Bool
    package let from: String?
    package let to: String?
    package let sample: Double?
    package let views: [String: String]
    package let history: History
    package let labelsUntil: [String: String]?

    private enum CodingKeys: String, CodingKey {
        case service, sha256, spine, inclusive, from, to, sample, views, history
        case spineSHA256 = "spine_sha256"
        case timestampColumn = "timestamp_column"
        case asKnown = "as_known"
        case labelsUntil = "labels_until"
    }

    package init(path: String) throws {
        guard let data = FileManager.default.contents(atPath: path) else { throw ExportError("cannot read the manifest \(path)") }
        do { self = try JSONDecoder().decode(Self.self, from: data) } catch {
            throw ExportError("\(path) is no manifest of an export: \(error)")
        }
    }
}

/// What became of making a training set anew.
package enum ExportCheck: Sendable {
    case same(rows: Int)
    /// The first line of the file that differs, counted from 1, as it is and as it would be; nil where there is none.
    case differs(line: Int, file: String?, computed: String?)
}

/// Computes a training set again and compares it with its file, byte by byte. Nothing is written.
package func checkTrainingSet(
    _ request: ExportRequest, _ manifest: ExportedManifest, progress: @escaping @Sendable (Int, Int) -> Void
) throws -> ExportCheck {
    for join in request.service.trainingJoins where manifest.views[join.view.name] != join.view.fingerprint {
        throw ExportError(
            "the definition of \(join.view.name) is not the one that the manifest names: its features were defined otherwise then")
    }
    let comparison = try FileComparison(request.outPath)
    let computed = try computeTrainingSet(request, into: comparison, progress: progress)
    guard computed.spineSHA256 == manifest.spineSHA256 else {
        throw ExportError("the spine \(request.spinePath) is not the one that the training set was made from: its SHA-256 differs")
    }
    if let difference = try comparison.end() { return difference }
    guard computed.sha256 == manifest.sha256 else {
        throw ExportError("\(request.outPath) is what would be made, but not what the manifest names: its SHA-256 differs")
    }
    return .same(rows: computed.rows)
}

private struct ComputedTrainingSet {
    let rows: Int
    let sha256: String
    let spineSHA256: String
    let snapshot: HistorySnapshot
    let statistics: [ColumnStatistics]
}

/// Reads a spine, computes its training set, and writes it with its manifest: the same inputs give the same bytes, whatever the number of
/// threads and the memory.
///
/// The files appear whole or not at all: they are written beside their place, synced, and renamed.
///
/// - Parameter progress: is called on any thread with rows that are done and an estimate of all.
package func exportTrainingSet(_ request: ExportRequest, progress: @escaping @Sendable (Int, Int) -> Void) throws -> ExportSummary {
    let output = try OutputFile(request.outPath)
    let computed = try computeTrainingSet(request, into: output, progress: progress)
    let file = try OutputFile(request.outPath + ".manifest.json")
    try file.write(manifest(request, computed).json)
    try output.sync()
    try file.sync()
    // The data first: a manifest never stands beside older data than its own.
    try output.replace()
    try file.replace()
    return ExportSummary(rows: computed.rows, sha256: computed.sha256)
}

private func manifest(_ request: ExportRequest, _ computed: ComputedTrainingSet) -> Manifest {
    let service = request.service
    var manifest = Manifest()
    manifest.add("service", .string(service.name))
    manifest.add("rows", .int(Int64(computed.rows)))
    manifest.add("sha256", .string(computed.sha256))
    manifest.add("spine", .string(request.spinePath))
    manifest.add("spine_sha256", .string(computed.spineSHA256))
    manifest.add("timestamp_column", .string(request.timestampColumn))
    manifest.add("as_known", .bool(request.asKnown))
    manifest.add("inclusive", .bool(request.isInclusive))
    if let from = request.selection.from { manifest.add("from", .string(TimeText.format(from))) }
    if let to = request.selection.to { manifest.add("to", .string(TimeText.format(to))) }
    if let sample = request.selection.sample { manifest.add("sample", .double(sample)) }
    let views = service.trainingJoins.map(\.view)
    manifest.add("views", .map(views.map { .init(key: $0.name, value: .string($0.fingerprint)) }))
    let streams = request.catalog.streams.filter { stream in views.contains { $0.stream == stream.name } }
    manifest.add("streams", .map(streams.map { .init(key: $0.name, value: .string($0.fingerprint)) }))
    manifest.add("positions", .map(computed.snapshot.positions.map { .init(key: $0.source, value: .int($0.position)) }))
    manifest.add(
        "history",
        .map([
            .init(key: "store", value: .string(computed.snapshot.store)),
            .init(key: "sequence", value: .int(computed.snapshot.lastSequence)),
        ]))
    if !service.labelJoins.isEmpty {
        // Labels that reach further are not known yet.
        let labelled = Set(service.labelJoins.map(\.view.stream)).sorted()
        manifest.add(
            "labels_until",
            .map(
                labelled.compactMap { stream in
                    computed.snapshot.completeUntil[stream].map {
                        .init(key: stream, value: .string(TimeText.format(EventTime(microseconds: $0))))
                    }
                }))
    }
    manifest.add("features", .list(computed.statistics.map(\.summary.json)))
    return manifest
}

private func computeTrainingSet(
    _ request: ExportRequest, into output: any TrainingSetOutput, progress: @escaping @Sendable (Int, Int) -> Void
) throws -> ComputedTrainingSet {
    let service = request.service
    var spine = try SpineReader(
        path: request.spinePath, service: service, timestampColumn: request.timestampColumn, rowsPerBlock: request.rowsPerBlock)
    let readers = try (0..<max(1, request.threads)).map { _ in
        try HistoryReader(directory: request.directory, catalog: request.catalog)
    }
    var snapshot = try readers[0].snapshot(upTo: request.lastSequence)
    if let given = request.completeUntil { snapshot.completeUntil = given.mapValues(\.microseconds) }
    let training = try TrainingSet(
        service: service, catalog: request.catalog, readers: readers, snapshot: snapshot,
        options: .init(asKnown: request.asKnown, isInclusive: request.isInclusive))
    var header = spine.headerText
    let columns = service.outputs + service.labels
    for output in columns {
        header.append(UInt8(ascii: ","))
        CSVText.appendField(output.name, to: &header)
    }
    header.append(0x0A)
    let noStatistics = columns.map { ColumnStatistics(name: $0.name, type: $0.type) }
    let writer = Mutex(TextWriter(output: output, statistics: noStatistics))
    try writer.withLock { try $0.write(header) }

    var rows = 0
    let done = Atomic<Int>(0)
    while let blocks = try nextBlocks(&spine, training, request) {
        let chunkRows = blocks.reduce(0) { $0 + $1.count }
        rows += chunkRows
        // Rows differ little in length.
        let total = max(rows, Int(Double(rows) * Double(spine.size) / Double(max(1, spine.bytesRead))))
        let joins = max(1, training.service.joins.count)
        let chunk: TrainingSet.Chunk
        do {
            chunk = try training.compute(blocks) { count in
                progress(done.add(count, ordering: .relaxed).newValue / joins, total)
            }
        } catch let beyond as BeyondHistory {
            throw spine.failure(at: beyond.offset, beyond.reason + ", or leave the row out (--from)")
        }
        var firstRows = [0]
        for block in chunk.blocks { firstRows.append(firstRows.last! + block.count) }
        try inParallel(workers: training.workers, tasks: chunk.blocks.count) { [firstRows] number in
            CSVBlock(chunk.blocks[number], firstRow: firstRows[number], chunk, training.service, noStatistics)
        } inOrder: { text in
            try writer.withLock { try $0.write(text) }
        }
    }
    let written = writer.withLock { $0 }
    return ComputedTrainingSet(
        rows: rows, sha256: hexadecimal(written.hash.finalize()), spineSHA256: spine.sha256(), snapshot: snapshot,
        statistics: written.statistics)
}

/// Rows of the spine, as many as the memory lets be in work, decoded on all threads; nil at the end.
private func nextBlocks(_ spine: inout SpineReader, _ training: TrainingSet, _ request: ExportRequest) throws -> [SpineBlock]? {
    struct Source {
        var spine: SpineReader
        var decoded: [(number: Int, block: SpineBlock)] = []
        var bytes = 0
    }
    let keepsRequests = training.usesRequests
    let reader = spine
    let source = Mutex(Source(spine: spine))
    try inParallel(workers: training.workers, taking: .max) { _, isGoingOn in
        let decoder = reader.makeDecoder()
        // One thread reads the next rows while others decode.
        while isGoingOn() != nil {
            let next = try source.withLock { source in
                let number = source.spine.blockCount
                return source.bytes < request.memory ? try source.spine.next().map { (number, $0) } : nil
            }
            guard let (number, raw) = next else { return }
            let block = try decoder.decode(raw, request.selection, keepsRequests: keepsRequests)
            if block.count == 0 { continue }
            source.withLock { source in
                source.decoded.append((number, block))
                source.bytes += block.text.count + block.keys.reduce(0) { $0 + $1.textBytes.count }
                source.bytes += block.count * (32 + (keepsRequests ? 96 : 0) + training.bytesPerRow)
            }
        }
    }
    let (rest, decoded) = source.withLock { ($0.spine, $0.decoded) }
    spine = rest
    return decoded.isEmpty ? nil : decoded.sorted { $0.number < $1.number }.map(\.block)
}

/// What the text of a training set goes through, block by block.
private struct TextWriter: Sendable {
    let output: any TrainingSetOutput
    var hash = SHA256()
    var statistics: [ColumnStatistics]

    mutating func write(_ bytes: [UInt8]) throws {
        hash.update(data: bytes)
        try output.write(bytes)
    }

    mutating func write(_ block: CSVBlock) throws {
        try write(block.bytes)
        for index in statistics.indices { statistics[index].merge(block.statistics[index]) }
    }
}
