import WeirAlgebra
import WeirDefinitions

// The head record holds an entity's latest events, until they go into its time tree.
// docs/FORMATS.md describes it; TimeTreeTests pins it by golden bytes.
//
//   u8 kind (4), u8 version (1), u16 flags (bit 0: there is a tree), then a leaf, or nothing where it holds no events

let nodeKindHead: UInt8 = 4
let headVersion: UInt8 = 1
private let headHasTree: UInt16 = 1

/// A stored head record, read in place. It borrows the memory that it was made from and must not outlive it.
package struct HeadView {
    /// Further events are in the tree. It may be empty, where they have expired.
    package let hasTree: Bool
    /// Has one event at least.
    package let leaf: LeafView?

    /// - Throws: `FormatError` for bytes that are no head record of this view.
    package init(_ bytes: UnsafeRawBufferPointer, columns: [ViewPlan.Column]) throws(FormatError) {
        let (hasTree, rest) = try Self.parts(bytes)
        self.hasTree = hasTree
        guard let rest else {
            leaf = nil
            return
        }
        let leaf = try LeafView(rest, columns: columns)
        guard leaf.count > 0 else { throw FormatError("a head record with a leaf that is empty") }
        self.leaf = leaf
    }

    /// Whether there is a tree, and the bytes of the leaf; nil where it has none.
    static func parts(_ bytes: UnsafeRawBufferPointer) throws(FormatError) -> (hasTree: Bool, leaf: UnsafeRawBufferPointer?) {
        var reader = ByteReader(bytes)
        guard try reader.read(UInt8.self) == nodeKindHead else { throw FormatError("not a head record") }
        let version = try reader.read(UInt8.self)
        guard version == headVersion else {
            throw FormatError("head record version \(version); this build reads version \(headVersion)")
        }
        let hasTree = try reader.read(UInt16.self) & headHasTree != 0
        return (hasTree, reader.remaining > 0 ? try reader.readRaw(reader.remaining) : nil)
    }
}

extension NodeWriter {
    /// Begins a head record; its leaf follows.
    mutating func beginHead(hasTree: Bool) {
        clear()
        write(nodeKindHead)
        write(headVersion)
        write(hasTree ? headHasTree : 0)
    }
}
