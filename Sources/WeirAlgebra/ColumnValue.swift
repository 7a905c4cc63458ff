/// How a column is stored.
public enum ColumnType: UInt8, Sendable, Hashable {
    case int64 = 1
    case float64 = 2
    case bool = 3
    case text = 4
}

/// The UTF-8 bytes of a text column's value, borrowed from the row that is being added; compared bytewise.
///
/// It must not outlive the call that it was passed to: `string` and `bytes` copy.
public struct Text: Sendable {
    // Borrowed memory, read only while the row that it points into is alive; no other thread writes to it.
    @usableFromInline nonisolated(unsafe) let raw: UnsafeRawBufferPointer

    @inlinable public init(_ raw: UnsafeRawBufferPointer) { self.raw = raw }

    @inlinable public var bytes: [UInt8] { [UInt8](raw) }
    @inlinable public var string: String { String(decoding: raw, as: UTF8.self) }
    @inlinable public func withBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R { try body(raw) }
}

/// A type that an accumulation can take as its input.
public protocol ColumnValue: Sendable {
    static var columnType: ColumnType { get }
    /// Wraps a stored cell; the storage calls the one that fits `columnType`.
    static func column(int64: Int64) -> Self
    static func column(float64: Double) -> Self
    static func column(bool: Bool) -> Self
    static func column(text: Text) -> Self
}

extension ColumnValue {
    @inlinable public static func column(int64: Int64) -> Self { fatalError("not an integer column") }
    @inlinable public static func column(float64: Double) -> Self { fatalError("not a floating-point column") }
    @inlinable public static func column(bool: Bool) -> Self { fatalError("not a boolean column") }
    @inlinable public static func column(text: Text) -> Self { fatalError("not a text column") }
}

extension Int64: ColumnValue {
    @inlinable public static var columnType: ColumnType { .int64 }
    @inlinable public static func column(int64: Int64) -> Int64 { int64 }
}

extension Double: ColumnValue {
    @inlinable public static var columnType: ColumnType { .float64 }
    @inlinable public static func column(float64: Double) -> Double { float64 }
}

extension Bool: ColumnValue {
    @inlinable public static var columnType: ColumnType { .bool }
    @inlinable public static func column(bool: Bool) -> Bool { bool }
}

extension Text: ColumnValue {
    @inlinable public static var columnType: ColumnType { .text }
    @inlinable public static func column(text: Text) -> Text { text }
}
