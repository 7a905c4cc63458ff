import Foundation

/// What a finished process took.
public struct Usage: Sendable {
    public var wallSeconds: Double
    public var cpuSeconds: Double
    public var peakBytes: Int
    /// Without pages of files, which the kernel may take back; nil where it was not watched.
    public var peakAnonymousBytes: Int?
    public var output: String

    public init(wallSeconds: Double, cpuSeconds: Double, peakBytes: Int, peakAnonymousBytes: Int? = nil, output: String) {
        self.wallSeconds = wallSeconds
        self.cpuSeconds = cpuSeconds
        self.peakBytes = peakBytes
        self.peakAnonymousBytes = peakAnonymousBytes
        self.output = output
    }
}

public struct BenchmarkFailure: Error, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}

/// The repository's root and its release binary (or the one that WEIR names).
public let repository = URL(fileURLWithPath: #filePath).appendingPathComponent("../../../..").standardizedFileURL
public let weir = ProcessInfo.processInfo.environment["WEIR"] ?? repository.appendingPathComponent(".build/release/weir").path

/// Runs a program to its end, with the kernel's accounting of it.
///
/// - Parameter watchesMemory: looks every five milliseconds how much anonymous memory it has.
public func run(_ program: String, _ arguments: [String], watchesMemory: Bool = false) throws -> Usage {
    let output = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString).path
    let errors = output + ".errors"
    defer { unlink(output); unlink(errors) }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
    posix_spawn_file_actions_addopen(&actions, 2, errors, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
    defer { posix_spawn_file_actions_destroy(&actions) }
    var argv: [UnsafeMutablePointer<CChar>?] = ([program] + arguments).map { strdup($0) } + [nil]
    defer { for argument in argv { free(argument) } }
    let start = ContinuousClock.now
    var pid: pid_t = 0
    guard posix_spawnp(&pid, program, &actions, nil, &argv, environ) == 0 else { throw BenchmarkFailure("cannot start \(program)") }
    var status: Int32 = 0
    var usage = rusage()
    var peaks: (anonymous: Int, resident: Int)?
    if watchesMemory {
        var ended: pid_t = 0
        while ended == 0 {
            // Before the process is taken: its number may be another one's then.
            let now = residentBytes(of: pid)
            peaks = (max(peaks?.anonymous ?? 0, now.anonymous), max(peaks?.resident ?? 0, now.peak))
            ended = wait4(pid, &status, WNOHANG, &usage)
            if ended == 0 { usleep(5_000) }
        }
        guard ended == pid else { throw BenchmarkFailure("cannot wait for \(program): \(String(cString: strerror(errno)))") }
    } else {
        guard wait4(pid, &status, 0, &usage) == pid else {
            throw BenchmarkFailure("cannot wait for \(program): \(String(cString: strerror(errno)))")
        }
    }
    guard status == 0 else {
        let said = ((try? String(contentsOfFile: errors, encoding: .utf8)) ?? "").split(separator: "\n").suffix(3).joined(separator: " ")
        throw BenchmarkFailure("\(program) \(arguments.joined(separator: " ")) ended with status \(status): \(said)")
    }
    let wall = Double((ContinuousClock.now - start) / .microseconds(1)) / 1e6
    func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) / 1e6 }
    return Usage(
        wallSeconds: wall, cpuSeconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        // The kernel's figure begins with what this process has.
        peakBytes: peaks?.resident ?? Int(usage.ru_maxrss) * 1_024, peakAnonymousBytes: peaks?.anonymous,
        output: (try? String(contentsOfFile: output, encoding: .utf8)) ?? "")
}

/// Anonymous resident memory of a process now, and the most that it had of all kinds; zero when it has ended.
private func residentBytes(of pid: pid_t) -> (anonymous: Int, peak: Int) {
    let lines = ((try? String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)) ?? "").split(separator: "\n")
    func bytes(_ name: String) -> Int {
        guard let line = lines.first(where: { $0.hasPrefix(name + ":") }) else { return 0 }
        return (Int(line.filter(\.isNumber)) ?? 0) * 1_024
    }
    return (bytes("RssAnon"), bytes("VmHWM"))
}

public func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

public func temporaryDirectory() throws -> String {
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("weir-benchmark-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    return path
}

/// Bytes that the files below a directory take on disk.
public func diskBytes(_ directory: String) -> Int {
    var total = 0
    for name in FileManager.default.enumerator(atPath: directory)?.compactMap({ $0 as? String }) ?? [] {
        var status = stat()
        if stat(directory + "/" + name, &status) == 0, status.st_mode & S_IFMT == S_IFREG { total += Int(status.st_blocks) * 512 }
    }
    return total
}

/// `--name value` from the command line.
public func option(_ name: String) -> String? {
    let arguments = CommandLine.arguments
    guard let index = arguments.firstIndex(of: "--" + name), index + 1 < arguments.count else { return nil }
    return arguments[index + 1]
}

/// `--name N` from the command line, a positive number.
public func integerOption(_ name: String, default standard: Int) throws -> Int {
    guard let text = option(name) else { return standard }
    guard let value = Int(text), value > 0 else { throw BenchmarkFailure("--\(name) must be a positive number, not \(text)") }
    return value
}

/// Whether `--name` stands in the command line.
public func flag(_ name: String) -> Bool { CommandLine.arguments.contains("--" + name) }

public var purchases: String { option("purchases") ?? repository.appendingPathComponent("features/data/purchases.csv").path }

public func lines(of path: String) throws -> [Substring] {
    try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n")
}

public func printJSON(_ value: [String: Any]) throws {
    let data = try JSONSerialization.data(withJSONObject: value, options: [.prettyPrinted, .sortedKeys])
    print(String(decoding: data, as: UTF8.self))
}

public func rounded(_ value: Double, _ decimals: Int = 3) -> Double {
    let scale = pow(10, Double(decimals))
    return (value * scale).rounded() / scale
}

/// Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
public struct SplitMix64: RandomNumberGenerator, Sendable {
    private var state: UInt64

    public init(seed: UInt64) { state = seed }

    public mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
