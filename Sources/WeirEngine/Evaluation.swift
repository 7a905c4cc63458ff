import WeirAlgebra
import WeirDefinitions

/// The time that values are asked for.
package struct AsOf: Sendable, Hashable {
    package var time: EventTime
    /// Also counts events at exactly `time`.
    package var isInclusive: Bool

    package init(_ time: EventTime, isInclusive: Bool = false) {
        self.time = time
        self.isInclusive = isInclusive
    }

    /// The first moment that no longer counts.
    package var end: Int64 { isInclusive ? time.advanced(by: 1).microseconds : time.microseconds }
}

/// All features of one view for one entity at one time.
package struct Evaluation: Sendable {
    /// In the order of the view's features.
    package var results: [FeatureResult]
    /// The time of the latest event that any window could count; nil where there is none.
    package var latestEvent: EventTime?
    /// Session events that were left out because the store has them.
    package var knownSessionEvents: Int
    package var isKnown: Bool
}

extension ViewRuntime {
    /// The time of a leaf's or head record's first event; nil for a tile.
    package func firstTime(ofNode bytes: UnsafeRawBufferPointer) throws(FormatError) -> Int64? {
        guard bytes.first != nodeKindTile else { return nil }
        if bytes.first == nodeKindHead { return try HeadView(bytes, columns: plan.columns).leaf?.time(0) }
        let leaf = try LeafView(bytes, columns: plan.columns)
        return leaf.count > 0 ? leaf.time(0) : nil
    }

    package enum Expiry {
        case keep, drop
        /// Something of the node stays, or goes into the base record: `TimeTree.expire` does that.
        case part
    }

    /// What becomes of a node when events before `horizon` go.
    package func expiry(ofNode bytes: UnsafeRawBufferPointer, before horizon: Int64) throws(FormatError) -> Expiry {
        guard bytes.first == nodeKindLeaf else { return .part }
        guard let (first, last) = try LeafView.times(of: bytes) else { return .part }
        if first >= horizon { return .keep }
        return last < horizon && !plan.hasLifetimeWindow ? .drop : .part
    }

    /// Whether a head record stays as it is when events before `horizon` go.
    package func keepsHead(_ bytes: UnsafeRawBufferPointer, after horizon: Int64) throws(FormatError) -> Bool {
        // One without events says that there is a tree, which may have gone.
        guard let leaf = try HeadView(bytes, columns: plan.columns).leaf else { return false }
        return leaf.time(0) >= horizon
    }

    /// The values of an entity that has no events, or no key.
    package func emptyEvaluation(asOf: AsOf) throws -> Evaluation {
        var evaluation = try evaluate(RowsTimeline(rows: EventRows(columns: plan.columns)), asOf: asOf, session: nil, keptFrom: .min)!
        evaluation.results = evaluation.results.map { FeatureResult($0.value, .notFound) }
        return evaluation
    }

    /// From the nodes of the online store. nil where a window begins before what the store keeps: history has the answer.
    ///
    /// - Parameters:
    ///   - session: the session's events for this entity, in order. Those at or before the time count, also one at exactly
    ///     the time; those whose copy the store counts are left out.
    ///   - keptFrom: events before this time may have expired; `Int64.min` where none did.
    package func evaluate(
        nodes: any NodeReading, asOf: AsOf, session: EventRows?, keptFrom: Int64
    ) throws -> Evaluation? {
        try evaluate(try NodeTimeline(view: self, nodes: nodes), asOf: asOf, session: session, keptFrom: keptFrom)
    }

    /// From all rows of the entity that any window at this time can reach, in order.
    package func evaluate(rows: EventRows, asOf: AsOf, session: EventRows?) throws -> Evaluation {
        try evaluate(RowsTimeline(rows: rows), asOf: asOf, session: session, keptFrom: .min)!
    }

    /// The earliest event time that the view's windows can reach at this time; `Int64.min` where there is no bound.
    package func earliestReach(asOf: AsOf) -> Int64 {
        plan.windows.map { $0.bounds(at: asOf.time)?.start.microseconds ?? .min }.min() ?? .min
    }

