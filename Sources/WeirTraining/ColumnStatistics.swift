import Foundation
import WeirAlgebra
import WeirDefinitions
import WeirRecords

/// Gathers what is known of one feature's values: a function of the multiset of values, whatever chunks were merged in whatever order.
///
/// Numbers (a boolean is 0 or 1) have an exact mean and are counted in the fixed bins of `QuantileSketch`; texts (of lists and maps their
/// JSON) are counted one by one up to `textValuesMax` different ones of `textBytesMax` bytes together.
package struct ColumnStatistics: Sendable {
    /// Different texts that are counted; a column with more of them has no counts at all.
    package static let textValuesMax = 1_000
    package static let textBytesMax = 1 << 20

    package let name: String
    package let type: FeatureType
    package private(set) var rows = 0
    package private(set) var nulls = 0
    private var sum = ExactSum()
    private var ints: (least: Int64, greatest: Int64) = (.max, .min)
    private var doubles: (least: Double, greatest: Double) = (.infinity, -.infinity)
    private var bins = BinCounts()
    /// nil beyond the limit.
    private var texts: [Text: Int]? = [:]
    private var textBytes = 0

    package init(name: String, type: FeatureType) {
        self.name = name
        self.type = type
    }

    /// Numbers cost no allocation, but where one lies outside of all bins before it.
    package mutating func add(_ value: FeatureValue) {
        rows += 1
        switch value {
        case .null: nulls += 1
        case .int(let value): add(value)
        case .bool(let value): add(value ? 1 : 0)
        case .double(let value):
            sum.add(value)
            // Zero has one sign, else the least of both would depend on their order.
            let value = value + 0
            if value < doubles.least { doubles.least = value }
            if value > doubles.greatest { doubles.greatest = value }
            bins.add(SketchBins.number(of: value), 1)
        case .string(let text): add(Text(text: text), 1)
        case .list, .map: add(Text(text: value.json), 1)
        }
    }

    private mutating func add(_ value: Int64) {
        sum.add(value)
        if value < ints.least { ints.least = value }
        if value > ints.greatest { ints.greatest = value }
        bins.add(SketchBins.number(of: Double(value)), 1)
    }

    private mutating func add(_ text: Text, _ count: Int) {
        guard texts != nil else { return }
        if let index = texts!.index(forKey: text) {
            texts!.values[index] += count
            return
        }
        textBytes += text.text.utf8.count
        guard texts!.count < Self.textValuesMax, textBytes <= Self.textBytesMax else { return texts = nil }
        texts![text] = count
    }

    /// Takes in what another part of the same column holds.
    package mutating func merge(_ other: ColumnStatistics) {
        rows += other.rows
        nulls += other.nulls
        sum.add(other.sum)
        ints = (min(ints.least, other.ints.least), max(ints.greatest, other.ints.greatest))
        doubles = (min(doubles.least, other.doubles.least), max(doubles.greatest, other.doubles.greatest))
        other.bins.forEach { bins.add($0, $1) }
        if let others = other.texts { for (text, count) in others { add(text, count) } } else { texts = nil }
    }

    // MARK: Summary

    private static let probabilities = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99]
    private static let numberBins = 10
    private static let frequentTexts = 20

    /// What the manifest says of the column.
    package var summary: ColumnSummary {
        var summary = ColumnSummary(name: name, type: type, rows: rows, nulls: nulls)
        let count = rows - nulls
        switch type {
        case .int, .bool, .double:
            guard count > 0 else { break }
            summary.minimum = type == .double ? .double(doubles.least) : .int(ints.least)
            summary.maximum = type == .double ? .double(doubles.greatest) : .int(ints.greatest)
            summary.mean = sum.roundedDouble().map { $0 / Double(count) }
            let sketch = QuantileSketch(counts: bins.nonZero)
            summary.quantiles = Self.probabilities.map { .init(probability: $0, value: sketch.quantile($0)!) }
            summary.bins = decileBins(count)
        case .string, .intList, .doubleList, .boolList, .stringList, .intMap:
            guard let texts else { break }
            summary.distinct = texts.count
            let frequent = texts.sorted {
                $0.value != $1.value ? $0.value > $1.value : $0.key.text.utf8.lexicographicallyPrecedes($1.key.text.utf8)
            }
            summary.values = frequent.prefix(Self.frequentTexts).map { .init(value: $0.key.text, rows: $0.value) }
        }
        return summary
    }

    /// Whole bins of the sketch, joined until each has a tenth of the values; what passes several tenths at once makes one.
    private func decileBins(_ count: Int) -> [ColumnSummary.Bin] {
        var joined: [ColumnSummary.Bin] = []
        var seen = 0
        var own = 0
        for (number, inBin) in bins.nonZero {
            own += Int(inBin)
            seen += Int(inBin)
            let isLast = seen == count
            if isLast || seen * Self.numberBins / count > (seen - own) * Self.numberBins / count {
                joined.append(.init(upTo: isLast ? nil : SketchBins.upperEnd(of: number), rows: own))
                own = 0
            }
        }
        return joined
    }

    // MARK: Drift

    /// The population stability index of this sample against a reference: Σ (p − q) ln(p / q) over the reference's bins (deciles, or its most
    /// frequent texts and all others) and one for nulls, p being the share here and q that of the reference. Half a row is added to each bin
    /// of both, so that empty ones stay finite. Customarily below 0.1 is stable and above 0.25 is drift.
    ///
    /// - Returns: nil where either has no rows or more different texts than are counted, or the types differ.
    package func stabilityIndex(against reference: ColumnSummary) -> Double? {
        guard rows > 0, reference.rows > 0, type == reference.type else { return nil }
        var counts: [(own: Int, reference: Int)] = [(nulls, reference.nulls)]
        switch type {
        case .int, .bool, .double:
            // Nothing but nulls is one bin of all numbers.
            let edges = reference.bins ?? [.init(upTo: nil, rows: 0)]
            var own = Array(repeating: 0, count: edges.count)
            var edge = 0
            for (number, count) in bins.nonZero {
                let end = SketchBins.upperEnd(of: number)
                while edge < edges.count - 1, let upTo = edges[edge].upTo, end > upTo { edge += 1 }
                own[edge] += Int(count)
            }
            for (own, edge) in zip(own, edges) { counts.append((own, edge.rows)) }
        case .string, .intList, .doubleList, .boolList, .stringList, .intMap:
            guard let texts, let values = reference.values else { return nil }
            var rest = (own: rows - nulls, reference: reference.rows - reference.nulls)
            for value in values {
                let own = texts[Text(text: value.value)] ?? 0
                counts.append((own, value.rows))
                rest = (rest.own - own, rest.reference - value.rows)
            }
            counts.append(rest)
        }
        let smoothing = 0.5
        let extra = smoothing * Double(counts.count)
        return counts.reduce(0) { index, count in
            let p = (Double(count.own) + smoothing) / (Double(rows) + extra)
            let q = (Double(count.reference) + smoothing) / (Double(reference.rows) + extra)
            return index + (p - q) * log(p / q)
        }
    }
}

