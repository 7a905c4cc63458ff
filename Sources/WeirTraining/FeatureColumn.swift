import WeirAlgebra

/// The values of one feature for the rows of a chunk, compact for numbers. Any number of threads write, each its own rows.
final class FeatureColumn: @unchecked Sendable {
    private static let nullTag: UInt8 = 0
    private static let intTag: UInt8 = 1
    private static let doubleTag: UInt8 = 2
    private static let boolTag: UInt8 = 3

    /// Bytes that a row takes of such a column, without those of texts and lists.
    static func bytesPerRow(_ type: FeatureType) -> Int { isCompact(type) ? 9 : MemoryLayout<FeatureValue>.stride + 32 }

    private static func isCompact(_ type: FeatureType) -> Bool { type == .int || type == .double || type == .bool }

    private let count: Int
    // No two threads have the same rows.
    private let tags: UnsafeMutablePointer<UInt8>
    private let bits: UnsafeMutablePointer<UInt64>
    private let values: UnsafeMutablePointer<FeatureValue>?

    init(_ type: FeatureType, count: Int) {
        self.count = count
        let isCompact = Self.isCompact(type)
        tags = .allocate(capacity: isCompact ? count : 0)
        bits = .allocate(capacity: isCompact ? count : 0)
        if isCompact {
            values = nil
            tags.initialize(repeating: Self.nullTag, count: count)
            bits.initialize(repeating: 0, count: count)
        } else {
            values = .allocate(capacity: count)
            values?.initialize(repeating: .null, count: count)
        }
    }

    deinit {
        tags.deallocate()
        bits.deallocate()
        values?.deinitialize(count: count)
        values?.deallocate()
    }

    subscript(row: Int) -> FeatureValue {
        get {
            if let values { return values[row] }
            switch tags[row] {
            case Self.intTag: return .int(Int64(bitPattern: bits[row]))
            case Self.doubleTag: return .double(Double(bitPattern: bits[row]))
            case Self.boolTag: return .bool(bits[row] != 0)
            default: return .null
            }
        }
        set {
            if let values {
                values[row] = newValue
                return
            }
            switch newValue {
            case .int(let value): (tags[row], bits[row]) = (Self.intTag, UInt64(bitPattern: value))
            case .double(let value): (tags[row], bits[row]) = (Self.doubleTag, value.bitPattern)
            case .bool(let value): (tags[row], bits[row]) = (Self.boolTag, value ? 1 : 0)
            // A numeric feature has no other values.
            default: tags[row] = Self.nullTag
            }
        }
    }
}
