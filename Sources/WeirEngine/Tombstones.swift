import WeirDefinitions

/// Which entities were erased, and up to where of each source their events stay out.
package struct Tombstones: Sendable {
    /// One erased entity, known by a keyed hash alone.
    package struct Tombstone: Sendable {
        package var entity: String
        package var keyHash: [UInt8]
        /// How far each source was read at the erasure: what stands before that is older than it.
        package var positions: [SourcePart: Int64]
        /// Dead letters before this number are older than it.
        package var letters: Int64
        /// For each stream the event time up to which an event is older than the erasure where it comes from a source that was not known
        /// then; streams without events have none.
        package var latestEventTimes: [String: Int64]

        package init(
            entity: String, keyHash: [UInt8], positions: [SourcePart: Int64], letters: Int64, latestEventTimes: [String: Int64]
        ) {
            self.entity = entity
            self.keyHash = keyHash
            self.positions = positions
            self.letters = letters
            self.latestEventTimes = latestEventTimes
        }

        /// What of a source is older than the erasure.
        fileprivate enum Before {
            case none
            case offset(Int64)
            case time(Int64)
        }

        fileprivate func before(_ source: SourcePart) -> Before {
            if source.kind == .retry { return .offset(letters) }
            if let position = positions[source] { return .offset(position) }
            switch source.kind {
            // What is pushed for the first time is pushed now.
            case .push, .retry: return .none
            // A partition that appears in a topic that was read has nothing from before.
            case .kafka where positions.keys.contains { $0.kind == .kafka && $0.name == source.name && $0.stream == source.stream }:
                return .none
            case .kafka, .file: return latestEventTimes[source.stream].map { .time($0) } ?? .none
            }
        }
    }

    /// By entity and keyed hash.
    private let tombstones: [String: [[UInt8]: [Tombstone]]]
    private let hash: @Sendable (_ entity: String, _ key: UnsafeRawBufferPointer) -> [UInt8]

    /// - Parameter hash: the keyed hash of an entity's canonical key.
    package init(_ tombstones: [Tombstone], hash: @escaping @Sendable (_ entity: String, _ key: UnsafeRawBufferPointer) -> [UInt8]) {
        self.tombstones = Dictionary(grouping: tombstones, by: \.entity).mapValues { Dictionary(grouping: $0, by: \.keyHash) }
        self.hash = hash
    }

    /// The events of a batch that stay out: those of an erased entity that are older than its erasure. Looks at no key where a source is
    /// read on from behind all erasures.
    package func withheld(_ incoming: IncomingBatch, of stream: any StreamPlan) -> Set<Int> {
        var withheld: Set<Int> = []
        let batch = incoming.batch
        for (position, view) in stream.views.enumerated() {
            guard let erased = tombstones[view.entity] else { continue }
            let before = erased.mapValues { $0.map { $0.before(incoming.source) } }
            var offsetEnd = Int64.min
            var latest: Int64?
            for limit in before.values.joined() {
                switch limit {
                case .none: break
                case .offset(let end): offsetEnd = max(offsetEnd, end)
                case .time(let time): latest = max(latest ?? .min, time)
                }
            }
            for row in 0..<batch.count where !batch.views[position].keys.isNull(row) {
                let offset = batch.records.rows[batch.recordRows[row]].offset
                let time = batch.times[row]
                // Older than some erasure: then it is worth a look whose it is.
                guard offset < offsetEnd || latest.map({ time <= $0 }) ?? false else { continue }
                let limits = before[batch.views[position].keys.withText(row) { hash(view.entity, $0) }] ?? []
                let isOlder = limits.contains { limit in
                    switch limit {
                    case .none: false
                    case .offset(let end): offset < end
                    case .time(let latest): time <= latest
                    }
                }
                if isOlder { withheld.insert(row) }
            }
        }
        return withheld
    }
}
