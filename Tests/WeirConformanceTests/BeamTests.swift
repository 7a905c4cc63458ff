import Foundation
import Testing
import Weir
import WeirAlgebra
import WeirHistory

private let disorder: Int64 = 10_000_000_000_000

/// An event or a watermark, in seconds.
private enum Step {
    case event(time: Int64, value: Int64)
    case watermark(Int64)
}

extension ConformanceTests {
    /// Beam's transcripts: values are the events' own times, so their count and sum tell them.
    @Test func beamTriggers() throws {
        var tally = Tally()
        for test in try cases("beam_dataflow_triggers") where test.id.hasPrefix("beam/") {
            let trigger = test.string("trigger") ?? ""
            if trigger.contains("after") {
                tally.skip(test.id, "triggers by count are outside the design")
                continue
            }
            if let time = test.string("output_ts"), time != "end of window" {
                tally.skip(test.id, "outputs carry their window's bounds, not the time of an element (\(time))")
                continue
            }
            let engine = try Engine(
                Profile(window: .tumbling(.seconds(10)), disorder: .microseconds(disorder), closed: ClosedWindows()))
            var problem: String?
            for step in test.steps {
                for time in step["input"] as? [NSNumber] ?? [] {
                    try engine.add(key: "k", value: time.doubleValue, microseconds: time.int64Value * 1_000_000)
                }
                if let watermark = integerValue(step["watermark"]) {
                    try engine.add(key: nil, microseconds: watermark * 1_000_000 + disorder)
                }
                let wanted = (step["expect"] as? [[String: Any]] ?? []).map { fields in
                    let bounds = fields["window_inclusive"] as! [NSNumber]
                    let values = (fields["values"] as! [NSNumber]).map(\.int64Value)
                    return Output(key: "k", start: bounds[0].int64Value, end: bounds[1].int64Value + 1, value: "\(values.reduce(0, +))")
                }
                let closed = try closed(engine)
                if Set(closed) != Set(wanted) { problem = "\(closed), not \(wanted)" }
            }
            tally.check(test.id, problem)
        }
        tally.report("Beam")
        #expect(tally.failed.isEmpty, "\(tally.failed.joined(separator: "\n"))")
        #expect(tally.run == 2)
    }

    /// In seconds.
    private func closed(_ engine: Engine) throws -> [Output] {
        try engine.closedWindows().compactMap { closed in
            guard let values = closed.values else { return nil }
            let fields = try JSONSerialization.jsonObject(with: Data(values.utf8)) as! [String: Any]
            return Output(
                key: closed.key, start: closed.start / 1_000_000, end: closed.end / 1_000_000, value: "\(integerValue(fields["sum"])!)")
        }
    }

    /// The Dataflow paper's worked example.
    @Test func dataflow() throws {
        var tally = Tally()
        let events = try table("beam_dataflow_triggers")["dataflow_events"] as! [[String: Any]]
        for test in try cases("beam_dataflow_triggers") where test.id.hasPrefix("dataflow/") {
            if test.string("trigger")?.contains("as above") == true || test.string("trigger")?.contains("early") == true {
                tally.skip(test.id, "early panes by processing time are outside the design")
                continue
            }
            var timed = events.map {
                (at: integerValue($0["proc_s"])!, step: Step.event(time: integerValue($0["event_s"])!, value: integerValue($0["value"])!))
            }
            let watermarks = test.fields["watermarks_at_proc_s"] as? [[NSNumber]] ?? [[10_000, 10_000]]
            timed += watermarks.map { (at: $0[0].int64Value, step: .watermark($0[1].int64Value)) }
            // An event of the moment at which the watermark moves comes before it.
            let steps = timed.enumerated().sorted { ($0.element.at, $0.offset) < ($1.element.at, $1.offset) }.map(\.element.step)
            tally.check(test.id, try problem(of: test, steps))
        }
        tally.report("Dataflow")
        #expect(tally.failed.isEmpty, "\(tally.failed.joined(separator: "\n"))")
        #expect(tally.run == 5)
    }

    private func problem(of test: Case, _ steps: [Step]) throws -> String? {
        let isGlobal = test.window["type"] as? String == "global"
        let isPerRecord = test.string("trigger") != nil
        let dropsLate = test.integer("allowed_lateness_s") == 0
        let engine = try Engine(
            Profile(
                window: isGlobal ? .lifetime : .tumbling(.seconds(120)), disorder: .microseconds(disorder),
                closed: isGlobal
                    ? nil
                    : ClosedWindows(revisionsFor: dropsLate ? .zero : nil, topic: "out", emits: isPerRecord ? .updates : .final)))
        for step in steps {
            switch step {
            case .event(let time, let value): try engine.add(key: "TeamX", value: Double(value), microseconds: time * 1_000_000)
            case .watermark(let time): try engine.add(key: nil, microseconds: time * 1_000_000 + disorder)
            }
        }
        if isGlobal {
            let sum = try engine.evaluation(key: "TeamX", at: .distantFuture)[1]
            return sum == .double(Double(test.integer("expect_final")!)) ? nil : "\(sum)"
        }
        let found: [Output]
        if isPerRecord {
            found = try engine.emitted().map { fields in
                var output = try closedOutput(fields, gap: nil)
                output.key = ""
                output.start /= 1_000
                output.end /= 1_000
                output.value = "\(integerValue((fields["features"] as! [String: Any])["sum"])!)"
                return output
            }
        } else {
            found = try closed(engine).map { Output(key: "", start: $0.start, end: $0.end, value: $0.value) }
        }
        let wanted = (test.list("expect_final") ?? test.list("expect_panes") ?? []).map { fields in
            Output(key: "", start: integerValue(fields["start_s"])!, end: integerValue(fields["end_s"])!, value: "\(fields["value"]!)")
        }
        // The paper shows panes window by window.
        let byWindow = found.enumerated().sorted { ($0.element.start, $0.offset) < ($1.element.start, $1.offset) }.map(\.element)
        return byWindow == wanted ? nil : "\(byWindow), not \(wanted)"
    }
}
