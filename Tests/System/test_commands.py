"""The command line, the protocol and the packages around them, as users have them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import pathlib
import shutil
import struct
import subprocess
import time
import urllib.error
import urllib.request

import pytest
import redis
import redis.asyncio

import oracle
from harness import LONG, REPOSITORY, SLICE, WEIR, Broker, Server, as_json, export, history_count, read_rows, wait_applied, wait_for, weir, write_rows


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of the first lines, and the lines."""
    folder = tmp_path_factory.mktemp("store")
    rows = read_rows(SLICE)[:2_000]
    write_rows(folder / "events.csv", rows)
    weir("ingest", "purchases", folder / "events.csv", "--data", folder / "data")
    return folder / "data", rows, folder


def request_for(row) -> str:
    return json.dumps({"household": int(row["household"]), "basket": int(row["basket"]), "store": int(row["store"]), "cart_value": 20})


def test_usage_and_errors(store, tmp_path):
    data, rows, _ = store
    assert weir("--help").stdout.count("weir") > 3
    assert weir("run", "--nonsense", check=False).returncode == 64
    assert weir("ingest", check=False).returncode == 64
    missing = weir("get", "checkout_offer", "{}", "--data", tmp_path / "none", check=False)
    assert missing.returncode == 1 and "no store" in missing.stderr
    wrong = weir("get", "no_such", "{}", "--data", data, check=False)
    assert wrong.returncode == 1 and "checkout_offer" in wrong.stderr
    field = weir("get", "checkout_offer", '{"household": 1}', "--data", data, check=False)
    assert field.returncode == 1 and "'basket'" in field.stderr
    stream = weir("ingest", "nonsense", SLICE, "--data", data, check=False)
    assert stream.returncode == 1 and "purchases" in stream.stderr
    shards = weir("ingest", "purchases", SLICE, "--data", data, "--shards", 5, check=False)
    assert shards.returncode == 1 and "rebuild" in shards.stderr


def test_files_are_known_by_content(tmp_path):
    rows = read_rows(SLICE)[:1_000]
    path = tmp_path / "events.csv"
    write_rows(path, rows[:400])
    weir("ingest", "purchases", path, "--data", tmp_path / "data")
    copy = tmp_path / "copy.csv"
    copy.write_bytes(path.read_bytes())
    assert "known already" in weir("ingest", "purchases", copy, "--data", tmp_path / "data").stdout
    write_rows(path, rows)
    weir("ingest", "purchases", path, "--data", tmp_path / "data")
    assert history_count(tmp_path / "data") == 1_000
    text = path.read_text().replace("GROCERY", "GROCERIES", 1)
    path.write_text(text)
    refused = weir("ingest", "purchases", path, "--data", tmp_path / "data", check=False)
    assert refused.returncode == 1 and "has changed" in refused.stderr and "byte 0" in refused.stderr
    assert history_count(tmp_path / "data") == 1_000
    # Other content under one identity: a dead letter, and the first stays.
    write_rows(tmp_path / "conflict.csv", [dict(rows[0], price="999")])
    weir("ingest", "purchases", tmp_path / "conflict.csv", "--data", tmp_path / "data")
    assert "conflicting duplicate" in weir("dead-letters", "list", "--data", tmp_path / "data").stdout


def test_ingest_times_and_as_known(tmp_path):
    rows = [dict(row, known="2017-01-05T00:00:00Z") for row in read_rows(SLICE)[:300]]
    rows[5]["known"] = "2017-03-01T00:00:00Z"
    write_rows(tmp_path / "events.csv", rows, [*rows[0]])
    weir("ingest", "purchases", tmp_path / "events.csv", "--data", tmp_path / "data", "--ingest-time-column", "known")
    row = rows[5]
    spine = "event_timestamp,household,basket,store,cart_value\n" + "".join(
        f"{time},{row['household']},{row['basket']},{row['store']},1\n" for time in ["2017-01-20T00:00:00Z", "2017-03-02T00:00:00Z"])
    (tmp_path / "spine.csv").write_text(spine)
    plain = list(csv.DictReader(io.StringIO(export(tmp_path / "data", tmp_path / "spine.csv", tmp_path / "a.csv").decode())))
    known = list(csv.DictReader(io.StringIO(export(tmp_path / "data", tmp_path / "spine.csv", tmp_path / "b.csv", "--as-known").decode())))
    assert int(plain[0]["purchases_lifetime"]) == int(known[0]["purchases_lifetime"]) + 1
    assert plain[1]["purchases_lifetime"] == known[1]["purchases_lifetime"]


