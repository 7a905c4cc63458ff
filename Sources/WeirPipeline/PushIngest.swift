import Foundation
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirRecords
import WeirSources

/// Streams the push log into the stores.
package final class PushIngest: @unchecked Sendable {
    // Used by its own thread, except for the state that `condition` guards.
    private let log: PushLog
    private let catalog: CatalogPlan
    private let pipeline: Pipeline
    private let source = SourcePart(kind: .push, name: "push", partition: 0, stream: "")
    private var position: Int64
    private let secondsBetweenTrims: Double?
    private var lastTrim = Date()
    private let condition = NSCondition()
    private var isDone = false

    /// - Parameter secondsBetweenTrims: how often the log lets go of what the history has. nil: at the start alone, for a history that
    ///   is not synced, which a power cut may take back behind pushes that were acknowledged.
    package init(
        log: PushLog, catalog: CatalogPlan, pipeline: Pipeline, history: HistoryWriter,
        secondsBetweenTrims: Double? = Limits.pushTrimSeconds
    ) throws {
        self.secondsBetweenTrims = secondsBetweenTrims
        self.log = log
        self.catalog = catalog
        self.pipeline = pipeline
        // Every stream has a position of its own; the log was applied up to the largest, since it is applied in order.
        position = try history.positions(kind: .push).map(\.offset).max() ?? 0
        guard position <= log.endOffset else {
            throw DataDirectoryError(
                "the push log ends at \(log.endOffset), but the history has applied it up to \(position): the directory push/ was replaced; restore it"
            )
        }
        log.trim(before: position)
    }

    /// - Parameter failed: is called on the thread when reading cannot go on.
    package func start(failed: @escaping @Sendable (any Error) -> Void) {
        BackgroundThread.start("weir push") {
            do { try self.run() } catch { failed(error) }
            self.condition.lock()
            self.isDone = true
            self.condition.broadcast()
            self.condition.unlock()
        }
    }

    /// Waits until what the log holds is handed over; the log must have been stopped.
    package func waitUntilDone() {
        condition.lock()
        while !isDone { condition.wait() }
        condition.unlock()
    }

    private func run() throws {
        while let record = try next() {
            guard let stream = catalog.stream(named: record.stream) else {
                throw DataDirectoryError(
                    "the push log holds events of the stream '\(record.stream)', which the definitions no longer have; put it back until they are applied"
                )
            }
            var parser = JSONRecordParser(schema: stream.schema)
            var records = RecordBatch(schema: stream.schema)
            for event in record.events { parser.append(event, to: &records, offset: record.offset) }
            var source = source
            source.stream = record.stream
            try pipeline.submit(
                IncomingBatch(batch: stream.prepare(records), source: source, nextOffset: record.nextOffset, ingestTime: wallClock()))
            position = record.nextOffset
        }
    }

    private func trim() {
        guard let secondsBetweenTrims, -lastTrim.timeIntervalSinceNow > secondsBetweenTrims else { return }
        lastTrim = Date()
        log.trim(before: pipeline.committedPushOffset)
    }

    private func next() throws -> PushLog.Record? {
        while true {
            trim()
            if let record = try log.read(at: position, timeout: 1) { return record }
            if log.isStopped { return nil }
        }
    }
}
