"""`weir forget`: an entity is gone from every file, others are as if its events had never been; also when it is killed in the middle."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import pytest

from harness import LONG, WEIR, Broker, Server, seeded, wait_for
from oracle import DAY, HOUR, MINUTE, format_time, parse_time
from test_kills import sql, topic

SHOP = str(pathlib.Path(WEIR).with_name("ForgetShop"))
START = parse_time("2026-03-01T00:00:00Z")
POINTS = ["erasure-written", "erasure-committed", "erasure-applied", "erasure-compacted", "erasure-trimmed", "erasure-unnamed",
          "erasure-purged"]


def shop(*arguments, check=True, **environment) -> subprocess.CompletedProcess:
    done = subprocess.run([SHOP, *map(str, arguments)], capture_output=True, text=True, timeout=600, env={**os.environ, **environment})
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


class Case:
    """Events of some customers, one of whom is to be forgotten: a key and ids of 32 characters that stand nowhere else."""

    def __init__(self, rng: random.Random, visits: int, note_bytes: int) -> None:
        self.rng = rng
        self.key = "planted" + "".join(rng.choices("abcdefghkmnpqrstuvwxyz23456789", k=25))
        self.number = 0
        self.ids: list[str] = []
        self.note = "n" * note_bytes
        # What comes first is in order, so that no window of others is revised.
        span = 60 * DAY
        times = sorted(rng.randrange(span) for _ in range(visits))
        self.visits = [self.visit(START + at, self.customer()) for at in times[:-1]] + [self.visit(START + times[-1], "customer 1")]
        self.logins = [{"customer": self.customer(), "address": f"10.0.0.{rng.randrange(99)}", "event_time": format_time(START + at)}
                       for at in sorted(rng.randrange(span) for _ in range(visits // 4))]
        # The customer's own device, and a site that only the customer went to.
        for visit in self.visits:
            if visit["customer"] == self.key and rng.random() < 0.3:
                visit["device"], visit["site"] = 777, "site of one"
        self.end = START + span
        # Later pushes of the customer alone come late for windows.
        self.pushes = [self.visit(START + rng.randrange(span // 2), self.key) for _ in range(5)]

    def customer(self) -> str:
        return self.key if self.rng.random() < 0.08 else f"customer {self.rng.randrange(12)}"

    def visit(self, at: int, customer: str | None) -> dict:
        self.number += 1
        id = f"visit {self.number}"
        if customer == self.key:
            id = f"id{self.number:06}" + "".join(self.rng.choices("ABCDEFGHKMNPQRSTUVWXYZ23456789", k=24))
            self.ids.append(id)
        return {"id": id, "customer": customer, "site": f"site {self.rng.randrange(4)}", "device": self.rng.randrange(8),
                "amount": self.rng.randrange(1, 10_000) / 100, "note": self.note + str(self.number), "event_time": format_time(at)}

    def letters(self, with_planted: bool) -> list[str]:
        """Records that cannot be used: of others, and of the customer in every way."""
        other, own = self.visits[3] | {"customer": "customer 2"}, next(v for v in self.visits if v["customer"] == self.key)
        lines = [json.dumps(other | {"amount": "much"}), json.dumps(other)[:-9], '{"id": "visit 1'.ljust(40)]
        if with_planted:
            lines += [
                json.dumps(own | {"amount": -1.5}),  # decodes: another event of one identity
                json.dumps(own | {"amount": "much", "id": "x"}),  # does not decode, and has the key
                json.dumps(own | {"amount": "much", "customer": 5}),  # has an id
                json.dumps(own)[:-9].replace(self.key, "\\u0070" + self.key[1:]).replace(own["id"], "y"),  # has the key as an escape
                json.dumps({"customer": self.key, "address": 5}),  # of another shape
            ]
        return lines

    def fill(self, data, directory: pathlib.Path, with_planted: bool, shards=2) -> None:
        """The same events by file, push and as dead letters; without the customer's where they never were."""
        directory.mkdir(exist_ok=True)

        def lines(events):
            return [json.dumps(event) for event in events if with_planted or event["customer"] != self.key]

        visits, logins, letters = directory / "visits.jsonl", directory / "logins.jsonl", directory / "letters.jsonl"
        # As many as make a segment of the history.
        pushed = self.visits[:900]
        visits.write_text("\n".join(lines(self.visits)) + "\n")
        logins.write_text("\n".join(lines(self.logins)) + "\n")
        letters.write_text("\n".join(self.letters(with_planted)) + "\n")
        with Server(data, "--clock", "event", "--shards", shards, binary=SHOP) as server:
            client = server.client()
            some = lines(pushed)
            for start in range(0, len(some), 50):
                client.execute_command("EVENTS.ADD", "visits", *some[start:start + 50])
            wait_for(lambda: sum(map(len, some)) < 4 << 20 or sql(data, "select count(*) from weir_segments") != [["0"]])
        # What was pushed comes again.
        shop("ingest", "visits", visits, "--data", data)
        shop("ingest", "logins", logins, "--data", data)
        shop("ingest", "visits", letters, "--data", data)
        with Server(data, "--clock", "event", binary=SHOP) as server:
            client = server.client()
            # The customer's come late, and have the last numbers.
            for line in [json.dumps(self.visit_of_others(0)), *lines(self.pushes)]:
                client.execute_command("EVENTS.ADD", "visits", line)

    def visit_of_others(self, number: int) -> dict:
        return {"id": f"pushed {number}", "customer": "customer 3", "site": "site 1", "device": 1, "amount": 1.25, "note": None,
                "event_time": format_time(self.end + (1 + number) * HOUR)}

    def spine(self, count: int) -> list[dict]:
        rows = []
        for _ in range(count):
            visit = self.rng.choice(self.visits)
            at = parse_time(visit["event_time"]) + self.rng.choice([0, 1, MINUTE, HOUR, 7 * DAY, self.rng.randrange(40 * DAY)])
            rows.append({"event_timestamp": format_time(at), "customer": visit["customer"], "site": visit["site"], "device": visit["device"]})
        return rows


