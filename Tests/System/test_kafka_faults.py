"""Topics under faults: closed windows exactly once over kills, brokers that go and come back, topics that grow, starts and stops."""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cases import SPINE_FIELDS, answers, exported, same_text, spine_for
from harness import (LONG, SLICE, WEIR, Broker, as_json, export, free_port, history_count, read_rows, seeded, wait_for, weir,
                     write_rows)
from oracle import DAY, HOUR, MINUTE, format_time, parse_time

LATENESS = 5 * MINUTE
COMMIT_POINTS = ["submitted", "history-begun", "history-written", "history-committed", "shard-applied", "shard-committed"]
OUTPUT_POINTS = ["output-sent", "output-committed", "output-forgotten"]
Record = collections.namedtuple("Record", "number key value")


class Run:
    """A `weir run` that may die at any time, also before it is ready. Its output goes to files: nobody has to read it."""

    def __init__(self, data, *arguments, crash: str | None = None) -> None:
        self.port = free_port()
        data.mkdir(parents=True, exist_ok=True)
        self.out, self.log = data.parent / f"{data.name}.out", data.parent / f"{data.name}.log"
        with open(self.out, "w") as out, open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [WEIR, "run", "--data", str(data), "--port", str(self.port), "--http", str(free_port()), "--clock", "event",
                 *map(str, arguments)], stdout=out, stderr=log, env={**os.environ, **({"WEIR_CRASH_AT": crash} if crash else {})})

    @property
    def died(self) -> bool:
        """Says whether it is gone; anything but SIGKILL is an error."""
        code = self.process.poll()
        assert code in (None, -signal.SIGKILL), f"exit {code}: {self.log.read_text()}"
        return code is not None

    def wait_ready(self) -> "Run":
        wait_for(lambda: "ready" in self.out.read_text() or self.process.poll() is not None)
        assert "ready" in self.out.read_text(), self.log.read_text()
        return self

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, protocol=2, decode_responses=True, retry=Retry(NoBackoff(), 0))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(timeout=60) == 0, self.log.read_text()

    def __enter__(self):
        try:
            return self.wait_ready()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, kind, *_):
        if self.process.poll() is None and kind is None:
            self.stop()
        elif self.process.poll() is None:
            self.kill()
        elif kind is None:
            raise AssertionError(f"exit {self.process.returncode}: {self.log.read_text()}")


