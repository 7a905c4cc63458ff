/// Every bound in one place. What passes one is refused with a message that names it; nothing is cut silently.
package enum Limits {
    /// Bytes of an entity key's canonical text: LMDB keys have 511 bytes in all.
    package static let keyBytesMax = 400
    /// Bytes of one event's or request's text.
    package static let recordBytesMax = 1 << 20
    /// Bytes of a quoted CSV field, across lines.
    package static let csvRecordBytesMax = 64 << 10
    /// Events of one request or one server-held session.
    package static let sessionEventsMax = 10_000
    /// Sessions that the server holds at a time.
    package static let sessionsMax = 1_000_000
    /// Events that one leaf of an entity's time tree holds before it splits (one microsecond's events stay together).
    package static let leafRowsMax = 128
    /// Hopping windows that one event is in, where a view has its closed windows written down.
    package static let windowsPerEventMax: Int64 = 1_000
    /// Microseconds that an event may be ahead of its ingest time and still move its stream's watermark, where the stream declares no
    /// `maxAhead`.
    package static let watermarkAheadMax: Int64 = 86_400_000_000
    /// Events that wait for the history, and that wait for each shard, until their sources wait too (and one batch more).
    package static let queuedEventsMax = 16_384
    /// Events below which a transaction of the history takes a further batch.
    package static let eventsPerTransactionMax = 32_768
    /// Rows (an event is one in each view) below which a transaction of a shard takes a further batch. Each may make a page of LMDB's
    /// dirty, which stays in memory until the commit.
    package static let rowsPerShardTransactionMax = 8_192
    /// Windows that a view's closer remembers to be open, so that it need not ask for them with every event.
    package static let openWindowsRemembered = 65_536
    /// Requests of one FEATURES.GET.
    package static let requestsPerCommandMax = 10_000
}
