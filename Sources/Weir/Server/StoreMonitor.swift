import Foundation
import Synchronization
import WeirDefinitions
import WeirHistory
import WeirLookup
import WeirPipeline
import WeirRecords
import WeirServer

/// What `/metrics` and `/readyz` say of the stores and their sources.
///
/// It reads the history over a connection of its own, so that a scrape never waits for a lookup that the history answers, nor one for it.
final class StoreMonitor: Sendable {
    private let directory: DataDirectory
    private let lookups: LookupService
    private let history: HistoryReader
    /// nil where the process only reads.
    private let pipeline: Pipeline?
    private let consumer: KafkaIngest?
    /// Events that a source or a shard may be behind while the process counts as ready.
    private let lagMax: Int
    private let state = Mutex(State())

    private struct State {
        /// The topics were read to their ends once. What comes later in a burst makes no server unready: all would go at once.
        var hasCaughtUp = false
        /// Counting letters reads all of them, so it is done seldom.
        var deadLetters: [MetricFamily.Sample] = []
        var deadLettersCountedAt: ContinuousClock.Instant?
    }

    private static let secondsBetweenCounts = 15

    init(
        directory: DataDirectory, lookups: LookupService, pipeline: Pipeline? = nil, consumer: KafkaIngest? = nil, lagMax: Int
    ) throws {
        self.directory = directory
        self.lookups = lookups
        self.pipeline = pipeline
        self.consumer = consumer
        self.lagMax = lagMax
        history = try HistoryReader(directory: directory.path, catalog: lookups.catalog)
    }

    // MARK: Readiness

    /// Ready: the stores can be read, no shard is far behind the history, and topics were read to their ends once.
    func readiness() -> ReadyState {
        do {
            let applied = try lookups.store.states().map(\.appliedSequence).min() ?? 0
            let behind = try history.latestSequence() - applied
            guard behind <= lagMax else {
                return .notReady("the online store is \(behind) events behind the history; ready at \(lagMax) (--ready-lag)")
            }
        } catch {
            return .notReady("\(error)")
        }
        guard let consumer, !state.withLock({ $0.hasCaughtUp }) else { return .ready }
        let status = consumer.currentStatus
        guard status.hasLooked else { return .notReady("the broker was not reached yet") }
        if let problem = status.problem { return .notReady(problem) }
        var lag: Int64 = 0
        do {
            for (partition, own) in try lags(status) {
                guard let own else { return .notReady("\(partition.topic)/\(partition.partition) was not read yet") }
                lag += own
            }
        } catch {
            return .notReady("\(error)")
        }
        guard lag <= lagMax else {
            return .notReady("\(lag) messages of the topics are still to be read; ready at \(lagMax) (--ready-lag)")
        }
        state.withLock { $0.hasCaughtUp = true }
        return .ready
    }

    /// For each partition the messages (and markers of transactions) that the history does not have yet; nil before that is known.
    private func lags(_ status: KafkaIngest.Status) throws -> [(partition: KafkaIngest.Partition, lag: Int64?)] {
        let sources = try history.sources().filter { $0.kind == "kafka" }
        return status.partitions.map { partition in
            let source = sources.first { $0.name == partition.topic && $0.partition == Int(partition.partition) }
            guard let position = source?.position, let end = partition.end else { return (partition, nil) }
            return (partition, max(0, end - position))
        }
    }

    // MARK: Metrics

    func metrics() -> [MetricFamily] {
        var families: [MetricFamily] = []
        var failures = 0
        for part in [shards, historyMetrics, sizes, consumerMetrics] {
            do { families += try part() } catch { failures += 1 }
        }
        families += pipelineMetrics()
        families.append(
            MetricFamily("weir_sessions", .gauge, "Sessions that the server holds for lookups.", Double(lookups.sessions.count)))
        families.append(
            MetricFamily(
                "weir_scrape_failures", .gauge, "Parts of this scrape that are missing, since a store could not be read.", Double(failures))
        )
        return families
    }

