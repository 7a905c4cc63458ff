// swift-tools-version: 6.2
import PackageDescription

// The rooms of the house, in the order in which an event and a request walk through them; imports point upwards only.
// docs/ARCHITECTURE.md draws this.
let strict: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .treatAllWarnings(as: .error),
]

func room(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: strict)
}

func tests(_ name: String, _ dependencies: [Target.Dependency], resources: [Resource] = []) -> Target {
    .testTarget(name: name, dependencies: dependencies, resources: resources, swiftSettings: strict)
}

let package = Package(
    name: "weir",
    platforms: [.macOS(.v15)],
    products: [
        .library(name: "Weir", targets: ["Weir"]),
        .library(name: "WeirTesting", targets: ["WeirTesting"]),
        .library(name: "ExampleFeatures", targets: ["ExampleFeatures"]),
        .executable(name: "weir", targets: ["Shop"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser.git", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-crypto.git", from: "4.5.0"),
        .package(url: "https://github.com/apple/swift-log.git", from: "1.16.0"),
        .package(url: "https://github.com/apple/swift-nio.git", from: "2.101.0"),
        .package(url: "https://github.com/apple/swift-nio-ssl.git", from: "2.37.0"),
        .package(url: "https://github.com/groue/GRDB.swift.git", from: "7.10.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird.git", from: "2.28.0"),
    ],
    targets: [
        .systemLibrary(name: "CMalloc"),
        .systemLibrary(name: "CLMDB", providers: [.apt(["liblmdb-dev"]), .brew(["lmdb"])]),
        .systemLibrary(
            name: "CRdKafka", pkgConfig: "rdkafka", providers: [.apt(["librdkafka-dev"]), .brew(["librdkafka"])]),

        room("WeirAlgebra"),
        room("WeirRecords", ["WeirAlgebra"]),
        room("WeirDefinitions", ["WeirAlgebra", "WeirRecords"]),
        room("WeirEngine", ["WeirAlgebra", "WeirRecords", "WeirDefinitions"]),
        room("WeirOnlineStore", ["WeirEngine", "CLMDB"]),
        .target(
            name: "Migrations", path: "migrations", exclude: ["README.md"],
            resources: [
                .embedInCode("001_history.sql"), .embedInCode("002_watermarks_and_windows.sql"), .embedInCode("003_segments.sql"),
                .embedInCode("004_request_log.sql"),
                .embedInCode("005_erasures.sql"), .embedInCode("007_retention.sql"),
            ],
            swiftSettings: strict),
        room(
            "WeirHistory",
            [
                "WeirEngine", "Migrations",
                .product(name: "GRDB", package: "GRDB.swift"),
                .product(name: "GRDBSQLite", package: "GRDB.swift"),
                .product(name: "Crypto", package: "swift-crypto"),
            ]),
        room("WeirSources", ["WeirRecords", "CRdKafka"]),
        room(
            "WeirPipeline",
            ["CMalloc", "WeirEngine", "WeirOnlineStore", "WeirHistory", "WeirSources", .product(name: "Crypto", package: "swift-crypto")]),
        room("WeirLookup", ["WeirEngine", "WeirOnlineStore", "WeirHistory"]),
        room("WeirTraining", ["WeirLookup", .product(name: "Crypto", package: "swift-crypto")]),
        room(
            "WeirServer",
            [
                "CMalloc", "WeirAlgebra", "WeirRecords",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOSSL", package: "swift-nio-ssl"),
                .product(name: "NIOTLS", package: "swift-nio"),
                .product(name: "Crypto", package: "swift-crypto"),
                .product(name: "CryptoExtras", package: "swift-crypto"),
                .product(name: "Hummingbird", package: "hummingbird"),
                .product(name: "HummingbirdCore", package: "hummingbird"),
                .product(name: "Logging", package: "swift-log"),
            ]),
        room(
            "Weir",
            [
                "WeirDefinitions", "WeirEngine", "WeirOnlineStore", "WeirHistory", "WeirSources", "WeirPipeline",
                "WeirLookup", "WeirTraining", "WeirServer", "CMalloc",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ]),
        room("WeirTesting", ["Weir", "WeirEngine", "WeirLookup", "WeirOnlineStore"]),

        .target(name: "ExampleFeatures", dependencies: ["Weir"], path: "features", exclude: ["README.md"], swiftSettings: strict),
        .executableTarget(name: "Shop", dependencies: ["Weir", "ExampleFeatures"], swiftSettings: strict),
        .executableTarget(
            name: "LiveShop", dependencies: ["Weir", "ExampleFeatures"], path: "Tests/System/LiveShop", swiftSettings: strict),
        .executableTarget(
            name: "GrowingShop", dependencies: ["Weir", "ExampleFeatures"], path: "Tests/System/GrowingShop", swiftSettings: strict),
        .executableTarget(name: "ForgetShop", dependencies: ["Weir"], path: "Tests/System/ForgetShop", swiftSettings: strict),
        .executableTarget(name: "RetentionShop", dependencies: ["Weir"], path: "Tests/System/RetentionShop", swiftSettings: strict),

        .target(
            name: "FuzzKit",
            dependencies: [
                "Weir", "WeirDefinitions", "WeirHistory", "WeirLookup", "WeirOnlineStore", "WeirPipeline", "WeirServer", "WeirTesting",
                "ExampleFeatures", .product(name: "NIOCore", package: "swift-nio"), .product(name: "NIOEmbedded", package: "swift-nio"),
                .product(name: "Logging", package: "swift-log"),
            ], path: "Tests/FuzzKit", swiftSettings: strict),
        .executableTarget(
            name: "fuzz", dependencies: ["FuzzKit", .product(name: "ArgumentParser", package: "swift-argument-parser")],
            path: "Tests/Fuzz", swiftSettings: strict),

        tests("WeirAlgebraTests", ["WeirAlgebra", "WeirTesting"]),
        tests("WeirRecordsTests", ["WeirRecords", "WeirTesting"]),
        tests("WeirDefinitionsTests", ["Weir", "WeirDefinitions", "WeirTesting"]),
        tests("WeirEngineTests", ["WeirEngine", "WeirDefinitions", "WeirTesting", "WeirOnlineStore", "ExampleFeatures"]),
        tests(
            "WeirOnlineStoreTests",
            ["Weir", "WeirOnlineStore", "WeirDefinitions", "WeirEngine", "WeirRecords", "WeirTesting", "CLMDB"]),
        tests(
            "WeirHistoryTests",
            [
                "Weir", "WeirHistory", "WeirDefinitions", "WeirEngine", "WeirRecords", "WeirTesting", "Migrations",
                .product(name: "GRDB", package: "GRDB.swift"),
            ]),
        tests("WeirSourcesTests", ["WeirSources"]),
        .testTarget(
            name: "WeirConformanceTests", dependencies: ["Weir", "WeirDefinitions", "WeirEngine", "WeirHistory"], exclude: ["Tables"],
            swiftSettings: strict),
        tests(
            "WeirSimulationTests",
            ["Weir", "WeirDefinitions", "WeirEngine", "WeirPipeline", "WeirRecords", "WeirSources", "WeirTesting"]),
        tests("WeirLookupTests", ["WeirLookup"]),
        tests(
            "WeirTrainingTests",
            [
                "Weir", "WeirAlgebra", "WeirDefinitions", "WeirEngine", "WeirHistory", "WeirRecords", "WeirTesting", "WeirTraining",
                .product(name: "GRDB", package: "GRDB.swift"),
            ]),
        tests("WeirFuzzTests", ["FuzzKit"]),
        tests(
            "WeirPipelineTests",
            ["Weir", "WeirDefinitions", "WeirEngine", "WeirHistory", "WeirPipeline", "WeirRecords", "WeirSources", "CRdKafka"]),
        tests(
            "WeirServerTests",
            [
                "WeirServer", "WeirTesting", .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"), .product(name: "Logging", package: "swift-log"),
            ]),
    ]
)
