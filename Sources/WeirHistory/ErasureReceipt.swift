import Foundation
import WeirAlgebra

/// What an erasure took out of where, and what still holds the entity. It never names it.
package struct ErasureReceipt: Codable, Sendable, Equatable {
    /// Another entity that had events in common with the erased one, and still has others.
    package struct Changed: Codable, Sendable, Equatable {
        package var view: String
        package var entityKey: String
        /// How many of its events are gone.
        package var events: Int

        package init(view: String, entityKey: String, events: Int) {
            self.view = view
            self.entityKey = entityKey
            self.events = events
        }
    }

    /// Messages of a topic's partition, from the first to the last.
    package struct TopicPart: Codable, Sendable, Equatable {
        package var topic: String
        package var partition: Int
        package var events: Int
        package var firstOffset: Int64
        package var lastOffset: Int64
    }

    package struct File: Codable, Sendable, Equatable {
        package var path: String
        /// Events, rows or bytes' occurrences: as many as it is known to hold.
        package var count: Int

        package init(path: String, count: Int) {
            self.path = path
            self.count = count
        }
    }

    package var entity: String
    /// The keyed hash of its key, hexadecimal: the same for each erasure of it in this store.
    package var keyHash: String
    /// Whether a process died in the middle of it, and another one finished it.
    package var wasInterrupted = false

    // MARK: Gone

    /// By stream.
    package var events: [String: Int] = [:]
    /// Records of the online store that were its own.
    package var onlineRecords = 0
    package var openWindows = 0
    package var closedWindows = 0
    /// Records on their way to topics.
    package var outputRecords = 0
    /// Dead letters that decode to it…
    package var deadLetters = 0
    /// …and those that do not decode, whose bytes have its key or an event's id.
    package var deadLettersByBytes = 0
    /// Bytes of pushes, its own and others', that the history has.
    package var pushLogBytes: Int64 = 0
    /// Served requests that were logged, of all entities.
    package var loggedRequests = 0

    // MARK: Others

    /// Entities of other views that are left with fewer events. Printed, and not kept.
    package var changed: [Changed] = []
    /// By view, how many there are of them.
    package var changedEntities: [String: Int] = [:]
    /// By view, how many other entities had no other events and are gone, too.
    package var goneEntities: [String: Int] = [:]
    /// Windows of other entities that were written down and are now written anew.
    package var changedWindows = 0

    // MARK: What still holds it

    package var topics: [TopicPart] = []
    /// Topics that were, or may have been, told of it.
    package var outputTopics: [String] = []
    /// Files that were ingested.
    package var files: [File] = []
    /// Exported training sets in which its key stands.
    package var exports: [File] = []
    /// Files of the data directory in which the key, or an event's id, still stands: none, or something is wrong. nil where that was not
    /// looked for, since the key is too short to tell.
    package var filesOfTheStore: [File]?
    /// Streams whose definitions are not in the code: their tables were not touched.
    package var unknownStreams: [String] = []

    package init(entity: String, keyHash: [UInt8]) {
        self.entity = entity
        self.keyHash = hexadecimal(keyHash)
    }

    package var isEmpty: Bool {
        events.values.allSatisfy { $0 == 0 } && onlineRecords + openWindows + closedWindows + outputRecords + deadLetters == 0
            && deadLettersByBytes == 0
    }

    package init(json: String) throws {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        self = try decoder.decode(Self.self, from: Data(json.utf8))
    }

    /// One JSON object in one line.
    package func json() throws -> String {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(self), as: UTF8.self)
    }
}

/// What is left to do of an erasure that the history has decided.
package struct ErasureWork: Codable, Sendable {
    /// Another entity that had events in common with the erased one.
    package struct Other: Codable, Sendable {
        package var view: String
        package var key: String
        package var events: Int
        package var isGone: Bool
    }

    package var key: String
    package var others: [Other]
    /// Some ids of erased events, to look for in the end.
    package var ids: [String]

    package init(key: String, others: [Other], ids: [String]) {
        self.key = key
        self.others = others
        self.ids = ids
    }

    init(json: String) throws { self = try JSONDecoder().decode(Self.self, from: Data(json.utf8)) }
}
