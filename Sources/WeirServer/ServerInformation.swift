import CMalloc

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif
import Synchronization

extension Command {
    /// What `INFO` shows: the server's sections, then the backend's; sections of one title are joined. Users without the right `admin` see
    /// the first one alone.
    static func sections(_ call: CommandCall, withCommands: Bool) -> [InfoSection] {
        let server = call.server
        var sections = [serverSection(server)]
        guard call.client.account?.user.rights.contains(.admin) ?? false else { return sections }
        sections += [clientsSection(server), memorySection(), processorSection(), statsSection(server)]
        if withCommands { sections.append(commandsSection(server)) }
        for section in call.backend.info(executor: call.client.loop.executor) {
            if let index = sections.firstIndex(where: { $0.title == section.title }) {
                sections[index].fields += section.fields
            } else {
                sections.append(section)
            }
        }
        return sections
    }

    private static func serverSection(_ server: ServerContext) -> InfoSection {
        let uptime = (ContinuousClock.now - server.startedAt).components.seconds
        return InfoSection(
            "Server",
            [
                .init("weir_version", server.configuration.version),
                // For clients that look at the version to choose commands.
                .init("redis_version", "7.2.0"), .init("redis_mode", "standalone"),
                .init("process_id", String(getpid())), .init("tcp_port", String(server.port.load(ordering: .relaxed))),
                .init("tls", server.configuration.tls == nil ? "no" : "yes"),
                .init("uptime_in_seconds", String(uptime)), .init("uptime_in_days", String(uptime / 86_400)),
                .init("io_threads", String(server.configuration.threadCount)),
            ])
    }

    private static func clientsSection(_ server: ServerContext) -> InfoSection {
        InfoSection(
            "Clients",
            [
                .init("connected_clients", String(server.clientCount)),
                .init("blocked_clients", String(server.repliesAwaited.load(ordering: .relaxed))),
                .init("maxclients", String(server.configuration.connectionCountMax)),
            ])
    }

    private static func memorySection() -> InfoSection {
        var fields = [InfoSection.Field("used_memory", String(weir_used_heap()))]
        if let resident = residentBytes() { fields.append(.init("used_memory_rss", String(resident))) }
        #if canImport(Glibc)
            fields.append(.init("used_memory_rss_peak", String(usage().ru_maxrss * 1_024)))
        #endif
        return InfoSection("Memory", fields)
    }

    private static func usage() -> rusage {
        var usage = rusage()
        // RUSAGE_SELF, which is an enumeration's case here and a number there.
        getrusage(0, &usage)
        return usage
    }

    /// The map of the store counts, as far as its pages were touched.
    private static func residentBytes() -> Int? {
        guard let file = fopen("/proc/self/statm", "r") else { return nil }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 256)
        guard fgets(&line, Int32(line.count), file) != nil else { return nil }
        let words = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self).split(separator: " ")
        return words.count > 1 ? Int(words[1]).map { $0 * Int(sysconf(Int32(_SC_PAGESIZE))) } : nil
    }

    private static func processorSection() -> InfoSection {
        let usage = usage()
        func seconds(_ time: timeval) -> String { String(Double(time.tv_sec) + Double(time.tv_usec) / 1_000_000) }
        return InfoSection(
            "CPU", [.init("used_cpu_sys", seconds(usage.ru_stime)), .init("used_cpu_user", seconds(usage.ru_utime))])
    }

    private static func statsSection(_ server: ServerContext) -> InfoSection {
        func count(_ counter: borrowing Atomic<Int>) -> String { String(counter.load(ordering: .relaxed)) }
        return InfoSection(
            "Stats",
            [
                .init("total_connections_received", count(server.connectionsReceived)),
                .init("total_commands_processed", count(server.commandsProcessed)),
                .init("total_net_input_bytes", String(server.bytesRead)),
                .init("total_net_output_bytes", String(server.bytesWritten)),
                .init("rejected_connections", count(server.connectionsRejected)),
                .init("cut_connections", count(server.connectionsCut)),
                .init("shed_commands", count(server.commandsShed)),
                .init("acl_access_denied_auth", count(server.passwordsRefused)),
                .init("acl_access_denied_cmd", count(server.commandsDenied)),
            ])
    }

    private static func commandsSection(_ server: ServerContext) -> InfoSection {
        var fields: [InfoSection.Field] = []
        for (index, command) in server.commands.commands.enumerated() {
            let (calls, errors) = server.metrics.counts(index)
            if calls > 0 { fields.append(.init("cmdstat_\(command.name)", "calls=\(calls),failed_calls=\(errors)")) }
        }
        return InfoSection("Commandstats", fields)
    }
}
