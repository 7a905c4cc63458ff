import WeirAlgebra
import WeirDefinitions

// A leaf holds an entity's events of one time span, column by column, and is read in place.
// docs/FORMATS.md describes it; TimeTreeTests pins it by golden bytes.
//
//   u8 kind (1), u8 version (1), u16 sections, u32 rows
//   then the sections: times, ids, tags, filter bits, columns…; each:
//   u8 encoding (high bit: a null bitmap of (rows + 7) / 8 bytes precedes), u8 parameter, u32 length, bytes

enum LeafEncoding {
    /// parameter = width w in bytes (0, 1, 2, 4, 8): i64 base, then rows × w bytes: value − base.
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
    static let nullFlag: UInt8 = 0x80
}

let nodeKindLeaf: UInt8 = 1
let nodeKindTile: UInt8 = 2
let leafVersion: UInt8 = 1

private let powersOfTen: [Double] = [1, 10, 100, 1_000, 10_000]

extension EventRows {
    /// The stored form of these rows, which must be in order.
    package func encodedLeaf() -> [UInt8] {
        var writer = ByteWriter()
        writer.write(nodeKindLeaf)
        writer.write(leafVersion)
        writer.write(UInt16(4 + columns.count))
        writer.write(UInt32(count))
        writer.section { integers(times, &$0) }
        writer.section { texts(ids, &$0, dictionary: false) }
        writer.section { integers(tags.map(Int64.init), &$0) }
        writer.section { integers(filterBitSets.map(Int64.init(bitPattern:)), &$0) }
        for column in columns {
            writer.section(nulls: column.nulls) {
                switch column.type {
                case .int64, .bool: integers(column.int64s, &$0)
                case .float64: doubles(column.float64s, &$0)
                case .text: texts(column, &$0, dictionary: true)
                }
            }
        }
        return writer.bytes
    }

    private func integers(_ values: [Int64], _ section: inout Section) {
        section.encoding = LeafEncoding.integers
        section.parameter = section.writer.writeIntegers(values)
    }

    /// Doubles that are short decimals (prices mostly are) as integers over a power of ten, if every one comes back exactly.
    private func doubles(_ values: [Double], _ section: inout Section) {
        var scaled: [Int64] = []
        scaled.reserveCapacity(values.count)
        for (decimals, scale) in powersOfTen.enumerated() {
            scaled.removeAll(keepingCapacity: true)
            for value in values {
                let product = (value * scale).rounded(.toNearestOrEven)
                guard abs(product) < 1e15, product / scale == value else { break }
                scaled.append(Int64(product))
            }
            guard scaled.count == values.count else { continue }
            section.encoding = LeafEncoding.decimals
            section.parameter = UInt8(decimals)
            let widthPosition = section.writer.count
            section.writer.write(UInt8(0))
            let width = section.writer.writeIntegers(scaled)
            section.writer.bytes[widthPosition] = width
            return
        }
        section.encoding = LeafEncoding.doubles
        for value in values { section.writer.write(value) }
    }

