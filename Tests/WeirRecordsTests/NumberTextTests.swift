import Testing
import WeirRecords
import WeirTesting

struct NumberTextTests {
    private func text(_ value: Double) -> String {
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: NumberText.bytesMax) { out in
            let count = NumberText.write(value, to: out.baseAddress!)
            return String(decoding: UnsafeBufferPointer(rebasing: out[..<count]), as: UTF8.self)
        }
    }

    /// Decimals of every size, their neighbours, and any bits: as Swift writes them.
    @Test func doublesAreWrittenAsSwiftDoes() {
        var random = SeededGenerator()
        print("doublesAreWrittenAsSwiftDoes(): WEIR_TEST_SEED=\(random.seed)")
        var values: [Double] = [
            0, -0.0, 1, -1, 0.1, 0.01, 0.001, 0.0001, 0.00001, 1e11, 99_999_999_999.99, 1e15, 1e16, 0.1 + 0.2, 1.0 / 3, .pi,
        ]
        values += [.leastNonzeroMagnitude, .greatestFiniteMagnitude, .leastNormalMagnitude, 9_007_199_254_740_992, 123_456.7891]
        for _ in 0..<200_000 {
            let digits = Double(
                Int64.random(in: -1_000_000_000_000_000...1_000_000_000_000_000, using: &random) >> Int64.random(in: 0..<50, using: &random)
            )
            let decimal = digits / [1, 10, 100, 1_000, 10_000, 100_000].randomElement(using: &random)!
            values += [decimal, decimal.nextUp, decimal.nextDown]
            let any = Double(bitPattern: random.next())
            if any.isFinite { values.append(any) }
        }
        for value in values where text(value) != value.description {
            Issue.record("\(value.description) is written as \(text(value))")
            return
        }
    }

    @Test func integers() {
        var random = SeededGenerator()
        print("integers(): WEIR_TEST_SEED=\(random.seed)")
        var values: [Int64] = [0, 9, 10, 99, 100, -1, -10, .max, .min, 999_999_999_999_999_999, 1_000_000_000_000_000_000]
        for _ in 0..<10_000 { values.append(Int64(bitPattern: random.next()) >> Int64.random(in: 0..<63, using: &random)) }
        for value in values {
            withUnsafeTemporaryAllocation(of: UInt8.self, capacity: NumberText.bytesMax) { out in
                let count = NumberText.write(value, to: out.baseAddress!)
                #expect(String(decoding: UnsafeBufferPointer(rebasing: out[..<count]), as: UTF8.self) == String(value))
            }
        }
    }
}
