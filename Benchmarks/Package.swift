// swift-tools-version: 6.2
import PackageDescription

// A package of its own, so that users never resolve or build what only benchmarks need. The programs drive the release binary as
// users do: a process, files and sockets. `orders` is such a user's executable, with the features that the workloads ask for.
let package = Package(
    name: "weir-benchmarks",
    platforms: [.macOS(.v15)],
    dependencies: [.package(name: "weir", path: "..")],
    targets: [
        .target(name: "Support"),
        .target(name: "Workload", dependencies: [.product(name: "Weir", package: "weir")]),
        .executableTarget(name: "orders", dependencies: ["Workload", .product(name: "Weir", package: "weir")]),
        .executableTarget(name: "training", dependencies: [.product(name: "Weir", package: "weir")]),
        .executableTarget(name: "generate", dependencies: ["Support"]),
        .executableTarget(
            name: "engine",
            dependencies: [
                "Support", "Workload", .product(name: "WeirTesting", package: "weir"), .product(name: "ExampleFeatures", package: "weir"),
            ]),
        .executableTarget(name: "ingest", dependencies: ["Support"]),
        .executableTarget(name: "lookup", dependencies: ["Support"]),
        .executableTarget(name: "http", dependencies: ["Support"]),
        .executableTarget(name: "export", dependencies: ["Support"]),
    ]
)
