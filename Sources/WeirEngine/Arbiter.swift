import WeirAlgebra
import WeirDefinitions
import WeirRecords

/// Decides, once for all stores, what becomes of what comes in: which events are accepted and in which order, what is a
/// copy, a conflict, too late or too early; how far each stream is complete; which windows close.
///
/// It does no input or output itself: decisions go through the `HistoryTransaction` that it is given. It is a value, so that a
/// transaction that fails leaves it as it was: the caller puts back the copy that it made before, and calls `forget`.
package struct Arbiter: Sendable {
    private struct StreamState: Sendable {
        let plan: any StreamPlan
        /// The views whose windows close, with their place among the stream's views.
        let closers: [(position: Int, closer: WindowCloser, known: WindowCloser.KnownWindows)]
        /// The views whose updates go to a topic, with their place among the stream's views and the entities that have changed.
        var updates: [(position: Int, view: ViewRuntime, topic: String, keys: Set<String>)]
        var watermarks: Watermarks<SourcePart>
        var latestEventTime: Int64?
        /// When the next window closes; nil where none is open.
        var nextDue: Int64?
        /// The watermark as it was last stored.
        var storedWatermark: Int64?
        /// Events before this time no longer count; `Int64.min` where all do. It follows the watermark, and never goes back.
        var keptFrom: Int64
        var storedKeptFrom: Int64
        /// Of the plan; nil where all events count for ever.
        let retention: (length: Int64, step: Int64)?

        /// Moves what is kept behind the watermark, in steps: each one makes the history let go of something.
        mutating func moveKeptFrom() {
            guard let retention, let watermark = watermarks.combined else { return }
            let oldest = watermark.subtractingClamped(retention.length)
            guard oldest > keptFrom else { return }
            keptFrom = max(keptFrom, EventTime(microseconds: oldest).floored(to: retention.step).microseconds)
        }
    }

    /// What the history has stored of a stream.
    package struct Restored: Sendable {
        package var latestEventTime: Int64?
        package var watermark: Int64?
        /// The sources that were ever read, with their watermarks.
        package var sources: [(source: SourcePart, watermark: Int64?)] = []
        package var nextDue: Int64?
        /// Events before this time no longer count, and may be gone.
        package var keptFrom: Int64

        package init(
            latestEventTime: Int64? = nil, watermark: Int64? = nil, sources: [(source: SourcePart, watermark: Int64?)] = [],
            nextDue: Int64? = nil, keptFrom: Int64 = .min
        ) {
            self.keptFrom = keptFrom
            self.latestEventTime = latestEventTime
            self.watermark = watermark
            self.sources = sources
            self.nextDue = nextDue
        }
    }

    /// The number of the last accepted event, over all streams.
    package private(set) var lastSequence: Int64
    private var streams: [String: StreamState] = [:]
    /// nil where nothing was erased.
    private let tombstones: Tombstones?

    /// - Parameters:
    ///   - views: in the order of the catalog's.
    ///   - tombstones: whose events stay out; nil for nobody's.
    package init(
        catalog: CatalogPlan, views: [ViewRuntime], lastSequence: Int64, restored: [String: Restored], tombstones: Tombstones? = nil
    ) {
        self.lastSequence = lastSequence
        self.tombstones = tombstones
        for stream in catalog.streams {
            let stored = restored[stream.name] ?? Restored()
            var watermarks = Watermarks<SourcePart>(
                disorder: stream.disorder, idleTimeout: stream.idleTimeout, combined: stored.watermark)
            // A source holds the watermark back again once it is heard of.
            for (source, watermark) in stored.sources { watermarks.add(source, watermark: watermark, isIdle: true) }
            let closers = stream.views.enumerated().compactMap { position, plan in
                WindowCloser(views.first { $0.plan === plan }!).map {
                    (position, $0, WindowCloser.KnownWindows(latestBefore: stored.latestEventTime))
                }
            }
            let updates = stream.views.enumerated().compactMap { position, plan in
                plan.updatesTopic.map { (position, views.first { $0.plan === plan }!, $0, Set<String>()) }
            }
            streams[stream.name] = StreamState(
                plan: stream, closers: closers, updates: updates, watermarks: watermarks, latestEventTime: stored.latestEventTime,
                nextDue: stored.nextDue, storedWatermark: stored.watermark, keptFrom: stored.keptFrom, storedKeptFrom: stored.keptFrom,
                retention: stream.retention.map { ($0, stream.retentionStep) })
        }
    }

    /// A transaction failed: what was cached of it is not so.
    package func forget() {
        for stream in streams.values { for closer in stream.closers { closer.known.forget() } }
    }

    /// The largest accepted event time of all streams.
    package var latestEventTime: Int64? { streams.values.compactMap(\.latestEventTime).max() }

    /// No event of the stream before this is expected; nil while that is not known.
    package func watermark(of stream: String) -> Int64? { streams[stream]?.watermarks.combined }

    /// Events of the stream before this time no longer count; `Int64.min` where all do.
    package func keptFrom(of stream: String) -> Int64 { streams[stream]?.keptFrom ?? .min }

    package func watermark(of source: SourcePart) -> Int64? { streams[source.stream]?.watermarks.watermark(of: source) }

    // MARK: Taking events

    /// Takes a batch: accepted events get numbers in the order of the batch.
    ///
    /// - Parameter now: microseconds on a clock that never goes back, for idleness.
    package mutating func take(
        _ incoming: IncomingBatch, now: Int64, in transaction: some HistoryTransaction, _ summary: inout CommitSummary
    ) throws -> AcceptedBatch {
        let stream = incoming.source.stream
        guard var state = streams[stream] else { throw ArbiterError.unknownStream(stream) }
        defer { streams[stream] = state }
        var batch = incoming.batch
        // The push log and letters that are tried again speak up only with events: they do not hold the others back before.
        let input = state.watermarks.add(incoming.source, isIdle: incoming.source.kind == .push || incoming.source.kind == .retry)
        if incoming.phase == .start { state.watermarks.wake(input, now: now) }
        var rows: [Int] = []
        var sequences: [Int64] = []
        rows.reserveCapacity(batch.count)
        var letters: [DeadLetter] = []
        var duplicates = 0
        var lateWindows = 0
        var lateForAll = 0
        var expired = 0

        func letter(_ kind: DeadLetter.Kind, _ reason: String, raw: Range<Int>, offset: Int64, ingestTime: Int64) -> DeadLetter {
            DeadLetter(
                kind: kind, reason: reason, source: incoming.source, offset: offset, ingestTime: ingestTime,
                raw: Array(batch.records.bytes[raw]), encoding: incoming.encoding)
        }
        func refuse(_ row: Int, _ kind: DeadLetter.Kind, _ reason: String) {
            let info = batch.records.rows[batch.recordRows[row]]
            letters.append(letter(kind, reason, raw: info.raw, offset: info.offset, ingestTime: incoming.ingestTime))
        }

        let withheld = tombstones?.withheld(incoming, of: state.plan) ?? []
        for row in 0..<batch.count where !withheld.contains(row) {
            let time = batch.times[row]
            let ingestTime = incoming.ingestTimes?[batch.recordRows[row]] ?? incoming.ingestTime
            let ahead = time.subtractingClamped(ingestTime)
            let isTrusted = ahead <= state.plan.maxAhead ?? Limits.watermarkAheadMax
            // The event itself cannot bring the watermark past its own time.
            state.watermarks.observe(input, eventTime: time, now: now, countsForTime: isTrusted)
            state.moveKeptFrom()
            if time < state.keptFrom {
                // A dead letter would keep what is not to be kept.
                expired += 1
                continue
            }
            if let lateness = state.plan.lateness, let watermark = state.watermarks.combined, time < watermark.subtractingClamped(lateness)
            {
                refuse(
                    row, .tooLate,
                    "it is \(watermark.subtractingClamped(time)) µs older than the stream's watermark; the stream allows \(lateness) µs"
                )
                continue
            }
            if let maxAhead = state.plan.maxAhead, !isTrusted {
                refuse(row, .aheadOfTime, "it is \(ahead) µs ahead of its ingest time; the stream allows \(maxAhead) µs")
                continue
            }
            switch try transaction.insert(batch, row: row, sequence: lastSequence + 1, ingestTime: ingestTime, from: incoming) {
            case .accepted:
                lastSequence += 1
                rows.append(row)
                sequences.append(lastSequence)
                state.latestEventTime = max(state.latestEventTime ?? .min, time)
            case .duplicate:
                duplicates += 1
                continue
            case .conflict:
                refuse(row, .conflictingDuplicate, "an event with the same keys, event time and id but other content was accepted before")
                continue
            }
            for index in state.updates.indices {
                let keys = batch.views[state.updates[index].position].keys
                if !keys.isNull(row) { state.updates[index].keys.insert(keys.withText(row) { String(decoding: $0, as: UTF8.self) }) }
            }
            for index in state.closers.indices {
                let keys = batch.views[state.closers[index].position].keys
                guard !keys.isNull(row) else { continue }
                let key = keys.withText(row) { String(decoding: $0, as: UTF8.self) }
                let result = try state.closers[index].closer.add(
                    WindowCloser.ClosableEvent(
                        batch: batch, position: state.closers[index].position, row: row, sequence: lastSequence, hasID: state.plan.hasIDs),
                    key: key, watermark: state.watermarks.combined, keptFrom: state.keptFrom, known: state.closers[index].known,
                    in: transaction)
                lateWindows += result.lateWindows
                if result.isLate { lateForAll += 1 }
                if let due = result.due { state.nextDue = min(state.nextDue ?? .max, due) }
            }
            try Self.closeDue(&state, in: transaction)
        }
        if incoming.phase == .end { state.watermarks.markIdle(incoming.source) }
        try Self.closeDue(&state, in: transaction)
        if !state.plan.hasIDs { batch.assignSequenceIDs(rows: rows, sequences: sequences) }

        for malformed in batch.records.malformed {
            letters.append(
                letter(.malformed, malformed.reason, raw: malformed.raw, offset: malformed.offset, ingestTime: incoming.ingestTime))
        }
        for letter in letters { try transaction.add(letter) }
        if duplicates > 0 { try transaction.count("duplicates", stream: stream, by: duplicates) }
        if !withheld.isEmpty { try transaction.count("forgotten", stream: stream, by: withheld.count) }
        if expired > 0 { try transaction.count("expired", stream: stream, by: expired) }
        if lateWindows > 0 { try transaction.count("late for a closed window", stream: stream, by: lateWindows) }
        if lateForAll > 0 { try transaction.count("late for all its windows", stream: stream, by: lateForAll) }
        try transaction.setPosition(
            incoming.source, incoming.nextOffset, detail: incoming.detail, watermark: state.watermarks.watermark(of: incoming.source))
        try Self.storeWatermark(&state, in: transaction)

        summary.accepted += rows.count
        summary.duplicates += duplicates
        summary.deadLetters += letters.count
        summary.forgotten += withheld.count
        summary.expired += expired
        summary.lastSequence = lastSequence
        return AcceptedBatch(batch: batch, rows: rows, firstSequence: sequences.first ?? 0)
    }

    /// Writes the updates of the entities that have changed, for their topics: once a transaction, when all its batches are taken.
    package mutating func writeUpdates(in transaction: some HistoryTransaction) throws {
        for name in streams.keys.sorted() where !streams[name]!.updates.isEmpty {
            for index in streams[name]!.updates.indices {
                let (_, view, topic, keys) = streams[name]!.updates[index]
                streams[name]!.updates[index].keys = []
                for key in keys.sorted() {
                    guard let latest = try transaction.latestTime(of: view.plan, key: key) else { continue }
                    let asOf = AsOf(EventTime(microseconds: latest), isInclusive: true)
                    let rows = try transaction.rows(of: view.plan, key: key, from: view.earliestReach(asOf: asOf), to: asOf.end)
                    let scratch = EvaluationScratch()
                    guard
                        try view.evaluate(
                            view.allFeatures, rows: rows, asOf: asOf, session: nil, keptFrom: streams[name]!.keptFrom, scratch) != nil
                    else {
                        // All of the entity's events are so old that the history has not all of its windows any more.
                        try transaction.count("late for an update", stream: name, by: 1)
                        continue
                    }
                    let values = scratch.results.map(\.value)
                    let features = zip(view.plan.features, values).map { "\"\($0.name)\":\($1.json)" }.joined(separator: ",")
                    try transaction.output(
                        OutputRecord(
                            topic: topic, key: key,
                            value: """
                                \(Self.updateBeginning(view.plan, key: key)),\
                                "as_of":"\(TimeText.format(asOf.time))","features":{\(features)}}
                                """))
                }
            }
        }
    }

    // MARK: Erasure

    /// Says anew what was said of an entity that lost events to another one's erasure: its closed windows, and its records on their way to
    /// topics. The events are gone from the history.
    ///
    /// - Parameter times: of the erased events.
    /// - Returns: how many windows changed.
    package mutating func rewrite(
        _ view: ViewPlan, key: String, without times: [Int64], in transaction: some ErasureTransaction
    ) throws -> Int {
        guard let state = streams[view.stream] else { throw ArbiterError.unknownStream(view.stream) }
        var changed = 0
        for (position, closer, _) in state.closers where state.plan.views[position] === view {
            changed += try closer.erase(times, key: key, keptFrom: state.keptFrom, in: transaction)
        }
        for index in state.updates.indices where state.plan.views[state.updates[index].position] === view {
            let beginning = Self.updateBeginning(view, key: key) + ","
            for (number, value) in try transaction.waitingOutputs(topic: state.updates[index].topic, key: key)
            where value.hasPrefix(beginning) { try transaction.replaceOutput(number, value: nil) }
            streams[view.stream]!.updates[index].keys.insert(key)
        }
        return changed
    }

    private static func updateBeginning(_ view: ViewPlan, key: String) -> String {
        #"{"view":"\#(view.name)","entity_key":\#(FeatureValue.string(key).json)"#
    }

    // MARK: Time

    /// Looks at the clock: sources that gave nothing for long no longer hold watermarks back. Returns whether a watermark
    /// moved, and `advance` has something to do.
    package mutating func check(now: Int64) -> Bool {
        var isMoved = false
        for name in streams.keys {
            streams[name]!.watermarks.check(now: now)
            if streams[name]!.watermarks.combined != streams[name]!.storedWatermark { isMoved = true }
        }
        return isMoved
    }

    /// Closes what the watermarks that `check` moved have made due.
    package mutating func advance(in transaction: some HistoryTransaction) throws {
        for name in streams.keys.sorted() {
            try Self.closeDue(&streams[name]!, in: transaction)
            try Self.storeWatermark(&streams[name]!, in: transaction)
        }
    }

    private static func closeDue(_ state: inout StreamState, in transaction: some HistoryTransaction) throws {
        guard let due = state.nextDue, let watermark = state.watermarks.combined, due <= watermark else { return }
        state.nextDue = nil
        for (_, closer, known) in state.closers {
            if let next = try closer.close(at: watermark, known: known, in: transaction) {
                state.nextDue = min(state.nextDue ?? .max, next)
            }
        }
    }

    private static func storeWatermark(_ state: inout StreamState, in transaction: some HistoryTransaction) throws {
        state.moveKeptFrom()
        if state.keptFrom != state.storedKeptFrom {
            try transaction.setKeptFrom(state.keptFrom, stream: state.plan.name)
            state.storedKeptFrom = state.keptFrom
        }
        guard let watermark = state.watermarks.combined, watermark != state.storedWatermark else { return }
        try transaction.setWatermark(watermark, stream: state.plan.name)
        state.storedWatermark = watermark
    }
}

package enum ArbiterError: Error, CustomStringConvertible {
    case unknownStream(String)

    package var description: String {
        switch self {
        case .unknownStream(let name): "the stream '\(name)' is not in the catalog"
        }
    }
}
