import Logging
import Synchronization

/// What all connections of a server share.
final class ServerContext: Sendable {
    let backend: any FeatureBackend
    let configuration: RESPServer.Configuration
    let logger: Logger
    let commands: CommandTable
    let metrics: RequestMetrics
    let startedAt = ContinuousClock.now
    let port = Atomic<Int>(0)
    let isStopping = Atomic<Bool>(false)
    let commandsProcessed = Atomic<Int>(0)
    let connectionsReceived = Atomic<Int>(0)
    let connectionsRejected = Atomic<Int>(0)
    /// Replies that the backend has promised and not given.
    let repliesAwaited = Atomic<Int>(0)
    private let nextID = Atomic<UInt64>(1)
    private let clients = Mutex<[UInt64: ClientRecord]>([:])

    init(backend: any FeatureBackend, configuration: RESPServer.Configuration, logger: Logger) {
        self.backend = backend
        self.configuration = configuration
        self.logger = logger
        commands = CommandTable()
        metrics = RequestMetrics(protocolName: "resp", commands: commands.countedNames, executors: configuration.threadCount)
    }

    var metricFamilies: [MetricFamily] {
        let label = MetricFamily.labels(["protocol": "resp"])
        return metrics.families() + [
            MetricFamily("weir_connections", .gauge, "Open connections.", [.init(Double(clientCount), label)]),
            MetricFamily(
                "weir_connections_accepted_total", .counter, "Connections since the process started.",
                [.init(Double(connectionsReceived.load(ordering: .relaxed)), label)]),
            MetricFamily(
                "weir_connections_rejected_total", .counter, "Connections that were refused, since there were as many as may be.",
                [.init(Double(connectionsRejected.load(ordering: .relaxed)), label)]),
        ]
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

    var clientCount: Int { clients.withLock { $0.count } }
}
