"""New definitions are built from the history beside the old ones, which go on being served; then the server becomes the new program."""

from __future__ import annotations

import collections
import csv
import io
import json
import os
import pathlib
import shutil
import socket
import subprocess
import threading
import time

import oracle
import pytest
import redis
from harness import LONG, REPOSITORY, SLICE, WEIR, Broker, Server, as_json, history_count, read_rows, seeded, wait_applied, wait_for, weir, write_rows
from oracle import DAY, HOUR, format_time, parse_time
from redis.backoff import NoBackoff
from redis.retry import Retry

GROWING = pathlib.Path(WEIR).with_name("GrowingShop")


@pytest.fixture(scope="module")
def shops(tmp_path_factory):
    """Executables of other definitions, by name: which of them it has, each says by its file's name."""
    folder = tmp_path_factory.mktemp("shops")
    names = ["shop", "shop-90d", "shop-closure", "shop-stores", "shop-pinned"]
    for name in names:
        os.link(GROWING, folder / name) if os.stat(GROWING).st_dev == os.stat(folder).st_dev else shutil.copy(GROWING, folder / name)
    return {name: str(folder / name) for name in names}


def run(binary, *arguments, **options) -> subprocess.CompletedProcess:
    return weir(*arguments, binary=binary, **options)


def purchases() -> list[dict]:
    if not LONG:
        return read_rows(SLICE)
    import lzma
    with lzma.open(REPOSITORY.parent / "shared/data/purchases-2017h1.csv.xz", "rt") as file:
        return list(csv.DictReader(file))


def connect(port: int) -> redis.Redis:
    """A client that takes no second try."""
    return redis.Redis(port=port, protocol=3, decode_responses=True, retry=Retry(NoBackoff(), 0), socket_timeout=60)


class Truth:
    """The features of the growing shop, by brute force over rows that have all come."""

    def __init__(self, rows: list[dict]) -> None:
        self.events = collections.defaultdict(list)
        for row in rows:
            self.events[int(row["household"])].append((parse_time(row["event_time"]), row["id"], row))
        for events in self.events.values():
            events.sort(key=lambda event: (event[0], event[1].encode()))

    def offer(self, household: int, cart: float, t: int) -> dict:
        def window(length):
            return [row for at, _, row in self.events[household] if t - length <= at < t]
        month, week, quarter = window(28 * DAY), window(7 * DAY), window(90 * DAY)
        spend = oracle.fsum([float(row["price"]) for row in month])
        spend = 0.0 if spend is None else spend
        before = [row for at, _, row in self.events[household] if at < t]
        groceries = oracle.fsum([float(row["price"]) for row in week if row["department"] == "GROCERY"])
        quarterly = oracle.fsum([float(row["price"]) for row in quarter])
        return {
            "spend_28d": spend, "purchases_28d": len(month), "grocery_7d": groceries or 0.0,
            "last_department": before[-1]["department"] if before else None,
            "spend_90d": quarterly or 0.0, "baskets_90d": len({row["basket"] for row in quarter}),
            "cart_share": cart / spend if spend else None,
        }


class Lookups(threading.Thread):
    """Asks again and again, at a rate, on one connection; every answer is compared."""

    def __init__(self, port: int, asked: list[tuple[int, float, int]], expected: list[dict], rate: float) -> None:
        super().__init__(daemon=True)
        self.client, self.asked, self.expected, self.rate = connect(port), asked, expected, rate
        self.ends = threading.Event()
        self.count, self.longest = 0, 0.0
        self.fields: collections.Counter = collections.Counter()
        self.failures: list[str] = []

    def run(self) -> None:
        start = time.monotonic()
        while not self.ends.is_set():
            number = self.count % len(self.asked)
            household, cart, at = self.asked[number]
            begun = time.monotonic()
            try:
                got = self.client.execute_command("FEATURES.GET", "offer", json.dumps({"household": household, "cart_value": cart}), "AT", format_time(at))
                wrong = {name: (value, self.expected[number][name]) for name, value in got.items() if value != self.expected[number][name]}
                if wrong:
                    self.failures.append(f"household {household} at {format_time(at)}: {wrong}")
                self.fields[len(got)] += 1
            except Exception as error:  # noqa: BLE001 - whatever fails counts
                self.failures.append(f"{type(error).__name__}: {error}")
                if len(self.failures) > 100:
                    return
            self.longest = max(self.longest, time.monotonic() - begun)
            self.count += 1
            time.sleep(max(0.0, start + self.count / self.rate - time.monotonic()))


