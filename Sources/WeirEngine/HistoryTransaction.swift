import WeirDefinitions

/// What became of an event that was to be appended to the history.
package enum Insertion: Sendable, Hashable {
    case accepted
    /// The history has the event.
    case duplicate
    /// The history has another event of the same identity.
    case conflict
}

/// Something that came in and cannot be used.
package struct DeadLetter: Sendable, Hashable {
    package enum Kind: String, Sendable, CaseIterable {
        case malformed
        case conflictingDuplicate = "conflicting duplicate"
        case tooLate = "too late"
        case aheadOfTime = "ahead of time"
    }
    package var kind: Kind
    package var reason: String
    package var source: SourcePart
    package var offset: Int64
    package var ingestTime: Int64
    package var raw: [UInt8]
    package var encoding: RecordEncoding
}

/// The windows of one length and kind that a view has.
package struct WindowSeries: Sendable, Hashable {
    package let view: String
    /// The window's signature.
    package let window: String

    package init(view: String, window: String) {
        self.view = view
        self.window = window
    }
}

/// One entity's window that is open, or has been closed.
package struct WindowRecord: Sendable, Hashable {
    package var key: String
    package var start: Int64
    /// The first moment behind the window; a session's is its last event and the gap.
    package var end: Int64
    /// The watermark at which it closes.
    package var due: Int64
    package var isOpen: Bool
    /// The last one that was written; −1 before any.
    package var revision: Int64

    package init(key: String, start: Int64, end: Int64, due: Int64, isOpen: Bool, revision: Int64) {
        self.key = key
        self.start = start
        self.end = end
        self.due = due
        self.isOpen = isOpen
        self.revision = revision
    }
}

/// A record for an output topic.
package struct OutputRecord: Sendable, Hashable {
    package var topic: String
    package var key: String
    package var value: String

    package init(topic: String, key: String, value: String) {
        self.topic = topic
        self.key = key
        self.value = value
    }
}

/// One transaction of the history, as the arbiter needs it: SQLite in production, memory in the simulation. All of it is
/// committed, or none.
package protocol HistoryTransaction {
    /// Appends an event unless one of the same identity is there.
    func insert(
        _ batch: PreparedBatch, row: Int, sequence: Int64, ingestTime: Int64, from incoming: IncomingBatch
    ) throws -> Insertion
    /// The accepted events of one entity with event times in `[start, end)`, in order; those of this transaction too.
    func rows(of view: ViewPlan, key: String, from start: Int64, to end: Int64) throws -> EventRows
    /// The latest event time of an entity; those of this transaction too. nil for an entity without events.
    func latestTime(of view: ViewPlan, key: String) throws -> Int64?
    func add(_ letter: DeadLetter) throws
    /// Adds to a counter.
    func count(_ name: String, stream: String, by amount: Int) throws
    /// Everything of the source before `position` is dealt with.
    func setPosition(_ source: SourcePart, _ position: Int64, detail: [UInt8]?, watermark: Int64?) throws
    func setWatermark(_ watermark: Int64, stream: String) throws
    /// Events of the stream before this time no longer count, and may be deleted.
    func setKeptFrom(_ time: Int64, stream: String) throws

    func window(_ series: WindowSeries, key: String, start: Int64) throws -> WindowRecord?
    /// The windows of an entity that begin at or before `last` and end at or behind `first`, by start.
    func windows(_ series: WindowSeries, key: String, from first: Int64, through last: Int64) throws -> [WindowRecord]
    func put(_ record: WindowRecord, _ series: WindowSeries) throws
    func remove(_ record: WindowRecord, _ series: WindowSeries) throws
    /// Open windows that are due at a watermark, by due time, then end, then key.
    func dueWindows(_ series: WindowSeries, at watermark: Int64, limit: Int) throws -> [WindowRecord]
    /// When the next open window is due; nil where none is open.
    func nextDue(_ series: WindowSeries) throws -> Int64?
    /// Writes a revision of a closed window.
    ///
    /// - Parameter values: JSON, feature to value; nil takes the window back: it has become part of another session.
    func writeClosed(_ record: WindowRecord, _ series: WindowSeries, values: String?) throws
    func output(_ record: OutputRecord) throws
}
