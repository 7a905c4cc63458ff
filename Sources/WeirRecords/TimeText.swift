import WeirAlgebra

/// Times as text: RFC 3339 with up to six decimals, or numbers in a stream's unit.
public enum TimeText {
    /// Parses `2017-01-01T11:53:26.5Z` or with an offset such as `+01:00`.
    public static func parseRFC3339(_ text: UnsafeRawBufferPointer) throws(RecordError) -> Int64 {
        func wrong(_ what: String) -> RecordError {
            RecordError(
                "\(what) in the time '\(shown(text))'; a time looks like 2017-01-01T11:53:26Z, with up to six decimals")
        }
        func number(_ start: Int, _ count: Int) throws(RecordError) -> Int {
            guard start + count <= text.count else { throw wrong("something is missing") }
            var value = 0
            for i in start..<start + count {
                guard (48...57).contains(text[i]) else { throw wrong("a digit is missing") }
                value = value * 10 + Int(text[i] - 48)
            }
            return value
        }
        func expect(_ position: Int, _ options: StaticString) throws(RecordError) {
            guard position < text.count, (0..<options.utf8CodeUnitCount).contains(where: { options.utf8Start[$0] == text[position] }) else {
                throw wrong("'\("\(options)".first!)' is missing")
            }
        }
        let year = try number(0, 4)
        try expect(4, "-")
        let month = try number(5, 2)
        try expect(7, "-")
        let day = try number(8, 2)
        try expect(10, "Tt ")
        let hour = try number(11, 2)
        try expect(13, ":")
        let minute = try number(14, 2)
        try expect(16, ":")
        let second = try number(17, 2)
        guard (1...12).contains(month) else { throw wrong("there is no month \(month)") }
        guard day >= 1, day <= daysIn(month: month, year: year) else { throw wrong("there is no day \(day)") }
        guard hour < 24, minute < 60, second < 60 else { throw wrong("there is no such time of day") }
        var position = 19
        var micros: Int64 = 0
        if position < text.count, text[position] == UInt8(ascii: ".") {
            position += 1
            var scale: Int64 = 100_000
            let start = position
            while position < text.count, (48...57).contains(text[position]) {
                guard position - start < 6 else { throw wrong("more than six decimals") }
                micros += Int64(text[position] - 48) * scale
                scale /= 10
                position += 1
            }
            guard position > start else { throw wrong("a digit is missing") }
        }
        var offset = 0
        guard position < text.count else { throw wrong("the offset from UTC is missing ('Z' is UTC)") }
        switch text[position] {
        case UInt8(ascii: "Z"), UInt8(ascii: "z"): position += 1
        case UInt8(ascii: "+"), UInt8(ascii: "-"):
            let hours = try number(position + 1, 2)
            try expect(position + 3, ":")
            let minutes = try number(position + 4, 2)
            guard hours < 24, minutes < 60 else { throw wrong("there is no such offset from UTC") }
            offset = (hours * 60 + minutes) * (text[position] == UInt8(ascii: "-") ? -1 : 1)
            position += 6
        default: throw wrong("the offset from UTC is missing ('Z' is UTC)")
        }
        guard position == text.count else { throw wrong("something follows") }
        let seconds =
            Int64(daysFromEpoch(year: year, month: month, day: day)) * 86_400
            + Int64(hour * 3_600 + minute * 60 + second - offset * 60)
        return seconds * 1_000_000 + micros
    }

    public static func parseRFC3339(_ text: String) throws(RecordError) -> Int64 {
        let bytes = Array(text.utf8)
        let result: Result<Int64, RecordError> = bytes.withUnsafeBytes { raw in
            do throws(RecordError) { return .success(try parseRFC3339(raw)) } catch { return .failure(error) }
        }
        return try result.get()
    }

    /// A decimal number of `unit`s that is a whole number of microseconds.
    public static func parseNumber(_ text: UnsafeRawBufferPointer, unit: TimestampUnit?) throws(RecordError) -> Int64 {
        guard let unit else {
            throw RecordError(
                "the time \(shown(text)) is a number, but the stream declares no unit for times; give RFC 3339 text, or declare timestampUnit"
            )
        }
        var position = 0
        let isNegative = text.first == UInt8(ascii: "-")
        if isNegative { position = 1 }
        var value: Int64 = 0
        var scale = unit.microseconds
        var isFraction = false
        var digits = 0
        while position < text.count {
            let byte = text[position]
            if byte == UInt8(ascii: "."), !isFraction, digits > 0 {
                isFraction = true
            } else if (48...57).contains(byte) {
                digits += 1
                if isFraction {
                    if scale == 1 {
                        guard byte == 48 else {
                            throw RecordError("the time \(shown(text)) is no whole number of microseconds")
                        }
                    } else {
                        scale /= 10
                        let (sum, overflow) = value.addingReportingOverflow(Int64(byte - 48) * scale)
                        if overflow { throw RecordError("the time \(shown(text)) is out of range") }
                        value = sum
                    }
                } else {
                    let (product, overflow) = value.multipliedReportingOverflow(by: 10)
                    let (sum, overflow2) = product.addingReportingOverflow(Int64(byte - 48) * unit.microseconds)
                    if overflow || overflow2 { throw RecordError("the time \(shown(text)) is out of range") }
                    value = sum
                }
            } else {
                throw RecordError("'\(shown(text))' is no time: a number of \(unit.rawValue) or RFC 3339 text is")
            }
            position += 1
        }
        guard digits > 0 else {
            throw RecordError("'\(shown(text))' is no time: a number of \(unit.rawValue) or RFC 3339 text is")
        }
        let time = isNegative ? -value : value
        guard EventTime.ofEvents.contains(EventTime(microseconds: time)) else {
            throw RecordError(
                "the time \(shown(text)) is out of range: as \(unit.rawValue), which the stream declares, it lies outside of the years 0 to 9999"
            )
        }
        return time
    }