/// A text that is what its bytes are; Swift's strings are equal where they look equal.
private struct Text: Hashable, Sendable {
    var text: String

    static func == (a: Text, b: Text) -> Bool {
        var (a, b) = (a.text, b.text)
        return a.withUTF8 { a in b.withUTF8 { compareBytes(UnsafeRawBufferPointer(a), UnsafeRawBufferPointer($0)) == 0 } }
    }

    func hash(into hasher: inout Hasher) {
        var text = text
        text.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
    }
}

/// Counts in the sketch's fixed bins, in an array over those between the least and the greatest in use.
private struct BinCounts: Sendable {
    private var first: Int32 = 0
    private var counts: [UInt64] = []

    mutating func add(_ number: Int32, _ count: UInt64) {
        var index = Int(number) - Int(first)
        if index < 0 || index >= counts.count { index = makeRoom(number) }
        counts[index] &+= count
    }

    private mutating func makeRoom(_ number: Int32) -> Int {
        // Some to spare, since values mostly come near each other.
        let low = max(-Int32(SketchBins.count), number - 32)
        let high = min(Int32(SketchBins.count), number + 32)
        if counts.isEmpty {
            first = low
            counts = Array(repeating: 0, count: Int(high - low) + 1)
        } else if number < first {
            counts.insert(contentsOf: repeatElement(0, count: Int(first - low)), at: 0)
            first = low
        } else {
            counts.append(contentsOf: repeatElement(0, count: Int(high) + 1 - Int(first) - counts.count))
        }
        return Int(number - first)
    }

    func forEach(_ body: (Int32, UInt64) -> Void) {
        for (index, count) in counts.enumerated() where count > 0 { body(first + Int32(index), count) }
    }

    var nonZero: [(number: Int32, count: UInt64)] {
        var found: [(number: Int32, count: UInt64)] = []
        forEach { found.append(($0, $1)) }
        return found
    }
}