    private func shards() throws -> [MetricFamily] {
        let states = try lookups.store.states()
        let latestSequence = try history.latestSequence()
        var families = [
            MetricFamily(
                "weir_history_sequence", .gauge, "The number of the last event in the history: how many were ever accepted.",
                Double(latestSequence)),
            MetricFamily(
                "weir_applied_sequence", .gauge, "The number of the last event of the history that a shard of the online store has seen.",
                states.enumerated().map { .init(Double($1.appliedSequence), MetricFamily.labels(["shard": String($0)])) }),
            MetricFamily(
                "weir_unapplied_events", .gauge, "Events of the history that the slowest shard has not seen.",
                Double(max(0, latestSequence - (states.map(\.appliedSequence).min() ?? 0)))),
        ]
        if let latest = states.map(\.latestEventTime).max(), latest != .min {
            families.append(
                MetricFamily(
                    "weir_latest_event_timestamp_seconds", .gauge, "The latest accepted event time, seconds since the Unix epoch.",
                    Double(latest) / 1e6))
            families.append(
                MetricFamily(
                    "weir_freshness_seconds", .gauge, "From the latest accepted event time to now.", Double(wallClockNow() - latest) / 1e6))
        }
        return families
    }

    private func historyMetrics() throws -> [MetricFamily] {
        let sources = try history.sources()
        func labels(_ source: HistoryReader.Source) -> [MetricFamily.Label] {
            MetricFamily.labels([
                "kind": source.kind, "source": source.name, "partition": String(source.partition), "stream": source.stream,
            ])
        }
        let counters = try history.counters()
        return [
            MetricFamily(
                "weir_watermark_timestamp_seconds", .gauge, "How far a stream is complete, seconds since the Unix epoch.",
                try history.watermarks().sorted { $0.key < $1.key }.map {
                    .init(Double($0.value) / 1e6, MetricFamily.labels(["stream": $0.key]))
                }),
            MetricFamily(
                "weir_kept_from_timestamp_seconds", .gauge,
                "Events of a stream with a time to live that are older no longer count, seconds since the Unix epoch.",
                try lookups.catalog.streams.compactMap { stream in
                    let keptFrom = try history.keptFrom(stream: stream.name)
                    return keptFrom == .min ? nil : .init(Double(keptFrom) / 1e6, MetricFamily.labels(["stream": stream.name]))
                }),
            MetricFamily(
                "weir_source_watermark_timestamp_seconds", .gauge, "How far a source is complete, seconds since the Unix epoch.",
                sources.compactMap { source in source.watermark.map { .init(Double($0) / 1e6, labels(source)) } }),
            MetricFamily(
                "weir_source_position", .gauge, "The next offset to read: of a topic's partition messages, else bytes.",
                sources.map { .init(Double($0.position), labels($0)) }),
            MetricFamily(
                "weir_duplicate_events_total", .counter, "Further copies of events, in the history's life.",
                lookups.catalog.streams.map { stream in
                    let count = counters.first { $0.stream == stream.name && $0.name == "duplicates" }?.value ?? 0
                    return .init(Double(count), MetricFamily.labels(["stream": stream.name]))
                }),
            MetricFamily(
                "weir_forgotten_events_total", .counter, "Events of erased entities that came again and stayed out, in the history's life.",
                lookups.catalog.streams.map { stream in
                    let count = counters.first { $0.stream == stream.name && $0.name == "forgotten" }?.value ?? 0
                    return .init(Double(count), MetricFamily.labels(["stream": stream.name]))
                }),
            MetricFamily(
                "weir_expired_events_total", .counter,
                "Events that came when they were older than their stream's time to live, and stayed out, in the history's life.",
                lookups.catalog.streams.map { stream in
                    let count = counters.first { $0.stream == stream.name && $0.name == "expired" }?.value ?? 0
                    return .init(Double(count), MetricFamily.labels(["stream": stream.name]))
                }),
            MetricFamily(
                "weir_late_events_total", .counter, "Events that came after a window of theirs had closed, in the history's life.",
                counters.filter { !["duplicates", "forgotten", "expired"].contains($0.name) }.map {
                    .init(Double($0.value), MetricFamily.labels(["stream": $0.stream, "kind": $0.name]))
                }),
            MetricFamily(
                "weir_dead_letters", .gauge, "Records that could not be used and are kept; counted every \(Self.secondsBetweenCounts) s.",
                try deadLetters()),
            MetricFamily("weir_outputs_waiting", .gauge, "Records on their way to output topics.", Double(try history.outputCount())),
        ]
    }

