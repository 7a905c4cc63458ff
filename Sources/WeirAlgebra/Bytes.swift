/// What is wrong with bytes that were read from disk or network.
public struct FormatError: Error, Hashable, CustomStringConvertible {
    public var description: String

    public init(_ description: String) {
        self.description = description
    }
}

/// Appends little-endian integers, variable-length integers and byte strings to a buffer.
public struct ByteWriter: Sendable {
    public var bytes: [UInt8] = []

    public init() {}

    @inlinable public var count: Int { bytes.count }

    @inlinable public mutating func write<I: FixedWidthInteger>(_ value: I) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }

    @inlinable public mutating func write(_ value: Double) { write(value.bitPattern) }

    /// LEB128: seven bits a byte, lowest first.
    @inlinable public mutating func writeVarint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }

    /// LEB128 of the zigzag form, so that small negative numbers stay short.
    @inlinable public mutating func writeSignedVarint(_ value: Int64) {
        writeVarint(UInt64(bitPattern: (value << 1) ^ (value >> 63)))
    }

    @inlinable public mutating func writeRaw(_ raw: some Sequence<UInt8>) { bytes.append(contentsOf: raw) }

    /// Length as varint, then the bytes.
    @inlinable public mutating func writeBytes(_ raw: some Collection<UInt8>) {
        writeVarint(UInt64(raw.count))
        bytes.append(contentsOf: raw)
    }

    @inlinable public mutating func writeString(_ text: String) {
        var text = text
        text.withUTF8 { writeBytes($0) }
    }
}

/// Reads what `ByteWriter` wrote. Every read checks the bounds: bytes from outside end in a `FormatError`, never in a trap.
///
/// It borrows the memory that it was given and must not outlive it.
public struct ByteReader {
    @usableFromInline var rest: UnsafeRawBufferPointer

    @inlinable public init(_ bytes: UnsafeRawBufferPointer) { rest = bytes }

    @inlinable public var isAtEnd: Bool { rest.isEmpty }
    @inlinable public var remaining: Int { rest.count }

    @inlinable @inline(__always) public mutating func readRaw(_ count: Int) throws(FormatError) -> UnsafeRawBufferPointer {
        guard count >= 0, count <= rest.count else { throw shortage(count) }
        let start = rest.baseAddress
        rest = UnsafeRawBufferPointer(start: start.map { $0 + count }, count: rest.count &- count)
        return UnsafeRawBufferPointer(start: start, count: count)
    }

    @usableFromInline @inline(never) func shortage(_ count: Int) -> FormatError {
        FormatError("\(count) bytes wanted, \(rest.count) left")
    }

    @inlinable @inline(__always) public mutating func read<I: FixedWidthInteger>(_: I.Type = I.self) throws(FormatError) -> I {
        I(littleEndian: try readRaw(MemoryLayout<I>.size).loadUnaligned(as: I.self))
    }

    @inlinable public mutating func readDouble() throws(FormatError) -> Double {
        Double(bitPattern: try read(UInt64.self))
    }

    @inlinable public mutating func readVarint() throws(FormatError) -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while true {
            let byte = try read(UInt8.self)
            if shift == 63 && byte > 1 { throw FormatError("a variable-length integer is longer than 64 bits") }
            value |= UInt64(byte & 0x7f) << shift
            if byte < 0x80 { return value }
            shift += 7
            if shift > 63 { throw FormatError("a variable-length integer is longer than 64 bits") }
        }
    }

    @inlinable public mutating func readSignedVarint() throws(FormatError) -> Int64 {
        let raw = try readVarint()
        return Int64(bitPattern: (raw >> 1) ^ (0 &- (raw & 1)))
    }

    /// A count that precedes items of at least `unit` bytes each; refused when the rest cannot hold that many.
    @inlinable public mutating func readCount(unit: Int = 1) throws(FormatError) -> Int {
        let raw = try readVarint()
        guard raw <= UInt64(rest.count / unit) else { throw FormatError("\(raw) items announced, \(rest.count) bytes left") }
        return Int(raw)
    }

    @inlinable public mutating func readBytes() throws(FormatError) -> UnsafeRawBufferPointer {
        let count = try readCount()
        return try readRaw(count)
    }

    public mutating func readString() throws(FormatError) -> String {
        let raw = try readBytes()
        guard let text = String(validating: raw, as: UTF8.self) else { throw FormatError("invalid UTF-8") }
        return text
    }
}

/// −1, 0 or 1: bytewise, a prefix before the longer one.
@inlinable package func compareBytes(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer) -> Int {
    let shared = min(a.count, b.count)
    var index = 0
    while index < shared {
        if a[index] != b[index] { return a[index] < b[index] ? -1 : 1 }
        index += 1
    }
    return a.count == b.count ? 0 : (a.count < b.count ? -1 : 1)
}

/// Two digits a byte, in lower case.
package func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
    bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}
