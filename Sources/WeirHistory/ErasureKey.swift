import Crypto
import Foundation

/// The secret with which erased entities' keys are hashed: without it a list of keys could be tried against the tombstones.
package struct ErasureKey: Sendable {
    private let key: SymmetricKey

    package static func path(in directory: String) -> String { directory + "/erasure.key" }

    /// nil where there is none: nothing was erased yet.
    package static func load(directory: String) throws -> ErasureKey? {
        let path = path(in: directory)
        guard let bytes = FileManager.default.contents(atPath: path) else {
            guard FileManager.default.fileExists(atPath: path) else { return nil }
            throw HistoryError("cannot read \(path): check its rights")
        }
        guard let key = Data(base64Encoded: bytes, options: .ignoreUnknownCharacters), key.count == 32 else {
            throw HistoryError("\(path) is damaged: 32 bytes in base64 expected; restore it from a backup of the data directory")
        }
        return ErasureKey(key: SymmetricKey(data: key))
    }

    /// The store's secret, which is made, and synced, where there is none.
    package static func loadOrMake(directory: String) throws -> ErasureKey {
        if let known = try load(directory: directory) { return known }
        let made = SymmetricKey(size: .bits256)
        let text = made.withUnsafeBytes { Data($0).base64EncodedString() } + "\n"
        let path = path(in: directory)
        let fresh = path + ".new"
        func check(_ isDone: Bool) throws {
            if !isDone { throw HistoryError("cannot write \(path): \(String(cString: strerror(errno)))") }
        }
        unlink(fresh)
        let file = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        try check(file >= 0)
        defer { close(file) }
        try check(text.withCString { write(file, $0, text.utf8.count) } == text.utf8.count && fsync(file) == 0)
        try check(rename(fresh, path) == 0)
        let parent = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        try check(parent >= 0)
        defer { close(parent) }
        try check(fsync(parent) == 0)
        return ErasureKey(key: made)
    }

    /// HMAC-SHA256 of an entity's name and canonical key.
    package func hash(entity: String, key: UnsafeRawBufferPointer) -> [UInt8] {
        var code = HMAC<SHA256>(key: self.key)
        code.update(data: Array(entity.utf8) + [0])
        code.update(data: key)
        return Array(code.finalize())
    }

    package func hash(entity: String, key: String) -> [UInt8] { Array(key.utf8).withUnsafeBytes { hash(entity: entity, key: $0) } }
}
