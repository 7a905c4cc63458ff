import Foundation
import WeirAlgebra

/// One case of a table, as JSON.
struct Case {
    let fields: [String: Any]

    var id: String { fields["id"] as! String }
    var window: [String: Any] { fields["window"] as? [String: Any] ?? [:] }
    var steps: [[String: Any]] { fields["steps"] as? [[String: Any]] ?? [] }
    var outputs: [[String: Any]]? { fields["expect_outputs"] as? [[String: Any]] }
    func string(_ name: String) -> String? { fields[name] as? String }
    func integer(_ name: String) -> Int64? { integerValue(fields[name]) }
    func list(_ name: String) -> [[String: Any]]? { fields[name] as? [[String: Any]] }
}

func integerValue(_ value: Any?) -> Int64? { (value as? NSNumber)?.int64Value }

func table(_ name: String) throws -> [String: Any] {
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Tables")
    let data = try Data(contentsOf: folder.appendingPathComponent(name + ".json"))
    return try JSONSerialization.jsonObject(with: data) as! [String: Any]
}

func cases(_ name: String) throws -> [Case] { (try table(name)["cases"] as! [[String: Any]]).map { Case(fields: $0) } }

/// What was run, what was left out and why; printed at the end.
struct Tally {
    private(set) var run = 0
    private(set) var failed: [String] = []
    private(set) var skipped: [(id: String, reason: String)] = []

    mutating func check(_ id: String, _ problem: String?) {
        run += 1
        if let problem { failed.append("\(id): \(problem)") }
    }

    mutating func skip(_ id: String, _ reason: String) { skipped.append((id, reason)) }

    func report(_ suite: String) {
        print("\(suite): \(run) run, \(run - failed.count) passed, \(skipped.count) skipped")
        for (id, reason) in skipped { print("  skipped \(id): \(reason)") }
    }
}

/// A window as both sides name it, in milliseconds.
struct Output: Hashable, CustomStringConvertible {
    var key: String
    var start: Int64
    var end: Int64
    var value: String?

    var description: String { "\(key)@[\(start),\(end))=\(value ?? "null")" }

    /// The window without its value.
    var bounds: Output { Output(key: key, start: start, end: end, value: nil) }

    init(key: String, start: Int64, end: Int64, value: String?) {
        self.key = key
        self.start = start
        self.end = end
        self.value = value
    }

    init(_ fields: [String: Any]) {
        key = fields["key"] as? String ?? ""
        start = integerValue(fields["start"]) ?? 0
        end = integerValue(fields["end"]) ?? 0
        value = fields["value"].flatMap { $0 is NSNull ? nil : "\($0)" }
    }
}
