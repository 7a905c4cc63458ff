import Foundation
import Synchronization
import Testing
import WeirTesting

/// Hostile bytes against decoder, commands and HTTP bodies, in this process: no crash, no leak, one well-formed reply to each command.
///
/// `WEIR_FUZZ_SECONDS` or `WEIR_FUZZ_INPUTS` make it longer, `WEIR_FUZZ_SEED` repeats a run, `WEIR_FUZZ_CASE` one case of it. Where the process
/// dies the file that is printed at the start holds the number of each thread's case.
@Suite(.serialized) struct FuzzTests {
    private static let environment = ProcessInfo.processInfo.environment

    private static func number(_ name: String) -> UInt64? { environment[name].flatMap { UInt64($0) } }

    @Test func hostileInputs() throws {
        let seed = Self.number("WEIR_FUZZ_SEED") ?? UInt64.random(in: 0..<1 << 32)
        let store = try FuzzStore()
        if let one = Self.number("WEIR_FUZZ_CASE") {
            print("fuzz: WEIR_FUZZ_SEED=\(seed) WEIR_FUZZ_CASE=\(one)")
            var target = try FuzzRun.target(one, seed: seed, store: store)
            _ = try target.run(one)
            return
        }
        let inputsMax = Self.number("WEIR_FUZZ_INPUTS")
        let seconds =
            Self.number("WEIR_FUZZ_SECONDS") ?? (inputsMax != nil ? UInt64(Int32.max) : Self.environment["WEIR_TEST_LONG"] != nil ? 60 : 10)
        let run = FuzzRun(seed: seed, store: store, threads: ProcessInfo.processInfo.activeProcessorCount)
        print("fuzz: WEIR_FUZZ_SEED=\(seed), cases in \(run.casesPath)")
        let outcome = run.run(inputsMax: inputsMax.map { Int($0) } ?? .max, seconds: Double(seconds))
        print(
            "fuzz: \(outcome.inputs) inputs in \(outcome.seconds) s, \(Int(Double(outcome.inputs) / outcome.seconds)) a second on "
                + "\(run.threads) threads; resident memory grew by \(outcome.growthBytes >> 10) KiB")
        if let failure = outcome.failure { Issue.record("\(failure)") }
        // Only where the process does nothing else: memory is the process's.
        if Self.number("WEIR_FUZZ_SECONDS") != nil || inputsMax != nil { #expect(outcome.growthBytes < FuzzRun.growthBytesMax) }
    }

    /// Each bug shows within so many inputs.
    @Test(arguments: PlantedBug.allCases) func plantedBugsAreCaught(_ bug: PlantedBug) throws {
        let run = FuzzRun(seed: 1, store: try FuzzStore(), threads: 1, bug: bug)
        let outcome = run.run(inputsMax: 300_000, seconds: 300)
        if bug == .leak {
            #expect(outcome.failure == nil)
            #expect(outcome.growthBytes >= FuzzRun.growthBytesMax, "grew by \(outcome.growthBytes) only")
            print("fuzz: planted \(bug): memory grew by \(outcome.growthBytes >> 20) MiB in \(outcome.inputs) inputs")
        } else {
            let failure = try #require(outcome.failure, "not found in \(outcome.inputs) inputs")
            print("fuzz: planted \(bug) found after \(outcome.inputs) inputs: \(failure)")
        }
    }
}

/// Cases on several threads, each with a server of its own over one store.
final class FuzzRun: Sendable {
    struct Outcome {
        var inputs = 0
        var seconds = 0.0
        /// How much the process's resident memory grew after the first tenth.
        var growthBytes = 0
        var failure: String?
    }

    /// What buffers, caches and the allocator may take.
    static let growthBytesMax = 64 << 20
    private static let warmUpInputs = 20_000

    let threads: Int
    let casesPath: String
    private let seed: UInt64
    private let store: FuzzStore
    private let bug: PlantedBug?
    private let nextCase = Atomic<UInt64>(0)
    private let inputs = Atomic<Int>(0)
    private let failure = Mutex<String?>(nil)

