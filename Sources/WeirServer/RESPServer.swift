import Logging
import NIOCore
import NIOPosix
import NIOSSL
import WeirAlgebra

/// Why a server does not start.
package struct ServerError: Error, Hashable, CustomStringConvertible {
    package let description: String

    package init(_ description: String) {
        self.description = description
    }
}

/// Serves a backend over TCP in Redis's protocol, on several event loops.
package final class RESPServer: Sendable {
    package struct Configuration: Sendable {
        package var host = "127.0.0.1"
        /// 0: any free port; `RESPServer.port` tells which.
        package var port = 6_400
        /// Event loops, each a thread. The backend sees them as executors 0 to `threadCount` − 1.
        package var threadCount = 2
        package var connectionCountMax = Limits.connectionsMax
        package var authenticator = Authenticator()
        /// nil: clients speak plain RESP.
        package var tls: TLSCertificates?
        package var limits = RESPLimits()
        /// Seconds after which a connection that sends nothing is closed; nil: never, as in Redis.
        package var idleTimeout: Duration?
        /// How long a client may take to be known: its TLS handshake and its password.
        package var handshakeTimeout = Duration.seconds(Limits.handshakeSecondsMax)
        /// How long a client may leave replies untaken before it is cut.
        package var slowReaderTimeout = Duration.seconds(Limits.slowReaderSecondsMax)
        /// Bytes of replies that may wait for one client; more come only of a single reply that is larger than the mark at which
        /// the server stops reading.
        package var outputBytesMax = Limits.outputBytesMax
        /// How long commands may wait for their event loop; those that waited longer are refused.
        package var queueDelayMax = Duration.milliseconds(Limits.queueDelayMillisecondsMax)
        /// How long what arrives is still answered after `stop` began.
        package var drainTimeout = Duration.seconds(2)
        /// Shown by `HELLO` and `INFO`.
        package var version = "0.1.0"

        package init() {}
    }

    private let group: MultiThreadedEventLoopGroup
    private let listener: any Channel
    private let context: ServerContext
    private let connections: Connections

    /// The port that is listened on.
    package let port: Int

    private init(
        group: MultiThreadedEventLoopGroup, listener: any Channel, context: ServerContext, connections: Connections, port: Int
    ) {
        self.group = group
        self.listener = listener
        self.context = context
        self.connections = connections
        self.port = port
    }

    /// Binds and starts to accept connections.
    ///
    /// - Parameter handedOver: what an earlier program of this process left: goes on with its sockets instead of binding.
    package static func start(
        _ configuration: Configuration, backend: any FeatureBackend, logger: Logger, handedOver: HandedOverPort? = nil
    ) async throws(ServerError) -> RESPServer {
        guard configuration.threadCount > 0 else { throw ServerError("the server needs at least one thread") }
        guard (0...65_535).contains(configuration.port) else {
            throw ServerError("there is no port \(configuration.port); ports are 1 to 65535, and 0 for any free one")
        }
        let group = MultiThreadedEventLoopGroup(numberOfThreads: configuration.threadCount)
        let eventLoops = Array(group.makeIterator())
        let context = ServerContext(backend: backend, configuration: configuration, eventLoops: eventLoops, logger: logger)
        var states: [ObjectIdentifier: LoopState] = [:]
        for (eventLoop, state) in zip(eventLoops, context.loops) { states[ObjectIdentifier(eventLoop)] = state }
        let loops = states
        context.startClocks()
        let connections = Connections()
        @Sendable func initialize(_ channel: any Channel, _ handedOver: HandedOverPort.Connection?) -> EventLoopFuture<Void> {
            channel.eventLoop.makeCompletedFuture {
                if let tls = configuration.tls {
                    try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: tls.context))
                }
                guard let loop = loops[ObjectIdentifier(channel.eventLoop)] else { return }
                try channel.pipeline.syncOperations.addHandler(RESPConnectionHandler(server: context, loop: loop, handedOver: handedOver))
                connections.add(channel)
            }
        }
        let bootstrap = ServerBootstrap(group: group)
            .serverChannelInitializer { channel in
                // Where the process has no file descriptors left, connections wait instead of costing all of the loop's time.
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(AcceptBackoffHandler())
                }
            }
            .serverChannelOption(.backlog, value: 511)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.socketOption(.so_keepalive), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelOption(.writeBufferWaterMark, value: .init(low: 256 << 10, high: 1 << 20))
            .childChannelInitializer { initialize($0, nil) }
        do {
            let listener: any Channel
            if let handedOver {
                // Before others are accepted: who waited longest goes first.
                for connection in handedOver.connections {
                    _ = try? await ClientBootstrap(group: group)
                        .channelOption(.allowRemoteHalfClosure, value: true)
                        .channelOption(.writeBufferWaterMark, value: .init(low: 256 << 10, high: 1 << 20))
                        .channelInitializer { initialize($0, connection) }
                        .withConnectedSocket(connection.descriptor).get()
                }
                listener = try await bootstrap.withBoundSocket(handedOver.listener).get()
            } else {
                listener = try await bootstrap.bind(host: configuration.host, port: configuration.port).get()
            }
            let port = listener.localAddress?.port ?? configuration.port
            context.port.store(port, ordering: .relaxed)
            return RESPServer(group: group, listener: listener, context: context, connections: connections, port: port)
        } catch {
            try? await group.shutdownGracefully()
            throw ServerError(bindFailure(configuration.host, configuration.port, error))
        }
    }

    /// Stops accepting, answers what has arrived, closes all connections. Connections that are not done after `limit` are cut.
    package func stop(limit: Duration = .seconds(10)) async {
        context.isStopping.store(true, ordering: .relaxed)
        // Connections that wait to be accepted may have sent something, too: they would be reset.
        try? await Task.sleep(for: .milliseconds(20))
        try? await listener.close().get()
        for channel in connections.open { channel.pipeline.fireUserInboundEventTriggered(StopRequested()) }
        let deadline = ContinuousClock.now + limit
        func isBusy() -> Bool { !connections.open.isEmpty || context.repliesAwaited.load(ordering: .acquiring) > 0 }
        while isBusy(), ContinuousClock.now < deadline { try? await Task.sleep(for: .milliseconds(5)) }
        for channel in connections.open { channel.close(promise: nil) }
        // A reply that still comes must find its event loop.
        guard context.repliesAwaited.load(ordering: .acquiring) == 0 else { return }
        try? await group.shutdownGracefully()
    }

    /// Stops, and leaves the port to the program that this process becomes: every connection answers what has arrived, then its socket is
    /// kept. Closed as by `stop` are those over TLS, whose keys are this program's, and those that are busy for longer than `limit`.
    ///
    /// - Returns: nil where the port cannot be kept; it is closed then.
    package func handOver(limit: Duration = .seconds(2)) async -> HandedOverPort? {
        let listener = listener
        let kept = try? await listener.eventLoop.submit { keptDescriptor(of: listener) }.get()
        guard let descriptor = kept, context.configuration.tls == nil else {
            await stop()
            return nil
        }
        try? await listener.close().get()
        let collector = ConnectionCollector()
        let deadline = ContinuousClock.now + limit
        // Again and again, since some may have been accepted just before.
        while !connections.open.isEmpty, ContinuousClock.now < deadline {
            for channel in connections.open { channel.pipeline.fireUserInboundEventTriggered(HandOverRequested(collector: collector)) }
            try? await Task.sleep(for: .milliseconds(2))
        }
        // Who does not take replies, or waits for one for so long, is cut: all others wait for them.
        await stop(limit: .milliseconds(200))
        return HandedOverPort(listener: descriptor, connections: collector.connections)
    }

    /// Requests, latencies and connections.
    package var metricFamilies: [MetricFamily] { context.metricFamilies }

    /// To be called when the authenticator has other users.
    package func usersChanged() { context.usersChanged() }

    /// How many connections are open.
    package var connectionCount: Int { context.clientCount }
}

/// Whether an address to bind to is reached by this machine's own processes alone; false for one that is not known.
package func isLoopback(_ host: String) -> Bool {
    guard let address = try? SocketAddress.makeAddressResolvingHost(host, port: 0) else { return false }
    guard let ip = address.ipAddress else { return false }
    return ip.hasPrefix("127.") || ip == "::1"
}

/// What to say where a port cannot be listened on.
func bindFailure(_ host: String, _ port: Int, _ error: any Error) -> String {
    let reason = (error as? IOError).map { String(describing: $0) } ?? String(describing: error)
    let address = "cannot listen on \(host):\(port): "
    guard let code = (error as? IOError)?.errnoCode else { return address + reason }
    switch code {
    case 98, 48: return address + "the port is in use by another process; choose another port"
    case 13: return address + "not permitted; ports below 1024 need privileges, choose another port"
    case 99, 49: return address + "this machine has no such address; use 127.0.0.1, or 0.0.0.0 for all of its addresses"
    default: return address + reason
    }
}
