import ArgumentParser
import WeirAlgebra
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
        let count = try rebuildOnlineStore(directory: data.directory, catalog: try App.plan(), shards: shards) {
            progress.update($0, of: $1, unit: "events")
        }
        progress.finish()
        print("the online store in \(data.directory.online) is made anew from the history, with \(count) shards")
    }
}

struct DeadLettersCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dead-letters", abstract: "What could not be used, and why.", subcommands: [List.self], defaultSubcommand: List.self)

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "list",
            abstract: "One line each: number, stream, kind, source, offset, ingest time, reason, raw text; separated by tabs.")

        @OptionGroup var data: DataOption
        @Option(help: "Of one stream only.") var stream: String?
        @Option(help: "At most so many.") var limit: Int = .max

        func run() throws {
            try data.directory.checkExists()
            let reader = try HistoryReader(directory: data.directory.path, catalog: try App.plan())
            for letter in try reader.deadLetters(stream: stream, limit: limit) {
                print(
                    [
                        String(letter.number), letter.stream, letter.kind, letter.source, String(letter.offset),
                        TimeText.format(EventTime(microseconds: letter.ingestTime)), escaped(letter.reason),
                        escaped(Self.shown(letter.raw)),
                    ].joined(separator: "\t"))
            }
        }

        /// Raw bytes as text; those that are no UTF-8 as \xNN.
        private static func shown(_ raw: [UInt8]) -> String {
            if let text = String(validating: raw, as: UTF8.self) { return text }
            return raw.map { byte in
                if (32..<127).contains(byte) { return String(UnicodeScalar(byte)) }
                let hex = String(byte, radix: 16)
                return "\\x" + (hex.count < 2 ? "0" : "") + hex
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
