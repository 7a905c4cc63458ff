import WeirAlgebra
import WeirRecords

/// What `POST /get-online-features` asks for, in the shape of Feast's feature server:
/// `{"features": ["view:feature", …], "entities": {"household": [1, 2]}}`, or a `feature_service` instead of `features`;
/// `full_feature_names` and `include_feature_view_version_metadata` as there; `at`, a time to answer for, is Weir's own.
///
/// Other members are read over, as Feast's server does: its SDK may come to send more.
package struct OnlineFeaturesRequest: Sendable {
    /// Values stay as they stand in `body`: places of JSON values.
    package struct Column: Sendable {
        package var name: String
        package var values: [Range<Int>]
    }

    package enum Wanted: Sendable, Hashable {
        /// A JSON array of strings.
        case features(Range<Int>)
        case service(String)
    }

    package let body: [UInt8]
    package var wanted = Wanted.features(0..<0)
    /// Of one length.
    package var columns: [Column] = []
    package var fullFeatureNames = false
    package var includesVersions = false
    /// nil: now.
    package var at: EventTime?

    package var rowCount: Int { columns.first?.values.count ?? 0 }

    /// - Throws: `malformed` for what is no JSON, `invalid` for another shape.
    package init(_ body: [UInt8]) throws(HTTPProblem) {
        self.body = body
        var problem: HTTPProblem?
        body.withUnsafeBytes { bytes in
            do throws(Failure) {
                try parse(bytes)
            } catch {
                switch error {
                case .json(let error):
                    problem = HTTPProblem(.malformed, "the body is not the JSON that is expected: \(error)", hint: Self.shape)
                case .problem(let found): problem = found
                }
            }
        }
        if let problem { throw problem }
    }

    static let shape =
        #"{"features": ["view:feature"], "entities": {"entity": [1, 2]}}, or "feature_service": "name" in place of "features""#

    private enum Failure: Error {
        case json(RecordError)
        case problem(HTTPProblem)
    }

    private static func invalid(_ error: String, hint: String? = nil) -> Failure { .problem(HTTPProblem(.invalid, error, hint: hint)) }

    private mutating func parse(_ bytes: UnsafeRawBufferPointer) throws(Failure) {
        var scanner = JSONScanner(bytes)
        var scratch: [UInt8] = []
        var features: Range<Int>?
        var service: String?
        var entities: Range<Int>?
        var seen: Set<String> = []
        try Self.members(&scanner, "the body") { name, scanner throws(Failure) in
            let start = scanner.position
            try json { () throws(RecordError) in try scanner.skipValue(&scratch) }
            scratch.removeAll(keepingCapacity: true)
            let range = start..<scanner.position
            let value = UnsafeRawBufferPointer(rebasing: bytes[range])
            guard seen.insert(name).inserted else { throw Self.invalid("'\(name)' is given twice") }
            switch name {
            case "features" where !Self.isNull(value): features = range
            case "feature_service" where !Self.isNull(value): service = try Self.string(value, name)
            case "entities": entities = range
            case "full_feature_names": fullFeatureNames = try Self.bool(value, name)
            case "include_feature_view_version_metadata": includesVersions = try Self.bool(value, name)
            case "at" where !Self.isNull(value): at = try Self.time(value)
            default: break
            }
        }
        scanner.skipSpace()
        guard scanner.isAtEnd else { throw .json(scanner.error("something follows the JSON object")) }
        switch (features, service) {
        case (let features, let service?):
            // Feast's own server takes the service; an empty list is what its clients send beside one.
            if let features, !Self.isEmptyArray(bytes[features]) {
                throw Self.invalid("both 'features' and 'feature_service' are given", hint: "give one of them")
            }
            wanted = .service(service)
        case (let features?, nil): wanted = .features(features)
        case (nil, nil): throw Self.invalid("neither 'features' nor 'feature_service' is given", hint: Self.shape)
        }
        guard let entities else { throw Self.invalid("'entities' is missing", hint: Self.shape) }
        try parseEntities(bytes, entities)
    }

    private mutating func parseEntities(_ bytes: UnsafeRawBufferPointer, _ range: Range<Int>) throws(Failure) {
        // Positions count from the body's start.
        var scanner = JSONScanner(UnsafeRawBufferPointer(rebasing: bytes[..<range.upperBound]))
        scanner.position = range.lowerBound
        var scratch: [UInt8] = []
        try Self.members(&scanner, "'entities'") { name, scanner throws(Failure) in
            guard !columns.contains(where: { $0.name == name }) else { throw Self.invalid("'\(name)' is given twice in 'entities'") }
            guard bytes[scanner.position] == UInt8(ascii: "[") else {
                throw Self.invalid("'\(name)' in 'entities' is no array", hint: "give one value a row: {\"\(name)\": [1, 2]}")
            }
            scanner.position += 1
            var values: [Range<Int>] = []
            try json { () throws(RecordError) in
                if try scanner.peek() == UInt8(ascii: "]") {
                    scanner.position += 1
                    return
                }
                repeat {
                    scanner.skipSpace()
                    let start = scanner.position
                    try scanner.skipValue(&scratch)
                    values.append(start..<scanner.position)
                } while try scanner.continues(until: UInt8(ascii: "]"))
            }
            scratch.removeAll(keepingCapacity: true)
            guard values.count <= Limits.requestsPerCommandMax else {
                throw Self.invalid(
                    "'\(name)' has \(values.count) values; a request has at most \(Limits.requestsPerCommandMax)",
                    hint: "send several requests")
            }
            columns.append(Column(name: name, values: values))
        }
        guard let first = columns.first else {
            throw Self.invalid("'entities' is empty", hint: "name an entity and its keys: {\"household\": [1, 2]}")
        }
        if let other = columns.first(where: { $0.values.count != first.values.count }) {
            throw Self.invalid(
                "the columns of 'entities' differ in length: '\(first.name)' has \(first.values.count) values, '\(other.name)' has \(other.values.count)",
                hint: "give one value a row in each")
        }
    }

    /// The references in `features`, split at the first colon.
    package func references(_ range: Range<Int>) throws(HTTPProblem) -> [(view: String, feature: String)] {
        let texts: [String]
        do throws(RecordError) {
            texts = try jsonArrayElements(Array(body[range])).map { element throws(RecordError) in
                guard let text = element.withUnsafeBytes({ jsonString($0) }) else { throw RecordError("it holds what is no string") }
                return text
            }
        } catch {
            throw HTTPProblem(.invalid, "'features' is no array of strings: \(error)", hint: #"write ["view:feature", …]"#)
        }
        guard !texts.isEmpty else { throw HTTPProblem(.invalid, "'features' is empty", hint: #"write ["view:feature", …]"#) }
        return try texts.map { text throws(HTTPProblem) in
            guard let colon = text.firstIndex(of: ":") else {
                throw HTTPProblem(.invalid, "'\(text)' names no view", hint: #"write "view:feature""#)
            }
            return (String(text[..<colon]), String(text[text.index(after: colon)...]))
        }
    }

    // MARK: Pieces of JSON

    /// Goes through an object's members; `body` must read the value that `scanner` stands at.
    private static func members(
        _ scanner: inout JSONScanner, _ what: String, _ body: (String, inout JSONScanner) throws(Failure) -> Void
    ) throws(Failure) {
        guard try json({ () throws(RecordError) in try scanner.peek() }) == UInt8(ascii: "{") else {
            throw invalid("\(what) is no JSON object", hint: shape)
        }
        scanner.position += 1
        if try json({ () throws(RecordError) in try scanner.peek() }) == UInt8(ascii: "}") {
            scanner.position += 1
            return
        }
        repeat {
            let name = try json { () throws(RecordError) in
                guard try scanner.peek() == UInt8(ascii: "\"") else { throw scanner.error("a name in quotes expected") }
                var unescaped: [UInt8] = []
                let piece = try scanner.string(&unescaped)
                try scanner.expect(UInt8(ascii: ":"))
                scanner.skipSpace()
                guard !scanner.isAtEnd else { throw scanner.error("the JSON text is truncated") }
                switch piece {
                case .input(let range): return String(decoding: scanner.bytes[range], as: UTF8.self)
                case .unescaped: return String(decoding: unescaped, as: UTF8.self)
                }
            }
            try body(name, &scanner)
        } while try json({ () throws(RecordError) in try scanner.continues(until: UInt8(ascii: "}")) })
    }

    private static func isNull(_ value: UnsafeRawBufferPointer) -> Bool { value.elementsEqual("null".utf8) }

    private static func isEmptyArray(_ value: Slice<UnsafeRawBufferPointer>) -> Bool {
        value.allSatisfy { $0 == UInt8(ascii: "[") || $0 == UInt8(ascii: "]") || $0 <= 0x20 }
    }

    private static func string(_ value: UnsafeRawBufferPointer, _ name: String) throws(Failure) -> String {
        guard let text = jsonString(value) else { throw invalid("'\(name)' is no string") }
        return text
    }

    private static func bool(_ value: UnsafeRawBufferPointer, _ name: String) throws(Failure) -> Bool {
        if value.elementsEqual("true".utf8) { return true }
        if value.elementsEqual("false".utf8) || isNull(value) { return false }
        throw invalid("'\(name)' is neither true nor false")
    }

    /// RFC 3339 in a string, or integer milliseconds.
    private static func time(_ value: UnsafeRawBufferPointer) throws(Failure) -> EventTime {
        do throws(RecordError) {
            return try TimeText.parse(jsonString(value) ?? String(decoding: value, as: UTF8.self))
        } catch {
            throw invalid("'at': \(error)", hint: "give RFC 3339 in a string, or integer milliseconds")
        }
    }

    private static func json<R>(_ body: () throws(RecordError) -> R) throws(Failure) -> R {
        do throws(RecordError) { return try body() } catch { throw .json(error) }
    }

    private func json<R>(_ body: () throws(RecordError) -> R) throws(Failure) -> R { try Self.json(body) }
}
