import Foundation
import Migrations
import Testing
import WeirHistory

@Suite struct MigrationTests {
    /// A released migration never changes.
    @Test func filesMatchTheirChecksums() {
        for migration in migrations { #expect(HistoryDatabase.sha256(migration.sql) == migration.sha256, "\(migration.name)") }
    }

    /// The list names every file of the folder, in order.
    @Test func listMatchesTheFolder() throws {
        let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("../../migrations")
            .standardizedFileURL
        let files = try FileManager.default.contentsOfDirectory(atPath: folder.path).filter { $0.hasSuffix(".sql") }.sorted()
        #expect(files == migrations.map { $0.name + ".sql" })
    }
}