def occurrences(directory, words) -> dict[str, int]:
    """In which files the bytes of any of the words stand."""
    found = {}
    for path in pathlib.Path(directory).rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            count = sum(content.count(word.encode()) for word in words)
            if count:
                found[str(path.relative_to(directory))] = count
    return found


def write_spine(path, rows) -> None:
    path.write_text("event_timestamp,customer,site,device\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows))


def exported(data, spine, out) -> bytes:
    shop("export", "welcome", "--spine", spine, "--out", out, "--data", data)
    return pathlib.Path(out).read_bytes()


def served(data, rows) -> list:
    """What the online store answers now, and at past times."""
    with Server(data, "--clock", "event", binary=SHOP) as server:
        client = server.client()
        answers = []
        for row in rows:
            request = json.dumps({name: row[name] for name in ("customer", "site", "device")})
            answers.append(client.execute_command("FEATURES.GET", "welcome", request))
            answers.append(client.execute_command("FEATURES.GET", "welcome", request, "AT", row["event_timestamp"]))
        return answers


def windows(data) -> tuple[dict, set]:
    """Closed windows as they are now, and the open ones."""
    closed = {}
    for view, window, key, start, end, values in sql(
            data, "select view, \"window\", entity_key, window_start, window_end, \"values\" from weir_closed_windows order by revision"):
        closed[view, window, key, start, end] = values
    open_ones = {tuple(row) for row in sql(
        data, "select view, \"window\", entity_key, window_start, window_end, due from weir_windows where is_open = 1")}
    return {name: values for name, values in closed.items() if values}, open_ones


def told(data) -> dict:
    """What the records on their way say last of each window, and of each entity."""
    last = {}
    for name, key, value in sql(data, "select topic, key, value from weir_output order by number"):
        record = json.loads(value)
        last[name, record["view"], key, record.get("window"), record.get("window_start")] = (
            record["features"], record.get("window_end"), record.get("as_of"))
    return {name: record for name, record in last.items() if record[0] is not None}


def letters_left(data) -> list:
    return sorted(sql(data, "select stream, kind, hex(raw) from weir_dead_letters"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store with the customer, and one that never had it."""
    directory = tmp_path_factory.mktemp("forget")
    case = Case(seeded("forget"), 2_000, 6_000)
    case.fill(directory / "data", directory / "all", with_planted=True)
    case.fill(directory / "never", directory / "others", with_planted=False)
    rows = case.spine(150)
    write_spine(directory / "spine.csv", rows)
    return case, directory, rows


def check_as_never(case, directory, data, rows) -> None:
    """Everything is as in the store that never had the customer, and no byte of it is in any file."""
    assert occurrences(data, [case.key, *case.ids]) == {}
    never = directory / "never"
    out = data.parent / f"{data.name}.csv"
    assert exported(data, directory / "spine.csv", out) == exported(never, directory / "spine.csv", directory / "never.csv")
    assert served(data, rows) == served(never, rows)
    assert windows(data) == windows(never)
    assert told(data) == told(never)
    assert letters_left(data) == letters_left(never)
    assert occurrences(data, [case.key, *case.ids]) == {}


def test_forget_is_as_if_it_never_was(filled, tmp_path):
    case, directory, rows = filled
    data = tmp_path / "data"
    shutil.copytree(directory / "data", data)
    # A rebuild that died left a store.
    shutil.copytree(data / "online", data / "online.old")
    words = [case.key, *case.ids]
    before = occurrences(data, words)
    for place in ("history.sqlite", "online/shard-0000/data.mdb", "online/shard-0001/data.mdb", "online.old/", "push/"):
        assert any(name.startswith(place) for name in before), (place, before)
    for table, condition in (("weir_dead_letters", f"cast(raw as text) like '%{case.key}%'"), ("weir_closed_windows", f"entity_key = '{case.key}'"),
                             ("weir_closed_windows", f"entity_key <> '{case.key}' and \"values\" like '%\"id0%'"),
                             ("weir_output", f"key = '{case.key}'"), ("weir_output", f"key <> '{case.key}' and value like '%\"id0%'"),
                             ("weir_segments", "stream = 'visits'"), ("visits", f"customer = '{case.key}'"),
                             ("logins", f"customer = '{case.key}'")):
        assert int(sql(data, f"select count(*) from {table} where {condition}")[0][0]) > 0, (table, condition)
    events = int(sql(data, f"select count(*) from visits where customer = '{case.key}'")[0][0])
    assert events == len(case.ids)
    training = exported(data, directory / "spine.csv", tmp_path / "training.csv")
    # The store knows what it exported; of copies elsewhere it is told.
    (tmp_path / "elsewhere").mkdir()
    for name in ("training.csv", "training.csv.manifest.json"):
        shutil.copy(tmp_path / name, tmp_path / "elsewhere" / name)
    exported(data, directory / "spine.csv", tmp_path / "gone.csv")
    (tmp_path / "gone.csv").unlink()
    done = shop("forget", "customer", case.key, "--data", data, "--exports", tmp_path / "elsewhere", "--json")
    receipt = json.loads(done.stdout)
    assert case.key not in done.stdout + done.stderr
    assert receipt["events"] == {"visits": events, "logins": sum(login["customer"] == case.key for login in case.logins)}
    assert receipt["dead_letters"] == 1 and receipt["dead_letters_by_bytes"] == 4
    assert receipt["online_records"] > 0 and receipt["output_records"] > 0 and receipt["closed_windows"] > 0 and receipt["push_log_bytes"] > 0
    assert receipt["changed_windows"] > 0 and receipt["files_of_the_store"] == [] and not receipt["was_interrupted"]
    changed = collections.Counter(v["site"] for v in case.visits + case.pushes if v["customer"] == case.key)
    assert receipt["gone_entities"] == {"site_hours": 1, "site_sessions": 1, "device_use": 1}
    assert {(c["view"], c["entity_key"]): c["events"] for c in receipt["changed"] if c["view"] == "site_hours"} == {
        ("site_hours", site): count for site, count in changed.items() if site != "site of one"}
    count = sum(row["customer"] == case.key for row in rows)
    assert [(str(pathlib.Path(file["path"]).relative_to(tmp_path)), file["count"]) for file in receipt["exports"]] == [
        ("elsewhere/training.csv", count), ("training.csv", count)]
    pushed = sum(visit["customer"] == case.key for visit in case.visits[:900]) + len(case.pushes)
    assert sum(file["count"] for file in receipt["files"]) == events - pushed + receipt["events"]["logins"]
    assert receipt["output_topics"] == ["customer-sessions", "customer-updates", "site-hours", "site-sessions", "site-updates"]
    assert training != exported(data, directory / "spine.csv", tmp_path / "after.csv")
    check_as_never(case, directory, data, rows)
    shop("rebuild", "--data", data, "--shards", 3)
    check_as_never(case, directory, data, rows)

    # The same events from another file stay out, be they in another order; only others' are new.
    again = tmp_path / "again.jsonl"
    shuffled = case.visits + case.pushes + [case.visit_of_others(1)]
    case.rng.shuffle(shuffled)
    again.write_text("".join(json.dumps(visit) + "\n" for visit in shuffled))
    line = shop("ingest", "visits", again, "--data", data).stdout
    assert line.startswith("1 events accepted") and f"{events} of erased entities stayed out" in line, line
    stats = json.loads(shop("stats", "--data", data, "--json").stdout)
    assert next(stream for stream in stats["streams"] if stream["stream"] == "visits")["forgotten"] == events
    assert occurrences(data, words) == {}
    # What is pushed now is new, even if it happened before.
    new = case.visit(START + DAY, case.key)
    with Server(data, "--clock", "event", binary=SHOP) as server:
        client = server.client()
        client.execute_command("EVENTS.ADD", "visits", json.dumps(new))
        request = json.dumps({"customer": case.key, "site": "site 1", "device": 1})

        def visits():
            return dict(zip(*[iter(client.execute_command("FEATURES.GET", "welcome", request))] * 2))["customer_visits"]
        wait_for(lambda: visits() == "1")
    # A copy of the store knows, too, and the second time it is as thorough.
    shop("backup", tmp_path / "copy", "--data", data)
    backwards = tmp_path / "backwards.jsonl"
    backwards.write_text("".join(json.dumps(visit) + "\n" for visit in reversed(case.visits)))
    assert "of erased entities stayed out" in shop("ingest", "visits", backwards, "--data", tmp_path / "copy").stdout
    receipt = json.loads(shop("forget", "customer", case.key, "--data", data, "--json").stdout)
    assert receipt["events"]["visits"] == 1 and occurrences(data, [*words, new["id"]]) == {}
    assert sql(data, "select count(*) from weir_erasures") == [["1"]]
    # Without its secret the store would let them in.
    (data / "erasure.key").unlink()
    refused = shop("ingest", "visits", again, "--data", data, check=False)
    assert refused.returncode == 1 and "erasure.key is missing" in refused.stderr, refused.stderr


def test_forget_unknown(filled, tmp_path):
    """What was never there, what is no entity, and a store that is in use."""
    case, directory, _ = filled
    data = tmp_path / "data"
    shutil.copytree(directory / "never", data)
    before = exported(data, directory / "spine.csv", tmp_path / "before.csv")
    done = shop("forget", "customer", "nobody", "--data", data)
    assert done.stdout.startswith("nothing was found of an entity 'customer'"), done.stdout
    assert exported(data, directory / "spine.csv", tmp_path / "after.csv") == before
    for arguments, text in ((["customers", "x"], "unknown entity 'customers'; there are: customer, device, site"),
                            (["device", "x1"], "that is no key of 'device': int expected"),
                            (["customer", "x", "--exports", tmp_path / "none"], "there is no file or directory")):
        refused = shop("forget", *arguments, "--data", data, check=False)
        assert refused.returncode == 1 and text in refused.stderr, refused.stderr
    for command, text in (("run", "another weir process"), ("serve", "reads from")):
        with Server(data, "--clock", "event", command=command, binary=SHOP):
            refused = shop("forget", "customer", "customer 1", "--data", data, check=False)
            assert refused.returncode == 1 and text in refused.stderr, refused.stderr
    assert exported(data, directory / "spine.csv", tmp_path / "after.csv") == before


def test_forget_killed(filled, tmp_path):
    """Killed at every point and at random moments: noticed by whoever reads, finished by whoever writes next."""
    case, directory, rows = filled
    rng = case.rng
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    finishers = ["forget", "ingest", "run", "rebuild"]
    began = time.monotonic()
    shutil.copytree(directory / "data", tmp_path / "timed")
    shop("forget", "customer", case.key, "--data", tmp_path / "timed")
    seconds = time.monotonic() - began
    shutil.rmtree(tmp_path / "timed")
    kills = [(point, count) for point in POINTS for count in ((1, 2) if point in ("erasure-applied", "erasure-compacted") else (1,))]
    kills += [(None, rng.random() * seconds) for _ in range(40 if LONG else 6)]
    states = collections.Counter()
    for number, (point, count) in enumerate(kills):
        data = tmp_path / f"data{number}"
        shutil.copytree(directory / "data", data)
        environment = {"WEIR_CRASH_AT": f"{point}:{count}"} if point else {}
        process = subprocess.Popen([SHOP, "forget", "customer", case.key, "--data", str(data)], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=None if point else count)
        process.kill()
        process.wait()
        assert process.returncode in (-signal.SIGKILL, 0) and (not point or process.returncode), (point, process.stderr.read())
        found = sql(data, "select state from weir_erasures")
        state = found[0][0] if found else "not begun"
        states[state] += 1
        reading = shop("stats", "--data", data, check=False)
        if state == "erasing":
            assert reading.returncode == 1 and "is being erased" in reading.stderr, reading.stderr
        else:
            assert reading.returncode == 0, reading.stderr
        finisher = "forget" if state == "not begun" else finishers[number % len(finishers)]
        if finisher == "ingest":
            shop("ingest", "visits", empty, "--data", data)
        elif finisher == "run":
            Server(data, "--clock", "event", binary=SHOP).stop()
        elif finisher == "rebuild":
            shop("rebuild", "--data", data)
        if finisher == "forget" or state == "done":
            receipt = json.loads(shop("forget", "customer", case.key, "--data", data, "--json").stdout)
            assert receipt["was_interrupted"] == (state in ("erasing", "unnamed")), (state, receipt)
        assert sql(data, "select state from weir_erasures") == [["done"]]
        check_as_never(case, directory, data, rows)
        shutil.rmtree(data)
    print(f"{len(kills)} kills: {dict(states)}")
    assert states["erasing"] >= 5 and states["unnamed"] >= 1 and states["not begun"] >= 1


def test_forget_and_topics(tmp_path):
    """A topic that still has the entity's messages: read anew they stay out, later ones are new."""
    case = Case(seeded("forget and topics"), 400, 10)
    data = tmp_path / "data"
    with Broker(tmp_path / "broker") as broker:
        events = tmp_path / "visits.jsonl"
        events.write_text("".join(json.dumps(visit) + "\n" for visit in case.visits))
        shop("produce", "visits", "--kafka", broker.address, "--partitions", 2, events)
        own = [visit for visit in case.visits if visit["customer"] == case.key]

        def count(where="1") -> int:
            return int(sql(data, f"select count(*) from visits where {where}")[0][0])
        with Server(data, "--clock", "event", "--kafka", broker.address, binary=SHOP):
            wait_for(lambda: count() == len(case.visits))
            wait_for(lambda: sql(data, "select count(*) from weir_output") == [["0"]])
        receipt = json.loads(shop("forget", "customer", case.key, "--data", data, "--json").stdout)
        assert sum(part["events"] for part in receipt["topics"]) == len(own) and {part["topic"] for part in receipt["topics"]} == {"visits"}
        assert occurrences(data, [case.key, *case.ids]) == {}
        assert any(case.key in value for _, value in topic(broker, "visits"))
        # From its beginning, as a topic of another name would be, and with a later message.
        with Server(data, "--clock", "event", "--kafka", broker.address, binary=SHOP):
            pass
        sql(data, "update weir_sources set position = 0 where kind = 'kafka'")
        new = case.visit(case.end + DAY, case.key)
        events.write_text(json.dumps(new) + "\n")
        shop("produce", "visits", "--kafka", broker.address, events)
        with Server(data, "--clock", "event", "--kafka", broker.address, binary=SHOP) as server:
            wait_for(lambda: count(f"customer = '{case.key}'") == 1)
            wait_for(lambda: sql(data, "select value from weir_counters where name = 'forgotten'") == [[str(len(own))]])
            assert server.process.poll() is None
        assert count() == len(case.visits) - len(own) + 1
        assert occurrences(data, case.ids[:-1]) == {}
