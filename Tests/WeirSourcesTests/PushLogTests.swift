import Foundation
import Synchronization
import Testing
import WeirSources

@Suite struct PushLogTests {
    func directory() -> String { FileManager.default.temporaryDirectory.appendingPathComponent("weir-push-\(UUID().uuidString)").path }

    func append(_ log: PushLog, _ stream: String, _ events: [String]) {
        let done = DispatchSemaphore(value: 0)
        log.append(stream: stream, events: events.map { Array($0.utf8) }) { result in
            #expect(throws: Never.self) { try result.get() }
            done.signal()
        }
        done.wait()
    }

    func readAll(_ log: PushLog, from start: Int64 = 0) throws -> [String] {
        var position = start
        var events: [String] = []
        while position < log.endOffset, let record = try log.read(at: position, timeout: 1) {
            events += record.events.map { record.stream + ":" + String(decoding: $0, as: UTF8.self) }
            position = record.nextOffset
        }
        return events
    }

    @Test func whatIsAcknowledgedIsThere() throws {
        let directory = directory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let log = try PushLog(directory: directory, segmentBytesMax: 200)
        var expected: [String] = []
        for number in 0..<50 {
            append(log, "s", ["{\(number)}", "{}"])
            expected += ["s:{\(number)}", "s:{}"]
        }
        #expect(try readAll(log) == expected)
        let end = log.endOffset
        log.stop()
        let again = try PushLog(directory: directory, segmentBytesMax: 200)
        #expect(again.endOffset == end)
        #expect(try readAll(again) == expected)
        again.trim(before: end)
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory).count == 1)
        #expect(throws: PushLogError.self) { try again.read(at: 0, timeout: 0) }
        append(again, "t", ["x"])
        #expect(try readAll(again, from: end) == ["t:x"])
        again.stop()
    }

    /// A crash may leave the last record cut at any byte: what was acknowledged before it stays, and the log goes on.
    @Test func tornTails() throws {
        let directory = directory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let log = try PushLog(directory: directory)
        append(log, "s", ["first"])
        let kept = log.endOffset
        append(log, "s", ["second"])
        let end = log.endOffset
        log.stop()
        let file = directory + "/00000000000000000000.log"
        let whole = try Data(contentsOf: URL(fileURLWithPath: file))
        for cut in Int(kept)..<Int(end) {
            try whole.prefix(cut).write(to: URL(fileURLWithPath: file))
            let torn = try PushLog(directory: directory)
            #expect(torn.endOffset == kept)
            #expect(try readAll(torn) == ["s:first"])
            torn.stop()
        }
        var flipped = whole
        flipped[flipped.count - 1] ^= 1
        try flipped.write(to: URL(fileURLWithPath: file))
        let torn = try PushLog(directory: directory)
        append(torn, "s", ["third"])
        #expect(try readAll(torn) == ["s:first", "s:third"])
        torn.stop()
    }

    /// A damaged record before intact ones is no torn tail: what follows was acknowledged, and is not cut off.
    @Test(arguments: [0, 3, 11, 12, 20]) func damageIsNoTornTail(byte: Int) throws {
        let directory = directory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let log = try PushLog(directory: directory)
        append(log, "s", ["first and long enough"])
        let second = log.endOffset
        append(log, "s", ["second"])
        log.stop()
        let file = directory + "/00000000000000000000.log"
        var bytes = try Data(contentsOf: URL(fileURLWithPath: file))
        bytes[byte] ^= 1
        try bytes.write(to: URL(fileURLWithPath: file))
        let error = #expect(throws: PushLogError.self) { _ = try PushLog(directory: directory) }
        #expect(error?.description.contains("\(file) is damaged at byte 0") == true, "\(error?.description ?? "")")
        #expect(error?.description.contains("byte \(second)") == true)
        #expect(try Data(contentsOf: URL(fileURLWithPath: file)) == bytes)
        #expect(throws: PushLogError.self) { _ = try PushLog.reaches(0, directory: directory) }
        // The way out that docs/OPERATIONS.md names.
        #expect(truncate(file, 0) == 0)
        let empty = try PushLog(directory: directory)
        #expect(empty.endOffset == 0)
        empty.stop()
    }

    /// Whether a copied log goes on from where a history is.
    @Test func copiesReachTheirHistory() throws {
        let directory = directory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        #expect(throws: PushLogError.self) { _ = try PushLog.reaches(0, directory: directory) }
        let log = try PushLog(directory: directory, segmentBytesMax: 100)
        #expect(try PushLog.reaches(0, directory: directory))
        for number in 0..<20 { append(log, "s", ["{\(number)}", String(repeating: "x", count: 40)]) }
        let end = log.endOffset
        log.stop()
        let files = try FileManager.default.contentsOfDirectory(atPath: directory).sorted()
        #expect(files.count > 5)
        for offset in [0, end / 2, end] { #expect(try PushLog.reaches(offset, directory: directory)) }
        #expect(try !PushLog.reaches(end + 1, directory: directory))
        // A segment in the middle is missing.
        let middle = files[3]
        try FileManager.default.removeItem(atPath: directory + "/" + middle)
        let start = Int64(middle.dropLast(4))!
        #expect(try !PushLog.reaches(0, directory: directory) && !PushLog.reaches(start, directory: directory))
        #expect(try PushLog.reaches(Int64(files[4].dropLast(4))!, directory: directory))
        // The first ones are trimmed.
        for file in files[..<3] { try FileManager.default.removeItem(atPath: directory + "/" + file) }
        #expect(try !PushLog.reaches(start, directory: directory) && PushLog.reaches(end, directory: directory))
    }

    /// Nothing that was pushed stays in a file, and the log goes on at the same offset, also when that is done again.
    @Test func allOfItIsTrimmed() throws {
        let directory = directory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        var log = try PushLog(directory: directory, segmentBytesMax: 100)
        for number in 0..<10 { append(log, "s", ["{\(number)}", String(repeating: "x", count: 40)]) }
        let end = log.endOffset
        log.stop()
        #expect(try log.trimAll() == end)
        for isAgain in [false, true] {
            let names = try FileManager.default.contentsOfDirectory(atPath: directory)
            #expect(names.count == 1 && FileManager.default.contents(atPath: directory + "/" + names[0])?.isEmpty == true)
            log = try PushLog(directory: directory, segmentBytesMax: 100)
            #expect(log.endOffset == end)
            log.stop()
            if !isAgain { #expect(try log.trimAll() == 0) }
        }
        log = try PushLog(directory: directory)
        append(log, "s", ["{}"])
        #expect(try readAll(log, from: end) == ["s:{}"])
        log.stop()
    }
}

/// What waits is bounded: pushes beyond are refused at once, and taken again when there is room.
@Suite struct PushOverloadTests {
    private func directory() -> String {
        FileManager.default.temporaryDirectory.appendingPathComponent("weir-push-\(UUID().uuidString)").path
    }

    private final class Outcomes: Sendable {
        struct Counts { var taken: [Int] = []; var refused = 0; var other = 0 }
        let counts = Mutex(Counts())
        let done = DispatchSemaphore(value: 0)
    }

    @Test func theQueueForTheDisk() throws {
        let directory = directory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let log = try PushLog(directory: directory, queueBytesMax: 64 << 10)
        let outcomes = Outcomes()
        let event = [UInt8](repeating: UInt8(ascii: "x"), count: 1_024)
        let total = 20_000
        for number in 0..<total {
            log.append(stream: "s", events: [Array("\(number) ".utf8) + event]) { result in
                outcomes.counts.withLock { counts in
                    switch result {
                    case .success: counts.taken.append(number)
                    case .failure(let error) where error.isTransient && "\(error)".contains("wait for the disk"): counts.refused += 1
                    case .failure: counts.other += 1
                    }
                }
                outcomes.done.signal()
            }
            #expect(log.bytesWaiting <= 64 << 10)
        }
        for _ in 0..<total { outcomes.done.wait() }
        let counts = outcomes.counts.withLock { $0 }
        #expect(counts.taken.count + counts.refused == total && counts.other == 0)
        #expect(counts.refused > 0 && !counts.taken.isEmpty, "\(counts.taken.count) taken, \(counts.refused) refused")
        // What was taken is there, and there is room again; one larger than the queue is taken where nothing waits.
        log.append(stream: "s", events: [[UInt8](repeating: 1, count: 100_000)]) { result in
            #expect(throws: Never.self) { try result.get() }
            outcomes.done.signal()
        }
        outcomes.done.wait()
        var position: Int64 = 0
        var numbers: [Int] = []
        while position < log.endOffset, let record = try log.read(at: position, timeout: 1) {
            if record.events[0].count < 2_000 {
                numbers.append(Int(String(decoding: record.events[0].prefix { $0 != 32 }, as: UTF8.self))!)
            }
            position = record.nextOffset
        }
        #expect(numbers == counts.taken)
        log.stop()
    }

    @Test func theReaderThatIsBehind() throws {
        let directory = directory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let log = try PushLog(directory: directory, backlogBytesMax: 10_000)
        func append() -> PushLogError? {
            let done = DispatchSemaphore(value: 0)
            let found = Problem()
            log.append(stream: "s", events: [[UInt8](repeating: 1, count: 1_000)]) { result in
                if case .failure(let problem) = result { found.value.withLock { $0 = problem } }
                done.signal()
            }
            done.wait()
            return found.value.withLock { $0 }
        }
        _ = try log.read(at: 0, timeout: 0)
        var taken = 0
        while append() == nil { taken += 1 }
        #expect(taken == 10)
        let problem = try #require(append())
        #expect(problem.isTransient && "\(problem)".contains("wait for the history"))
        let first = try #require(try log.read(at: 0, timeout: 1))
        _ = try log.read(at: first.nextOffset, timeout: 1)
        #expect(append() == nil)
        log.stop()
    }
}

private final class Problem: Sendable {
    let value = Mutex<PushLogError?>(nil)
}
