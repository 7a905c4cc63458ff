import WeirAlgebra
import WeirDefinitions

// A tile holds the partials of all events of its span, so that a window that contains the span needs none of them.
// docs/FORMATS.md describes it; TimeTreeTests pins it by golden bytes.
//
//   u8 kind (2), u8 version (1), u16 slots, u64 rows, then slots × u32 end offset, then the partials
//
// The base record of an entity is a tile over (−∞, its base time), with the time behind the row count:
//   u8 kind (3), u8 version (1), u16 slots, u64 rows, i64 base time, …

let tileVersion: UInt8 = 1
let nodeKindBase: UInt8 = 3

/// A stored tile or base record, read in place.
package struct TileView {
    package let rows: UInt64
    /// Microseconds; only of a base record.
    package let baseTime: Int64?
    private let ends: UnsafeRawBufferPointer
    private let partials: UnsafeRawBufferPointer

    package init(_ bytes: UnsafeRawBufferPointer, slots: Int) throws(FormatError) {
        var reader = ByteReader(bytes)
        let kind = try reader.read(UInt8.self)
        guard kind == nodeKindTile || kind == nodeKindBase else { throw FormatError("not a tile") }
        let version = try reader.read(UInt8.self)
        guard version == tileVersion else { throw FormatError("tile version \(version); this build reads version \(tileVersion)") }
        let found = Int(try reader.read(UInt16.self))
        guard found == slots else { throw FormatError("a tile with \(found) partials, where the view has \(slots)") }
        rows = try reader.read(UInt64.self)
        baseTime = kind == nodeKindBase ? try reader.read(Int64.self) : nil
        ends = try reader.readRaw(slots * 4)
        partials = try reader.readRaw(reader.remaining)
    }

    /// The encoded partial of a slot.
    func partial(_ slot: Int) throws(FormatError) -> UnsafeRawBufferPointer {
        let start = slot == 0 ? 0 : end(slot - 1)
        let end = end(slot)
        guard start <= end, end <= partials.count else { throw FormatError("a partial reaches outside of its tile") }
        return UnsafeRawBufferPointer(rebasing: partials[start..<end])
    }

    private func end(_ slot: Int) -> Int {
        Int(UInt32(littleEndian: ends.loadUnaligned(fromByteOffset: slot * 4, as: UInt32.self)))
    }
}

extension ViewRuntime {
    /// The tile of the old one's events (nil: none) and `rows`; a base record where `baseTime` is given.
    func tile(
        adding rows: EventRows, _ range: Range<Int>, to old: UnsafeRawBufferPointer?, baseTime: Int64? = nil
    ) throws(FormatError) -> [UInt8] {
        var oldTile: TileView?
        if let old { oldTile = try TileView(old, slots: runners.count) }
        var ends: [UInt32] = []
        var partials = ByteWriter()
        for (slot, runner) in runners.enumerated() {
            // Of what has expired only windows without a beginning ask.
            let isAsked = baseTime == nil || lifetimeSlots.contains(slot)
            try runner.adding(rows, isAsked ? range : 0..<0, to: isAsked ? oldTile?.partial(slot) : nil, into: &partials)
            ends.append(UInt32(partials.count))
        }
        var writer = ByteWriter()
        writer.write(baseTime == nil ? nodeKindTile : nodeKindBase)
        writer.write(tileVersion)
        writer.write(UInt16(runners.count))
        writer.write((oldTile?.rows ?? 0) + UInt64(range.count))
        if let baseTime { writer.write(baseTime) }
        for end in ends { writer.write(end) }
        writer.writeRaw(partials.bytes)
        return writer.bytes
    }
}
