import Foundation
import WeirAlgebra

/// Which training sets were exported from a store: `exports.jsonl` in its data directory, one line each, so that `weir forget` knows where
/// to look. An export only reads the store, beside who writes to it, so this is a file of its own.
package struct ExportLog: Sendable {
    package struct Entry: Codable, Sendable, Hashable {
        /// Absolute.
        package var path: String
        package var service: String
        package var rows: Int
        package var sha256: String
        /// Microseconds since the epoch.
        package var exportedAt: Int64

        package init(path: String, service: String, rows: Int, sha256: String, exportedAt: Int64) {
            self.path = path
            self.service = service
            self.rows = rows
            self.sha256 = sha256
            self.exportedAt = exportedAt
        }
    }

    private let path: String

    package init(directory: String) { path = directory + "/exports.jsonl" }

    /// - Throws: where the directory cannot be written to.
    package func append(_ entry: Entry) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let line = try encoder.encode(entry) + Data("\n".utf8)
        let descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw ExportError("cannot write \(path): \(String(cString: strerror(errno)))") }
        defer { close(descriptor) }
        // One write, so that lines of several exports do not mix.
        let written = line.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        guard written == line.count, fsync(descriptor) == 0 else {
            throw ExportError("cannot write \(path): \(String(cString: strerror(errno)))")
        }
    }

    /// The last entry of each path, in the order of paths. A line that cannot be read, of a write that was cut off, is left out.
    package func entries() -> [Entry] {
        guard let data = FileManager.default.contents(atPath: path) else { return [] }
        var known: [String: Entry] = [:]
        for line in data.split(separator: UInt8(ascii: "\n")) {
            if let entry = try? JSONDecoder().decode(Entry.self, from: line) { known[entry.path] = entry }
        }
        return known.values.sorted { $0.path < $1.path }
    }
}
