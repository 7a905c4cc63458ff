import WeirAlgebra

/// Reads JSON objects in the form that machines write: the schema's fields and no others, strings without escapes, numbers of few
/// digits. What has another form is given up, and `JSONRecordParser` reads it, with all that JSON allows and messages for what
/// it does not. Both give the same cells, which a test holds them to.
struct PlainJSONRecord: Sendable {
    private struct Member: Sendable {
        /// The name between quotes.
        let quoted: [UInt8]
        let type: FieldType
    }

    private let members: [Member]
    private let required: UInt64
    private let timeUnit: Int64?
    /// Objects in a row that had another form; after some, others are tried only now and then.
    private var failures = 0

    /// nil for a schema that has fields of other forms.
    init?(_ schema: RecordSchema) {
        guard (1...64).contains(schema.fields.count), !schema.fields.contains(where: { $0.type == .json }) else { return nil }
        members = schema.fields.map { Member(quoted: Array("\"\($0.name)\"".utf8), type: $0.type) }
        var required: UInt64 = 0
        for (index, field) in schema.fields.enumerated() where !field.isOptional { required |= 1 << UInt64(index) }
        self.required = required
        timeUnit = schema.timestampUnit?.microseconds
    }

    private static let failuresMax = 16
    private static let pause = 256
    /// Lines that are looked at together.
    private var linesAtOnce = linesAtOnceMax
    private static let linesAtOnceMax = 4_096

    /// Whether objects are worth trying: fewer where most had another form.
    private mutating func isWorthTrying() -> Bool {
        if failures < Self.failuresMax { return true }
        failures += 1
        if failures < Self.failuresMax + Self.pause { return false }
        failures = Self.failuresMax - 1
        return true
    }

    /// - Parameters:
    ///   - inputStart: where `bytes` stand in the batch.
    ///   - cells: one for each field, all null; they are filled where the answer is true.
    mutating func parse(_ bytes: UnsafeRawBufferPointer, inputStart: Int, into cells: inout [Cell]) -> Bool {
        guard isWorthTrying() else { return false }
        let isPlain = cells.withUnsafeMutableBufferPointer { parse(bytes, inputStart: inputStart, into: $0.baseAddress!) }
        failures = isPlain ? 0 : failures + 1
        return isPlain
    }

    private func parse(_ bytes: UnsafeRawBufferPointer, inputStart: Int, into cells: UnsafeMutablePointer<Cell>) -> Bool {
        members.withUnsafeBufferPointer { members in
            var scan = Scan(bytes: bytes, inputStart: inputStart, timeUnit: timeUnit)
            return scan.object(members, required, cells)
        }
    }

    /// Parses the lines at the beginning of a chunk that have this form, up to the first that has not.
    ///
    /// - Parameters:
    ///   - baseOffset: where in the file the chunk begins.
    ///   - linesMax: stops after so many.
    ///   - lineBytesMax: stops before a line that is longer.
    /// - Returns: the lines, and the bytes that they take.
    mutating func parseLines(
        _ chunk: UnsafeRawBufferPointer, baseOffset: Int64, into batch: inout RecordBatch, linesMax: Int, lineBytesMax: Int
    ) -> (lines: Int, bytes: Int) {
        guard failures < Self.failuresMax else { return (0, 0) }
        // After a line of another form only some are looked at.
        let wanted = min(linesMax, linesAtOnce)
        var ends: [Int] = []
        ends.reserveCapacity(wanted)
        var end = 0
        while ends.count < wanted, end < chunk.count, chunk[end] == UInt8(ascii: "{"),
            let feed = firstLineFeed(UnsafeRawBufferPointer(rebasing: chunk[end...])), feed <= lineBytesMax
        {
            end += feed + 1
            ends.append(end)
        }
        if ends.isEmpty { return (0, 0) }
        let width = members.count
        let bytesBefore = batch.bytes.count
        let cellsBefore = batch.cells.count
        batch.bytes.append(contentsOf: UnsafeRawBufferPointer(rebasing: chunk[..<end]))
        batch.cells.append(contentsOf: repeatElement(.null, count: ends.count * width))
        var done = 0
        batch.cells.withUnsafeMutableBufferPointer { cells in
            batch.bytes.withUnsafeBytes { bytes in
                var start = bytesBefore
                for end in ends {
                    let feed = bytesBefore + end - 1
                    let length = feed - start - (feed > start && bytes[feed - 1] == 0x0D ? 1 : 0)
                    let line = UnsafeRawBufferPointer(start: bytes.baseAddress! + start, count: length)
                    let target = cells.baseAddress! + cellsBefore + done * width
                    guard parse(line, inputStart: start, into: target) else { break }
                    batch.rows.append(.init(raw: start..<start + length, offset: baseOffset + Int64(start - bytesBefore)))
                    done += 1
                    start = feed + 1
                }
            }
        }
        if done > 0 { failures = 0 }
        linesAtOnce = done == ends.count ? min(2 * linesAtOnce, Self.linesAtOnceMax) : 1
        let used = done == 0 ? 0 : ends[done - 1]
        if done < ends.count {
            batch.bytes.removeLast(end - used)
            batch.cells.removeLast((ends.count - done) * width)
        }
        return (done, used)
    }

