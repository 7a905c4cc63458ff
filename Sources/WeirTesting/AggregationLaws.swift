import WeirAlgebra

/// Checks an accumulation against the laws that make a value independent of order, batches, tiles and shards.
///
/// ```swift
/// let violations = AggregationLaws.violations(of: MyAccumulation(), events: events, seed: 42)
/// #expect(violations.isEmpty, "\(violations)")
/// ```
public enum AggregationLaws {
    /// One event as the accumulation sees it.
    public struct Event<Input: Sendable>: Sendable {
        public var time: EventTime
        public var id: String
        public var input: Input

        public init(time: EventTime, id: String, input: Input) {
            self.time = time
            self.id = id
            self.input = input
        }
    }

    /// The laws that do not hold over these events (of different identities), in words; empty where all do. Partials count as
    /// equal where their stored bytes are.
    ///
    /// - Parameter input: makes the column's value from an event's, for inputs that borrow (`Text`).
    public static func violations<A: Accumulation, Input: Sendable>(
        of accumulation: A, events: [Event<Input>], seed: UInt64, rounds: Int = 20,
        input: (Input, (A.Input) -> Void) -> Void
    ) -> [String] {
        var random = SeededGenerator(seed: seed)
        var violations: [String] = []
        func check(_ law: String, _ a: A.Partial, _ b: A.Partial) {
            if bytes(accumulation, a) != bytes(accumulation, b) { violations.append("\(law) (seed \(seed))") }
        }
        func partial(_ events: [Event<Input>]) -> A.Partial {
            var partial = accumulation.empty
            for event in events { add(accumulation, event, to: &partial, input) }
            return partial
        }
        func merged(_ a: A.Partial, _ b: A.Partial) -> A.Partial {
            var result = a
            accumulation.merge(b, into: &result)
            return result
        }
        let whole = partial(events)
        check("merge(empty, a) = a", merged(accumulation.empty, whole), whole)
        check("merge(a, empty) = a", merged(whole, accumulation.empty), whole)
        for _ in 0..<rounds {
            let shuffled = events.shuffled(using: &random)
            check("any order of events gives the same bytes", partial(shuffled), whole)
            let first = Int.random(in: 0...shuffled.count, using: &random)
            let second = Int.random(in: first...shuffled.count, using: &random)
            let a = partial(Array(shuffled[..<first]))
            let b = partial(Array(shuffled[first..<second]))
            let c = partial(Array(shuffled[second...]))
            check("merge(a, b) = merge(b, a)", merged(a, b), merged(b, a))
            check("merge(a, merge(b, c)) = merge(merge(a, b), c)", merged(a, merged(b, c)), merged(merged(a, b), c))
            check("merging parts equals adding all", merged(merged(c, a), b), whole)
            for part in [a, b, c, whole] {
                let encoded = bytes(accumulation, part)
                do {
                    let decoded = try decode(accumulation, encoded)
                    if bytes(accumulation, decoded) != encoded { violations.append("decode(encode(a)) = a (seed \(seed))") }
                    check("merging decoded parts", merged(decoded, b), merged(part, b))
                } catch {
                    violations.append("decode(encode(a)) failed: \(error) (seed \(seed))")
                }
            }
        }
        return violations
    }

    /// The form for inputs that do not borrow.
    public static func violations<A: Accumulation>(
        of accumulation: A, events: [Event<A.Input>], seed: UInt64, rounds: Int = 20
    ) -> [String] {
        violations(of: accumulation, events: events, seed: seed, rounds: rounds) { $1($0) }
    }

    private static func add<A: Accumulation, Input>(
        _ accumulation: A, _ event: Event<Input>, to partial: inout A.Partial, _ input: (Input, (A.Input) -> Void) -> Void
    ) {
        var id = event.id
        id.withUTF8 { id in
            input(event.input) {
                accumulation.add($0, at: EventPosition(time: event.time, id: UnsafeRawBufferPointer(id)), to: &partial)
            }
        }
    }

    private static func bytes<A: Accumulation>(_ accumulation: A, _ partial: A.Partial) -> [UInt8] {
        var writer = ByteWriter()
        accumulation.encode(partial, into: &writer)
        return writer.bytes
    }

    private static func decode<A: Accumulation>(_ accumulation: A, _ bytes: [UInt8]) throws -> A.Partial {
        try bytes.withUnsafeBytes { raw in
            var reader = ByteReader(raw)
            let partial = try accumulation.decode(&reader)
            guard reader.isAtEnd else { throw FormatError("\(reader.remaining) bytes are left over") }
            return partial
        }
    }
}
