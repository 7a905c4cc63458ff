import Crypto
import Foundation
import WeirAlgebra

/// What was applied of a file: how many bytes, and their checksums in blocks. A file is known by this, not by its path.
struct FileFingerprint: Equatable {
    static let blockBytes = 4 << 20

    /// SHA-256 of each full block, then of the rest.
    private(set) var length: Int64 = 0
    private(set) var blocks: [[UInt8]] = []
    private var tail: [UInt8] = []

    var encoded: [UInt8] {
        var writer = ByteWriter()
        writer.write(UInt8(1))
        writer.write(length)
        writer.writeVarint(UInt64(blocks.count))
        for block in blocks { writer.writeRaw(block) }
        writer.writeBytes(tail)
        return writer.bytes
    }

    init(length: Int64, blocks: [[UInt8]], tail: [UInt8]) {
        self.length = length
        self.blocks = blocks
        self.tail = tail
    }

    init(_ bytes: [UInt8]) throws(FormatError) {
        let result: Result<FileFingerprint, FormatError> = bytes.withUnsafeBytes { raw in
            do throws(FormatError) {
                var reader = ByteReader(raw)
                guard try reader.read(UInt8.self) == 1 else { throw FormatError("an unknown version of a file's fingerprint") }
                let length = try reader.read(Int64.self)
                let count = try reader.readCount(unit: 32)
                var blocks: [[UInt8]] = []
                for _ in 0..<count { blocks.append([UInt8](try reader.readRaw(32))) }
                return .success(FileFingerprint(length: length, blocks: blocks, tail: [UInt8](try reader.readBytes())))
            } catch {
                return .failure(error)
            }
        }
        self = try result.get()
    }

    /// Where a file first differs from what was applied, by block; nil where its beginning is the same.
    func firstDifference(in file: FileHandle) throws -> Int64? {
        try file.seek(toOffset: 0)
        var rest = length
        var offset: Int64 = 0
        for wanted in blocks + (tail.isEmpty ? [] : [tail]) {
            let size = Int(min(rest, Int64(Self.blockBytes)))
            var hash = SHA256()
            var read = 0
            while read < size {
                guard let data = try file.read(upToCount: size - read), !data.isEmpty else { return offset }
                hash.update(data: data)
                read += data.count
            }
            if Array(hash.finalize()) != wanted { return offset }
            offset += Int64(size)
            rest -= Int64(size)
        }
        return nil
    }
}

/// Makes the fingerprint of a file while its bytes go by.
struct FingerprintBuilder {
    private var length: Int64 = 0
    private var blocks: [[UInt8]] = []
    private var current = SHA256()
    private var inBlock = 0

    init() {}

    mutating func append(_ bytes: UnsafeRawBufferPointer) {
        var bytes = bytes
        while !bytes.isEmpty {
            let count = min(bytes.count, FileFingerprint.blockBytes - inBlock)
            current.update(bufferPointer: UnsafeRawBufferPointer(rebasing: bytes[..<count]))
            length += Int64(count)
            inBlock += count
            if inBlock == FileFingerprint.blockBytes {
                blocks.append(Array(current.finalize()))
                current = SHA256()
                inBlock = 0
            }
            bytes = UnsafeRawBufferPointer(rebasing: bytes[count...])
        }
    }

    var fingerprint: FileFingerprint {
        FileFingerprint(length: length, blocks: blocks, tail: inBlock == 0 ? [] : Array(current.finalize()))
    }
}