    private struct Scan {
        let bytes: UnsafeRawBufferPointer
        let inputStart: Int
        let timeUnit: Int64?
        var position = 0

        init(bytes: UnsafeRawBufferPointer, inputStart: Int, timeUnit: Int64?) {
            self.bytes = bytes
            self.inputStart = inputStart
            self.timeUnit = timeUnit
        }

        /// The next byte behind white space; 0, which stands nowhere in an object of this form, at the end.
        @inline(__always)
        private mutating func next() -> UInt8 {
            while position < bytes.count {
                let byte = bytes[position]
                if byte > 0x20 { return byte }
                guard byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 else { return 0 }
                position += 1
            }
            return 0
        }

        @inline(__always)
        private mutating func take(_ byte: UInt8) -> Bool {
            guard next() == byte else { return false }
            position += 1
            return true
        }

        mutating func object(
            _ members: UnsafeBufferPointer<Member>, _ required: UInt64, _ cells: UnsafeMutablePointer<Cell>
        ) -> Bool {
            guard take(UInt8(ascii: "{")) else { return false }
            var seen: UInt64 = 0
            var filled: UInt64 = 0
            var expected = 0
            repeat {
                guard next() == UInt8(ascii: "\""), let index = member(members, expected) else { return false }
                let bit: UInt64 = 1 << UInt64(index)
                guard seen & bit == 0 else { return false }
                seen |= bit
                expected = index + 1 == members.count ? 0 : index + 1
                guard take(UInt8(ascii: ":")), let cell = value(members[index].type) else { return false }
                if cell != .null { filled |= bit }
                cells[index] = cell
            } while take(UInt8(ascii: ","))
            guard take(UInt8(ascii: "}")), filled & required == required else { return false }
            return next() == 0 && position == bytes.count
        }

        /// The field whose name comes next; tried first is the one after the last, since writers keep an order.
        @inline(__always)
        private mutating func member(_ members: UnsafeBufferPointer<Member>, _ expected: Int) -> Int? {
            for step in 0..<members.count {
                var index = expected + step
                if index >= members.count { index -= members.count }
                let length = members[index].quoted.count
                guard position + length <= bytes.count else { continue }
                if members[index].quoted.withUnsafeBytes({ isSame($0, length) }) {
                    position += length
                    return index
                }
            }
            return nil
        }

        /// Whether a name stands here; eight bytes at a time.
        @inline(__always)
        private func isSame(_ name: UnsafeRawBufferPointer, _ length: Int) -> Bool {
            let text = bytes.baseAddress! + position
            let name = name.baseAddress!
            var offset = 0
            while offset + 8 <= length {
                if name.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
                    != text.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
                {
                    return false
                }
                offset += 8
            }
            while offset < length {
                if name.load(fromByteOffset: offset, as: UInt8.self) != text.load(fromByteOffset: offset, as: UInt8.self) { return false }
                offset += 1
            }
            return true
        }