    private func texts(_ column: ColumnBuffer, _ section: inout Section, dictionary: Bool) {
        if dictionary, let codes = dictionaryCodes(column) {
            section.encoding = LeafEncoding.dictionary
            section.writer.write(UInt32(codes.distinct.count))
            var offset: UInt32 = 0
            section.writer.write(offset)
            for row in codes.distinct {
                offset += UInt32(column.textRange(row).count)
                section.writer.write(offset)
            }
            for row in codes.distinct { section.writer.writeRaw(column.textBytes[column.textRange(row)]) }
            let width: UInt8 = codes.distinct.count <= 1 ? 0 : codes.distinct.count <= 256 ? 1 : codes.distinct.count <= 65_536 ? 2 : 4
            section.writer.write(width)
            for code in codes.codes { section.writer.write(unsigned: UInt64(code), width: width) }
            return
        }
        section.encoding = LeafEncoding.texts
        let prefix = sharedPrefix(column)
        section.writer.write(UInt8(prefix.count))
        section.writer.writeRaw(prefix)
        let lengths = (0..<column.count).map { column.textRange($0).count - prefix.count }
        let total = lengths.reduce(0, +)
        let isFixed = lengths.allSatisfy { $0 == lengths.first }
        let width: UInt8 = isFixed ? 0 : total < 256 ? 1 : total < 65_536 ? 2 : 4
        section.writer.write(width)
        if isFixed {
            section.writer.write(UInt32(lengths.first ?? 0))
        } else {
            var offset = 0
            section.writer.write(unsigned: 0, width: width)
            for length in lengths {
                offset += length
                section.writer.write(unsigned: UInt64(offset), width: width)
            }
        }
        for row in 0..<column.count { section.writer.writeRaw(column.textBytes[column.textRange(row).dropFirst(prefix.count)]) }
    }

    /// Codes in the order of first appearance; nil where a dictionary would not be smaller.
    private func dictionaryCodes(_ column: ColumnBuffer) -> (distinct: [Int], codes: [Int])? {
        var distinct: [Int] = []
        var codes: [Int] = []
        codes.reserveCapacity(column.count)
        if column.count <= 256 {
            // Few rows: looking through the distinct texts costs less than hashing them.
            return column.textBytes.withUnsafeBytes { bytes in
                for row in 0..<column.count {
                    let text = UnsafeRawBufferPointer(rebasing: bytes[column.textRange(row)])
                    let known = distinct.lastIndex { other in
                        let range = column.textRange(other)
                        return range.count == text.count
                            && compareBytes(UnsafeRawBufferPointer(rebasing: bytes[range]), text) == 0
                    }
                    codes.append(known ?? distinct.count)
                    if known == nil {
                        distinct.append(row)
                        if distinct.count * 2 > column.count, column.count > 1 { return nil }
                    }
                }
                return (distinct, codes)
            }
        }
        var known: [[UInt8]: Int] = [:]
        for row in 0..<column.count {
            let text = Array(column.textBytes[column.textRange(row)])
            if let code = known[text] {
                codes.append(code)
            } else {
                known[text] = distinct.count
                codes.append(distinct.count)
                distinct.append(row)
            }
        }
        return distinct.count * 2 <= column.count || column.count <= 1 ? (distinct, codes) : nil
    }

    private func sharedPrefix(_ column: ColumnBuffer) -> [UInt8] {
        guard column.count > 1 else { return [] }
        var prefix = Array(column.textBytes[column.textRange(0)].prefix(255))
        for row in 1..<column.count {
            let text = column.textBytes[column.textRange(row)]
            var shared = 0
            for (a, b) in zip(prefix, text) {
                if a != b { break }
                shared += 1
            }
            prefix.removeLast(prefix.count - shared)
            if prefix.isEmpty { break }
        }
        return prefix
    }
}

private struct Section {
    var writer = ByteWriter()
    var encoding: UInt8 = 0
    var parameter: UInt8 = 0
}

extension ByteWriter {
    fileprivate mutating func section(nulls: [Bool] = [], _ body: (inout Section) -> Void) {
        var section = Section()
        body(&section)
        var bitmap: [UInt8] = []
        if nulls.contains(true) {
            bitmap = Array(repeating: 0, count: (nulls.count + 7) / 8)
            for (row, isNull) in nulls.enumerated() where isNull { bitmap[row / 8] |= 1 << UInt8(row % 8) }
        }
        write(section.encoding | (bitmap.isEmpty ? 0 : LeafEncoding.nullFlag))
        write(section.parameter)
        write(UInt32(bitmap.count + section.writer.count))
        writeRaw(bitmap)
        writeRaw(section.writer.bytes)
    }

