import WeirAlgebra

/// The values of a view's features for the rows of a chunk, compact for numbers; those of a row stand side by side. Any number of threads
/// write, each its own rows.
final class FeatureTable: @unchecked Sendable {
    private enum Place {
        /// Among the row's numbers.
        case compact(Int)
        /// Among the lists of values.
        case value(Int)
    }

    private static let nullTag: UInt8 = 0
    private static let intTag: UInt8 = 1
    private static let doubleTag: UInt8 = 2
    private static let boolTag: UInt8 = 3

    /// Bytes that a row takes, without those of texts and lists.
    static func bytesPerRow(_ types: [FeatureType]) -> Int {
        types.reduce(0) { $0 + (isCompact($1) ? 9 : MemoryLayout<FeatureValue>.stride + 32) }
    }

    private static func isCompact(_ type: FeatureType) -> Bool { type == .int || type == .double || type == .bool }

    private let places: [Place]
    private let compactCount: Int
    private let count: Int
    // No two threads have the same rows.
    private let tags: UnsafeMutablePointer<UInt8>
    private let bits: UnsafeMutablePointer<UInt64>
    private let values: [UnsafeMutablePointer<FeatureValue>]

    init(_ types: [FeatureType], count: Int) {
        self.count = count
        var places: [Place] = []
        var compactCount = 0
        var values: [UnsafeMutablePointer<FeatureValue>] = []
        for type in types {
            if Self.isCompact(type) {
                places.append(.compact(compactCount))
                compactCount += 1
            } else {
                places.append(.value(values.count))
                values.append(.allocate(capacity: count))
                values[values.count - 1].initialize(repeating: .null, count: count)
            }
        }
        self.places = places
        self.compactCount = compactCount
        self.values = values
        tags = .allocate(capacity: compactCount * count)
        tags.initialize(repeating: Self.nullTag, count: compactCount * count)
        bits = .allocate(capacity: compactCount * count)
        bits.initialize(repeating: 0, count: compactCount * count)
    }

    deinit {
        tags.deallocate()
        bits.deallocate()
        for values in values {
            values.deinitialize(count: count)
            values.deallocate()
        }
    }

    subscript(row: Int, feature: Int) -> FeatureValue {
        get {
            switch places[feature] {
            case .value(let list): return values[list][row]
            case .compact(let place):
                let place = row * compactCount + place
                switch tags[place] {
                case Self.intTag: return .int(Int64(bitPattern: bits[place]))
                case Self.doubleTag: return .double(Double(bitPattern: bits[place]))
                case Self.boolTag: return .bool(bits[place] != 0)
                default: return .null
                }
            }
        }
        set {
            switch places[feature] {
            case .value(let list): values[list][row] = newValue
            case .compact(let place):
                let place = row * compactCount + place
                switch newValue {
                case .int(let value): (tags[place], bits[place]) = (Self.intTag, UInt64(bitPattern: value))
                case .double(let value): (tags[place], bits[place]) = (Self.doubleTag, value.bitPattern)
                case .bool(let value): (tags[place], bits[place]) = (Self.boolTag, value ? 1 : 0)
                // A numeric feature has no other values.
                default: tags[place] = Self.nullTag
                }
            }
        }
    }
}
