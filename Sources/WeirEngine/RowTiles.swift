import WeirAlgebra

/// Partials of aligned spans of an entity's rows, made when they are first needed: a long range of rows costs a few merges, however many
/// evaluations ask for ranges of the same rows. What `TimeTree` is for stored events this is for rows in memory.
final class RowTiles<A: Accumulation> {
    /// Rows of the smallest tile, and tiles of one of the next level: two to the power of this.
    private static var baseBits: Int { 4 }
    private static var base: Int { 1 << baseBits }
    /// What shorter ranges are made of costs no less than their rows.
    static var rowsMin: Int { base * 2 }

    @exclusivity(unchecked) private var accumulation: A
    @exclusivity(unchecked) private var firstRow = 0
    /// Level by level; the one at `starts[l] + i` holds the rows from `i · base^(l + 1)` on, counted from the first.
    @exclusivity(unchecked) private var tiles: [A.Partial?] = []
    @exclusivity(unchecked) private var starts: [Int] = []

    init(_ accumulation: A) { self.accumulation = accumulation }

    /// Forgets the tiles, for other rows.
    func begin(_ rows: Range<Int>, _ accumulation: A) {
        self.accumulation = accumulation
        firstRow = rows.lowerBound
        starts.removeAll(keepingCapacity: true)
        var count = 0
        while rows.count >> Self.bits(starts.count) > 0 {
            let tiles = rows.count >> Self.bits(starts.count)
            starts.append(count)
            count += tiles
        }
        tiles.removeAll(keepingCapacity: true)
        tiles.append(contentsOf: repeatElement(nil, count: count))
    }

    /// Adds the partial of some of the rows.
    ///
    /// - Parameter fold: adds a few rows.
    @inline(__always)
    func add(_ range: Range<Int>, to partial: inout A.Partial, fold: (Range<Int>, inout A.Partial) -> Void) {
        add(range.lowerBound - firstRow..<range.upperBound - firstRow, level: starts.count - 1, &partial, fold)
    }

    /// The logarithm of how many rows a tile of a level has.
    private static func bits(_ level: Int) -> Int { baseBits * (level + 1) }

    private func add(_ range: Range<Int>, level: Int, _ partial: inout A.Partial, _ fold: (Range<Int>, inout A.Partial) -> Void) {
        if range.isEmpty { return }
        guard level >= 0 else { return fold(range.lowerBound + firstRow..<range.upperBound + firstRow, &partial) }
        let bits = Self.bits(level)
        let first = (range.lowerBound + 1 << bits - 1) >> bits
        let last = range.upperBound >> bits
        guard first < last else { return add(range, level: level - 1, &partial, fold) }
        add(range.lowerBound..<first << bits, level: level - 1, &partial, fold)
        for index in first..<last { accumulation.merge(tile(level, index, fold), into: &partial) }
        add(last << bits..<range.upperBound, level: level - 1, &partial, fold)
    }

    private func tile(_ level: Int, _ index: Int, _ fold: (Range<Int>, inout A.Partial) -> Void) -> A.Partial {
        if let known = tiles[starts[level] + index] { return known }
        var made = accumulation.empty
        if level == 0 {
            let start = firstRow + index << Self.baseBits
            fold(start..<start + Self.base, &made)
        } else {
            for part in 0..<Self.base { accumulation.merge(tile(level - 1, index << Self.baseBits + part, fold), into: &made) }
        }
        tiles[starts[level] + index] = made
        return made
    }
}