    /// Writes base and offsets; returns the width of an offset.
    fileprivate mutating func writeIntegers(_ values: [Int64]) -> UInt8 {
        let base = values.min() ?? 0
        let spread = UInt64(bitPattern: (values.max() ?? 0) &- base)
        let width: UInt8 = spread == 0 ? 0 : spread < 1 << 8 ? 1 : spread < 1 << 16 ? 2 : spread < 1 << 32 ? 4 : 8
        write(base)
        func store<I: FixedWidthInteger & UnsignedInteger>(_: I.Type) {
            let start = bytes.count
            bytes.append(contentsOf: repeatElement(0, count: values.count * MemoryLayout<I>.size))
            bytes.withUnsafeMutableBytes { raw in
                for (row, value) in values.enumerated() {
                    raw.storeBytes(
                        of: I(truncatingIfNeeded: value &- base).littleEndian, toByteOffset: start + row * MemoryLayout<I>.size, as: I.self)
                }
            }
        }
        switch width {
        case 0: break
        case 1: store(UInt8.self)
        case 2: store(UInt16.self)
        case 4: store(UInt32.self)
        default: store(UInt64.self)
        }
        return width
    }

    fileprivate mutating func write(unsigned value: UInt64, width: UInt8) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0[0..<Int(width)]) }
    }
}

