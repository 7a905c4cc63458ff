import ArgumentParser
import Foundation
import Logging
import Synchronization
import WeirAlgebra
import WeirDefinitions
import WeirHistory
import WeirLookup
import WeirOnlineStore
import WeirPipeline
import WeirRecords
import WeirServer
import WeirSources
import WeirTraining

func wallClockNow() -> Int64 { wallClock() }

#if canImport(Glibc)
    private let openFiles = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
#else
    private let openFiles = RLIMIT_NOFILE
#endif

struct ServerOptions: ParsableArguments {
    @Option(help: "The lookups' port (Redis protocol); 0 takes a free one.") var port: Int = Environment.int("port") ?? 6_400
    @Option(help: "The HTTP port; 0 takes a free one.") var http: Int = Environment.int("http") ?? 6_480
    @Option(help: ArgumentHelp("The address that both ports bind to.", valueName: "address")) var bind: String =
        Environment.string("bind") ?? "127.0.0.1"
    @Option(help: "What now is: the wall clock, or just after the latest event (for replays and demos).")
    var clock: ClockKind = ClockKind(rawValue: Environment.string("clock") ?? "") ?? .wall
    @Option(help: ArgumentHelp("How long a session that the server holds lives after its last event.", valueName: "seconds"))
    var sessionTtl: Int = Environment.int("session-ttl") ?? 1_800
    @Option(help: ArgumentHelp("Threads that answer lookups.", valueName: "count"))
    var threads: Int = Environment.int("threads") ?? 2
    @OptionGroup var security: SecurityOptions

    @Option(help: ArgumentHelp("How many events the stores may be behind their sources while /readyz says ready.", valueName: "events"))
    var readyLag: Int = Environment.int("ready-lag") ?? 100_000

    func validate() throws {
        for port in [port, http] where !(0...65_535).contains(port) { throw ValidationError("there is no port \(port)") }
        if !(1...256).contains(threads) { throw ValidationError("--threads must be between 1 and 256") }
        if readyLag < 0 { throw ValidationError("--ready-lag must not be negative") }
        if sessionTtl <= 0 { throw ValidationError("--session-ttl must be positive") }
    }
}

/// Both ports, and the signals that end the process.
final class Service: Sendable {
    private let failure = Mutex<(any Error)?>(nil)

    /// Must be called before any other thread is started, so that the signals reach `waitForSignal` alone.
    static func blockSignals() {
        signal(SIGPIPE, SIG_IGN)
        var signals = sigset_t()
        sigemptyset(&signals)
        sigaddset(&signals, SIGTERM)
        sigaddset(&signals, SIGINT)
        sigaddset(&signals, SIGHUP)
        pthread_sigmask(SIG_BLOCK, &signals, nil)
    }

    /// Ends the process's waiting with an error.
    func fail(_ error: any Error) {
        failure.withLock { if $0 == nil { $0 = error } }
        kill(getpid(), SIGTERM)
    }

    /// How serving ended.
    enum End {
        case stopped
        /// The process is to become the program that the request names.
        case handedOver(HandoverRequest, port: HandedOverPort?, httpPort: Int)
    }

    /// What to do when another program is to take the process over.
    struct HandoverOptions: Sendable {
        /// Where requests for that are found.
        var directory: DataDirectory
        /// What the earlier program of this process left.
        var taken: Handover?
        /// Is called once, while lookups are still answered: stops what takes its time and is not needed for answers.
        var prepare: @Sendable () throws -> Void
    }