        @inline(__always)
        private mutating func value(_ type: FieldType) -> Cell? {
            let first = next()
            if first == UInt8(ascii: "n") { return literal("null") ? .null : nil }
            switch type {
            case .int64:
                guard let (mantissa, decimals) = number(digitsMax: 18), decimals < 0 else { return nil }
                return .int64(mantissa)
            case .float64:
                let isNegative = first == UInt8(ascii: "-")
                guard let (mantissa, decimals) = number(digitsMax: 15) else { return nil }
                // Both are exact, so that the quotient is rounded once.
                let value = decimals <= 0 ? Double(mantissa.magnitude) : Double(mantissa.magnitude) / Numbers.powersOfTen[decimals]
                return .float64(isNegative ? -value : value)
            case .bool:
                if first == UInt8(ascii: "t") { return literal("true") ? .bool(true) : nil }
                return literal("false") ? .bool(false) : nil
            case .time:
                if first == UInt8(ascii: "\"") {
                    guard let text = string() else { return nil }
                    guard let time = try? TimeText.parseRFC3339(UnsafeRawBufferPointer(rebasing: bytes[text])) else { return nil }
                    return .time(time)
                }
                guard let timeUnit, let (mantissa, decimals) = number(digitsMax: 18), decimals < 0 else { return nil }
                let (time, overflow) = mantissa.multipliedReportingOverflow(by: timeUnit)
                return overflow || !EventTime.ofEvents.contains(EventTime(microseconds: time)) ? nil : .time(time)
            case .text:
                guard let text = string() else { return nil }
                return .text(start: inputStart + text.lowerBound, count: text.count)
            case .json: return nil
            }
        }

        private mutating func literal(_ text: StaticString) -> Bool {
            let length = text.utf8CodeUnitCount
            guard position + length <= bytes.count else { return false }
            for byte in 0..<length where bytes[position + byte] != text.utf8Start[byte] { return false }
            position += length
            return true
        }

        /// A number without exponent, as an integer and how many of its digits are decimals; −1 for one without a point.
        @inline(__always)
        private mutating func number(digitsMax: Int) -> (mantissa: Int64, decimals: Int)? {
            var isNegative = false
            if position < bytes.count, bytes[position] == UInt8(ascii: "-") {
                isNegative = true
                position += 1
            }
            let start = position
            var mantissa: Int64 = 0
            eightDigits(&mantissa)
            eightDigits(&mantissa)
            while position < bytes.count {
                let digit = bytes[position] &- 48
                guard digit < 10 else { break }
                // Too many digits wrap, and are refused below.
                mantissa = mantissa &* 10 &+ Int64(digit)
                position += 1
            }
            let whole = position - start
            guard whole > 0, whole <= digitsMax, whole == 1 || bytes[start] != 48, position < bytes.count else { return nil }
            var decimals = -1
            if bytes[position] == UInt8(ascii: ".") {
                position += 1
                let point = position
                while position < bytes.count {
                    let digit = bytes[position] &- 48
                    guard digit < 10 else { break }
                    mantissa = mantissa &* 10 &+ Int64(digit)
                    position += 1
                }
                decimals = position - point
                guard decimals > 0, whole + decimals <= digitsMax, position < bytes.count else { return nil }
            }
            switch bytes[position] {
            case UInt8(ascii: ","), UInt8(ascii: "}"), 0x20, 0x0A, 0x0D, 0x09: return (isNegative ? -mantissa : mantissa, decimals)
            default: return nil
            }
        }

        /// Reads eight digits, if so many stand here, at once: pairs, then fours, then eight (D. Lemire, "Quickly parsing eight digits", 2018).
        @inline(__always)
        private mutating func eightDigits(_ mantissa: inout Int64) {
            guard position + 8 <= bytes.count else { return }
            let word = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: position, as: UInt64.self))
            let high: UInt64 = 0xF0F0_F0F0_F0F0_F0F0
            guard (word & high) | (((word &+ 0x0606_0606_0606_0606) & high) >> 4) == 0x3333_3333_3333_3333 else { return }
            var value = word &- 0x3030_3030_3030_3030
            value = value &* 10 &+ (value >> 8)
            let fours: UInt64 = 0x0000_00FF_0000_00FF
            value = ((value & fours) &* 0x000F_4240_0000_0064 &+ ((value >> 16) & fours) &* 0x0000_2710_0000_0001) >> 32
            mantissa = mantissa &* 100_000_000 &+ Int64(value & 0xFFFF_FFFF)
            position += 8
        }

        /// What stands between quotes, where nothing is escaped.
        @inline(__always)
        private mutating func string() -> Range<Int>? {
            guard position < bytes.count, bytes[position] == UInt8(ascii: "\"") else { return nil }
            let start = position + 1
            var end = start
            var union: UInt8 = 0
            while end < bytes.count {
                let byte = bytes[end]
                if byte == UInt8(ascii: "\"") {
                    if union >= 0x80, !isValidUTF8(UnsafeRawBufferPointer(rebasing: bytes[start..<end])) { return nil }
                    position = end + 1
                    return start..<end
                }
                guard byte >= 0x20, byte != UInt8(ascii: "\\") else { return nil }
                union |= byte
                end += 1
            }
            return nil
        }
    }
}
