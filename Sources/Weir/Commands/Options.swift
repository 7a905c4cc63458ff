import ArgumentParser
import Foundation
import WeirAlgebra
import WeirOnlineStore
import WeirPipeline

/// Options from the environment: `--data` is `WEIR_DATA`.
enum Environment {
    static func string(_ option: String) -> String? {
        let name = "WEIR_" + option.uppercased().replacingOccurrences(of: "-", with: "_")
        guard let value = ProcessInfo.processInfo.environment[name], !value.isEmpty else { return nil }
        return value
    }

    static func int(_ option: String) -> Int? { string(option).flatMap { Int($0) } }
    static func flag(_ option: String) -> Bool { ["1", "true", "yes"].contains(string(option)?.lowercased() ?? "") }
    static func list(_ option: String) -> [String] { string(option).map { $0.split(separator: ",").map(String.init) } ?? [] }
}

struct DataOption: ParsableArguments {
    @Option(help: ArgumentHelp("The directory of the stores.", valueName: "dir"))
    var data: String = Environment.string("data") ?? ".weir"

    var directory: DataDirectory { DataDirectory(data) }
}

struct WriterOptions: ParsableArguments {
    @Option(
        name: .customLong("shards"),
        help: "Shards of a new online store: one writing thread each. Fixed when the store is made; `weir rebuild` changes it.")
    var shardsOption: Int?
    var shards: Int? { shardsOption ?? Environment.int("shards") }

    @Flag(name: .customLong("unsynced"), help: "Do not sync the file system at commits: faster, and a power cut may cost the last seconds.")
    var isUnsynced: Bool = Environment.flag("unsynced")

    @Option(
        help: ArgumentHelp(
            "The address space that a shard's memory map begins with; it grows by itself, so this is for machines that limit it.",
            valueName: "MiB"))
    var mapSize: Int = Environment.int("map-size") ?? OnlineStore.defaultMapBytes >> 20
    var mapBytes: Int { mapSize << 20 }

    func validate() throws {
        if !(1...(1 << 24)).contains(mapSize) { throw ValidationError("--map-size must be between 1 and 16777216 MiB") }
        if let shards, !(1...1_024).contains(shards) { throw ValidationError("--shards must be between 1 and 1024") }
    }
}

enum ClockKind: String, ExpressibleByArgument, CaseIterable {
    case wall, event
}

/// A number of bytes: `100MB`, `1.5GB`, `64MiB`, `1000000`.
struct ByteSize: ExpressibleByArgument {
    let bytes: Int

    init(bytes: Int) { self.bytes = bytes }

    init?(argument: String) {
        let units: [(suffix: String, factor: Double)] = [
            ("KiB", 1_024), ("MiB", 1_048_576), ("GiB", 1_073_741_824), ("kB", 1e3), ("KB", 1e3), ("MB", 1e6), ("GB", 1e9), ("B", 1),
            ("", 1),
        ]
        for unit in units where argument.hasSuffix(unit.suffix) {
            guard let number = Double(argument.dropLast(unit.suffix.count)), number >= 0, number * unit.factor < 1e18 else { return nil }
            bytes = Int(number * unit.factor)
            return
        }
        return nil
    }

    var defaultValueDescription: String { "\(bytes / 1_000_000)MB" }
}

/// A length of time: `500ms`, `90s`, `30m` or `30min`, `1h`, `7d`, `2w`.
struct TimeSpan: ExpressibleByArgument {
    var seconds: Double
    var microseconds: Int64 { Int64((seconds * 1e6).rounded()) }

    init?(argument: String) {
        let units: [(suffix: String, seconds: Double)] = [
            ("ms", 1e-3), ("min", 60), ("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400), ("w", 604_800),
        ]
        guard let unit = units.first(where: { argument.hasSuffix($0.suffix) }),
            let number = Double(argument.dropLast(unit.suffix.count)), number >= 0, number * unit.seconds < 1e10
        else { return nil }
        seconds = number * unit.seconds
    }
}

/// Writes a line to standard error.
func report(_ line: String) {
    FileHandle.standardError.write(Data((line + "\n").utf8))
}

/// Progress of long work: a bar on a terminal, plain lines elsewhere, with rate and time left.
final class ProgressReport {
    private let what: String
    private let isTerminal = isatty(2) == 1
    private let start = ContinuousClock.now
    private var lastShown = ContinuousClock.now
    private var hasShown = false

    init(_ what: String) { self.what = what }

    func update(_ done: Int64, of total: Int64?, unit: String) {
        let now = ContinuousClock.now
        guard now - lastShown > (isTerminal ? .milliseconds(200) : .seconds(5)) else { return }
        lastShown = now
        show(done, total, unit, now)
    }

    private func show(_ done: Int64, _ total: Int64?, _ unit: String, _ now: ContinuousClock.Instant) {
        hasShown = true
        let seconds = max(Double((now - start) / .milliseconds(1)) / 1_000, 0.001)
        let rate = Double(done) / seconds
        var line = "\(what): \(done)"
        if let total, total > 0 {
            let left = rate > 0 ? Int((Double(total - done) / rate).rounded(.up)) : 0
            line += " of \(total) \(unit) (\(min(100, 100 * done / total)) %), \(Int(rate)) \(unit)/s, \(max(0, left)) s left"
            if isTerminal {
                let filled = Int(30 * min(done, total) / total)
                line = "[" + String(repeating: "#", count: filled) + String(repeating: ".", count: 30 - filled) + "] " + line
            }
        } else {
            line += " \(unit), \(Int(rate)) \(unit)/s"
        }
        FileHandle.standardError.write(Data((isTerminal ? "\r\u{1B}[K" + line : line + "\n").utf8))
    }

    /// Ends the bar's line.
    func finish() {
        if isTerminal, hasShown { FileHandle.standardError.write(Data("\r\u{1B}[K".utf8)) }
    }
}
