import WeirAlgebra
import WeirDefinitions
import WeirRecords

/// Writes down the closed windows of one view: once when the watermark passes them, and again for what comes late.
struct WindowCloser: Sendable {
    let runtime: ViewRuntime
    let policy: ClosedWindowPlan

    /// nil for a view whose windows are not written down.
    init?(_ runtime: ViewRuntime) {
        guard let policy = runtime.plan.closedWindows else { return nil }
        self.runtime = runtime
        self.policy = policy
    }

    func series(_ window: Int) -> WindowSeries {
        WindowSeries(view: runtime.plan.name, window: runtime.plan.windows[window].signature)
    }

    /// Windows that are known to be open and stored, with their events where this process has seen them all: an event that falls into
    /// one changes nothing but its values, and closing one need not ask the history. A cache, shared by the arbiter's copies: a
    /// transaction that fails must clear it.
    final class KnownWindows: @unchecked Sendable {
        // Belongs to the arbiter's thread.
        fileprivate struct Window: Hashable {
            var number: Int
            var start: Int64
            var key: String
        }
        private var windows: [Window: EventRows?] = [:]
        private var rows = 0
        /// The latest event time of the history when this process began: it has seen all events of windows that begin later.
        fileprivate let latestBefore: Int64?

        init(latestBefore: Int64?) { self.latestBefore = latestBefore }

        func forget() {
            windows = [:]
            rows = 0
        }

        /// Remembers an open window.
        ///
        /// - Parameter rows: its events so far; nil where they are not all known.
        fileprivate func insert(_ window: Window, rows new: EventRows?) {
            if windows.count >= Limits.openWindowsRemembered { forget() }
            rows += new?.count ?? 0
            windows.updateValue(new, forKey: window)
        }

        /// Adds an event to a window that is known; false for one that is not.
        fileprivate func add(_ event: ClosableEvent, to window: Window) -> Bool {
            guard let index = windows.index(forKey: window) else { return false }
            guard windows.values[index] != nil else { return true }
            if rows >= Limits.openWindowRowsMax {
                // The history has them.
                for index in windows.indices { windows.values[index] = nil as EventRows? }
                rows = 0
                return true
            }
            event.append(to: &windows.values[index]!)
            rows += 1
            return true
        }

        /// Forgets a window that closes; its events, where they are known.
        fileprivate func take(_ window: Window) -> EventRows? {
            guard let known = windows.removeValue(forKey: window), let taken = known else { return nil }
            rows -= taken.count
            return taken
        }
    }

    /// An accepted event, as a view sees it.
    struct ClosableEvent {
        let batch: PreparedBatch
        /// The view's place among the stream's.
        let position: Int
        let row: Int
        let sequence: Int64
        let hasID: Bool

        fileprivate func append(to rows: inout EventRows) {
            rows.append(batch, view: position, row: row)
            // An event without id has its number as id; the batch gets that when all of it is taken.
            if !hasID { withUnsafeBytes(of: sequence.bigEndian) { rows.ids.replaceLast($0) } }
        }
    }

    // MARK: Events

    struct Added {
        /// How many of its windows it came too late for; they stay as they are.
        var lateWindows = 0
        /// It came too late for all of its windows.
        var isLate = false
        /// When the earliest of the windows that it opened is due.
        var due: Int64?
    }

