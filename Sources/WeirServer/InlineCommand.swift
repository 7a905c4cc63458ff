/// Commands typed as a line of text, such as over telnet.
///
/// Words are separated by blanks. Inside double quotes `\n \r \t \b \a \xHH` are escapes and any other escaped character stands
/// for itself; inside single quotes only `\'` is. A closing quote must be followed by a blank or the end. A NUL ends the line.
/// These are the rules of Redis's `sdssplitargs`.
enum InlineCommand {
    /// Splits a line (without its LF) into words; appends their bytes and where they are. false where quotes are unbalanced.
    static func split(_ line: UnsafeRawBufferPointer, into bytes: inout [UInt8], _ ranges: inout [Range<Int>]) -> Bool {
        var at = 0
        let end = line.firstIndex(of: 0) ?? line.count
        while true {
            while at < end, isBlank(line[at]) { at += 1 }
            guard at < end else { return true }
            let start = bytes.count
            guard word(line, &at, end, &bytes) else { return false }
            ranges.append(start..<bytes.count)
        }
    }

    private static func word(_ line: UnsafeRawBufferPointer, _ at: inout Int, _ end: Int, _ bytes: inout [UInt8]) -> Bool {
        while at < end {
            let byte = line[at]
            switch byte {
            case 32, 9, 10, 13: return true
            case UInt8(ascii: "\""), UInt8(ascii: "'"):
                at += 1
                // A closing quote ends the word.
                return quoted(line, &at, end, quote: byte, &bytes) && (at == end || isBlank(line[at]))
            default:
                bytes.append(byte)
                at += 1
            }
        }
        return true
    }

    private static func quoted(
        _ line: UnsafeRawBufferPointer, _ at: inout Int, _ end: Int, quote: UInt8, _ bytes: inout [UInt8]
    ) -> Bool {
        let isDouble = quote == UInt8(ascii: "\"")
        while at < end {
            let byte = line[at]
            if byte == quote {
                at += 1
                return true
            }
            if byte == UInt8(ascii: "\\"), at + 1 < end, isDouble || line[at + 1] == quote {
                if isDouble, line[at + 1] == UInt8(ascii: "x"), at + 3 < end,
                    let high = hexDigit(line[at + 2]), let low = hexDigit(line[at + 3])
                {
                    bytes.append(high << 4 | low)
                    at += 4
                } else {
                    bytes.append(isDouble ? escaped(line[at + 1]) : line[at + 1])
                    at += 2
                }
            } else {
                bytes.append(byte)
                at += 1
            }
        }
        return false
    }

    private static func escaped(_ byte: UInt8) -> UInt8 {
        switch byte {
        case UInt8(ascii: "n"): 10
        case UInt8(ascii: "r"): 13
        case UInt8(ascii: "t"): 9
        case UInt8(ascii: "b"): 8
        case UInt8(ascii: "a"): 7
        default: byte
        }
    }

    private static func isBlank(_ byte: UInt8) -> Bool { byte == 32 || (9...13).contains(byte) }

    private static func hexDigit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}
