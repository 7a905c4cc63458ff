import Foundation
import WeirAlgebra

/// Why the push log cannot take or give events.
package struct PushLogError: Error, CustomStringConvertible {
    package let description: String
    init(_ description: String) { self.description = description }
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
    private let condition = NSCondition()
    private var pending: [(record: [UInt8], completion: @Sendable (Result<Void, PushLogError>) -> Void)] = []
    private var descriptor: Int32 = -1
    private var segments: [Int64]
    /// Where the synced part ends, and where reading ends.
    private var end: Int64 = 0
    private var isClosed = false
    private var isWriting = false

    package init(directory: String, segmentBytesMax: Int64 = 64 << 20) throws {
        self.directory = directory
        self.segmentBytesMax = segmentBytesMax
        do {
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        } catch {
            throw PushLogError("cannot make the directory \(directory): \(error.localizedDescription)")
        }
        segments = ((try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? [])
            .filter { $0.hasSuffix(".log") }.compactMap { Int64($0.dropLast(4)) }.sorted()
        if segments.isEmpty { segments = [0] }
        try openLast()
        Thread.detachNewThread { self.run() }
    }

    private func path(_ segment: Int64) -> String {
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
        let size = Int64(lseek(descriptor, 0, SEEK_END))
        var position: Int64 = 0
        while let record = try Self.readRecord(descriptor, at: position, size: size) { position += record.bytes }
        if position < size {
            guard ftruncate(descriptor, off_t(position)) == 0 else { throw Self.failure("cannot repair", path) }
        }
        guard fdatasync(descriptor) == 0 else { throw Self.failure("cannot sync", path) }
        end = segment + position
        syncDirectory()
    }

    private func syncDirectory() {
        let handle = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        if handle >= 0 {
            fsync(handle)
            close(handle)
        }
    }

    /// nil where no whole, intact record stands.
    private static func readRecord(_ descriptor: Int32, at position: Int64, size: Int64) throws -> (payload: [UInt8], bytes: Int64)? {
        guard position + Int64(headerBytes) <= size else { return nil }
        var header = [UInt8](repeating: 0, count: headerBytes)
        guard pread(descriptor, &header, headerBytes, off_t(position)) == headerBytes else { return nil }
        let (length, sum) = header.withUnsafeBytes {
            (
                Int(UInt32(littleEndian: $0.loadUnaligned(as: UInt32.self))),
                UInt64(littleEndian: $0.loadUnaligned(fromByteOffset: 4, as: UInt64.self))
            )
        }
        guard length <= payloadBytesMax, position + Int64(headerBytes + length) <= size else { return nil }
        var payload = [UInt8](repeating: 0, count: length)
        guard pread(descriptor, &payload, length, off_t(position) + off_t(headerBytes)) == length,
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
        pending.append((record.bytes, completion))
        condition.broadcast()
        condition.unlock()
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
            condition.broadcast()
            condition.unlock()
            for (_, completion) in batch { completion(result) }
        }
    }

    /// All or nothing: what a full disk cut short is taken back.
    private func write(_ records: [[UInt8]]) throws {
        let segment = segments[segments.count - 1]
        if end - segment >= segmentBytesMax { try roll() }
        let start = end - segments[segments.count - 1]
        let path = path(segments[segments.count - 1])
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
        guard let (payload, bytes) = try Self.readRecord(descriptor, at: offset - segment, size: size) else {
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

    /// Where the synced part ends.
    package var endOffset: Int64 {
        condition.lock()
        defer { condition.unlock() }
        return end
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
