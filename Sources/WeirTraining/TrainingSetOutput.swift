import Foundation

/// Where the text of a training set goes, piece by piece. One thread at a time writes.
protocol TrainingSetOutput: AnyObject, Sendable {
    func write(_ bytes: [UInt8]) throws
}

/// A file that appears whole or not at all.
// What changes is changed by who made it, when all is written.
final class OutputFile: TrainingSetOutput, @unchecked Sendable {
    private let path: String
    private let temporary: String
    private let descriptor: Int32
    private var isInPlace = false

    init(_ path: String) throws {
        self.path = path
        temporary = path + ".partial"
        descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw failure("cannot write") }
    }

    deinit {
        if descriptor >= 0 { close(descriptor) }
        if !isInPlace, descriptor >= 0 { unlink(temporary) }
    }

    private func failure(_ what: String) -> ExportError { ExportError("\(what) \(temporary): \(String(cString: strerror(errno)))") }

    func write(_ bytes: [UInt8]) throws {
        var written = 0
        while written < bytes.count {
            let count = bytes.withUnsafeBytes { Foundation.write(descriptor, $0.baseAddress! + written, min($0.count - written, 1 << 26)) }
            guard count >= 0 else { throw failure("cannot write") }
            written += count
        }
    }

    func sync() throws {
        guard fsync(descriptor) == 0 else { throw failure("cannot sync") }
    }

    /// Puts it where it belongs; it must have been synced.
    func replace() throws {
        guard rename(temporary, path) == 0 else { throw failure("cannot put in place") }
        isInPlace = true
    }
}

/// Compares what is written with a file that is there.
// One thread at a time writes.
final class FileComparison: TrainingSetOutput, @unchecked Sendable {
    private let file: FileHandle
    private var line = 1
    /// The part of the current line that was equal.
    private var start: [UInt8] = []
    private var difference: ExportCheck?

    init(_ path: String) throws {
        guard let file = FileHandle(forReadingAtPath: path) else { throw ExportError("cannot read the training set \(path)") }
        self.file = file
    }

    func write(_ bytes: [UInt8]) throws {
        if difference != nil { return }
        let stored = [UInt8](try file.read(upToCount: bytes.count) ?? Data())
        let equal = zip(stored, bytes).prefix { $0 == $1 }.count
        for byte in bytes[..<equal] {
            if byte == 0x0A {
                line += 1
                start = []
            } else {
                start.append(byte)
            }
        }
        if equal == bytes.count { return }
        func whole(_ rest: ArraySlice<UInt8>) -> String { String(decoding: start + rest.prefix { $0 != 0x0A }, as: UTF8.self) }
        let file = stored.count == equal && start.isEmpty ? nil : whole(stored[equal...])
        difference = .differs(line: line, file: file, computed: whole(bytes[equal...]))
    }

    /// The first difference; nil where there is none.
    func end() throws -> ExportCheck? {
        if let difference { return difference }
        guard let rest = try file.read(upToCount: 4_096), !rest.isEmpty else { return nil }
        return .differs(line: line, file: String(decoding: rest.prefix { $0 != 0x0A }, as: UTF8.self), computed: nil)
    }
}
