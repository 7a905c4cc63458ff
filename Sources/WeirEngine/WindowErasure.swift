import WeirAlgebra
import WeirDefinitions

/// What an erasure needs of the history's transaction beside what events do.
package protocol ErasureTransaction: HistoryTransaction {
    /// Deletes the revisions with values of an entity's closed windows that begin at or before a time, and end at or behind another.
    func removeRevisions(_ series: WindowSeries, key: String, from last: Int64, through first: Int64) throws
    /// Records on their way to a topic, by number.
    func waitingOutputs(topic: String, key: String) throws -> [(number: Int64, value: String)]
    /// Gives a record on its way another value; nil takes it back. Its number stays what it is: a topic that has it already, which the
    /// history has not heard of yet, does not get it twice.
    func replaceOutput(_ number: Int64, value: String?) throws
}

extension WindowCloser {
    /// Says anew what was said of windows of an entity that lost events to another one's erasure. The events are gone from the history.
    ///
    /// All that was written of such a window goes, since its values may show what was erased; what is left is written as the next
    /// revision, without values where nothing is. A session may become shorter, or several.
    ///
    /// - Parameters:
    ///   - times: of the erased events.
    ///   - keptFrom: what other events of a window that begins earlier were cannot be said any more: it is left without values.
    /// - Returns: how many windows changed.
    func erase(_ times: [Int64], key: String, keptFrom: Int64, in transaction: some ErasureTransaction) throws -> Int {
        var changed = 0
        let times = times.sorted()
        for window in policy.windows {
            var touched: [Int64: WindowRecord] = [:]
            for time in times {
                for record in try stored(window, containing: time, key: key, in: transaction) { touched[record.start] = record }
                // Also of sessions that have become part of another since.
                try transaction.removeRevisions(
                    series(window), key: key, from: time, through: sum(time, endOffset(window)))
            }
            var waiting = try self.waiting(window, containing: times, key: key, in: transaction)
            if policy.emits == .updates {
                // What windows have now comes behind all of them.
                for output in waiting { try transaction.replaceOutput(output.number, value: nil) }
                waiting = []
            }
            for record in touched.values.sorted(by: { $0.start < $1.start }) {
                try rewrite(window, record, &waiting, keptFrom: keptFrom, in: transaction)
                changed += 1
            }
            // A session that has become part of another since.
            for output in waiting { try rewrite(output, window, key: key, keptFrom: keptFrom, in: transaction) }
        }
        return changed
    }

    /// How far behind an event its window ends, at least.
    private func endOffset(_ window: Int) -> Int64 {
        let definition = runtime.plan.windows[window]
        return definition.kind == .session ? definition.length ?? 0 : 1
    }

    private func stored(
        _ window: Int, containing time: Int64, key: String, in transaction: some ErasureTransaction
    ) throws -> [WindowRecord] {
        let definition = runtime.plan.windows[window]
        if definition.kind == .session {
            return try transaction.windows(series(window), key: key, from: sum(time, endOffset(window)), through: time)
        }
        return try definition.windows(containing: EventTime(microseconds: time)).compactMap {
            try transaction.window(series(window), key: key, start: $0.lowerBound)
        }
    }

    /// A record on its way that shows what an erased event had part in.
    private struct Waiting {
        var number: Int64
        var start: Int64
        var end: Int64
    }

    private func waiting(
        _ window: Int, containing times: [Int64], key: String, in transaction: some ErasureTransaction
    ) throws -> [Waiting] {
        guard let topic = policy.topic else { return [] }
        let beginning = outputBeginning(window, key: key)
        return try transaction.waitingOutputs(topic: topic, key: key).compactMap { number, value in
            guard value.hasPrefix(beginning), !value.hasSuffix(outputWithoutValues), let bounds = outputBounds(value) else { return nil }
            let last = sum(bounds.end, -endOffset(window))
            guard times.contains(where: { bounds.start <= $0 && $0 <= last }) else { return nil }
            return Waiting(number: number, start: bounds.start, end: bounds.end)
        }
    }

