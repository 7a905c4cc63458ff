import ArgumentParser
import WeirAlgebra
import WeirEngine
import WeirHistory
import WeirPipeline
import WeirRecords

struct RebuildCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rebuild",
        abstract: "Make the online store anew from the history, also with other definitions or another number of shards.")

    @OptionGroup var data: DataOption
    @Option(name: .customLong("shards"), help: "Shards of the new store; by default as many as the old one has.") var shardsOption: Int?
    private var shards: Int? { shardsOption ?? Environment.int("shards") }

    func validate() throws {
        if let shards, !(1...1_024).contains(shards) { throw ValidationError("--shards must be between 1 and 1024") }
    }

    func run() throws {
        try data.directory.checkExists()
        let progress = ProgressReport("rebuild")
        let count = try rebuildOnlineStore(
            directory: data.directory, catalog: try App.plan(), shards: shards, report: { report("warning: \($0)") }
        ) {
            progress.update($0, of: $1, unit: "events")
        }
        progress.finish()
        print("the online store in \(data.directory.online) is made anew from the history, with \(count) shards")
    }
}

struct DeadLettersCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dead-letters", abstract: "What could not be used, and why.", subcommands: [List.self, Show.self, Retry.self],
        defaultSubcommand: List.self)

    /// Which letters a command is about.
    struct Choice: ParsableArguments {
        @Option(help: "Of one stream only.") var stream: String?
        @Option(help: "Of one kind only: malformed, 'conflicting duplicate', 'too late' or 'ahead of time'.") var kind: String?

        func validate() throws {
            let kinds = DeadLetter.Kind.allCases.map(\.rawValue)
            if let kind, !kinds.contains(kind) { throw ValidationError("--kind: one of \(kinds.joined(separator: ", ")) expected") }
        }
    }

    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(commandName: "show", abstract: "One letter, whole, or several.")

        @OptionGroup var data: DataOption
        @Argument(help: "Their numbers.") var numbers: [Int64]

        func run() throws {
            try data.directory.checkExists()
            let reader = try HistoryReader(directory: data.directory.path, catalog: try App.plan())
            let letters = try reader.deadLetters(numbers: numbers)
            for letter in letters {
                print(
                    """
                    number:      \(letter.number)
                    stream:      \(letter.stream)
                    kind:        \(letter.kind)
                    reason:      \(letter.reason)
                    source:      \(letter.source)
                    offset:      \(letter.offset)
                    ingest time: \(TimeText.format(EventTime(microseconds: letter.ingestTime)))
                    retries:     \(letter.retries)
                    raw:
                    \(List.shown(letter.raw))

                    """)
            }
            let missing = numbers.filter { number in !letters.contains { $0.number == number } }
            if !missing.isEmpty { throw CommandFailure("there is no dead letter \(missing.map(String.init).joined(separator: ", "))") }
        }
    }

    struct Retry: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "retry",
            abstract: "Try letters again, with the definitions as they are now: what is taken is no dead letter any more.",
            discussion: """
                For letters whose reason is gone: the code knows the value now, the stream allows what it refused, an event's time has come.
                They count as learned of now. `weir run` must not be running.
                """)

        @OptionGroup var data: DataOption
        @OptionGroup var choice: Choice
        @Argument(help: "Their numbers; all by default.") var numbers: [Int64] = []

        func run() throws {
            try data.directory.checkExists()
            let writer = try StoreWriter(
                directory: data.directory, catalog: try App.plan(), shards: nil, isSynced: true, report: { report("warning: \($0)") })
            let letters = try writer.reader.deadLetters(
                stream: choice.stream, kind: choice.kind, numbers: numbers.isEmpty ? nil : numbers)
            let summary = try writer.retry(letters, now: wallClockNow())
            print("\(summary.settled) of \(letters.count) dead letters are taken, \(summary.refused) are refused again")
        }
    }

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "list",
            abstract: "One line each: number, stream, kind, source, offset, ingest time, reason, raw text; separated by tabs.")

        @OptionGroup var data: DataOption
        @OptionGroup var choice: Choice
        @Option(help: "At most so many.") var limit: Int = .max

        func run() throws {
            try data.directory.checkExists()
            let reader = try HistoryReader(directory: data.directory.path, catalog: try App.plan())
            for letter in try reader.deadLetters(stream: choice.stream, kind: choice.kind, limit: limit) {
                print(
                    [
                        String(letter.number), letter.stream, letter.kind, letter.source, String(letter.offset),
                        TimeText.format(EventTime(microseconds: letter.ingestTime)), escaped(letter.reason),
                        escaped(Self.shown(letter.raw)),
                    ].joined(separator: "\t"))
            }
        }

        /// Raw bytes as text; those that are no UTF-8 as \xNN.
        static func shown(_ raw: [UInt8]) -> String {
            if let text = String(validating: raw, as: UTF8.self) { return text }
            return raw.map { byte in
                if (32..<127).contains(byte) { return String(UnicodeScalar(byte)) }
                return "\\x" + hexadecimal(CollectionOfOne(byte))
            }.joined()
        }

        /// A letter stays on its line.
        private func escaped(_ text: String) -> String {
            var line = ""
            for scalar in text.unicodeScalars {
                switch scalar {
                case "\n": line += "\\n"
                case "\r": line += "\\r"
                case "\t": line += "\\t"
                default: line.unicodeScalars.append(scalar)
                }
            }
            return line
        }
    }
}
