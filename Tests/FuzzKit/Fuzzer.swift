import Foundation
import Logging
import NIOCore
import NIOEmbedded
import Weir
import WeirLookup
import WeirServer
import WeirTesting

package struct FuzzFailure: Error, CustomStringConvertible {
    package let description: String

    package init(description: String) { self.description = description }
}

/// What inputs go to: bytes that came over a network, and what must hold of the answer.
package protocol FuzzTarget {
    /// Runs one case, which its number alone determines; how many inputs that were.
    mutating func run(_ number: UInt64) throws -> Int
}

/// One connection after another to a server without sockets: the handler, parser, commands and store of production.
///
/// A case is a connection. Its inputs come in fragments of any size; every command must be answered by exactly one reply, all replies
/// must be RESP, and how the bytes were cut must not show.
package struct RESPTarget: FuzzTarget {
    private static let inputsMax = 256

    let seed: UInt64
    private let store: FuzzStore
    private let lookups: LookupService
    private let bug: PlantedBug?
    private let server: ServerContext
    private let eventLoop = EmbeddedEventLoop()
    private var bytes: [UInt8] = []
    private var ends: [Int] = []

    /// To be used on the thread that makes it.
    init(seed: UInt64, store: FuzzStore, bug: PlantedBug? = nil) throws {
        self.seed = seed
        self.store = store
        lookups = try store.makeLookups()
        self.bug = bug
        var logger = Logger(label: "fuzz")
        logger.logLevel = .critical
        var configuration = RESPServer.Configuration()
        configuration.threadCount = 1
        server = ServerContext(
            backend: FuzzBackend(lookups, executors: 1, bug: bug), configuration: configuration, eventLoops: [eventLoop], logger: logger)
    }

    package mutating func run(_ number: UInt64) throws -> Int {
        // Sessions are the server's: a case begins without those of the one before, so that it can be repeated alone.
        for id in ["a", "b", "session-1", "é\u{301}", "x\r\n+OK"] { _ = lookups.sessions.drop(id) }
        var generator = SeededGenerator(seed: SeededGenerator(seed: seed &+ number).next(after: number))
        var traffic = Traffic(
            seed: generator.next(), features: store.features, services: ["checkout_offer", "checkout_offer", "nothing"],
            streams: ["purchases", "purchases", "purchases", "visits"], events: store.events)
        bytes.removeAll(keepingCapacity: true)
        ends.removeAll(keepingCapacity: true)
        let count = 1 + generator.below(Self.inputsMax)
        for _ in 0..<count {
            traffic.append(to: &bytes)
            ends.append(bytes.count)
        }
        let answered = try serve(&generator)
        let inputCount = try compare(answered)
        if server.clientCount != 0 { throw FuzzFailure(description: "the server still counts \(server.clientCount) connections") }
        return inputCount
    }

    private struct Answered {
        var commandCount = 0
        /// Whether the server closed the connection before all was sent.
        var isClosed = false
        var isProtocolError = false
    }

    /// Sends the case's bytes in fragments, and reads replies as they come.
    private mutating func serve(_ generator: inout SeededGenerator) throws -> Answered {
        var answered = Answered()
        var checker = ReplyChecker()
        let before = server.commandsProcessed.load(ordering: .relaxed)
        let channel = EmbeddedChannel(handler: RESPConnectionHandler(server: server, loop: server.loops[0]), loop: eventLoop)
        try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
        let style = generator.below(8)
        var sent = 0
        var input = 0
        while sent < bytes.count, channel.isActive {
            var end =
                switch style {
                case 0...2: bytes.count
                case 3: ends[input]
                // Some tiny pieces, then larger ones: each read costs more than an input.
                case 4 where sent < 100: sent + 1 + generator.below(4)
                default: sent + 1 + generator.below(1_000)
                }
            end = min(end, bytes.count)
            while input < ends.count - 1, ends[input] <= end { input += 1 }
            let isLost = bug == .lostByte && (end - sent) % 16 == 0
            channel.pipeline.fireChannelRead(ByteBuffer(bytes: bytes[sent..<(isLost ? end - 1 : end)]))
            channel.pipeline.fireChannelReadComplete()
            sent = end
            // A client that does not read for a while.
            if generator.isOne(in: 64) {
                channel.isWritable = false
                channel.pipeline.fireChannelWritabilityChanged()
                channel.isWritable = true
                channel.pipeline.fireChannelWritabilityChanged()
            }
            eventLoop.run()
            try read(channel, &checker)
        }
        answered.isClosed = !channel.isActive
        if channel.isActive {
            channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
            eventLoop.run()
            try read(channel, &checker)
        }
        if channel.isActive {
            throw FuzzFailure(description: "the connection stays open after the client closed its side: a reply is missing")
        }
        eventLoop.advanceTime(by: .seconds(2))
        answered.commandCount = server.commandsProcessed.load(ordering: .relaxed) - before
        answered.isProtocolError = checker.lastIsProtocolError
        // Speaking HTTP is answered by closing alone.
        let expected = answered.commandCount + (checker.lastIsProtocolError ? 1 : 0)
        let isSilent = answered.isClosed && checker.replyCount == expected - 1
        guard checker.replyCount == expected || isSilent else {
            throw FuzzFailure(description: "\(checker.replyCount) replies to \(answered.commandCount) commands")
        }
        return answered
    }

    private func read(_ channel: EmbeddedChannel, _ checker: inout ReplyChecker) throws {
        while let part = try channel.readOutbound(as: ByteBuffer.self) {
            try part.withUnsafeReadableBytes { try checker.check($0) }
        }
    }

    /// The same bytes at once, parsed alone, are the same commands. How many inputs were looked at until the connection ended.
    private func compare(_ answered: Answered) throws -> Int {
        var parser = RESPParser()
        var commands = 0
        var failure: String?
        var start = 0
        // Behind the last command that was answered.
        var reached = bytes.count
        bytes.withUnsafeBytes { whole in
            parsing: while true {
                switch parser.parse(UnsafeRawBufferPointer(rebasing: whole[start...])) {
                case .command(let consumed):
                    start += consumed
                    commands += 1
                    if answered.isClosed, commands == answered.commandCount { reached = start }
                case .ignored(let consumed): start += consumed
                case .needMore: break parsing
                case .failed(let text):
                    failure = text
                    break parsing
                }
            }
        }
        if failure != nil { reached = min(reached, start + 1) }
        // A connection that was closed by a command answers no more of them.
        let isEnded = answered.isClosed && !answered.isProtocolError
        guard
            isEnded ? answered.commandCount <= commands : answered.commandCount == commands && answered.isProtocolError == (failure != nil)
        else {
            throw FuzzFailure(
                description: "\(answered.commandCount) commands in fragments, \(commands) as a whole; failure: \(failure ?? "none")")
        }
        return (ends.firstIndex { $0 >= reached } ?? ends.count - 1) + 1
    }
}

