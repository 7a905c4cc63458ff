import Foundation
import Support

/// `checkout_offer` of the example over its purchases: 24 features of all kinds. By Weir alone.
func checkoutOffer(rows count: Int, rounds: Int, folder: String) throws -> [String: Any] {
    let all = try lines(of: purchases).dropFirst()
    guard !all.isEmpty else { throw BenchmarkFailure("\(purchases) has no purchases") }
    try? FileManager.default.removeItem(atPath: folder)
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    _ = try run(weir, ["ingest", "purchases", purchases, "--data", folder + "/data", "--unsynced"])
    var spine = "event_timestamp,household,basket,store,cart_value\n"
    for row in 0..<count {
        let fields = all[all.startIndex + row * all.count / count].split(separator: ",", omittingEmptySubsequences: false)
        spine += "\(fields[fields.count - 1]),\(fields[1]),\(fields[2]),\(fields[3]),20\n"
    }
    try spine.write(toFile: folder + "/spine.csv", atomically: true, encoding: .utf8)
    var figures = Figures()
    for _ in 0..<rounds {
        try figures.add(
            run(
                weir,
                ["export", "checkout_offer", "--spine", folder + "/spine.csv", "--out", folder + "/out.csv", "--data", folder + "/data"],
                watchesMemory: true))
    }
    return figures.json(rows: count).merging(["history_events": all.count, "rows": count]) { $1 }
}
