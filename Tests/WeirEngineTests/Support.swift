import WeirEngine
import WeirTesting

extension TimeTree {
    /// Inserts rows in any order, in batches of any size up to a share of `count`.
    func insertInAnyOrder(_ rows: EventRows, of count: Int, using random: inout SeededGenerator) throws {
        var order = Array(0..<rows.count).shuffled(using: &random)
        while !order.isEmpty {
            var part = EventRows(like: rows)
            for row in order.prefix(Int.random(in: 1...max(1, count / 4), using: &random)) { part.append(rows, row: row) }
            order.removeFirst(part.count)
            try insert(part.sorted())
        }
    }
}
