import WeirAlgebra
import WeirDefinitions

// A leaf holds an entity's events of one time span, column by column, and is read in place.
// docs/FORMATS.md describes it; TimeTreeTests pins it by golden bytes.
//
//   u8 kind (1), u8 version (2), u16 sections, u32 rows
//   then the sections: times, ids, tags, filter bits, columns…; each:
//   u8 encoding (high bit: a null bitmap of (rows + 7) / 8 bytes precedes), u8 parameter, u32 length, bytes
//
// Version 1 is the same without scaled integers and with widths of 0, 1, 2, 4 and 8 bytes alone; it is read, and no longer written.

enum LeafEncoding {
    /// parameter = width w in bytes (0 to 8): i64 base, then rows × w bytes: value − base.
    static let integers: UInt8 = 1
    /// rows × 8 bytes.
    static let doubles: UInt8 = 2
    /// parameter = decimals e: u8 width, then as `integers`; value = integer / 10^e.
    static let decimals: UInt8 = 3
    /// Distinct texts with codes: u32 count, (count + 1) × u32 offset, texts, u8 width, rows × width codes.
    static let dictionary: UInt8 = 4
    /// Texts with a shared prefix: u8 prefix length, prefix, u8 width of offsets (0: all texts have the same length, which
    /// follows as u32), (rows + 1) × width offsets, texts.
    static let texts: UInt8 = 5
    /// As `integers`, with a u32 unit behind the base: (value − base) / unit is stored.
    static let scaledIntegers: UInt8 = 6
    static let nullFlag: UInt8 = 0x80
}

let nodeKindLeaf: UInt8 = 1
let nodeKindTile: UInt8 = 2
let leafVersion: UInt8 = 2

let powersOfTen: [Double] = [1, 10, 100, 1_000, 10_000]

