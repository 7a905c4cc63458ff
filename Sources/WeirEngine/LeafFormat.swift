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
        let column = columns[number]
        if column.nulls != nil {
            for row in rows {
                if column.isNull(row) { target.appendNull() } else { column.append(row..<row + 1, to: &target) }
            }
        } else {
            column.append(rows, to: &target)
        }
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

        /// As `firstBytes` of a row's text.
        func firstBytes(_ row: Int) -> UInt64 {
            let text = suffix(row)
            if prefix.isEmpty { return WeirEngine.firstBytes(text) }
            if prefix.count >= 8 { return WeirEngine.firstBytes(prefix) }
            return WeirEngine.firstBytes(prefix) | WeirEngine.firstBytes(text) >> UInt64(8 * prefix.count)
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

        /// Appends rows none of which is null.
        func append(_ rows: Range<Int>, to target: inout ColumnBuffer) {
            switch values {
            case .integers(let integers): for row in rows { target.append(int64: integers[row]) }
            case .doubles, .decimals: for row in rows { target.append(float64: float64(row)) }
            case .texts(let texts): for row in rows { texts.with(row) { target.append(text: $0) } }
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

    /// −1, 0 or 1: how a row's text stands to another one.
    package func compare(_ row: Int, _ other: UnsafeRawBufferPointer) -> Int { texts.compare(row, other) }
    /// The first eight bytes of a row's text as a number, in the order of bytes.
    package func firstBytes(_ row: Int) -> UInt64 { texts.firstBytes(row) }
}
