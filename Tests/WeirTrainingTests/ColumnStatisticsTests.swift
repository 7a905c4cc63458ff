import Foundation
import Testing
import WeirAlgebra
import WeirDefinitions
import WeirRecords
import WeirTesting

import WeirTraining

@Suite struct ColumnStatisticsTests {
    private func statistics(_ type: FeatureType, _ values: some Sequence<FeatureValue>) -> ColumnStatistics {
        var statistics = ColumnStatistics(name: "feature", type: type)
        for value in values { statistics.add(value) }
        return statistics
    }

    private func column(_ type: FeatureType, _ generator: inout SeededGenerator, count: Int) -> [FeatureValue] {
        (0..<count).map { _ in
            if Int.random(in: 0..<10, using: &generator) == 0 { return .null }
            switch type {
            case .double:
                let values = [
                    0, -0.0, 1e300, -1e-300, Double.random(in: -1...1, using: &generator), Double.random(in: 0...1e6, using: &generator),
                    Double.leastNonzeroMagnitude, Double(Int.random(in: 0...9, using: &generator)),
                ]
                return .double(values.randomElement(using: &generator)!)
            case .int: return .int(Bool.random(using: &generator) ? Int64.random(in: .min ... .max, using: &generator) : 7)
            case .bool: return .bool(Bool.random(using: &generator))
            case .string: return .string(["", "e\u{301}", "\u{e9}", "b", "c"].randomElement(using: &generator)!)
            default: return .list([.int(Int64.random(in: 0...2, using: &generator))])
            }
        }
    }

    /// However rows are cut, and in whatever order they come.
    @Test func isAFunctionOfTheValues() {
        var generator = SeededGenerator()
        for type: FeatureType in [.double, .int, .bool, .string, .intList] {
            for _ in 0..<20 {
                let values = column(type, &generator, count: Int.random(in: 0...300, using: &generator))
                let whole = statistics(type, values)
                let chunks = Int.random(in: 1...5, using: &generator)
                var parts = (0..<chunks).map { _ in statistics(type, []) }
                for value in values.shuffled(using: &generator) { parts[Int.random(in: 0..<chunks, using: &generator)].add(value) }
                parts.shuffle(using: &generator)
                let merged = parts.dropFirst().reduce(into: parts[0]) { $0.merge($1) }
                #expect(merged.summary.json.json == whole.summary.json.json)
                let reference = statistics(type, column(type, &generator, count: 100)).summary
                #expect(merged.stabilityIndex(against: reference) == whole.stabilityIndex(against: reference))
            }
        }
    }

