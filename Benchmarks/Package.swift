// swift-tools-version: 6.2
import PackageDescription

// A package of its own, so that users never resolve or build what only benchmarks need. The programs drive the release binary as
// users do: a process, files and sockets.
let package = Package(
    name: "weir-benchmarks",
    targets: [
        .target(name: "Support"),
        .executableTarget(name: "ingest", dependencies: ["Support"]),
        .executableTarget(name: "lookup", dependencies: ["Support"]),
        .executableTarget(name: "export", dependencies: ["Support"]),
    ]
)
