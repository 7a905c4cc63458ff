import Testing
import WeirAlgebra
import WeirTesting

/// Every accumulation against the monoid laws, on values chosen to hurt: ties, cancellation, subnormals, huge magnitudes.
@Suite struct LawTests {
    static let seed = SeededGenerator("LawTests").seed

    static func times(_ n: Int, _ random: inout SeededGenerator) -> [EventTime] {
        // Few different times, so that ids decide.
        (0..<n).map { _ in EventTime(microseconds: Int64.random(in: -20...20, using: &random) * 1_000_003) }
    }

    static func events<Input>(_ n: Int, _ make: (inout SeededGenerator) -> Input) -> [AggregationLaws.Event<Input>] {
        var random = SeededGenerator(seed: seed)
        let times = times(n, &random)
        return times.enumerated().map { .init(time: $1, id: "e\($0)", input: make(&random)) }
    }

    static func double(_ random: inout SeededGenerator) -> Double {
        switch Int.random(in: 0..<6, using: &random) {
        case 0: return Double(Int.random(in: -500...500, using: &random)) / 100
        case 1: return Double(sign: .plus, exponent: Int.random(in: -1_074...1_000, using: &random), significand: 1.5)
        case 2: return -Double.greatestFiniteMagnitude / 4
        case 3: return Double.leastNonzeroMagnitude
        case 4: return Double.random(in: -1...1, using: &random)
        default: return 0
        }
    }

    static func check<A: Accumulation>(_ accumulation: A, _ events: [AggregationLaws.Event<A.Input>]) {
        let violations = AggregationLaws.violations(of: accumulation, events: events, seed: seed)
        #expect(violations.isEmpty, "\(A.self): \(violations.prefix(3)), seed \(seed)")
    }

    static func checkText<A: Accumulation>(_ accumulation: A, _ events: [AggregationLaws.Event<String>]) where A.Input == Text {
        let violations = AggregationLaws.violations(of: accumulation, events: events, seed: seed) { text, body in
            var text = text
            text.withUTF8 { body(Text(UnsafeRawBufferPointer($0))) }
        }
        #expect(violations.isEmpty, "\(A.self): \(violations.prefix(3)), seed \(seed)")
    }

    @Test func numbers() {
        let doubles = Self.events(200, Self.double)
        Self.check(CountAccumulation<Double>(), doubles)
        Self.check(SumAccumulation<Double>(), doubles)
        Self.check(PowerSumAccumulation<Double>(), doubles)
        Self.check(ExtremumAccumulation<Double>(.minimum), doubles)
        Self.check(ExtremumAccumulation<Double>(.maximum), doubles)
        Self.check(EdgeAccumulation<Double>(.first, 3), doubles)
        Self.check(EdgeAccumulation<Double>(.last, 5), doubles)
        Self.check(DistinctAccumulation<Double>(exactUpTo: 20), doubles)
        Self.check(QuantileAccumulation<Double>(), doubles)
        Self.check(DecayedSumAccumulation(halfLife: 3_600_000_000), doubles)
        Self.check(DecayedSumAccumulation(halfLife: 7), doubles)
    }

    @Test func integersAndTexts() {
        let integers = Self.events(300) { Int64.random(in: -(1 << 62)...(1 << 62), using: &$0) }
        Self.check(SumAccumulation<Int64>(), integers)
        Self.check(PowerSumAccumulation<Int64>(), integers)
        Self.check(ExtremumAccumulation<Int64>(.minimum), integers)
        Self.check(ValueCountAccumulation<Int64>(limit: 100), integers)
        Self.check(DistinctAccumulation<Int64>(), integers)
        Self.check(QuantileAccumulation<Int64>(), integers)
        let texts = Self.events(300) { random in ["", "a", "A", "é", "e\u{301}", "zz", "😀"].randomElement(using: &random)! }
        Self.checkText(ExtremumAccumulation<Text>(.maximum), texts)
        Self.checkText(EdgeAccumulation<Text>(.last, 4), texts)
        Self.checkText(ValueCountAccumulation<Text>(limit: 1_000), texts)
        Self.checkText(ValueCountAccumulation<Text>(limit: 3), texts)
        Self.checkText(DistinctAccumulation<Text>(), texts)
    }

