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
    /// Writes the tile of the old one's events (nil: none) and `rows`; a base record where `baseTime` is given.
    func writeTile(
        adding rows: EventRows, _ range: Range<Int>, to old: UnsafeRawBufferPointer?, baseTime: Int64? = nil, _ scratch: TreeScratch
    ) throws(FormatError) {
        var oldTile: TileView?
        if let old { oldTile = try TileView(old, slots: runners.count) }
        var oldRows: UInt64 = 0
        if let oldTile { oldRows = oldTile.rows }
        scratch.partials.bytes.removeAll(keepingCapacity: true)
        scratch.writer.clear()
        scratch.writer.write(baseTime == nil ? nodeKindTile : nodeKindBase)
        scratch.writer.write(tileVersion)
        scratch.writer.write(UInt16(runners.count))
        // What a damaged tile says wraps.
        scratch.writer.write(oldRows &+ UInt64(range.count))
        if let baseTime { scratch.writer.write(baseTime) }
        for (slot, runner) in runners.enumerated() {
            // Of what has expired only windows without a beginning ask.
            let isAsked = baseTime == nil || lifetimeSlots.contains(slot)
            try runner.add(rows, isAsked ? range : 0..<0, isAsked ? oldTile?.partial(slot) : nil, &scratch.partials)
            scratch.writer.write(UInt32(scratch.partials.count))
        }
        scratch.partials.bytes.withUnsafeBytes { scratch.writer.writeRaw($0) }
    }
}

/// Memory that a tree's nodes are put together in: one for many trees, on one thread.
package final class TreeScratch {
    var writer = NodeWriter()
    var partials = ByteWriter()

    package init() {}
}
