import Foundation
import Synchronization
import Testing
import Weir
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirPipeline
import WeirRecords
import WeirSources

/// What waits between threads and processes is bounded.
@Suite struct FlowTests {
    /// A sender waits while the queue's elements cost what it may hold, and goes on when some are taken.
    @Test func sendersWait() throws {
        let queue = BoundedQueue<Int>(capacity: 100) { $0 }
        let sent = Mutex<[Int]>([])
        let done = DispatchSemaphore(value: 0)
        Thread.detachNewThread {
            for cost in [60, 60, 1, 500, 1] {
                if !queue.send(cost) { break }
                sent.withLock { $0.append(cost) }
            }
            done.signal()
        }
        func sentInTheEnd() -> [Int] {
            Thread.sleep(forTimeInterval: 0.2)
            return sent.withLock { $0 }
        }
        // One more is taken while there is room, so that an element of any cost passes.
        #expect(sentInTheEnd() == [60, 60])
        #expect(queue.receive { _, _ in false } == [60])
        #expect(sentInTheEnd() == [60, 60, 1, 500])
        #expect(queue.receive { taken, _ in taken.reduce(0, +) < 61 } == [60, 1])
        #expect(sentInTheEnd() == [60, 60, 1, 500])
        #expect(queue.receive { _, _ in true } == [500])
        done.wait()
        #expect(queue.receive { _, _ in true } == [1])
        #expect(queue.receive(timeout: 0.05) { _, _ in true } == [])
        queue.close()
        #expect(!queue.send(1) && queue.receive { _, _ in true } == nil)
    }

    /// Long and malformed records cost memory in a queue as events do.
    @Test func batchesCostWhatTheyHold() throws {
        let stream = try plan(First.Orders.self).streams[0]
        func cost(_ lines: [String]) -> Int {
            var records = RecordBatch(schema: stream.schema)
            var parser = JSONRecordParser(schema: stream.schema)
            for line in lines { parser.append(Array(line.utf8), to: &records, offset: 0) }
            let source = SourcePart(kind: .push, name: "push", partition: 0, stream: stream.name)
            return IncomingBatch(batch: stream.prepare(records), source: source, nextOffset: 0, ingestTime: 0).cost
        }
        let order = #"{"id":"a","shop":1,"price":2.5,"channel":"web","event_time":"2026-01-01T00:00:00Z"}"#
        #expect(cost([]) == 64)
        #expect(cost([order]) == 65)
        #expect(cost(["{", "[]"]) == 66)
        let long = order.replacingOccurrences(of: "\"a\"", with: "\"" + String(repeating: "a", count: 512_000) + "\"")
        #expect(cost([long]) >= 64 + 1 + 1_000)
        #expect(cost(["x" + long]) >= 64 + 1 + 1_000)
    }

    /// While a process runs, the push log lets go of what the history has.
    @Test func pushLogIsTrimmedWhileItRuns() throws {
        let scratch = Scratch()
        let catalog = try plan(First.Orders.self)
        func segments() throws -> Int { try FileManager.default.contentsOfDirectory(atPath: scratch.path + "/push").count }
        try scratch.withWriter(catalog) { writer in
            let log = try PushLog(directory: scratch.path + "/push", segmentBytesMax: 400)
            let push = try PushIngest(
                log: log, catalog: catalog, pipeline: writer.pipeline, history: writer.history, secondsBetweenTrims: 0.1)
            func append(_ numbers: Range<Int>) {
                for number in numbers {
                    let done = DispatchSemaphore(value: 0)
                    let order = #"{"id":"\#(number)","shop":1,"price":1,"channel":"web","event_time":"2026-01-01T00:00:00Z"}"#
                    log.append(stream: "orders", events: [Array(order.utf8)]) { _ in done.signal() }
                    done.wait()
                }
            }
            append(0..<40)
            #expect(try segments() >= 8)
            writer.pipeline.start()
            push.start { Issue.record("\($0)") }
            let deadline = Date(timeIntervalSinceNow: 30)
            while try segments() > 1, Date() < deadline { Thread.sleep(forTimeInterval: 0.05) }
            #expect(try segments() == 1)
            append(40..<80)
            while try segments() > 1, Date() < deadline { Thread.sleep(forTimeInterval: 0.05) }
            #expect(try segments() == 1)
            log.stop()
            push.waitUntilDone()
            try writer.pipeline.stop()
            #expect(writer.pipeline.summary.accepted == 80)
        }
        #expect(try HistoryReader(directory: scratch.path, catalog: catalog).eventCount(stream: "orders") == 80)
        // The log goes on where it was.
        try scratch.withWriter(catalog) { writer in
            let log = try PushLog(directory: scratch.path + "/push", segmentBytesMax: 400)
            defer { log.stop() }
            _ = try PushIngest(log: log, catalog: catalog, pipeline: writer.pipeline, history: writer.history)
        }
    }

    /// A mistyped crash point would make a test of crashes pass that never crashes.
    @Test func crashPointsAreChecked() throws {
        #expect(try CrashPoint.parse("submitted") == (.submitted, 1))
        #expect(try CrashPoint.parse("history-written:3") == (.historyWritten, 3))
        for text in ["", "history-inserted:3", "submitted:0", "submitted:x", "submitted:1:2", ":1"] {
            let error = #expect(throws: CrashPointError.self) { _ = try CrashPoint.parse(text) }
            #expect(error?.description.contains("WEIR_CRASH_AT=\(text)") == true && error?.description.contains("shard-applied") == true)
        }
    }
}