    @Test func numbersAreThoseOfAScan() throws {
        var generator = SeededGenerator()
        for _ in 0..<50 {
            let values = (0..<Int.random(in: 1...500, using: &generator)).map { _ in
                Double.random(in: -100...100, using: &generator).rounded() / [1, 7].randomElement(using: &generator)!
            }
            let summary = statistics(.double, values.map { .double($0) } + [.null, .null]).summary
            #expect(summary.rows == values.count + 2 && summary.nulls == 2)
            #expect(summary.minimum == .double(values.min()! + 0) && summary.maximum == .double(values.max()! + 0))
            var sum = ExactSum()
            for value in values { sum.add(value) }
            #expect(summary.mean == sum.roundedDouble()! / Double(values.count))
            let sorted = values.sorted()
            for quantile in try #require(summary.quantiles) {
                let exact = sorted[Int((quantile.probability * Double(values.count - 1)).rounded(.down))]
                #expect(abs(quantile.value - exact) <= 0.010_001 * abs(exact))
            }
            // Every value lies in the bin that its number says.
            var before = -Double.infinity
            for bin in try #require(summary.bins) {
                let end = bin.upTo ?? .infinity
                #expect(values.count { $0 > before && $0 <= end } == bin.rows)
                before = end
            }
            #expect(summary.bins!.count <= 10 && summary.bins!.last!.upTo == nil)
        }
    }

    @Test func decilesHoldTenths() throws {
        let summary = statistics(.int, (1...10_000).map { .int($0) }).summary
        let bins = try #require(summary.bins)
        #expect(bins.count == 10)
        // A bin of the sketch is 2 % of its values wide.
        for bin in bins { #expect((800...1_200).contains(bin.rows)) }
        let mostlyZero = statistics(.int, (0..<100).map { .int($0 < 95 ? 0 : $0) }).summary
        #expect(mostlyZero.bins?.first?.upTo == 0 && mostlyZero.bins?.first?.rows == 95)
    }

    @Test func textsBeyondTheLimit() throws {
        let few = statistics(.string, (0..<3_000).map { .string("v\($0 % 1_000)") } + [.string("v7")])
        #expect(few.summary.distinct == 1_000)
        #expect(few.summary.values?.prefix(2).map(\.value) == ["v7", "v0"])
        #expect(few.summary.values?.prefix(2).map(\.rows) == [4, 3])
        var many = few
        many.merge(statistics(.string, [.string("one more")]))
        #expect(many.summary.distinct == nil && many.summary.values == nil && many.summary.rows == 3_002)
        #expect(many.stabilityIndex(against: few.summary) == nil)
        let long = statistics(.string, (0..<11).map { .string(String(repeating: "x", count: 100_000) + "\($0)") })
        #expect(long.summary.distinct == nil)
        // They differ in their bytes alone.
        #expect(statistics(.string, [.string("e\u{301}"), .string("\u{e9}")]).summary.distinct == 2)
    }

    @Test func manifestsAreReadBack() throws {
        var generator = SeededGenerator()
        for type: FeatureType in [.double, .int, .bool, .string, .intList] {
            for count in [0, 1, 400] {
                let summary = statistics(type, column(type, &generator, count: count)).summary
                let read = try JSONDecoder().decode(ColumnSummary.self, from: Data(summary.json.json.utf8))
                #expect(read == summary)
                #expect(read.json.json == summary.json.json)
            }
        }
        let damaged = #"{"name":"f","type":"int","rows":3,"nulls":1,"bins":[{"up_to":null,"rows":3}]}"#
        #expect(throws: DecodingError.self) { try JSONDecoder().decode(ColumnSummary.self, from: Data(damaged.utf8)) }
        let unknown = #"{"name":"f","type":"decimal","rows":3,"nulls":1}"#
        #expect(throws: DecodingError.self) { try JSONDecoder().decode(ColumnSummary.self, from: Data(unknown.utf8)) }
    }

    @Test func driftIsSeen() throws {
        var generator = SeededGenerator()
        func normal(_ mean: Double, _ count: Int) -> [FeatureValue] {
            (0..<count).map { _ in .double(mean + (0..<12).reduce(-6) { sum, _ in sum + Double.random(in: 0..<1, using: &generator) }) }
        }
        func index(_ values: [FeatureValue], _ reference: [FeatureValue]) throws -> Double {
            let type: FeatureType = if case .string = reference[0] { .string } else { .double }
            return try #require(statistics(type, values).stabilityIndex(against: statistics(type, reference).summary))
        }
        let reference = normal(5, 20_000)
        #expect(try index(reference, reference) == 0)
        #expect(try index(normal(5, 5_000), reference) < 0.02)
        // A shift by one standard deviation: of deciles the theory says about 1.
        #expect((0.7...1.2).contains(try index(normal(6, 5_000), reference)))
        let nulls = normal(5, 3_000) + Array(repeating: FeatureValue.null, count: 3_000)
        #expect(try index(nulls, reference) > 1)
        let texts: [FeatureValue] = (0..<1_000).map { .string($0 % 4 == 0 ? "a" : "b") }
        #expect(try index(texts.reversed(), texts) == 0)
        #expect(try index(texts.map { $0 == .string("a") ? .string("new") : $0 }, texts) > 0.25)
        #expect(statistics(.double, reference).stabilityIndex(against: statistics(.string, texts).summary) == nil)
    }
}
