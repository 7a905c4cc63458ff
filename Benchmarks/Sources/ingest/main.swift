// Purchases through three views into both stores: `swift run -c release ingest [--purchases FILE] [--rounds N]`.
import Foundation
import Support

let events = try lines(of: purchases).count - 1
let rounds = Int(option("rounds") ?? "") ?? 3
var report: [String: Any] = ["events": events, "rounds": rounds]
for (name, extra) in [("synced", []), ("unsynced", ["--unsynced"])] {
    var usages: [Usage] = []
    var online = 0
    var history = 0
    for _ in 0..<rounds {
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        usages.append(try run(weir, ["ingest", "purchases", purchases, "--data", directory + "/data"] + extra))
        online = diskBytes(directory + "/data/online")
        history = diskBytes(directory + "/data") - online
    }
    let wall = median(usages.map(\.wallSeconds))
    let cpu = median(usages.map(\.cpuSeconds))
    report[name] = [
        "events_per_second": Int(Double(events) / wall), "events_per_cpu_second": Int(Double(events) / cpu), "wall_seconds": rounded(wall),
        "cpu_seconds": rounded(cpu), "peak_megabytes": usages.map(\.peakBytes).max()! / 1_000_000,
        "online_bytes_per_event": online / events, "history_bytes_per_event": history / events,
    ]
}
try printJSON(report)
