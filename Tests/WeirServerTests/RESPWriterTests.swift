import NIOCore
import Testing
import WeirAlgebra
import WeirServer

private func written(_ version: RESPVersion, _ body: (inout RESPWriter) -> Void) -> String {
    var writer = RESPWriter(version: version)
    body(&writer)
    return String(buffer: writer.buffer)
}

@Suite struct RESPWriterTests {
    @Test(arguments: [
        (FeatureValue.null, "$-1\r\n", "_\r\n"),
        (.int(0), "$1\r\n0\r\n", ":0\r\n"), (.int(-7), "$2\r\n-7\r\n", ":-7\r\n"),
        (.int(.min), "$20\r\n-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
        (.int(.max), "$19\r\n9223372036854775807\r\n", ":9223372036854775807\r\n"),
        (.double(0.1), "$3\r\n0.1\r\n", ",0.1\r\n"), (.double(100), "$5\r\n100.0\r\n", ",100.0\r\n"),
        (.double(1e-05), "$5\r\n1e-05\r\n", ",1e-05\r\n"), (.double(1e16), "$5\r\n1e+16\r\n", ",1e+16\r\n"),
        (.double(-0.0), "$4\r\n-0.0\r\n", ",-0.0\r\n"), (.double(.leastNonzeroMagnitude), "$6\r\n5e-324\r\n", ",5e-324\r\n"),
        (.bool(true), "$4\r\ntrue\r\n", "#t\r\n"), (.bool(false), "$5\r\nfalse\r\n", "#f\r\n"),
        (.string(""), "$0\r\n\r\n", "$0\r\n\r\n"), (.string("é\r\n"), "$4\r\né\r\n\r\n", "$4\r\né\r\n\r\n"),
        (.list([]), "$2\r\n[]\r\n", "*0\r\n"),
        (
            .list([.int(1), .null, .string("a\"\n")]), "$16\r\n[1,null,\"a\\\"\\n\"]\r\n",
            "*3\r\n:1\r\n_\r\n$3\r\na\"\n\r\n"
        ),
        (
            .map([.init(key: "a", value: .double(2)), .init(key: "b", value: .list([.bool(true)]))]),
            "$20\r\n{\"a\":2.0,\"b\":[true]}\r\n", "%2\r\n$1\r\na\r\n,2.0\r\n$1\r\nb\r\n*1\r\n#t\r\n"
        ),
    ])
    func featureValues(_ value: FeatureValue, _ resp2: String, _ resp3: String) {
        #expect(written(.resp2) { $0.write(featureValue: value) } == resp2)
        #expect(written(.resp3) { $0.write(featureValue: value) } == resp3)
    }

    @Test func repliesAsATree() {
        let tree = ReplyValue.map([
            "a": .array([.int(1), .null, .simple("OK"), .bytes([0x41])]), "t": .text("x\ny"), "d": .double(.infinity),
        ])
        #expect(
            written(.resp2) { $0.write(tree) }
                == "*6\r\n$1\r\na\r\n*4\r\n:1\r\n$-1\r\n+OK\r\n$1\r\nA\r\n$1\r\nt\r\n$3\r\nx\ny\r\n$1\r\nd\r\n$3\r\ninf\r\n")
        #expect(
            written(.resp3) { $0.write(tree) }
                == "%3\r\n$1\r\na\r\n*4\r\n:1\r\n_\r\n+OK\r\n$1\r\nA\r\n$1\r\nt\r\n=7\r\ntxt:x\ny\r\n$1\r\nd\r\n,inf\r\n")
    }

    @Test func errorsAreOneLine() {
        #expect(written(.resp2) { $0.error(CommandError("a\r\nb\0\n+OK")) } == "-ERR a  b  +OK\r\n")
        #expect(written(.resp3) { $0.error(CommandError("x", code: "NOAUTH")) } == "-NOAUTH x\r\n")
    }

    @Test func longStringsAreWhole() {
        let text = String(repeating: "0123456789", count: 500_000)
        #expect(written(.resp2) { $0.bulk(text) } == "$5000000\r\n\(text)\r\n")
    }
}