    /// A checker that cannot fail proves nothing.
    @Test func aBrokenAccumulationIsFound() {
        struct LastArrival: Accumulation {
            var signature: String { "broken" }
            var empty: Double { 0 }
            func add(_ input: Double, at position: EventPosition, to partial: inout Double) { partial = input }
            func merge(_ other: Double, into partial: inout Double) { partial = other }
            func encode(_ partial: Double, into writer: inout ByteWriter) { writer.write(partial) }
            func decode(_ reader: inout ByteReader) throws(FormatError) -> Double { try reader.readDouble() }
        }
        #expect(!AggregationLaws.violations(of: LastArrival(), events: Self.events(50, Self.double), seed: 1).isEmpty)
    }

    /// Bytes that nobody wrote end in an error or in a partial, never in a trap.
    @Test func hostileBytes() {
        var random = SeededGenerator(seed: Self.seed)
        func attack<A: Accumulation>(_ accumulation: A, _ sample: A.Partial) {
            var writer = ByteWriter()
            accumulation.encode(sample, into: &writer)
            for _ in 0..<2_000 {
                var bytes =
                    Bool.random(using: &random)
                    ? writer.bytes : (0..<Int.random(in: 0..<40, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
                if !bytes.isEmpty {
                    for _ in 0..<Int.random(in: 0..<4, using: &random) {
                        bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
                    }
                    if Bool.random(using: &random) { bytes.removeLast(Int.random(in: 0...bytes.count, using: &random)) }
                }
                bytes.withUnsafeBytes { raw in
                    var reader = ByteReader(raw)
                    if let partial = try? accumulation.decode(&reader) {
                        var merged = partial
                        accumulation.merge(sample, into: &merged)
                    }
                }
            }
        }
        func partial<A: Accumulation>(_ accumulation: A, _ values: [A.Input]) -> A.Partial {
            var partial = accumulation.empty
            for (index, value) in values.enumerated() {
                accumulation.add(
                    value, at: EventPosition(time: EventTime(microseconds: Int64(index)), id: UnsafeRawBufferPointer(start: nil, count: 0)),
                    to: &partial)
            }
            return partial
        }
        let values = (0..<40).map { Double($0) * 0.37 - 3 }
        attack(SumAccumulation<Double>(), partial(SumAccumulation(), values))
        attack(PowerSumAccumulation<Double>(), partial(PowerSumAccumulation(), values))
        attack(EdgeAccumulation<Double>(.last, 5), partial(EdgeAccumulation(.last, 5), values))
        attack(DistinctAccumulation<Double>(exactUpTo: 30), partial(DistinctAccumulation(exactUpTo: 30), values))
        attack(DistinctAccumulation<Double>(), partial(DistinctAccumulation(), values))
        attack(QuantileAccumulation<Double>(), partial(QuantileAccumulation(), values))
        attack(ValueCountAccumulation<Int64>(), partial(ValueCountAccumulation(), values.map { Int64($0) }))
        attack(DecayedSumAccumulation(halfLife: 3), partial(DecayedSumAccumulation(halfLife: 3), values))
    }

    /// A few bytes that announce a place far away must not take the memory up to there.
    @Test(arguments: [Int64(1) << 59, -(1 << 59), 100, -100]) func sumsOutOfReach(base: Int64) {
        var writer = ByteWriter()
        writer.writeVarint(1)
        writer.writeSignedVarint(base)
        writer.write(UInt32(7))
        _ = writer.bytes.withUnsafeBytes { raw in
            #expect(throws: FormatError.self) {
                var reader = ByteReader(raw)
                _ = try ExactSum(decoding: &reader)
            }
        }
    }
}