class Pushes(threading.Thread):
    """Pushes rows on one connection, in order, until there are none."""

    def __init__(self, port: int, rows: list[dict], rate: float) -> None:
        super().__init__(daemon=True)
        self.client, self.rows, self.rate = connect(port), rows, rate
        self.failures: list[str] = []

    def run(self) -> None:
        start = time.monotonic()
        for number in range(0, len(self.rows), 10):
            try:
                some = self.rows[number:number + 10]
                assert int(self.client.execute_command("EVENTS.ADD", "purchases", *map(as_json, some))) == len(some)
            except Exception as error:  # noqa: BLE001
                self.failures.append(f"{type(error).__name__}: {error}")
                return
            time.sleep(max(0.0, start + number / self.rate - time.monotonic()))


def spine_of(rows, rng, count):
    return [(int(row["household"]), rng.choice([5.0, 20.5, 100.0]), parse_time(row["event_time"]) + rng.choice([0, 1, HOUR, DAY]))
            for row in rng.choices(rows, k=count)]


def export(binary, data, folder, spine) -> bytes:
    write_rows(folder / "spine.csv", [{"household": h, "cart_value": c, "event_timestamp": format_time(t)} for h, c, t in spine],
               ["household", "cart_value", "event_timestamp"])
    run(binary, "export", "offer", "--spine", folder / "spine.csv", "--out", folder / "out.csv", "--data", data)
    return (folder / "out.csv").read_bytes()


def test_new_feature_under_load(shops, tmp_path):
    """A feature over 90 days more, while lookups come at 1,000 a second and events are taken in: no lookup fails, none is wrong, and the
    store equals one that is made from nothing."""
    rng = seeded("apply under load")
    rows = purchases()
    count = 16_000 if LONG else 6_000
    later, before = rows[-count:], rows[:-count]
    data = tmp_path / "data"
    write_rows(tmp_path / "before.csv", before)
    write_rows(tmp_path / "all.csv", rows)
    run(shops["shop"], "ingest", "purchases", tmp_path / "before.csv", "--data", data)
    # Times that the later events cannot change.
    latest = parse_time(before[-1]["event_time"])
    asked = [entry for entry in spine_of(before, rng, 3_000) if entry[2] <= latest][:2_000]
    truth = Truth(before)
    expected = [truth.offer(*entry) for entry in asked]
    with Server(data, "--clock", "event", "--log-requests", "0.2", binary=shops["shop"]) as server:
        held = connect(server.port)
        held.execute_command("HELLO", "3", "SETNAME", "held")
        held.execute_command("SESSION.ADD", "visit", "purchases", as_json(later[0]))
        session = held.execute_command("SESSION.GET", "visit")
        idle = socket.create_connection(("127.0.0.1", server.port), 30)
        idle.sendall(b"*2\r\n$4\r\nECHO\r\n$11\r\nhalf a")
        lookups = [Lookups(server.port, asked[part::4], expected[part::4], 250) for part in range(4)]
        pushes = Pushes(server.port, later, 400)
        for thread in [*lookups, pushes]:
            thread.start()
        time.sleep(1)
        plan = run(shops["shop-90d"], "plan", "--data", data)
        assert "+ feature spend.spend_90d" in plan.stdout and "weir apply" in plan.stdout, plan.stdout
        dry = run(shops["shop-90d"], "apply", "--dry-run", "--data", data)
        assert "built and checked" in dry.stdout, dry.stdout
        done = run(shops["shop-90d"], "apply", "--data", data)
        print(done.stdout)
        assert f"switched: process {server.process.pid} is {shops['shop-90d']} now" in done.stdout, done.stdout
        assert "going on with the store that was begun" in done.stdout and "all equal" in done.stdout
        assert pushes.is_alive(), "events came before the switch alone"
        pushes.join(timeout=120)
        time.sleep(1)
        for thread in lookups:
            thread.ends.set()
            thread.join(timeout=60)
        failures = [failure for thread in [*lookups, pushes] for failure in thread.failures]
        count = sum(thread.count for thread in lookups)
        fields = sum((thread.fields for thread in lookups), collections.Counter())
        print(f"{count} lookups, by features {dict(fields)}, the longest {max(thread.longest for thread in lookups):.2f} s, {len(failures)} failures")
        assert not failures, failures[:5]
        assert fields[5] > 500 and fields[7] > 500 and set(fields) == {5, 7}, fields
        # The connection, its name, its protocol, its session and half a command are still there.
        assert held.client_getname() == "held" and held.execute_command("SESSION.GET", "visit") == session
        idle.sendall(b" word\r\n")
        assert idle.recv(100) == b"$11\r\nhalf a word\r\n"
        assert server.process.poll() is None
        wait_for(lambda: history_count(data) == len(rows))
        wait_applied(data, binary=shops["shop-90d"])
        spine = spine_of(rows, rng, 1_000)
        client = connect(server.port)
        answers = [client.execute_command("FEATURES.GET", "offer", json.dumps({"household": h, "cart_value": c}), "AT", format_time(t)) for h, c, t in spine]
        whole = Truth(rows)
        wrong = [(entry, answer) for entry, answer in zip(spine, answers) if answer != whole.offer(*entry)]
        assert not wrong, wrong[:3]
    run(shops["shop-90d"], "ingest", "purchases", tmp_path / "all.csv", "--data", tmp_path / "fresh")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert export(shops["shop-90d"], data, tmp_path / "a", spine) == export(shops["shop-90d"], tmp_path / "fresh", tmp_path / "b", spine)
    with Server(tmp_path / "fresh", "--clock", "event", binary=shops["shop-90d"]) as server:
        client = connect(server.port)
        assert answers == [client.execute_command("FEATURES.GET", "offer", json.dumps({"household": h, "cart_value": c}), "AT", format_time(t)) for h, c, t in spine]
    verified = run(shops["shop-90d"], "verify", "--json", "--data", data)
    summary = json.loads(verified.stdout)
    assert summary["differing"] == 0 and summary["checked"] > 100, summary
    # The old program is refused now.
    refused = run(shops["shop"], "run", "--data", data, "--port", "0", "--http", "0", check=False)
    assert refused.returncode == 1 and "definitions differ" in refused.stderr