    init(seed: UInt64, store: FuzzStore, threads: Int, bug: PlantedBug? = nil) {
        self.seed = seed
        self.store = store
        self.threads = threads
        self.bug = bug
        casesPath = FileManager.default.temporaryDirectory.appendingPathComponent("weir-fuzz-cases-\(getpid())-\(UUID().uuidString)").path
    }

    func run(inputsMax: Int, seconds: Double) -> Outcome {
        let start = ContinuousClock.now
        let deadline = start + .seconds(seconds)
        // A crash leaves the numbers of the running cases in the file.
        _ = FileManager.default.createFile(atPath: casesPath, contents: Data(count: 8 * threads))
        let descriptor = open(casesPath, O_RDWR)
        nonisolated(unsafe) let cases = mmap(nil, 8 * threads, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)!
            .bindMemory(to: UInt64.self, capacity: threads)
        close(descriptor)
        defer {
            munmap(cases, 8 * threads)
            try? FileManager.default.removeItem(atPath: casesPath)
        }
        let done = DispatchSemaphore(value: 0)
        for number in 0..<threads {
            let thread = Thread { [self] in
                do {
                    var targets: [any FuzzTarget] = [try RESPTarget(seed: seed, store: store, bug: bug)]
                    if bug == nil { targets.append(try HTTPBodyTarget(seed: seed, store: store)) }
                    work(&targets, cases + number, inputsMax, deadline)
                } catch {
                    failure.withLock { $0 = "\(error)" }
                }
                done.signal()
            }
            thread.stackSize = 8 << 20
            thread.start()
        }
        var residentBefore: Int?
        for _ in 0..<threads {
            while done.wait(timeout: .now() + 0.05) == .timedOut {
                let count = inputs.load(ordering: .relaxed)
                let isWarm =
                    count > Self.warmUpInputs
                    && (Double(count) > Double(inputsMax) / 10 || ContinuousClock.now - start > .seconds(seconds / 10))
                if residentBefore == nil, isWarm { residentBefore = Self.residentBytes() }
            }
        }
        let resident = Self.residentBytes()
        return Outcome(
            inputs: inputs.load(ordering: .relaxed), seconds: (ContinuousClock.now - start) / .seconds(1),
            growthBytes: residentBefore.map { resident - $0 } ?? 0, failure: failure.withLock { $0 })
    }

    /// Every eighth case is one of the HTTP port's.
    private static func targetIndex(_ number: UInt64) -> Int { number % 8 == 7 ? 1 : 0 }

    static func target(_ number: UInt64, seed: UInt64, store: FuzzStore) throws -> any FuzzTarget {
        targetIndex(number) == 1 ? try HTTPBodyTarget(seed: seed, store: store) : try RESPTarget(seed: seed, store: store)
    }

    private func work(
        _ targets: inout [any FuzzTarget], _ current: UnsafeMutablePointer<UInt64>, _ inputsMax: Int, _ deadline: ContinuousClock.Instant
    ) {
        while inputs.load(ordering: .relaxed) < inputsMax, ContinuousClock.now < deadline, failure.withLock({ $0 == nil }) {
            let number = nextCase.wrappingAdd(1, ordering: .relaxed).oldValue
            current.pointee = number
            do {
                inputs.wrappingAdd(try targets[targets.count == 1 ? 0 : Self.targetIndex(number)].run(number), ordering: .relaxed)
            } catch {
                failure.withLock { if $0 == nil { $0 = "WEIR_FUZZ_SEED=\(seed) WEIR_FUZZ_CASE=\(number): \(error)" } }
            }
        }
    }

    private static func residentBytes() -> Int {
        let words = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8))?.split(separator: " ") ?? []
        return words.count > 1 ? (Int(words[1]) ?? 0) * Int(sysconf(Int32(_SC_PAGESIZE))) : 0
    }
}