    /// Starts both ports, says so, and serves until a signal comes, or a request to hand over.
    ///
    /// - Parameters:
    ///   - isCurrent: for who only reads: whether the store that was opened is still the one in use; ends with an error where it is not.
    ///   - metrics: what `/metrics` tells besides.
    func serve(
        _ backend: ServerBackend, _ monitor: StoreMonitor, _ options: ServerOptions, handover: HandoverOptions? = nil,
        isCurrent: @escaping @Sendable () -> Bool = { true }, metrics: @escaping @Sendable () -> [MetricFamily] = { [] }
    ) throws -> End {
        let logger = Logger(label: "weir") { StreamLogHandler.standardError(label: $0) }
        // Hummingbird gives each request a logger with metadata of its own, which other handlers put into words at once.
        let httpLogger = Logger(label: "weir.http") { _ in SwiftLogNoOpLogHandler() }
        var configuration = RESPServer.Configuration()
        configuration.threadCount = options.threads
        configuration.host = options.bind
        configuration.port = options.port
        let security = try Security(options.security, bind: options.bind, logger: logger)
        configuration.authenticator = security.authenticator
        configuration.tls = security.tls
        configuration.connectionCountMax = min(options.security.connections, connectionsThatFit())
        configuration.idleTimeout = options.security.idleTimeout > 0 ? .seconds(options.security.idleTimeout) : nil
        configuration.queueDelayMax = .milliseconds(options.security.queueDelay)
        let settings = configuration
        let port = handover?.taken?.port
        let resp = try waiting { try await RESPServer.start(settings, backend: backend, logger: logger, handedOver: port) }
        let http: HTTPServer
        do {
            http = try waiting {
                var configuration = HTTPServer.Configuration()
                configuration.host = options.bind
                configuration.port = handover?.taken?.httpPort ?? options.http
                configuration.authenticator = security.authenticator
                configuration.tls = security.tls
                return try await HTTPServer.start(
                    configuration,
                    backend: HTTPService(
                        features: OnlineFeatureReader(lookups: backend.lookups, requestLogger: backend.requestLogger), monitor: monitor,
                        catalogDescription: backend.lookups.catalog.description, resp: resp, process: ProcessMetrics(),
                        version: settings.version, others: metrics, failure: { self.failure.withLock { $0 } }),
                    logger: httpLogger)
            }
        } catch {
            try waiting { await resp.stop() }
            throw error
        }
        print("ready: lookups on \(options.bind):\(resp.port), HTTP on \(options.bind):\(http.port)")
        fflush(nil)
        let usersChanged: @Sendable () -> Void = { resp.usersChanged() }
        security.watch(usersChanged: usersChanged)
        // Where it was refused, who asked is still to read that.
        if let handover, handover.taken != nil, (try? HandoverRequest.read(from: handover.directory))?.refusal == nil {
            HandoverRequest.remove(from: handover.directory)
        }
        while true {
            let event = waitForEvent(handover?.directory, isCurrent, logger)
            switch event {
            // Where there is nothing to read again, the end of the terminal is the end.
            case .signal(SIGHUP) where security.hasFiles: security.reload(usersChanged: usersChanged)
            case .signal, .storeReplaced:
                try waiting {
                    await resp.stop()
                    await http.stop()
                }
                if case .storeReplaced = event {
                    throw CommandFailure(
                        "another online store has taken the place of this one (`weir apply` or `weir rebuild`); start again")
                }
                return .stopped
            case .request(let request):
                logger.notice("handing over to \(request.executable)")
                try handover?.prepare()
                let port = try waiting {
                    let port = await resp.handOver()
                    await http.stop()
                    return port
                }
                return .handedOver(request, port: port, httpPort: http.port)
            }
        }
    }

    func throwFailure() throws {
        if let error = failure.withLock({ $0 }) { throw error }
    }

    private enum Event {
        case signal(Int32)
        case request(HandoverRequest)
        case storeReplaced
    }

    private static let nanosecondsBetweenLooks = 200_000_000

    /// - Parameter directory: where requests to hand over are looked for; nil for nowhere.
    private func waitForEvent(_ directory: DataDirectory?, _ isCurrent: () -> Bool, _ logger: Logger) -> Event {
        var signals = sigset_t()
        sigemptyset(&signals)
        sigaddset(&signals, SIGTERM)
        sigaddset(&signals, SIGINT)
        sigaddset(&signals, SIGHUP)
        var isRefused = false
        while true {
            var time = timespec(tv_sec: 0, tv_nsec: Self.nanosecondsBetweenLooks)
            let signal = sigtimedwait(&signals, nil, &time)
            if signal > 0 { return .signal(signal) }
            if !isCurrent() { return .storeReplaced }
            guard let directory else { continue }
            do {
                guard let request = try HandoverRequest.read(from: directory), request.refusal == nil else {
                    isRefused = false
                    continue
                }
                guard access(request.executable, X_OK) == 0 else {
                    let refusal = "\(request.executable) cannot be run: \(String(cString: strerror(errno)))"
                    try HandoverRequest(executable: request.executable, refusal: refusal).write(to: directory)
                    continue
                }
                return .request(request)
            } catch {
                // Said once.
                if !isRefused { logger.warning("\(error)") }
                isRefused = true
            }
        }
    }

