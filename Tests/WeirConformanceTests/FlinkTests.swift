import Foundation
import Testing
import Weir
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory

// Flink's watermark w says that everything up to and including the millisecond w has come; ours, that everything before it has.
// An event one microsecond behind that moment, without a key, brings the watermark there: the stream's disorder keeps the
// case's own events from moving it. Flink's allowed lateness is the time for which a closed window is revised.

private let disorder: Int64 = 10_000_000_000_000

extension ConformanceTests {
    @Test func flinkWindows() throws {
        var tally = Tally()
        for test in try cases("flink_windows") {
            if let needs = test.fields["needs"] as? [String] {
                tally.skip(test.id, "\(needs.joined(separator: ", ")): triggers and gaps by content are outside the design")
            } else if test.string("accumulation") == "discarding", test.integer("allowed_lateness_ms") != 0 {
                tally.skip(test.id, "discarding panes are outside the design: a late event revises the window's whole value")
            } else if test.window["type"] as? String == "global" {
                tally.check(test.id, try lifetimeProblem(of: test))
            } else {
                tally.check(test.id, try problem(of: test))
            }
        }
        tally.report("Flink windows")
        #expect(tally.failed.isEmpty, "\(tally.failed.joined(separator: "\n"))")
        #expect(tally.run == 16)
    }

    private func engine(_ test: Case, _ window: Window) throws -> Engine {
        try Engine(
            Profile(
                window: window, disorder: .microseconds(disorder),
                closed: ClosedWindows(revisionsFor: .milliseconds(test.integer("allowed_lateness_ms") ?? 0))))
    }

    private func problem(of test: Case) throws -> String? {
        let engine = try engine(test, window(test.window)!)
        var processingTime: Int64 = 0
        var late: [Output] = []
        var lateSoFar: Int64 = 0
        for (number, step) in test.steps.enumerated() {
            let time = integerValue(step["ts"])
            switch step["op"] as? String {
            case "event":
                // In processing time an event happens when it comes.
                let time = time ?? processingTime
                let key = step["key"] as! String
                try engine.add(key: key, value: Double(integerValue(step["value"])!), microseconds: time * 1_000)
                let counted = try engine.counter("late for all its windows")
                if counted > lateSoFar { late.append(Output(key: key, start: time, end: time, value: "\(step["value"]!)")) }
                lateSoFar = counted
            case "watermark", "processing_time":
                processingTime = time!
                try engine.add(key: nil, microseconds: (time! + 1) * 1_000 + 1 + disorder)
            case "snapshot_restore":
                try engine.restore()
            default:
                return "step \(number) is unknown"
            }
            let closed = try engine.closedWindows().compactMap { closed -> Output? in
                guard let values = closed.values else { return nil }
                let fields = try JSONSerialization.jsonObject(with: Data(values.utf8)) as! [String: Any]
                return Output(
                    key: closed.key, start: closed.start / 1_000, end: closed.end / 1_000,
                    value: "\(integerValue(fields["sum"])!)")
            }
            let wanted = (step["expect"] as? [[String: Any]] ?? []).map(Output.init)
            if Set(closed) != Set(wanted) || closed.count != wanted.count { return "step \(number): \(closed), not \(wanted)" }
        }
        if let expected = test.list("expect_late_side_output") {
            let wanted = expected.map { fields in
                let time = integerValue(fields["ts"])!
                return Output(key: fields["key"] as! String, start: time, end: time, value: "\(fields["value"]!)")
            }
            if late != wanted { return "late: \(late), not \(wanted)" }
        }
        return nil
    }

    /// Flink's global window at the end of the stream is our lifetime, asked for at the end of time.
    private func lifetimeProblem(of test: Case) throws -> String? {
        let engine = try Engine(Profile(window: .lifetime))
        for step in test.steps where step["op"] as? String == "event" {
            try engine.add(
                key: step["key"] as? String, value: Double(integerValue(step["value"])!), microseconds: integerValue(step["ts"])! * 1_000)
        }
        for expected in test.steps.last?["expect"] as? [[String: Any]] ?? [] {
            let values = try engine.evaluation(key: expected["key"] as! String, at: .distantFuture)
            if values[1] != .double(Double(integerValue(expected["value"])!)) { return "\(values), not \(expected)" }
        }
        return nil
    }

