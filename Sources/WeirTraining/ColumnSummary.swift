import Foundation
import WeirAlgebra
import WeirDefinitions

/// What a manifest says of one feature's values, and what drift is measured against.
package struct ColumnSummary: Sendable, Hashable {
    package var name: String
    package var type: FeatureType
    package var rows: Int
    package var nulls: Int
    /// Of numbers, as are maximum, mean, quantiles and bins; nil where there are none. A boolean counts as 0 or 1.
    package var minimum: FeatureValue?
    package var maximum: FeatureValue?
    /// The exact sum, rounded once, divided by the count; nil beyond Double's range.
    package var mean: Double?
    /// Within 1 %, as the aggregation `quantile` is.
    package var quantiles: [Quantile]?
    /// About deciles, ascending: fewer where single values make up more than a tenth.
    package var bins: [Bin]?
    /// How many different texts there are; nil beyond `ColumnStatistics.textValuesMax`.
    package var distinct: Int?
    /// The most frequent texts, ties in the order of their bytes; nil beyond the limit.
    package var values: [Value]?

    package struct Quantile: Sendable, Hashable {
        package var probability: Double
        package var value: Double
    }

    package struct Bin: Sendable, Hashable {
        /// The largest value that belongs to it; nil for the last.
        package var upTo: Double?
        package var rows: Int
    }

    package struct Value: Sendable, Hashable {
        package var value: String
        package var rows: Int
    }

    package init(name: String, type: FeatureType, rows: Int, nulls: Int) {
        self.name = name
        self.type = type
        self.rows = rows
        self.nulls = nulls
    }

    /// nil without rows.
    package var nullRatio: Double? { rows == 0 ? nil : Double(nulls) / Double(rows) }

    private var isNumber: Bool { type == .int || type == .double || type == .bool }

    /// The manifest's object; its members' order is that of reading.
    package var json: FeatureValue {
        func object(_ members: [(String, FeatureValue)]) -> FeatureValue { .map(members.map { .init(key: $0, value: $1) }) }
        func double(_ value: Double?) -> FeatureValue { value.map { .double($0) } ?? .null }
        var members: [(String, FeatureValue)] = [
            ("name", .string(name)), ("type", .string(type.rawValue)), ("rows", .int(Int64(rows))), ("nulls", .int(Int64(nulls))),
        ]
        if isNumber {
            members += [
                ("minimum", minimum ?? .null), ("maximum", maximum ?? .null), ("mean", double(mean)),
                ("quantiles", quantiles.map { object($0.map { (String($0.probability), .double($0.value)) }) } ?? .null),
                (
                    "bins",
                    bins.map { .list($0.map { object([("up_to", double($0.upTo)), ("rows", .int(Int64($0.rows)))]) }) } ?? .null
                ),
            ]
        } else {
            members += [
                ("distinct", distinct.map { .int(Int64($0)) } ?? .null), ("distinct_max", .int(Int64(ColumnStatistics.textValuesMax))),
                (
                    "values",
                    values.map { .list($0.map { object([("value", .string($0.value)), ("rows", .int(Int64($0.rows)))]) }) } ?? .null
                ),
            ]
        }
        return object(members)
    }
}

extension ColumnSummary: Decodable {
    private enum Key: String, CodingKey {
        case name, type, rows, nulls, minimum, maximum, mean, quantiles, bins, distinct, values
    }

    package init(from decoder: any Decoder) throws {
        let members = try decoder.container(keyedBy: Key.self)
        let typeName = try members.decode(String.self, forKey: .type)
        guard let type = FeatureType(rawValue: typeName) else {
            throw DecodingError.dataCorruptedError(forKey: .type, in: members, debugDescription: "there is no type '\(typeName)'")
        }
        self.init(
            name: try members.decode(String.self, forKey: .name), type: type, rows: try members.decode(Int.self, forKey: .rows),
            nulls: try members.decode(Int.self, forKey: .nulls))
        guard rows >= 0, (0...rows).contains(nulls) else {
            throw DecodingError.dataCorruptedError(forKey: .nulls, in: members, debugDescription: "\(nulls) nulls of \(rows) rows")
        }
        func number(_ key: Key) throws -> FeatureValue? {
            type == .double
                ? try members.decodeIfPresent(Double.self, forKey: key).map { .double($0) }
                : try members.decodeIfPresent(Int64.self, forKey: key).map { .int($0) }
        }
        minimum = try number(.minimum)
        maximum = try number(.maximum)
        mean = try members.decodeIfPresent(Double.self, forKey: .mean)
        quantiles = try members.decodeIfPresent([String: Double].self, forKey: .quantiles)?.compactMap { text, value in
            Double(text).map { Quantile(probability: $0, value: value) }
        }.sorted { $0.probability < $1.probability }
        bins = try members.decodeIfPresent([Bin].self, forKey: .bins)
        distinct = try members.decodeIfPresent(Int.self, forKey: .distinct)
        values = try members.decodeIfPresent([Value].self, forKey: .values)
        let counts = (bins?.map(\.rows) ?? []) + (values?.map(\.rows) ?? [])
        var counted = 0
        for count in counts {
            guard (0...rows - nulls - counted).contains(count) else {
                throw DecodingError.dataCorruptedError(
                    forKey: .rows, in: members, debugDescription: "the parts of '\(name)' have more rows than the whole")
            }
            counted += count
        }
    }
}

extension ColumnSummary.Bin: Decodable {
    private enum CodingKeys: String, CodingKey {
        case upTo = "up_to"
        case rows
    }
}

extension ColumnSummary.Value: Decodable {}

/// What is read back of a manifest: of which service, and its columns.
package struct ReferenceStatistics: Sendable, Decodable {
    package let service: String
    package let features: [ColumnSummary]

    /// - Throws: an `ExportError` that says what is wrong with the file.
    package init(manifest path: String) throws {
        guard let bytes = FileManager.default.contents(atPath: path) else { throw ExportError("cannot read the manifest \(path)") }
        do {
            self = try JSONDecoder().decode(Self.self, from: bytes)
        } catch let error as DecodingError {
            throw ExportError(
                "the manifest \(path) has no statistics: \(Self.text(error)); those of `weir export` have, as OUT.manifest.json")
        }
    }

    private static func text(_ error: DecodingError) -> String {
        func place(_ context: DecodingError.Context) -> String {
            let path = context.codingPath.map { $0.intValue.map(String.init) ?? $0.stringValue }.joined(separator: ".")
            return path.isEmpty ? "" : " in \(path)"
        }
        return switch error {
        case .keyNotFound(let key, let context): "'\(key.stringValue)' is missing\(place(context))"
        case .typeMismatch(_, let context), .valueNotFound(_, let context): "\(context.debugDescription)\(place(context))"
        case .dataCorrupted(let context): "\(context.debugDescription)\(place(context))"
        @unknown default: "\(error)"
        }
    }
}
