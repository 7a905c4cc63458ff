/// One step of the history's schema.
public struct Migration: Sendable {
    public let name: String
    public let sql: String
    /// Of the released file; a test holds the file against it.
    public let sha256: String
}

/// All steps, in order.
public let migrations: [Migration] = [
    Migration(
        name: "001_history", sql: String(decoding: PackageResources._01_history_sql, as: UTF8.self),
        sha256: "2206a620c0f1fdc1ac7ee6a774c207a7a9b5ee27d5dafb85da0e600a151804e0"),
    Migration(
        name: "002_watermarks_and_windows", sql: String(decoding: PackageResources._02_watermarks_and_windows_sql, as: UTF8.self),
        sha256: "fe7249049a1419f5cbb0df6d467a117743d9d6c08c30ce31fafbe224a537ae59"),
    Migration(
        name: "003_segments", sql: String(decoding: PackageResources._03_segments_sql, as: UTF8.self),
        sha256: "53a049f695f349f04b1623d3c9268cdff34a339a0c034629121b9f3fd02704d0"),
    Migration(
        name: "004_request_log", sql: String(decoding: PackageResources._04_request_log_sql, as: UTF8.self),
        sha256: "a909ff4570672c552d82880a060a5647be9d55a1d20f764dcd7b177d63f9293b"),
    Migration(
        name: "005_erasures", sql: String(decoding: PackageResources._05_erasures_sql, as: UTF8.self),
        sha256: "ec8f3cd311c55682b263cd253420266661a6e90da89c04b8ed1bd10c17cf4291"),
    Migration(
        name: "007_retention", sql: String(decoding: PackageResources._07_retention_sql, as: UTF8.self),
        sha256: "ab7c52495e62fe7f4a2571a179db12c374776e591cb4b4b709351fcc62b7a349"),
]