    /// Raises the limit of open files as far as the system lets us, and says how many connections that leaves room for.
    private func connectionsThatFit() -> Int {
        // The stores, Kafka, and the HTTP port.
        let others = 512 + Limits.httpConnectionsMax
        var limit = rlimit()
        guard getrlimit(openFiles, &limit) == 0 else { return .max }
        limit.rlim_cur = limit.rlim_max
        _ = setrlimit(openFiles, &limit)
        guard getrlimit(openFiles, &limit) == 0, limit.rlim_cur < rlim_t(Int.max) else { return .max }
        return max(Int(limit.rlim_cur) / 2, Int(limit.rlim_cur) - others)
    }

    /// Runs asynchronous work from the main thread, which has nothing else to do.
    private func waiting<R: Sendable>(_ body: @escaping @Sendable () async throws -> R) throws -> R {
        let result = Mutex<Result<R, any Error>?>(nil)
        let done = DispatchSemaphore(value: 0)
        let box = ResultBox(result: result)
        Task {
            do { box.set(.success(try await body())) } catch { box.set(.failure(error)) }
            done.signal()
        }
        done.wait()
        return try box.get()
    }
}

private final class ResultBox<R: Sendable>: Sendable {
    private let result: Mutex<Result<R, any Error>?>
    init(result: consuming Mutex<Result<R, any Error>?>) { self.result = result }
    func set(_ value: Result<R, any Error>) { result.withLock { $0 = value } }
    func get() throws -> R { try result.withLock { $0! }.get() }
}

struct ServeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Answer lookups only, beside a process that writes to the same directory.")

    @OptionGroup var data: DataOption
    @OptionGroup var server: ServerOptions
    @Option(help: .hidden) var logRequests: Double?

    func validate() throws {
        if logRequests != nil { throw ValidationError("`weir serve` only reads; served requests are logged by `weir run --log-requests`") }
    }

    func run() throws {
        Service.blockSignals()
        let service = Service()
        try data.directory.checkExists()
        let reading = try data.directory.lockForReading()
        defer { withExtendedLifetime(reading) {} }
        let lookups = try openLookups(data, clock: server.clock, sessionSeconds: server.sessionTtl)
        let monitor = try StoreMonitor(directory: data.directory, lookups: lookups, lagMax: server.readyLag)
        let opened = data.directory.onlineIdentity
        let directory = data.directory
        _ = try service.serve(
            ServerBackend(lookups: lookups, pushLog: nil, executors: server.threads), monitor, server,
            isCurrent: { directory.onlineIdentity == opened })
    }
}

struct KafkaOptions: ParsableArguments {
    @Option(name: .customLong("kafka"), help: ArgumentHelp("Stream the topics from these brokers.", valueName: "host:port,…"))
    var kafkaBrokers: String?
    var kafka: String? { kafkaBrokers ?? Environment.string("kafka") }
    @Option(help: ArgumentHelp("Any librdkafka option; may be repeated.", valueName: "key=value"))
    var kafkaOption: [String] = Environment.list("kafka-option")

    func options() throws -> [(String, String)] {
        try kafkaOption.map { option in
            guard let equals = option.firstIndex(of: "=") else { throw ValidationError("--kafka-option \(option): key=value expected") }
            return (String(option[..<equals]), String(option[option.index(after: equals)...]))
        }
    }
}

