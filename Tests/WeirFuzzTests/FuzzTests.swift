import Foundation
import FuzzKit
import Testing

/// Hostile bytes against decoder, commands and HTTP bodies, in this process: no crash, no leak, one well-formed reply to each command.
///
/// `WEIR_FUZZ_SECONDS` makes it longer, `WEIR_FUZZ_SEED` repeats a run. The executable `fuzz` is the same without the test library, which takes
/// a backtrace of every error that is thrown.
@Suite(.serialized) struct FuzzTests {
    private static let environment = ProcessInfo.processInfo.environment

    private static func number(_ name: String) -> UInt64? { environment[name].flatMap { UInt64($0) } }

    @Test func hostileInputs() throws {
        let seed = Self.number("WEIR_FUZZ_SEED") ?? UInt64.random(in: 0..<1 << 32)
        let store = try FuzzStore()
        let given = Self.number("WEIR_FUZZ_SECONDS")
        let seconds = given ?? (Self.environment["WEIR_TEST_LONG"] != nil ? 60 : 10)
        let run = FuzzRun(seed: seed, store: store, threads: ProcessInfo.processInfo.activeProcessorCount)
        print("fuzz: WEIR_FUZZ_SEED=\(seed), cases in \(run.casesPath)")
        let outcome = run.run(inputsMax: .max, seconds: Double(seconds))
        print(run.summary(outcome))
        if let failure = outcome.failure { Issue.record("\(failure)") }
        // Only where the process does nothing else: memory is the process's.
        if given != nil { #expect(outcome.growthBytes < FuzzRun.growthBytesMax) }
    }

    /// Each bug shows within so many inputs.
    @Test(arguments: PlantedBug.allCases) func plantedBugsAreCaught(_ bug: PlantedBug) throws {
        let run = FuzzRun(seed: 1, store: try FuzzStore(), threads: 1, bug: bug)
        let outcome = run.run(inputsMax: bug == .leak ? 600_000 : 300_000, seconds: 300)
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
