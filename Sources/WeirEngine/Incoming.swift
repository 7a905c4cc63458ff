import WeirAlgebra
import WeirDefinitions

/// Names a source and a part of it: a file (partition 0), a topic's partition, the push log.
package struct SourcePart: Hashable, Sendable {
    package enum Kind: String, Sendable {
        case file, kafka, push
        /// Dead letters that are tried again; an offset is a letter's number.
        case retry
    }
    package var kind: Kind
    package var name: String
    package var partition: Int32
    package var stream: String

    package init(kind: Kind, name: String, partition: Int32, stream: String) {
        self.kind = kind
        self.name = name
        self.partition = partition
        self.stream = stream
    }
}

/// How a source's records are written.
package enum RecordEncoding: Hashable, Sendable {
    case json
    /// With the file's header line.
    case csv(header: [UInt8])
    /// As the event's own `init(message:)` reads it.
    case message
}

/// A batch that has been decoded, on its way into the history: where it came from and when it was learned of.
package struct IncomingBatch: Sendable {
    package var batch: PreparedBatch
    package var source: SourcePart
    /// The next offset to read once this batch is in.
    package var nextOffset: Int64
    /// A file's fingerprint at `nextOffset`.
    package var detail: [UInt8]?
    /// What the batch says of its source.
    package var phase = Phase.running

    package enum Phase: Sendable, Hashable {
        /// It will give events: it holds the stream's watermark back.
        case start
        case running
        /// It has nothing more for now: it no longer holds the watermark back.
        case end
    }
    /// Microseconds; one stamp a batch…
    package var ingestTime: Int64
    /// …unless the file brings one for each event.
    package var ingestTimes: [Int64]?
    package var encoding: RecordEncoding

    package init(
        batch: PreparedBatch, source: SourcePart, nextOffset: Int64, detail: [UInt8]? = nil, ingestTime: Int64,
        ingestTimes: [Int64]? = nil, phase: Phase = .running, encoding: RecordEncoding = .json
    ) {
        self.encoding = encoding
        self.batch = batch
        self.source = source
        self.nextOffset = nextOffset
        self.detail = detail
        self.ingestTime = ingestTime
        self.ingestTimes = ingestTimes
        self.phase = phase
    }

    /// What it takes up in a queue, in events: long and malformed records take memory, too.
    package var cost: Int {
        64 + batch.count + batch.records.malformed.count + batch.records.bytes.count / Limits.bytesPerQueuedEvent
    }
}

/// A batch of which the history has taken what is new.
package struct AcceptedBatch: Sendable {
    package var batch: PreparedBatch
    /// The accepted events, ascending.
    package var rows: [Int]
    /// The number of the first one; the others follow it.
    package var firstSequence: Int64
}

/// What one history transaction did.
package struct CommitSummary: Sendable {
    package var accepted = 0
    package var duplicates = 0
    package var deadLetters = 0
    /// Events of erased entities that stay out.
    package var forgotten = 0
    /// Events that are older than the stream keeps any.
    package var expired = 0
    /// The last `_seq` in use.
    package var lastSequence: Int64 = 0

    package init() {}
}