    /// An event was accepted.
    ///
    /// - Parameter keptFrom: events before it may be gone from the history: windows that need them stay as they are.
    func add(
        _ event: ClosableEvent, key: String, watermark: Int64?, keptFrom: Int64, known: KnownWindows,
        in transaction: some HistoryTransaction
    ) throws -> Added {
        let time = event.batch.times[event.row]
        var added = Added()
        var windows = 0
        var frozen = 0
        for window in policy.windows {
            let isSession = runtime.plan.windows[window].kind == .session
            let touched: [(record: WindowRecord, isStored: Bool)?] =
                isSession
                ? [
                    try session(
                        window, time: time, key: key, watermark: watermark, keptFrom: keptFrom, late: &added.lateWindows, in: transaction)
                ]
                : try runtime.plan.windows[window].windows(containing: EventTime(microseconds: time)).compactMap { bounds in
                    let due = sum(bounds.upperBound, policy.allowedLateness)
                    if policy.emits == .final, due > watermark ?? .min,
                        known.add(event, to: .init(number: window, start: bounds.lowerBound, key: key))
                    {
                        windows += 1
                        added.due = min(added.due ?? .max, due)
                        return nil
                    }
                    return .some(try fixed(window, bounds, key: key, watermark: watermark, keptFrom: keptFrom, in: transaction))
                }
            for item in touched {
                windows += 1
                guard let item else {
                    frozen += 1
                    continue
                }
                var record = item.record
                let isClosed = record.due <= watermark ?? .min
                if isClosed {
                    record.isOpen = false
                    record.revision += 1
                }
                if isClosed || !item.isStored { try transaction.put(record, series(window)) }
                if isClosed {
                    let values = try values(window, record, in: transaction)
                    try transaction.writeClosed(record, series(window), values: values)
                    try emit(window, record, values, in: transaction)
                } else {
                    added.due = min(added.due ?? .max, record.due)
                    if !isSession, policy.emits == .final {
                        var rows: EventRows?
                        if !item.isStored, record.start > known.latestBefore ?? .min {
                            // Its first event.
                            rows = EventRows(columns: runtime.plan.columns)
                            event.append(to: &rows!)
                        }
                        known.insert(.init(number: window, start: record.start, key: key), rows: rows)
                    }
                    if policy.emits == .updates { try emit(window, record, try values(window, record, in: transaction), in: transaction) }
                }
            }
        }
        added.lateWindows += frozen
        added.isLate = windows > 0 && frozen == windows
        return added
    }

    func sum(_ time: Int64, _ duration: Int64) -> Int64 { EventTime(microseconds: time).advanced(by: duration).microseconds }

    private func isFrozen(due: Int64, at watermark: Int64?) -> Bool {
        guard let watermark, let revisionsFor = policy.revisionsFor else { return false }
        let (last, overflow) = due.addingReportingOverflow(revisionsFor)
        return !overflow && last <= watermark
    }

    /// nil where the window changes no more.
    private func fixed(
        _ window: Int, _ bounds: Range<Int64>, key: String, watermark: Int64?, keptFrom: Int64,
        in transaction: some HistoryTransaction
    ) throws -> (record: WindowRecord, isStored: Bool)? {
        let due = sum(bounds.upperBound, policy.allowedLateness)
        if isFrozen(due: due, at: watermark) || bounds.lowerBound < keptFrom { return nil }
        if let record = try transaction.window(series(window), key: key, start: bounds.lowerBound) { return (record, true) }
        return (WindowRecord(key: key, start: bounds.lowerBound, end: bounds.upperBound, due: due, isOpen: true, revision: -1), false)
    }

    /// A session's end is its last event and the gap, so an event at its end still belongs to it. It is closed when the watermark is past
    /// its end: until then an event at the end may come.
    func sessionDue(_ end: Int64) -> Int64 { sum(sum(end, policy.allowedLateness), 1) }

    /// The session that the event is in, joined from those that it touches. nil where it would change no more.
    ///
    /// - Parameter late: counts sessions that it touches and that stay as they are, though it is in another one.
    private func session(
        _ window: Int, time: Int64, key: String, watermark: Int64?, keptFrom: Int64, late: inout Int,
        in transaction: some HistoryTransaction
    ) throws -> (record: WindowRecord, isStored: Bool)? {
        let gap = runtime.plan.windows[window].length ?? 0
        let end = sum(time, gap)
        var joined = WindowRecord(key: key, start: time, end: end, due: sessionDue(end), isOpen: true, revision: -1)
        let all = try transaction.windows(series(window), key: key, from: time, through: end)
        let touched = all.filter { record in
            let firstCounted = max(record.start, runtime.plan.liveFrom(at: EventTime(microseconds: record.end)))
            return !isFrozen(due: record.due, at: watermark) && firstCounted >= keptFrom
        }
        for record in touched {
            joined.start = min(joined.start, record.start)
            joined.end = max(joined.end, record.end)
            joined.revision = max(joined.revision, record.revision)
        }
        joined.due = sessionDue(joined.end)
        if touched.isEmpty, isFrozen(due: joined.due, at: watermark) { return nil }
        late += all.count - touched.count
        for record in touched where record.start != joined.start || record.end != joined.end {
            try transaction.remove(record, series(window))
            if policy.emits == .updates { try emit(window, record, nil, in: transaction) }
            guard !record.isOpen else { continue }
            // It was written as closed, and there is no such session any more.
            var retracted = record
            retracted.revision += 1
            joined.revision = max(joined.revision, retracted.revision)
            try transaction.writeClosed(retracted, series(window), values: nil)
        }
        return (joined, touched.contains(joined))
    }

