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

    package init(service: ServicePlan, catalog: CatalogPlan, directory: String, spinePath: String, outPath: String) {
        self.service = service
        self.catalog = catalog
        self.directory = directory
        self.spinePath = spinePath
        self.outPath = outPath
    }
}

/// Reads a spine, computes its training set, and writes it with its manifest: the same inputs give the same bytes, whatever the number of
/// threads and the memory.
///
/// The files appear whole or not at all: they are written beside their place, synced, and renamed.
///
/// - Parameter progress: is called on any thread with rows that are done and an estimate of all.
package func exportTrainingSet(_ request: ExportRequest, progress: @escaping @Sendable (Int, Int) -> Void) throws -> ExportSummary {
    let service = request.service
    var spine = try SpineReader(path: request.spinePath, service: service, timestampColumn: request.timestampColumn)
    let readers = try (0..<max(1, request.threads)).map { _ in
        try HistoryReader(directory: request.directory, catalog: request.catalog)
    }
    let snapshot = try readers[0].snapshot()
    let training = try TrainingSet(
        service: service, catalog: request.catalog, readers: readers, snapshot: snapshot,
        options: .init(asKnown: request.asKnown, isInclusive: request.isInclusive))
    let output = try OutputFile(request.outPath)
    var header = spine.headerText
    for output in service.outputs {
        header.append(UInt8(ascii: ","))
        CSVText.appendField(output.name, to: &header)
    }
    header.append(0x0A)
    try output.write(header)

    var nulls = Array(repeating: 0, count: service.outputs.count)
    var rows = 0
    let done = Atomic<Int>(0)
    while let blocks = try nextBlocks(&spine, training, request) {
        let chunkRows = blocks.reduce(0) { $0 + $1.count }
        rows += chunkRows
        // Rows differ little in length.
        let total = max(rows, Int(Double(rows) * Double(spine.size) / Double(max(1, spine.bytesRead))))
        let joins = max(1, service.joins.count)
        let chunk = try training.compute(blocks) { count in
            progress(done.add(count, ordering: .relaxed).newValue / joins, total)
        }
        try write(chunk, training, output, &nulls)
    }
    let sha256 = try output.finish()
    var manifest = Manifest()
    manifest.add("service", .string(service.name))
    manifest.add("rows", .int(Int64(rows)))
    manifest.add("sha256", .string(sha256))
    manifest.add("spine_sha256", .string(spine.sha256()))
    manifest.add("timestamp_column", .string(request.timestampColumn))
    manifest.add("as_known", .bool(request.asKnown))
    manifest.add("inclusive", .bool(request.isInclusive))
    let views = service.joins.map(\.view)
    manifest.add("views", .map(views.map { .init(key: $0.name, value: .string($0.fingerprint)) }))
    let streams = request.catalog.streams.filter { stream in views.contains { $0.stream == stream.name } }
    manifest.add("streams", .map(streams.map { .init(key: $0.name, value: .string($0.fingerprint)) }))
    manifest.add("positions", .map(snapshot.positions.map { .init(key: $0.source, value: .int($0.position)) }))
    manifest.add(
        "features",
        .list(
            service.outputs.enumerated().map { index, output in
                .map([
                    .init(key: "name", value: .string(output.name)), .init(key: "type", value: .string(output.type.rawValue)),
                    .init(key: "nulls", value: .int(Int64(nulls[index]))),
                ])
            }))
    let file = try OutputFile(request.outPath + ".manifest.json")
    try file.write(manifest.json)
    _ = try file.finish()
    // The data first: a manifest never stands beside older data than its own.
    try output.replace()
    try file.replace()
    return ExportSummary(rows: rows, sha256: sha256)
}

/// Rows of the spine, as many as the memory lets be in work, decoded on all threads; nil at the end.
private func nextBlocks(_ spine: inout SpineReader, _ training: TrainingSet, _ request: ExportRequest) throws -> [SpineBlock]? {
    var blocks: [SpineBlock] = []
    var bytes = 0
    let keepsRequests = training.usesRequests
    while bytes < request.memory {
        var raw: [RawSpineBlock] = []
        while raw.count < 4 * training.workers, let block = try spine.next() { raw.append(block) }
        if raw.isEmpty { break }
        let (reader, given) = (spine, raw)
        let decoded = Mutex<[SpineBlock?]>(Array(repeating: nil, count: raw.count))
        try inParallel(workers: training.workers, tasks: raw.count) { _, task in
            let block = try reader.makeDecoder().decode(given[task], request.selection, keepsRequests: keepsRequests)
            decoded.withLock { $0[task] = block }
        }
        for case .some(let block) in decoded.withLock({ $0 }) where block.count > 0 {
            bytes += block.text.count + block.keys.reduce(0) { $0 + $1.textBytes.count }
            bytes += block.count * (24 + (keepsRequests ? 96 : 0) + training.bytesPerRow)
            blocks.append(block)
        }
    }
    return blocks.isEmpty ? nil : blocks
}

/// Writes a chunk's rows, put into text on all threads, in their order.
private func write(_ chunk: TrainingSet.Chunk, _ training: TrainingSet, _ output: OutputFile, _ nulls: inout [Int]) throws {
    var firstRows: [Int] = []
    var row = 0
    for block in chunk.blocks {
        firstRows.append(row)
        row += block.count
    }
    let group = 4 * training.workers
    for first in stride(from: 0, to: chunk.blocks.count, by: group) {
        let count = min(group, chunk.blocks.count - first)
        let texts = Mutex<[CSVBlock?]>(Array(repeating: nil, count: count))
        try inParallel(workers: training.workers, tasks: count) { [firstRows] _, task in
            let text = CSVBlock(chunk.blocks[first + task], firstRow: firstRows[first + task], chunk, training.service)
            texts.withLock { $0[task] = text }
        }
        for case .some(let text) in texts.withLock({ $0 }) {
            try output.write(text.bytes)
            for index in nulls.indices { nulls[index] += text.nulls[index] }
        }
    }
}

/// A file that appears whole or not at all.
final class OutputFile {
    private let path: String
    private let temporary: String
    private let descriptor: Int32
    private var hash = SHA256()
    private var isFinished = false

    init(_ path: String) throws {
        self.path = path
        temporary = path + ".partial"
        descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw failure("cannot write") }
    }

    deinit {
        if descriptor >= 0 { close(descriptor) }
        if !isFinished { unlink(temporary) }
    }

    private func failure(_ what: String) -> ExportError { ExportError("\(what) \(temporary): \(String(cString: strerror(errno)))") }

    func write(_ bytes: [UInt8]) throws {
        hash.update(data: bytes)
        var written = 0
        while written < bytes.count {
            let count = bytes.withUnsafeBytes { Foundation.write(descriptor, $0.baseAddress! + written, min($0.count - written, 1 << 26)) }
            guard count >= 0 else { throw failure("cannot write") }
            written += count
        }
    }

    /// Syncs what was written, and returns its SHA-256; `replace` puts it in place.
    func finish() throws -> String {
        guard fsync(descriptor) == 0 else { throw failure("cannot sync") }
        return hexadecimal(hash.finalize())
    }

    func replace() throws {
        guard rename(temporary, path) == 0 else { throw failure("cannot put in place") }
        isFinished = true
    }
}
