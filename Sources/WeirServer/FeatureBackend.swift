import WeirAlgebra

/// What answers the commands about features, events and sessions. The server knows the protocol, the backend the store.
///
/// Every method is called on an event loop's thread and must not block for long, except that `addEvents` may finish later, on any
/// thread. `executor` is the number of the calling event loop, from 0 to the server's thread count − 1, and never two at a
/// time with the same number: the backend may keep unsynchronized state (read transactions) for each.
/// Messages of `CommandError` say what is wrong and what would be right.
package protocol FeatureBackend: Sendable {
    /// `FEATURES.GET`: one row for each of the request's JSON objects, in their order.
    func features(_ request: FeaturesGet, executor: Int) throws(CommandError) -> [FeatureRow]

    /// `FEATURES.EXPLAIN`: lines for people, or one bulk string of JSON.
    func explain(_ request: FeaturesExplain, executor: Int) throws(CommandError) -> ReplyValue

    /// Finds a view and some of its features (nil: all), once for the many lookups of a connection. An unknown one is an error.
    func selection(view: String, features: [String]?) throws(CommandError) -> ViewSelection

    /// `HGET`, `HMGET`, `HGETALL`, `EXISTS`: hands over the values in the selection's order, and whether the entity has events. An unknown
    /// entity has empty values.
    ///
    /// - Parameter key: as the client spelled it; borrowed.
    func viewFeatures(
        _ selection: ViewSelection, key: UnsafeRawBufferPointer, executor: Int, _ body: (borrowing [FeatureResult], _ exists: Bool) -> Void
    ) throws(CommandError)

    /// The commands that one read of a connection brought are done: what they shared (a snapshot of the store) is let go.
    func endBatch(executor: Int)

    /// `FEATURES.LIST`.
    func listFeatures() throws(CommandError) -> [CatalogEntry]

    /// `FEATURES.DESCRIBE`: a tree about a service, a view, a stream or a feature.
    func describe(_ name: String) throws(CommandError) -> ReplyValue

    /// `EVENTS.ADD`: calls `completion` once, on any thread, when the events are durable, with how many were taken; or with the
    /// reason why none was.
    func addEvents(
        stream: String, events: [[UInt8]],
        completion: @escaping @Sendable (Result<Int, CommandError>) -> Void)

    /// `SESSION.ADD`: returns how many events the session holds now.
    func sessionAdd(_ id: String, stream: String, events: [[UInt8]]) throws(CommandError) -> Int

    /// `SESSION.GET`: in the order in which they were added; empty for an unknown session.
    func sessionGet(_ id: String) throws(CommandError) -> [SessionEvent]

    /// `SESSION.DROP`: whether there was one.
    func sessionDrop(_ id: String) throws(CommandError) -> Bool

    /// `INFO`: sections beside those of the server itself.
    func info(executor: Int) -> [InfoSection]
}

/// What `FEATURES.GET` asks for.
package struct FeaturesGet: Sendable, Hashable {
    package var service: String
    /// JSON objects, at least one.
    package var requests: [[UInt8]]
    /// nil: now.
    package var at: EventTime?
    /// Inline session events: for each `SESSION` option the stream and a JSON array.
    package var session: [SessionEvent]
    /// A session that the server holds.
    package var sessionID: String?
    /// Whether rows need their `meta`.
    package var meta: Bool

    package init(
        service: String, requests: [[UInt8]], at: EventTime? = nil, session: [SessionEvent] = [], sessionID: String? = nil,
        meta: Bool = false
    ) {
        self.service = service
        self.requests = requests
        self.at = at
        self.session = session
        self.sessionID = sessionID
        self.meta = meta
    }
}

/// What `FEATURES.EXPLAIN` asks for.
package struct FeaturesExplain: Sendable, Hashable {
    package enum Subject: Sendable, Hashable {
        /// A service with a request, a JSON object.
        case service(String, request: [UInt8])
        /// An entity of a view, and which of its features; empty for all.
        case entity(view: String, key: String, features: [String])
    }

    package var subject: Subject
    /// nil: now.
    package var at: EventTime?
    package var session: [SessionEvent]
    package var sessionID: String?
    package var isJSON: Bool

    package init(
        _ subject: Subject, at: EventTime? = nil, session: [SessionEvent] = [], sessionID: String? = nil, isJSON: Bool = false
    ) {
        self.subject = subject
        self.at = at
        self.session = session
        self.sessionID = sessionID
        self.isJSON = isJSON
    }
}

