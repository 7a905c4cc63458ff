import Logging
import NIOCore
import Synchronization

/// Tells a connection that the server stops: what has arrived is still answered, then the connection closes.
struct StopRequested: Sendable {}

/// One connection: parses what arrives, runs the commands in order, and writes all replies to one read at once.
///
/// It stops reading while the client does not take its replies, and while a reply is awaited from another thread, so that the
/// memory of a connection stays bounded by one request, one batch of replies and what one read brings.
final class RESPConnectionHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

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

    private let server: ServerContext
    private let executor: Int
    private var client: Client?
    private var context: ChannelHandlerContext?
    private var parser = RESPParser()
    private var input = ByteBuffer()
    private var writer = RESPWriter()
    private var phase = Phase.serving
    private var isInputClosed = false
    private var isProcessing = false
    /// The number of the awaited reply; nil where none is awaited.
    private var awaitedReply: Int?
    private var repliesAwaited = 0
    private var isReadWanted = false
    private var commandsUncounted = 0

    init(server: ServerContext, executor: Int) {
        self.server = server
        self.executor = executor
    }

    // MARK: The channel's events

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if context.channel.isActive { opened(context) }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        closed()
        self.context = nil
    }

    func channelActive(context: ChannelHandlerContext) {
        opened(context)
        context.fireChannelActive()
    }

    func channelInactive(context: ChannelHandlerContext) {
        closed()
        context.fireChannelInactive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard phase != .closing, client != nil else { return }
        var bytes = unwrapInboundIn(data)
        if input.readableBytes == 0 {
            input = bytes
        } else {
            if input.readerIndex > input.readableBytes { input.discardReadBytes() }
            input.writeBuffer(&bytes)
        }
        process()
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        flush()
        context.fireChannelReadComplete()
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        resume()
        context.fireChannelWritabilityChanged()
    }

    func read(context: ChannelHandlerContext) {
        if isBlocked { isReadWanted = true } else { context.read() }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        switch event {
        case is StopRequested:
            // One more look at the socket, so that a request that is already there is answered.
            let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
            context.eventLoop.scheduleTask(in: .milliseconds(20)) { bound.value.finish() }
        case let event as ChannelEvent where event == .inputClosed:
            isInputClosed = true
            if phase == .closing { context.close(promise: nil) } else { finish() }
        default: context.fireUserInboundEventTriggered(event)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        server.logger.debug("connection closed", metadata: ["client": "\(client?.id ?? 0)", "error": "\(error)"])
        context.close(promise: nil)
    }

    // MARK: Opening and closing

    private func opened(_ context: ChannelHandlerContext) {
        guard client == nil, phase == .serving else { return }
        let configuration = server.configuration
        let client = Client(
            id: server.makeClientID(), address: RESPConnectionHandler.text(context.channel.remoteAddress),
            localAddress: RESPConnectionHandler.text(context.channel.localAddress), executor: executor,
            isAuthenticated: configuration.password == nil)
        writer.buffer = context.channel.allocator.buffer(capacity: 4_096)
        guard server.register(client.record) else {
            writer.error(CommandError("max number of clients reached"))
            phase = .closing
            isInputClosed = true  // Nothing is worth waiting for.
            writeAndClose()
            return
        }
        self.client = client
        parser.limits = client.isAuthenticated ? configuration.limits : .unauthenticated
        if server.isStopping.load(ordering: .relaxed) { finish() }
    }

    private func closed() {
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

    /// Writes what there is and closes. Where the client may still be sending, our direction is closed first and what arrives is
    /// dropped for a second: closing a socket with unread bytes would destroy replies on their way.
    private func writeAndClose() {
        guard let context else { return }
        phase = .closing
        input = ByteBuffer()
        let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
        let isLast = isInputClosed || server.isStopping.load(ordering: .relaxed)
        let written = context.eventLoop.makePromise(of: Void.self)
        written.futureResult.whenComplete { _ in
            guard let context = bound.value.context else { return }
            if isLast || bound.value.isInputClosed {
                context.close(promise: nil)
            } else {
                context.close(mode: .output, promise: nil)
                context.eventLoop.scheduleTask(in: .seconds(1)) { bound.value.context?.close(promise: nil) }
                if bound.value.isReadWanted {
                    bound.value.isReadWanted = false
                    context.read()
                }
            }
        }
        let replies = writer.buffer
        writer.buffer = ByteBuffer()
        context.writeAndFlush(wrapOutboundOut(replies), promise: written)
    }

    // MARK: Commands

    /// Whether commands wait: for the client to take replies, or for a reply.
    private var isBlocked: Bool {
        guard phase != .closing, let context else { return false }
        return awaitedReply != nil || !context.channel.isWritable
    }

    /// Goes on after what blocked has gone.
    private func resume() {
        process()
        flush()
        if isReadWanted, !isBlocked, let context {
            isReadWanted = false
            context.read()
        }
    }

    /// Runs the commands that are complete.
    private func process() {
        // Writing can make the channel writable again and call back into here.
        guard !isProcessing, let client else { return }
        isProcessing = true
        let start = RequestMetrics.now()
        var answered = 0
        defer {
            isProcessing = false
            server.backend.endBatch(executor: executor)
            if answered > 0 {
                server.metrics.observe(nanoseconds: RequestMetrics.now() &- start, count: answered, executor: executor)
            }
        }
        var isDry = false
        while phase != .closing, !isBlocked, !isDry {
            var outcome = CommandOutcome.replied
            let step = input.withUnsafeReadableBytes { bytes in
                let step = parser.parse(bytes)
                if case .command = step {
                    outcome = parser.withArguments(in: bytes) { arguments in
                        server.commands.run(CommandCall(arguments: arguments, client: client, server: server), &writer)
                    }
                }
                return step
            }
            switch step {
            case .command(let consumed):
                input.moveReaderIndex(forwardBy: consumed)
                commandsUncounted += 1
                answered += 1
                handle(outcome)
                let isAuthenticated = client.isAuthenticated
                if parser.limits.isUnauthenticated == isAuthenticated {
                    parser.limits = isAuthenticated ? server.configuration.limits : .unauthenticated
                }
            case .ignored(let consumed): input.moveReaderIndex(forwardBy: consumed)
            case .needMore: isDry = true
            case .failed(let text):
                writer.error(CommandError(text))
                writeAndClose()
            }
            if writer.buffer.readableBytes >= RESPConnectionHandler.repliesBytesMax { flush() }
        }
        if phase == .finishing, isDry { writeAndClose() }
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
            start { result in
                defer { server.repliesAwaited.wrappingSubtract(1, ordering: .releasing) }
                eventLoop.execute { bound.value.replied(number, result) }
            }
        }
    }

    private func replied(_ number: Int, _ result: Result<ReplyValue, CommandError>) {
        // The connection may have closed meanwhile.
        guard awaitedReply == number else { return }
        awaitedReply = nil
        switch result {
        case .success(let value): writer.write(value)
        case .failure(let error): writer.error(error)
        }
        resume()
    }

    private func flush() {
        countCommands()
        guard writer.buffer.readableBytes > 0, let context, phase != .closing else { return }
        // Writing can call back into here (a change of writability), so the replies leave the writer first.
        var replies = ByteBuffer()
        swap(&replies, &writer.buffer)
        context.writeAndFlush(wrapOutboundOut(replies), promise: nil)
        guard writer.buffer.capacity == 0, replies.capacity <= RESPConnectionHandler.keptBytesMax else { return }
        replies.clear()
        writer.buffer = replies
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