    private func rewrite(
        _ window: Int, _ old: WindowRecord, _ waiting: inout [Waiting], keptFrom: Int64, in transaction: some ErasureTransaction
    ) throws {
        let series = series(window)
        let gap = runtime.plan.windows[window].kind == .session ? runtime.plan.windows[window].length ?? 0 : nil
        let rows = try rowsLeft(window, old, keptFrom: keptFrom, in: transaction)
        var own = waiting.filter { $0.start == old.start && $0.end == old.end }.map(\.number)
        waiting.removeAll { $0.start == old.start && $0.end == old.end }
        let wasWaiting = !own.isEmpty
        /// Writes down a window that is left, and tells the topic where that was, or would have been, told of the old one.
        func write(_ record: WindowRecord) throws {
            try transaction.put(record, series)
            let values = try values(window, record, in: transaction)
            if !record.isOpen { try transaction.writeClosed(record, series, values: values) }
            guard let topic = policy.topic else { return }
            if policy.emits == .updates {
                try transaction.output(OutputRecord(topic: topic, key: record.key, value: output(window, record, values)))
            } else if !record.isOpen, wasWaiting {
                // The topic has not been told of it yet: it gets the first revision as it is now.
                var first = record
                first.revision = 0
                let value = output(window, first, values)
                if let number = own.popLast() {
                    try transaction.replaceOutput(number, value: value)
                } else {
                    try transaction.output(OutputRecord(topic: topic, key: record.key, value: value))
                }
            }
        }
        let parts = gap.map { sessions(rows.times, gap: $0, of: old) } ?? (rows.isEmpty ? [] : [old])
        if parts.count == 1, parts[0].start == old.start, parts[0].end == old.end {
            var record = old
            if !old.isOpen { record.revision += 1 }
            try write(record)
        } else {
            var gone = old
            if !old.isOpen {
                gone.revision += 1
                try transaction.writeClosed(gone, series, values: nil)
            }
            if gap == nil, !old.isOpen {
                // An event that comes late goes on behind its revisions.
                try transaction.put(gone, series)
            } else {
                try transaction.remove(old, series)
            }
            if policy.emits == .updates, let topic = policy.topic {
                try transaction.output(OutputRecord(topic: topic, key: old.key, value: output(window, gone, nil)))
            }
            for part in parts {
                var record = part
                record.revision = old.isOpen ? -1 : gone.revision + 1
                try write(record)
            }
        }
        for number in own { try transaction.replaceOutput(number, value: nil) }
    }

    /// What a window still has; nothing where a part of it has left the history.
    private func rowsLeft(
        _ window: Int, _ record: WindowRecord, keptFrom: Int64, in transaction: some ErasureTransaction
    ) throws -> EventRows {
        if record.start < keptFrom { return EventRows(columns: runtime.plan.columns) }
        return try transaction.rows(of: runtime.plan, key: record.key, from: record.start, to: rowsEnd(window, record))
    }

    /// Gives a record of a window that is none any more the values that are left of it.
    private func rewrite(
        _ waiting: Waiting, _ window: Int, key: String, keptFrom: Int64, in transaction: some ErasureTransaction
    ) throws {
        let record = WindowRecord(key: key, start: waiting.start, end: waiting.end, due: 0, isOpen: false, revision: 0)
        let rows = try rowsLeft(window, record, keptFrom: keptFrom, in: transaction)
        let value = rows.isEmpty ? nil : output(window, record, try values(window, record, rows: rows, in: transaction))
        try transaction.replaceOutput(waiting.number, value: value)
    }

    /// The sessions that events make, open or closed as the one that they were.
    private func sessions(_ times: [Int64], gap: Int64, of old: WindowRecord) -> [WindowRecord] {
        var found: [WindowRecord] = []
        for time in times {
            let end = sum(time, gap)
            if let last = found.last, time <= last.end {
                found[found.count - 1].end = end
            } else {
                found.append(WindowRecord(key: old.key, start: time, end: end, due: 0, isOpen: old.isOpen, revision: old.revision))
            }
        }
        for index in found.indices { found[index].due = sessionDue(found[index].end) }
        return found
    }
}
