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

/// What an evaluation says besides its results.
package struct EvaluationOutcome: Sendable {
    /// Session events that were left out because the store has them.
    package var knownSessionEvents: Int
    /// Whether the entity has events, of those that live.
    package var isKnown: Bool
    /// Microseconds; of the session events that counted.
    package var latestSessionEvent: Int64?
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
        let scratch = EvaluationScratch()
        _ = try evaluate(
            allFeatures, RowsTimeline(rows: EventRows(columns: plan.columns)), asOf: asOf, session: nil, keptFrom: .min, scratch)
        return Evaluation(results: scratch.results, latestEvent: nil, knownSessionEvents: 0, isKnown: false)
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
        try evaluation(try NodeTimeline(view: self, nodes: nodes), asOf: asOf, session: session, keptFrom: keptFrom)
    }

    /// From all rows of the entity that any window at this time can reach, in order.
    package func evaluate(rows: EventRows, asOf: AsOf, session: EventRows?) throws -> Evaluation {
        try evaluation(RowsTimeline(rows: rows), asOf: asOf, session: session, keptFrom: .min)!
    }

    private func evaluation(_ timeline: some Timeline, asOf: AsOf, session: EventRows?, keptFrom: Int64) throws -> Evaluation? {
        let scratch = EvaluationScratch()
        guard let outcome = try evaluate(allFeatures, timeline, asOf: asOf, session: session, keptFrom: keptFrom, scratch) else {
            return nil
        }
        return Evaluation(
            results: scratch.results, latestEvent: try latestEvent(timeline, asOf: asOf, outcome),
            knownSessionEvents: outcome.knownSessionEvents, isKnown: outcome.isKnown)
    }

    /// Some features from the nodes of the online store, into the scratch's results: what a lookup does. It allocates nothing where there is
    /// no session. nil where a window begins before what the store keeps: history has the answer.
    package func evaluate(
        _ features: EvaluationPlan, nodes: any NodeReading, asOf: AsOf, session: EventRows?, keptFrom: Int64, _ scratch: EvaluationScratch
    ) throws -> EvaluationOutcome? {
        try evaluate(features, try NodeTimeline(view: self, nodes: nodes), asOf: asOf, session: session, keptFrom: keptFrom, scratch)
    }

    /// The same from rows.
    ///
    /// - Parameter range: of the rows, those of the entity; nil for all.
    @discardableResult
    package func evaluate(
        _ features: EvaluationPlan, rows: EventRows, range: Range<Int>? = nil, asOf: AsOf, session: EventRows?, _ scratch: EvaluationScratch
    ) throws -> EvaluationOutcome {
        try evaluate(features, RowsTimeline(rows: rows, range: range), asOf: asOf, session: session, keptFrom: .min, scratch)!
    }

    /// The same from rows that the scratch holds. nil where a window begins before what their history keeps: then nobody has the answer.
    ///
    /// - Parameter keptFrom: events before this time may be gone; `Int64.min` where none are.
    package func evaluate(
        _ features: EvaluationPlan, held range: Range<Int>, asOf: AsOf, keptFrom: Int64, _ scratch: EvaluationScratch
    ) throws -> EvaluationOutcome? {
        try evaluate(features, HeldTimeline(scratch: scratch, range: range), asOf: asOf, session: nil, keptFrom: keptFrom, scratch)
    }

    /// The same from rows of a history that events have left. nil where a window begins before what it keeps: then nobody has the answer.
    ///
    /// - Parameter keptFrom: events before this time may be gone; `Int64.min` where none are.
    package func evaluate(
        _ features: EvaluationPlan, rows: EventRows, range: Range<Int>? = nil, asOf: AsOf, session: EventRows?, keptFrom: Int64,
        _ scratch: EvaluationScratch
    ) throws -> EvaluationOutcome? {
        try evaluate(features, RowsTimeline(rows: rows, range: range), asOf: asOf, session: session, keptFrom: keptFrom, scratch)
    }

    /// The time of the latest event that any window could count; nil where there is none.
    ///
    /// - Parameter outcome: of an evaluation with a session; nil: without one.
    package func latestEvent(nodes: any NodeReading, asOf: AsOf, _ outcome: EvaluationOutcome? = nil) throws -> EventTime? {
        try latestEvent(try NodeTimeline(view: self, nodes: nodes), asOf: asOf, outcome)
    }

    func latestEvent(_ timeline: some Timeline, asOf: AsOf, _ outcome: EvaluationOutcome?) throws -> EventTime? {
        var latest = outcome?.latestSessionEvent
        let liveFrom = plan.liveFrom(at: asOf.time)
        try timeline.forEachTimeDescending(before: asOf.end) { time in
            if time >= liveFrom { latest = max(latest ?? .min, time) }
            return false
        }
        return latest.map(EventTime.init(microseconds:))
    }

    /// The earliest event time that can count at this time: the view's windows reach no further, or events live no longer; `Int64.min` where
    /// there is no bound.
    package func earliestReach(asOf: AsOf) -> Int64 {
        let reach = plan.windows.map { $0.bounds(at: asOf.time)?.start.microseconds ?? .min }.min() ?? .min
        return max(reach, plan.liveFrom(at: asOf.time))
    }

    /// The same, and what says that the entity is known.
    package func earliestKnown(asOf: AsOf) -> Int64 {
        let reach = earliestReach(asOf: asOf)
        return plan.knownFrom(at: asOf.time).map { min($0, reach) } ?? reach
    }

    /// The first moment that no window at this time reaches any more.
    package func latestReach(asOf: AsOf) -> Int64 {
        plan.windows.reduce(asOf.end) { $1.kind == .following ? max($0, asOf.time.advanced(by: $1.length ?? 0).microseconds) : $0 }
    }

    /// The values of the features over one window, from exactly its rows, in order. Of a session that is longer than events live only the
    /// end counts, as in a lookup at its end.
    ///
    /// - Parameter end: the window's end, at which they are asked for.
    package func closedValues(window: Int, rows: EventRows, at end: EventTime) throws -> [(name: String, value: FeatureValue)] {
        let features = plan.features(over: window)
        let evaluation = evaluation(of: features)
        let scratch = EvaluationScratch()
        scratch.results = Array(repeating: FeatureResult(.null, .nullValue), count: evaluation.resultCount)
        scratch.rows = [rows]
        scratch.bands = [Band(window: window, start: .min, end: .max, overlayEnd: .max)]
        let live = rows.lowerBound(plan.liveFrom(at: end), in: 0..<rows.count)..<rows.count
        if !live.isEmpty { scratch.add(0, .rows(0), live) }
        try finish(evaluation, at: end, scratch) { _ in true }
        return features.indices.map { (plan.features[features[$0]].name, scratch.results[$0].value) }
    }

    private func evaluate(
        _ features: EvaluationPlan, _ timeline: some Timeline, asOf: AsOf, session: EventRows?, keptFrom: Int64,
        _ scratch: EvaluationScratch
    ) throws -> EvaluationOutcome? {
        let baseTime = try timeline.baseTime
        let liveFrom = plan.liveFrom(at: asOf.time)
        var overlay: EventRows?
        var known = 0
        if let session, !session.isEmpty {
            var rows = EventRows(like: session)
            for row in 0..<session.count where session.times[row] <= asOf.time.microseconds && session.times[row] >= liveFrom {
                let time = session.times[row]
                if let baseTime, time < baseTime {
                    scratch.leaveToHistory(.sessionEvent(before: baseTime))
                    return nil
                }
                let isCopy =
                    try time < asOf.end
                    && session.withID(row) { id in try timeline.contains(time: time, id: id, tag: session.tags[row]) }
                if isCopy { known += 1 } else { rows.append(session, row: row) }
            }
            overlay = rows.deduplicated()
        }

        scratch.rows.removeAll(keepingCapacity: true)
        defer { scratch.rows.removeAll(keepingCapacity: true) }
        scratch.results.removeAll(keepingCapacity: true)
        for _ in 0..<features.resultCount { scratch.results.append(FeatureResult(.null, .nullValue)) }
        var isWithin = true
        try finish(features, at: asOf.time, scratch) { chain in
            guard
                try addBands(
                    chain, timeline, overlay, asOf: asOf, liveFrom: liveFrom, keptFrom: keptFrom, baseTime: baseTime, to: scratch)
            else {
                isWithin = false
                return false
            }
            try timeline.addPieces(to: scratch)
            if let overlay {
                scratch.rows.append(overlay)
                scratch.add(overlay, .rows(scratch.rows.count - 1), areSession: true)
                scratch.sortPieces()
            }
            try scratch.recorder?.record(scratch, overlay: overlay == nil ? nil : scratch.rows.count - 1)
            return true
        }
        guard isWithin else { return nil }
        let knownFrom = plan.knownFrom(at: asOf.time)
        let isKnown = try overlay?.isEmpty == false || isKnown(timeline, asOf: asOf, knownFrom: knownFrom)
        if !isKnown, !timeline.isHistory, let knownFrom, knownFrom < keptFrom {
            scratch.leaveToHistory(.unknownEntity(liveFrom: knownFrom))
            return nil
        }
        // What derived features are computed from was not asked for.
        scratch.results.removeLast(features.resultCount - features.count)
        if !isKnown {
            for index in scratch.results.indices { scratch.results[index].status = .notFound }
        }
        scratch.recorder?.session = session.map { session in
            let later = session.times.count { $0 > asOf.time.microseconds }
            let expired = session.times.count { $0 < liveFrom }
            let counted = overlay?.count ?? 0
            return .init(
                given: session.count, later: later, expired: expired, known: known,
                repeated: session.count - later - expired - known - counted)
        }
        return EvaluationOutcome(knownSessionEvents: known, isKnown: isKnown, latestSessionEvent: overlay?.times.last)
    }

    /// Whether the entity has an event, be it in no window: of those that live, where events do not for ever.
    private func isKnown(_ timeline: some Timeline, asOf: AsOf, knownFrom: Int64?) throws -> Bool {
        guard let knownFrom else { return try timeline.isKnown }
        var isKnown = false
        try timeline.forEachTimeDescending(before: asOf.end) { time in
            isKnown = time >= knownFrom
            return false
        }
        return isKnown
    }

    /// Evaluates chain by chain, then what is derived.
    ///
    /// - Parameter prepare: fills in a chain's bands and pieces; false ends the evaluation.
    private func finish(
        _ features: EvaluationPlan, at time: EventTime, _ scratch: EvaluationScratch, _ prepare: (EvaluationPlan.Chain) throws -> Bool
    ) throws {
        for chain in features.chains {
            guard try prepare(chain) else { return }
            for slot in chain.slots { try slot.evaluate(scratch, plan.columns, runners.count, time) }
        }
        for feature in features.derived {
            let value = feature.compute(feature.inputs.map { scratch.results[$0].value })
            scratch.results[feature.result] = FeatureResult(value, value == .null ? .nullValue : .present)
        }
    }

    /// Cuts time at the starts of a chain's windows. False where one begins before what is kept.
    private func addBands(
        _ chain: EvaluationPlan.Chain, _ timeline: some Timeline, _ overlay: EventRows?, asOf: AsOf, liveFrom: Int64, keptFrom: Int64,
        baseTime: Int64?, to scratch: EvaluationScratch
    ) throws -> Bool {
        scratch.begin()
        var end = asOf.end
        // A session event at exactly the time counts, a stored one does not.
        var overlayEnd = asOf.time.advanced(by: 1).microseconds
        for number in chain.windows {
            let window = plan.windows[number]
            var start: Int64
            if let bounds = window.bounds(at: asOf.time) {
                start = max(bounds.start.microseconds, liveFrom)
                if chain.isClosed {
                    end = bounds.end.microseconds
                    overlayEnd = end
                }
                // Where events of exactly the time count before it, they do not count again behind it.
                if window.kind == .following { start = asOf.end }
                if window.kind == .lifetime, plan.timeToLive == nil {
                    if let baseTime, end < baseTime { return scratch.leaveToHistory(.totals(window: number, before: baseTime)) }
                } else if start < keptFrom {
                    return scratch.leaveToHistory(.window(number, start: start))
                }
            } else {
                let gap = window.length ?? 0
                start = try sessionStart(timeline, overlay, asOf: asOf, liveFrom: liveFrom, gap: gap)
                // An earlier event, which is not kept any more, could belong to the session, or be all of it.
                let earliest = EventTime(microseconds: min(start, asOf.time.microseconds))
                if max(earliest.advanced(by: -gap).microseconds, liveFrom) < keptFrom {
                    return scratch.leaveToHistory(.session(window: number))
                }
            }
            // The latest start first.
            var place = scratch.bands.count
            while place > 0, scratch.bands[place - 1].start < start { place -= 1 }
            scratch.bands.insert(Band(window: number, start: start, end: end, overlayEnd: overlayEnd), at: place)
        }
        for index in scratch.bands.indices.dropFirst() {
            let later = scratch.bands[index - 1]
            let band = scratch.bands[index]
            scratch.bands[index] = Band(
                window: band.window, start: band.start, end: min(later.start, later.end), overlayEnd: min(later.start, later.overlayEnd))
        }
        return true
    }

    /// Where the session that is open at the time began; behind the time asked for where none is open.
    private func sessionStart(
        _ timeline: some Timeline, _ overlay: EventRows?, asOf: AsOf, liveFrom: Int64, gap: Int64
    ) throws -> Int64 {
        var start = asOf.time.advanced(by: 1).microseconds
        // Where the next earlier event may lie at the earliest to belong to the session.
        var reach = max(asOf.time.advanced(by: -gap).microseconds, liveFrom)
        func extend(_ time: Int64) -> Bool {
            guard time >= reach else { return false }
            start = min(start, time)
            reach = max(EventTime(microseconds: start).advanced(by: -gap).microseconds, liveFrom)
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
