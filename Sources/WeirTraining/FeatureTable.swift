import Foundation
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
        compactBytes(types.count(where: isCompact)) + types.count { !isCompact($0) } * (MemoryLayout<FeatureValue>.stride + 32)
    }

    /// Eight bytes for each number, then their tags.
    private static func compactBytes(_ count: Int) -> Int { (9 * count + 7) / 8 * 8 }

    private static func isCompact(_ type: FeatureType) -> Bool { type == .int || type == .double || type == .bool }

    private let places: [Place]
    private let compactCount: Int
    private let stride: Int
    private let count: Int
    // No two threads have the same rows.
    private let compact: UnsafeMutableRawPointer
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
        stride = Self.compactBytes(compactCount)
        // Memory that comes as zeros, page by page where it is first used: nulls.
        guard let memory = calloc(max(1, count), max(8, stride)) else { fatalError("no memory for \(count) rows") }
        compact = memory
    }

    deinit {
        free(compact)
        for values in values {
            values.deinitialize(count: count)
            values.deallocate()
        }
    }

    private func tag(_ row: Int, _ place: Int) -> UnsafeMutablePointer<UInt8> {
        (compact + row * stride + 8 * compactCount + place).assumingMemoryBound(to: UInt8.self)
    }

    private func bits(_ row: Int, _ place: Int) -> UnsafeMutablePointer<UInt64> {
        (compact + row * stride + 8 * place).assumingMemoryBound(to: UInt64.self)
    }

    subscript(row: Int, feature: Int) -> FeatureValue {
        get {
            switch places[feature] {
            case .value(let list): return values[list][row]
            case .compact(let place):
                let bits = bits(row, place).pointee
                switch tag(row, place).pointee {
                case Self.intTag: return .int(Int64(bitPattern: bits))
                case Self.doubleTag: return .double(Double(bitPattern: bits))
                case Self.boolTag: return .bool(bits != 0)
                default: return .null
                }
            }
        }
        set {
            switch places[feature] {
            case .value(let list): values[list][row] = newValue
            case .compact(let place):
                func set(_ tag: UInt8, _ bits: UInt64) {
                    self.tag(row, place).pointee = tag
                    self.bits(row, place).pointee = bits
                }
                switch newValue {
                case .int(let value): set(Self.intTag, UInt64(bitPattern: value))
                case .double(let value): set(Self.doubleTag, value.bitPattern)
                case .bool(let value): set(Self.boolTag, value ? 1 : 0)
                // A numeric feature has no other values.
                default: tag(row, place).pointee = Self.nullTag
                }
            }
        }
    }
}
