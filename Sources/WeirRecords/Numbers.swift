/// Numbers from text, rounded correctly.
enum Numbers {
    static let powersOfTen: [Double] = [
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19,
        1e20, 1e21,
        1e22,
    ]

    /// A decimal number in JSON's grammar, with a leading `+`, `.5` and `5.` where `isLenient`. nil for other text; infinite for
    /// numbers beyond Double's range.
    ///
    /// Up to 15 digits with a small exponent take one exact division or multiplication (Clinger, "How to read floating point
    /// numbers accurately", 1990); the rest goes to the standard library.
    static func double(_ text: UnsafeRawBufferPointer, isLenient: Bool = false) -> Double? {
        var position = 0
        let count = text.count
        var isNegative = false
        if position < count, text[position] == UInt8(ascii: "-") || (isLenient && text[position] == UInt8(ascii: "+")) {
            isNegative = text[position] == UInt8(ascii: "-")
            position += 1
        }
        var mantissa: UInt64 = 0
        var digits = 0
        var exponent = 0
        let start = position
        while position < count, (48...57).contains(text[position]) {
            if digits < 19 {
                mantissa = mantissa &* 10 &+ UInt64(text[position] - 48)
                if mantissa != 0 { digits += 1 }
            } else {
                digits += 1
            }
            position += 1
        }
        let whole = position - start
        if whole == 0, !isLenient { return nil }
        if whole > 1, text[start] == 48, !isLenient { return nil }
        var fraction = 0
        if position < count, text[position] == UInt8(ascii: ".") {
            position += 1
            while position < count, (48...57).contains(text[position]) {
                if digits < 19 {
                    mantissa = mantissa &* 10 &+ UInt64(text[position] - 48)
                    if mantissa != 0 { digits += 1 }
                    exponent -= 1
                } else {
                    digits += 1
                }
                fraction += 1
                position += 1
            }
            if fraction == 0, !(isLenient && whole > 0) { return nil }
        }
        if whole + fraction == 0 { return nil }
        if position < count, text[position] == UInt8(ascii: "e") || text[position] == UInt8(ascii: "E") {
            position += 1
            var isNegativeExponent = false
            if position < count, text[position] == UInt8(ascii: "-") || text[position] == UInt8(ascii: "+") {
                isNegativeExponent = text[position] == UInt8(ascii: "-")
                position += 1
            }
            let exponentStart = position
            var value = 0
            while position < count, (48...57).contains(text[position]) {
                value = min(value * 10 + Int(text[position] - 48), 100_000)
                position += 1
            }
            if position == exponentStart { return nil }
            exponent += isNegativeExponent ? -value : value
        }
        guard position == count else { return nil }
        if digits <= 15, abs(exponent) <= 22 {
            let value =
                exponent < 0 ? Double(mantissa) / powersOfTen[-exponent] : Double(mantissa) * powersOfTen[exponent]
            return isNegative ? -value : value
        }
        return Double(String(decoding: text, as: UTF8.self))
    }

    /// nil for a number beyond Float's range.
    static func float(_ value: Double) -> Float? {
        let narrow = Float(value)
        return narrow.isFinite ? narrow : nil
    }

    enum IntegerProblem: Error { case notAnInteger, outOfRange }

    static func int64(_ text: UnsafeRawBufferPointer, isLenient: Bool = false) throws(IntegerProblem) -> Int64 {
        var position = 0
        var isNegative = false
        if text.first == UInt8(ascii: "-") || (isLenient && text.first == UInt8(ascii: "+")) {
            isNegative = text[0] == UInt8(ascii: "-")
            position = 1
        }
        guard position < text.count else { throw .notAnInteger }
        if !isLenient, text[position] == 48, text.count > position + 1 { throw .notAnInteger }
        var value: Int64 = 0
        var isOut = false
        while position < text.count {
            let byte = text[position]
            guard (48...57).contains(byte) else { throw .notAnInteger }
            let (product, overflow) = value.multipliedReportingOverflow(by: 10)
            let digit = Int64(byte - 48)
            let (sum, overflow2) =
                isNegative ? product.subtractingReportingOverflow(digit) : product.addingReportingOverflow(digit)
            isOut = isOut || overflow || overflow2
            value = sum
            position += 1
        }
        if isOut { throw .outOfRange }
        return value
    }
}

/// Whether bytes are UTF-8 (no surrogates, no overlong forms).
func isValidUTF8(_ bytes: UnsafeRawBufferPointer) -> Bool {
    var i = 0
    let count = bytes.count
    while i < count {
        let byte = bytes[i]
        if byte < 0x80 {
            i += 1
            continue
        }
        func isContinuation(_ offset: Int, _ low: UInt8 = 0x80, _ high: UInt8 = 0xBF) -> Bool {
            i + offset < count && low <= bytes[i + offset] && bytes[i + offset] <= high
        }
        switch byte {
        case 0xC2...0xDF:
            guard isContinuation(1) else { return false }
            i += 2
        case 0xE0...0xEF:
            let low: UInt8 = byte == 0xE0 ? 0xA0 : 0x80
            let high: UInt8 = byte == 0xED ? 0x9F : 0xBF
            guard isContinuation(1, low, high), isContinuation(2) else { return false }
            i += 3
        case 0xF0...0xF4:
            let low: UInt8 = byte == 0xF0 ? 0x90 : 0x80
            let high: UInt8 = byte == 0xF4 ? 0x8F : 0xBF
            guard isContinuation(1, low, high), isContinuation(2), isContinuation(3) else { return false }
            i += 4
        default: return false
        }
    }
    return true
}
