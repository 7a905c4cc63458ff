// A training set over the purchases: `swift run -c release export [--purchases FILE] [--rows N] [--rounds N]`.
import Foundation
import Support

let all = try lines(of: purchases).dropFirst()
let count = Int(option("rows") ?? "") ?? 2_000
let rounds = Int(option("rounds") ?? "") ?? 3
let directory = try temporaryDirectory()
defer { try? FileManager.default.removeItem(atPath: directory) }
_ = try run(weir, ["ingest", "purchases", purchases, "--data", directory + "/data", "--unsynced"])
var spine = "event_timestamp,household,basket,store,cart_value\n"
for row in 0..<count {
    let fields = all[all.startIndex + row * all.count / count].split(separator: ",", omittingEmptySubsequences: false)
    spine += "\(fields[fields.count - 1]),\(fields[1]),\(fields[2]),\(fields[3]),20\n"
}
try spine.write(toFile: directory + "/spine.csv", atomically: true, encoding: .utf8)
var usages: [Usage] = []
for _ in 0..<rounds {
    usages.append(
        try run(
            weir,
            [
                "export", "checkout_offer", "--spine", directory + "/spine.csv", "--out", directory + "/out.csv", "--data",
                directory + "/data",
            ]))
}
let wall = median(usages.map(\.wallSeconds))
try printJSON([
    "history_events": all.count, "rows": count, "features": 24, "rows_per_second": Int(Double(count) / wall), "wall_seconds": rounded(wall),
    "cpu_seconds": rounded(median(usages.map(\.cpuSeconds))), "peak_megabytes": usages.map(\.peakBytes).max()! / 1_000_000,
])