/// A stored leaf, read in place. It borrows the memory that it was made from and must not outlive it.
package struct LeafView: RowAccess {
    package let count: Int
    let times: Integers
    let ids: Texts
    let tags: Integers
    let filters: Integers
    let columns: [Column]

    /// - Throws: `FormatError` for bytes that are no leaf of this view.
    package init(_ bytes: UnsafeRawBufferPointer, columns types: [ViewPlan.Column]) throws(FormatError) {
        var reader = ByteReader(bytes)
        count = try Self.readHeader(&reader, columns: types.count)
        times = try Integers(section: RawSection(&reader, rows: count), rows: count)
        ids = try Texts(section: RawSection(&reader, rows: count), rows: count)
        tags = try Integers(section: RawSection(&reader, rows: count), rows: count)
        filters = try Integers(section: RawSection(&reader, rows: count), rows: count)
        var columns: [Column] = []
        columns.reserveCapacity(types.count)
        for type in types { columns.append(try Column(RawSection(&reader, rows: count), type: type.type, rows: count)) }
        self.columns = columns
    }

    /// How many rows a leaf has; the reader moves to its sections.
    static func readHeader(_ reader: inout ByteReader, columns: Int) throws(FormatError) -> Int {
        let size = reader.remaining
        guard try reader.read(UInt8.self) == nodeKindLeaf else { throw FormatError("not a leaf") }
        let version = try reader.read(UInt8.self)
        guard (1...leafVersion).contains(version) else {
            throw FormatError("leaf version \(version); this build reads versions up to \(leafVersion)")
        }
        let sections = Int(try reader.read(UInt16.self))
        guard sections == 4 + columns else {
            throw FormatError("a leaf with \(sections - 4) columns, where the view has \(columns)")
        }
        let count = Int(try reader.read(UInt32.self))
        // Events differ in something, which takes a byte of each: a damaged count ends here.
        guard count <= size else { throw FormatError("a leaf of \(count) rows in \(size) bytes") }
        return count
    }

    /// The first and the last event time of a leaf; nil for one without rows.
    static func times(of bytes: UnsafeRawBufferPointer) throws(FormatError) -> (first: Int64, last: Int64)? {
        var reader = ByteReader(bytes)
        _ = try reader.readRaw(4)
        let count = Int(try reader.read(UInt32.self))
        guard count > 0 else { return nil }
        let times = try Integers(section: RawSection(&reader, rows: count), rows: count)
        return (times[0], times[count - 1])
    }

    package func time(_ row: Int) -> Int64 { times[row] }
    package func tag(_ row: Int) -> UInt32 { UInt32(truncatingIfNeeded: tags[row]) }
    package func filterBits(_ row: Int) -> UInt64 { UInt64(bitPattern: filters[row]) }
    package func withID<R>(_ row: Int, _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R { try ids.with(row, body) }
    package func isNull(_ row: Int, column: Int) -> Bool { columns[column].isNull(row) }
    package func int64(_ row: Int, column: Int) -> Int64 { columns[column].int64(row) }
    package func float64(_ row: Int, column: Int) -> Double { columns[column].float64(row) }
    package func withText<R>(_ row: Int, column: Int, _ body: (UnsafeRawBufferPointer) -> R) -> R {
        columns[column].withText(row, body)
    }

    /// Appends a column's values of some rows to a column of the same type.
    package func append(column number: Int, _ rows: Range<Int>, to target: inout ColumnBuffer) {
        columns[number].append(rows, to: &target)
    }

    /// A column of texts, to be gone through.
    package func texts(column: Int) -> TextColumn? {
        if case .texts(let texts) = columns[column].values { return TextColumn(texts: texts) }
        return nil
    }

    /// All rows, copied.
    package func rows(columns types: [ViewPlan.Column]) -> EventRows {
        var rows = EventRows(columns: types)
        rows.times = times.all(count)
        rows.ids = ids.all(count, nulls: [])
        rows.tags = tags.all(count).map { UInt32(truncatingIfNeeded: $0) }
        rows.filterBitSets = filters.all(count).map { UInt64(bitPattern: $0) }
        for column in columns.indices { rows.columns[column] = columns[column].all(count, type: types[column].type) }
        return rows
    }

    struct RawSection {
        let encoding: UInt8
        let parameter: UInt8
        let nulls: UnsafeRawBufferPointer?
        var body: ByteReader

        init(_ reader: inout ByteReader, rows: Int) throws(FormatError) {
            let encoding = try reader.read(UInt8.self)
            parameter = try reader.read(UInt8.self)
            body = ByteReader(try reader.readRaw(Int(try reader.read(UInt32.self))))
            nulls = encoding & LeafEncoding.nullFlag != 0 ? try body.readRaw((rows + 7) / 8) : nil
            self.encoding = encoding & ~LeafEncoding.nullFlag
        }

        static func skip(_ reader: inout ByteReader) throws(FormatError) {
            _ = try reader.readRaw(2)
            _ = try reader.readRaw(Int(try reader.read(UInt32.self)))
        }
    }

    struct Integers {
        let base: Int64
        let unit: Int64
        let width: Int
        let raw: UnsafeRawBufferPointer

        init(section: RawSection, rows: Int) throws(FormatError) {
            var body = section.body
            switch section.encoding {
            case LeafEncoding.integers: try self.init(&body, width: section.parameter, rows: rows)
            case LeafEncoding.scaledIntegers: try self.init(&body, width: section.parameter, rows: rows, isScaled: true)
            default: throw FormatError("unknown integer encoding \(section.encoding)")
            }
        }

        init(_ body: inout ByteReader, width: UInt8, rows: Int, isScaled: Bool = false) throws(FormatError) {
            guard width <= 8 else { throw FormatError("integers of \(width) bytes") }
            base = try body.read(Int64.self)
            unit = isScaled ? Int64(try body.read(UInt32.self)) : 1
            self.width = Int(width)
            let (size, overflow) = rows.multipliedReportingOverflow(by: Int(width))
            guard !overflow else { throw FormatError("a leaf of \(rows) rows") }
            raw = try body.readRaw(size)
        }

        func all(_ rows: Int) -> [Int64] { (0..<rows).map { self[$0] } }

        /// The first of some ascending values that is not less than another one.
        func lowerBound(_ value: Int64, in rows: Range<Int>) -> Int {
            var low = rows.lowerBound
            var high = rows.upperBound
            while low < high {
                let middle = (low + high) / 2
                if self[middle] < value { low = middle + 1 } else { high = middle }
            }
            return low
        }

        @inline(__always)
        func copy(_ rows: Range<Int>, to target: UnsafeMutablePointer<Int64>) {
            var target = target
            forEach(rows) { value in
                target.pointee = value
                target += 1
            }
        }

        /// Calls `body` with the values of rows; the width is looked at once.
        @inline(__always)
        func forEach(_ rows: Range<Int>, _ body: (Int64) -> Void) {
            switch width {
            case 0: for _ in rows { body(base) }
            case 1: for row in rows { body(base &+ Int64(raw[row]) &* unit) }
            case 2:
                for row in rows {
                    body(base &+ Int64(UInt16(littleEndian: raw.loadUnaligned(fromByteOffset: row * 2, as: UInt16.self))) &* unit)
                }
            case 4:
                for row in rows {
                    body(base &+ Int64(UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: row * 4, as: UInt32.self))) &* unit)
                }
            default: for row in rows { body(self[row]) }
            }
        }

        @inline(__always) subscript(row: Int) -> Int64 {
            // Products and sums wrap: damaged bytes give wrong values, never a trap.
            switch width {
            case 0: return base
            case 1: return base &+ Int64(raw[row]) &* unit
            case 2: return base &+ Int64(UInt16(littleEndian: raw.loadUnaligned(fromByteOffset: row * 2, as: UInt16.self))) &* unit
            case 4: return base &+ Int64(UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: row * 4, as: UInt32.self))) &* unit
            case 8: return base &+ Int64(littleEndian: raw.loadUnaligned(fromByteOffset: row * 8, as: Int64.self)) &* unit
            default:
                let start = row * width
                var value: UInt64 = 0
                if start + 8 <= raw.count {
                    value = UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: start, as: UInt64.self)) & (1 << UInt64(8 * width) - 1)
                } else {
                    for byte in 0..<width { value |= UInt64(raw[start + byte]) << UInt64(8 * byte) }
                }
                return base &+ Int64(bitPattern: value) &* unit
            }
        }
    }

    struct Texts {
        enum Form {
            case dictionary(count: Int, offsets: UnsafeRawBufferPointer, codes: UnsafeRawBufferPointer, width: Int)
            case fixed(length: Int)
            case offsets(UnsafeRawBufferPointer, width: Int)
        }
        let form: Form
        let prefix: UnsafeRawBufferPointer
        let bytes: UnsafeRawBufferPointer

        init(section: RawSection, rows: Int) throws(FormatError) {
            var body = section.body
            if section.encoding == LeafEncoding.dictionary {
                let count = Int(try body.read(UInt32.self))
                let offsets = try body.readRaw((count + 1) * 4)
                let total = Int(UInt32(littleEndian: offsets.loadUnaligned(fromByteOffset: count * 4, as: UInt32.self)))
                bytes = try body.readRaw(total)
                let width = Int(try body.read(UInt8.self))
                guard width <= 4 else { throw FormatError("codes of \(width) bytes") }
                form = .dictionary(count: count, offsets: offsets, codes: try body.readRaw(rows * width), width: width)
                prefix = UnsafeRawBufferPointer(start: nil, count: 0)
                return
            }
            guard section.encoding == LeafEncoding.texts else { throw FormatError("unknown text encoding \(section.encoding)") }
            prefix = try body.readRaw(Int(try body.read(UInt8.self)))
            let width = Int(try body.read(UInt8.self))
            guard width <= 4 else { throw FormatError("offsets of \(width) bytes") }
            if width == 0 {
                let length = Int(try body.read(UInt32.self))
                form = .fixed(length: length)
                let (size, overflow) = length.multipliedReportingOverflow(by: rows)
                guard !overflow else { throw FormatError("\(rows) texts of \(length) bytes") }
                bytes = try body.readRaw(size)
            } else {
                form = .offsets(try body.readRaw((rows + 1) * width), width: width)
                bytes = try body.readRaw(body.remaining)
            }
        }

        private static func unsigned(_ raw: UnsafeRawBufferPointer, _ index: Int, width: Int) -> Int {
            switch width {
            case 0: return 0
            case 1: return Int(raw[index])
            case 2: return Int(UInt16(littleEndian: raw.loadUnaligned(fromByteOffset: index * 2, as: UInt16.self)))
            default: return Int(UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: index * 4, as: UInt32.self)))
            }
        }

        private func slice(_ start: Int, _ end: Int) -> UnsafeRawBufferPointer {
            // Offsets come from disk: a wrong one must not reach outside.
            let end = min(max(end, 0), bytes.count)
            return UnsafeRawBufferPointer(rebasing: bytes[min(max(start, 0), end)..<end])
        }

        func all(_ rows: Int, nulls: [Bool]) -> ColumnBuffer {
            var ends: [Int] = []
            ends.reserveCapacity(rows)
            var texts: [UInt8] = []
            texts.reserveCapacity(bytes.count + rows * prefix.count)
            for row in 0..<rows {
                texts.append(contentsOf: prefix)
                texts.append(contentsOf: suffix(row))
                ends.append(texts.count)
            }
            return ColumnBuffer(textEnds: ends, textBytes: texts, nulls: nulls)
        }

        /// One of a dictionary's texts.
        func text(ofCode code: Int) -> UnsafeRawBufferPointer {
            guard case .dictionary(let count, let offsets, _, _) = form, code >= 0, code < count else {
                return UnsafeRawBufferPointer(start: nil, count: 0)
            }
            return slice(Self.unsigned(offsets, code, width: 4), Self.unsigned(offsets, code + 1, width: 4))
        }

        /// A row's text behind the prefix.
        private func suffix(_ row: Int) -> UnsafeRawBufferPointer {
            switch form {
            case .dictionary(let count, _, let codes, let width):
                return text(ofCode: min(Self.unsigned(codes, row, width: width), count - 1))
            case .fixed(let length):
                return slice(row * length, (row + 1) * length)
            case .offsets(let offsets, let width):
                return slice(Self.unsigned(offsets, row, width: width), Self.unsigned(offsets, row + 1, width: width))
            }
        }

        /// Whether a row's text is before another one (−1), is it (0), or is behind it (1), without a copy of it.
        func compare(_ row: Int, _ other: UnsafeRawBufferPointer) -> Int {
            let text = suffix(row)
            if prefix.isEmpty { return compareBytes(text, other) }
            if other.count < prefix.count {
                let order = compareBytes(UnsafeRawBufferPointer(rebasing: prefix[..<other.count]), other)
                return order == 0 ? 1 : order
            }
            let order = compareBytes(prefix, UnsafeRawBufferPointer(rebasing: other[..<prefix.count]))
            return order != 0 ? order : compareBytes(text, UnsafeRawBufferPointer(rebasing: other[prefix.count...]))
        }

        /// As `firstBytes` of a row's text, and the text's length.
        func beginning(_ row: Int) -> (prefix: UInt64, length: Int) {
            let text = suffix(row)
            let length = prefix.count + text.count
            if prefix.isEmpty { return (firstBytes(text), length) }
            if prefix.count >= 8 { return (firstBytes(prefix), length) }
            return (firstBytes(prefix) | firstBytes(text) >> UInt64(8 * prefix.count), length)
        }

        func length(_ row: Int) -> Int { prefix.count + suffix(row).count }

        /// Whether two rows have the same text.
        func isSame(_ a: Int, _ b: Int) -> Bool { compareBytes(suffix(a), suffix(b)) == 0 }

        /// Appends the texts of rows to a column of texts.
        func append(_ rows: Range<Int>, to target: inout ColumnBuffer) {
            target.append(texts: rows.count) { ends, start in
                var end = start
                for row in rows {
                    end += length(row)
                    ends[row - rows.lowerBound] = end
                }
            } bytes: { bytes in
                var bytes = bytes
                for row in rows { copy(row, to: &bytes) }
            }
        }

        @inline(__always)
        fileprivate func copy(_ row: Int, to bytes: inout UnsafeMutableRawPointer) {
            func copy(_ part: UnsafeRawBufferPointer) {
                guard let start = part.baseAddress, !part.isEmpty else { return }
                bytes.copyMemory(from: start, byteCount: part.count)
                bytes += part.count
            }
            copy(prefix)
            copy(suffix(row))
        }

        func with<R>(_ row: Int, _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
            let text = suffix(row)
            if prefix.isEmpty { return try body(text) }
            return try withUnsafeTemporaryAllocation(byteCount: prefix.count + text.count, alignment: 1) { whole in
                whole.copyMemory(from: prefix)
                UnsafeMutableRawBufferPointer(rebasing: whole[prefix.count...]).copyMemory(from: text)
                return try body(UnsafeRawBufferPointer(whole))
            }
        }
    }

    struct Column {
        enum Values {
            case integers(Integers)
            case doubles(UnsafeRawBufferPointer)
            case decimals(Integers, decimals: Int)
            case texts(Texts)
        }
        let nulls: UnsafeRawBufferPointer?
        let values: Values

        func isNull(_ row: Int) -> Bool {
            guard let nulls else { return false }
            return nulls[row / 8] & (1 << UInt8(row % 8)) != 0
        }

        func int64(_ row: Int) -> Int64 {
            if case .integers(let integers) = values { return integers[row] }
            return 0
        }

        func float64(_ row: Int) -> Double {
            switch values {
            case .doubles(let raw):
                Double(bitPattern: UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: row * 8, as: UInt64.self)))
            case .decimals(let integers, let decimals): Double(integers[row]) / powersOfTen[decimals]
            default: 0
            }
        }

        /// Appends rows to a column of the same type.
        func append(_ rows: Range<Int>, to target: inout ColumnBuffer) {
            if nulls == nil { return appendPresent(rows, to: &target) }
            for row in rows {
                if isNull(row) { target.appendNull() } else { appendPresent(row..<row + 1, to: &target) }
            }
        }

        /// Appends rows none of which is null.
        private func appendPresent(_ rows: Range<Int>, to target: inout ColumnBuffer) {
            switch values {
            case .integers(let integers): target.append(int64s: rows.count) { integers.copy(rows, to: $0) }
            case .doubles(let raw):
                // Through `append`, which lets no damaged number in.
                for row in rows {
                    let bits = UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: row * 8, as: UInt64.self))
                    target.append(float64: Double(bitPattern: bits))
                }
            case .decimals(let integers, let decimals):
                let scale = powersOfTen[decimals]
                target.append(float64s: rows.count) { target in
                    var target = target
                    integers.forEach(rows) { value in
                        target.pointee = Double(value) / scale
                        target += 1
                    }
                }
            case .texts(let texts): texts.append(rows, to: &target)
            }
        }

        func withText<R>(_ row: Int, _ body: (UnsafeRawBufferPointer) -> R) -> R {
            if case .texts(let texts) = values { return texts.with(row, body) }
            return body(UnsafeRawBufferPointer(start: nil, count: 0))
        }

        func all(_ rows: Int, type: ColumnType) -> ColumnBuffer {
            let flags: [Bool] = if let nulls { (0..<rows).map { nulls[$0 / 8] & (1 << UInt8($0 % 8)) != 0 } } else { [] }
            switch values {
            case .integers(let integers): return ColumnBuffer(type: type, int64s: integers.all(rows), nulls: flags)
            case .doubles(let raw):
                return ColumnBuffer(
                    float64s: (0..<rows).map {
                        Double(bitPattern: UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: $0 * 8, as: UInt64.self)))
                    }, nulls: flags)
            case .decimals(let integers, let decimals):
                let scale = powersOfTen[decimals]
                return ColumnBuffer(float64s: integers.all(rows).map { Double($0) / scale }, nulls: flags)
            case .texts(let texts): return texts.all(rows, nulls: flags)
            }
        }

        init(_ integers: Integers) {
            nulls = nil
            values = .integers(integers)
        }

        init(_ section: RawSection, type: ColumnType, rows: Int) throws(FormatError) {
            nulls = section.nulls
            var body = section.body
            switch type {
            case .int64, .bool: values = .integers(try Integers(section: section, rows: rows))
            case .text: values = .texts(try Texts(section: section, rows: rows))
            case .float64:
                if section.encoding == LeafEncoding.doubles {
                    values = .doubles(try body.readRaw(rows * 8))
                } else {
                    guard section.encoding == LeafEncoding.decimals, Int(section.parameter) < powersOfTen.count else {
                        throw FormatError("unknown number encoding \(section.encoding)")
                    }
                    let width = try body.read(UInt8.self)
                    values = .decimals(try Integers(&body, width: width, rows: rows), decimals: Int(section.parameter))
                }
            }
        }
    }
}

