import Testing
import WeirAlgebra
import WeirTesting

@Suite struct ValueTests {
    static var noID: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }

    func value<G: Aggregation>(_ aggregation: G, _ values: [G.Accumulator.Input], at time: EventTime = EventTime(microseconds: 0))
        -> AggregateResult<G.Value>
    {
        var partial = aggregation.accumulator.empty
        for (index, value) in values.enumerated() {
            aggregation.accumulator.add(value, at: EventPosition(time: EventTime(microseconds: Int64(index)), id: Self.noID), to: &partial)
        }
        return aggregation.value(of: partial, at: time)
    }

    func isNull<T>(_ result: AggregateResult<T>) -> Bool { if case .null = result { true } else { false } }

    @Test func withoutEvents() {
        #expect(value(Count<Double>(), []) == .value(0))
        #expect(value(Sum<Double>(), []) == .value(0))
        #expect(value(Sum<Int64>(), []) == .value(0))
        #expect(value(LastN<Double>(3), []) == .value([]))
        #expect(value(FirstN<Double>(3), []) == .value([]))
        #expect(value(TopK<Int64>(3), []) == .value([]))
        #expect(value(DistinctCount<Double>(), []) == .value(0))
        #expect(value(DecayedSum(halfLife: 5), []) == .value(0))
        #expect(isNull(value(Mean<Double>(), [])))
        #expect(isNull(value(Minimum<Double>(), [])))
        #expect(isNull(value(Maximum<Int64>(), [])))
        #expect(isNull(value(Variance<Double>(), [1])))
        #expect(isNull(value(StandardDeviation<Double>(), [1])))
        #expect(isNull(value(First<Double>(), [])))
        #expect(isNull(value(Last<Double>(), [])))
        #expect(isNull(value(Quantile<Double>(0.5), [])))
    }

    /// What Python's `math.fsum` returns for the hard cases of its own test suite.
    @Test func sumsAreExact() {
        #expect(value(Sum<Double>(), [0.1, 0.2, 0.3]) == .value(0.6))
        #expect(value(Sum<Double>(), [1e100, 1, -1e100]) == .value(1))
        #expect(value(Sum<Double>(), [1e16, 1, 1e-16]) == .value(10_000_000_000_000_002))
        #expect(value(Sum<Double>(), [1e308, 1e308, -1e308]) == .value(1e308))
        #expect(value(Sum<Double>(), [1e308, 1e308]) == .overflow)
        #expect(
            value(Sum<Double>(), [Double.leastNonzeroMagnitude, Double.leastNonzeroMagnitude]) == .value(2 * Double.leastNonzeroMagnitude))
        // Half of the last place, to even; and a little more than half.
        #expect(value(Sum<Double>(), [1, 1.1102230246251565e-16]) == .value(1))
        #expect(value(Sum<Double>(), [1, 1.1102230246251565e-16, Double.leastNonzeroMagnitude]) == .value(1.0000000000000002))
        #expect(value(Sum<Double>(), [-1, -1.1102230246251565e-16, -Double.leastNonzeroMagnitude]) == .value(-1.0000000000000002))
        #expect(value(Mean<Double>(), [0.1, 0.2, 0.3]) == .value(0.6 / 3))
        #expect(value(Sum<Int64>(), [.max, 1, -1]) == .value(Int.max))
        #expect(value(Sum<Int64>(), [.max, 1]) == .overflow)
        #expect(value(Sum<Int64>(), [.min, -1]) == .overflow)
    }

    /// The way in 256 bits and the one in numbers of any size round alike, and stored squares are as good as added ones.
    @Test func bothWaysToAVarianceAgree() throws {
        var random = SeededGenerator("bothWaysToAVarianceAgree")
        let seed = random.seed
        var near = 0
        for round in 0..<3_000 {
            // Half of the square of an odd number of 27 bits lies in the middle between two doubles.
            let tie = [0, Double(Int.random(in: 47_500_000..<67_000_000, using: &random) * 2 + 1)]
            let values =
                round % 7 == 6
                ? tie
                : (0..<Int.random(in: 2...60, using: &random)).map { _ -> Double in
                    switch round % 7 {
                    case 0: (Double.random(in: 0...200, using: &random) * 100).rounded() / 100
                    case 1: Double.random(in: -1e9...1e9, using: &random)
                    case 2: 1e6 + Double.random(in: 0...1e-6, using: &random)
                    case 3: Double(Int.random(in: -3...3, using: &random)) * 0.25
                    case 4: Double(sign: .minus, exponent: Int.random(in: -90...60, using: &random), significand: 1.1)
                    default: Double.random(in: 0.9...1, using: &random) * (Bool.random(using: &random) ? 1e12 : 1e-9)
                    }
                }
            let accumulation = PowerSumAccumulation<Double>()
            var partial = accumulation.empty
            let position = EventPosition(time: EventTime(microseconds: 0), id: UnsafeRawBufferPointer(start: nil, count: 0))
            for value in values { accumulation.add(value, at: position, to: &partial) }
            let exact = exactVariance(count: partial.count, sum: partial.sum, squares: partial.squares.sum)
            var writer = ByteWriter()
            accumulation.encode(partial, into: &writer)
            let stored = try writer.bytes.withUnsafeBytes { bytes in
                var reader = ByteReader(bytes)
                return try accumulation.decode(&reader)
            }
            #expect(stored == partial, "seed \(seed), round \(round)")
            for squares in [partial.squares, stored.squares] {
                guard let variance = squares.nearVariance(count: partial.count, sum: partial.sum) else { continue }
                near += 1
                #expect(variance.bitPattern == exact?.bitPattern, "seed \(seed), round \(round), \(values)")
            }
        }
        #expect(near > 3_000)
    }

    @Test func varianceDoesNotCancel() {
        #expect(value(Variance<Double>(), [1e300, 1e300, 1e300]) == .value(0))
        #expect(value(Variance<Double>(), [0.1, 0.1, 0.1]) == .value(0))
        #expect(value(Variance<Double>(), [1e9 + 1, 1e9 + 2, 1e9 + 3]) == .value(1))
        #expect(value(Variance<Int64>(), [.max, .max - 2]) == .value(2))
        #expect(value(StandardDeviation<Double>(), [2, 4, 4, 4, 5, 5, 7, 9]) == .value(4.571428571428571.squareRoot()))
        #expect(value(Variance<Double>(), [-1e200, 1e200]) == .overflow)
    }

    /// Sums of random doubles against exact integer arithmetic: multiples of 2^-40, added in 128 bits.
    @Test func sumsAgainstIntegers() {
        var random = SeededGenerator()
        let seed = random.seed
        for _ in 0..<200 {
            let numbers = (0..<Int.random(in: 1...300, using: &random)).map { _ in Int64.random(in: -(1 << 52)...(1 << 52), using: &random)
            }
            let exact = numbers.reduce(Int128(0)) { $0 + Int128($1) }
            let result = value(Sum<Double>(), numbers.map { Double($0) / 1_099_511_627_776 })
            // Below 2^61 the conversion of the exact integer rounds once, as the sum must.
            #expect(result == .value(Double(Int64(exact)) / 1_099_511_627_776), "seed \(seed)")
        }
    }

    @Test func sumsFormAGroup() {
        var random = SeededGenerator(seed: 7)
        var a = ExactSum()
        var b = ExactSum()
        for _ in 0..<1_000 {
            a.add(LawTests.double(&random))
            b.add(LawTests.double(&random))
        }
        var sum = a
        sum.add(b)
        sum.subtract(b)
        #expect(sum == a)
        sum.subtract(a)
        #expect(sum.isZero)
        #expect(sum.roundedDouble() == 0)
    }

    @Test func quantilesAreWithinOnePercent() {
        var random = SeededGenerator(seed: 3)
        for _ in 0..<50 {
            let values = (0..<Int.random(in: 1...400, using: &random)).map { _ -> Double in
                let magnitude = Double(
                    sign: .plus, exponent: Int.random(in: -28...48, using: &random), significand: Double.random(in: 1..<2, using: &random))
                return Bool.random(using: &random) ? magnitude : Int.random(in: 0..<9, using: &random) == 0 ? 0 : -magnitude
            }
            for q in [0, 0.1, 0.5, 0.9, 0.99, 1] {
                let exact = values.sorted()[Int((q * Double(values.count - 1)).rounded(.down))]
                guard case .value(let estimate) = value(Quantile<Double>(q), values) else {
                    Issue.record("no quantile")
                    continue
                }
                #expect(abs(estimate - exact) <= abs(exact) * 0.010_000_001, "\(q) of \(values.count): \(estimate) for \(exact)")
            }
        }
    }

    @Test func distinctCountsAreExactThenClose() {
        let exact = (0..<512).map { Int64($0) }
        #expect(value(DistinctCount<Int64>(), exact + exact) == .value(512))
        for n in [513, 5_000, 200_000] {
            guard case .value(let estimate) = value(DistinctCount<Int64>(), (0..<n).map { Int64($0) }) else { continue }
            // Five standard errors.
            #expect(abs(estimate - n) < Int(Double(n) * 0.016 * 5) + 1, "\(estimate) for \(n)")
        }
    }

    @Test func topValuesBreakTiesByValue() {
        #expect(value(TopK<Int64>(3), [5, 5, 1, 1, 9, 2]) == .value([1, 5, 2]))
        #expect(value(TopK<Int64>(2, limit: 2), [1, 2, 3]) == .limit)
        guard case .value(let histogram) = value(Histogram<Int64>(), [10, 9, 10]) else { return }
        #expect(histogram.featureValue == .map([.init(key: "10", value: .int(2)), .init(key: "9", value: .int(1))]))
    }

    @Test func decayHalves() {
        // Added at 0 µs, 1 µs, …: with a half-life of 1 µs each counts half of the next.
        #expect(value(DecayedSum(halfLife: 1), [8, 8, 8], at: EventTime(microseconds: 2)) == .value(8 + 4 + 2))
        #expect(value(DecayedSum(halfLife: 1), [8], at: EventTime(microseconds: 3)) == .value(1))
        // 2^(−1/2), to the last bit.
        #expect(value(DecayedSum(halfLife: 2), [1], at: EventTime(microseconds: 1)) == .value(0.7071067811865476))
        #expect(value(DecayedSum(halfLife: 1), [1], at: EventTime(microseconds: -1_000)) == .value(1.0715086071862673e+301))
    }

    @Test func hashesAreStable() {
        #expect(StableHash.xxh64("") == 0xEF46_DB37_51D8_E999)
        #expect(StableHash.xxh64("a") == 0xD24E_C4F1_A98C_6E5B)
        #expect(StableHash.xxh64("abc") == 0x44BC_2CF5_AD77_0999)
        // Vectors of Kafka's own tests.
        let vectors: [(String, Int32)] = [("21", -973_932_308), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)]
        for (text, hash) in vectors {
            #expect(Array(text.utf8).withUnsafeBytes { Int32(bitPattern: Murmur2.hash($0)) } == hash)
        }
    }

    @Test func windows() {
        func bounds(_ window: Window, _ t: Int64) -> [Int64] {
            window.bounds(at: EventTime(microseconds: t)).map { [$0.start.microseconds, $0.end.microseconds] } ?? []
        }
        let second: Int64 = 1_000_000
        #expect(bounds(.sliding(.seconds(5)), 7 * second + 1) == [2 * second + 1, 7 * second + 1])
        #expect(bounds(.hopping(.seconds(5), every: .seconds(2)), 8 * second) == [2 * second, 8 * second])
        #expect(bounds(.tumbling(.seconds(5)), -1) == [-5 * second, -1])
        #expect(bounds(.tumbling(.seconds(5)), 5 * second) == [5 * second, 5 * second])
        #expect(bounds(.tumbling(.seconds(5)).previous, 5 * second) == [0, 5 * second])
        #expect(Window.sliding(.zero).problem != nil)
        #expect(Window.sliding(.seconds(-1)).problem != nil)
        #expect(Window.sliding(.nanoseconds(1)).problem != nil)
        #expect(Window.hopping(.seconds(1), every: .seconds(2)).problem != nil)
        #expect(Window.sliding(.seconds(1)).previous.problem != nil)
    }
}

@Suite struct SketchBinTests {
    /// The table that finds bins knows every bound.
    @Test func boundsAreWhereTheyWere() {
        for number in Int32(1)..<Int32(SketchBins.count) {
            let end = SketchBins.upperEnd(of: number)
            #expect(SketchBins.number(of: end) == number && SketchBins.number(of: end.nextUp) == number + 1)
            #expect(SketchBins.number(of: -end) == -number && SketchBins.number(of: (-end).nextDown) == -number - 1)
            let below = SketchBins.upperEnd(of: -number)
            #expect(SketchBins.number(of: below) == -number)
            #expect(SketchBins.number(of: below.nextUp) == (number == 1 ? 0 : 1 - number))
        }
        #expect(SketchBins.number(of: .greatestFiniteMagnitude) == Int32(SketchBins.count))
        #expect(SketchBins.number(of: .leastNonzeroMagnitude) == 1 && SketchBins.number(of: -0.0) == 0)
    }
}
