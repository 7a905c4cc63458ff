import NIOCore
import WeirAlgebra
import WeirRecords

/// Writes replies in RESP2 or RESP3 into one buffer.
package struct RESPWriter {
    package var buffer: ByteBuffer
    package var version: RESPVersion

    package init(buffer: ByteBuffer = ByteBuffer(), version: RESPVersion = .resp2) {
        self.buffer = buffer
        self.version = version
    }

    // MARK: Scalars

    /// `text` must hold no line break; what comes from outside goes through `bulk` or `error`.
    package mutating func simple(_ text: String) {
        line(UInt8(ascii: "+"), text)
    }

    /// One line, whatever the message holds: each line break becomes a space.
    package mutating func error(_ error: CommandError) {
        let isOneLine = error.message.utf8.allSatisfy { $0 != 10 && $0 != 13 && $0 != 0 }
        let message =
            isOneLine
            ? error.message
            : String(decoding: error.message.utf8.map { $0 == 10 || $0 == 13 || $0 == 0 ? 32 : $0 }, as: UTF8.self)
        line(UInt8(ascii: "-"), "\(error.code) \(message)")
    }

    package mutating func integer(_ value: Int64) {
        header(UInt8(ascii: ":"), value)
    }

    package mutating func null() {
        switch version {
        case .resp2: buffer.writeStaticString("$-1\r\n")
        case .resp3: buffer.writeStaticString("_\r\n")
        }
    }

    /// RESP2: a bulk string. Infinities and NaN are `inf`, `-inf`, `nan`.
    package mutating func double(_ value: Double) {
        let text = value.isNaN ? "nan" : value.description
        switch version {
        case .resp2: bulk(text)
        case .resp3: line(UInt8(ascii: ","), text)
        }
    }

    /// RESP2: the bulk string `true` or `false`.
    package mutating func bool(_ value: Bool) {
        switch version {
        case .resp2: buffer.writeStaticString(value ? "$4\r\ntrue\r\n" : "$5\r\nfalse\r\n")
        case .resp3: buffer.writeStaticString(value ? "#t\r\n" : "#f\r\n")
        }
    }

    package mutating func bulk(_ text: String) {
        var text = text
        text.withUTF8 { bulk(UnsafeRawBufferPointer($0)) }
    }

    package mutating func bulk(_ bytes: UnsafeRawBufferPointer) {
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: bytes.count + 26) { out in
            out[0] = UInt8(ascii: "$")
            var end = 1 + RESPWriter.decimal(Int64(bytes.count), out, at: 1)
            end = RESPWriter.lineEnd(out, at: end)
            UnsafeMutableRawBufferPointer(rebasing: out[end..<end + bytes.count]).copyMemory(from: bytes)
            return RESPWriter.lineEnd(out, at: end + bytes.count)
        }
    }

    /// Text for people: RESP3 marks it as not to be quoted.
    package mutating func text(_ text: String) {
        switch version {
        case .resp2: bulk(text)
        case .resp3:
            header(UInt8(ascii: "="), Int64(text.utf8.count + 4))
            buffer.writeStaticString("txt:")
            buffer.writeString(text)
            buffer.writeStaticString("\r\n")
        }
    }

    // MARK: Aggregates: the header; the elements follow

    package mutating func array(count: Int) {
        header(UInt8(ascii: "*"), Int64(count))
    }

    /// The header of a map of `count` pairs: in RESP2 an array of twice as many elements.
    package mutating func map(count: Int) {
        switch version {
        case .resp2: header(UInt8(ascii: "*"), Int64(2 * count))
        case .resp3: header(UInt8(ascii: "%"), Int64(count))
        }
    }

    // MARK: Values

    /// A feature's value. RESP2: a bulk string (integers in decimal, doubles in shortest round-trip form, `true`/`false`, lists and
    /// maps as JSON text) or null; RESP3: its own types.
    package mutating func write(featureValue value: FeatureValue) {
        switch value {
        case .null: null()
        case .double(let number): double(number)
        case .bool(let truth): bool(truth)
        case .string(let text): bulk(text)
        case .int(let number):
            switch version {
            case .resp2: bulk(decimal: number)
            case .resp3: integer(number)
            }
        case .list(let values):
            guard version == .resp3 else { return bulk(value.json) }
            array(count: values.count)
            for value in values { write(featureValue: value) }
        case .map(let entries):
            guard version == .resp3 else { return bulk(value.json) }
            map(count: entries.count)
            for entry in entries {
                bulk(entry.key)
                write(featureValue: entry.value)
            }
        }
    }

    package mutating func write(_ value: ReplyValue) {
        switch value {
        case .simple(let text): simple(text)
        case .error(let problem): error(problem)
        case .null: null()
        case .int(let number): integer(number)
        case .double(let number): double(number)
        case .bool(let truth): bool(truth)
        case .string(let string): bulk(string)
        case .bytes(let bytes): bytes.withUnsafeBytes { bulk($0) }
        case .text(let string): text(string)
        case .feature(let value): write(featureValue: value)
        case .array(let values):
            array(count: values.count)
            for value in values { write(value) }
        case .map(let entries):
            map(count: entries.count)
            for entry in entries {
                bulk(entry.key)
                write(entry.value)
            }
        }
    }

    /// Scalars without text in one piece: what most features are.
    ///
    /// - Returns: false where there is another value; nothing is written then.
    mutating func writeScalars(_ results: borrowing [FeatureResult]) -> Bool {
        for index in 0..<results.count {
            switch results[index].value {
            case .null, .int, .double, .bool: continue
            case .string, .list, .map: return false
            }
        }
        let count = results.count
        let isOld = version == .resp2
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: count * (NumberText.bytesMax + 8)) { out in
            var next = out.baseAddress!.assumingMemoryBound(to: UInt8.self)
            for index in 0..<count {
                switch results[index].value {
                case .double(let number):
                    // The text's length stands before it: two digits where it has ten bytes or more.
                    let start = isOld ? 5 : 1
                    let length = NumberText.write(number, to: next + start)
                    next += RESPWriter.frame(next, length: length, start: start, type: isOld ? nil : UInt8(ascii: ","))
                case .int(let number):
                    let start = isOld ? 5 : 1
                    let length = NumberText.write(number, to: next + start)
                    next += RESPWriter.frame(next, length: length, start: start, type: isOld ? nil : UInt8(ascii: ":"))
                case .bool(let truth):
                    next += RESPWriter.copy(isOld ? (truth ? "$4\r\ntrue\r\n" : "$5\r\nfalse\r\n") : (truth ? "#t\r\n" : "#f\r\n"), next)
                default: next += RESPWriter.copy(isOld ? "$-1\r\n" : "_\r\n", next)
                }
            }
            return UnsafeMutableRawPointer(next) - out.baseAddress!
        }
        return true
    }

    private static func copy(_ text: StaticString, _ out: UnsafeMutablePointer<UInt8>) -> Int {
        out.update(from: text.utf8Start, count: text.utf8CodeUnitCount)
        return text.utf8CodeUnitCount
    }

    /// Puts what belongs around a text that was written at `start`; the header of a bulk string has room for a length of two digits.
    private static func frame(_ out: UnsafeMutablePointer<UInt8>, length: Int, start: Int, type: UInt8?) -> Int {
        var end = start + length
        if let type {
            out[0] = type
        } else {
            out[0] = UInt8(ascii: "$")
            if length < 10 {
                out[1] = UInt8(truncatingIfNeeded: 48 + length)
                (out + 4).update(from: out + 5, count: length)
                end -= 1
            } else {
                out[1] = UInt8(truncatingIfNeeded: 48 + length / 10)
                out[2] = UInt8(truncatingIfNeeded: 48 + length % 10)
            }
            let line = length < 10 ? 2 : 3
            out[line] = 13
            out[line + 1] = 10
        }
        out[end] = 13
        out[end + 1] = 10
        return end + 2
    }

    // MARK: Bytes

    private mutating func header(_ type: UInt8, _ value: Int64) {
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: 24) { out in
            out[0] = type
            return RESPWriter.lineEnd(out, at: 1 + RESPWriter.decimal(value, out, at: 1))
        }
    }

    private mutating func line(_ type: UInt8, _ text: String) {
        buffer.writeInteger(type)
        buffer.writeString(text)
        buffer.writeStaticString("\r\n")
    }

    private mutating func bulk(decimal value: Int64) {
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: NumberText.bytesMax) { out in
            let next = out.baseAddress!.assumingMemoryBound(to: UInt8.self)
            return RESPWriter.frame(next, length: NumberText.write(value, to: next + 5), start: 5, type: nil)
        }
    }

    private static func lineEnd(_ out: UnsafeMutableRawBufferPointer, at position: Int) -> Int {
        out[position] = 13
        out[position + 1] = 10
        return position + 2
    }

    /// Writes a number in decimal and returns how many bytes (at most 20) that took.
    private static func decimal(_ value: Int64, _ out: UnsafeMutableRawBufferPointer, at position: Int) -> Int {
        NumberText.write(value, to: out.baseAddress!.assumingMemoryBound(to: UInt8.self) + position)
    }
}