/// The log of served requests, and what is made of it.
struct SelfCheckOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Log this share of served requests, from 0 to 1, for `weir verify` and `weir stats SERVICE`: FEATURES.GET and HTTP.",
            valueName: "rate"))
    var logRequests: Double = Environment.string("log-requests").flatMap(Double.init) ?? 0
    @Option(help: ArgumentHelp("What that log may take; the oldest requests go.", valueName: "size"))
    var requestLogSize: ByteSize = Environment.string("request-log-size").flatMap { ByteSize(argument: $0) } ?? ByteSize(bytes: 256_000_000)
    @Option(
        name: .customLong("verify-every"),
        help: ArgumentHelp("Recompute the requests that were logged since the last time: every 30m, 1h, 1d, …", valueName: "time"))
    var verifyEveryOption: TimeSpan?
    private var verifyEvery: TimeSpan? { verifyEveryOption ?? Environment.string("verify-every").flatMap { TimeSpan(argument: $0) } }
    @Option(
        help: ArgumentHelp(
            "A training set's manifest: metrics tell how what is served differs from it. May be repeated.", valueName: "manifest"))
    var driftAgainst: [String] = Environment.list("drift-against")

    func validate() throws {
        if !(0...1).contains(logRequests) { throw ValidationError("--log-requests must be between 0 and 1") }
        if requestLogSize.bytes < 1_000_000 { throw ValidationError("--request-log-size must be at least 1MB") }
        if let verifyEvery, verifyEvery.seconds < 1 { throw ValidationError("--verify-every must be at least 1s") }
    }

    func requestLogger(_ directory: DataDirectory, store: String) throws -> RequestLogger? {
        guard logRequests > 0 else { return nil }
        let log = try RequestLogWriter(directory: directory.path, store: store, bytesMax: Int64(requestLogSize.bytes)) {
            report("warning: \($0)")
        }
        return RequestLogger(log, rate: logRequests) { report("warning: \($0)") }
    }

    func selfCheck(_ lookups: LookupService, _ directory: DataDirectory) throws -> SelfCheck? {
        guard verifyEvery != nil || !driftAgainst.isEmpty else { return nil }
        let references = try driftAgainst.map { path in
            let statistics = try ReferenceStatistics(manifest: path)
            _ = try lookups.service(statistics.service)
            return SelfCheck.Reference(name: path, statistics: statistics)
        }
        return try SelfCheck(
            lookups, directory: directory.path,
            options: .init(verifyEvery: verifyEvery.map { .seconds($0.seconds) }, references: references)
        ) { report($0) }
    }
}

enum KafkaOutputKind: String, ExpressibleByArgument, CaseIterable {
    case transactional, idempotent
}

