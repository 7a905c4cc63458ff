import Dispatch
import Glibc
import Logging
import Synchronization
import Testing
import WeirAlgebra
import WeirServer
import WeirTesting

let isLong = getenv("WEIR_TEST_LONG") != nil

/// A command as a client sends it.
func frame(_ arguments: [[UInt8]]) -> [UInt8] {
    var bytes = Array("*\(arguments.count)\r\n".utf8)
    for argument in arguments {
        bytes += Array("$\(argument.count)\r\n".utf8)
        bytes += argument
        bytes += [13, 10]
    }
    return bytes
}

func frame(_ arguments: String...) -> [UInt8] { frame(arguments.map { Array($0.utf8) }) }

/// A backend with fixed answers that remembers what it was asked.
final class FakeBackend: FeatureBackend {
    let lastRequest = Mutex<FeaturesGet?>(nil)
    let pushed = Mutex<[[UInt8]]>([])
    let explained = Mutex<FeaturesExplain?>(nil)
    let executors = Mutex<Set<Int>>([])
    let names = ["count", "mean", "is_new", "last", "top", "shares", "none"]
    let values: [FeatureValue] = [
        .int(-42), .double(1e-05), .bool(true), .string("é\r\n"), .list([.string("a\"b"), .int(2), .null]),
        .map([.init(key: "k", value: .double(2.5))]), .null,
    ]

    /// Of the view `spend`. `key` and `total` have their own values, others their names'.
    private let viewFeatureNames: [String]
    /// How long each lookup takes.
    private let delay: Duration

    init(features: [String] = ["key", "total"], delay: Duration = .zero) {
        viewFeatureNames = features
        self.delay = delay
    }

    func features(_ request: FeaturesGet, executor: Int) throws(CommandError) -> [FeatureRow] {
        executors.withLock { _ = $0.insert(executor) }
        lastRequest.withLock { $0 = request }
        guard request.service == "checkout" else {
            throw CommandError("unknown service '\(request.service)';\r\nthere is: checkout")
        }
        let meta = RowMeta(
            eventTimes: [EventTime(microseconds: 1_500_000), nil, nil, nil, nil, nil, nil],
            freshnessMicroseconds: [2_999, nil, nil, nil, nil, nil, nil],
            fingerprints: Array(repeating: "f00d", count: 6) + [nil], asOf: EventTime(microseconds: -1),
            sessionEventsIgnored: 3, applied: [SourcePosition(source: "1", position: 23)],
            positions: [SourcePosition(source: "kafka:purchases/0", position: 17)])
        let row = FeatureRow(
            names: names, results: values.map { FeatureResult($0, $0 == .null ? .nullValue : .present) },
            meta: request.meta ? meta : nil)
        return Array(repeating: row, count: request.requests.count)
    }

    func explain(_ request: FeaturesExplain, executor: Int) throws(CommandError) -> ReplyValue {
        explained.withLock { $0 = request }
        return request.isJSON ? .bytes(Array("{}".utf8)) : .array([.string("one"), .string("two")])
    }

    func selection(view: String, features: [String]?) throws(CommandError) -> ViewSelection {
        guard view == "spend" else { throw CommandError("unknown view '\(view)'") }
        for name in features ?? [] where !viewFeatureNames.contains(name) {
            throw CommandError("unknown feature '\(name)' of view 'spend'")
        }
        return ViewSelection(view: 0, names: features ?? viewFeatureNames, evaluation: FakeEvaluation())
    }

    private final class FakeEvaluation: Sendable {}

    func viewFeatures(
        _ selection: ViewSelection, key: UnsafeRawBufferPointer, executor: Int, _ body: (borrowing [FeatureResult], Bool) -> Void
    ) throws(CommandError) {
        if delay > .zero { usleep(UInt32(delay / .microseconds(1))) }
        let key = String(decoding: key, as: UTF8.self)
        let values: [FeatureValue] = selection.names.map { name in
            switch name {
            case "key": .string(key)
            case "total": .int(7)
            default: .string(name)
            }
        }
        body(values.map { FeatureResult($0, .present) }, key != "nobody")
    }

    func endBatch(executor: Int) {}

    func listFeatures() -> [CatalogEntry] {
        [
            CatalogEntry(kind: .service, name: "checkout", members: ["count"]),
            CatalogEntry(kind: .view, name: "spend", entity: "household", stream: "purchases", members: ["total"]),
            CatalogEntry(kind: .stream, name: "purchases", members: ["id"]),
        ]
    }

    func describe(_ name: String) throws(CommandError) -> ReplyValue {
        guard name == "checkout" else { throw CommandError("nothing is named '\(name)'") }
        return .map(["name": .string(name), "features": .array([.string("count")])])
    }

    func addEvents(
        stream: String, events: [[UInt8]], completion: @escaping @Sendable (Result<Int, CommandError>) -> Void
    ) {
        guard stream == "purchases" else { return completion(.failure(CommandError("unknown stream '\(stream)'"))) }
        pushed.withLock { $0 += events }
        // Not a task: tests block the threads that run tasks.
        DispatchQueue.global().asyncAfter(deadline: .now() + .milliseconds(5)) {
            completion(.success(events.count))
            completion(.failure(CommandError("a second completion must change nothing")))
        }
    }

