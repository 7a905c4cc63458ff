import Foundation
import Support

/// The features of a written training set, by the spine's column `row`.
struct FeatureTable {
    /// Row after row; NaN where a field is empty. Text stands as its number in `texts`.
    private(set) var values: [Double]
    let rows: Int
    let features: [String]

    /// - Parameter texts: numbers of the texts that were met, the same for all tables that are compared.
    init(_ path: String, features: [String], rows: Int, texts: inout [String: Double]) throws {
        self.rows = rows
        self.features = features
        values = []
        guard var bytes = FileManager.default.contents(atPath: path).map({ [UInt8]($0) }), let end = bytes.firstIndex(of: 0x0A) else {
            throw BenchmarkFailure("\(path) has no header")
        }
        bytes.append(0)
        let header = String(decoding: bytes[..<end], as: UTF8.self).split(separator: ",").map { $0.filter { $0 != "\"" } }
        guard let rowColumn = header.firstIndex(of: "row") else { throw BenchmarkFailure("\(path) has no column row") }
        // For each column the feature that stands in it.
        var places = [Int](repeating: -1, count: header.count)
        for (number, feature) in features.enumerated() {
            guard let column = header.firstIndex(of: feature) else { throw BenchmarkFailure("\(path) has no column \(feature)") }
            places[column] = number
        }
        values = [Double](repeating: .nan, count: rows * features.count)
        var isSeen = [Bool](repeating: false, count: rows)
        var seen = 0
        var fields = [Double](repeating: .nan, count: features.count)
        try bytes.withUnsafeBufferPointer { bytes in
            let text = UnsafeRawPointer(bytes.baseAddress!).assumingMemoryBound(to: CChar.self)
            var position = end + 1
            while position < bytes.count - 1 {
                var row = -1
                for column in 0..<header.count {
                    var stop = position
                    while bytes[stop] != 0x2C, bytes[stop] != 0x0A, bytes[stop] != 0 { stop += 1 }
                    guard (bytes[stop] == 0x2C) == (column < header.count - 1) else {
                        throw BenchmarkFailure("\(path): a line at byte \(position) has not \(header.count) fields")
                    }
                    if column == rowColumn { row = Int(strtol(text + position, nil, 10)) }
                    if places[column] >= 0 {
                        var after: UnsafeMutablePointer<CChar>?
                        var value = stop == position ? .nan : strtod(text + position, &after)
                        if stop > position, after != UnsafeMutablePointer(mutating: text + stop) {
                            let name = String(decoding: bytes[position..<stop], as: UTF8.self)
                            value = texts[name] ?? Double(texts.count)
                            texts[name] = value
                        }
                        fields[places[column]] = value
                    }
                    position = stop + 1
                }
                guard 0..<rows ~= row, !isSeen[row] else { throw BenchmarkFailure("\(path) has no row \(row), or has it twice") }
                isSeen[row] = true
                seen += 1
                for number in 0..<features.count { values[row * features.count + number] = fields[number] }
            }
        }
        guard seen == rows else { throw BenchmarkFailure("\(path) has \(seen) rows of \(rows)") }
    }

    /// Throws where values differ: sums and means by more than what floating point explains (prices have two decimals), others at all.
    func compare(with other: FeatureTable, _ names: (String, String)) throws {
        for place in values.indices {
            let (one, two) = (values[place], other.values[place])
            if one == two || (one.isNaN && two.isNaN) { continue }
            let feature = features[place % features.count]
            let isRounded = feature.hasPrefix("spend") || feature.hasPrefix("avg")
            if isRounded, abs(one - two) < 1e-6 { continue }
            throw BenchmarkFailure("row \(place / features.count), \(feature): \(names.0) has \(one), \(names.1) has \(two)")
        }
    }

    /// That a comparison finds one value that is another by one cent, one that is missing, and one too many.
    func testComparison() throws {
        for feature in features.indices {
            for replacement in [0.01, .nan] {
                var changed = self
                // The last row with such a value, so that all are looked at.
                guard let place = values.indices.last(where: { $0 % features.count == feature && !values[$0].isNaN }) else {
                    throw BenchmarkFailure("\(features[feature]) is nowhere")
                }
                changed.values[place] = values[place] + replacement
                for (one, two) in [(self, changed), (changed, self)] {
                    guard (try? one.compare(with: two, ("", ""))) == nil else {
                        throw BenchmarkFailure("a wrong \(features[feature]) goes unnoticed")
                    }
                }
            }
        }
    }
}
