import Foundation
import Testing
import WeirAlgebra
import WeirRecords
import WeirTesting

@Suite struct TimeTextTests {
    @Test(
        arguments: [
            ("1970-01-01T00:00:00Z", 0), ("1970-01-01t00:00:00z", 0), ("1969-12-31T23:59:59.999999Z", -1),
            ("2017-01-01T11:53:26Z", 1_483_271_606_000_000), ("2017-01-01T11:53:26.5Z", 1_483_271_606_500_000),
            ("2017-01-01T11:53:26.000001Z", 1_483_271_606_000_001),
            ("2017-01-01T12:53:26+01:00", 1_483_271_606_000_000),
            ("2017-01-01T06:23:26-05:30", 1_483_271_606_000_000), ("2016-02-29T00:00:00Z", 1_456_704_000_000_000),
            ("2000-02-29T00:00:00Z", 951_782_400_000_000), ("1600-02-29T00:00:00Z", -11_670_998_400_000_000),
            ("0001-01-01T00:00:00Z", -62_135_596_800_000_000), ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
            ("1970-01-01T00:00:00+23:59", -86_340_000_000), ("1970-01-01T00:00:00-00:00", 0),
        ] as [(String, Int64)])
    func accepted(text: String, microseconds: Int64) throws {
        #expect(try TimeText.parseRFC3339(text) == microseconds)
    }