    private func deadLetters() throws -> [MetricFamily.Sample] {
        let now = ContinuousClock.now
        let known = state.withLock { state in
            state.deadLettersCountedAt.flatMap { now - $0 < .seconds(Self.secondsBetweenCounts) ? state.deadLetters : nil }
        }
        if let known { return known }
        let counted: [MetricFamily.Sample] = try history.deadLetterCounts().map {
            .init(Double($0.count), MetricFamily.labels(["stream": $0.stream, "reason": $0.kind]))
        }
        state.withLock { state in
            state.deadLetters = counted
            state.deadLettersCountedAt = now
        }
        return counted
    }

    private func sizes() throws -> [MetricFamily] {
        let shards = lookups.store.sizes
        func family(_ name: String, _ help: String, _ value: (Int) -> Int) -> MetricFamily {
            MetricFamily(name, .gauge, help, shards.indices.map { .init(Double(value($0)), MetricFamily.labels(["shard": String($0)])) })
        }
        func bytes(_ path: String) -> Double {
            let attributes = try? FileManager.default.attributesOfItem(atPath: path)
            return ((attributes?[.size] as? NSNumber)?.doubleValue) ?? 0
        }
        let pushed = (try? FileManager.default.contentsOfDirectory(atPath: directory.push)) ?? []
        return [
            family("weir_online_store_used_bytes", "Pages of a shard that are in use.") { shards[$0].usedBytes },
            family("weir_online_store_map_bytes", "Address space of a shard's map; it grows when it is full.") { shards[$0].mapBytes },
            family("weir_online_store_reader_slots", "Places for readers that were ever in use at a time, by all processes.") {
                shards[$0].readerSlotsUsed
            },
            family("weir_online_store_reader_slots_max", "Places for readers that there are.") { shards[$0].readerSlotsMax },
            MetricFamily(
                "weir_history_bytes", .gauge, "Size of the history's file and of its write-ahead log.",
                [
                    .init(bytes(directory.historyPath), MetricFamily.labels(["file": "history.sqlite"])),
                    .init(bytes(directory.historyPath + "-wal"), MetricFamily.labels(["file": "history.sqlite-wal"])),
                ]),
            MetricFamily(
                "weir_push_log_bytes", .gauge, "Size of the log of pushed events; the history has most of it already.",
                pushed.reduce(0) { $0 + bytes(directory.push + "/" + $1) }),
        ]
    }

    private func pipelineMetrics() -> [MetricFamily] {
        guard let pipeline else { return [] }
        let accepted = pipeline.acceptedEvents
        return [
            MetricFamily(
                "weir_accepted_events_total", .counter, "Events that were accepted since the process started.",
                lookups.catalog.streams.map { .init(Double(accepted[$0.name] ?? 0), MetricFamily.labels(["stream": $0.name])) })
        ]
    }

    private func consumerMetrics() throws -> [MetricFamily] {
        guard let consumer else { return [] }
        return [
            MetricFamily(
                "weir_consumer_lag_messages", .gauge, "Messages of a partition that the history does not have yet.",
                try lags(consumer.currentStatus).compactMap { partition, lag in
                    lag.map {
                        .init(
                            Double($0),
                            MetricFamily.labels(["topic": partition.topic, "partition": String(partition.partition)]))
                    }
                })
        ]
    }
}