    // MARK: Closing

    private static let windowsAtOnce = 1_024

    /// Closes what is due. Returns when the next window is.
    func close(at watermark: Int64, known: KnownWindows, in transaction: some HistoryTransaction) throws -> Int64? {
        var next: Int64?
        for window in policy.windows {
            let series = series(window)
            while true {
                let due = try transaction.dueWindows(series, at: watermark, limit: Self.windowsAtOnce)
                for var record in due {
                    record.isOpen = false
                    record.revision += 1
                    try transaction.put(record, series)
                    let rows = known.take(.init(number: window, start: record.start, key: record.key))
                    let values = try values(window, record, rows: rows?.sorted(), in: transaction)
                    try transaction.writeClosed(record, series, values: values)
                    if policy.emits == .final { try emit(window, record, values, in: transaction) }
                }
                if due.count < Self.windowsAtOnce { break }
            }
            if let due = try transaction.nextDue(series) { next = min(next ?? .max, due) }
        }
        return next
    }

    // MARK: Values

    /// Behind a session's last event there is none of its own.
    func rowsEnd(_ window: Int, _ record: WindowRecord) -> Int64 {
        let definition = runtime.plan.windows[window]
        return definition.kind == .session ? sum(sum(record.end, -(definition.length ?? 0)), 1) : record.end
    }

    /// - Parameter rows: the window's events, in order; nil reads them from the history.
    func values(
        _ window: Int, _ record: WindowRecord, rows: EventRows? = nil, in transaction: some HistoryTransaction
    ) throws -> String {
        let rows =
            try rows ?? transaction.rows(of: runtime.plan, key: record.key, from: record.start, to: rowsEnd(window, record))
        let values = try runtime.closedValues(window: window, rows: rows, at: EventTime(microseconds: record.end))
        return "{" + values.map { "\"\($0.name)\":\($0.value.json)" }.joined(separator: ",") + "}"
    }

    private func emit(
        _ window: Int, _ record: WindowRecord, _ values: String?, in transaction: some HistoryTransaction
    ) throws {
        guard let topic = policy.topic, policy.emits == .updates || record.revision == 0 else { return }
        try transaction.output(OutputRecord(topic: topic, key: record.key, value: output(window, record, values)))
    }

    /// What a topic is told of a window.
    func output(_ window: Int, _ record: WindowRecord, _ values: String?) -> String {
        """
        \(outputBeginning(window, key: record.key))\(TimeText.format(EventTime(microseconds: record.start)))\(Self.outputEnd)\
        \(TimeText.format(EventTime(microseconds: record.end)))","is_final":\(!record.isOpen),\
        "revision":\(max(record.revision, 0)),\(values.map { "\"features\":\($0)}" } ?? outputWithoutValues)
        """
    }

    /// The part of it that names the windows of an entity.
    func outputBeginning(_ window: Int, key: String) -> String {
        """
        {"view":"\(runtime.plan.name)","entity_key":\(FeatureValue.string(key).json),\
        "window":"\(runtime.plan.windows[window].signature)",\(Self.outputStart)
        """
    }

    private static let outputStart = "\"window_start\":\""
    private static let outputEnd = "\",\"window_end\":\""

    /// How it ends where a session has become part of another.
    var outputWithoutValues: String { "\"features\":null}" }

    /// A window's bounds in what a topic is told of it.
    func outputBounds(_ output: String) -> (start: Int64, end: Int64)? {
        func time(behind mark: String) -> Int64? {
            guard let range = output.firstRange(of: mark) else { return nil }
            return try? TimeText.parse(String(output[range.upperBound...].prefix { $0 != "\"" })).microseconds
        }
        guard let start = time(behind: Self.outputStart), let end = time(behind: Self.outputEnd) else { return nil }
        return (start, end)
    }
}