    @Test func flinkAssignment() throws {
        var tally = Tally()
        for fields in try table("flink_windows")["window_assignment"] as! [[String: Any]] {
            func length(_ name: String) -> Duration { .milliseconds(integerValue(fields[name + "_ms"])!) }
            let window = Window.hopping(length("size"), every: length("advance"), offset: length("offset"))
            let found = window.windows(containing: EventTime(microseconds: integerValue(fields["ts"])! * 1_000))
                .map { [$0.lowerBound / 1_000, $0.upperBound / 1_000] }
            let wanted = (fields["windows"] as! [[NSNumber]]).map { $0.map(\.int64Value) }
            tally.check(fields["id"] as! String, found == wanted.sorted { $0[0] < $1[0] } ? nil : "\(found), not \(wanted)")
        }
        tally.report("Flink window assignment")
        #expect(tally.failed.isEmpty, "\(tally.failed.joined(separator: "\n"))")
        #expect(tally.run == 24)
    }

    @Test func flinkInvalidParameters() throws {
        var tally = Tally()
        for (number, fields) in (try table("flink_windows")["invalid_window_parameters"] as! [[String: Any]]).enumerated() {
            func length(_ name: String) -> Duration { .seconds(integerValue(fields[name + "_s"]) ?? 0) }
            let window =
                fields["type"] as! String == "tumbling"
                ? Window.tumbling(length("size"), offset: length("offset"))
                : .hopping(length("size"), every: length("advance"), offset: length("offset"))
            tally.check("invalid \(number)", window.problem == nil ? "accepted: \(fields)" : nil)
        }
        tally.report("Flink invalid parameters")
        #expect(tally.failed.isEmpty, "\(tally.failed.joined(separator: "\n"))")
        #expect(tally.run == 8)
    }

    @Test func flinkWatermarks() throws {
        var tally = Tally()
        for test in try cases("flink_watermark_merge") {
            var watermarks = Watermarks<String>()
            var problem: String?
            for step in test.steps {
                let input = step["input"] as? String ?? ""
                switch step["op"] as! String {
                case "add": watermarks.add(input)
                case "remove": watermarks.remove(input)
                case "idle": watermarks.markIdle(input)
                case "wm": watermarks.observe(watermarks.add(input), eventTime: integerValue(step["ts"])!, now: 0)
                default: watermarks.check(now: 0)
                }
                if step.keys.contains("expect_combined"), watermarks.combined != integerValue(step["expect_combined"]) {
                    problem = "combined \(String(describing: watermarks.combined)) after \(step)"
                }
                if let idle = step["expect_idle"] as? Bool, idle != watermarks.isIdle { problem = "idle \(!idle) after \(step)" }
            }
            tally.check(test.id, problem)
        }
        for fields in try table("flink_watermark_merge")["idle_timer_cases"] as! [[String: Any]] {
            var watermarks = Watermarks<String>(idleTimeout: integerValue(fields["timeout_ms"])! * 1_000)
            let input = watermarks.add("a")
            var now: Int64 = 0
            var problem: String?
            for step in fields["steps"] as! [[Any]] {
                switch step[0] as! String {
                case "advance": now += integerValue(step[1])! * 1_000
                case "activity": watermarks.observe(input, eventTime: 0, now: now)
                default:
                    watermarks.check(now: now)
                    if watermarks.isIdle != step[1] as! Bool { problem = "idle \(watermarks.isIdle) at \(now)" }
                }
            }
            tally.check(fields["id"] as! String, problem)
        }
        tally.report("Flink watermarks")
        #expect(tally.failed.isEmpty, "\(tally.failed.joined(separator: "\n"))")
        #expect(tally.run == 15)
    }
}
