import ArgumentParser
import CMalloc
import Synchronization
import WeirDefinitions
import WeirEngine

/// A feature repository's executable: the server, the exporter and every other command over its own catalog.
///
/// ```swift
/// @main struct Shop: FeatureStoreApp {
///     var catalog: Catalog { HouseholdSpend.self; CheckoutOffer.self }
/// }
/// ```
public protocol FeatureStoreApp {
    init()
    @CatalogBuilder var catalog: Catalog { get }
}

extension FeatureStoreApp {
    /// Checks the definitions, then runs the command that the arguments name.
    public static func main() {
        weir_one_heap()
        do { try CrashPoint.check() } catch { WeirCommand.exit(withError: CommandFailure("\(error)")) }
        do {
            let plan = try CatalogPlan(Self().catalog)
            App.catalog.withLock { $0 = plan }
        } catch {
            WeirCommand.exit(withError: CleanExit.message("definition error: \(error)").asFailure)
        }
        WeirCommand.main()
    }
}

/// The catalog of the running executable, for its commands.
enum App {
    static let catalog = Mutex<CatalogPlan?>(nil)

    static func plan() throws -> CatalogPlan {
        guard let plan = catalog.withLock({ $0 }) else {
            throw CommandFailure("the catalog is not set; run the executable by its FeatureStoreApp")
        }
        return plan
    }
}

/// A failure whose message is for the user; exit code 1.
struct CommandFailure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

extension CleanExit {
    fileprivate var asFailure: CommandFailure { CommandFailure("\(self)") }
}

struct WeirCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "weir",
        abstract: "A feature store: define features once, in Swift; stream, look up, and export training sets.",
        discussion: """
            A first tour, with the example's purchases:

              weir ingest purchases purchases.csv            a file into the store in .weir
              weir get checkout_offer '{"household": 1, …}'  features of one request, now
              weir run                                       the server: redis-cli -p 6400 FEATURES.LIST
              weir export checkout_offer --spine spine.csv --out training.csv

            Every option can also be set in the environment: --data as WEIR_DATA, --kafka-option as WEIR_KAFKA_OPTION.
            Exit codes: 0 success, 1 failure, 3 dead letters under --strict, 64 wrong usage.
            """,
        subcommands: [
            RunCommand.self, ServeCommand.self, IngestCommand.self, ProduceCommand.self, GetCommand.self, ExportCommand.self,
            PlanCommand.self, ApplyCommand.self, RebuildCommand.self, DeadLettersCommand.self, StatsCommand.self, VerifyCommand.self,
            BackupCommand.self,
            ForgetCommand.self,
            HashPasswordCommand.self,
        ])
}
