import WeirAlgebra
import WeirDefinitions

// Writing leaves: from rows, and from a stored leaf and rows behind it. LeafFormat.swift describes the bytes.

extension EventRows {
    /// The stored form of these rows, which must be in order.
    package func encodedLeaf() -> [UInt8] {
        var writer = NodeWriter()
        encodeLeaf(0..<count, into: &writer)
        return Array(writer.bytes)
    }

    /// Writes the stored form of some rows behind what the writer has.
    package func encodeLeaf(_ range: Range<Int>, into writer: inout NodeWriter) { withView { $0.encodeLeaf(range, into: &writer) } }
}

extension RowsView {
    /// Writes the stored form of some rows behind what the writer has.
    func encodeLeaf(_ range: Range<Int>, into writer: inout NodeWriter) {
        let first = range.lowerBound
        writer.beginLeaf(columns: columns.count, rows: range.count)
        writer.section { writer in writer.integers(range.count, isScaled: true) { times[first + $0] } }
        writer.section { writer in writer.texts(ids, range, mayUseDictionary: false) }
        writer.section { writer in writer.integers(range.count) { Int64(tags[first + $0]) } }
        writer.section { writer in writer.integers(range.count) { Int64(bitPattern: filterBits[first + $0]) } }
        for column in columns { writer.section(nulls: column.nulls, range) { writer in writer.column(column, range) } }
    }
}

extension LeafView {
    /// Writes this leaf with rows behind its own, which all are earlier, behind what the writer has: columns are copied, not
    /// decoded, where the new values fit into them as they are.
    func append(_ rows: RowsView, _ range: Range<Int>, into writer: inout NodeWriter) {
        let new = range.count
        let first = range.lowerBound
        let total = count + new
        // Now and then a column is written anew, so that it takes the form that suits its length.
        let isRenewed = count.leadingZeroBitCount != total.leadingZeroBitCount
        writer.beginLeaf(columns: columns.count, rows: total)
        writer.section { writer in
            writer.append(times, count, new, isRenewed: isRenewed, isScaled: true) { rows.times[first + $0] }
        }
        writer.section { writer in
            if !isRenewed, let form = writer.append(ids, count, rows.ids, range) { return form }
            var all = ids.all(count, nulls: [])
            all.append(rows.ids, range)
            return all.withView { writer.texts($0, 0..<total, mayUseDictionary: false) }
        }
        writer.section { writer in writer.append(tags, count, new, isRenewed: isRenewed) { Int64(rows.tags[first + $0]) } }
        writer.section { writer in
            writer.append(filters, count, new, isRenewed: isRenewed) { Int64(bitPattern: rows.filterBits[first + $0]) }
        }
        for (number, column) in columns.enumerated() {
            let source = rows.columns[number]
            if !isRenewed, column.nulls == nil, source.nulls == nil {
                let isWritten = writer.trySection { writer in
                    switch column.values {
                    case .integers(let integers): writer.tryAppend(integers, count, new) { source.int64s[first + $0] }
                    case .doubles(let raw): writer.append(doubles: raw, new) { source.float64s[first + $0] }
                    case .decimals(let integers, let decimals):
                        writer.append(decimals: integers, decimals, count, new) { source.float64s[first + $0] }
                    case .texts(let texts): writer.append(texts, count, source, range)
                    }
                }
                if isWritten { continue }
            }
            var all = column.all(count, type: source.type)
            all.append(source, range)
            all.withView { all in writer.section(nulls: all.nulls, 0..<total) { writer in writer.column(all, 0..<total) } }
        }
    }
}

extension ColumnBuffer {
    /// Appends rows of another column of the same type.
    fileprivate mutating func append(_ other: ColumnView, _ range: Range<Int>) {
        for row in range {
            if let nulls = other.nulls, nulls[row] {
                appendNull()
                continue
            }
            switch type {
            case .int64, .bool: append(int64: other.int64s[row])
            case .float64: append(float64: other.float64s[row])
            case .text: append(text: other.text(row))
            }
        }
    }
}

/// What a section's first two bytes say.
struct SectionForm {
    var encoding: UInt8
    var parameter: UInt8
}

extension NodeWriter {
    fileprivate mutating func beginLeaf(columns: Int, rows: Int) {
        write(nodeKindLeaf)
        write(leafVersion)
        write(UInt16(4 + columns))
        write(UInt32(rows))
    }

