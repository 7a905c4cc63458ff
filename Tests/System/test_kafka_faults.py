"""Topics in and out of order of service: what closed windows hold, connections that break, stops at any moment."""

from __future__ import annotations

import collections
import json
import math
import re
import subprocess
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cases import SPINE_FIELDS, answers, exported, same_text, spine_for
from harness import (LONG, SLICE, WEIR, Broker, Proxy, export, history_count, read_rows, seeded, wait_for, weir,
                     write_rows)
from oracle import HOUR, MINUTE, format_time, parse_time

LATENESS = 5 * MINUTE
Record = collections.namedtuple("Record", "number key value")


class Run:
    """A `weir run` whose output goes to files: nobody has to read it."""

    def __init__(self, data, *arguments) -> None:
        data.mkdir(parents=True, exist_ok=True)
        self.out, self.log = data.parent / f"{data.name}.out", data.parent / f"{data.name}.log"
        with open(self.out, "w") as out, open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [WEIR, "run", "--data", str(data), "--port", "0", "--http", "0", "--clock", "event",
                 *map(str, arguments)], stdout=out, stderr=log)

    def wait_ready(self) -> "Run":
        wait_for(lambda: "ready" in self.out.read_text() or self.process.poll() is not None)
        assert "ready" in self.out.read_text(), self.log.read_text()
        self.port = int(re.search(r":(\d+)", self.out.read_text()).group(1))
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


def test_cut_connections(tmp_path):
    """All connections to the broker break again and again: nothing is lost, nothing counts twice."""
    rng = seeded("cut connections")
    rows = read_rows(SLICE)[:6_000]
    spine = spine_for(rows, 200, rng)
    training = undisturbed(tmp_path, rows, spine)
    data = tmp_path / "data"
    broken = 0
    with Broker(tmp_path / "broker") as broker, Proxy(broker) as proxy:
        produce(broker, tmp_path, rows[:500])
        with Run(data, "--kafka", proxy.address, "--kafka-option", "fetch.message.max.bytes=1000",
                 "--kafka-option", "queued.max.messages.kbytes=1", "--kafka-option", "reconnect.backoff.max.ms=500") as run:
            wait_for(lambda: history_count(data) > 0)
            assert proxy.cut() > 0
            for number in range(1, 12):
                produce(broker, tmp_path, rows[number * 500:(number + 1) * 500])
                for _ in range(rng.randrange(1, 4)):
                    time.sleep(rng.random() * 0.2)
                    broken += proxy.cut()
            wait_consumed(data, len(rows))
            assert run.process.poll() is None
            wrong = same_text(exported(training), answers(run.client(), spine))
            assert not wrong, "\n".join(wrong[:5])
        hours = check_closed_hours(data, topic(broker), rows)
    assert broken > 20, broken
    assert duplicates(data) == 0
    assert export(data, tmp_path / "spine.csv", tmp_path / "out.csv") == training
    print(f"{broken} connections cut, {hours} closed hours")


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
