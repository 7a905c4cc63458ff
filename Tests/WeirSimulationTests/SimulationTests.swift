import Foundation
import Synchronization
import Testing
import WeirTesting

/// The engine of production over simulated disks, clocks and brokers, against a naive model. A failure names its seed:
/// `WEIR_SIMULATION_SEED=…` runs that one alone.
@Suite struct SimulationTests {
    private static let environment = ProcessInfo.processInfo.environment

    private static func firstFailure(_ seeds: Range<UInt64>, bug: PlantedBug? = nil) async -> (seed: UInt64, text: String)? {
        let queue = SeedQueue(seeds)
        return await withTaskGroup(of: (seed: UInt64, text: String)?.self) { group in
            for _ in 0..<ProcessInfo.processInfo.activeProcessorCount {
                group.addTask {
                    while let seed = queue.next() {
                        do {
                            try Simulation(seed: seed, bug: bug).run()
                        } catch {
                            queue.stop()
                            return (seed, "\(error)")
                        }
                    }
                    return nil
                }
            }
            var first: (seed: UInt64, text: String)?
            for await failure in group { first = first ?? failure }
            return first
        }
    }

    @Test func stateEqualsTheModel() async {
        let count: UInt64 = Self.environment["WEIR_TEST_LONG"] != nil ? 100_000 : 2_000
        var generator = SeededGenerator()
        let first = generator.next() >> 1
        var seeds = first..<first + count
        if let one = Self.environment["WEIR_SIMULATION_SEED"].flatMap({ UInt64($0) }) { seeds = one..<one + 1 }
        let start = ContinuousClock.now
        let failure = await Self.firstFailure(seeds)
        let seconds = (ContinuousClock.now - start) / .seconds(1)
        print(
            "simulation: \(seeds.count) seeds from \(seeds.lowerBound) in \(seconds) s, \(Int(Double(seeds.count) / seconds * 60)) a minute"
        )
        if let failure { Issue.record("WEIR_SIMULATION_SEED=\(failure.seed): \(failure.text)") }
    }

    /// Each bug shows within so many seeds.
    @Test(arguments: PlantedBug.allCases) func plantedBugsAreCaught(_ bug: PlantedBug) async {
        let failure = await Self.firstFailure(1..<301, bug: bug)
        if let failure { print("planted \(bug.rawValue): caught by seed \(failure.seed): \(failure.text.prefix(160))") }
        #expect(failure != nil, "no seed of 300 catches it")
    }
}

/// Seeds that workers share.
private final class SeedQueue: Sendable {
    private let seeds: Mutex<Range<UInt64>>
    init(_ seeds: Range<UInt64>) { self.seeds = Mutex(seeds) }
    func next() -> UInt64? {
        seeds.withLock { seeds in
            guard let seed = seeds.first else { return nil }
            seeds.removeFirst()
            return seed
        }
    }
    func stop() { seeds.withLock { $0 = 0..<0 } }
}
