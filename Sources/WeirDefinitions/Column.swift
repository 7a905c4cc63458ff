import WeirAlgebra

/// A property's type that can be aggregated. Optional properties are skipped where they are nil.
public protocol ColumnConvertible: Sendable {
    associatedtype Column: ColumnValue
    static func append(_ value: borrowing Self, to buffer: inout ColumnBuffer)
}

extension Double: ColumnConvertible {
    public static func append(_ value: borrowing Double, to buffer: inout ColumnBuffer) { buffer.append(float64: copy value) }
    public typealias Column = Double
}

extension Float: ColumnConvertible {
    public static func append(_ value: borrowing Float, to buffer: inout ColumnBuffer) { buffer.append(float64: Double(copy value)) }
    public typealias Column = Double
}

extension Bool: ColumnConvertible {
    public static func append(_ value: borrowing Bool, to buffer: inout ColumnBuffer) { buffer.append(int64: (copy value) ? 1 : 0) }
    public typealias Column = Bool
}

extension String: ColumnConvertible {
    public static func append(_ value: borrowing String, to buffer: inout ColumnBuffer) { buffer.append(text: copy value) }
    public typealias Column = Text
}

extension ColumnConvertible where Self: FixedWidthInteger & SignedInteger {
    public static func append(_ value: borrowing Self, to buffer: inout ColumnBuffer) { buffer.append(int64: Int64(copy value)) }
}

extension Int: ColumnConvertible { public typealias Column = Int64 }
extension Int8: ColumnConvertible { public typealias Column = Int64 }
extension Int16: ColumnConvertible { public typealias Column = Int64 }
extension Int32: ColumnConvertible { public typealias Column = Int64 }
extension Int64: ColumnConvertible { public typealias Column = Int64 }

/// An enumeration with raw values is aggregated by its raw value once it says that it is `ColumnConvertible`.
extension ColumnConvertible where Self: RawRepresentable, RawValue: ColumnConvertible, Column == RawValue.Column {
    public static func append(_ value: borrowing Self, to buffer: inout ColumnBuffer) {
        RawValue.append((copy value).rawValue, to: &buffer)
    }
}

extension Optional: ColumnConvertible where Wrapped: ColumnConvertible {
    public typealias Column = Wrapped.Column
    public static func append(_ value: borrowing Wrapped?, to buffer: inout ColumnBuffer) {
        if let value = copy value { Wrapped.append(value, to: &buffer) } else { buffer.appendNull() }
    }
}

/// One column of a batch of rows, filled event by event. Only the array that fits `type` grows.
public struct ColumnBuffer: Sendable {
    @usableFromInline package let type: ColumnType
    /// Also for Bool: 0 and 1.
    @usableFromInline package var int64s: [Int64] = []
    @usableFromInline package var float64s: [Double] = []
    /// End offsets of the texts in `textBytes`.
    @usableFromInline package var textEnds: [Int] = []
    @usableFromInline package var textBytes: [UInt8] = []
    /// One flag a row; empty while no row is null.
    @usableFromInline package var nulls: [Bool] = []
    @usableFromInline package var count = 0

    package init(type: ColumnType) {
        self.type = type
    }

    /// A column of integers or booleans (0 and 1), of numbers, of texts; `nulls` is empty where no row is null.
    package init(type: ColumnType, int64s: [Int64], nulls: [Bool]) {
        self.type = type
        self.int64s = int64s
        self.nulls = nulls
        count = int64s.count
    }

    package init(float64s: [Double], nulls: [Bool]) {
        type = .float64
        self.float64s = float64s
        self.nulls = nulls
        count = float64s.count
    }

    package init(textEnds: [Int], textBytes: [UInt8], nulls: [Bool]) {
        type = .text
        self.textEnds = textEnds
        self.textBytes = textBytes
        self.nulls = nulls
        count = textEnds.count
    }

    package mutating func reserve(_ rows: Int) {
        switch type {
        case .int64, .bool: int64s.reserveCapacity(rows)
        case .float64: float64s.reserveCapacity(rows)
        case .text: textEnds.reserveCapacity(rows)
        }
    }

    package mutating func append(int64: Int64) {
        int64s.append(int64)
        grow()
    }

    package mutating func append(float64: Double) {
        // An event may compute a property: what is no number is none, in every aggregation.
        guard float64.isFinite else { return appendNull() }
        // −0 and 0 are one value everywhere.
        float64s.append(float64 + 0)
        grow()
    }

    package mutating func append(text: String) {
        var text = text
        text.withUTF8 { append(text: UnsafeRawBufferPointer($0)) }
    }

    package mutating func append(text: UnsafeRawBufferPointer) {
        textBytes.append(contentsOf: text)
        textEnds.append(textBytes.count)
        grow()
    }

