import WeirAlgebra

// Windows that end at the same time lie in each other: the last hour in the last day, that in the last week. So time is cut into bands at
// their starts, and a slot's partial grows from the shortest window to the longest: each event is folded once for all of them.

/// The part of a window that the next shorter one does not have: `[start, end)`.
struct Band {
    /// Of the view's windows.
    let window: Int
    let start: Int64
    let end: Int64
    /// The same end for the session's rows, which count also at exactly the time asked for.
    let overlayEnd: Int64
}

/// A part of a band: a stored partial, or rows of a stored leaf or in memory.
struct Piece {
    enum Source {
        case tile(UnsafeRawBufferPointer)
        case leaf(UnsafeRawBufferPointer)
        /// One of the scratch's `rows`.
        case rows(Int)
        /// Those that the scratch holds.
        case held
    }

    let band: Int
    let source: Source
    /// Empty for a tile.
    let range: Range<Int>
}

/// Memory that evaluations are made in, so that one costs no allocation. For one thread, any number of evaluations of any views.
package final class EvaluationScratch {
    /// In the order of the evaluated features.
    @exclusivity(unchecked) package internal(set) var results: [FeatureResult] = []
    @exclusivity(unchecked) var bands: [Band] = []
    /// In the order of their bands.
    @exclusivity(unchecked) var pieces: [Piece] = []
    @exclusivity(unchecked) var rows: [EventRows] = []
    /// Rows that many evaluations read.
    @exclusivity(unchecked) private(set) var held: RowsView?
    /// Of these, those that many evaluations are made from: long ranges of them are put together from tiles.
    @exclusivity(unchecked) private(set) var tiledRows: Range<Int>?
    /// By slot, each of its own type; and whether it was begun for the rows.
    @exclusivity(unchecked) private var rowTiles: [(tiles: AnyObject, isBegun: Bool)?] = []
    /// Is told what an evaluation merges, where it is to be explained.
    @exclusivity(unchecked) var recorder: EvaluationRecorder?

    package init() {}

    /// Says why the online store cannot answer. False, for windows that it has no answer for.
    @discardableResult
    func leaveToHistory(_ reason: HistoryReason) -> Bool {
        recorder?.historyReason = reason
        return false
    }

    /// Holds rows while some evaluations read them.
    package func hold<R>(_ rows: EventRows, _ body: () throws -> R) rethrows -> R {
        try rows.withView { view in
            held = view
            defer { held = nil }
            return try body()
        }
    }

    /// Says that the evaluations which follow are made from these of the held rows, the same every time; nil: from others every time.
    package func tile(_ rows: Range<Int>?) {
        tiledRows = rows
        for index in rowTiles.indices { rowTiles[index]?.isBegun = false }
    }

    func tiles<T: AnyObject>(_ slot: Int, _ make: () -> T, begin: (T) -> Void) -> T {
        while rowTiles.count <= slot { rowTiles.append(nil) }
        if let known = rowTiles[slot], known.isBegun { return unsafeDowncast(known.tiles, to: T.self) }
        // Those of another view may be of another type.
        let tiles = rowTiles[slot]?.tiles as? T ?? make()
        begin(tiles)
        rowTiles[slot] = (tiles, true)
        return tiles
    }

    func begin() {
        bands.removeAll(keepingCapacity: true)
        pieces.removeAll(keepingCapacity: true)
    }

    func add(_ band: Int, _ source: Piece.Source, _ range: Range<Int> = 0..<0) {
        pieces.append(Piece(band: band, source: source, range: range))
    }

    /// Adds the parts of rows that lie in the bands.
    ///
    /// - Parameters:
    ///   - range: the rows that there are; nil for all.
    ///   - areSession: whether they are the session's.
    func add(_ rows: some RowAccess, _ source: Piece.Source, in range: Range<Int>? = nil, areSession: Bool = false) {
        // The first band ends where all of them do.
        guard let first = bands.first else { return }
        let start = range?.lowerBound ?? 0
        var upper = rows.lowerBound(areSession ? first.overlayEnd : first.end, in: start..<(range?.upperBound ?? rows.count))
        for number in 0..<bands.count {
            let lower = rows.lowerBoundFromEnd(bands[number].start, in: start..<upper)
            if lower < upper { add(number, source, lower..<upper) }
            upper = lower
            if upper == start { return }
        }
    }

    /// After pieces were added in another order than that of their bands.
    func sortPieces() {
        guard pieces.count > 1 else { return }
        for index in 1..<pieces.count where pieces[index].band < pieces[index - 1].band {
            return pieces.sort { $0.band < $1.band }
        }
    }
}