    fileprivate mutating func section(
        nulls: UnsafePointer<Bool>? = nil, _ range: Range<Int> = 0..<0, _ body: (inout NodeWriter) -> SectionForm
    ) {
        let start = count
        write(UInt16(0))
        write(UInt32(0))
        var hasNulls = false
        if let nulls, range.contains(where: { nulls[$0] }) {
            hasNulls = true
            for byte in 0..<(range.count + 7) / 8 {
                var bits: UInt8 = 0
                for row in byte * 8..<min(byte * 8 + 8, range.count) where nulls[range.lowerBound + row] { bits |= 1 << UInt8(row % 8) }
                write(bits)
            }
        }
        let form = body(&self)
        patch(form.encoding | (hasNulls ? LeafEncoding.nullFlag : 0), at: start)
        patch(form.parameter, at: start + 1)
        patch(UInt32(count - start - 6), at: start + 2)
    }

    /// Writes a section unless `body` gives up; then nothing of it is left.
    fileprivate mutating func trySection(_ body: (inout NodeWriter) -> SectionForm?) -> Bool {
        let start = count
        var isWritten = false
        section { writer in
            guard let form = body(&writer) else { return SectionForm(encoding: 0, parameter: 0) }
            isWritten = true
            return form
        }
        if !isWritten { truncate(to: start) }
        return isWritten
    }

    // MARK: Integers

    /// Base and offsets. Times are mostly whole milliseconds or seconds: `isScaled` looks for that.
    @inline(__always)
    fileprivate mutating func integers(_ rows: Int, isScaled: Bool = false, _ value: (Int) -> Int64) -> SectionForm {
        var low = rows == 0 ? 0 : value(0)
        var high = low
        for row in 0..<rows {
            low = min(low, value(row))
            high = max(high, value(row))
        }
        let spread = UInt64(bitPattern: high &- low)
        var unit: UInt64 = 1
        if isScaled, spread > 0 {
            for candidate: UInt64 in [1_000_000, 1_000]
            where (0..<rows).allSatisfy({ UInt64(bitPattern: value($0) &- low) % candidate == 0 }) {
                unit = candidate
                break
            }
        }
        let width = (64 - (spread / unit).leadingZeroBitCount + 7) / 8
        write(low)
        if unit == 1 {
            writeColumn(rows: rows, width: width) { UInt64(bitPattern: value($0) &- low) }
            return SectionForm(encoding: LeafEncoding.integers, parameter: UInt8(width))
        }
        write(UInt32(unit))
        writeColumn(rows: rows, width: width) { UInt64(bitPattern: value($0) &- low) / unit }
        return SectionForm(encoding: LeafEncoding.scaledIntegers, parameter: UInt8(width))
    }

    @inline(__always)
    fileprivate mutating func append(
        _ old: LeafView.Integers, _ oldRows: Int, _ rows: Int, isRenewed: Bool, isScaled: Bool = false, _ value: (Int) -> Int64
    ) -> SectionForm {
        if !isRenewed, let form = tryAppend(old, oldRows, rows, value) { return form }
        let stored = old.all(oldRows)
        return integers(oldRows + rows, isScaled: isScaled) { $0 < oldRows ? stored[$0] : value($0 - oldRows) }
    }

    /// Copies stored offsets and adds those of further values; nil, with nothing written, where one does not fit.
    @inline(__always)
    fileprivate mutating func tryAppend(_ old: LeafView.Integers, _ oldRows: Int, _ rows: Int, _ value: (Int) -> Int64) -> SectionForm? {
        let unit = UInt64(bitPattern: old.unit)
        guard unit > 0 else { return nil }
        let limit: UInt64 = old.width == 8 ? .max : 1 << UInt64(8 * old.width)
        for row in 0..<rows {
            let new = value(row)
            guard new >= old.base else { return nil }
            let offset = UInt64(bitPattern: new &- old.base)
            if unit == 1 {
                guard offset < limit else { return nil }
            } else {
                guard offset % unit == 0, offset / unit < limit else { return nil }
            }
        }
        write(old.base)
        if unit != 1 { write(UInt32(unit)) }
        writeRaw(old.raw)
        writeColumn(rows: rows, width: old.width) { UInt64(bitPattern: value($0) &- old.base) / unit }
        return SectionForm(
            encoding: unit == 1 ? LeafEncoding.integers : LeafEncoding.scaledIntegers, parameter: UInt8(old.width))
    }

    // MARK: Columns

    fileprivate mutating func column(_ column: ColumnView, _ range: Range<Int>) -> SectionForm {
        let first = range.lowerBound
        return switch column.type {
        case .int64, .bool: integers(range.count) { column.int64s[first + $0] }
        case .float64: doubles(range.count) { column.float64s[first + $0] }
        case .text: texts(column, range, mayUseDictionary: true)
        }
    }

