import WeirAlgebra
import WeirRecords
import WeirTraining

/// A service's features as served lately, beside those of a training set.
struct DriftReport {
    private let service: String
    private let served: ServedStatistics
    private let isCompared: Bool
    private let comparisons: [ServedStatistics.Comparison]

    /// - Parameter reference: nil for none.
    init(service: String, served: ServedStatistics, reference: [ColumnSummary]?) {
        self.service = service
        self.served = served
        isCompared = reference != nil
        comparisons = served.comparisons(with: reference ?? [])
    }

    /// A table; of two numbers the first is that of what was served, the second that of the training set.
    var text: String {
        let quantiles = [0.05, 0.5, 0.95]
        var rows = [
            ["feature", "nulls"] + (isCompared ? ["psi"] : []) + ["mean"] + quantiles.map { "p\(Int($0 * 100))" } + ["most frequent"]
        ]
        for comparison in comparisons {
            let sides = isCompared ? [comparison.served, comparison.reference] : [comparison.served]
            func beside(_ text: (ColumnSummary) -> String?) -> String { sides.map { $0.flatMap(text) ?? "-" }.joined(separator: " | ") }
            var row = [comparison.served.name, beside { $0.nullRatio.map { "\(Self.short(100 * $0)) %" } }]
            if isCompared { row.append(comparison.stabilityIndex.map { Self.short($0) } ?? "-") }
            row.append(beside { $0.mean.map { Self.short($0) } })
            row += quantiles.map { quantile in
                beside { $0.quantiles?.first { $0.probability == quantile }.map { Self.short($0.value) } }
            }
            row.append(
                beside { summary in summary.values?.first.map { "\(JSONText.string(String($0.value.prefix(20)))) (\($0.rows))" } })
            rows.append(row)
        }
        let widths = rows[0].indices.map { column in rows.map { $0[column].unicodeScalars.count }.max() ?? 0 }
        let outdated = served.outdated > 0 ? ", \(served.outdated) more under other definitions" : ""
        let head = "\(service): \(served.rows) requests\(outdated)" + (isCompared ? "; served | training set" : "")
        return
            ([head]
            + rows.map { row in
                zip(row, widths).map { $0 + String(repeating: " ", count: $1 - $0.unicodeScalars.count) }.joined(separator: "  ")
                    .replacing(#/ +$/#, with: "")
            }).joined(separator: "\n")
    }

    var json: String {
        func object(_ members: [(String, FeatureValue)]) -> FeatureValue { .map(members.map { .init(key: $0, value: $1) }) }
        return object([
            ("service", .string(service)), ("requests", .int(Int64(served.rows))), ("outdated_requests", .int(Int64(served.outdated))),
            (
                "features",
                .list(
                    comparisons.map { comparison in
                        object(
                            [("name", .string(comparison.served.name)), ("served", comparison.served.json)]
                                + (isCompared
                                    ? [
                                        ("reference", comparison.reference?.json ?? .null),
                                        ("stability_index", comparison.stabilityIndex.map { .double($0) } ?? .null),
                                    ] : []))
                    })
            ),
        ]).json
    }

    /// Four digits are enough for a look.
    private static func short(_ value: Double) -> String {
        if value == 0 { return "0" }
        var unit = 1.0
        while abs(value) / unit < 1_000, unit > 1e-12 { unit /= 10 }
        // A product of two decimals would show digits that are none.
        let rounded = unit < 1 ? (value / unit).rounded() / (1 / unit).rounded() : value.rounded()
        return rounded == rounded.rounded() && abs(rounded) < 1e15 ? String(Int64(rounded)) : "\(rounded)"
    }
}
