import Foundation
import Testing
import Weir
import WeirAlgebra
import WeirDefinitions
import WeirRecords

// The tables' times are milliseconds. Kafka's stream time is the largest event time of the partition: a watermark without
// disorder. Its grace is our allowed lateness; what comes after it changes no closed window.

private func milliseconds(_ value: Int64) -> Duration { .milliseconds(value) }

func window(_ fields: [String: Any]) -> Window? {
    func length(_ name: String) -> Duration? { integerValue(fields[name + "_ms"]).map(milliseconds) }
    switch fields["type"] as? String {
    case "tumbling": return length("size").map { .tumbling($0) }
    case "hopping": return length("size").flatMap { size in length("advance").map { .hopping(size, every: $0) } }
    case "session": return length("gap").map { .session(gap: $0) }
    default: return nil
    }
}

@Suite(.serialized) struct ConformanceTests {
    @Test func kafkaStreams() throws {
        var tally = Tally()
        for test in try cases("kafka_streams_windows") {
            guard let window = window(test.window) else {
                tally.skip(test.id, "record-aligned sliding windows are outside the design: Weir's slide with the time asked for")
                continue
            }
            if test.id == "kafka/session_merge_out_of_order_update_last_per_session" {
                tally.skip(test.id, "Kafka still joins sessions that its stream time has closed; ours, like Flink's, change no more then")
                continue
            }
            let isFinal = test.string("emit") == "final"
            let engine = try Engine(
                Profile(
                    window: window,
                    closed: ClosedWindows(
                        allowedLateness: milliseconds(test.integer("grace_ms") ?? 0), revisionsFor: .zero, topic: "out",
                        emits: isFinal ? .final : .updates)))
            tally.check(test.id, try problem(of: test, window, engine))
        }
        tally.report("Kafka Streams")
        #expect(tally.failed.isEmpty, "\(tally.failed.joined(separator: "\n"))")
        #expect(tally.run == 21 && tally.skipped.count == 26)
    }

    private func problem(of test: Case, _ window: Window, _ engine: Engine) throws -> String? {
        let aggregate = test.fields["aggregate"] as? [String: Any]
        let isConcat = aggregate?["fn"] as? String == "concat"
        let initial = aggregate?["init"] as? String ?? ""
        /// Kafka's windows do not begin before 0, and its sessions end with their last event.
        func outputs() throws -> [Output] {
            try engine.emitted().compactMap { fields in
                var output = try closedOutput(fields, gap: window.kind == .session ? window.length : nil)
                if window.kind != .session, output.start < 0 { return nil }
                let values = fields["features"] as? [String: Any]
                output.value = values.map { isConcat ? initial + "\($0["concat"]!)" : "\($0["count"]!)" }
                return output
            }
        }
        var all: [Output] = []
        var dropped: [String] = []
        var clamped: Int64 = 0
        var late: Int64 = 0
        for step in test.steps {
            let time = integerValue(step["ts"])!
            let key = step["key"] as? String
            try engine.add(key: key, text: step["value"] as? String ?? "", microseconds: time * 1_000)
            let new = try outputs()
            if let expected = step["expect"] as? [[String: Any]] {
                let wanted = expected.map(Output.init)
                if Set(new) != Set(wanted) { return "at \(time): \(new), not \(wanted)" }
            }
            all += new
            let counted = try engine.counter("late for all its windows")
            if counted > late { dropped.append("\(key ?? "")@\(time)") }
            late = counted
            clamped += Int64(window.windows(containing: EventTime(microseconds: time * 1_000)).count { $0.lowerBound < 0 })
        }
        if let expected = test.outputs {
            var wanted = expected.map(Output.init)
            // Kafka also takes back a session whose bounds stay; here the new value says it.
            let shown = wanted
            wanted = shown.indices.filter { index in
                shown[index].value != nil || index + 1 == shown.count || shown[index + 1].bounds != shown[index].bounds
            }.map { shown[$0] }
            if test.string("emit") == "update_last_per_session" {
                var last: [Output: String?] = [:]
                for output in all {
                    last[output.bounds] = .some(output.value)
                }
                all = last.compactMap { key, value in value.map { Output(key: key.key, start: key.start, end: key.end, value: $0) } }
                if Set(all) != Set(wanted) { return "\(all), not \(wanted)" }
            } else {
                // A retraction and the value that takes its place are one change.
                if test.string("emit") == "final" || wanted.contains(where: { $0.value == nil }) {
                    all.sort { "\($0)" < "\($1)" }
                    wanted.sort { "\($0)" < "\($1)" }
                }
                if all != wanted { return "\(all), not \(wanted)" }
            }
        }
        if let expected = test.list("expect_dropped") {
            let wanted = expected.map { "\($0["key"]!)@\(integerValue($0["ts"])!)" }
            if dropped != wanted { return "dropped \(dropped), not \(wanted)" }
        }
        if let expected = test.integer("expect_dropped_window_adds") {
            let counted = try engine.counter("late for a closed window") - clamped
            if counted != expected { return "\(counted) window additions dropped, not \(expected)" }
        }
        return nil
    }
}

/// A record of an output topic, in milliseconds.
func closedOutput(_ fields: [String: Any], gap: Int64?) throws -> Output {
    func time(_ name: String) throws -> Int64 { try TimeText.parse(fields[name] as! String).microseconds / 1_000 }
    return Output(
        key: fields["entity_key"] as! String, start: try time("window_start"), end: try time("window_end") - (gap ?? 0) / 1_000,
        value: nil)
}