    /// The values of the features over one window, from exactly its rows, in order.
    ///
    /// - Parameter end: the window's end, at which they are asked for.
    package func closedValues(window: Int, rows: EventRows, at end: EventTime) throws -> [(name: String, value: FeatureValue)] {
        var results = Array(repeating: FeatureResult(.null, .nullValue), count: plan.features.count)
        for group in groups where group.window == window { try group.evaluate([.rows(rows, 0..<rows.count)], at: end, into: &results) }
        return plan.features(over: window).map { number in
            if case .derived(let inputs, let compute) = plan.features[number].computation {
                results[number].value = compute(inputs.map { results[$0].value })
            }
            return (plan.features[number].name, results[number].value)
        }
    }

    private func evaluate(
        _ timeline: some Timeline, asOf: AsOf, session: EventRows?, keptFrom: Int64
    ) throws -> Evaluation? {
        let baseTime = try timeline.baseTime
        var overlay: EventRows?
        var known = 0
        if let session, !session.isEmpty {
            var rows = EventRows(like: session)
            for row in 0..<session.count where session.times[row] <= asOf.time.microseconds {
                let time = session.times[row]
                if let baseTime, time < baseTime { return nil }
                let isCopy =
                    try time < asOf.end
                    && session.withID(row) { id in try timeline.contains(time: time, id: id, tag: session.tags[row]) }
                if isCopy { known += 1 } else { rows.append(session, row: row) }
            }
            overlay = rows.deduplicated()
        }

        var selections: [[Segment]] = []
        selections.reserveCapacity(plan.windows.count)
        for window in plan.windows {
            var start: Int64
            var end: Int64
            // A session event at exactly the time counts, a stored one does not.
            var overlayEnd = asOf.time.advanced(by: 1).microseconds
            if let bounds = window.bounds(at: asOf.time) {
                start = bounds.start.microseconds
                end = window.isClosed ? bounds.end.microseconds : asOf.end
                if window.isClosed { overlayEnd = end }
                if window.kind == .lifetime {
                    if let baseTime, end < baseTime { return nil }
                } else if start < keptFrom {
                    return nil
                }
            } else {
                end = asOf.end
                let gap = window.length ?? 0
                start = try sessionStart(timeline, overlay, asOf: asOf, gap: gap)
                // An earlier event, which is not kept any more, could belong to the session, or be all of it.
                let earliest = EventTime(microseconds: min(start, asOf.time.microseconds))
                if earliest.advanced(by: -gap).microseconds < keptFrom { return nil }
            }
            end = max(start, end)
            var segments = try timeline.segments(from: start, to: end)
            if let overlay { segments += RowsTimeline(rows: overlay).segments(from: start, to: max(start, overlayEnd)) }
            selections.append(segments)
        }

        var results = Array(repeating: FeatureResult(.null, .nullValue), count: plan.features.count)
        for group in groups { try group.evaluate(selections[group.window], at: asOf.time, into: &results) }
        for (index, feature) in plan.features.enumerated() {
            if case .derived(let inputs, let compute) = feature.computation {
                let value = compute(inputs.map { results[$0].value })
                results[index] = FeatureResult(value, value == .null ? .nullValue : .present)
            }
        }

        let isKnown = try timeline.isKnown || overlay?.isEmpty == false
        if !isKnown { results = results.map { FeatureResult($0.value, .notFound) } }
        var latest = overlay?.times.last
        try timeline.forEachTimeDescending(before: asOf.end) { time in
            latest = max(latest ?? .min, time)
            return false
        }
        return Evaluation(
            results: results, latestEvent: latest.map(EventTime.init(microseconds:)), knownSessionEvents: known, isKnown: isKnown)
    }

    /// Where the session that is open at the time began; behind the time asked for where none is open.
    private func sessionStart(
        _ timeline: some Timeline, _ overlay: EventRows?, asOf: AsOf, gap: Int64
    ) throws -> Int64 {
        var start = asOf.time.advanced(by: 1).microseconds
        // Where the next earlier event may lie at the earliest to belong to the session.
        var reach = asOf.time.advanced(by: -gap).microseconds
        func extend(_ time: Int64) -> Bool {
            guard time >= reach else { return false }
            start = min(start, time)
            reach = EventTime(microseconds: start).advanced(by: -gap).microseconds
            return true
        }
        var pending = (overlay?.times ?? [])[...]
        try timeline.forEachTimeDescending(before: asOf.end) { time in
            while let last = pending.last, last >= time {
                pending.removeLast()
                if !extend(last) { return false }
            }
            return extend(time)
        }
        while let last = pending.popLast(), extend(last) {}
        return start
    }
}

extension Window {
    fileprivate var isClosed: Bool { kind == .tumbling(closed: true) }
}