def sql(data, query: str) -> list[list[str]]:
    done = subprocess.run(["sqlite3", "-separator", "\t", f"{data}/history.sqlite", ".timeout 20000", query],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def produce(broker, folder, rows, partitions=2) -> None:
    write_rows(folder / "part.csv", rows)
    weir("produce", "purchases", "--kafka", broker.address, "--partitions", partitions, folder / "part.csv")


def topic(broker, isolation="read_committed") -> list[Record]:
    """The records of `store-hours`: the number in their headers, key, value."""
    done = subprocess.run(
        ["kcat", "-C", "-b", broker.address, "-t", "store-hours", "-e", "-q", "-f", "%h\t%k\t%s\n",
         "-X", f"isolation.level={isolation}"],
        capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    records = []
    for line in done.stdout.splitlines():
        header, key, value = line.split("\t", 2)
        assert re.fullmatch(r"weir-number=\d+", header), line
        records.append(Record(int(header.split("=")[1]), key, value))
    return records


def naive_hours(rows) -> dict[tuple[str, int], dict]:
    """What each store sold in each hour, by store and start."""
    prices = collections.defaultdict(list)
    for row in rows:
        moment = parse_time(row["event_time"])
        prices[row["store"], moment - moment % HOUR].append(float(row["price"]))
    return {hour: {"sales": len(some), "spend": math.fsum(some), "best_price": max(some)} for hour, some in prices.items()}


def revisions(data) -> dict[tuple[str, int], list[dict]]:
    """What the history has of each closed hour, by revision."""
    found = collections.defaultdict(list)
    for key, start, end, revision, values in sql(
            data, "select entity_key, window_start, window_end, revision, \"values\" from weir_closed_windows order by revision"):
        assert int(revision) == len(found[key, int(start)]) and int(end) - int(start) == HOUR
        found[key, int(start)].append(json.loads(values))
    return dict(found)


def parsed(records: list[Record]) -> dict[tuple[str, int], dict]:
    """The features of each record, by store and start. Each record is well formed, and no hour is there twice."""
    found = {}
    for record in records:
        value = json.loads(record.value)
        assert set(value) == {"view", "entity_key", "window", "window_start", "window_end", "is_final", "revision", "features"}
        assert value["view"] == "store_hours" and value["entity_key"] == record.key and value["window"] == f"tumbling({HOUR})"
        assert value["is_final"] is True and value["revision"] == 0
        start = parse_time(value["window_start"])
        assert start % HOUR == 0 and parse_time(value["window_end"]) == start + HOUR
        assert (record.key, start) not in found, f"twice: {record}"
        found[record.key, start] = value["features"]
    return found


def check_closed_hours(data, records: list[Record], rows) -> int:
    """The topic has each closed hour once and as it really was; so has the history. For rows that came in order of time."""
    naive, history, published = naive_hours(rows), revisions(data), parsed(records)
    watermark = int(sql(data, "select watermark from weir_watermarks where stream = 'purchases'")[0][0])
    due = {hour: values for hour, values in naive.items() if hour[1] + HOUR + LATENESS <= watermark}
    assert due and published == due
    assert {hour: values[0] for hour, values in history.items()} == published
    assert all(len(values) == 1 for values in history.values()), "rows in order revise nothing"
    assert sorted(record.number for record in records) == list(range(1, len(records) + 1))
    return len(due)


def check_revised_hours(data, records: list[Record], rows) -> None:
    """The same for rows that may have come late: the topic has what was there at the close, the history ends with the truth."""
    naive, history = naive_hours(rows), revisions(data)
    assert history and parsed(records) == {hour: values[0] for hour, values in history.items()}
    assert {hour: values[-1] for hour, values in history.items()} == {hour: naive[hour] for hour in history}


def undisturbed(folder, rows, spine) -> bytes:
    """What a store exports that took the rows in one go."""
    write_rows(folder / "spine.csv", spine, SPINE_FIELDS)
    write_rows(folder / "all.csv", rows)
    weir("ingest", "purchases", folder / "all.csv", "--data", folder / "undisturbed")
    return export(folder / "undisturbed", folder / "spine.csv", folder / "undisturbed.csv")


def duplicates(data) -> int:
    return int(sql(data, "select coalesce(sum(value), 0) from weir_counters where name = 'duplicates'")[0][0])


def wait_consumed(data, count: int, seconds=60) -> None:
    """Until all rows are taken and no record waits for its topic."""
    wait_for(lambda: history_count(data) >= count, seconds)
    wait_for(lambda: sql(data, "select count(*) from weir_output") == [["0"]], seconds)
    assert history_count(data) == count


def test_closed_windows_in_the_topic(tmp_path):
    """Each closed hour is in the topic once, as a naive recomputation has it. What comes late changes the history alone."""
    rng = seeded("closed windows")
    rows = read_rows(SLICE)[:5_000]
    data = tmp_path / "data"
    with Broker(tmp_path / "broker") as broker:
        produce(broker, tmp_path, rows)
        with Run(data, "--kafka", broker.address):
            wait_consumed(data, len(rows))
            records = topic(broker)
            hours = check_closed_hours(data, records, rows)

            closed = sorted(parsed(records))
            late = []
            for number in range(40):
                store, start = rng.choice(closed)
                late.append({**rng.choice(rows), "id": f"late{number}", "store": store, "price": 100 + number,
                             "event_time": format_time(start + rng.randrange(HOUR))})
            produce(broker, tmp_path, late)
            wait_consumed(data, len(rows) + len(late))
        assert topic(broker) == records, "the topic keeps what it has"
    before, after, history = naive_hours(rows), naive_hours(rows + late), revisions(data)
    touched = collections.Counter((row["store"], parse_time(row["event_time"]) // HOUR * HOUR) for row in late)
    assert set(history) == set(closed)
    for hour, values in history.items():
        assert values[0] == before[hour] and values[-1] == after[hour]
        assert len(values) == 1 + touched[hour]
    print(f"{hours} closed hours, {len(touched)} of them revised")


def test_exactly_once_over_kills(tmp_path):
    """Killed at each point of the way, at random counts and at random moments, with more rows between."""
    rng = seeded("exactly once over kills")
    rows = read_rows(SLICE)[: 30_000 if LONG else 10_000]
    each, moments = (20, 30) if LONG else (5, 5)
    spine = spine_for(rows, 300, rng)
    training = undisturbed(tmp_path, rows, spine)
    data = tmp_path / "data"
    tally: collections.Counter = collections.Counter()
    plan = (COMMIT_POINTS + OUTPUT_POINTS) * each + [None] * moments
    rng.shuffle(plan)
    fed = 0

    def feed(count: int) -> None:
        nonlocal fed
        some = rows[fed:fed + count]
        if some:
            produce(broker, tmp_path, some)
            fed += len(some)

    with Broker(tmp_path / "broker") as broker:
        for point in plan:
            feed(rng.randrange(20, 60))
            run = Run(data, "--kafka", broker.address, crash=point and f"{point}:{rng.randrange(1, 4 if point in COMMIT_POINTS else 3)}")
            try:
                if point is None:
                    time.sleep(rng.random() * 0.6)
                    if not run.died:
                        run.kill()
                deadline = time.monotonic() + 15
                while not run.died and time.monotonic() < deadline:
                    feed(rng.randrange(20, 60))
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        run.process.wait(0.2)
                assert run.died, f"{point} was not reached\n{run.log.read_text()}"
            finally:
                run.kill()
            tally[point or "random moment"] += 1
        assert fed < len(rows), "more rows are needed"
        feed(len(rows))
        with Run(data, "--kafka", broker.address) as run:
            wait_consumed(data, len(rows))
            wrong = same_text(exported(training), answers(run.client(), spine))
            assert not wrong, "\n".join(wrong[:5])
        hours = check_closed_hours(data, topic(broker), rows)
        aborted = len(topic(broker, "read_uncommitted")) - hours
    assert export(data, tmp_path / "spine.csv", tmp_path / "out.csv") == training
    assert duplicates(data) == 0
    print(f"{sum(tally.values())} kills, {hours} closed hours, {aborted} records of broken transactions: {dict(sorted(tally.items()))}")
    # Kills that left nothing half done in the topic would show nothing.
    assert aborted > 0
    assert all(tally[point] == each for point in COMMIT_POINTS + OUTPUT_POINTS)


def test_kills_behind_the_push_log(tmp_path):
    """Killed when a push is in the log and not yet acknowledged: what was acknowledged is there, what is sent again counts once."""
    rng = seeded("kills behind the push log")
    rows = read_rows(SLICE)[:2_000]
    spine = spine_for(rows, 200, rng)
    training = undisturbed(tmp_path, rows, spine)
    data = tmp_path / "data"
    kills = 40 if LONG else 8
    taken = repeated = 0
    for _ in range(kills):
        run = Run(data, crash=f"push-logged:{rng.randrange(1, 6)}").wait_ready()
        client = run.client()
        with contextlib.suppress(OSError, redis.ConnectionError):
            while True:
                some = rows[taken:taken + rng.randrange(1, 15)]
                assert some, "more rows are needed"
                assert int(client.execute_command("EVENTS.ADD", "purchases", *map(as_json, some))) == len(some)
                taken += len(some)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.process.wait(timeout=20)
            assert run.died, "push-logged was not reached"
        finally:
            run.kill()
        repeated += len(some)
        if rng.random() < 0.5:
            # Half of the clients send again what got no answer, at once; the others go on with it after the next start.
            with Run(data) as run:
                run.client().execute_command("EVENTS.ADD", "purchases", *map(as_json, some))
            taken += len(some)
    with Run(data) as run:
        client = run.client()
        while taken < len(rows):
            some = rows[taken:taken + 50]
            taken += int(client.execute_command("EVENTS.ADD", "purchases", *map(as_json, some)))
        wait_for(lambda: history_count(data) >= len(rows))
        wait_for(lambda: not same_text(exported(training), answers(client, spine)))
    assert history_count(data) == len(rows)
    assert export(data, tmp_path / "spine.csv", tmp_path / "out.csv") == training
    # What the log has was accepted without an answer, so all that was sent again is a copy.
    assert duplicates(data) == repeated
    print(f"push-logged: {kills} kills, {repeated} events sent again")


def test_kills_of_catch_up_and_rebuild(tmp_path):
    """Killed while shards catch up, and between the renames of a rebuild: the next start answers as before."""
    rng = seeded("kills of catch-up and rebuild")
    rows = read_rows(SLICE)
    # More than one step of the catch-up takes.
    rows += [{**row, "id": f"again{row['id']}", "event_time": format_time(parse_time(row["event_time"]) + 8 * DAY)} for row in rows[:6_000]]
    spine = spine_for(rows, 200, rng)
    training = undisturbed(tmp_path, rows, spine)
    data = tmp_path / "undisturbed"
    tally: collections.Counter = collections.Counter()

    def check() -> None:
        with Run(data) as run:
            wrong = same_text(exported(training), answers(run.client(), spine))
            assert not wrong, "\n".join(wrong[:5])

    first = rng.randrange(3)
    for number in range(12 if LONG else 3):
        shutil.rmtree(data / "online")
        # In the middle, at the end, or in the middle and then at the end: there are two steps.
        for count in [[1], [2], [1, 1]][(number + first) % 3]:
            run = Run(data, crash=f"catch-up-committed:{count}")
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.process.wait(timeout=60)
                assert run.died, f"catch-up-committed:{count} was not reached"
            finally:
                run.kill()
            tally["catch-up-committed"] += 1
        check()
    for number in range(12 if LONG else 3):
        for _ in range(1 + number % 2):
            done = weir("rebuild", "--data", data, "--shards", rng.randrange(1, 6), check=False,
                        env={**os.environ, "WEIR_CRASH_AT": "rebuild-moved:1"})
            assert done.returncode == -signal.SIGKILL, done.stderr
            tally["rebuild-moved"] += 1
        assert not (data / "online").exists()
        check()
    weir("rebuild", "--data", data, "--shards", 2)
    check()
    assert not (data / "online.new").exists() and not (data / "online.old").exists()
    assert export(data, tmp_path / "spine.csv", tmp_path / "out.csv") == training
    print(dict(tally))


def test_idempotent_outputs_over_kills(tmp_path):
    """Without transactions records may come again: each has a number, each number has one content, and none is missing."""
    rng = seeded("idempotent outputs over kills")
    rows = read_rows(SLICE)[:4_000]
    data = tmp_path / "data"
    kills = 30 if LONG else 6
    size = len(rows) // (kills + 1)
    with Broker(tmp_path / "broker") as broker:
        for number in range(kills):
            produce(broker, tmp_path, rows[number * size:(number + 1) * size])
            run = Run(data, "--kafka", broker.address, "--kafka-output", "idempotent", crash="output-sent:1")
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.process.wait(timeout=30)
                assert run.died, "output-sent was not reached"
            finally:
                run.kill()
        produce(broker, tmp_path, rows[kills * size:])
        with Run(data, "--kafka", broker.address, "--kafka-output", "idempotent"):
            wait_consumed(data, len(rows))
        records = topic(broker)
        contents = collections.defaultdict(set)
        for record in records:
            contents[record.number].add(record)
        assert all(len(some) == 1 for some in contents.values()), "a number has two contents"
        check_closed_hours(data, [record for some in contents.values() for record in some], rows)
    # Killed between the records and the number that says so: they came again.
    assert len(records) > len(contents)
    print(f"output-sent: {kills} kills, {len(records)} records, {len(records) - len(contents)} of them again")


def test_broker_stops_and_comes_back(tmp_path):
    """A broker that is not there at the start, stops for seconds, and hangs: reading and writing go on by themselves."""
    rng = seeded("broker stops")
    rows = read_rows(SLICE)[:6_000]
    spine = spine_for(rows, 300, rng)
    training = undisturbed(tmp_path, rows, spine)
    data = tmp_path / "data"
    with Broker(tmp_path / "broker") as broker:
        parts = [rows[number * 1_000:(number + 1) * 1_000] for number in range(6)]
        produce(broker, tmp_path, parts[0])
        broker.process.terminate()
        broker.process.wait(timeout=60)
        # Every fetch brings little, so that the broker goes while there is more to read.
        run = Run(data, "--kafka", broker.address, "--kafka-option", "fetch.message.max.bytes=1000",
                  "--kafka-option", "queued.max.messages.kbytes=1", "--kafka-option", "socket.timeout.ms=2000")
        midway = 0
        try:
            run.wait_ready()
            time.sleep(rng.random())
            broker.start()
            for number in range(1, 5):
                produce(broker, tmp_path, parts[number])
                time.sleep(rng.random() * 0.3)
                midway += history_count(data) < (number + 1) * 1_000
                if number % 2:
                    broker.restart(rng.random() * 3)
                else:
                    broker.process.send_signal(signal.SIGSTOP)
                    time.sleep(3)
                    broker.process.send_signal(signal.SIGCONT)
                assert run.process.poll() is None
            produce(broker, tmp_path, parts[5])
            wait_consumed(data, len(rows), 120)
            wrong = same_text(exported(training), answers(run.client(), spine))
            assert not wrong, "\n".join(wrong[:5])
            run.stop()
        finally:
            run.kill()
        hours = check_closed_hours(data, topic(broker), rows)
    assert duplicates(data) == 0
    assert export(data, tmp_path / "spine.csv", tmp_path / "out.csv") == training
    print(f"{hours} closed hours, {midway} of 4 faults while there was more to read")


def connections(port: int) -> set[str]:
    """The clients' ends of the connections to a port."""
    done = subprocess.run(["ss", "-tnH", "state", "established", "dst", "127.0.0.1", "dport", "=", f":{port}"],
                          capture_output=True, text=True, timeout=10)
    return {line.split()[2] for line in done.stdout.splitlines()}


def cut(port: int) -> int:
    """Breaks all connections to a port; says how many."""
    before = connections(port)
    subprocess.run(["ss", "-tnHK", "state", "established", "dst", "127.0.0.1", "dport", "=", f":{port}"], capture_output=True, timeout=10)
    return len(before - connections(port))


def test_cut_connections(tmp_path):
    """All connections to the broker break again and again: nothing is lost, nothing counts twice."""
    rng = seeded("cut connections")
    rows = read_rows(SLICE)[:6_000]
    if shutil.which("ss") is None:
        pytest.skip("there is no ss to cut connections with")
    spine = spine_for(rows, 200, rng)
    training = undisturbed(tmp_path, rows, spine)
    data = tmp_path / "data"
    broken = 0
    with Broker(tmp_path / "broker") as broker:
        produce(broker, tmp_path, rows[:500])
        with Run(data, "--kafka", broker.address, "--kafka-option", "fetch.message.max.bytes=1000",
                 "--kafka-option", "queued.max.messages.kbytes=1", "--kafka-option", "reconnect.backoff.max.ms=500") as run:
            wait_for(lambda: history_count(data) > 0)
            if not cut(broker.port):
                pytest.skip("this kernel does not let ss cut connections")
            for number in range(1, 12):
                produce(broker, tmp_path, rows[number * 500:(number + 1) * 500])
                for _ in range(rng.randrange(1, 4)):
                    time.sleep(rng.random() * 0.2)
                    broken += cut(broker.port)
            wait_consumed(data, len(rows))
            assert run.process.poll() is None
            wrong = same_text(exported(training), answers(run.client(), spine))
            assert not wrong, "\n".join(wrong[:5])
        hours = check_closed_hours(data, topic(broker), rows)
    assert duplicates(data) == 0
    assert export(data, tmp_path / "spine.csv", tmp_path / "out.csv") == training
    print(f"{broken} connections cut, {hours} closed hours")


def test_growing_partition_count(tmp_path):
    """Partitions that are added while the topic is read are found within seconds, from their first message on."""
    rng = seeded("growing partition count")
    rows = read_rows(SLICE)[:4_000]
    spine = spine_for(rows, 200, rng)
    training = undisturbed(tmp_path, rows, spine)
    data = tmp_path / "data"
    with Broker(tmp_path / "broker") as broker:
        produce(broker, tmp_path, rows[:1_000])
        with Run(data, "--kafka", broker.address) as run:
            wait_for(lambda: history_count(data) == 1_000)
            broker.add_partitions("purchases", 4)
            # Messages are there before the partitions are found.
            produce(broker, tmp_path, rows[1_000:2_500], 4)
            wait_for(lambda: history_count(data) == 2_500, 20)
            produce(broker, tmp_path, rows[2_500:], 4)
            wait_consumed(data, len(rows), 20)
            wrong = same_text(exported(training), answers(run.client(), spine))
            assert not wrong, "\n".join(wrong[:5])
        check_revised_hours(data, topic(broker), rows)
    read = {int(partition) for [partition] in sql(data, "select partition from weir_sources where kind = 'kafka' and position > 0")}
    assert read == {0, 1, 2, 3}
    assert export(data, tmp_path / "spine.csv", tmp_path / "out.csv") == training


def test_files_then_overlapping_topic(tmp_path):
    """History from a file, then a topic that begins before the file's end: each event counts once."""
    rng = seeded("files then overlapping topic")
    rows = read_rows(SLICE)[:6_000]
    spine = spine_for(rows, 300, rng)
    training = undisturbed(tmp_path, rows, spine)
    data = tmp_path / "data"
    write_rows(tmp_path / "first.csv", rows[:3_600])
    weir("ingest", "purchases", tmp_path / "first.csv", "--data", data)
    with Broker(tmp_path / "broker") as broker:
        produce(broker, tmp_path, rows[2_400:])
        with Run(data, "--kafka", broker.address) as run:
            wait_consumed(data, len(rows))
            wait_for(lambda: duplicates(data) >= 1_200)
            wrong = same_text(exported(training), answers(run.client(), spine))
            assert not wrong, "\n".join(wrong[:5])
        check_revised_hours(data, topic(broker), rows)
    assert history_count(data) == len(rows)
    assert duplicates(data) == 1_200
    assert export(data, tmp_path / "spine.csv", tmp_path / "out.csv") == training


def test_stop_publishes_what_is_there(tmp_path):
    """SIGTERM at any moment: what the history has closed by then is in the topic when the process is gone."""
    rng = seeded("stop publishes")
    rows = read_rows(SLICE)[:6_000]
    data = tmp_path / "data"
    stops = 30 if LONG else 8
    size = len(rows) // stops
    waiting = 0
    with Broker(tmp_path / "broker") as broker:
        for number in range(stops):
            produce(broker, tmp_path, rows[number * size:(number + 1) * size])
            taken = history_count(data) if number else 0
            run = Run(data, "--kafka", broker.address)
            try:
                run.wait_ready()
                if number % 2:
                    time.sleep(rng.random() * 0.4)
                else:
                    # Just when rows were taken: their hours are closed, and not yet in the topic.
                    wait_for(lambda: history_count(data) > taken)
                run.stop()
            finally:
                run.kill()
            waiting += int(sql(data, "select count(*) from weir_output")[0][0])
            assert parsed(topic(broker)) == {hour: values[0] for hour, values in revisions(data).items()}, f"stop {number}"
        with Run(data, "--kafka", broker.address):
            wait_for(lambda: history_count(data) == size * stops)
        hours = check_closed_hours(data, topic(broker), rows[:size * stops])
    print(f"{stops} stops, {hours} closed hours, {waiting} records that the history had not forgotten yet")
