import WeirAlgebra

/// Partials of aligned spans of an entity's rows, made when they are first needed: a long range of rows costs a few merges, however many
/// evaluations ask for ranges of the same rows. What `TimeTree` is for stored events this is for rows in memory.
final class RowTiles<A: Accumulation> {
    /// Rows of the smallest tile, and tiles of one of the next level.
    static var base: Int { 16 }

    private let rows: Range<Int>
    /// `levels[l][i]` holds the rows from `i · base^(l + 1)` on, counted from the first.
    private var levels: [[A.Partial?]] = []

    init(_ rows: Range<Int>) {
        self.rows = rows
        var size = Self.base
        while size <= rows.count {
            levels.append(Array(repeating: nil, count: rows.count / size))
            size *= Self.base
        }
    }

    /// Adds the partial of some of the rows.
    ///
    /// - Parameter fold: the partial of a few rows.
    func add(_ range: Range<Int>, to partial: inout A.Partial, merge: (A.Partial, inout A.Partial) -> Void, fold: (Range<Int>) -> A.Partial)
    {
        let range = range.lowerBound - rows.lowerBound..<range.upperBound - rows.lowerBound
        add(range, level: levels.count - 1, &partial, merge, fold)
    }

    private func add(
        _ range: Range<Int>, level: Int, _ partial: inout A.Partial, _ merge: (A.Partial, inout A.Partial) -> Void,
        _ fold: (Range<Int>) -> A.Partial
    ) {
        if range.isEmpty { return }
        guard level >= 0 else {
            return merge(fold(range.lowerBound + rows.lowerBound..<range.upperBound + rows.lowerBound), &partial)
        }
        let size = Self.size(level)
        let first = (range.lowerBound + size - 1) / size
        let last = range.upperBound / size
        guard first < last else { return add(range, level: level - 1, &partial, merge, fold) }
        add(range.lowerBound..<first * size, level: level - 1, &partial, merge, fold)
        for index in first..<last { merge(tile(level, index, merge, fold), &partial) }
        add(last * size..<range.upperBound, level: level - 1, &partial, merge, fold)
    }

    private static func size(_ level: Int) -> Int {
        var size = base
        for _ in 0..<level { size *= base }
        return size
    }

    private func tile(
        _ level: Int, _ index: Int, _ merge: (A.Partial, inout A.Partial) -> Void, _ fold: (Range<Int>) -> A.Partial
    ) -> A.Partial {
        if let known = levels[level][index] { return known }
        let size = Self.size(level)
        var made: A.Partial
        if level == 0 {
            made = fold(index * size + rows.lowerBound..<(index + 1) * size + rows.lowerBound)
        } else {
            made = tile(level - 1, index * Self.base, merge, fold)
            for part in 1..<Self.base { merge(tile(level - 1, index * Self.base + part, merge, fold), &made) }
        }
        levels[level][index] = made
        return made
    }
}
