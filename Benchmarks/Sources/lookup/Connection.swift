import Foundation
import Support

/// A value as the Redis protocol (RESP2) gives it.
enum Reply {
    case integer(Int)
    case bytes([UInt8])
    case null
    case error(String)
    case array([Reply])

    /// The number that an integer or a text is.
    var number: Double? {
        switch self {
        case .integer(let value): Double(value)
        case .bytes: text.flatMap(Double.init)
        default: nil
        }
    }

    var text: String? { if case .bytes(let bytes) = self { String(decoding: bytes, as: UTF8.self) } else { nil } }

    /// The elements of an array.
    func items() throws -> [Reply] {
        switch self {
        case .array(let items): return items
        case .error(let text): throw BenchmarkFailure("the server answered \(text)")
        default: throw BenchmarkFailure("the server answered no array")
        }
    }
}

/// A command as a client sends it: an array of bulk strings.
func encodedCommand(_ arguments: [String]) -> [UInt8] {
    var bytes: [UInt8] = []
    append(command: arguments, to: &bytes)
    return bytes
}

func append(command arguments: [String], to bytes: inout [UInt8]) {
    bytes.append("*")
    bytes.append(decimal: arguments.count)
    for argument in arguments {
        bytes.append("\r\n$")
        bytes.append(decimal: argument.utf8.count)
        bytes.append("\r\n")
        bytes.append(contentsOf: argument.utf8)
    }
    bytes.append("\r\n")
}

/// A TCP socket to a server on this machine.
func connectedSocket(port: Int) throws -> Int32 {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    guard descriptor >= 0 else { throw BenchmarkFailure("no socket: \(String(cString: strerror(errno)))") }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = in_port_t(UInt16(port).bigEndian)
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    let length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let status = withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(descriptor, $0, length) }
    }
    guard status == 0 else {
        let reason = String(cString: strerror(errno))
        close(descriptor)
        throw BenchmarkFailure("cannot connect to port \(port): \(reason)")
    }
    var on: Int32 = 1
    setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
    // A server that stops answering fails the run instead of holding it.
    var timeout = timeval(tv_sec: 60, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
    return descriptor
}

/// A connection that waits for what it asks.
final class Connection {
    private let descriptor: Int32
    private var buffer: [UInt8] = []
    private var position = 0

    init(port: Int) throws { descriptor = try connectedSocket(port: port) }

    deinit { close(descriptor) }

    func send(_ bytes: [UInt8]) throws {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Foundation.send(descriptor, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { throw BenchmarkFailure("cannot send: \(String(cString: strerror(errno)))") }
            sent += count
        }
    }

    /// Sends one command and reads its reply.
    func ask(_ arguments: [String]) throws -> Reply {
        try send(encodedCommand(arguments))
        return try reply()
    }

    func reply() throws -> Reply {
        let line = try line()
        let number = Int(line.dropFirst())
        switch (line.first, number) {
        case ("+", _): return .bytes(Array(line.utf8.dropFirst()))
        case ("-", _): return .error(String(line.dropFirst()))
        case (":", let value?): return .integer(value)
        case ("$", -1), ("*", -1): return .null
        case ("$", let count?):
            while buffer.count - position < count + 2 { try fill() }
            defer { position += count + 2 }
            return .bytes(Array(buffer[position..<position + count]))
        case ("*", let count?): return .array(try (0..<count).map { _ in try reply() })
        default: throw BenchmarkFailure("no RESP2 reply: \(line)")
        }
    }

    private func line() throws -> String {
        var end = position
        while true {
            while end < buffer.count && buffer[end] != 10 { end += 1 }
            if end < buffer.count { break }
            let searched = end - position
            try fill()
            end = position + searched
        }
        defer { position = end + 1 }
        return String(decoding: buffer[position..<max(position, end - 1)], as: UTF8.self)
    }

    private func fill() throws {
        if position > 0 {
            buffer.removeSubrange(..<position)
            position = 0
        }
        let size = 1 << 16
        let before = buffer.count
        buffer.append(contentsOf: repeatElement(0, count: size))
        let count = buffer.withUnsafeMutableBytes { recv(descriptor, $0.baseAddress! + before, size, 0) }
        buffer.removeLast(size - max(0, count))
        if count < 0 && errno == EINTR { return }
        guard count > 0 else {
            throw BenchmarkFailure(count == 0 ? "the server closed the connection" : "cannot read: \(String(cString: strerror(errno)))")
        }
    }
}
