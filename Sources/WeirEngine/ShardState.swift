import WeirAlgebra

/// What a shard knows about itself; stored in every one of its transactions.
package struct ShardState: Sendable, Hashable {
    /// All events of the history up to this number that concern the shard are in it.
    package var appliedSequence: Int64 = 0
    /// The latest accepted event time of all streams when this was written; `Int64.min` before any.
    package var latestEventTime: Int64 = .min
    /// For each view the time before which events may have expired; `Int64.min` where none did.
    package var keptFrom: [Int64]

    package init(views: Int) { keptFrom = Array(repeating: .min, count: views) }

    package func encoded() -> [UInt8] {
        var writer = ByteWriter()
        writer.write(UInt8(1))
        writer.write(appliedSequence)
        writer.write(latestEventTime)
        writer.write(UInt16(keptFrom.count))
        for time in keptFrom { writer.write(time) }
        return writer.bytes
    }

    package init(_ bytes: UnsafeRawBufferPointer, views: Int) throws(FormatError) {
        var reader = ByteReader(bytes)
        let version = try reader.read(UInt8.self)
        guard version == 1 else { throw FormatError("shard state version \(version); this build reads version 1") }
        appliedSequence = try reader.read(Int64.self)
        latestEventTime = try reader.read(Int64.self)
        let count = Int(try reader.read(UInt16.self))
        guard count == views else { throw FormatError("a shard with \(count) views, where the catalog has \(views)") }
        keptFrom = []
        for _ in 0..<count { keptFrom.append(try reader.read(Int64.self)) }
    }
}
