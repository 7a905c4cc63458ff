/// A column whose values can be a feature's value.
public protocol FeatureColumn: ColumnValue {
    associatedtype Element: FeatureElement
    /// Owns what the column's value borrows.
    var element: Element { get }
    func encodeElement(into writer: inout ByteWriter)
    static func decodeElement(_ reader: inout ByteReader) throws(FormatError) -> Element
    static func encode(_ element: Element, into writer: inout ByteWriter)
    /// The total order of values: numbers by size, texts by UTF-8 bytes.
    static func precedes(_ a: Element, _ b: Element) -> Bool
}

extension FeatureColumn {
    public func encodeElement(into writer: inout ByteWriter) { Self.encode(element, into: &writer) }
}

extension Double: FeatureColumn {
    public typealias Element = Double
    @inlinable public var element: Double { self }
    public static func encode(_ element: Double, into writer: inout ByteWriter) { writer.write(element) }
    public static func decodeElement(_ reader: inout ByteReader) throws(FormatError) -> Double {
        let value = try reader.readDouble()
        guard value.isFinite else { throw FormatError("a stored number that is not finite") }
        return value
    }
    @inlinable public static func precedes(_ a: Double, _ b: Double) -> Bool { a < b }
}

extension Int64: FeatureColumn {
    public typealias Element = Int
    @inlinable public var element: Int { Int(self) }
    public static func encode(_ element: Int, into writer: inout ByteWriter) { writer.writeSignedVarint(Int64(element)) }
    public static func decodeElement(_ reader: inout ByteReader) throws(FormatError) -> Int { Int(try reader.readSignedVarint()) }
    @inlinable public static func precedes(_ a: Int, _ b: Int) -> Bool { a < b }
}

extension Bool: FeatureColumn {
    public typealias Element = Bool
    @inlinable public var element: Bool { self }
    public static func encode(_ element: Bool, into writer: inout ByteWriter) { writer.write(UInt8(element ? 1 : 0)) }
    public static func decodeElement(_ reader: inout ByteReader) throws(FormatError) -> Bool {
        let byte = try reader.read(UInt8.self)
        guard byte <= 1 else { throw FormatError("a stored boolean of \(byte)") }
        return byte == 1
    }
    @inlinable public static func precedes(_ a: Bool, _ b: Bool) -> Bool { !a && b }
}

extension Text: FeatureColumn {
    public typealias Element = String
    @inlinable public var element: String { string }
    public func encodeElement(into writer: inout ByteWriter) { withBytes { writer.writeBytes($0) } }
    public static func encode(_ element: String, into writer: inout ByteWriter) { writer.writeString(element) }
    public static func decodeElement(_ reader: inout ByteReader) throws(FormatError) -> String { try reader.readString() }
    @inlinable public static func precedes(_ a: String, _ b: String) -> Bool { a.utf8.lexicographicallyPrecedes(b.utf8) }
}

/// Two values are one value if neither precedes the other. `==` of Swift's String would also equate texts of different bytes.
extension FeatureColumn {
    static func isSame(_ a: Element, _ b: Element) -> Bool { !precedes(a, b) && !precedes(b, a) }
}

/// A column of numbers.
public protocol SummableColumn: ColumnValue {
    func add(to sum: inout ExactSum)
    func addSquare(to sum: inout SquareSum)
    /// The sum as a feature of this column's type.
    associatedtype SumValue: FeatureElement
    static func value(of sum: ExactSum) -> AggregateResult<SumValue>
}

extension Double: SummableColumn {
    @inlinable public func add(to sum: inout ExactSum) { sum.add(self) }
    @inlinable public func addSquare(to sum: inout SquareSum) { sum.add(squareOf: self) }
    public static func value(of sum: ExactSum) -> AggregateResult<Double> {
        sum.roundedDouble().map { .value($0) } ?? .overflow
    }
}

extension Int64: SummableColumn {
    @inlinable public func add(to sum: inout ExactSum) { sum.add(self) }
    @inlinable public func addSquare(to sum: inout SquareSum) { sum.add(squareOf: self) }
    public static func value(of sum: ExactSum) -> AggregateResult<Int> {
        sum.int64.map { .value(Int($0)) } ?? .overflow
    }
}

/// A column whose values have an order that minimum and maximum go by.
public protocol OrderedColumn: FeatureColumn {}
extension Double: OrderedColumn {}
extension Int64: OrderedColumn {}
extension Bool: OrderedColumn {}
extension Text: OrderedColumn {}

/// A column whose values can be told apart by a stable hash.
public protocol HashableColumn: ColumnValue {
    var stableHash: UInt64 { get }
}

extension Double: HashableColumn {
    public var stableHash: UInt64 { StableHash.xxh64((self + 0).bitPattern) }
}
extension Int64: HashableColumn {
    public var stableHash: UInt64 { StableHash.xxh64(UInt64(bitPattern: self)) }
}
extension Bool: HashableColumn {
    public var stableHash: UInt64 { StableHash.xxh64(self ? 1 : 0) }
}
extension Text: HashableColumn {
    public var stableHash: UInt64 { withBytes { StableHash.xxh64($0) } }
}

/// A column of numbers that a quantile sketch can take.
public protocol SketchableColumn: ColumnValue {
    var sketchValue: Double { get }
}

extension Double: SketchableColumn { public var sketchValue: Double { self } }
extension Int64: SketchableColumn { public var sketchValue: Double { Double(self) } }

/// A column whose values can be counted one by one.
public protocol CountableColumn: FeatureColumn {
    /// How a value is written as a key of a histogram.
    static func label(_ element: Element) -> String
    /// Hands over what `encodeElement` writes; it must not outlive the call.
    func withEncodedElement(_ body: (UnsafeRawBufferPointer) -> Void)
}

extension CountableColumn {
    @inlinable public func withEncodedElement(_ body: (UnsafeRawBufferPointer) -> Void) {
        var writer = ByteWriter()
        encodeElement(into: &writer)
        writer.bytes.withUnsafeBytes(body)
    }
}

extension Int64: CountableColumn { public static func label(_ element: Int) -> String { String(element) } }
extension Bool: CountableColumn { public static func label(_ element: Bool) -> String { element ? "true" : "false" } }
extension Text: CountableColumn {
    public static func label(_ element: String) -> String { element }
    /// Without an allocation where the text is short.
    @inlinable public func withEncodedElement(_ body: (UnsafeRawBufferPointer) -> Void) {
        guard raw.count < 0x80 else {
            var writer = ByteWriter()
            encodeElement(into: &writer)
            return writer.bytes.withUnsafeBytes(body)
        }
        withUnsafeTemporaryAllocation(byteCount: 0x80, alignment: 1) { bytes in
            bytes[0] = UInt8(raw.count)
            UnsafeMutableRawBufferPointer(rebasing: bytes[1...]).copyMemory(from: raw)
            body(UnsafeRawBufferPointer(rebasing: bytes[...raw.count]))
        }
    }
}