/// The texts of a stored leaf's column, compared in place. It borrows the leaf's memory.
package struct TextColumn {
    let texts: LeafView.Texts

    /// −1, 0 or 1: how the text of a run stands to another one.
    ///
    /// - Parameter prefix: the other's first eight bytes, as `firstBytes` gives them.
    package func compare(_ run: TextRun, _ other: UnsafeRawBufferPointer, _ prefix: UInt64) -> Int {
        if run.prefix != prefix { return run.prefix < prefix ? -1 : 1 }
        // Of texts that have these bytes in common a short one is how the other begins.
        if run.length <= 8 || other.count <= 8 { return run.length == other.count ? 0 : run.length < other.count ? -1 : 1 }
        return texts.compare(Int(run.start), other)
    }

    /// Fills in which rows have which texts: the next run begins where one ends.
    ///
    /// - Parameter rows: all of the leaf.
    package func findRuns(_ rows: Int, _ runs: inout [TextRun]) {
        runs.removeAll(keepingCapacity: true)
        for row in 0..<rows {
            let (prefix, length) = texts.beginning(row)
            let run = TextRun(prefix: prefix, length: Int32(truncatingIfNeeded: length), start: Int32(truncatingIfNeeded: row))
            if let last = runs.last, last.prefix == run.prefix, last.length == run.length,
                run.length <= 8 || texts.isSame(Int(last.start), row)
            {
                continue
            }
            runs.append(run)
        }
    }
}

