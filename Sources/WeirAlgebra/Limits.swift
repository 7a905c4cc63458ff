/// Every bound in one place. What passes one is refused with a message that names it; nothing is cut silently.
public enum Limits {
    /// Bytes of an entity key's canonical text: LMDB keys have 511 bytes in all.
    public static let keyBytesMax = 400
    /// Bytes of one event's or request's text.
    public static let recordBytesMax = 1 << 20
    /// Bytes of a quoted CSV field, across lines.
    public static let csvRecordBytesMax = 64 << 10
    /// Bytes of one push.
    public static let pushBytesMax = 64 << 20
    /// Values that `first(n, …)`, `last(n, …)` and `topK(k, …)` keep at most.
    public static let listLengthMax = 10_000
    /// Different values that a distinct count keeps one by one, unless `exactUpTo:` says otherwise; beyond it estimates.
    public static let exactDistinct = 512
    /// Different values that top-K and histogram keep, unless `limit:` says otherwise; beyond it they are null with status LIMIT.
    public static let valueCounts = 1_000
    /// Events of one request or one server-held session.
    public static let sessionEventsMax = 10_000
    /// Sessions that the server holds at a time.
    public static let sessionsMax = 1_000_000
    /// Events that one leaf of an entity's time tree holds before it splits (one microsecond's events stay together).
    public static let leafRowsMax = 128
    /// Events that an entity's head record holds before they go into its time tree.
    public static let headRowsMax = 64
    /// Bytes of a head record: each one that a transaction writes makes its page dirty, so that small ones keep memory small.
    public static let headBytesMax = 1_024
    /// Hopping windows that one event is in, where a view has its closed windows written down.
    public static let windowsPerEventMax: Int64 = 1_000
    /// Microseconds that an event may be ahead of its ingest time and still move its stream's watermark, where the stream declares no
    /// `maxAhead`.
    public static let watermarkAheadMax: Int64 = 86_400_000_000
    /// Events that wait for the history until their sources wait too (and one batch more). A batch costs 64 more, malformed records
    /// cost as much as events, and so do each `bytesPerQueuedEvent` of text: what waits has at most 8 MiB of it.
    public static let queuedEventsMax = 16_384
    /// Rows (an event is one in each view) that wait for a shard until the history waits too; counted in the same way.
    public static let queuedRowsMax = 49_152
    /// Bytes of text that cost as much in a queue as an event.
    public static let bytesPerQueuedEvent = 512
    /// Events, counted as in the queue, below which a transaction of the history takes a further batch.
    public static let eventsPerTransactionMax = 16_384
    /// Events that a shard's transaction takes while it catches up with the history.
    public static let eventsPerCatchUp: Int64 = 32_768
    /// Bytes that are read of a file at a time, and records of a batch of it.
    public static let fileChunkBytes = 4 << 20
    public static let recordsPerFileBatch = 4_096
    /// Output records of one transaction of their topics.
    public static let outputRecordsPerTransaction = 1_000
    /// Bytes of the segments' Bloom filters that a connection to the history keeps in memory.
    public static let identityFilterBytesMax = 64 << 20
    /// Seconds after which the push log lets go of what the history has.
    public static let pushTrimSeconds = 5.0
    /// Rows (an event is one in each view) below which a transaction of a shard takes a further batch. Each may make a page of LMDB's
    /// dirty, which stays in memory until the commit.
    public static let rowsPerShardTransactionMax = 49_152
    /// Microseconds that a shard waits for so many, while much comes.
    public static let shardWaitMax: Int64 = 500_000
    /// Rows of a stream's log from which on its end is put in the order of entities, and of each such segment.
    public static let segmentRows = 49_152
    /// Bytes of records in such a segment: one of large records has fewer rows.
    public static let segmentBytesMax = 4 << 20
    /// Windows that a view's closer remembers to be open, so that it need not ask for them with every event.
    public static let openWindowsRemembered = 65_536
    /// Events of open windows that a view's closer keeps in memory; those of others it reads from the history when they close.
    public static let openWindowRowsMax = 131_072
    /// Connections to the lookups' port.
    public static let connectionsMax = 10_000
    /// Connections to the HTTP port.
    public static let httpConnectionsMax = 1_000
    /// Arguments of a command, bytes of one of them, and of all.
    public static let commandArgumentsMax = 100_000
    public static let commandArgumentBytesMax = 16 << 20
    public static let commandBytesMax = 64 << 20
    /// Bytes of an inline command.
    public static let inlineCommandBytesMax = 64 << 10
    /// Seconds in which a client must have finished its TLS handshake and said who it is.
    public static let handshakeSecondsMax: Int64 = 10
    /// Seconds for which a client may leave replies untaken.
    public static let slowReaderSecondsMax: Int64 = 60
    /// Bytes of replies that wait for one client.
    public static let outputBytesMax = 256 << 20
    /// Milliseconds that a command may wait for its event loop; those that waited longer are refused at once.
    public static let queueDelayMillisecondsMax: Int64 = 1_000
    /// Bytes of pushes that wait to be written, and bytes of the push log that wait for the history; pushes that would make it more are
    /// refused at once.
    public static let pushQueueBytesMax = 128 << 20
    public static let pushBacklogBytesMax: Int64 = 4 << 30
    /// Served requests that wait to be logged, and bytes of their texts; what does not fit is not logged.
    public static let loggedRequestsWaitingMax = 16_384
    public static let loggedRequestBytesWaitingMax = 16 << 20
    /// Rows of entities that are kept while requests are recomputed, since the next ones ask for the same entities.
    public static let verifiedRowsMax = 262_144
    /// Requests that `weir verify` shows with their explanations; it counts all.
    public static let differencesShownMax = 100
    /// What `weir apply` checks before it switches: the latest logged requests, and the entities of the latest events.
    public static let requestsCheckedByApply = 10_000
    public static let eventsCheckedByApply = 1_000
    /// Seconds that `weir apply` waits for `weir run` to become another program.
    public static let handoverSecondsMax = 120
    /// Logged requests, the latest, of which drift metrics and `weir stats SERVICE` tell.
    public static let driftRequests = 100_000
    /// Requests of one FEATURES.GET.
    public static let requestsPerCommandMax = 10_000
    /// Bytes of an HTTP request's body.
    public static let httpBodyBytesMax = 16 << 20
    /// Values, rows times features, of one HTTP answer.
    public static let valuesPerAnswerMax = 1_000_000
}
