import Foundation

/// Why a data directory cannot be used.
package struct DataDirectoryError: Error, CustomStringConvertible {
    package let description: String

    package init(_ description: String) { self.description = description }
}

/// Another process writes to the store.
package struct StoreIsBusy: Error, CustomStringConvertible {
    package let description: String
}

/// The files of one store: `history.sqlite`, `online/`, `push/`, `lock`.
package struct DataDirectory: Sendable {
    package let path: String

    package init(_ path: String) { self.path = path }

    package var online: String { path + "/online" }
    /// An online store that is being made, to take the place of the one in use.
    package var onlineNew: String { path + "/online.new" }
    /// One whose place was taken.
    package var onlineOld: String { path + "/online.old" }
    /// What the online store's files take on the disk, bytes.
    package var onlineBytes: Int64 {
        (FileManager.default.subpaths(atPath: online) ?? []).reduce(0) { sum, name in
            var status = stat()
            return stat(online + "/" + name, &status) == 0 ? sum + Int64(status.st_blocks) * 512 : sum
        }
    }
    /// Tells the directory of the online store from one that takes its place; nil where there is none.
    package var onlineIdentity: UInt64? {
        var status = stat()
        return stat(online, &status) == 0 ? UInt64(status.st_ino) : nil
    }
    package var push: String { path + "/push" }
    package var historyPath: String { path + "/history.sqlite" }

    package func create() throws {
        do {
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        } catch {
            throw DataDirectoryError("cannot make the data directory \(path): \(error.localizedDescription)")
        }
    }

    package func checkExists() throws {
        guard FileManager.default.fileExists(atPath: historyPath) else {
            throw DataDirectoryError("there is no store in \(path); start `weir run` or `weir ingest` first, or name another with --data")
        }
    }

    /// Takes the writer's place; a second writer is refused. The kernel gives the lock back when the process ends, however it ends.
    ///
    /// - Parameter handedOver: the lock that an earlier program of this process had.
    package func lock(handedOver: Int32? = nil) throws -> WriterLock {
        if let handedOver { return WriterLock(descriptor: handedOver) }
        try create()
        let file = path + "/lock"
        let descriptor = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw DataDirectoryError("cannot open \(file): \(String(cString: strerror(errno)))") }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            var buffer = [UInt8](repeating: 0, count: 64)
            let count = max(0, pread(descriptor, &buffer, buffer.count, 0))
            close(descriptor)
            let owner = String(decoding: buffer[..<count], as: UTF8.self)
            throw StoreIsBusy(
                description:
                    "another weir process\(owner.isEmpty ? "" : " (\(owner))") writes to \(path); stop it first, or use `weir serve` to read beside it"
            )
        }
        let owner = "process \(getpid())"
        ftruncate(descriptor, 0)
        _ = owner.withCString { pwrite(descriptor, $0, strlen($0), 0) }
        return WriterLock(descriptor: descriptor)
    }

    /// The process that last took the writer's place; nil where none did.
    package var writer: Int32? {
        guard let text = try? String(contentsOfFile: path + "/lock", encoding: .utf8), text.hasPrefix("process ") else { return nil }
        return Int32(text.dropFirst("process ".count))
    }

    /// For who makes another online store: two would put each event into it twice.
    func lockBuild() throws -> WriterLock {
        try create()
        let file = path + "/build.lock"
        let descriptor = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw DataDirectoryError("cannot open \(file): \(String(cString: strerror(errno)))") }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            close(descriptor)
            throw DataDirectoryError(
                "another process (`weir apply`, `weir rebuild`) makes an online store in \(path); wait for it, or end it")
        }
        return WriterLock(descriptor: descriptor)
    }

    /// Whether who writes to the store is this user; also where nobody has yet.
    package var isOwn: Bool {
        var status = stat()
        return stat(path + "/lock", &status) != 0 || status.st_uid == getuid()
    }

    /// Whether a process has the writer's place.
    package var isLocked: Bool {
        let descriptor = open(path + "/lock", O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        return flock(descriptor, LOCK_EX | LOCK_NB) != 0
    }

    /// For who reads for a while: as long as one does, no entity is erased beneath it.
    package func lockForReading() throws -> ReaderLock {
        try lockReaders(
            LOCK_SH, "an entity is being erased from the store in \(path); wait until `weir forget` is done")
    }

    /// For an erasure: nobody may go on to read what is no longer there.
    package func lockOutReaders() throws -> ReaderLock {
        try lockReaders(
            LOCK_EX,
            "another weir process (`weir serve`, `weir export`, …) reads from \(path), and would go on with what is being erased; end it, then try again"
        )
    }

    /// The directory itself is what is locked, so that this needs no right to write.
    private func lockReaders(_ operation: Int32, _ refusal: String) throws -> ReaderLock {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw DataDirectoryError("cannot open \(path): \(String(cString: strerror(errno)))") }
        guard flock(descriptor, operation | LOCK_NB) == 0 else {
            close(descriptor)
            throw DataDirectoryError(refusal)
        }
        return ReaderLock(descriptor: descriptor)
    }
}

/// The right to write to a data directory, until it is let go.
package final class WriterLock: Sendable {
    private let descriptor: Int32
    fileprivate init(descriptor: Int32) { self.descriptor = descriptor }
    deinit { close(descriptor) }

    /// For the program that this process becomes: a descriptor that holds the lock on.
    package func handOver() throws -> Int32 {
        let kept = fcntl(descriptor, F_DUPFD, 3)
        guard kept >= 0 else { throw DataDirectoryError("cannot keep the store's lock: \(String(cString: strerror(errno)))") }
        return kept
    }
}

/// The right to read a data directory, or to keep readers away from it, until it is let go.
package final class ReaderLock: Sendable {
    private let descriptor: Int32
    fileprivate init(descriptor: Int32) { self.descriptor = descriptor }
    deinit { close(descriptor) }
}

/// Microseconds on a clock that never goes back.
package func monotonicClock() -> Int64 {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return Int64(now.tv_sec) * 1_000_000 + Int64(now.tv_nsec) / 1_000
}

/// Microseconds of the wall clock.
package func wallClock() -> Int64 {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    return Int64(now.tv_sec) * 1_000_000 + Int64(now.tv_nsec) / 1_000
}