/// Rows of one text, one after another.
package struct TextRun {
    /// The text's first eight bytes as a number, in the order of bytes.
    package let prefix: UInt64
    package let length: Int32
    /// The first row.
    package let start: Int32
}

/// Some columns of a leaf, in memory of their own, so that rows are named without a reference being taken. What is in it borrows the
/// leaf's memory.
package final class LeafColumns {
    /// Times, then the chosen ones.
    private let memory: UnsafeMutableBufferPointer<LeafView.Column?>

    /// - Parameter columns: how many.
    package init(_ columns: Int) {
        memory = .allocate(capacity: 1 + columns)
        memory.initialize(repeating: nil)
    }

    deinit {
        memory.deinitialize()
        memory.deallocate()
    }

    /// - Parameter columns: of the leaf; nil for one that it does not have, whose values are null.
    package func set(_ leaf: LeafView, _ columns: [Int?]) {
        memory[0] = LeafView.Column(leaf.times)
        for (place, column) in columns.enumerated() { memory[1 + place] = column.map { leaf.columns[$0] } }
    }

    /// Those of some rows of the leaf, ascending in time, whose times are in `[start, end)`.
    package func rows(_ rows: Range<Int>, from start: Int64, to end: Int64) -> LeafRows {
        var named = LeafRows(columns: UnsafePointer(memory.baseAddress!), rows: rows)
        guard let last = rows.last, case .integers(let times) = memory[0]?.values else { return named }
        if times[rows.lowerBound] < start { named.rows = times.lowerBound(start, in: rows)..<rows.upperBound }
        if times[last] >= end { named.rows = named.rows.lowerBound..<times.lowerBound(end, in: named.rows) }
        return named
    }
}

