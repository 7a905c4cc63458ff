import WeirAlgebra
import WeirRecords

/// A view as the engine sees it: columns, filters, the partials that it keeps (slots), and how features come from them.
package final class ViewPlan: Sendable {
    package struct Column: Sendable, Hashable {
        package let signature: String
        package let type: ColumnType

        package init(signature: String, type: ColumnType) {
            self.signature = signature
            self.type = type
        }
    }

    /// One kept partial: an accumulation over a column (nil: over the events themselves) and a filter (nil: all events).
    /// Features over other windows of the same slot share it.
    package struct Slot: Sendable {
        package let accumulation: any Accumulation
        package let column: Int?
        package let filter: Int?
    }

    package enum Computation: Sendable {
        case aggregate(slot: Int, window: Int, aggregation: any Aggregation)
        case derived(inputs: [Int], compute: @Sendable ([FeatureValue]) -> FeatureValue)
    }

    package struct Feature: Sendable {
        package let name: String
        package let type: FeatureType
        package let computation: Computation
        /// For people: `mean(price) over sliding 28 days`.
        package let signature: String
    }

    /// `spend`; of a later revision `spend@2`.
    package let name: String
    /// `spend`.
    package let baseName: String
    package let revision: Int
    package let entity: String
    /// One for the whole key, or one for each of its parts.
    package let joinKeys: [String]
    package let keyTypeName: String
    package let stream: String
    package let columns: [Column]
    package let filterCount: Int
    package let slots: [Slot]
    package let windows: [Window]
    package let features: [Feature]
    /// Microseconds for which an event counts, by the view or by its stream; nil where it does for ever.
    package let timeToLive: Int64?
    /// Microseconds for which an entity is known by an event, whether a window reaches it or not; nil: as long as the store has one.
    package let knownFor: Int64?
    private let featureNumbers: [String: Int]
    /// nil where closed windows are not written down.
    package let closedWindows: ClosedWindowPlan?
    /// The topic for an entity's features whenever they change.
    package let updatesTopic: String?
    /// A client's spelling of a key to the canonical one; nil for text that is no key of this entity.
    package let canonicalKey: @Sendable (String) -> String?
    private let keyForm: KeyForm

    /// Spellings of keys that can be read in place.
    package enum KeyForm: Sendable {
        /// Any text is a key.
        case text
        /// Digits, perhaps with leading zeros.
        case integer
        case other
    }

    package init(
        name: String, baseName: String? = nil, revision: Int = 1, entity: String, joinKeys: [String]? = nil, keyTypeName: String,
        stream: String, columns: [Column], filterCount: Int,
        slots: [Slot], windows: [Window], features: [Feature], timeToLive: Int64? = nil, ownTimeToLive: Int64? = nil,
        closedWindows: ClosedWindowPlan?, updatesTopic: String?,
        keyForm: KeyForm, canonicalKey: @escaping @Sendable (String) -> String?
    ) {
        self.name = name
        self.baseName = baseName ?? name
        self.revision = revision
        self.entity = entity
        self.joinKeys = joinKeys ?? [entity]
        self.keyTypeName = keyTypeName
        self.stream = stream
        self.columns = columns
        self.filterCount = filterCount
        self.slots = slots
        self.windows = windows
        self.features = features
        self.timeToLive = timeToLive
        // A stream may keep its events for much longer than a view's windows reach.
        knownFor = ownTimeToLive != nil || windows.contains { $0.kind == .lifetime } ? timeToLive : nil
        featureNumbers = Dictionary(features.enumerated().map { ($1.name, $0) }, uniquingKeysWith: { first, _ in first })
        self.closedWindows = closedWindows
        self.updatesTopic = updatesTopic
        self.keyForm = keyForm
        self.canonicalKey = canonicalKey
    }

    /// Hands over the canonical form of a key as a client spelled it. The common spellings take no allocation.
    ///
    /// - Returns: false for bytes that are no key of this entity.
    package func withCanonicalKey(
        _ spelled: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) throws -> Void
    ) rethrows -> Bool {
        switch keyForm {
        case .integer:
            // Up to 18 digits fit into 64 bits; the rest goes the way of all other spellings.
            if !spelled.isEmpty, spelled.count <= 18, spelled.allSatisfy({ $0 &- 48 <= 9 }) {
                var start = 0
                while start < spelled.count - 1, spelled[start] == 48 { start += 1 }
                try body(UnsafeRawBufferPointer(rebasing: spelled[start...]))
                return true
            }
        case .text:
            if spelled.allSatisfy({ $0 < 0x80 }) {
                try body(spelled)
                return true
            }
        case .other: break
        }
        guard let text = String(validating: spelled, as: UTF8.self), let key = canonicalKey(text) else { return false }
        let bytes = Array(key.utf8)
        try bytes.withUnsafeBytes(body)
        return true
    }

    package func feature(named name: String) -> Int? { featureNumbers[name] }

    /// How far back, in microseconds, the online store must see: as far as entities are known by what lives, or the longest bounded window.
    /// Sessions count with a day then, since their start is where the events say; a longer one is completed from history.
    package var reach: Int64 {
        if let knownFor { return knownFor }
        let reach = windows.reduce(Int64(0)) { reach, window in
            let own = window.kind == .session ? (window.length ?? 0).addingClamped(86_400_000_000) : window.reach ?? 0
            return max(reach, own)
        }
        return min(reach, timeToLive ?? .max)
    }

    /// Events before this moment no longer count at a time; `Int64.min` without a time to live.
    package func liveFrom(at time: EventTime) -> Int64 {
        guard let timeToLive else { return .min }
        return time.microseconds.subtractingClamped(timeToLive)
    }

    /// The features whose values a closed window has: those over this window, and those derived from them alone.
    package func features(over window: Int) -> [Int] {
        var chosen: [Int] = []
        for (number, feature) in features.enumerated() {
            switch feature.computation {
            case .aggregate(_, let own, _): if own == window { chosen.append(number) }
            case .derived(let inputs, _): if inputs.allSatisfy(chosen.contains) { chosen.append(number) }
            }
        }
        return chosen
    }

    /// A feature's definition with those of the features that it is derived from: values differ only where this does, or a closure.
    package func wholeDefinition(of feature: Int) -> String {
        let own = "\(features[feature].type.rawValue) = \(features[feature].signature)"
        guard case .derived(let inputs, _) = features[feature].computation else { return own }
        return ([own] + inputs.map { "(\(wholeDefinition(of: $0)))" }).joined(separator: " ")
    }

    /// Whether the features are labels: of what happens after the time asked for. Only training sets have them.
    package var isLabelView: Bool { windows.contains { $0.kind == .following } }

    /// The earliest event that an entity is known by at a time, where that is a matter of time.
    package func knownFrom(at time: EventTime) -> Int64? { knownFor.map { time.microseconds.subtractingClamped($0) } }

    /// Whether every event counts for ever: then what expires is kept in totals.
    package var hasLifetimeWindow: Bool { timeToLive == nil && windows.contains { $0.kind == .lifetime } }

    /// Everything that the stored bytes and the values depend on, as text. Filters count by their number only: what is
    /// inside a closure cannot be seen.
    package var definition: String {
        var lines = ["view \(name) of \(entity) (\(keyTypeName)) from \(stream)" + (timeToLive.map { ", time to live \($0)" } ?? "")]
        lines += columns.map { "  column \($0.signature): \($0.type)" }
        lines += features.map { "  \($0.name): \($0.type.rawValue) = \($0.signature)" }
        return lines.joined(separator: "\n")
    }

    /// Sixteen hexadecimal digits that change whenever `definition` does.
    package var fingerprint: String {
        weirFingerprint(of: definition)
    }
}

package func weirFingerprint(of text: String) -> String {
    let hex = String(StableHash.xxh64(text), radix: 16)
    return String(repeating: "0", count: 16 - hex.count) + hex
}

/// The lines that only one of two definitions has: what the stores hold, and what the code says.
package func definitionDifference(stored: String, code: String) -> String {
    let storedLines = stored.split(separator: "\n")
    let codeLines = code.split(separator: "\n")
    let removed = storedLines.filter { !codeLines.contains($0) }.map { "  stored: \($0)" }
    let added = codeLines.filter { !storedLines.contains($0) }.map { "  code:   \($0)" }
    return (removed + added).joined(separator: "\n")
}

/// The rows that one view takes from a batch of events, column by column, one row an event.
package struct ViewRows: Sendable {
    /// Canonical key texts; null where the view does not see the event.
    package var keys = ColumnBuffer(type: .text)
    /// XXH64 of each key's text; of the empty one where it is null.
    package var keyHashes: [UInt64] = []
    package var columns: [ColumnBuffer]
    /// Bit `f` says whether filter `f` accepts the event.
    package var filterBits: [UInt64] = []
}
