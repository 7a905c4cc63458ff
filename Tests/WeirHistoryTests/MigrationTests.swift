import Foundation
import GRDB
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

    /// Without syncs of commits, those of checkpoints keep a write-ahead log whole at a power cut: `OFF` has none.
    @Test(arguments: [(true, 2), (false, 1)]) func synchronous(isSynced: Bool, level: Int) throws {
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent("weir-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let queue = try HistoryDatabase.openForWriting(directory: directory, isSynced: isSynced)
        let found = try queue.read { db in
            (try Int.fetchOne(db, sql: "PRAGMA synchronous"), try String.fetchOne(db, sql: "PRAGMA journal_mode"))
        }
        #expect(found == (level, "wal"))
    }
}