/// Events of a session, as the client sent them: one JSON object (`SESSION.ADD`, `SESSION.GET`) or an array of them (`FEATURES.GET`).
package struct SessionEvent: Sendable, Hashable {
    package var stream: String
    package var json: [UInt8]

    package init(stream: String, json: [UInt8]) {
        self.stream = stream
        self.json = json
    }
}

/// The features of one request; names and results have one element per feature.
package struct FeatureRow: Sendable {
    package var names: [String]
    package var results: [FeatureResult]
    /// Needed where `FeaturesGet.meta` is set.
    package var meta: RowMeta?

    package init(names: [String], results: [FeatureResult], meta: RowMeta? = nil) {
        self.names = names
        self.results = results
        self.meta = meta
    }
}

/// Where the values of a row come from. The arrays have one element per feature, in the row's order.
package struct RowMeta: Sendable {
    /// The latest event that could count for the feature; nil where there is none.
    package var eventTimes: [EventTime?]
    /// Microseconds from the latest event to the time asked for; nil where there is none.
    package var freshnessMicroseconds: [Int64?]
    /// The fingerprint of the feature's view; nil for an on-demand feature.
    package var fingerprints: [String?]
    /// The time asked for.
    package var asOf: EventTime
    /// Session events after the time asked for.
    package var sessionEventsIgnored: Int
    /// For each shard that was read the number of the history's last event that its snapshot has seen.
    package var applied: [SourcePosition]
    /// How far each source is applied in the shards that were read: in all of them.
    package var positions: [SourcePosition]

    package init(
        eventTimes: [EventTime?], freshnessMicroseconds: [Int64?], fingerprints: [String?], asOf: EventTime,
        sessionEventsIgnored: Int = 0, applied: [SourcePosition] = [], positions: [SourcePosition] = []
    ) {
        self.eventTimes = eventTimes
        self.freshnessMicroseconds = freshnessMicroseconds
        self.fingerprints = fingerprints
        self.asOf = asOf
        self.sessionEventsIgnored = sessionEventsIgnored
        self.applied = applied
        self.positions = positions
    }
}

package struct SourcePosition: Sendable, Hashable {
    package var source: String
    package var position: Int64

    package init(source: String, position: Int64) {
        self.source = source
        self.position = position
    }
}

/// A view and some of its features, as the backend knows them.
package struct ViewSelection: Sendable {
    package var view: Int
    package var names: [String]
    /// The backend's own.
    package var evaluation: any AnyObject & Sendable

    package init(view: Int, names: [String], evaluation: any AnyObject & Sendable) {
        self.view = view
        self.names = names
        self.evaluation = evaluation
    }
}

/// One line of `FEATURES.LIST`.
package struct CatalogEntry: Sendable, Hashable {
    package enum Kind: String, Sendable {
        case service, view, stream
    }

    package var kind: Kind
    package var name: String
    /// Of a view; nil otherwise.
    package var entity: String?
    /// Of a view; nil otherwise.
    package var stream: String?
    /// Of a service or view: the names of its features. Of a stream: of its fields.
    package var members: [String]

    package init(kind: Kind, name: String, entity: String? = nil, stream: String? = nil, members: [String] = []) {
        self.kind = kind
        self.name = name
        self.entity = entity
        self.stream = stream
        self.members = members
    }
}

/// A section of `INFO`. Keys and values are one line each.
package struct InfoSection: Sendable, Hashable {
    package var title: String
    package var fields: [Field]

    package struct Field: Sendable, Hashable {
        package var key: String
        package var value: String

        package init(_ key: String, _ value: String) {
            self.key = key
            self.value = value
        }
    }

    package init(_ title: String, _ fields: [Field]) {
        self.title = title
        self.fields = fields
    }
}
