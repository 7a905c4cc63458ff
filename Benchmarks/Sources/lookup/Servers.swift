import Foundation
import Support

/// A server of this run: ended with it.
final class Server {
    let name: String
    private(set) var port = 0
    private let process = Process()

    private init(name: String, program: String, arguments: [String], output: Any) throws {
        self.name = name
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        process.standardOutput = output
        do { try process.run() } catch { throw BenchmarkFailure("cannot start \(program): \(error.localizedDescription)") }
    }

    deinit { stop() }

    /// Debian's redis-server, in memory alone.
    static func redis(directory: String) throws -> Server {
        let port = try freePort()
        let server = try Server(
            name: "redis", program: "/usr/bin/redis-server",
            arguments: ["--port", "\(port)", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", directory],
            output: FileHandle.nullDevice)
        server.port = port
        for _ in 0..<100 {
            if let connection = try? Connection(port: port), try connection.ask(["PING"]).text == "PONG" { return server }
            usleep(50_000)
        }
        throw BenchmarkFailure("redis-server does not answer")
    }

    /// - Parameter threads: those that answer lookups; nil leaves the default.
    static func weir(_ program: String, data: String, threads: Int? = nil) throws -> Server {
        let output = Pipe()
        let server = try Server(
            name: "weir", program: program,
            arguments: ["run", "--data", data, "--port", "0", "--http", "0"] + (threads.map { ["--threads", "\($0)"] } ?? []),
            output: output)
        var line = ""
        while !line.contains("HTTP on") {
            let data = output.fileHandleForReading.availableData
            guard !data.isEmpty else { throw BenchmarkFailure("\(program) is not ready: \(line)") }
            line += String(decoding: data, as: UTF8.self)
        }
        guard let match = line.firstMatch(of: /lookups on [^:]*:(\d+)/), let port = Int(match.1) else {
            throw BenchmarkFailure("\(program) says no port: \(line)")
        }
        server.port = port
        return server
    }

    func stop() {
        guard process.isRunning else { return }
        process.terminate()
        process.waitUntilExit()
    }

    /// User and system time so far.
    func cpuSeconds() throws -> Double {
        // Behind the name: state, parent, …, and utime and stime as the twelfth and thirteenth.
        let text = try String(contentsOfFile: "/proc/\(process.processIdentifier)/stat", encoding: .utf8)
        guard let fields = text.split(separator: ")").last?.split(separator: " "), fields.count > 12,
            let user = Double(fields[11]), let system = Double(fields[12])
        else { throw BenchmarkFailure("\(name) has ended") }
        return (user + system) / Double(sysconf(Int32(_SC_CLK_TCK)))
    }

    /// Resident memory: its own, and pages of mapped files, which the kernel may take back.
    func memory() throws -> (ownBytes: Int, filePageBytes: Int) {
        let text = try String(contentsOfFile: "/proc/\(process.processIdentifier)/status", encoding: .utf8)
        func kilobytes(_ name: String) -> Int {
            for line in text.split(separator: "\n") where line.hasPrefix(name + ":") {
                return line.split(separator: " ").dropLast().last.flatMap { Int($0.filter(\.isNumber)) } ?? 0
            }
            return 0
        }
        return (kilobytes("RssAnon") * 1_024, (kilobytes("RssFile") + kilobytes("RssShmem")) * 1_024)
    }
}

private func freePort() throws -> Int {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let status = withUnsafeMutablePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            bind(descriptor, $0, length) == 0 ? getsockname(descriptor, $0, &length) : -1
        }
    }
    guard status == 0 else { throw BenchmarkFailure("no free port: \(String(cString: strerror(errno)))") }
    return Int(UInt16(bigEndian: address.sin_port))
}
