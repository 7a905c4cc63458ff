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

    /// - Parameters:
    ///   - inputStart: where `bytes` stand in the batch.
    ///   - cells: one for each field, all null; they are filled where the answer is true.
    mutating func parse(_ bytes: UnsafeRawBufferPointer, inputStart: Int, into cells: inout [Cell]) -> Bool {
        if failures >= Self.failuresMax {
            failures += 1
            if failures < Self.failuresMax + Self.pause { return false }
            failures = Self.failuresMax - 1
        }
        let isPlain = cells.withUnsafeMutableBufferPointer { cells in
            members.withUnsafeBufferPointer { members in
                var scan = Scan(bytes: bytes, inputStart: inputStart, timeUnit: timeUnit)
                return scan.object(members, required, cells)
            }
        }
        failures = isPlain ? 0 : failures + 1
        return isPlain
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
            _ members: UnsafeBufferPointer<Member>, _ required: UInt64, _ cells: UnsafeMutableBufferPointer<Cell>
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
                let isSame = members[index].quoted.withUnsafeBytes { name in
                    var byte = length - 2
                    while byte > 0, name[byte] == bytes[position + byte] { byte -= 1 }
                    return byte == 0 && bytes[position + length - 1] == UInt8(ascii: "\"")
                }
                if isSame {
                    position += length
                    return index
                }
            }
            return nil
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
