import WeirAlgebra

/// What a shard knows about itself; stored in every one of its transactions.
package struct ShardState: Sendable, Hashable {
    /// All events of the history up to this number that concern the shard are in it.
    package var appliedSequence: Int64 = 0
    /// The latest accepted event time of all streams when this was written; `Int64.min` before any.
    package var latestEventTime: Int64 = .min
    /// For each view the time before which events may have expired; `Int64.min` where none did.
    package var keptFrom: [Int64]
    /// For each view the time before which all events were deleted: at `keptFrom`, or behind it.
    package var sweptFrom: [Int64]
    /// The number of the last event seen when that was done.
    package var sweptSequence: Int64 = 0

    /// 3 is written as 2 is: it says that there are head records, which earlier builds do not look for.
    private static let version: UInt8 = 3

    package init(views: Int) {
        keptFrom = Array(repeating: .min, count: views)
        sweptFrom = keptFrom
    }

    package func encoded() -> [UInt8] {
        var writer = ByteWriter()
        writer.write(Self.version)
        writer.write(appliedSequence)
        writer.write(latestEventTime)
        writer.write(UInt16(keptFrom.count))
        for time in keptFrom { writer.write(time) }
        for time in sweptFrom { writer.write(time) }
        writer.write(sweptSequence)
        return writer.bytes
    }

    package init(_ bytes: UnsafeRawBufferPointer, views: Int) throws(FormatError) {
        var reader = ByteReader(bytes)
        let version = try reader.read(UInt8.self)
        guard (1...Self.version).contains(version) else {
            throw FormatError("shard state version \(version); this build reads versions up to \(Self.version)")
        }
        appliedSequence = try reader.read(Int64.self)
        latestEventTime = try reader.read(Int64.self)
        let count = Int(try reader.read(UInt16.self))
        guard count == views else { throw FormatError("a shard with \(count) views, where the catalog has \(views)") }
        keptFrom = []
        for _ in 0..<count { keptFrom.append(try reader.read(Int64.self)) }
        sweptFrom = keptFrom
        guard version > 1 else { return }
        for view in 0..<count { sweptFrom[view] = try reader.read(Int64.self) }
        sweptSequence = try reader.read(Int64.self)
    }
}
