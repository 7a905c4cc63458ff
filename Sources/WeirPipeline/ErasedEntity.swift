import Foundation
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirRecords

/// An entity that is being erased, and how it is told in bytes that no definition reads.
package struct ErasedEntity: Sendable {
    package let entity: String
    /// The canonical one.
    package let key: String
    /// What has to stand there, all of it: the key, or each part of a composite one.
    private let words: [[UInt8]]
    /// One of them is enough.
    private let ids: [[UInt8]]

    /// Shorter ones stand everywhere.
    static let idBytesMin = 8

    /// - Parameter ids: of its events; short ones are of no use.
    package init(entity: String, key: String, catalog: CatalogPlan, ids: some Sequence<String> = []) {
        self.entity = entity
        self.key = key
        let isComposite = catalog.views.contains { $0.entity == entity && $0.keyTypeName.contains(":") }
        words = (isComposite ? compositeKeyParts(key) : [key]).map { Array($0.utf8) }
        self.ids = ids.map { Array($0.utf8) }.filter { $0.count >= Self.idBytesMin }
    }

    /// Whether bytes name it: its key, or the id of an event of it, as words of their own. Rather once too often: a short key stands in much
    /// that is not its.
    package func isNamed(in bytes: [UInt8]) -> Bool {
        if isNamed(inPlain: bytes) { return true }
        // JSON may write any character as an escape.
        return bytes.contains(UInt8(ascii: "\\")) && isNamed(inPlain: unescaped(bytes))
    }

    private func isNamed(inPlain bytes: [UInt8]) -> Bool {
        bytes.withUnsafeBytes { bytes in
            words.allSatisfy { hasWord($0, bytes) } || ids.contains { hasWord($0, bytes) }
        }
    }

    /// Letters and digits around it would make it another word, and so would a sign or a point with a digit behind it: 5 does not stand in
    /// 15, 5.2, x5 and 12:05.
    private func hasWord(_ word: [UInt8], _ bytes: UnsafeRawBufferPointer) -> Bool {
        func isDigit(_ index: Int) -> Bool { bytes.indices.contains(index) && (48...57).contains(bytes[index]) }
        func isLetter(_ index: Int) -> Bool {
            guard bytes.indices.contains(index) else { return false }
            let byte = bytes[index]
            return isDigit(index) || (97...122).contains(byte | 0x20) || byte == UInt8(ascii: "_") || byte >= 0x80
        }
        func isSign(_ index: Int) -> Bool { bytes.indices.contains(index) && ".:+-".utf8.contains(bytes[index]) }
        func joins(_ index: Int, away step: Int) -> Bool { isLetter(index) || (isSign(index) && isDigit(index + step)) }
        return occurrences(of: word, in: bytes).contains { start in
            let isNumber = word.allSatisfy { (48...57).contains($0) }
            // A minus makes another number.
            if isNumber, start > 0, bytes[start - 1] == UInt8(ascii: "-") { return false }
            return !joins(start - 1, away: -1) && !joins(start + word.count, away: 1)
        }
    }
}

/// Where bytes stand in others.
func occurrences(of word: [UInt8], in bytes: UnsafeRawBufferPointer) -> [Int] {
    guard let first = word.first, word.count <= bytes.count, let base = bytes.baseAddress else { return [] }
    var found: [Int] = []
    var start = 0
    let last = bytes.count - word.count
    while start <= last, let next = memchr(base + start, Int32(first), last - start + 1) {
        start = next - UnsafeMutableRawPointer(mutating: base)
        if memcmp(base + start, word, word.count) == 0 { found.append(start) }
        start += 1
    }
    return found
}

/// JSON's escapes as what they stand for; others stay.
private func unescaped(_ bytes: [UInt8]) -> [UInt8] {
    var plain: [UInt8] = []
    var index = 0
    while index < bytes.count {
        guard bytes[index] == UInt8(ascii: "\\"), index + 1 < bytes.count else {
            plain.append(bytes[index])
            index += 1
            continue
        }
        if bytes[index + 1] == UInt8(ascii: "u"), index + 6 <= bytes.count,
            let code = UInt32(String(decoding: bytes[index + 2..<index + 6], as: UTF8.self), radix: 16), let scalar = Unicode.Scalar(code)
        {
            plain.append(contentsOf: String(Character(scalar)).utf8)
            index += 6
        } else {
            plain.append(bytes[index + 1])
            index += 2
        }
    }
    return plain
}

extension ErasedEntity {
    /// The dead letters that are its: those that decode, by their key; of those that do not, the ones that name it.
    func letters(_ reader: HistoryReader, _ catalog: CatalogPlan) throws -> (decoded: [Int64], byBytes: [Int64]) {
        var decoded: Set<Int64> = []
        var byBytes: [Int64] = []
        var last: Int64 = 0
        while true {
            let letters = try reader.deadLetters(after: last, limit: Self.lettersAtOnce)
            guard let end = letters.last?.number else { return (decoded.sorted(), byBytes) }
            last = end
            for letter in letters {
                guard let stream = catalog.stream(named: letter.stream), let encoding = letter.encoding else {
                    if isNamed(in: letter.raw) { byBytes.append(letter.number) }
                    continue
                }
                var records = RecordBatch(schema: stream.schema)
                stream.append(letter, encoding, to: &records)
                let batch = stream.prepare(records)
                let isIts = stream.views.indices.contains { position in
                    stream.views[position].entity == entity
                        && (0..<batch.count).contains { row in
                            !batch.views[position].keys.isNull(row)
                                && batch.views[position].keys.withText(row) { $0.elementsEqual(key.utf8) }
                        }
                }
                if isIts {
                    decoded.insert(letter.number)
                } else if !batch.records.malformed.isEmpty, isNamed(in: letter.raw) {
                    byBytes.append(letter.number)
                }
            }
        }
    }

    private static let lettersAtOnce = 256
}
