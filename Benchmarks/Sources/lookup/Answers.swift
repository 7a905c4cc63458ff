import Support

/// Answers that were read, to be compared with brute force.
struct Answers {
    private struct Answer {
        /// Of pushed events, and other ones that count.
        var key: Int
        var events: ArraySlice<PricedEvent>
        /// The clock before the request was sent, and after its reply had come.
        var from: Int64
        var to: Int64
        var values: [Double?]
    }

    private var answers: [Answer] = []
    /// After this time an acknowledged event must be visible.
    private let visibleWithin: Int64 = 2_000_000

    /// - Parameter key: the pushed events' that count for the answer.
    /// - Parameter events: others that do.
    /// - Throws: where the reply is not an array.
    mutating func read(
        _ command: [String], from connection: Connection, key: Int, events: ArraySlice<PricedEvent>,
        values: ([Reply]) throws -> [Reply] = { $0 }
    ) throws {
        let from = wallClock()
        let reply = try connection.ask(command)
        let to = wallClock()
        answers.append(Answer(key: key, events: events, from: from, to: to, values: try values(try reply.items()).map(\.number)))
    }

    /// - Parameter values: the answer's values by the totals of the windows; nil in the answer is null.
    /// - Throws: naming the first answer that is none of those that are possible.
    func check(_ windows: [Int64], live: LiveStream, values: ([Totals]) -> [Double?]) throws {
        let live = live.entries(of: Set(answers.map(\.key)))
        for answer in answers {
            let sent = (live[answer.key] ?? []).filter { $0.sent <= answer.to }
            let certain = sent.count { $0.acknowledged > 0 && $0.acknowledged < answer.from - visibleWithin }
            let possible = SlidingTotals.possible(
                windows, events: answer.events, live: sent.map(\.event), certain: certain, from: answer.from, to: answer.to
            ).map(values)
            guard possible.contains(answer.values) else {
                throw BenchmarkFailure("a wrong answer for \(answer.key): \(answer.values) instead of \(possible.last ?? [])")
            }
        }
    }
}