def ask(client, spine) -> list[dict]:
    return [client.execute_command("FEATURES.GET", "offer", json.dumps({"household": h, "cart_value": c}), "AT", format_time(t)) for h, c, t in spine]


def right(answers, spine, truth: Truth) -> list:
    """What differs, in the features that the answers have and the truth knows."""
    wrong = []
    for entry, answer in zip(spine, answers):
        expected = truth.offer(*entry)
        wrong += [(entry, name, value, expected[name]) for name, value in answer.items() if name in expected and value != expected[name]]
    return wrong


def test_killed_and_gone_on_with(shops, tmp_path):
    """Killed while it builds, between the renames, and while the server becomes the new program: each time the next one goes on."""
    rng = seeded("apply killed")
    rows = read_rows(SLICE)
    data = tmp_path / "data"
    write_rows(tmp_path / "all.csv", rows)
    run(shops["shop"], "ingest", "purchases", tmp_path / "all.csv", "--data", data)
    spine = spine_of(rows, rng, 300)
    truth = Truth(rows)

    def killed(binary, *arguments, at):
        done = run(binary, *arguments, "--data", data, check=False, env={**os.environ, "WEIR_CRASH_AT": at})
        assert done.returncode == -9, f"{at}: {done.returncode} {done.stdout} {done.stderr}"
    killed(shops["shop-90d"], "apply", at="build-committed:1")
    # The old program knows nothing of it.
    with Server(data, "--clock", "event", binary=shops["shop"]) as server:
        assert not right(ask(connect(server.port), spine), spine, truth)
    killed(shops["shop-90d"], "apply", at="rebuild-moved:1")
    assert not (data / "online").exists() and (data / "online.new").exists()
    with Server(data, "--clock", "event", binary=shops["shop-90d"]) as server:
        answers = ask(connect(server.port), spine)
        assert len(answers[0]) == 7 and not right(answers, spine, truth)
    assert not (data / "online.new").exists() and not (data / "online.old").exists()
    # Back to the old definitions, and forward again; the server dies on the way.
    with Server(data, "--clock", "event", binary=shops["shop-90d"], environment={"WEIR_CRASH_AT": "rebuild-moved:1"}) as server:
        done = run(shops["shop"], "apply", "--data", data, check=False)
        assert done.returncode == 1 and "ended while it handed over" in done.stderr, done.stdout + done.stderr
        assert server.process.wait(timeout=20) == -9
    with Server(data, "--clock", "event", binary=shops["shop"]) as server:
        answers = ask(connect(server.port), spine)
        assert len(answers[0]) == 5 and not right(answers, spine, truth)


