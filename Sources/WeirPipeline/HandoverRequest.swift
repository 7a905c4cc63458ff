import Foundation

/// Asks the process that writes to a data directory to become another program: a file in the directory, which the process looks for.
/// Whoever may write to the directory owns the store; the file must be its user's, or the superuser's.
package struct HandoverRequest: Codable, Sendable {
    /// The path of the program.
    package var executable: String
    /// Why it was not done; nil while it is asked for.
    package var refusal: String?

    package init(executable: String, refusal: String? = nil) {
        self.executable = executable
        self.refusal = refusal
    }

    private static func path(_ directory: DataDirectory) -> String { directory.path + "/handover" }

    package func write(to directory: DataDirectory) throws {
        let path = Self.path(directory)
        let data = try JSONEncoder().encode(self)
        let temporary = path + ".new"
        guard FileManager.default.createFile(atPath: temporary, contents: data, attributes: [.posixPermissions: 0o600]) else {
            throw DataDirectoryError("cannot write \(temporary); check the directory's rights and the free disk space")
        }
        guard rename(temporary, path) == 0 else { throw DataDirectoryError("cannot write \(path): \(String(cString: strerror(errno)))") }
    }

    /// nil where there is none.
    package static func read(from directory: DataDirectory) throws -> HandoverRequest? {
        let path = path(directory)
        var status = stat()
        guard lstat(path, &status) == 0 else { return nil }
        guard status.st_uid == getuid() || status.st_uid == 0, status.st_mode & S_IFMT == S_IFREG, status.st_mode & 0o022 == 0 else {
            throw DataDirectoryError("\(path) is not this process's user's own file; nothing is handed over, remove it")
        }
        guard let data = FileManager.default.contents(atPath: path), let request = try? JSONDecoder().decode(Self.self, from: data) else {
            throw DataDirectoryError("\(path) is no request to hand over; remove it")
        }
        return request
    }

    package static func remove(from directory: DataDirectory) { unlink(path(directory)) }
}
