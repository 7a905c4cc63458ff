/// Numbers as text: integers in decimal, doubles in the shortest form that reads back as the same number, as Swift writes them.
public enum NumberText {
    /// What one number takes at most.
    public static let bytesMax = 32

    /// Writes a finite number and returns how many bytes it took.
    ///
    /// Sums and prices mostly are decimals with up to four places: one that has at most 15 digits and reads back as the number is the
    /// shortest, since no two such decimals are the same double. The rest goes to the standard library.
    ///
    /// - Parameter out: has room for `bytesMax` bytes.
    public static func write(_ value: Double, to out: UnsafeMutablePointer<UInt8>) -> Int {
        let magnitude = value.magnitude
        if magnitude < 1e11, magnitude >= 1e-3 || value.bitPattern == 0 {
            let cents = (magnitude * 100).rounded(.toNearestOrEven)
            if cents / 100 == magnitude { return writeDecimal(value, UInt64(cents), places: 2, out) }
            let scaled = (magnitude * 10_000).rounded(.toNearestOrEven)
            if scaled / 10_000 == magnitude { return writeDecimal(value, UInt64(scaled), places: 4, out) }
        }
        var text = value.description
        return text.withUTF8 { text in
            out.update(from: text.baseAddress!, count: text.count)
            return text.count
        }
    }

    private static func writeDecimal(_ value: Double, _ scaled: UInt64, places: Int, _ out: UnsafeMutablePointer<UInt8>) -> Int {
        var position = 0
        if value < 0 {
            out[0] = UInt8(ascii: "-")
            position = 1
        }
        let (whole, rest) = scaled.quotientAndRemainder(dividingBy: places == 2 ? 100 : 10_000)
        position += write(whole, to: out + position)
        out[position] = UInt8(ascii: ".")
        position += 1
        var fraction = rest
        var digits = places
        while digits > 1, fraction % 10 == 0 {
            fraction /= 10
            digits -= 1
        }
        for index in stride(from: digits - 1, through: 0, by: -1) {
            out[position + index] = UInt8(truncatingIfNeeded: 48 + fraction % 10)
            fraction /= 10
        }
        return position + digits
    }

    /// Appends a finite number.
    public static func append(_ value: Double, to bytes: inout [UInt8]) { append(to: &bytes) { write(value, to: $0) } }
    public static func append(_ value: Int64, to bytes: inout [UInt8]) { append(to: &bytes) { write(value, to: $0) } }

    private static func append(to bytes: inout [UInt8], _ write: (UnsafeMutablePointer<UInt8>) -> Int) {
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: bytesMax) { text in
            let count = write(text.baseAddress!)
            bytes.append(contentsOf: UnsafeBufferPointer(rebasing: text[..<count]))
        }
    }

    public static func write(_ value: Int64, to out: UnsafeMutablePointer<UInt8>) -> Int {
        guard value < 0 else { return write(UInt64(value), to: out) }
        out[0] = UInt8(ascii: "-")
        return 1 + write(value.magnitude, to: out + 1)
    }

    /// - Returns: how many bytes it took, at most 20.
    public static func write(_ value: UInt64, to out: UnsafeMutablePointer<UInt8>) -> Int {
        var count = 1
        var bound: UInt64 = 10
        while value >= bound {
            count += 1
            let (next, overflow) = bound.multipliedReportingOverflow(by: 10)
            if overflow { break }
            bound = next
        }
        var rest = value
        for index in stride(from: count - 1, through: 0, by: -1) {
            out[index] = UInt8(truncatingIfNeeded: 48 + rest % 10)
            rest /= 10
        }
        return count
    }
}
