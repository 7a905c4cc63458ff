import Testing
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirTesting

/// The order of keys, and runs of keys in a leaf, against comparisons of whole texts: around eight bytes, which are compared as a number.
@Suite struct KeyOrderTests {
    /// Keys that share beginnings, some of them zeros, and a null now and then.
    static func keys(_ count: Int, _ random: inout SeededGenerator, nulls: Bool = true) -> [[UInt8]?] {
        (0..<count).map { _ in
            if nulls, Int.random(in: 0..<20, using: &random) == 0 { return nil }
            let length = [0, 1, 2, 7, 8, 9, 12].randomElement(using: &random)!
            return (0..<length).map { _ in [0, 97, 98].randomElement(using: &random)! }
        }
    }

    static func column(_ keys: [[UInt8]?]) -> ColumnBuffer {
        var column = ColumnBuffer(type: .text)
        for key in keys { if let key { key.withUnsafeBytes { column.append(text: $0) } } else { column.appendNull() } }
        return column
    }

    static func precedes(_ a: [UInt8], _ b: [UInt8]) -> Bool { a.lexicographicallyPrecedes(b) }

    @Test(arguments: 0..<20)
    func partsThatAreMergedAreTheOrderOfAll(seed: Int) {
        var random = SeededGenerator(seed: UInt64(seed))
        let keys = Self.keys(400, &random)
        let times = keys.map { _ in Int64.random(in: 0..<4, using: &random) }
        let column = Self.column(keys)
        let expected = keys.indices.filter { keys[$0] != nil }.sorted { a, b in
            if keys[a]! != keys[b]! { return Self.precedes(keys[a]!, keys[b]!) }
            return times[a] != times[b] ? times[a] < times[b] : a < b
        }
        let cut = Int.random(in: 0...400, using: &random)
        let merged = KeyOrder(0..<cut, keys: column, times: times)
            .merged(with: KeyOrder(cut..<400, keys: column, times: times), keys: column)
        #expect(merged.rows == expected, "seed \(seed)")
        #expect(KeyOrder(0..<400, keys: column, times: times).rows == expected, "seed \(seed)")
        var place = 0
        while place < merged.count {
            let end = merged.endOfKey(place, column)
            let key = keys[merged.row(place)]
            #expect((place..<end).allSatisfy { keys[merged.row($0)] == key }, "seed \(seed)")
            #expect(end == merged.count || keys[merged.row(end)] != key, "seed \(seed)")
            place = end
        }
    }

    @Test(arguments: 0..<20)
    func runsOfKeysStandToOthersAsTheirTextsDo(seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed))
        // All of some leaves' keys begin the same, so that they have a prefix in common.
        let beginning = [UInt8](repeating: 98, count: [0, 3, 8, 10][seed % 4])
        let keys = Self.keys(200, &random, nulls: false).map { beginning + $0! }.sorted(by: Self.precedes)
        let columns = [ViewPlan.Column(signature: "key", type: .text)]
        var rows = EventRows(columns: columns)
        rows.fill(times: keys.map { _ in 0 })
        rows.columns[0] = Self.column(keys)
        try rows.encodedLeaf().withUnsafeBytes { bytes in
            let leaf = try LeafView(bytes, columns: columns)
            let texts = try #require(leaf.texts(column: 0))
            var runs: [TextRun] = []
            texts.findRuns(leaf.count, &runs)
            #expect(runs.map { keys[Int($0.start)] } == keys.indices.filter { $0 == 0 || keys[$0] != keys[$0 - 1] }.map { keys[$0] })
            for end in Self.keys(100, &random, nulls: false) {
                let other = Array(beginning.dropLast(Int.random(in: 0...1, using: &random))) + end!
                let areRight = other.withUnsafeBytes { bytes in
                    runs.allSatisfy { run in
                        let key = keys[Int(run.start)]
                        let expected = key == other ? 0 : Self.precedes(key, other) ? -1 : 1
                        return texts.compare(run, bytes, firstBytes(bytes)).signum() == expected
                    }
                }
                #expect(areRight, "seed \(seed)")
            }
        }
    }
}