def test_the_old_program_comes_back(shops, tmp_path):
    """A program that cannot open the store gives the process back, with its connections, sessions and lock."""
    rng = seeded("comes back")
    rows = read_rows(SLICE)[:3_000]
    data = tmp_path / "data"
    write_rows(tmp_path / "all.csv", rows)
    run(shops["shop"], "ingest", "purchases", tmp_path / "all.csv", "--data", data)
    spine = spine_of(rows, rng, 50)
    with Server(data, "--clock", "event", binary=shops["shop"]) as server:
        client = connect(server.port)
        client.execute_command("SESSION.ADD", "visit", "purchases", as_json(dict(rows[0], id="é")))
        session = client.execute_command("SESSION.GET", "visit")
        for _ in range(3):
            # Nothing was built for it.
            (data / "request").write_text(json.dumps({"executable": shops["shop-90d"]}))
            (data / "request").chmod(0o600)
            (data / "request").rename(data / "handover")
            wait_for(lambda: "definitions differ" in json.loads((data / "handover").read_text()).get("refusal", ""))
            assert not right(ask(client, spine), spine, Truth(rows)) and client.execute_command("SESSION.GET", "visit") == session
            (data / "handover").unlink()
        for wrong in ('{"executable": "/none"}', "nonsense"):
            (data / "handover").write_text(wrong)
            (data / "handover").chmod(0o600)
            time.sleep(0.5)
            assert client.ping()
            (data / "handover").unlink()
        assert server.process.poll() is None
        open_files = len(os.listdir(f"/proc/{server.process.pid}/fd"))
        assert run(shops["shop"], "apply", "--data", data).stdout.count("switched") == 1
        wait_for(lambda: len(os.listdir(f"/proc/{server.process.pid}/fd")) <= open_files)


def test_changed_closure(shops, tmp_path):
    """Another filter under the same definition is noticed by events that the store knows, and by logged requests."""
    rng = seeded("closure")
    rows = read_rows(SLICE)
    data = tmp_path / "data"
    write_rows(tmp_path / "all.csv", rows)
    run(shops["shop"], "ingest", "purchases", tmp_path / "all.csv", "--data", data)
    spine = spine_of(rows, rng, 200)
    with Server(data, "--clock", "event", "--log-requests", "1", binary=shops["shop"]) as server:
        before = ask(connect(server.port), spine)
    # Nothing of it shows in the definition.
    plan = run(shops["shop-closure"], "plan", "--data", data).stdout
    assert plan.startswith("~ closure of spend.grocery_7d: ") and "spend_28d" not in plan, plan
    for command in (["run", "--port", "0", "--http", "0"], ["get", "offer", '{"household": 1, "cart_value": 1}'], ["serve", "--port", "0", "--http", "0"]):
        refused = run(shops["shop-closure"], *command, "--data", data, check=False)
        assert refused.returncode == 1 and "other values come for spend.grocery_7d" in refused.stderr, refused.stderr
    refused = run(shops["shop-closure"], "apply", "--data", data, check=False)
    assert refused.returncode == 1 and "closure of spend.grocery_7d" in refused.stdout, refused.stdout + refused.stderr
    with Server(data, "--clock", "event", binary=shops["shop"]) as server:
        assert ask(connect(server.port), spine) == before
        done = run(shops["shop-closure"], "apply", "--accept-changes", "--data", data).stdout
        assert "switched" in done and "changed: spend.grocery_7d has the same definition" in done and "changed: spend.spend" not in done, done
        after = ask(connect(server.port), spine)
        assert all(a["spend_28d"] == b["spend_28d"] for a, b in zip(after, before)) and any(a["grocery_7d"] != b["grocery_7d"] for a, b in zip(after, before))
    assert run(shops["shop-closure"], "plan", "--data", data).stdout == "nothing differs\n"
    assert "closure of spend.grocery_7d" in run(shops["shop"], "plan", "--data", data).stdout


