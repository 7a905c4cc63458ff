// swift-tools-version: 6.2
import PackageDescription

let package = Package(
    name: "machines",
    dependencies: [
        .package(name: "weir", path: "../.."),
        .package(url: "https://github.com/apple/swift-protobuf.git", from: "1.39.0"),
    ],
    targets: [
        .executableTarget(
            name: "machines",
            dependencies: [
                .product(name: "Weir", package: "weir"), .product(name: "SwiftProtobuf", package: "swift-protobuf"),
            ])
    ])