    @Test(arguments: [
        ("", "missing"), ("2017", "missing"), ("2017-01-01", "missing"), ("2017-01-01T11:53Z", "missing"),
        ("2017-01-01T11:53:26", "offset"), ("2017-13-01T00:00:00Z", "no month 13"),
        ("2017-00-01T00:00:00Z", "no month 0"),
        ("2017-02-29T00:00:00Z", "no day 29"), ("1900-02-29T00:00:00Z", "no day 29"),
        ("1800-02-29T00:00:00Z", "no day 29"),
        ("2017-04-31T00:00:00Z", "no day 31"),
        ("2017-01-00T00:00:00Z", "no day 0"), ("2017-01-01T24:00:00Z", "time of day"),
        ("2017-01-01T00:60:00Z", "time of day"),
        ("2016-12-31T23:59:60Z", "time of day"), ("2017-01-01T00:00:00.Z", "digit"),
        ("2017-01-01T00:00:00.1234567Z", "six decimals"),
        ("2017-01-01T00:00:00+24:00", "offset"), ("2017-01-01T00:00:00+01:60", "offset"),
        ("2017-01-01T00:00:00+0100", "missing"),
        ("2017-01-01T00:00:00Zx", "follows"), ("2017-01-01T00:00:00Z ", "follows"), ("17-01-01T00:00:00Z", "missing"),
        ("+017-01-01T00:00:00Z", "digit"), ("2017/01/01T00:00:00Z", "'-'"), ("12017-01-01T00:00:00Z", "'-'"),
        ("2017-01-01X00:00:00Z", "'T'"), ("２017-01-01T00:00:00Z", "digit"), ("2017-01-01T00:00:00.-1Z", "digit"),
    ])
    func refused(text: String, reason: String) {
        #expect {
            try TimeText.parseRFC3339(text)
        } throws: { error in "\(error)".contains(reason) }
    }

    @Test(
        arguments: [
            ("0", .seconds, 0), ("1.5", .seconds, 1_500_000), ("-1.5", .seconds, -1_500_000),
            ("1.000001", .seconds, 1_000_001),
            ("1.0000010000", .seconds, 1_000_001), ("1483271606000", .milliseconds, 1_483_271_606_000_000),
            ("0.001", .milliseconds, 1),
            ("-1", .milliseconds, -1_000), ("7", .microseconds, 7), ("7.0", .microseconds, 7),
            ("253402300799999999", .microseconds, 253_402_300_799_999_999), ("253402300799", .seconds, 253_402_300_799_000_000),
            ("-62167219200", .seconds, -62_167_219_200_000_000),
        ] as [(String, TimestampUnit, Int64)])
    func numbers(text: String, unit: TimestampUnit, microseconds: Int64) throws {
        let parsed = try Array(text.utf8).withUnsafeBytes { try TimeText.parseNumber($0, unit: unit) }
        #expect(parsed == microseconds)
    }

    @Test(
        arguments: [
            ("1.0000001", .seconds, "whole number of microseconds"),
            ("0.0001", .milliseconds, "whole number of microseconds"),
            ("0.5", .microseconds, "whole number of microseconds"),
            ("9223372036854775808", .microseconds, "out of range"),
            ("9223372036854775", .milliseconds, "out of range"), ("9223372036854776", .milliseconds, "out of range"),
            ("253402300799999", .milliseconds, nil), ("253402300800000", .milliseconds, "years 0 to 9999"),
            ("-62167219200.000001", .seconds, "years 0 to 9999"), ("9223372036854775807", .microseconds, "years 0 to 9999"),
            ("-9223372036854775807", .microseconds, "years 0 to 9999"),
            ("99999999999999999999", .seconds, "out of range"), ("1e3", .seconds, "no time"),
            ("1.2.3", .seconds, "no time"),
            ("-", .seconds, "no time"), (".5", .seconds, "no time"), ("abc", .seconds, "no time"),
            ("", .seconds, "no time"),
            ("5", nil, "no unit"),
        ] as [(String, TimestampUnit?, String?)])
    func refusedNumbers(text: String, unit: TimestampUnit?, reason: String?) throws {
        do {
            _ = try Array(text.utf8).withUnsafeBytes { try TimeText.parseNumber($0, unit: unit) }
            #expect(reason == nil)
        } catch {
            #expect("\(error)".contains(try #require(reason)), "\(error)")
        }
    }

    /// Against Foundation's calendar, which shares no code with ours, and back through text.
    @Test func randomTimesAgreeWithTheCalendar() throws {
        var random = SeededGenerator("randomTimesAgreeWithTheCalendar")
        // From 1600, since Foundation changes to the Julian calendar in 1582.
        let range = Int64(-11_676_096_000)...253_402_300_799
        var calendar = Calendar(identifier: .gregorian)
        calendar.timeZone = TimeZone(secondsFromGMT: 0)!
        for _ in 0..<20_000 {
            let seconds = Int64.random(in: range, using: &random)
            let micros = random.chance(2) ? 0 : Int64.random(in: 0..<1_000_000, using: &random)
            let time = EventTime(microseconds: seconds * 1_000_000 + micros)
            let text = TimeText.format(time)
            #expect(try TimeText.parseRFC3339(text) == time.microseconds)
            let parts = calendar.dateComponents(
                [.year, .month, .day, .hour, .minute, .second], from: Date(timeIntervalSince1970: Double(seconds)))
            let expected = String(
                format: "%04d-%02d-%02dT%02d:%02d:%02d", parts.year!, parts.month!, parts.day!, parts.hour!,
                parts.minute!,
                parts.second!)
            #expect(text.hasPrefix(expected), "\(text) is not \(expected)")
        }
    }

    @Test(
        arguments: [
            (0, "1970-01-01T00:00:00Z"), (-1, "1969-12-31T23:59:59.999999Z"), (500_000, "1970-01-01T00:00:00.5Z"),
            (10, "1970-01-01T00:00:00.00001Z"), (253_402_300_800_000_000, "253402300800000000"),
            (.max, "9223372036854775807"),
            (.min, "-9223372036854775808"),
        ] as [(Int64, String)])
    func formatted(microseconds: Int64, text: String) {
        #expect(TimeText.format(EventTime(microseconds: microseconds)) == text)
    }

    @Test(
        arguments: [
            (0, "1970-01-01T00:00:00Z"), (-1, "1969-12-31T23:59:59.999999Z"), (500_000, "1970-01-01T00:00:00.500Z"),
            (10, "1970-01-01T00:00:00.000010Z"), (120_100, "1970-01-01T00:00:00.120100Z"),
        ] as [(Int64, String)])
    func decimalsComeInThrees(microseconds: Int64, text: String) {
        var bytes: [UInt8] = []
        TimeText.append(EventTime(microseconds: microseconds), decimalsStep: 3, to: &bytes)
        #expect(String(decoding: bytes, as: UTF8.self) == text)
    }

    @Test func anEventTimeCodesAsText() throws {
        let time = EventTime(microseconds: 1_483_271_606_500_000)
        let json = try JSONEncoder().encode([time])
        #expect(String(decoding: json, as: UTF8.self) == #"["2017-01-01T11:53:26.5Z"]"#)
        #expect(try JSONDecoder().decode([EventTime].self, from: json) == [time])
        #expect(throws: (any Error).self) { try JSONDecoder().decode([EventTime].self, from: Data("[\"now\"]".utf8)) }
    }
}
