import FoundationEssentials
import Logging
import NIOCore
import NIOTLS
import Synchronization

/// Tells a connection that the server stops: what has arrived is still answered, then the connection closes.
struct StopRequested: Sendable {}

/// One connection: parses what arrives, runs the commands in order, and writes all replies to one read at once.
///
/// It stops reading while the client does not take its replies, and while a reply is awaited from another thread, so that the
/// memory of a connection stays bounded by one request, one batch of replies and what one read brings.
package final class RESPConnectionHandler: ChannelDuplexHandler {
    package typealias InboundIn = ByteBuffer
    package typealias OutboundIn = ByteBuffer
    package typealias OutboundOut = ByteBuffer

    private enum Phase {
        case serving
        /// What has arrived is answered, then the connection closes.
        case finishing
        /// The last reply is written; what still arrives is dropped.
        case closing
    }

    /// Replies are handed to the channel when they are this many bytes, also in the middle of a read.
    private static let repliesBytesMax = 256 << 10
    /// Buffers that grew beyond this are not kept for the next request.
    private static let keptBytesMax = 1 << 20
    /// Commands after which the loop's clock is looked at again.
    private static let commandsPerLook = 64
    /// A client from which nothing came for so long has sent what it had to.
    private static let quiet = TimeAmount.milliseconds(20)
    /// How long a client may go on sending after the last reply.
    private static let linger = TimeAmount.seconds(1)
    private static let stoppingLinger = TimeAmount.seconds(4)
    /// How long the last replies may take to be taken.
    private static let closingMax = TimeAmount.seconds(10)

    private let server: ServerContext
    private let loop: LoopState
    private var id: UInt64 = 0
    private var client: Client?
    private var context: ChannelHandlerContext?
    @exclusivity(unchecked) private var parser = RESPParser()
    @exclusivity(unchecked) private var input = ByteBuffer()
    @exclusivity(unchecked) private var writer = RESPWriter()
    private var phase = Phase.serving
    private var isInputClosed = false
    private var isProcessing = false
    /// The number of the awaited reply; nil where none is awaited.
    private var awaitedReply: Int?
    private var repliesAwaited = 0
    private var isReadWanted = false
    private var commandsUncounted = 0
    private var openedAt = NIODeadline.now()
    private var isEncrypted: Bool
    /// Since when the client does not take its replies; nil where it does.
    private var unwritableSince: NIODeadline?
    /// Since when nothing but the end is awaited.
    private var closingSince: NIODeadline?
    /// When the server began to stop, and when the connection last had something to do then.
    private var stoppingSince: NIODeadline?
    private var busyAt = NIODeadline.distantPast
    /// What an earlier program of this process knew of the connection.
    private let handedOver: HandedOverPort.Connection?
    /// Who takes the connection's socket as soon as it is between two commands; nil while nobody does.
    private var collector: ConnectionCollector?

    package init(server: ServerContext, loop: LoopState, handedOver: HandedOverPort.Connection? = nil) {
        self.server = server
        self.loop = loop
        self.handedOver = handedOver
        isEncrypted = server.configuration.tls == nil
    }

    // MARK: The channel's events

    package func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if context.channel.isActive { opened(context) }
    }

    package func handlerRemoved(context: ChannelHandlerContext) {
        closed()
        self.context = nil
    }

    package func channelActive(context: ChannelHandlerContext) {
        opened(context)
        context.fireChannelActive()
    }

    package func channelInactive(context: ChannelHandlerContext) {
        closed()
        context.fireChannelInactive()
    }

    package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard let client else { return }
        let now = NIODeadline.now()
        client.lastRead.time = now
        guard phase != .closing else { return }
        var bytes = unwrapInboundIn(data)
        loop.bytesRead.wrappingAdd(bytes.readableBytes, ordering: .relaxed)
        if input.readableBytes == 0 {
            input = bytes
        } else {
            if input.readerIndex > input.readableBytes { input.discardReadBytes() }
            input.writeBuffer(&bytes)
        }
        process(now)
    }

    package func channelReadComplete(context: ChannelHandlerContext) {
        if writer.buffer.readableBytes > 0 { loop.writeLater(self) }
        context.fireChannelReadComplete()
    }

    /// The loop has read from all connections.
    func writeReplies() { flush() }

    package func channelWritabilityChanged(context: ChannelHandlerContext) {
        unwritableSince = context.channel.isWritable ? nil : .now()
        resume()
        context.fireChannelWritabilityChanged()
    }

    package func read(context: ChannelHandlerContext) {
        if isBlocked { isReadWanted = true } else { context.read() }
    }

    package func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        switch event {
        case is StopRequested:
            stoppingSince = .now()
            drain()
        case let event as HandOverRequested:
            if collector != nil { return }
            collector = event.collector
            handOver()
        case is TLSUserEvent: isEncrypted = true
        case let event as ChannelEvent where event == .inputClosed:
            isInputClosed = true
            if client == nil { return context.close(promise: nil) }
            if phase == .closing { context.close(promise: nil) } else { finish() }
        default: context.fireUserInboundEventTriggered(event)
        }
    }

    package func errorCaught(context: ChannelHandlerContext, error: any Error) {
        server.logger.debug("connection closed", metadata: ["client": "\(client?.id ?? 0)", "error": "\(error)"])
        context.close(promise: nil)
    }

    // MARK: Opening and closing

    private func opened(_ context: ChannelHandlerContext) {
        guard client == nil, phase == .serving else { return }
        let configuration = server.configuration
        let client = Client(
            id: server.makeClientID(), address: RESPConnectionHandler.text(context.channel.remoteAddress),
            localAddress: RESPConnectionHandler.text(context.channel.localAddress), loop: loop,
            account: configuration.authenticator.anonymous)
        id = client.id
        loop.handlers[id] = self
        writer.buffer = context.channel.allocator.buffer(capacity: 4_096)
        guard server.register(client.record) else {
            writer.error(CommandError("max number of clients reached"))
            writeAndClose()
            return
        }
        self.client = client
        if let handedOver { take(handedOver, client) }
        parser.limits = client.isAuthenticated ? configuration.limits : .unauthenticated
        if server.isStopping.load(ordering: .relaxed) {
            stoppingSince = .now()
            drain()
        }
    }

    private func closed() {
        loop.handlers[id] = nil
        guard let client else { return }
        server.unregister(client.id)
        self.client = nil
        phase = .closing
        awaitedReply = nil
        input = ByteBuffer()
        countCommands()
    }

    private static func text(_ address: SocketAddress?) -> String {
        guard let address, let host = address.ipAddress, let port = address.port else { return "?:0" }
        return host.utf8.contains(UInt8(ascii: ":")) ? "[\(host)]:\(port)" : "\(host):\(port)"
    }

    private func finish() {
        guard phase == .serving else { return }
        phase = .finishing
        resume()
    }

    /// While the server stops: answers what arrives until nothing does for a moment, at most for the drain timeout; then closes, between
    /// two commands.
    private func drain() {
        guard let context, let client, let stoppingSince, phase != .closing else { return }
        let now = NIODeadline.now()
        // What blocked may have kept bytes from being read.
        if isBlocked { busyAt = now }
        let isQuiet = now - max(client.lastRead.time, busyAt, stoppingSince) >= RESPConnectionHandler.quiet && !isBlocked
        if isQuiet || now - stoppingSince >= server.times.drain {
            flush()
            return writeAndClose()
        }
        let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
        context.eventLoop.scheduleTask(in: RESPConnectionHandler.quiet) { bound.value.drain() }
    }

    /// Writes what there is and closes. Where the client may still be sending, our direction is closed first and what arrives is
    /// dropped for a while: closing a socket with unread bytes would destroy replies on their way.
    private func writeAndClose() {
        guard let context, closingSince == nil else { return }
        phase = .closing
        closingSince = .now()
        input = ByteBuffer()
        let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
        let written = context.eventLoop.makePromise(of: Void.self)
        written.futureResult.whenComplete { _ in
            guard let context = bound.value.context else { return }
            if bound.value.isInputClosed { return context.close(promise: nil) }
            let halfClosed = context.eventLoop.makePromise(of: Void.self)
            halfClosed.futureResult.whenFailure { _ in bound.value.context?.close(promise: nil) }
            context.close(mode: .output, promise: halfClosed)
            // A client that stays is left; when the server stops only as long as it goes on sending.
            if bound.value.stoppingSince != nil {
                bound.value.closeWhenQuiet()
            } else {
                context.eventLoop.scheduleTask(in: RESPConnectionHandler.linger) { bound.value.context?.close(promise: nil) }
            }
            bound.value.isReadWanted = false
            context.read()
        }
        let replies = writer.buffer
        writer.buffer = ByteBuffer()
        loop.bytesWritten.wrappingAdd(replies.readableBytes, ordering: .relaxed)
        context.writeAndFlush(wrapOutboundOut(replies), promise: written)
    }

    private func closeWhenQuiet() {
        guard let context, let closingSince else { return }
        let now = NIODeadline.now()
        let isQuiet = client.map { now - $0.lastRead.time >= RESPConnectionHandler.quiet } ?? true
        if isQuiet || now - closingSince >= RESPConnectionHandler.stoppingLinger { return context.close(promise: nil) }
        let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
        context.eventLoop.scheduleTask(in: RESPConnectionHandler.quiet) { bound.value.closeWhenQuiet() }
    }

    // MARK: From one program to the next

    /// Lets go of the socket for the program that the process becomes, once everything that has arrived is answered and the answers are
    /// sent. What is still to be read waits in the socket.
    private func handOver() {
        guard let collector, let context, client != nil, phase == .serving, !isBlocked, !isInputClosed, !isProcessing else { return }
        flush()
        let sent = context.eventLoop.makePromise(of: Void.self)
        let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
        sent.futureResult.whenSuccess { _ in
            let handler = bound.value
            // Meanwhile more may have come, whose answers are still to be sent.
            guard handler.phase == .serving, !handler.isBlocked, handler.writer.buffer.readableBytes == 0, let context = handler.context,
                let client = handler.client
            else { return handler.handOver() }
            if let descriptor = keptDescriptor(of: context.channel) {
                collector.take(
                    HandedOverPort.Connection(
                        descriptor: descriptor, version: client.version.rawValue, name: client.name, libraryName: client.libraryName,
                        libraryVersion: client.libraryVersion, user: client.account?.user.name,
                        unread: Data(handler.input.readableBytesView)))
            }
            handler.phase = .closing
            context.close(promise: nil)
        }
        context.writeAndFlush(wrapOutboundOut(ByteBuffer()), promise: sent)
    }

    /// Goes on with what the earlier program knew.
    private func take(_ handedOver: HandedOverPort.Connection, _ client: Client) {
        client.version = RESPVersion(rawValue: handedOver.version) ?? .resp2
        writer.version = client.version
        client.name = handedOver.name
        client.libraryName = handedOver.libraryName
        client.libraryVersion = handedOver.libraryVersion
        // One that is gone, or whose password changed with the program, has to be given again.
        client.account = handedOver.user.flatMap { server.configuration.authenticator.account(named: $0) }
        server.update(client.record)
        input.writeBytes(handedOver.unread)
    }

    // MARK: What is cut

    /// Closes at once, between two commands: replies that the client has not taken are lost.
    func cut(_ reason: String) {
        guard let context else { return }
        // Never what the client sent: that may name people.
        server.logger.notice("closed a connection: \(reason)", metadata: ["client": "\(id)", "address": "\(client?.address ?? "")"])
        phase = .closing
        context.close(promise: nil)
    }

    /// Looks at what may not take longer; called by the loop's clock.
    func checkTimes(_ now: NIODeadline) {
        let times = server.times
        if let closingSince {
            if now - closingSince > RESPConnectionHandler.closingMax { context?.close(promise: nil) }
        } else if let client, phase != .closing {
            if !isEncrypted || !client.isAuthenticated, now - openedAt > times.handshake {
                cutForTime(isEncrypted ? "it gave no password in time" : "it did not finish its TLS handshake in time")
            } else if let unwritableSince, now - unwritableSince > times.slowReader {
                cutForTime("it did not take its replies in time")
            } else if let idle = times.idle, now - client.lastRead.time > idle, awaitedReply == nil, unwritableSince == nil {
                cutForTime("it was idle")
            }
        }
    }

    private func cutForTime(_ reason: String) {
        server.connectionsCut.wrappingAdd(1, ordering: .relaxed)
        cut(reason)
    }

    /// The server has other users.
    func usersChanged() {
        guard let client, let account = client.account else { return }
        guard let now = server.configuration.authenticator.current(account) else {
            return cut("its user is gone or has another password")
        }
        client.account = now
        server.update(client.record)
    }

    // MARK: Commands

    /// Whether commands wait: for the client to take replies, or for a reply.
    private var isBlocked: Bool {
        guard phase != .closing, let context else { return false }
        return awaitedReply != nil || !context.channel.isWritable
    }

    /// Goes on after what blocked has gone.
    private func resume() {
        let now = NIODeadline.now()
        busyAt = now
        process(now)
        flush()
        if collector != nil { handOver() }
        if isReadWanted, !isBlocked, let context {
            isReadWanted = false
            context.read()
        }
    }

    /// Runs the commands that are complete.
    private func process(_ now: NIODeadline) {
        // Writing can make the channel writable again and call back into here.
        guard !isProcessing, let client else { return }
        isProcessing = true
        if let context { loop.beginRound(on: context.eventLoop, server.backend) }
        let start = now.uptimeNanoseconds
        var answered = 0
        defer {
            isProcessing = false
            if answered > 0 {
                server.metrics.observe(nanoseconds: RequestMetrics.now() &- start, count: answered, executor: loop.executor)
            }
        }
        var isDry = false
        var isOverloaded = self.isOverloaded(now)
        while phase != .closing, !isBlocked, !isDry {
            var outcome = CommandOutcome.replied
            let step = input.withUnsafeReadableBytes { bytes in
                let step = parser.parse(bytes)
                if case .command = step {
                    outcome = parser.withArguments(in: bytes) { arguments in
                        server.commands.run(
                            CommandCall(arguments: arguments, client: client, server: server, isOverloaded: isOverloaded), &writer)
                    }
                }
                return step
            }
            switch step {
            case .command(let consumed):
                input.moveReaderIndex(forwardBy: consumed)
                commandsUncounted += 1
                answered += 1
                if commandsUncounted % RESPConnectionHandler.commandsPerLook == 0 { isOverloaded = self.isOverloaded(.now()) }
                handle(outcome)
                adoptLimits(client)
            case .ignored(let consumed): input.moveReaderIndex(forwardBy: consumed)
            case .needMore: isDry = true
            case .failed(let text):
                writer.error(CommandError(text))
                writeAndClose()
            }
            if writer.buffer.readableBytes >= RESPConnectionHandler.repliesBytesMax { flush() }
        }
        // It may have been blocked in the middle of what it has read.
        if collector != nil, isDry {
            let bound = context.map { NIOLoopBound(self, eventLoop: $0.eventLoop) }
            context?.eventLoop.execute { bound?.value.handOver() }
        }
        if phase == .finishing, isDry, isInputClosed { writeAndClose() }
        if input.readableBytes == 0 { input = ByteBuffer() }
    }

    private func handle(_ outcome: CommandOutcome) {
        switch outcome {
        case .replied: break
        case .close: writeAndClose()
        case .replyLater(let start):
            guard let context else { return }
            repliesAwaited += 1
            let number = repliesAwaited
            awaitedReply = number
            let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
            let eventLoop = context.eventLoop
            let server = server
            server.repliesAwaited.wrappingAdd(1, ordering: .relaxed)
            start { reply in
                defer { server.repliesAwaited.wrappingSubtract(1, ordering: .releasing) }
                eventLoop.execute { bound.value.replied(number, reply) }
            }
        }
    }

    private func replied(_ number: Int, _ reply: LateReply) {
        // The connection may have closed meanwhile.
        guard awaitedReply == number, let client else { return }
        awaitedReply = nil
        let start = writer.buffer.writerIndex
        do throws(CommandError) {
            try reply(CommandCaller(client: client, server: server), &writer)
        } catch {
            writer.buffer.moveWriterIndex(to: start)
            writer.error(error)
        }
        adoptLimits(client)
        resume()
    }

    /// What a client may send depends on whether it is known.
    private func adoptLimits(_ client: Client) {
        let isAuthenticated = client.isAuthenticated
        if parser.limits.isUnauthenticated == isAuthenticated {
            parser.limits = isAuthenticated ? server.configuration.limits : .unauthenticated
        }
    }

    /// Whether what arrives now has waited too long for the event loop to do more than say so.
    private func isOverloaded(_ now: NIODeadline) -> Bool { loop.delay(at: now) > server.times.queueDelay }

    private func flush() {
        countCommands()
        guard writer.buffer.readableBytes > 0, let context, phase != .closing else { return }
        // Writing can call back into here (a change of writability), so the replies leave the writer first.
        var replies = ByteBuffer()
        swap(&replies, &writer.buffer)
        loop.bytesWritten.wrappingAdd(replies.readableBytes, ordering: .relaxed)
        context.writeAndFlush(wrapOutboundOut(replies), promise: nil)
        if !context.channel.isWritable, isOutputTooLarge(context) { return cutForTime("too many bytes of replies wait for it") }
        guard writer.buffer.capacity == 0, replies.capacity <= RESPConnectionHandler.keptBytesMax else { return }
        replies.clear()
        writer.buffer = replies
    }

    private func isOutputTooLarge(_ context: ChannelHandlerContext) -> Bool {
        guard let waiting = try? context.channel.syncOptions?.getOption(.bufferedWritableBytes) else { return false }
        return waiting > server.configuration.outputBytesMax
    }

    private func countCommands() {
        guard commandsUncounted > 0 else { return }
        server.commandsProcessed.wrappingAdd(commandsUncounted, ordering: .relaxed)
        commandsUncounted = 0
    }
}

/// True from the first call of `set` on.
final class AtomicFlag: Sendable {
    private let value = Atomic<Bool>(false)

    /// Whether this call was the first.
    func set() -> Bool { !value.exchange(true, ordering: .relaxed) }
}
