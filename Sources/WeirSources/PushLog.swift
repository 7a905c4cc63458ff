import Foundation
import WeirAlgebra

/// Why the push log cannot take or give events.
package struct PushLogError: Error, CustomStringConvertible {
    package let description: String
    /// Whether the same push may be taken a little later: too much waits.
    package let isTransient: Bool

    init(_ description: String, isTransient: Bool = false) {
        self.description = description
        self.isTransient = isTransient
    }
}

/// Events that clients pushed, on disk before they are acknowledged: a source like any other, read by offset.
///
/// Segment files in `DIR/push`, named by the offset that they begin at. A record:
///
/// ```
/// u32 payload length, u64 XXH64 of the payload, payload: stream as text, number of events, each event's JSON as bytes
/// ```
///
/// A record's offset is its byte position in the log as a whole. Only what is synced is read. Pushes that come while the disk
/// is at work share the next sync.
package final class PushLog: @unchecked Sendable {
    // All mutable state is guarded by `condition`.
    package struct Record: Sendable {
        package let offset: Int64
        package let nextOffset: Int64
        package let stream: String
        package let events: [[UInt8]]
    }

    private static let headerBytes = 12
    private static let payloadBytesMax = Limits.pushBytesMax
    private let directory: String
    private let segmentBytesMax: Int64
    private let queueBytesMax: Int
    private let backlogBytesMax: Int64
    private let condition = NSCondition()
    private var pending: [(record: [UInt8], completion: @Sendable (Result<Void, PushLogError>) -> Void)] = []
    private var descriptor: Int32 = -1
    private var segments: [Int64]
    /// Where the synced part ends, and where reading ends.
    private var end: Int64 = 0
    private var isClosed = false
    private var isWriting = false
    /// Bytes of records that wait or are being written.
    private var queuedBytes = 0
    /// The offset that was last asked for: where the reader is. nil until there is one.
    private var readOffset: Int64?

    /// - Parameters:
    ///   - queueBytesMax: bytes that may wait to be written; pushes beyond are refused at once. A single push is taken whatever its size.
    ///   - backlogBytesMax: bytes that may be ahead of the reader.
    package init(
        directory: String, segmentBytesMax: Int64 = 64 << 20, queueBytesMax: Int = Limits.pushQueueBytesMax,
        backlogBytesMax: Int64 = Limits.pushBacklogBytesMax
    ) throws {
        self.directory = directory
        self.segmentBytesMax = segmentBytesMax
        self.queueBytesMax = queueBytesMax
        self.backlogBytesMax = backlogBytesMax
        do {
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        } catch {
            throw PushLogError("cannot make the directory \(directory): \(error.localizedDescription)")
        }
        segments = try Self.segments(in: directory)
        if segments.isEmpty { segments = [0] }
        try openLast()
        Thread.detachNewThread { self.run() }
    }

    private static func segments(in directory: String) throws(PushLogError) -> [Int64] {
        do {
            return try FileManager.default.contentsOfDirectory(atPath: directory)
                .filter { $0.hasSuffix(".log") }.compactMap { Int64($0.dropLast(4)) }.sorted()
        } catch {
            // It must not be taken for an empty log.
            throw PushLogError("cannot list \(directory): \(error.localizedDescription)")
        }
    }

    private func path(_ segment: Int64) -> String { Self.path(segment, in: directory) }

    private static func path(_ segment: Int64, in directory: String) -> String {
        let digits = String(segment)
        return directory + "/" + String(repeating: "0", count: 20 - digits.count) + digits + ".log"
    }

    private static func failure(_ what: String, _ path: String) -> PushLogError {
        PushLogError("\(what) \(path): \(String(cString: strerror(errno)))")
    }

    /// Opens the last segment and cuts off a record that a crash left unfinished.
    private func openLast() throws {
        let segment = segments[segments.count - 1]
        let path = path(segment)
        descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw Self.failure("cannot open", path) }
        let (position, size) = try Self.intactEnd(descriptor, path)
        if position < size {
            guard ftruncate(descriptor, off_t(position)) == 0 else { throw Self.failure("cannot repair", path) }
        }
        guard fdatasync(descriptor) == 0 else { throw Self.failure("cannot sync", path) }
        end = segment + position
        syncDirectory()
    }

    /// Where the last intact record of a segment ends, and the file.
    ///
    /// - Throws: where an intact record follows one that is not: that is no end that a crash left, but damage, and what follows may
    ///   have been acknowledged.
    private static func intactEnd(_ descriptor: Int32, _ path: String) throws -> (position: Int64, size: Int64) {
        let size = Int64(lseek(descriptor, 0, SEEK_END))
        guard size >= 0 else { throw failure("cannot read", path) }
        var position: Int64 = 0
        while let record = try readRecord(descriptor, at: position, size: size, path) { position += record.bytes }
        if let next = try intactRecord(descriptor, behind: position, size: size, path) {
            throw PushLogError(
                "\(path) is damaged at byte \(position): no intact record stands there, but one follows at byte \(next), and may have been acknowledged; restore the file, or see \"A damaged push log\" in docs/OPERATIONS.md"
            )
        }
        return (position, size)
    }

    /// The first byte behind `position` at which an intact record begins.
    private static func intactRecord(_ descriptor: Int32, behind position: Int64, size: Int64, _ path: String) throws -> Int64? {
        guard position + Int64(headerBytes) < size else { return nil }
        var rest = [UInt8](repeating: 0, count: Int(size - position))
        guard try read(descriptor, &rest, at: position, path) else { return nil }
        return rest.withUnsafeBytes { rest in
            for start in 1...rest.count - headerBytes {
                let length = Int(UInt32(littleEndian: rest.loadUnaligned(fromByteOffset: start, as: UInt32.self)))
                let first = start + headerBytes
                guard length > 0, length <= payloadBytesMax, first + length <= rest.count else { continue }
                let sum = UInt64(littleEndian: rest.loadUnaligned(fromByteOffset: start + 4, as: UInt64.self))
                if StableHash.xxh64(UnsafeRawBufferPointer(rebasing: rest[first..<first + length])) == sum {
                    return position + Int64(start)
                }
            }
            return nil
        }
    }

    /// Whether a log holds everything from an offset on: for a copy, which nobody writes to.
    package static func reaches(_ offset: Int64, directory: String) throws -> Bool {
        let segments = try segments(in: directory)
        // Nothing was ever pushed.
        guard let last = segments.last else { return offset == 0 }
        for (index, segment) in segments.enumerated() where segment == last || segments[index + 1] > offset {
            let path = path(segment, in: directory)
            let descriptor = open(path, O_RDONLY | O_CLOEXEC)
            guard descriptor >= 0 else { throw failure("cannot open", path) }
            defer { close(descriptor) }
            let end = segment + (try intactEnd(descriptor, path)).position
            if segment == last ? end < offset : end != segments[index + 1] { return false }
        }
        return segments[0] <= offset
    }

    private func syncDirectory() {
        let handle = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        if handle >= 0 {
            fsync(handle)
            close(handle)
        }
    }

    /// Fills the buffer; false where the file ends before. What the disk refuses to give is no end of the file.
    private static func read(_ descriptor: Int32, _ buffer: inout [UInt8], at position: Int64, _ path: String) throws(PushLogError) -> Bool
    {
        var done = 0
        while done < buffer.count {
            let count = buffer.withUnsafeMutableBytes {
                pread(descriptor, $0.baseAddress! + done, $0.count - done, off_t(position) + off_t(done))
            }
            if count < 0, errno == EINTR { continue }
            if count < 0 { throw failure("cannot read", path) }
            if count == 0 { return false }
            done += count
        }
        return true
    }

    /// nil where no whole, intact record stands.
    private static func readRecord(
        _ descriptor: Int32, at position: Int64, size: Int64, _ path: String
    ) throws(PushLogError) -> (payload: [UInt8], bytes: Int64)? {
        guard position + Int64(headerBytes) <= size else { return nil }
        var header = [UInt8](repeating: 0, count: headerBytes)
        guard try read(descriptor, &header, at: position, path) else { return nil }
        let (length, sum) = header.withUnsafeBytes {
            (
                Int(UInt32(littleEndian: $0.loadUnaligned(as: UInt32.self))),
                UInt64(littleEndian: $0.loadUnaligned(fromByteOffset: 4, as: UInt64.self))
            )
        }
        guard length <= payloadBytesMax, position + Int64(headerBytes + length) <= size else { return nil }
        var payload = [UInt8](repeating: 0, count: length)
        guard try read(descriptor, &payload, at: position + Int64(headerBytes), path),
            payload.withUnsafeBytes({ StableHash.xxh64($0) }) == sum
        else { return nil }
        return (payload, Int64(headerBytes + length))
    }

    // MARK: Writing

    /// Appends events of one push; `completion` is called, on the log's thread, when they are on disk, or with the reason why
    /// they are not.
    package func append(stream: String, events: [[UInt8]], completion: @escaping @Sendable (Result<Void, PushLogError>) -> Void) {
        var payload = ByteWriter()
        payload.writeString(stream)
        payload.writeVarint(UInt64(events.count))
        for event in events { payload.writeBytes(event) }
        guard payload.count <= Self.payloadBytesMax else {
            return completion(.failure(PushLogError("a push has at most \(Self.payloadBytesMax) bytes")))
        }
        var record = ByteWriter()
        record.write(UInt32(payload.count))
        record.write(payload.bytes.withUnsafeBytes { StableHash.xxh64($0) })
        record.writeRaw(payload.bytes)
        condition.lock()
        if isClosed {
            condition.unlock()
            return completion(.failure(PushLogError("the server is stopping")))
        }
        if let problem = overload(record.bytes.count) {
            condition.unlock()
            return completion(.failure(problem))
        }
        queuedBytes += record.bytes.count
        pending.append((record.bytes, completion))
        condition.broadcast()
        condition.unlock()
    }

    /// Why a record cannot be queued now. Called under the lock.
    private func overload(_ bytes: Int) -> PushLogError? {
        if queuedBytes > 0, queuedBytes + bytes > queueBytesMax {
            return PushLogError(
                "\(queuedBytes) bytes of pushes wait for the disk, which is all that may; nothing was taken, try again later",
                isTransient: true)
        }
        if let readOffset, end - readOffset > backlogBytesMax {
            return PushLogError(
                "\(end - readOffset) bytes of pushes wait for the history, which is all that may; nothing was taken, try again later",
                isTransient: true)
        }
        return nil
    }

    private func run() {
        while true {
            condition.lock()
            while pending.isEmpty, !isClosed { condition.wait() }
            let batch = pending
            pending = []
            if batch.isEmpty {
                condition.unlock()
                return
            }
            isWriting = true
            condition.unlock()
            let result = Result { try write(batch.map(\.record)) }.mapError { $0 as? PushLogError ?? PushLogError("\($0)") }
            condition.lock()
            isWriting = false
            queuedBytes -= batch.reduce(0) { $0 + $1.record.count }
            condition.broadcast()
            condition.unlock()
            for (_, completion) in batch { completion(result) }
        }
    }

    /// All or nothing: what a full disk cut short is taken back.
    private func write(_ records: [[UInt8]]) throws {
        if end - lastSegment >= segmentBytesMax { try roll() }
        let segment = lastSegment
        let start = end - segment
        let path = path(segment)
        var bytes: [UInt8] = []
        for record in records { bytes += record }
        var written = 0
        while written < bytes.count {
            let count = bytes[written...].withUnsafeBytes { pwrite(descriptor, $0.baseAddress, $0.count, off_t(start) + off_t(written)) }
            if count <= 0 {
                let error = Self.failure("cannot write to", path)
                ftruncate(descriptor, off_t(start))
                throw error
            }
            written += count
        }
        guard fdatasync(descriptor) == 0 else {
            let error = Self.failure("cannot sync", path)
            ftruncate(descriptor, off_t(start))
            throw error
        }
        condition.lock()
        end += Int64(bytes.count)
        condition.broadcast()
        condition.unlock()
    }

    /// The one that is written to; trimming leaves it, but changes the list.
    private var lastSegment: Int64 {
        condition.lock()
        defer { condition.unlock() }
        return segments[segments.count - 1]
    }

    private func roll() throws {
        let fresh = open(path(end), O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard fresh >= 0 else { throw Self.failure("cannot open", path(end)) }
        syncDirectory()
        condition.lock()
        close(descriptor)
        descriptor = fresh
        segments.append(end)
        condition.unlock()
    }

    // MARK: Reading

    /// The record at an offset; waits for one. nil when the log is closed, or `timeout` has passed.
    ///
    /// - Throws: `PushLogError` for a damaged record, with file and offset.
    package func read(at offset: Int64, timeout: Double) throws -> Record? {
        let deadline = Date(timeIntervalSinceNow: timeout)
        condition.lock()
        readOffset = offset
        while offset >= end, !isClosed {
            if !condition.wait(until: deadline) { break }
        }
        let end = self.end
        guard offset < end, let segment = segments.last(where: { $0 <= offset }) else {
            let first = segments[0]
            condition.unlock()
            if offset < first { throw PushLogError("the push log in \(directory) begins at \(first); \(offset) was trimmed") }
            return nil
        }
        condition.unlock()
        let path = path(segment)
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw Self.failure("cannot open", path) }
        defer { close(descriptor) }
        let size = Int64(lseek(descriptor, 0, SEEK_END))
        guard let (payload, bytes) = try Self.readRecord(descriptor, at: offset - segment, size: size, path) else {
            throw PushLogError("\(path) is damaged at byte \(offset - segment): no intact record stands there")
        }
        do {
            return try payload.withUnsafeBytes { raw in
                var reader = ByteReader(raw)
                let stream = try reader.readString()
                let count = try reader.readCount()
                var events: [[UInt8]] = []
                for _ in 0..<count { events.append([UInt8](try reader.readBytes())) }
                return Record(offset: offset, nextOffset: offset + bytes, stream: stream, events: events)
            }
        } catch {
            throw PushLogError("\(path) is damaged at byte \(offset - segment): \(error)")
        }
    }

    /// Deletes segments that lie wholly before an offset that all stores are past.
    package func trim(before offset: Int64) {
        condition.lock()
        var removed: [Int64] = []
        while segments.count > 1, segments[1] <= offset { removed.append(segments.removeFirst()) }
        condition.unlock()
        for segment in removed { unlink(path(segment)) }
    }

    /// Lets go of everything up to the end, also of the segment that is written to: the log goes on in a new one. For a log that is stopped,
    /// whose events are all in the history.
    ///
    /// - Returns: the bytes of the files that went.
    package func trimAll() throws -> Int64 {
        condition.lock()
        defer { condition.unlock() }
        precondition(isClosed && pending.isEmpty && !isWriting)
        let old = try Self.segments(in: directory).filter { $0 != end }
        if old.isEmpty { return 0 }
        let fresh = open(path(end), O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard fresh >= 0 else { throw Self.failure("cannot open", path(end)) }
        syncDirectory()
        close(descriptor)
        descriptor = fresh
        segments = [end]
        var bytes: Int64 = 0
        for segment in old {
            var status = stat()
            if stat(path(segment), &status) == 0 { bytes += Int64(status.st_size) }
            guard unlink(path(segment)) == 0 else { throw Self.failure("cannot delete", path(segment)) }
        }
        syncDirectory()
        return bytes
    }

    /// Where the synced part ends.
    package var endOffset: Int64 {
        condition.lock()
        defer { condition.unlock() }
        return end
    }

    /// Bytes that wait for the disk or the reader.
    package var bytesWaiting: Int64 {
        condition.lock()
        defer { condition.unlock() }
        return Int64(queuedBytes) + (readOffset.map { max(0, end - $0) } ?? 0)
    }

    package var isStopped: Bool {
        condition.lock()
        defer { condition.unlock() }
        return isClosed && pending.isEmpty && !isWriting
    }

    /// Ends writing after what is pending, and wakes readers.
    package func stop() {
        condition.lock()
        isClosed = true
        condition.broadcast()
        while isWriting || !pending.isEmpty { condition.wait() }
        condition.unlock()
    }
}