def test_spine_errors(store, tmp_path):
    data, rows, _ = store
    def refused(text: str) -> str:
        (tmp_path / "spine.csv").write_text(text)
        done = weir("export", "checkout_offer", "--spine", tmp_path / "spine.csv", "--out", tmp_path / "out.csv", "--data", data, check=False)
        assert done.returncode == 1 and not (tmp_path / "out.csv").exists()
        return done.stderr
    header = "event_timestamp,household,basket,store,cart_value"
    assert "line 3" in refused(f"{header}\n2017-01-01T00:00:00Z,1,2,3,4\n,1,2,3,4\n")
    assert "line 2" in refused(f"{header}\n2017-01-01T00:00:00Z,x,2,3,4\n")
    assert "household" in refused("event_timestamp,basket,store,cart_value\n2017-01-01T00:00:00Z,2,3,4\n")
    assert "--timestamp-column" in refused("when,household,basket,store,cart_value\n2017-01-01T00:00:00Z,1,2,3,4\n")
    assert "spend_7d" in refused(f"{header},spend_7d\n2017-01-01T00:00:00Z,1,2,3,4,5\n")


def test_serve_beside_run(store):
    data, rows, folder = store
    with Server(data, "--clock", "event") as writer:
        second = weir("run", "--data", data, "--port", 0, "--http", 0, check=False)
        assert second.returncode == 1 and "another weir process" in second.stderr
        assert weir("ingest", "purchases", SLICE, "--data", data, check=False).returncode == 1
        with Server(data, "--clock", "event", command="serve") as reader:
            request = request_for(rows[-1])
            command = ("FEATURES.GET", "checkout_offer", request)
            assert reader.client().execute_command(*command) == writer.client().execute_command(*command)
            new = dict(rows[-1], id="new")
            writer.client().execute_command("EVENTS.ADD", "purchases", as_json(new))
            wait_for(lambda: reader.client().execute_command(*command) == writer.client().execute_command(*command)
                     and reader.client().hget(f"household_spend:{new['household']}", "last_department") == new["department"])
            with pytest.raises(redis.ResponseError, match="only answers lookups"):
                reader.client().execute_command("EVENTS.ADD", "purchases", as_json(new))
        got = json.loads(weir("get", "checkout_offer", request, "--data", data, "--clock", "event").stdout)
        assert list(got) == oracle.CHECKOUT_OFFER
        assert urllib.request.urlopen(f"http://127.0.0.1:{writer.http}/healthz").status == 200
        assert urllib.request.urlopen(f"http://127.0.0.1:{writer.http}/readyz").status == 200
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{writer.http}/nothing")