struct RunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Stream events into the stores and answer lookups.",
        discussion: """
            Events come from Kafka (--kafka) and from EVENTS.ADD on the lookups' port. Each stream is a topic of the same name.

              weir run --kafka localhost:9092 --kafka-start earliest --kafka-option security.protocol=SSL
            """)

    @OptionGroup var data: DataOption
    @OptionGroup var writing: WriterOptions
    @OptionGroup var kafka: KafkaOptions
    @OptionGroup var server: ServerOptions
    @Option(help: ArgumentHelp("Where to begin with partitions that were never read: earliest, latest, or a time.", valueName: "start"))
    var kafkaStart: String = Environment.string("kafka-start") ?? "earliest"
    @Option(help: ArgumentHelp("The consumer group under which positions are reported.", valueName: "id"))
    var kafkaGroup: String = Environment.string("kafka-group") ?? "weir"
    @Option(help: ArgumentHelp("A topic whose name is not its stream's; may be repeated.", valueName: "stream=topic"))
    var kafkaTopic: [String] = Environment.list("kafka-topic")

    @Option(
        help: ArgumentHelp(
            "How output topics are written: in transactions, each record once; or, for brokers without them, by an idempotent producer: after a crash records may come again, with the same header weir-number.",
            valueName: "transactional|idempotent"))
    var kafkaOutput: KafkaOutputKind = KafkaOutputKind(rawValue: Environment.string("kafka-output") ?? "") ?? .transactional

    @OptionGroup var checks: SelfCheckOptions

    private func start() throws -> KafkaStart {
        switch kafkaStart {
        case "earliest": return .earliest
        case "latest": return .latest
        default:
            do throws(RecordError) { return .time(try TimeText.parse(kafkaStart)) } catch {
                throw ValidationError("--kafka-start: earliest, latest, RFC 3339 or integer milliseconds expected: \(error)")
            }
        }
    }

    private func topics() throws -> [String: String] {
        var topics: [String: String] = [:]
        for pair in kafkaTopic {
            let parts = pair.split(separator: "=", maxSplits: 1).map(String.init)
            guard parts.count == 2 else { throw ValidationError("--kafka-topic \(pair): stream=topic expected") }
            _ = try streamPlan(parts[0])
            topics[parts[0]] = parts[1]
        }
        return topics
    }

    func validate() throws { _ = try start() }

    func run() throws {
        Service.blockSignals()
        let service = Service()
        let catalog = try App.plan()
        let taken = try Handover.take()
        let lock = try data.directory.lock(handedOver: taken?.lock)
        // What asks for a handover that this process has not seen is of the past.
        if taken == nil { HandoverRequest.remove(from: data.directory) }
        let writer: StoreWriter
        do { writer = try openStoreWriter(data, writing, lock: lock) } catch {
            // Nothing of what was handed over is touched yet.
            if let taken { try withExtendedLifetime(lock) { try taken.goBack(error, in: data.directory) } }
            throw error
        }
        let pushLog = try PushLog(directory: data.directory.push)
        let push = try PushIngest(
            log: pushLog, catalog: catalog, pipeline: writer.pipeline, history: writer.history,
            secondsBetweenTrims: writing.isUnsynced ? nil : Limits.pushTrimSeconds)
        var consumer: KafkaIngest?
        var outputs: KafkaOutputs?
        if let brokers = kafka.kafka {
            consumer = try KafkaIngest(
                options: .init(
                    brokers: brokers, options: try kafka.options(), groupID: kafkaGroup, start: try start(), topics: try topics()),
                streams: catalog.streams, pipeline: writer.pipeline, history: writer.history
            ) { report("warning: \($0)") }
            let outputTopics = Set(catalog.views.flatMap { [$0.updatesTopic, $0.closedWindows?.topic] }.compactMap { $0 }).sorted()
            if !outputTopics.isEmpty {
                outputs = try KafkaOutputs(
                    options: .init(
                        brokers: brokers, options: try kafka.options(), topics: outputTopics, isTransactional: kafkaOutput == .transactional
                    ),
                    reader: writer.reader, history: writer.history, pipeline: writer.pipeline
                ) { report("warning: \($0)") }
            }
        }
        outputs?.start()
        writer.pipeline.start { service.fail($0) }
        push.start { service.fail($0) }
        consumer?.start { service.fail($0) }
        let lookups = try LookupService(
            catalog: catalog, store: writer.store, history: writer.reader,
            sessions: SessionStore(timeToLive: .seconds(server.sessionTtl)), clock: lookupClock(server.clock))
        for session in taken?.sessions ?? [] { try take(session, lookups) }
        let monitor = try StoreMonitor(
            directory: data.directory, lookups: lookups, pipeline: writer.pipeline, consumer: consumer, lagMax: server.readyLag)
        let requestLogger = try checks.requestLogger(data.directory, store: try writer.reader.storeID())
        let selfCheck = try checks.selfCheck(lookups, data.directory)
        requestLogger?.start()
        selfCheck?.start()
        let (kafkaInput, kafkaOutputs) = (consumer, outputs)
        @Sendable func stopWriting() throws {
            kafkaInput?.stop()
            defer { kafkaOutputs?.stop() }
            try writer.pipeline.stop()
            writer.keepSamples()
        }
        let handover = Service.HandoverOptions(directory: data.directory, taken: taken) {
            kafkaInput?.stop()
            selfCheck?.stop()
        }
        let served = Result {
            try service.serve(
                ServerBackend(lookups: lookups, pushLog: pushLog, requestLogger: requestLogger, executors: server.threads), monitor, server,
                handover: handover, metrics: { (requestLogger?.metricFamilies ?? []) + (selfCheck?.metricFamilies ?? []) })
        }
        selfCheck?.stop()
        requestLogger?.stop()
        // What was acknowledged or read is taken in before the process ends.
        pushLog.stop()
        push.waitUntilDone()
        let stopped = Result { try stopWriting() }
        let end = try served.get()
        try service.throwFailure()
        try stopped.get()
        guard case .handedOver(let request, let port, let httpPort) = end else { return }
        writer.store.dropIdleReaders()
        let next = try Handover(port: port, httpPort: httpPort, sessions: lookups.sessions.handOver(), lock: try writer.lock.handOver())
        do { try next.become(request.executable, in: data.directory) } catch { try next.goBack(error, in: data.directory) }
    }

    /// Goes on with a session that an earlier program of this process held. What the definitions no longer take is said and left out.
    private func take(_ session: SessionStore.HandedOver, _ lookups: LookupService) throws {
        let entries = session.pushes.compactMap { push -> SessionStore.Entry? in
            do throws(LookupError) {
                return .init(
                    stream: push.stream, json: Array(push.event), batch: try lookups.decodeEvents(push.stream, [Array(push.event)]))
            } catch {
                report("warning: an event of a session is left out: \(error)")
                return nil
            }
        }
        try lookups.sessions.take(session, entries)
    }
}