    /// A time as a person or a client gives it: RFC 3339, or an integer of milliseconds.
    public static func parse(_ text: String) throws(RecordError) -> EventTime {
        let digits = text.hasPrefix("-") ? text.dropFirst() : text[...]
        if !digits.isEmpty, digits.utf8.allSatisfy({ (48...57).contains($0) }) {
            guard let milliseconds = Int64(text) else { throw RecordError("the time \(text) is out of range") }
            let (micros, overflow) = milliseconds.multipliedReportingOverflow(by: 1_000)
            if overflow { throw RecordError("the time \(text) is out of range") }
            return EventTime(microseconds: micros)
        }
        return EventTime(microseconds: try parseRFC3339(text))
    }

    /// RFC 3339 in UTC with no more decimals than needed; as integer microseconds outside of the years 0 to 9999, which RFC 3339
    /// cannot say.
    public static func format(_ time: EventTime) -> String {
        var bytes: [UInt8] = []
        append(time, to: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Appends what `format` makes.
    ///
    /// - Parameter decimalsStep: decimals come in groups of so many: 3 gives none, three or six, which all parsers take.
    package static func append(_ time: EventTime, decimalsStep: Int = 1, to bytes: inout [UInt8]) {
        let day = time.floored(to: 86_400_000_000).microseconds
        let days = day / 86_400_000_000
        guard (-719_528...2_932_896).contains(days) else { return bytes.append(contentsOf: String(time.microseconds).utf8) }
        func append(_ value: Int, digits: Int) {
            var scale = 1
            for _ in 1..<digits { scale *= 10 }
            while scale > 0 {
                bytes.append(UInt8(ascii: "0") + UInt8(truncatingIfNeeded: value / scale % 10))
                scale /= 10
            }
        }
        let rest = time.microseconds - day
        let date = date(daysFromEpoch: Int(days))
        let seconds = Int(rest / 1_000_000)
        append(date.year, digits: 4)
        bytes.append(UInt8(ascii: "-"))
        append(date.month, digits: 2)
        bytes.append(UInt8(ascii: "-"))
        append(date.day, digits: 2)
        bytes.append(UInt8(ascii: "T"))
        append(seconds / 3_600, digits: 2)
        bytes.append(UInt8(ascii: ":"))
        append(seconds / 60 % 60, digits: 2)
        bytes.append(UInt8(ascii: ":"))
        append(seconds % 60, digits: 2)
        var decimals = Int(rest % 1_000_000)
        if decimals != 0 {
            var digits = 6
            var step = 1
            for _ in 0..<decimalsStep { step *= 10 }
            while digits > decimalsStep, decimals % step == 0 {
                decimals /= step
                digits -= decimalsStep
            }
            bytes.append(UInt8(ascii: "."))
            append(decimals, digits: digits)
        }
        bytes.append(UInt8(ascii: "Z"))
    }

    private static func isLeap(_ year: Int) -> Bool { year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) }

    private static func daysIn(month: Int, year: Int) -> Int {
        switch month {
        case 2: isLeap(year) ? 29 : 28
        case 4, 6, 9, 11: 30
        default: 31
        }
    }

    /// Howard Hinnant, "chrono-compatible low-level date algorithms".
    private static func daysFromEpoch(year: Int, month: Int, day: Int) -> Int {
        let y = month <= 2 ? year - 1 : year
        let era = (y >= 0 ? y : y - 399) / 400
        let yearOfEra = y - era * 400
        let dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1
        return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
    }

    private static func date(daysFromEpoch days: Int) -> (year: Int, month: Int, day: Int) {
        let z = days + 719_468
        let era = (z >= 0 ? z : z - 146_096) / 146_097
        let dayOfEra = z - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let m = (5 * dayOfYear + 2) / 153
        let month = m < 10 ? m + 3 : m - 9
        return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, dayOfYear - (153 * m + 2) / 5 + 1)
    }
}

extension EventTime: Codable {
    /// From RFC 3339 text.
    public init(from decoder: any Decoder) throws {
        let text = try decoder.singleValueContainer().decode(String.self)
        self.init(microseconds: try TimeText.parseRFC3339(text))
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(TimeText.format(self))
    }
}

extension EventTime: CustomStringConvertible {
    public var description: String { TimeText.format(self) }
}

/// Text for a message: short, and without what would break a line.
func shown(_ text: UnsafeRawBufferPointer) -> String {
    let head = String(decoding: text.prefix(60), as: UTF8.self)
    let clean = String(head.unicodeScalars.map { $0.value < 32 || $0.value == 127 ? "·" : Character($0) })
    return text.count > 60 ? clean + "…" : clean
}