def test_redis_clients(store):
    data, rows, _ = store
    row = rows[-1]
    key = f"household_spend:{row['household']}"
    with Server(data, "--clock", "event") as server:
        two, three = server.client(2), server.client(3)
        assert two.ping() and three.ping()
        names = ["purchases_28d", "spend_28d", "last_department", "top_departments_28d", "price_vs_usual"]
        flat = two.hmget(key, names)
        typed = three.hmget(key, names)
        assert isinstance(typed[0], int) and isinstance(typed[1], float) and isinstance(typed[3], list)
        assert flat == [str(typed[0]), repr(typed[1]), typed[2], json.dumps(typed[3], separators=(",", ":"), ensure_ascii=False), repr(typed[4])]
        assert list(two.hgetall(key)) == oracle.HOUSEHOLD_SPEND
        assert two.hgetall(f"household_spend:00{row['household']}") == two.hgetall(key)
        assert two.exists(key) == 1 and two.exists("household_spend:987654") == 0
        assert two.hmget("household_spend:987654", names) == ["0", "0.0", None, "[]", None]
        for command in (["HMGET", "nothing:1", "x"], ["HMGET", key, "nothing"], ["HMGET", "household_spend:abc", "spend_7d"],
                        ["FEATURES.GET", "nothing", "{}"], ["FEATURES.GET", "checkout_offer", '{"x": 1}'], ["NO.SUCH"], ["SELECT", "5"],
                        ["FEATURES.GET", "checkout_offer", request_for(row), "AT", "yesterday"], ["EVENTS.ADD", "purchases", "{}"]):
            with pytest.raises(redis.ResponseError):
                two.execute_command(*command)
        assert two.execute_command("FEATURES.LIST") and three.execute_command("FEATURES.DESCRIBE", "checkout_offer")
        several = two.execute_command("FEATURES.GET", "checkout_offer", request_for(row), request_for(rows[0]))
        assert len(several) == 2
        assert three.execute_command("FEATURES.GET", "checkout_offer", request_for(row), "META")["meta"]["spend_7d"]["status"] == "PRESENT"
        # If one event of a push is malformed none is taken.
        with pytest.raises(redis.ResponseError, match="event 2"):
            two.execute_command("EVENTS.ADD", "purchases", as_json(dict(row, id="half")), '{"id": 1}')
        # Sessions that the server holds.
        two.execute_command("SESSION.ADD", "s1", "purchases", as_json(dict(row, id="in-session")))
        assert len(two.execute_command("SESSION.GET", "s1")) > 0
        with_session = two.execute_command("FEATURES.GET", "checkout_offer", request_for(row), "SESSIONID", "s1")
        assert with_session != two.execute_command("FEATURES.GET", "checkout_offer", request_for(row))
        assert int(two.execute_command("SESSION.DROP", "s1")) == 1
        assert two.execute_command("FEATURES.GET", "checkout_offer", request_for(row), "SESSIONID", "s1") == two.execute_command(
            "FEATURES.GET", "checkout_offer", request_for(row))
        shell = subprocess.run(["redis-cli", "-p", str(server.port), "HMGET", key, "purchases_28d", "last_department"], capture_output=True, text=True)
        assert shell.stdout.split("\n")[:2] == [flat[0], flat[2]]
        shell = subprocess.run(["redis-cli", "-3", "-p", str(server.port), "FEATURES.GET", "checkout_offer", request_for(row)], capture_output=True, text=True)
        assert "avg_price_28d" in shell.stdout

        async def asynchronously():
            client = redis.asyncio.Redis(port=server.port, protocol=3, decode_responses=True)
            results = await asyncio.gather(*[client.hmget(key, names) for _ in range(50)])
            await client.aclose()
            return results
        assert all(result == typed for result in asyncio.run(asynchronously()))


def test_sessions_expire(store):
    data, rows, _ = store
    with Server(data, "--clock", "event", "--session-ttl", 1) as server:
        client = server.client()
        client.execute_command("SESSION.ADD", "s", "purchases", as_json(dict(rows[-1], id="x")))
        time.sleep(1)
        wait_for(lambda: not client.execute_command("SESSION.GET", "s"), 20)


OUTSIDE = {
    "Package.swift": """// swift-tools-version: 6.2
import PackageDescription
let package = Package(
    name: "clinic",
    dependencies: [
        .package(name: "weir", path: "REPOSITORY"), .package(url: "https://github.com/apple/swift-protobuf.git", from: "1.39.0"),
    ],
    targets: [
        .executableTarget(name: "clinic", dependencies: [.product(name: "Weir", package: "weir")]),
        .executableTarget(
            name: "machines",
            dependencies: [.product(name: "Weir", package: "weir"), .product(name: "SwiftProtobuf", package: "swift-protobuf")]),
    ])
""",
    "Sources/clinic/Clinic.swift": """import Weir

enum Patient: Entity { typealias ID = String; static let name = "patient" }

struct Visit: Event {
    static let stream = "visits"
    static var timestampUnit: TimestampUnit? { .seconds }
    var id: Int
    var patient: String?
    var minutes: Int
    var eventTime: EventTime
}

struct PatientVisits: FeatureView {
    typealias Subject = Patient
    static func key(of visit: Visit) -> Patient.ID? { visit.patient }
    let minutes7d = Aggregate.sum(\\.COLUMN, over: .sliding(.days(7)))
    let visits = Aggregate.count(over: .lifetime)
    let minutesPerVisit = Derived(\\PatientVisits.minutes7d, \\PatientVisits.visits) { Double($0) / Double($1) }
}

struct Triage: FeatureService {
    struct Request: Codable, Sendable { var patient: String? }
    let patient = Join(PatientVisits.self, on: { (request: Request) in request.patient })
    var outputs: [Output<Request>] {
        patient.all
    }
}

@main struct Clinic: FeatureStoreApp {
    var catalog: Catalog {
        PatientVisits.self
        Triage.self
    }
}
""",
}


