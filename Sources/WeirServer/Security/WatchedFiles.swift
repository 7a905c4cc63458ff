#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif
import Synchronization

/// Files that are to be read again when they change.
package final class WatchedFiles: Sendable {
    private struct Fingerprint: Hashable {
        var inode: UInt64
        var size: Int64
        var modified: Int64
        var modifiedNanoseconds: Int64
    }

    private let paths: [String]
    private let seen: Mutex<[Fingerprint?]>

    /// To be made before the files are first read, so that a change in between shows.
    package init(_ paths: [String]) {
        self.paths = paths
        seen = Mutex(paths.map { WatchedFiles.fingerprint($0) })
    }

    /// Whether one of them is another than at the last look: true once for each change.
    package func haveChanged() -> Bool {
        let now = paths.map { WatchedFiles.fingerprint($0) }
        return seen.withLock { seen in
            defer { seen = now }
            return seen != now
        }
    }

    private static func fingerprint(_ path: String) -> Fingerprint? {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        #if canImport(Glibc)
            let time = status.st_mtim
        #else
            let time = status.st_mtimespec
        #endif
        return Fingerprint(
            inode: UInt64(status.st_ino), size: Int64(status.st_size), modified: Int64(time.tv_sec),
            modifiedNanoseconds: Int64(time.tv_nsec))
    }
}