/// Bodies of `POST /get-online-features`: parsed, answered from the store, written as JSON.
package struct HTTPBodyTarget: FuzzTarget {
    let seed: UInt64
    private let store: FuzzStore
    private let reader: OnlineFeatureReader
    private var body: [UInt8] = []

    init(seed: UInt64, store: FuzzStore) throws {
        self.seed = seed
        self.store = store
        reader = OnlineFeatureReader(lookups: try store.makeLookups())
    }

    package mutating func run(_ number: UInt64) throws -> Int {
        var generator = SeededGenerator(seed: SeededGenerator(seed: seed &+ number).next(after: number))
        var traffic = Traffic(
            seed: generator.next(), features: store.features, services: ["checkout_offer"], streams: ["purchases"], events: store.events)
        let count = 16
        for _ in 0..<count {
            body.removeAll(keepingCapacity: true)
            traffic.appendHTTPBody(to: &body)
            let json: [UInt8]
            do throws(HTTPProblem) {
                let request = try OnlineFeaturesRequest(body)
                json = try reader.read(request).json(for: request)
            } catch {
                // What is wrong with a request is the sender's doing.
                guard error.kind.rawValue < 500, !error.error.isEmpty else { throw FuzzFailure(description: "\(error)") }
                continue
            }
            // Foundation's parser takes longer than all the rest.
            guard generator.isOne(in: 16) else { continue }
            guard let answer = try? JSONSerialization.jsonObject(with: Data(json)) as? [String: Any], answer["results"] is [[String: Any]]
            else {
                throw FuzzFailure(description: "an answer that is no JSON: \(String(decoding: json.prefix(1_000), as: UTF8.self))")
            }
        }
        return count
    }
}

extension SeededGenerator {
    fileprivate func next(after number: UInt64) -> UInt64 {
        var copy = self
        return copy.next() ^ number
    }
}