    /// Appends integers, none of them null, which `fill` writes.
    @inlinable package mutating func append(int64s further: Int, _ fill: (UnsafeMutablePointer<Int64>) -> Void) {
        int64s.append(further, filler: 0, fill)
        grow(further)
    }

    /// Appends numbers, none of them null, NaN or −0, which `fill` writes.
    @inlinable package mutating func append(float64s further: Int, _ fill: (UnsafeMutablePointer<Double>) -> Void) {
        float64s.append(further, filler: 0, fill)
        grow(further)
    }

    /// Appends texts, none of them null: first `ends` writes where in all bytes each ends, the first of them beginning at the number it
    /// gets, then `bytes` writes the texts.
    @inlinable package mutating func append(
        texts further: Int, ends: (UnsafeMutablePointer<Int>, Int) -> Void, bytes: (UnsafeMutableRawPointer) -> Void
    ) {
        if further == 0 { return }
        let start = textBytes.count
        textEnds.append(further, filler: start) { ends($0, start) }
        textBytes.append(textEnds[textEnds.count - 1] - start, filler: 0) { bytes(UnsafeMutableRawPointer($0)) }
        grow(further)
    }

    /// Appends an integer's text.
    package mutating func append(decimal value: Int64) {
        withUnsafeTemporaryAllocation(byteCount: 20, alignment: 1) { digits in
            var first = 20
            var rest = value.magnitude
            repeat {
                first -= 1
                digits[first] = UInt8(48 + rest % 10)
                rest /= 10
            } while rest > 0
            if value < 0 {
                first -= 1
                digits[first] = UInt8(ascii: "-")
            }
            append(text: UnsafeRawBufferPointer(rebasing: digits[first...]))
        }
    }

    private mutating func grow() {
        count += 1
        if !nulls.isEmpty { nulls.append(false) }
    }

    @usableFromInline mutating func grow(_ further: Int) {
        count += further
        if !nulls.isEmpty { nulls.append(contentsOf: repeatElement(false, count: further)) }
    }

    package mutating func appendNull() {
        if nulls.isEmpty { nulls = Array(repeating: false, count: count) }
        defer { nulls[count - 1] = true }
        if nulls.isEmpty {
            // The first row of all: `grow` would not extend an empty list.
            nulls = [true]
            switch type {
            case .int64, .bool: int64s.append(0)
            case .float64: float64s.append(0)
            case .text: textEnds.append(textBytes.count)
            }
            count = 1
            return
        }
        switch type {
        case .int64, .bool: append(int64: 0)
        case .float64: append(float64: 0)
        case .text: append(text: UnsafeRawBufferPointer(start: nil, count: 0))
        }
    }

    @inlinable package func isNull(_ row: Int) -> Bool { !nulls.isEmpty && nulls[row] }

    /// Appends a row of another column of the same type.
    package mutating func append(_ other: ColumnBuffer, row: Int) {
        if other.isNull(row) { return appendNull() }
        switch type {
        case .int64, .bool: append(int64: other.int64s[row])
        case .float64: append(float64: other.float64s[row])
        case .text:
            let range = other.textRange(row)
            other.textBytes.withUnsafeBytes { append(text: UnsafeRawBufferPointer(rebasing: $0[range])) }
        }
    }

    /// Gives the last row another text.
    package mutating func replaceLast(_ text: UnsafeRawBufferPointer) {
        let start = textRange(count - 1).lowerBound
        textBytes.removeLast(textBytes.count - start)
        textBytes.append(contentsOf: text)
        textEnds[count - 1] = textBytes.count
    }

    package mutating func removeAll() {
        int64s.removeAll(keepingCapacity: true)
        float64s.removeAll(keepingCapacity: true)
        textEnds.removeAll(keepingCapacity: true)
        textBytes.removeAll(keepingCapacity: true)
        nulls.removeAll(keepingCapacity: true)
        count = 0
    }

    /// Appends the given rows of another column of the same type.
    package mutating func append(_ other: ColumnBuffer, rows: [Int]) {
        guard other.nulls.isEmpty, nulls.isEmpty else {
            for row in rows { append(other, row: row) }
            return
        }
        switch type {
        case .int64, .bool: int64s.append(other.int64s, rows: rows)
        case .float64: float64s.append(other.float64s, rows: rows)
        case .text: appendTexts(other, rows)
        }
        count += rows.count
    }