    /// Doubles that are short decimals (prices mostly are) as integers over a power of ten, if every one comes back exactly.
    @inline(__always)
    private mutating func doubles(_ rows: Int, _ value: (Int) -> Double) -> SectionForm {
        for (decimals, scale) in powersOfTen.enumerated() where (0..<rows).allSatisfy({ isDecimal(value($0), scale) }) {
            let position = count
            write(UInt8(0))
            let form = integers(rows) { Int64((value($0) * scale).rounded(.toNearestOrEven)) }
            patch(form.parameter, at: position)
            return SectionForm(encoding: LeafEncoding.decimals, parameter: UInt8(decimals))
        }
        writeColumn(rows: rows, width: 8) { value($0).bitPattern }
        return SectionForm(encoding: LeafEncoding.doubles, parameter: 0)
    }

    @inline(__always)
    private func isDecimal(_ value: Double, _ scale: Double) -> Bool {
        let product = (value * scale).rounded(.toNearestOrEven)
        return abs(product) < 1e15 && product / scale == value
    }

    @inline(__always)
    fileprivate mutating func append(doubles raw: UnsafeRawBufferPointer, _ rows: Int, _ value: (Int) -> Double) -> SectionForm {
        writeRaw(raw)
        writeColumn(rows: rows, width: 8) { value($0).bitPattern }
        return SectionForm(encoding: LeafEncoding.doubles, parameter: 0)
    }

    @inline(__always)
    fileprivate mutating func append(
        decimals old: LeafView.Integers, _ decimals: Int, _ oldRows: Int, _ rows: Int, _ value: (Int) -> Double
    ) -> SectionForm? {
        let scale = powersOfTen[decimals]
        for row in 0..<rows where !isDecimal(value(row), scale) { return nil }
        write(UInt8(old.width))
        guard tryAppend(old, oldRows, rows, { Int64((value($0) * scale).rounded(.toNearestOrEven)) }) != nil else { return nil }
        return SectionForm(encoding: LeafEncoding.decimals, parameter: UInt8(decimals))
    }

    // MARK: Texts

    fileprivate mutating func texts(_ column: ColumnView, _ range: Range<Int>, mayUseDictionary: Bool) -> SectionForm {
        if mayUseDictionary, let codes = dictionaryCodes(column, range) {
            write(UInt32(codes.distinct.count))
            var offset: UInt32 = 0
            write(offset)
            for row in codes.distinct {
                offset += UInt32(column.textLength(row))
                write(offset)
            }
            for row in codes.distinct { writeRaw(column.text(row)) }
            let width = codes.distinct.count <= 1 ? 0 : codes.distinct.count <= 256 ? 1 : codes.distinct.count <= 65_536 ? 2 : 4
            write(UInt8(width))
            writeColumn(rows: codes.codes.count, width: width) { UInt64(codes.codes[$0]) }
            return SectionForm(encoding: LeafEncoding.dictionary, parameter: 0)
        }
        let prefix = sharedPrefix(column, range)
        let first = range.isEmpty ? 0 : column.textLength(range.lowerBound)
        let isFixed = range.allSatisfy { column.textLength($0) == first }
        let start = range.isEmpty ? 0 : column.textStart(range.lowerBound)
        write(UInt8(prefix))
        writeRaw(UnsafeRawBufferPointer(start: column.textBytes + start, count: prefix))
        if isFixed {
            write(UInt8(0))
            write(UInt32(first - prefix))
        } else {
            let total = column.textEnds[range.upperBound - 1] - start - prefix * range.count
            let width = total < 256 ? 1 : total < 65_536 ? 2 : 4
            write(UInt8(width))
            // The end of a row's text, less the prefixes up to it.
            writeColumn(rows: range.count + 1, width: width) {
                $0 == 0 ? 0 : UInt64(column.textEnds[range.lowerBound + $0 - 1] - start - prefix * $0)
            }
        }
        writeSuffixes(column, range, prefix: prefix)
        return SectionForm(encoding: LeafEncoding.texts, parameter: 0)
    }

    /// Writes texts behind what they all begin with.
    private mutating func writeSuffixes(_ column: ColumnView, _ range: Range<Int>, prefix: Int) {
        for row in range {
            writeRaw(
                UnsafeRawBufferPointer(
                    start: column.textBytes + column.textStart(row) + prefix, count: column.textLength(row) - prefix))
        }
    }