/// Rows of a leaf, by the columns that were chosen.
package struct LeafRows {
    fileprivate let columns: UnsafePointer<LeafView.Column?>
    package fileprivate(set) var rows: Range<Int>

    /// - Parameter rows: of these rows' leaf.
    package func with(_ rows: Range<Int>) -> LeafRows { LeafRows(columns: columns, rows: rows) }

    /// A column without nulls.
    @inline(__always)
    fileprivate func values(_ place: Int) -> LeafView.Column.Values? {
        guard let column = columns[1 + place], column.nulls == nil else { return nil }
        return column.values
    }

    @inline(__always)
    fileprivate func integers(_ place: Int) -> LeafView.Integers? {
        if case .integers(let integers) = values(place) { integers } else { nil }
    }

    @inline(__always)
    fileprivate func texts(_ place: Int) -> LeafView.Texts? {
        if case .texts(let texts) = values(place) { texts } else { nil }
    }

    @inline(__always)
    fileprivate func decimals(_ place: Int) -> (LeafView.Integers, scale: Double)? {
        if case .decimals(let integers, let decimals) = values(place) { (integers, powersOfTen[decimals]) } else { nil }
    }
}

extension ColumnBuffer {
    /// Appends rows of leaves, one after another.
    ///
    /// - Parameters:
    ///   - place: of the chosen columns.
    ///   - count: how many rows they are together.
    package mutating func append(_ runs: [LeafRows], column place: Int, count: Int) {
        // Runs are short: where all of them have the same form room is made once.
        switch type {
        case .int64, .bool:
            guard runs.allSatisfy({ $0.integers(place) != nil }) else { break }
            return append(int64s: count) { target in runs.copyIntegers(place, to: target) }
        case .float64:
            guard runs.allSatisfy({ $0.decimals(place) != nil }) else { break }
            return append(float64s: count) { target in
                var target = target
                for run in runs {
                    guard let (integers, scale) = run.decimals(place) else { continue }
                    integers.forEach(run.rows) { value in
                        target.pointee = Double(value) / scale
                        target += 1
                    }
                }
            }
        case .text:
            guard runs.allSatisfy({ $0.texts(place) != nil }) else { break }
            return append(texts: count) { ends, start in
                var ends = ends
                var end = start
                for run in runs {
                    guard let texts = run.texts(place) else { continue }
                    for row in run.rows {
                        end += texts.length(row)
                        ends.pointee = end
                        ends += 1
                    }
                }
            } bytes: { bytes in
                var bytes = bytes
                for run in runs {
                    guard let texts = run.texts(place) else { continue }
                    for row in run.rows { texts.copy(row, to: &bytes) }
                }
            }
        }
        for run in runs {
            if let column = run.columns[1 + place] {
                column.append(run.rows, to: &self)
            } else {
                for _ in run.rows { appendNull() }
            }
        }
    }
}

extension [LeafRows] {
    /// Appends the rows' times, one after another.
    ///
    /// - Parameter count: how many rows they are together.
    package func appendTimes(_ count: Int, to times: inout [Int64]) { appendIntegers(column: -1, count, to: &times) }

    /// Appends a column of integers, none of which is null.
    ///
    /// - Parameter place: of the chosen columns.
    package func appendIntegers(column place: Int, _ count: Int, to target: inout [Int64]) {
        target.append(count, filler: 0) { copyIntegers(place, to: $0) }
    }

    fileprivate func copyIntegers(_ place: Int, to target: UnsafeMutablePointer<Int64>) {
        var target = target
        for run in self {
            run.integers(place)?.copy(run.rows, to: target)
            target += run.rows.count
        }
    }
}
