import Foundation

/// The process itself, under the names that Prometheus's own clients use. What the platform does not tell is left out.
package struct ProcessMetrics: Sendable {
    private let startedAt = Date()

    package init() {}

    package func families() -> [MetricFamily] {
        var usage = rusage()
        var families: [MetricFamily] = []
        #if canImport(Glibc)
            let isKnown = getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage) == 0
        #else
            let isKnown = getrusage(RUSAGE_SELF, &usage) == 0
        #endif
        if isKnown {
            func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) / 1e6 }
            families.append(
                MetricFamily(
                    "process_cpu_seconds_total", .counter, "User and system CPU time.", seconds(usage.ru_utime) + seconds(usage.ru_stime)))
        }
        // Pages: total, resident, …
        let pages = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8))?.split(separator: " ").compactMap { Int($0) } ?? []
        if pages.count > 1 {
            let pageBytes = sysconf(Int32(_SC_PAGESIZE))
            families.append(
                MetricFamily(
                    "process_resident_memory_bytes", .gauge, "Resident memory, mapped files included.", Double(pages[1] * pageBytes)))
            families.append(
                MetricFamily(
                    "process_virtual_memory_bytes", .gauge, "Address space; most of it is what the stores' maps may grow into.",
                    Double(pages[0] * pageBytes)))
        }
        if let open = try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count {
            families.append(MetricFamily("process_open_fds", .gauge, "Open file descriptors.", Double(open)))
        }
        var limit = rlimit()
        #if canImport(Glibc)
            let limits = getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        #else
            let limits = getrlimit(RLIMIT_NOFILE, &limit)
        #endif
        if limits == 0 {
            families.append(MetricFamily("process_max_fds", .gauge, "File descriptors that may be open.", Double(limit.rlim_cur)))
        }
        families.append(
            MetricFamily(
                "process_start_time_seconds", .gauge, "When the process started, seconds since the Unix epoch.",
                startedAt.timeIntervalSince1970))
        return families
    }
}
