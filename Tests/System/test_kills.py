"""SIGKILL at every named point of the commit path, and the topics that the stores write."""

from __future__ import annotations

import collections
import json
import math
import os
import shutil
import signal
import subprocess
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import oracle
from cases import SPINE_FIELDS, answers, exported, same_text, spine_for
from harness import (LIVE, LONG, SLICE, WEIR, Broker, Server, as_json, export, history_count, read_rows, seeded, wait_applied,
                     wait_for, weir, write_rows)

COMMIT_POINTS = ["submitted", "history-begun", "history-written", "history-committed", "shard-applied", "shard-committed"]
OUTPUT_POINTS = ["output-sent", "output-committed", "output-forgotten"]
HOUR = 3_600_000_000


def sql(data, query: str) -> list[list[str]]:
    done = subprocess.run(["sqlite3", "-separator", "\t", f"{data}/history.sqlite", ".timeout 20000", query], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def topic(broker, name: str, *options) -> list[tuple[str, str]]:
    """Key and value of every committed record."""
    done = subprocess.run(
        ["kcat", "-C", "-b", broker.address, "-t", name, "-e", "-q", "-f", "%k\t%s\n", "-X", "isolation.level=read_committed", *options],
        capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [tuple(line.split("\t", 1)) for line in done.stdout.splitlines()]


def run_until_killed(data, broker, point: str | None, count: int, seconds: float, *arguments, binary=WEIR) -> bool:
    """`weir run` with a crash point; killed from outside where it does not come to it in time. Says whether the point killed it."""
    environment = {**os.environ, **({"WEIR_CRASH_AT": f"{point}:{count}"} if point else {})}
    process = subprocess.Popen(
        [binary, "run", "--data", str(data), "--port", "0", "--http", "0", "--clock", "event",
         *(["--kafka", broker.address] if broker else []), *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    assert process.returncode == -signal.SIGKILL, f"{point}: {process.returncode} {process.stderr.read()}"
    return True


def closed_hours(rows, allowed=5 * 60_000_000) -> dict[tuple[str, int], dict]:
    """What each store's hours hold, by (store, start)."""
    hours = collections.defaultdict(list)
    for row in rows:
        time = oracle.parse_time(row["event_time"])
        hours[row["store"], time - time % HOUR].append(float(row["price"]))
    return {key: {"sales": len(prices), "spend": math.fsum(prices), "best_price": max(prices)} for key, prices in hours.items()}


def check_hours(data, records: list[tuple[str, str]], rows) -> int:
    """The topic has each closed hour once, as it was when it closed; the history has what it is now."""
    naive = closed_hours(rows)
    first = {(key, start): json.loads(values) for key, start, values in sql(
        data, "select entity_key, window_start, \"values\" from weir_closed_windows where revision = 0")}
    parsed = [json.loads(value) for _, value in records]
    got = {(key, str(oracle.parse_time(record["window_start"]))): record for (key, _), record in zip(records, parsed)}
    assert len(got) == len(records), "an hour is twice in the topic"
    assert {key: record["features"] for key, record in got.items()} == first
    assert all(record["revision"] == 0 and record["is_final"] and record["view"] == "store_hours" for record in parsed)
    last = {}
    for key, start, revision, values in sql(
            data, "select entity_key, window_start, revision, \"values\" from weir_closed_windows order by revision"):
        assert int(revision) == (last[key, start][0] + 1 if (key, start) in last else 0)
        last[key, start] = int(revision), json.loads(values)
    watermark = int(sql(data, "select watermark from weir_watermarks")[0][0])
    closed = {key for key in naive if key[1] + HOUR + 5 * 60_000_000 <= watermark}
    assert {(key, int(start)) for key, start in last} == closed
    for (key, start), (_, values) in last.items():
        assert values == naive[key, int(start)], (key, start)
    return len(last)


def test_kills_at_every_point(tmp_path):
    """Killed at each point of the commit path, at random counts and at random moments, while topics are read and written."""
    rng = seeded("kills at every point")
    rows = read_rows(SLICE)[: 24_000 if LONG else 8_000]
    kills = 220 if LONG else 45
    spine = spine_for(rows, 300, rng)
    write_rows(tmp_path / "spine.csv", spine, SPINE_FIELDS)
    write_rows(tmp_path / "all.csv", rows)
    weir("ingest", "purchases", tmp_path / "all.csv", "--data", tmp_path / "undisturbed")
    training = export(tmp_path / "undisturbed", tmp_path / "spine.csv", tmp_path / "undisturbed.csv")
    data = tmp_path / "data"
    tally: collections.Counter = collections.Counter()
    with Broker(tmp_path / "broker") as broker:
        size = math.ceil(len(rows) / kills)
        for number in range(kills):
            write_rows(tmp_path / "part.csv", rows[number * size:(number + 1) * size])
            weir("produce", "purchases", "--kafka", broker.address, "--partitions", 2, tmp_path / "part.csv")
            point = (COMMIT_POINTS + OUTPUT_POINTS + [None])[number % 10]
            # A run publishes once or twice.
            count = 1 if point in OUTPUT_POINTS else rng.randrange(1, 4)
            died = run_until_killed(data, broker, point, count, 4 if point else rng.random())
            tally[point if died else "random moment"] += 1
        with Server(data, "--clock", "event", "--kafka", broker.address) as server:
            wait_for(lambda: history_count(data) >= len(rows))
            wait_for(lambda: sql(data, "select count(*) from weir_output") == [["0"]])
            wait_applied(data)
            assert history_count(data) == len(rows)
            wrong = same_text(exported(training), answers(server.client(), spine))
            assert not wrong, "\n".join(wrong[:5])
        hours = check_hours(data, topic(broker, "store-hours"), rows)
    assert export(data, tmp_path / "spine.csv", tmp_path / "out.csv") == training
    assert sql(data, "select coalesce(sum(value), 0) from weir_counters where name = 'duplicates'") == [["0"]]
    print(f"{kills} kills, {hours} closed hours: {dict(tally)}")
    assert all(tally[point] for point in COMMIT_POINTS + OUTPUT_POINTS), tally


def test_kills_of_pushes_catch_up_and_rebuild(tmp_path):
    """Killed behind the push log's sync, while shards catch up, and between the renames of a rebuild."""
    rng = seeded("kills of pushes")
    rows = read_rows(SLICE)[:1_500]
    data = tmp_path / "data"
    acknowledged = 0
    kills = 30 if LONG else 8
    for kill in range(kills):
        server = Server(data, "--clock", "event", environment={"WEIR_CRASH_AT": f"push-logged:{rng.randrange(1, 8)}"})
        client = redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0))
        try:
            while True:
                some = rows[acknowledged:acknowledged + 10]
                # What was not acknowledged is sent again, as a client would: it counts once.
                assert int(client.execute_command("EVENTS.ADD", "purchases", *map(as_json, some))) == len(some)
                acknowledged += len(some)
        except (OSError, redis.ConnectionError):
            assert server.process.wait() == -signal.SIGKILL
    write_rows(tmp_path / "rest.csv", rows[acknowledged:])
    weir("ingest", "purchases", tmp_path / "rest.csv", "--data", data)
    with Server(data, "--clock", "event"):
        wait_for(lambda: history_count(data) == len(rows))
    spine = spine_for(rows, 200, rng)
    write_rows(tmp_path / "spine.csv", spine, SPINE_FIELDS)
    training = export(data, tmp_path / "spine.csv", tmp_path / "before.csv")

    # Shards that have everything to catch up with.
    shutil.rmtree(data / "online")
    died = subprocess.run([WEIR, "ingest", "purchases", tmp_path / "rest.csv", "--data", data], capture_output=True,
                          env={**os.environ, "WEIR_CRASH_AT": "catch-up-committed:1"})
    assert died.returncode == -signal.SIGKILL
    died = subprocess.run([WEIR, "rebuild", "--data", data, "--shards", "3"], capture_output=True,
                          env={**os.environ, "WEIR_CRASH_AT": "rebuild-moved:1"})
    assert died.returncode == -signal.SIGKILL
    with Server(data, "--clock", "event") as server:
        wrong = same_text(exported(training), answers(server.client(), spine))
        assert not wrong, "\n".join(wrong[:5])


def test_files_and_kills(tmp_path):
    """`weir ingest` killed at every point for the first, second and third time that it comes there, then run again: each event once."""
    rng = seeded("files and kills")
    # So long that a file is some transactions.
    rows = [dict(row, category="c" * 1_000) for row in read_rows(SLICE)[:24_000]]
    write_rows(tmp_path / "all.csv", rows)
    spine = spine_for(rows, 200, rng)
    write_rows(tmp_path / "spine.csv", spine, SPINE_FIELDS)
    weir("ingest", "purchases", tmp_path / "all.csv", "--data", tmp_path / "undisturbed")
    training = export(tmp_path / "undisturbed", tmp_path / "spine.csv", tmp_path / "undisturbed.csv")
    kills = 0
    for count in (1, 2, 3):
        data = tmp_path / f"data{count}"
        for point in COMMIT_POINTS:
            # Each begins anew, so that there is something left to come to.
            shutil.rmtree(data, ignore_errors=True)
            died = subprocess.run([WEIR, "ingest", "purchases", tmp_path / "all.csv", "--data", data], capture_output=True,
                                  env={**os.environ, "WEIR_CRASH_AT": f"{point}:{count}"})
            assert died.returncode == -signal.SIGKILL, f"{point}:{count}: {died.returncode} {died.stderr}"
            kills += 1
            weir("ingest", "purchases", tmp_path / "all.csv", "--data", data)
            assert history_count(data) == len(rows)
            assert export(data, tmp_path / "spine.csv", tmp_path / "out.csv") == training, f"{point}:{count}"
    wrong = weir("stats", "--data", data, check=False, env={**os.environ, "WEIR_CRASH_AT": "history-inserted:3"})
    assert wrong.returncode == 1 and "history-written" in wrong.stderr, wrong.stderr
    print(f"{kills} kills of ingest")


def test_idempotent_outputs(tmp_path):
    """Without transactions records may come again after a crash; by their number none is missing and none has two contents."""
    rng = seeded("idempotent outputs")
    rows = read_rows(SLICE)[:4_000]
    data = tmp_path / "data"
    with Broker(tmp_path / "broker") as broker:
        for number in range(4):
            write_rows(tmp_path / "part.csv", rows[number * 1_000:(number + 1) * 1_000])
            weir("produce", "purchases", "--kafka", broker.address, "--partitions", 2, tmp_path / "part.csv")
            run_until_killed(data, broker, ["output-sent", "output-committed"][number % 2], rng.randrange(1, 3), 4, "--kafka-output", "idempotent")
        with Server(data, "--clock", "event", "--kafka", broker.address, "--kafka-output", "idempotent"):
            wait_for(lambda: history_count(data) == len(rows))
            wait_for(lambda: sql(data, "select count(*) from weir_output") == [["0"]])
        done = subprocess.run(["kcat", "-C", "-b", broker.address, "-t", "store-hours", "-e", "-q", "-f", "%h\t%k\t%s\n"],
                              capture_output=True, text=True, timeout=60)
        contents = collections.defaultdict(set)
        records = 0
        for line in done.stdout.splitlines():
            headers, key, value = line.split("\t", 2)
            contents[headers].add((key, value))
            records += 1
        assert all(len(some) == 1 for some in contents.values())
        assert all(headers.startswith("weir-number=") for headers in contents)
        check_hours(data, [next(iter(some)) for some in contents.values()], rows)
        print(f"{records} records, {records - len(contents)} of them again")


def test_updates(tmp_path):
    """Views that publish every change, killed again and again: the last record of each window and entity has what they hold, none is
    missing and none twice."""
    rng = seeded("updates")
    rows = read_rows(SLICE)[:3_000]
    data = tmp_path / "data"
    kills = 24 if LONG else 8
    points = ["history-committed", "output-sent", "output-committed", "output-forgotten"]
    with Broker(tmp_path / "broker") as broker:
        size = math.ceil(len(rows) / kills)
        hit = 0
        for number in range(kills):
            write_rows(tmp_path / "part.csv", rows[number * size:(number + 1) * size])
            weir("produce", "purchases", "--kafka", broker.address, "--partitions", 2, tmp_path / "part.csv")
            hit += run_until_killed(data, broker, points[number % len(points)], 1, 6, binary=LIVE)
        with Server(data, "--clock", "event", "--kafka", broker.address, binary=LIVE):
            wait_for(lambda: history_count(data) >= len(rows))
            wait_for(lambda: sql(data, "select count(*) from weir_output") == [["0"]])
        assert history_count(data) == len(rows)
        last, numbers = {}, []
        for name in ["live-hours", "live-stores"]:
            done = subprocess.run(["kcat", "-C", "-b", broker.address, "-t", name, "-e", "-q", "-f", "%h\t%k\t%s\n", "-X",
                                   "isolation.level=read_committed"], capture_output=True, text=True, timeout=60)
            for line in done.stdout.splitlines():
                header, key, value = line.split("\t", 2)
                record = json.loads(value)
                assert record["entity_key"] == key and record["view"] == "live_stores"
                numbers.append(int(header.removeprefix("weir-number=")))
                last[name, key, record.get("window_start")] = record
    assert sorted(numbers) == list(range(1, len(numbers) + 1)), "records are missing or twice"
    watermark = int(sql(data, "select watermark from weir_watermarks")[0][0])
    hours = {(key, start): values for (key, start), values in closed_hours(rows).items()}
    published = {(key, oracle.parse_time(start)): record for (name, key, start), record in last.items() if name == "live-hours"}
    assert published.keys() == hours.keys()
    for (key, start), values in hours.items():
        record = published[key, start]
        assert record["features"] == {"hourly_sales": values["sales"], "hourly_spend": values["spend"]}, (key, start)
        # Closing sends nothing; only what comes later says that the window was closed.
        assert not record["is_final"] or start + HOUR + 5 * 60_000_000 <= watermark
        assert record["is_final"] == (record["revision"] > 0)
    closed = {(key, int(start)) for key, start in sql(data, "select distinct entity_key, window_start from weir_closed_windows")}
    assert closed == {hour for hour in hours if hour[1] + HOUR + 5 * 60_000_000 <= watermark}
    stores = collections.Counter(row["store"] for row in rows)
    latest = {store: max(row["event_time"] for row in rows if row["store"] == store) for store in stores}
    updates = {key: record for (name, key, _), record in last.items() if name == "live-stores"}
    assert {key: (record["features"]["sales"], record["as_of"]) for key, record in updates.items()} == {
        store: (count, latest[store]) for store, count in stores.items()}
    assert hit >= kills // 2, hit
    print(f"{hit} kills at points, {len(numbers)} records, {len(hours)} hours")


def test_files_then_topic(tmp_path):
    """History from a file, then Kafka from a position that overlaps: each event once."""
    rng = seeded("files then topic")
    rows = read_rows(SLICE)[:6_000]
    data = tmp_path / "data"
    spine = spine_for(rows, 200, rng)
    write_rows(tmp_path / "spine.csv", spine, SPINE_FIELDS)
    write_rows(tmp_path / "all.csv", rows)
    weir("ingest", "purchases", tmp_path / "all.csv", "--data", tmp_path / "undisturbed")
    training = export(tmp_path / "undisturbed", tmp_path / "spine.csv", tmp_path / "undisturbed.csv")
    write_rows(tmp_path / "history.csv", rows[:3_600])
    weir("ingest", "purchases", tmp_path / "history.csv", "--data", data)
    with Broker(tmp_path / "broker") as broker:
        # Small batches: a broker may find the start of a time at the beginning of the batch that it is in.
        weir("produce", "purchases", "--kafka", broker.address, "--partitions", 3, "--kafka-option", "batch.num.messages=20",
             tmp_path / "all.csv")
        start = rows[2_400]["event_time"]
        with Server(data, "--clock", "event", "--kafka", broker.address, "--kafka-start", start) as server:
            wait_for(lambda: history_count(data) == len(rows))
            wait_for(lambda: sum(int(row[0]) for row in sql(data, "select position from weir_sources where kind = 'kafka'")) == len(rows))
            wait_applied(data)
            wrong = same_text(exported(training), answers(server.client(), spine))
            assert not wrong, "\n".join(wrong[:5])
    duplicates = int(sql(data, "select sum(value) from weir_counters where name = 'duplicates'")[0][0])
    overlap = sum(row["event_time"] >= start for row in rows[:3_600])
    assert overlap <= duplicates <= overlap + 3 * 20, f"{duplicates} copies, {overlap} rows in both"
    assert history_count(data) == len(rows)
    assert export(data, tmp_path / "spine.csv", tmp_path / "out.csv") == training


def test_broker_restarts(tmp_path):
    """A broker that goes and comes back: reading and writing go on by themselves."""
    rng = seeded("broker restarts")
    rows = read_rows(SLICE)[:6_000]
    data = tmp_path / "data"
    broker = Broker(tmp_path / "broker")
    try:
        with Server(data, "--clock", "event", "--kafka", broker.address) as server:
            for number in range(3):
                write_rows(tmp_path / "part.csv", rows[number * 2_000:(number + 1) * 2_000])
                weir("produce", "purchases", "--kafka", broker.address, "--partitions", 2, tmp_path / "part.csv")
                if rng.random() < 0.5:
                    wait_for(lambda: history_count(data) > number * 2_000)
                broker.restart(rng.random() * 2)
            wait_for(lambda: history_count(data) == len(rows), 90)
            wait_for(lambda: sql(data, "select count(*) from weir_output") == [["0"]], 90)
            assert server.process.poll() is None
        check_hours(data, topic(broker, "store-hours"), rows)
    finally:
        broker.__exit__()


def test_growing_topics(tmp_path):
    """Partitions that are added while topics are read are found, from their first message on."""
    rows = read_rows(SLICE)[:3_000]
    data = tmp_path / "data"
    with Broker(tmp_path / "broker") as broker:
        write_rows(tmp_path / "one.csv", rows[:1_000])
        weir("produce", "purchases", "--kafka", broker.address, "--partitions", 1, tmp_path / "one.csv")
        with Server(data, "--clock", "event", "--kafka", broker.address, "--kafka-start", "latest"):
            wait_for(lambda: sql(data, "select count(*) from weir_sources where kind = 'kafka'") == [["1"]])
            broker.add_partitions("purchases", 4)
            write_rows(tmp_path / "two.csv", rows[1_000:])
            weir("produce", "purchases", "--kafka", broker.address, tmp_path / "two.csv")
            wait_for(lambda: history_count(data) == 2_000, 30)
    assert sql(data, "select count(*) from weir_sources where kind = 'kafka' and position > 0")[0][0] == "4"