def test_pinned_revisions(shops, tmp_path):
    """Two revisions of a view side by side: each is named by its number, the latest by the view's name alone."""
    rows = read_rows(SLICE)
    data = tmp_path / "data"
    write_rows(tmp_path / "all.csv", rows)
    run(shops["shop"], "ingest", "purchases", tmp_path / "all.csv", "--data", data)
    assert "+ view spend@2" in run(shops["shop-pinned"], "plan", "--data", data).stdout
    assert "switched" in run(shops["shop-pinned"], "apply", "--data", data).stdout
    key = rows[-1]["household"]
    with Server(data, "--clock", "event", binary=shops["shop-pinned"]) as server:
        client = connect(server.port)
        first, second = (client.hget(f"spend@{revision}:{key}", "grocery_7d") for revision in (1, 2))
        assert first != second and client.hget(f"spend:{key}", "grocery_7d") == second
        offer = client.execute_command("FEATURES.GET", "offer", json.dumps({"household": int(key), "cart_value": 1}))
        assert (offer["grocery_7d"], offer["other_7d"]) == (first, second)
        with pytest.raises(redis.ResponseError, match="unknown view 'spend@3'; there are: spend, spend@2"):
            client.hget(f"spend@3:{key}", "grocery_7d")
        assert client.execute_command("FEATURES.DESCRIBE", "spend")["name"] == "spend@2"
    # The second one goes; its clients are told. Who serves beside cannot go on.
    with Server(data, "--clock", "event", binary=shops["shop-pinned"], command="serve") as server:
        assert connect(server.port).hget(f"spend@2:{key}", "grocery_7d") == second
        run(shops["shop"], "apply", "--data", data)
        assert server.process.wait(timeout=20) == 1 and "another online store has taken the place" in server.process.stderr.read()
    with Server(data, "--clock", "event", binary=shops["shop"]) as server:
        client = connect(server.port)
        assert client.hget(f"spend:{key}", "grocery_7d") == first
        with pytest.raises(redis.ResponseError, match="unknown view 'spend@2'"):
            client.hget(f"spend@2:{key}", "grocery_7d")


def test_new_view(shops, tmp_path):
    """A view of other keys: the history's rows get keys and identities in it, so that copies stay copies; and the way back."""
    rng = seeded("new view")
    rows = read_rows(SLICE)[:12_000]
    data = tmp_path / "data"
    write_rows(tmp_path / "some.csv", rows[:9_000])
    write_rows(tmp_path / "all.csv", rows)
    run(shops["shop"], "ingest", "purchases", tmp_path / "some.csv", "--data", data)
    run(shops["shop-stores"], "ingest", "purchases", tmp_path / "all.csv", "--data", tmp_path / "fresh")
    with Server(data, "--clock", "event", binary=shops["shop"]) as server:
        client = connect(server.port)
        client.execute_command("EVENTS.ADD", "purchases", *map(as_json, rows[9_000:9_500]))
        plan = run(shops["shop-stores"], "plan", "--data", data).stdout
        assert "+ view stores" in plan and "get their keys" in plan, plan
        done = run(shops["shop-stores"], "apply", "--data", data)
        assert "switched" in done.stdout and "not checked: new views: stores" in done.stdout, done.stdout
        # Those that are known already count once.
        for start in range(8_000, 12_000, 500):
            client.execute_command("EVENTS.ADD", "purchases", *map(as_json, rows[start:start + 500]))
        wait_for(lambda: history_count(data) == len(rows))
        wait_applied(data, binary=shops["shop-stores"])
        assert history_count(data) == len(rows)
        spine = [dict(household=int(row["household"]), cart_value=5.0, store=int(row["store"]), event_timestamp=row["event_time"])
                 for row in rng.choices(rows, k=300)]
        got = [client.execute_command("FEATURES.GET", "offer", json.dumps({k: v for k, v in entry.items() if k != "event_timestamp"}), "AT",
                                      entry["event_timestamp"]) for entry in spine]
    with Server(tmp_path / "fresh", "--clock", "event", binary=shops["shop-stores"]) as server:
        client = connect(server.port)
        assert got == [client.execute_command("FEATURES.GET", "offer", json.dumps({k: v for k, v in entry.items() if k != "event_timestamp"}), "AT",
                                              entry["event_timestamp"]) for entry in spine]
    write_rows(tmp_path / "spine.csv", spine, ["household", "cart_value", "store", "event_timestamp"])
    for name in ("data", "fresh"):
        run(shops["shop-stores"], "export", "offer", "--spine", tmp_path / "spine.csv", "--out", tmp_path / f"{name}.csv", "--data", tmp_path / name)
    assert (tmp_path / "data.csv").read_bytes() == (tmp_path / "fresh.csv").read_bytes()
    # Back: nothing names a store's key any more, and copies stay copies.
    assert "switched" in run(shops["shop"], "apply", "--data", data).stdout
    run(shops["shop"], "ingest", "purchases", tmp_path / "all.csv", "--data", data)
    assert history_count(data) == len(rows)
    columns = subprocess.run(["sqlite3", data / "history.sqlite", "select name from pragma_table_info('purchases')"], capture_output=True, text=True).stdout
    assert "_key_spend" in columns and "_key_stores" not in columns