def test_outside_package(tmp_path):
    """A package of its own, with its own definitions, is its own server; a mistyped property does not compile."""
    folder = REPOSITORY / ".build_outside"
    for name, text in OUTSIDE.items():
        path = folder / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("REPOSITORY", str(REPOSITORY)).replace("COLUMN", "minutse"))
    # The example of a topic of Protobuf messages is built along.
    shutil.copytree(REPOSITORY / "Examples/Protobuf/Sources/machines", folder / "package/Sources/machines", dirs_exist_ok=True)
    build = ["swift", "build", "-c", "release", "--package-path", str(folder / "package"), "--scratch-path", str(folder / "build")]
    done = subprocess.run(build, capture_output=True, text=True, timeout=1_500)
    assert done.returncode != 0 and "has no member 'minutse'" in done.stdout + done.stderr
    source = folder / "package/Sources/clinic/Clinic.swift"
    source.write_text(OUTSIDE["Sources/clinic/Clinic.swift"].replace("COLUMN", "minutes"))
    done = subprocess.run(build, capture_output=True, text=True, timeout=1_500)
    assert done.returncode == 0, done.stdout + done.stderr
    clinic = folder / "build/release/clinic"
    (tmp_path / "visits.jsonl").write_text("".join(
        json.dumps({"id": number, "patient": "Ada: \\" if number % 2 else None, "minutes": number, "event_time": 1_700_000_000 + number / 4}) + "\n"
        for number in range(10)))
    subprocess.run([clinic, "ingest", "visits", tmp_path / "visits.jsonl", "--data", tmp_path / "data"], check=True)
    got = subprocess.run([clinic, "get", "triage", json.dumps({"patient": "Ada: \\"}), "--data", tmp_path / "data", "--clock", "event"],
                         capture_output=True, text=True, check=True)
    assert json.loads(got.stdout) == {"minutes_7d": 25, "visits": 5, "minutes_per_visit": 5.0}
    got = subprocess.run([clinic, "get", "triage", "{}", "--data", tmp_path / "data"], capture_output=True, text=True, check=True)
    assert json.loads(got.stdout) == {"minutes_7d": 0, "visits": 0, "minutes_per_visit": None}
    # Another executable's definitions over the same data are refused, with the way out.
    other = weir("get", "checkout_offer", "{}", "--data", tmp_path / "data", check=False)
    assert other.returncode == 1 and "rebuild" in other.stderr
    check_protobuf(folder / "build/release/machines", tmp_path)


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def reading(number: int, machine: int, temperature: float, time: int, operator: str | None = None) -> bytes:
    """A MachineReading as Protobuf."""
    name = f"r{number}".encode()
    message = b"\x0a" + varint(len(name)) + name + b"\x10" + varint(machine) + b"\x19" + struct.pack("<d", temperature) + b"\x20" + varint(time)
    return message if operator is None else message + b"\x2a" + varint(len(operator)) + operator.encode()


def check_protobuf(machines, folder) -> None:
    """A topic of Protobuf messages, decoded by the event itself; what does not parse is a dead letter."""
    start = 1_700_000_000_000_000
    messages = [reading(n, n % 2, 20 + n / 4, start + n * 1_000_000, "Ada" if n % 3 else None) for n in range(40)]
    messages.insert(7, b"\x0a\xff\xffnot a message")
    (folder / "messages").mkdir()
    for number, message in enumerate(messages):
        (folder / f"messages/{number:03}").write_bytes(message)
    with Broker(folder / "broker") as broker:
        subprocess.run(["kcat", "-P", "-b", broker.address, "-t", "readings", *sorted(map(str, (folder / "messages").iterdir()))], check=True)
        data = folder / "readings"
        with Server(data, "--clock", "event", "--kafka", broker.address, binary=str(machines)) as server:
            wait_for(lambda: history_count(data, "readings") == 40)
            wait_applied(data, binary=machines)
            got = server.client(3).execute_command("FEATURES.GET", "alarm", '{"machine": 1}')
            assert got == {"max_temperature_1h": 20 + 39 / 4, "readings": 20}
    letters = subprocess.run([machines, "dead-letters", "list", "--data", data], capture_output=True, text=True, check=True).stdout
    assert letters.count("\n") == 1 and "does not decode" in letters and "\\xff" in letters
    shell = subprocess.run(["sqlite3", f"{data}/history.sqlite", "select count(operator) from readings"], capture_output=True, text=True)
    assert shell.stdout == "26\n"
