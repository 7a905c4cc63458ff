import ArgumentParser
import Foundation
import FuzzKit

/// The fuzzer for as long as one likes.
@main struct Fuzz: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fuzz",
        abstract: "Hostile bytes against decoder, commands and HTTP bodies: no crash, no leak, one well-formed reply to each command.",
        discussion: "Where the process dies the file that is printed at the start holds the number of each thread's case, eight bytes each."
    )

    @Option(help: "Ends after so many inputs.") var inputs: Int = 100_000_000
    @Option(help: "Ends after so many seconds.") var seconds: Double = 1e6
    @Option(help: "Repeats a run; with --threads 1 in the same order.") var seed: UInt64 = UInt64.random(in: 0..<1 << 32)
    @Option(name: .customLong("case"), help: "Runs one case of a seed alone.") var number: UInt64?
    @Option(help: "One for each core by default.") var threads: Int = ProcessInfo.processInfo.activeProcessorCount

    func validate() throws {
        if !(1...256).contains(threads) { throw ValidationError("--threads must be between 1 and 256") }
    }

    func run() throws {
        let store = try FuzzStore()
        if let number {
            var target = try FuzzRun.target(number, seed: seed, store: store)
            print("fuzz: \(try target.run(number)) inputs")
            return
        }
        let run = FuzzRun(seed: seed, store: store, threads: threads)
        print("fuzz: --seed \(seed), cases in \(run.casesPath)")
        let outcome = run.run(inputsMax: inputs, seconds: seconds)
        print(run.summary(outcome))
        if let failure = outcome.failure { throw FuzzFailure(description: failure) }
        guard outcome.growthBytes < FuzzRun.growthBytesMax else { throw FuzzFailure(description: "the memory grew") }
    }
}
