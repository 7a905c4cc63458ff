import ArgumentParser
import WeirPipeline

struct BackupCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "backup",
        abstract: "Copy the stores, also while `weir run` writes to them; `weir run --data DIR` starts from the copy.")

    @OptionGroup var data: DataOption
    @Argument(help: ArgumentHelp("A directory that does not exist yet.", valueName: "dir")) var target: String

    func run() throws {
        try data.directory.checkExists()
        let reading = try data.directory.lockForReading()
        defer { withExtendedLifetime(reading) {} }
        try backUp(data.directory, to: target, catalog: try App.plan())
        print("the stores of \(data.directory.path) are copied to \(target)")
    }
}
