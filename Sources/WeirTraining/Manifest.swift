import WeirAlgebra
import WeirRecords

/// What a training set was made of: a JSON object in the order in which it is filled, without clock times.
struct Manifest {
    private var entries: [FeatureValue.MapEntry] = []

    mutating func add(_ key: String, _ value: FeatureValue) { entries.append(.init(key: key, value: value)) }

    /// One member a line.
    var json: [UInt8] {
        var bytes: [UInt8] = Array("{\n".utf8)
        for (index, entry) in entries.enumerated() {
            bytes.append(contentsOf: "  ".utf8)
            JSONText.appendString(entry.key, to: &bytes)
            bytes.append(contentsOf: ": ".utf8)
            entry.value.appendJSON(to: &bytes)
            bytes.append(contentsOf: (index + 1 < entries.count ? ",\n" : "\n").utf8)
        }
        bytes.append(contentsOf: "}\n".utf8)
        return bytes
    }
}
