import Foundation
import Synchronization
import WeirTesting

/// Cases on several threads, each with a server of its own over one store.
package final class FuzzRun: Sendable {
    package struct Outcome {
        package var inputs = 0
        package var seconds = 0.0
        /// How much the process's resident memory grew after the first tenth.
        package var growthBytes = 0
        package var failure: String?
    }

    /// What buffers, caches and the allocator may take.
    package static let growthBytesMax = 64 << 20
    private static let warmUpInputs = 20_000

    package let threads: Int
    package let casesPath: String
    private let seed: UInt64
    private let store: FuzzStore
    private let bug: PlantedBug?
    private let nextCase = Atomic<UInt64>(0)
    private let inputs = Atomic<Int>(0)
    private let failure = Mutex<String?>(nil)

    package init(seed: UInt64, store: FuzzStore, threads: Int, bug: PlantedBug? = nil) {
        self.seed = seed
        self.store = store
        self.threads = threads
        self.bug = bug
        casesPath = FileManager.default.temporaryDirectory.appendingPathComponent("weir-fuzz-cases-\(getpid())-\(UUID().uuidString)").path
    }

    package func run(inputsMax: Int, seconds: Double) -> Outcome {
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

    package static func target(_ number: UInt64, seed: UInt64, store: FuzzStore) throws -> any FuzzTarget {
        targetIndex(number) == 1 ? try HTTPBodyTarget(seed: seed, store: store) : try RESPTarget(seed: seed, store: store)
    }

    /// A line for people.
    package func summary(_ outcome: Outcome) -> String {
        "fuzz: \(outcome.inputs) inputs in \(outcome.seconds) s, \(Int(Double(outcome.inputs) / outcome.seconds)) a second on \(threads) threads; "
            + "resident memory grew by \(outcome.growthBytes >> 10) KiB"
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
                failure.withLock { if $0 == nil { $0 = "fuzz --seed \(seed) --case \(number): \(error)" } }
            }
        }
    }

    private static func residentBytes() -> Int {
        let words = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8))?.split(separator: " ") ?? []
        return words.count > 1 ? (Int(words[1]) ?? 0) * Int(sysconf(Int32(_SC_PAGESIZE))) : 0
    }
}