    private mutating func appendTexts(_ other: ColumnBuffer, _ rows: [Int]) {
        other.textEnds.withUnsafeBufferPointer { ends in
            let first = textBytes.count
            var end = first
            textEnds.reserveRoom(rows.count)
            for row in rows {
                end += ends[row] - (row == 0 ? 0 : ends[row - 1])
                textEnds.append(end)
            }
            textBytes.append(contentsOf: repeatElement(0, count: end - first))
            textBytes.withUnsafeMutableBytes { target in
                other.textBytes.withUnsafeBytes { source in
                    var position = first
                    for row in rows {
                        let start = row == 0 ? 0 : ends[row - 1]
                        let length = ends[row] - start
                        if length == 0 { continue }
                        (target.baseAddress! + position).copyMemory(from: source.baseAddress! + start, byteCount: length)
                        position += length
                    }
                }
            }
        }
    }

    /// Appends all rows of another column of the same type.
    package mutating func append(contentsOf other: ColumnBuffer) { append(contentsOf: other, 0..<other.count) }

    /// Appends rows of another column of the same type.
    package mutating func append(contentsOf other: ColumnBuffer, _ range: Range<Int>) {
        guard !range.isEmpty else { return }
        if !nulls.isEmpty || !other.nulls.isEmpty {
            if nulls.isEmpty { nulls = Array(repeating: false, count: count) }
            if other.nulls.isEmpty {
                nulls.append(contentsOf: repeatElement(false, count: range.count))
            } else {
                nulls += other.nulls[range]
            }
        }
        switch type {
        case .int64, .bool: int64s += other.int64s[range]
        case .float64: float64s += other.float64s[range]
        case .text:
            let first = other.textRange(range.lowerBound).lowerBound
            let shift = textBytes.count - first
            textBytes += other.textBytes[first..<other.textEnds[range.upperBound - 1]]
            for end in other.textEnds[range] { textEnds.append(end + shift) }
        }
        count += range.count
    }

    @inlinable package func withText<R>(_ row: Int, _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        let range = textRange(row)
        return try textBytes.withUnsafeBytes { try body(UnsafeRawBufferPointer(rebasing: $0[range])) }
    }

    @inlinable package func textRange(_ row: Int) -> Range<Int> { (row == 0 ? 0 : textEnds[row - 1])..<textEnds[row] }
}

extension Array {
    /// Makes room for further elements; unlike `reserveCapacity` it grows by a factor at least.
    @inlinable package mutating func reserveRoom(_ further: Int) {
        if count + further > capacity { reserveCapacity(Swift.max(count + further, 2 * capacity)) }
    }

    /// Appends elements that `fill` writes.
    @inlinable package mutating func append(_ further: Int, filler: Element, _ fill: (UnsafeMutablePointer<Element>) -> Void) {
        if further == 0 { return }
        let first = count
        append(contentsOf: repeatElement(filler, count: further))
        withUnsafeMutableBufferPointer { fill($0.baseAddress! + first) }
    }

    /// Appends some elements of another array, in the order of `rows`.
    @inlinable package mutating func append(_ other: [Element], rows: [Int]) {
        other.withUnsafeBufferPointer { other in append(contentsOf: rows.lazy.map { other[$0] }) }
    }
}

/// Reads one property of an event into a column.
///
/// A stored property is read at its offset, which costs a nanosecond or two; a `KeyPath` read costs some eighty.
struct ColumnReader<Source>: Sendable {
    let keyPath: any PartialKeyPath<Source> & Sendable
    let type: ColumnType
    let append: @Sendable (UnsafePointer<Source>, inout ColumnBuffer) -> Void

    init<C: ColumnConvertible>(_ keyPath: any KeyPath<Source, C> & Sendable) {
        self.keyPath = keyPath
        type = C.Column.columnType
        if let offset = MemoryLayout<Source>.offset(of: keyPath) {
            append = { event, buffer in
                C.append((UnsafeRawPointer(event) + offset).assumingMemoryBound(to: C.self).pointee, to: &buffer)
            }
        } else {
            append = { event, buffer in C.append(event.pointee[keyPath: keyPath], to: &buffer) }
        }
    }

    /// The property's name as the fingerprint holds it. A computed property has no name at run time; its type stands for it.
    var signature: String {
        let text = String(describing: keyPath)
        guard let dot = text.firstIndex(of: ".") else { return text }
        let path = text[text.index(after: dot)...]
        return path.hasPrefix("<computed") ? "computed:\(type)" : String(path)
    }
}

/// Which events an aggregation counts. One `Filter` used by several features is evaluated, and its tiles are kept, once.
public final class Filter<Source>: Sendable {
    let accepts: @Sendable (Source) -> Bool

    /// - Parameter accepts: pure: no clock, no randomness, nothing that changes.
    public init(_ accepts: @escaping @Sendable (Source) -> Bool) {
        self.accepts = accepts
    }
}
