import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import NIOSSL
import Synchronization

/// Runs tasks on an event loop's thread.
private final class LoopExecutor: TaskExecutor {
    private let eventLoop: any EventLoop

    init(_ eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        eventLoop.execute { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
    }
}

/// An HTTP/1.1 connection whose requests are answered on the thread of its event loop: a request that is handed to another thread and
/// back costs two wake-ups, several times what its lookup does.
struct LoopChannel: ServerChildChannel {
    typealias Value = HTTP1Channel.Value

    private let base: HTTP1Channel
    private let tls: TLSCertificates?
    private let executors: [ObjectIdentifier: LoopExecutor]
    private let connections: HTTPConnections

    /// - Parameter tls: each connection gets the certificate that there is when it opens.
    init(_ base: HTTP1Channel, tls: TLSCertificates?, group: any EventLoopGroup, connections: HTTPConnections) {
        self.base = base
        self.tls = tls
        self.connections = connections
        var executors: [ObjectIdentifier: LoopExecutor] = [:]
        for eventLoop in group.makeIterator() { executors[ObjectIdentifier(eventLoop)] = LoopExecutor(eventLoop) }
        self.executors = executors
    }

    func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<Value> {
        // Answers are one write each: waiting for more to send would only delay them.
        channel.setOption(.tcpOption(.tcp_nodelay), value: 1).flatMapThrowing {
            guard let tls else { return }
            try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: tls.context))
        }.flatMap { base.setup(channel: channel, logger: logger) }
    }

    func handle(value: Value, logger: Logger) async {
        connections.opened()
        await withTaskExecutorPreference(executors[ObjectIdentifier(value.channel.eventLoop)]) {
            await base.handle(value: value, logger: logger)
        }
        connections.closed()
    }
}

/// Counts the connections of the HTTP port.
final class HTTPConnections: Sendable {
    private let openCount = Atomic<Int>(0)
    private let acceptedCount = Atomic<Int>(0)

    func opened() {
        openCount.wrappingAdd(1, ordering: .relaxed)
        acceptedCount.wrappingAdd(1, ordering: .relaxed)
    }

    func closed() { openCount.wrappingSubtract(1, ordering: .relaxed) }

    var open: Int { openCount.load(ordering: .relaxed) }
    var accepted: Int { acceptedCount.load(ordering: .relaxed) }
}