/// A stored leaf, read in place. It borrows the memory that it was made from and must not outlive it.
package struct LeafView: RowAccess {
    package let count: Int
    private let times: Integers
    private let ids: Texts
    private let tags: Integers
    private let filters: Integers
    private let columns: [Column]

    /// - Throws: `FormatError` for bytes that are no leaf of this view.
    package init(_ bytes: UnsafeRawBufferPointer, columns types: [ViewPlan.Column]) throws(FormatError) {
        var reader = ByteReader(bytes)
        guard try reader.read(UInt8.self) == nodeKindLeaf else { throw FormatError("not a leaf") }
        let version = try reader.read(UInt8.self)
        guard version == leafVersion else { throw FormatError("leaf version \(version); this build reads version \(leafVersion)") }
        let sections = Int(try reader.read(UInt16.self))
        guard sections == 4 + types.count else {
            throw FormatError("a leaf with \(sections - 4) columns, where the view has \(types.count)")
        }
        count = Int(try reader.read(UInt32.self))
        times = try Integers(section: RawSection(&reader, rows: count), rows: count)
        ids = try Texts(section: RawSection(&reader, rows: count), rows: count)
        tags = try Integers(section: RawSection(&reader, rows: count), rows: count)
        filters = try Integers(section: RawSection(&reader, rows: count), rows: count)
        var columns: [Column] = []
        columns.reserveCapacity(types.count)
        for type in types { columns.append(try Column(RawSection(&reader, rows: count), type: type.type, rows: count)) }
        self.columns = columns
    }

    package func time(_ row: Int) -> Int64 { times[row] }
    package func tag(_ row: Int) -> UInt32 { UInt32(truncatingIfNeeded: tags[row]) }
    package func filterBits(_ row: Int) -> UInt64 { UInt64(bitPattern: filters[row]) }
    package func withID<R>(_ row: Int, _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R { try ids.with(row, body) }
    package func isNull(_ row: Int, column: Int) -> Bool {
        guard let nulls = columns[column].nulls else { return false }
        return nulls[row / 8] & (1 << UInt8(row % 8)) != 0
    }
    package func int64(_ row: Int, column: Int) -> Int64 {
        if case .integers(let integers) = columns[column].values { return integers[row] }
        return 0
    }
    package func float64(_ row: Int, column: Int) -> Double {
        switch columns[column].values {
        case .doubles(let raw): return Double(bitPattern: UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: row * 8, as: UInt64.self)))
        case .decimals(let integers, let scale): return Double(integers[row]) / scale
        default: return 0
        }
    }
    package func withText<R>(_ row: Int, column: Int, _ body: (UnsafeRawBufferPointer) -> R) -> R {
        if case .texts(let texts) = columns[column].values { return texts.with(row, body) }
        return body(UnsafeRawBufferPointer(start: nil, count: 0))
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

    private struct RawSection {
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
    }

    private struct Integers {
        let base: Int64
        let width: Int
        let raw: UnsafeRawBufferPointer

        init(section: RawSection, rows: Int) throws(FormatError) {
            guard section.encoding == LeafEncoding.integers else { throw FormatError("unknown integer encoding \(section.encoding)") }
            var body = section.body
            try self.init(&body, width: section.parameter, rows: rows)
        }

        init(_ body: inout ByteReader, width: UInt8, rows: Int) throws(FormatError) {
            guard [0, 1, 2, 4, 8].contains(width) else { throw FormatError("integers of \(width) bytes") }
            base = try body.read(Int64.self)
            self.width = Int(width)
            raw = try body.readRaw(rows * Int(width))
        }

        func all(_ rows: Int) -> [Int64] {
            func values<I: FixedWidthInteger & UnsignedInteger>(_: I.Type) -> [Int64] {
                (0..<rows).map {
                    base
                        &+ Int64(
                            truncatingIfNeeded: I(littleEndian: raw.loadUnaligned(fromByteOffset: $0 * MemoryLayout<I>.size, as: I.self)))
                }
            }
            switch width {
            case 0: return Array(repeating: base, count: rows)
            case 1: return values(UInt8.self)
            case 2: return values(UInt16.self)
            case 4: return values(UInt32.self)
            default: return values(UInt64.self)
            }
        }

        subscript(row: Int) -> Int64 {
            switch width {
            case 0: return base
            case 1: return base &+ Int64(raw[row])
            case 2: return base &+ Int64(UInt16(littleEndian: raw.loadUnaligned(fromByteOffset: row * 2, as: UInt16.self)))
            case 4: return base &+ Int64(UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: row * 4, as: UInt32.self)))
            default: return base &+ Int64(littleEndian: raw.loadUnaligned(fromByteOffset: row * 8, as: Int64.self))
            }
        }
    }

    private struct Texts {
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
                bytes = try body.readRaw(length * rows)
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

        /// A row's text behind the prefix.
        private func suffix(_ row: Int) -> UnsafeRawBufferPointer {
            switch form {
            case .dictionary(let count, let offsets, let codes, let width):
                let code = min(Self.unsigned(codes, row, width: width), count - 1)
                guard code >= 0 else { return UnsafeRawBufferPointer(start: nil, count: 0) }
                return slice(Self.unsigned(offsets, code, width: 4), Self.unsigned(offsets, code + 1, width: 4))
            case .fixed(let length):
                return slice(row * length, (row + 1) * length)
            case .offsets(let offsets, let width):
                return slice(Self.unsigned(offsets, row, width: width), Self.unsigned(offsets, row + 1, width: width))
            }
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

    private struct Column {
        enum Values {
            case integers(Integers)
            case doubles(UnsafeRawBufferPointer)
            case decimals(Integers, scale: Double)
            case texts(Texts)
        }
        let nulls: UnsafeRawBufferPointer?
        let values: Values

        func all(_ rows: Int, type: ColumnType) -> ColumnBuffer {
            let flags: [Bool] = if let nulls { (0..<rows).map { nulls[$0 / 8] & (1 << UInt8($0 % 8)) != 0 } } else { [] }
            switch values {
            case .integers(let integers): return ColumnBuffer(type: type, int64s: integers.all(rows), nulls: flags)
            case .doubles(let raw):
                return ColumnBuffer(
                    float64s: (0..<rows).map {
                        Double(bitPattern: UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: $0 * 8, as: UInt64.self)))
                    }, nulls: flags)
            case .decimals(let integers, let scale):
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
                    values = .decimals(
                        try Integers(&body, width: width, rows: rows), scale: powersOfTen[Int(section.parameter)])
                }
            }
        }
    }
}