struct ProduceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "produce", abstract: "Write events from files to a topic, keyed and timestamped.",
        discussion:
            "The key is that of the stream's first view; the timestamp is the event time. Malformed records are reported and left out.")

    @Argument(help: "The stream; its topic has the same name.") var stream: String
    @Argument(help: "The files.") var files: [String]
    @OptionGroup var kafka: KafkaOptions
    @Option(help: "By default by the file's name.") var format: FileFormat?
    @Option(help: "Another topic than the stream's.") var topic: String?
    @Option(help: "Makes the topic with so many partitions where there is none.") var partitions: Int?
    @Option(help: ArgumentHelp("A setting of the topic that is made; may be repeated.", valueName: "key=value")) var topicOption: [String] =
        []
    @Flag(help: "Exit with 3 where there were malformed records.") var strict: Bool = Environment.flag("strict")

    func validate() throws {
        if kafka.kafka == nil { throw ValidationError("--kafka BROKERS is missing") }
        if let partitions, !(1...10_000).contains(partitions) { throw ValidationError("--partitions must be between 1 and 10000") }
    }

    func run() throws {
        let plan = try streamPlan(stream)
        let brokers = kafka.kafka ?? ""
        let name = topic ?? stream
        if let partitions {
            // Events keep their own times, which a broker may find too old.
            var settings = [("retention.ms", "-1")]
            for option in topicOption {
                let parts = option.split(separator: "=", maxSplits: 1).map(String.init)
                guard parts.count == 2 else { throw ValidationError("--topic-option \(option): key=value expected") }
                settings.removeAll { $0.0 == parts[0] }
                settings.append((parts[0], parts[1]))
            }
            try createTopic(
                brokers: brokers, options: try kafka.options(), topic: name, partitions: Int32(partitions), configuration: settings)
        }
        let producer = try KafkaProducer(brokers: brokers, options: try kafka.options())
        let handle = try producer.topic(name)
        var sent = 0
        var malformed = 0
        for file in files {
            let ingest = FileIngest(stream: plan, path: file, format: try fileFormat(format, file))
            let progress = ProgressReport(file)
            try ingest.readAll { batch in
                for problem in batch.records.malformed {
                    malformed += 1
                    report("\(file), byte \(problem.offset): \(problem.reason)")
                }
                for row in 0..<batch.count {
                    var json: [UInt8] = []
                    batch.records.appendJSON(row: batch.recordRows[row], to: &json)
                    let key = batch.views.first.map { view in view.keys.withText(row) { [UInt8]($0) } } ?? []
                    try producer.send(topic: handle, key: key, value: json, timestamp: EventTime(microseconds: batch.times[row]))
                    sent += 1
                }
                progress.update(Int64(sent), of: nil, unit: "events")
            }
            progress.finish()
        }
        defer { producer.close(topic: handle) }
        try producer.flush(timeoutMilliseconds: 60_000)
        print("\(sent) events in the topic \(name)")
        if malformed > 0 {
            report("\(malformed) malformed records were left out")
            if strict { throw ExitCode(3) }
        }
    }
}