    func sessionAdd(_ id: String, stream: String, events: [[UInt8]]) throws(CommandError) -> Int { events.count }

    func sessionGet(_ id: String) -> [SessionEvent] {
        id == "s1" ? [SessionEvent(stream: "purchases", json: Array("{}".utf8))] : []
    }

    func sessionDrop(_ id: String) -> Bool { id == "s1" }

    func info(executor: Int) -> [InfoSection] {
        [InfoSection("Store", [.init("shards", "8")]), InfoSection("Stats", [.init("events_applied", "5")])]
    }
}

/// Runs a server around a test's body.
func withServer(
    _ backend: FakeBackend = FakeBackend(), _ configure: (inout RESPServer.Configuration) -> Void = { _ in },
    _ body: (RESPServer) async throws -> Void
) async throws {
    var configuration = RESPServer.Configuration()
    configuration.port = 0
    configure(&configuration)
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    let server = try await RESPServer.start(configuration, backend: backend, logger: logger)
    do {
        try await body(server)
        await server.stop()
    } catch {
        await server.stop()
        throw error
    }
}

struct SocketError: Error { let what: String }

/// Runs blocking work on a thread of its own, so that the few threads that run tasks stay free.
func offPool<T: Sendable>(_ work: @escaping @Sendable () throws -> T) async throws -> T {
    try await withCheckedThrowingContinuation { continuation in
        DispatchQueue.global().async { continuation.resume(with: Result { try work() }) }
    }
}

/// A blocking client socket; gives up after thirty seconds.
// The file descriptor is set once; tests share a client between threads only to write on one and read on the other.
final class TestClient: @unchecked Sendable {
    private let descriptor: Int32
    private var buffer: [UInt8] = []

    init(port: Int) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var limit = timeval(tv_sec: 30, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(port).bigEndian
        address.sin_addr.s_addr = in_addr_t(0x7F00_0001).bigEndian
        let result = withUnsafePointer(to: address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else { throw SocketError(what: "connect: \(errno)") }
    }

    deinit { close(descriptor) }

    /// How many bytes the server took: fewer where it closed.
    @discardableResult
    func send(_ bytes: [UInt8]) -> Int {
        var sent = 0
        while sent < bytes.count {
            let count = bytes[sent...].withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, messageNoSignal) }
            if count <= 0 { break }
            sent += count
        }
        return sent
    }

    @discardableResult
    func send(_ text: String) -> Int { send(Array(text.utf8)) }

    func finishSending() { shutdown(descriptor, Int32(SHUT_WR)) }

    /// false at the end.
    private func receive() throws -> Bool {
        var chunk = [UInt8](repeating: 0, count: 65_536)
        let count = chunk.withUnsafeMutableBytes { recv(descriptor, $0.baseAddress, $0.count, 0) }
        if count < 0, errno == EAGAIN { throw SocketError(what: "nothing came; so far: \(String(decoding: buffer, as: UTF8.self))") }
        if count <= 0 { return false }
        buffer += chunk[..<count]
        return true
    }

    /// Whether something can be read without waiting.
    var hasBytes: Bool {
        var poll = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return !buffer.isEmpty || Glibc.poll(&poll, 1, 0) == 1
    }

    /// The bytes that came next; 0 at the end.
    func readSome() throws -> Int {
        if buffer.isEmpty { _ = try receive() }
        defer { buffer = [] }
        return buffer.count
    }

    /// Everything until the server closes; a connection that was reset is an error.
    func readToEndStrictly() throws -> String {
        while true {
            errno = 0
            guard try receive() else { break }
        }
        if errno != 0 { throw SocketError(what: "errno \(errno) instead of an end") }
        defer { buffer = [] }
        return String(decoding: buffer, as: UTF8.self)
    }

    /// Everything until the server closes.
    func readToEnd() throws -> String {
        while try receive() {}
        defer { buffer = [] }
        return String(decoding: buffer, as: UTF8.self)
    }

    /// One whole reply as it came.
    func reply() throws -> String {
        while true {
            var position = 0
            if isComplete(&position) {
                defer { buffer.removeFirst(position) }
                return String(decoding: buffer[..<position], as: UTF8.self)
            }
            guard try receive() else { throw SocketError(what: "closed after '\(String(decoding: buffer, as: UTF8.self))'") }
        }
    }

    func ask(_ arguments: String...) throws -> String {
        send(frame(arguments.map { Array($0.utf8) }))
        return try reply()
    }

    private func isComplete(_ position: inout Int) -> Bool {
        guard let lineEnd = buffer[position...].firstIndex(of: 10) else { return false }
        let type = buffer[position]
        let number = Int(String(decoding: buffer[(position + 1)..<(lineEnd - 1)], as: UTF8.self)) ?? 0
        position = lineEnd + 1
        switch type {
        case UInt8(ascii: "$"), UInt8(ascii: "="):
            if number >= 0 { position += number + 2 }
            return position <= buffer.count
        case UInt8(ascii: "*"), UInt8(ascii: "%"):
            for _ in 0..<max(0, type == UInt8(ascii: "%") ? 2 * number : number) {
                guard position < buffer.count, isComplete(&position) else { return false }
            }
            return true
        default: return true
        }
    }
}

/// Linux's MSG_NOSIGNAL: an enumeration or an integer, depending on what else is imported.
private let messageNoSignal: Int32 = 0x4000