    /// Copies stored texts and adds further ones; nil, with nothing written, where their form does not take them.
    fileprivate mutating func append(
        _ old: LeafView.Texts, _ oldRows: Int, _ new: ColumnView, _ range: Range<Int>
    ) -> SectionForm? {
        switch old.form {
        case .dictionary(let distinct, let offsets, let codes, let width):
            let start = count
            write(UInt32(distinct))
            writeRaw(offsets)
            writeRaw(old.bytes)
            write(UInt8(width))
            writeRaw(codes)
            for row in range {
                guard let code = (0..<distinct).first(where: { compareBytes(old.text(ofCode: $0), new.text(row)) == 0 }) else {
                    truncate(to: start)
                    return nil
                }
                writeColumn(rows: 1, width: width) { _ in UInt64(code) }
            }
            return SectionForm(encoding: LeafEncoding.dictionary, parameter: 0)
        case .fixed(let length):
            let prefix = old.prefix.count
            for row in range where new.textLength(row) != prefix + length || !hasPrefix(new.text(row), old.prefix) { return nil }
            write(UInt8(prefix))
            writeRaw(old.prefix)
            write(UInt8(0))
            write(UInt32(length))
            writeRaw(old.bytes)
            writeSuffixes(new, range, prefix: prefix)
            return SectionForm(encoding: LeafEncoding.texts, parameter: 0)
        case .offsets(let offsets, let width):
            let prefix = old.prefix.count
            let start = range.isEmpty ? 0 : new.textStart(range.lowerBound)
            let end = range.isEmpty ? 0 : new.textEnds[range.upperBound - 1]
            let total = old.bytes.count + end - start - prefix * range.count
            guard total < 1 << (8 * width) else { return nil }
            for row in range where new.textLength(row) < prefix || !hasPrefix(new.text(row), old.prefix) { return nil }
            write(UInt8(prefix))
            writeRaw(old.prefix)
            write(UInt8(width))
            writeRaw(offsets)
            let stored = old.bytes.count
            writeColumn(rows: range.count, width: width) {
                UInt64(stored + new.textEnds[range.lowerBound + $0] - start - prefix * ($0 + 1))
            }
            writeRaw(old.bytes)
            writeSuffixes(new, range, prefix: prefix)
            return SectionForm(encoding: LeafEncoding.texts, parameter: 0)
        }
    }

    /// Of a text that is at least as long.
    @inline(__always)
    private func hasPrefix(_ text: UnsafeRawBufferPointer, _ prefix: UnsafeRawBufferPointer) -> Bool {
        for index in 0..<prefix.count where text[index] != prefix[index] { return false }
        return true
    }

    /// Codes in the order of first appearance; nil where a dictionary would not be smaller.
    private func dictionaryCodes(_ column: ColumnView, _ range: Range<Int>) -> (distinct: [Int], codes: [Int])? {
        var distinct: [Int] = []
        var codes: [Int] = []
        codes.reserveCapacity(range.count)
        if range.count <= 256 {
            // Few rows: looking through the distinct texts costs less than hashing them. Of each one: what equal ones have in common.
            var marks: [UInt64] = []
            for row in range {
                let text = column.text(row)
                let mark = firstBytes(text) &+ UInt64(text.count)
                // The last one first: rows of row groups are sorted.
                var code = marks.count - 1
                while code >= 0, marks[code] != mark || compareBytes(column.text(distinct[code]), text) != 0 { code -= 1 }
                if code >= 0 {
                    codes.append(code)
                    continue
                }
                codes.append(distinct.count)
                distinct.append(row)
                marks.append(mark)
                // Mostly different so far: they will be to the end.
                if codes.count > 32, distinct.count * 4 > codes.count * 3 { return nil }
                if distinct.count * 2 > range.count, range.count > 1 { return nil }
            }
            return (distinct, codes)
        }
        var known: [[UInt8]: Int] = [:]
        for row in range {
            let text = Array(column.text(row))
            if let code = known[text] {
                codes.append(code)
            } else {
                known[text] = distinct.count
                codes.append(distinct.count)
                distinct.append(row)
            }
        }
        return distinct.count * 2 <= range.count || range.count <= 1 ? (distinct, codes) : nil
    }

    /// The length of what all texts begin with: at most 255 bytes, and none of a single text.
    private func sharedPrefix(_ column: ColumnView, _ rows: Range<Int>) -> Int {
        guard rows.count > 1 else { return 0 }
        let first = column.text(rows.lowerBound)
        var shared = min(first.count, 255)
        for row in rows.dropFirst() {
            let text = column.text(row)
            shared = min(shared, text.count)
            var same = 0
            while same < shared, first[same] == text[same] { same += 1 }
            shared = same
            if shared == 0 { break }
        }
        return shared
    }
}
