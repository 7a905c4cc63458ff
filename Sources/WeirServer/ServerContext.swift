import Logging
import NIOCore
import Synchronization

/// What all connections of a server share.
package final class ServerContext: Sendable {
    let backend: any FeatureBackend
    let configuration: RESPServer.Configuration
    let logger: Logger
    let commands: CommandTable
    let metrics: RequestMetrics
    let startedAt = ContinuousClock.now
    let port = Atomic<Int>(0)
    let isStopping = Atomic<Bool>(false)
    package let commandsProcessed = Atomic<Int>(0)
    let connectionsReceived = Atomic<Int>(0)
    let connectionsRejected = Atomic<Int>(0)
    /// Connections that were ended for being idle, slow, or late to say who they are.
    let connectionsCut = Atomic<Int>(0)
    let passwordsRefused = Atomic<Int>(0)
    let commandsDenied = Atomic<Int>(0)
    /// Commands refused because their event loop was too far behind.
    let commandsShed = Atomic<Int>(0)
    let times: Times
    package let loops: [LoopState]
    private let eventLoops: [any EventLoop]
    /// Replies that the backend has promised and not given.
    let repliesAwaited = Atomic<Int>(0)
    private let nextID = Atomic<UInt64>(1)
    private let clients = Mutex<[UInt64: ClientRecord]>([:])

    /// The configuration's times, as event loops count them.
    struct Times: Sendable {
        let idle: TimeAmount?
        let handshake: TimeAmount
        let slowReader: TimeAmount
        let queueDelay: TimeAmount
        let drain: TimeAmount

        init(_ configuration: RESPServer.Configuration) {
            idle = configuration.idleTimeout.map { TimeAmount($0) }
            handshake = TimeAmount(configuration.handshakeTimeout)
            slowReader = TimeAmount(configuration.slowReaderTimeout)
            queueDelay = TimeAmount(configuration.queueDelayMax)
            drain = TimeAmount(configuration.drainTimeout)
        }
    }

    /// - Parameter eventLoops: one for each executor.
    package init(
        backend: any FeatureBackend, configuration: RESPServer.Configuration, eventLoops: [any EventLoop], logger: Logger
    ) {
        self.backend = backend
        self.configuration = configuration
        self.logger = logger
        self.eventLoops = eventLoops
        times = Times(configuration)
        commands = CommandTable()
        metrics = RequestMetrics(protocolName: "resp", commands: commands.countedNames, executors: configuration.threadCount)
        loops = eventLoops.indices.map { LoopState(executor: $0) }
    }

    var metricFamilies: [MetricFamily] {
        let label = MetricFamily.labels(["protocol": "resp"])
        func counter(_ name: String, _ help: String, _ value: Int) -> MetricFamily {
            MetricFamily(name, .counter, help, [.init(Double(value), label)])
        }
        func count(_ value: borrowing Atomic<Int>) -> Int { value.load(ordering: .relaxed) }
        return metrics.families() + [
            MetricFamily("weir_connections", .gauge, "Open connections.", [.init(Double(clientCount), label)]),
            counter("weir_connections_accepted_total", "Connections since the process started.", count(connectionsReceived)),
            counter(
                "weir_connections_rejected_total", "Connections that were refused, since there were as many as may be.",
                count(connectionsRejected)),
            counter(
                "weir_connections_cut_total", "Connections that were ended for being idle, slow, or late to say who they are.",
                count(connectionsCut)),
            counter("weir_commands_shed_total", "Commands that were refused, since they had waited for too long.", count(commandsShed)),
            counter("weir_commands_denied_total", "Commands that the user had no right to.", count(commandsDenied)),
            counter("weir_passwords_refused_total", "Passwords that were wrong.", count(passwordsRefused)),
            counter("weir_received_bytes_total", "Bytes that clients sent.", bytesRead),
            counter("weir_sent_bytes_total", "Bytes of replies.", bytesWritten),
        ]
    }

    var bytesRead: Int { loops.reduce(0) { $0 + $1.bytesRead.load(ordering: .relaxed) } }
    var bytesWritten: Int { loops.reduce(0) { $0 + $1.bytesWritten.load(ordering: .relaxed) } }

    /// Starts the clocks of the event loops: without them nothing is too late.
    func startClocks() {
        for (loop, eventLoop) in zip(loops, eventLoops) { eventLoop.execute { loop.start(on: eventLoop) } }
    }

    /// Closes connections as soon as their event loops get to it.
    func end(_ ids: [UInt64], reason: String) {
        guard !ids.isEmpty else { return }
        for (loop, eventLoop) in zip(loops, eventLoops) {
            eventLoop.execute { for id in ids { loop.handlers[id]?.cut(reason) } }
        }
    }

    /// The users are others: connections of those who are gone or have another password end, the rest have the rights that there are now.
    func usersChanged() {
        for (loop, eventLoop) in zip(loops, eventLoops) {
            eventLoop.execute { for handler in Array(loop.handlers.values) { handler.usersChanged() } }
        }
    }

    func makeClientID() -> UInt64 { nextID.wrappingAdd(1, ordering: .relaxed).oldValue }

    /// Counts a client in; false where there are as many as may be.
    func register(_ client: ClientRecord) -> Bool {
        connectionsReceived.wrappingAdd(1, ordering: .relaxed)
        let isIn = clients.withLock { clients in
            guard clients.count < configuration.connectionCountMax else { return false }
            clients[client.id] = client
            return true
        }
        if !isIn { connectionsRejected.wrappingAdd(1, ordering: .relaxed) }
        return isIn
    }

    /// Shows other connections what changed.
    func update(_ client: ClientRecord) {
        clients.withLock { if $0[client.id] != nil { $0[client.id] = client } }
    }

    func unregister(_ id: UInt64) {
        clients.withLock { _ = $0.removeValue(forKey: id) }
    }

    var clientRecords: [ClientRecord] {
        clients.withLock { Array($0.values) }.sorted { $0.id < $1.id }
    }

    package var clientCount: Int { clients.withLock { $0.count } }
}
