"""A year of events, and how long it takes to be back after a kill."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import sqlite3
import subprocess
import time

from cases import SPINE_FIELDS, answers, differences, exported, same_text, spine_for
from harness import FIELDS, LONG, SLICE, WEIR, Broker, Server, export, history_count, read_rows, seeded, wait_for, weir, write_rows
import oracle


def stats(data) -> dict:
    return json.loads(weir("stats", "--json", "--data", data).stdout)


def test_a_year(tmp_path):
    """The online store keeps what windows can reach, also of entities that fell silent; the history answers for the rest."""
    rng = seeded("a year")
    pattern = read_rows(SLICE)
    rows = []
    start = datetime.datetime(2017, 1, 1, tzinfo=datetime.timezone.utc)
    for day in range(365):
        # Besides those that always come there are six groups that come for a month and are silent for five.
        for number in range(40):
            household = rng.randrange(20) if number % 2 else 1_000 + day // 30 % 6 * 50 + rng.randrange(50)
            moment = start + datetime.timedelta(days=day, seconds=rng.randrange(86_400))
            rows.append(dict(rng.choice(pattern), id=f"y{day}-{number}", household=str(household), basket=str(day * 100 + number % 7),
                             event_time=moment.strftime("%Y-%m-%dT%H:%M:%SZ")))
    rows.sort(key=lambda row: row["event_time"])
    data = tmp_path / "data"
    spine = spine_for(rows, 300, rng)
    write_rows(tmp_path / "spine.csv", spine, SPINE_FIELDS)
    size, baskets, kept = [], [], []
    for month in range(12):
        path = tmp_path / f"month{month}.csv"
        write_rows(path, rows[month * len(rows) // 12:(month + 1) * len(rows) // 12])
        weir("ingest", "purchases", path, "--data", data)
        views = {view["view"]: view for view in stats(data)["views"]}
        size.append(views["household_spend"]["bytes"])
        baskets.append(views["basket_activity"]["entities"])
        kept.append(views["household_spend"]["kept_from"])
    # Half a year has all households; without what expires the store would be twice as large at the end.
    assert max(size[6:]) < 1.4 * size[5], size
    # Baskets of some days, out of 2,555.
    assert max(baskets) < 60, baskets
    assert kept[3] is None or kept[3] < kept[-1]
    assert kept[-1] > "2017-08", kept
    training = export(data, tmp_path / "spine.csv", tmp_path / "out.csv")
    count, wrong = differences(training, oracle.Oracle(rows))
    assert not wrong, "\n".join(wrong[:5])
    with Server(data, "--clock", "event") as server:
        wrong = same_text(exported(training), answers(server.client(), spine))
        assert not wrong, "\n".join(wrong[:5])
    print(f"bytes by month {size}, kept from {kept[-1]}, {count} values against the oracle")


def many_events(path, count: int, rng) -> None:
    """Events of 28 days in order, of 100,000 households, some of which have many."""
    with open(path, "w") as file:
        file.write(",".join(FIELDS) + "\n")
        for number in range(count):
            household = number if number < 100_000 else int(100_000 * rng.random() ** 2)
            day, second = divmod(number * 2_419_200 // count, 86_400)
            file.write(f"e{number},{household},{number // 6},{number % 90},{number % 5_000},GROCERY,C{number % 40},1,{number % 1_000 / 100},0,0,"
                       f"2017-01-{day + 1:02}T{second // 3_600:02}:{second % 3_600 // 60:02}:{second % 60:02}Z\n")


def test_memory(tmp_path):
    """A backlog in a file: anonymous memory stays under a bound; mapped file pages are reported beside it."""
    rng = seeded("memory")
    count = 10_000_000 if LONG else 300_000
    many_events(tmp_path / "events.csv", count, rng)
    process = subprocess.Popen([WEIR, "ingest", "purchases", tmp_path / "events.csv", "--data", tmp_path / "data"], stdout=subprocess.DEVNULL)
    anonymous, mapped = peak_memory(process, lambda: process.poll() is not None)
    assert process.returncode == 0
    print(f"{count} events from a file: peak anonymous memory {anonymous} MB, file pages {mapped} MB")
    assert 0 < anonymous <= 300


def test_memory_of_topics(tmp_path):
    """The same for a backlog in a topic."""
    rng = seeded("memory of topics")
    count = 400_000 if LONG else 150_000
    many_events(tmp_path / "events.csv", count, rng)
    with Broker(tmp_path / "broker") as broker:
        weir("produce", "purchases", "--kafka", broker.address, "--partitions", 4, tmp_path / "events.csv")
        with Server(tmp_path / "data", "--clock", "event", "--kafka", broker.address) as server:
            anonymous, mapped = peak_memory(server.process, lambda: history_count(tmp_path / "data") >= count)
        assert history_count(tmp_path / "data") == count
    print(f"{count} messages from a topic: peak anonymous memory {anonymous} MB, file pages {mapped} MB")
    assert 0 < anonymous <= 300


def test_memory_of_what_waits(tmp_path):
    """The history is locked while long and malformed messages wait: bytes bound what waits, not the number of events."""
    rng = seeded("memory of what waits")
    count = 120_000
    with open(tmp_path / "messages", "w") as file:
        for number in range(count):
            file.write(f'{{"id": "m{number}", "department": "{rng.randbytes(2_000).hex()}"\n')
    data = tmp_path / "data"
    with Broker(tmp_path / "broker") as broker:
        # Makes the topic.
        write_rows(tmp_path / "one.csv", read_rows(SLICE)[:1])
        weir("produce", "purchases", "--kafka", broker.address, "--partitions", 2, tmp_path / "one.csv")
        with Server(data, "--clock", "event", "--kafka", broker.address) as server:
            wait_for(lambda: history_count(data) == 1)
            lock = sqlite3.connect(data / "history.sqlite", isolation_level=None, timeout=20)
            lock.execute("BEGIN IMMEDIATE")
            subprocess.run(["kcat", "-P", "-b", broker.address, "-t", "purchases", "-l", str(tmp_path / "messages")], check=True, timeout=120)
            end = time.monotonic() + 15
            anonymous, mapped = peak_memory(server.process, lambda: time.monotonic() > end)
            assert history_count(data) == 1
            lock.execute("COMMIT")
            lock.close()
            letters = "select count(*) from weir_dead_letters"
            wait_for(lambda: sqlite3.connect(data / "history.sqlite").execute(letters).fetchone()[0] == count, 300)
    print(f"{count * 4 // 1_000} MB of messages wait: peak anonymous memory {anonymous} MB, file pages {mapped} MB")
    assert 0 < anonymous <= 300


def peak_memory(process, is_done) -> tuple[int, int]:
    """Peaks of anonymous memory and of mapped file pages, MB, until something is so."""
    peak = {"RssAnon": 0, "RssFile": 0}
    look = time.monotonic()
    while True:
        with contextlib.suppress(OSError):
            for line in open(f"/proc/{process.pid}/status"):
                name, _, value = line.partition(":")
                if name in peak:
                    peak[name] = max(peak[name], int(value.split()[0]) // 1_024)
        if time.monotonic() - look > 0.5:
            with contextlib.suppress(AssertionError):
                if is_done():
                    return peak["RssAnon"], peak["RssFile"]
            look = time.monotonic()
        time.sleep(0.02)


def test_recovery(tmp_path):
    """From the restart after a kill to the first answer, with 100,000 entities."""
    rng = seeded("recovery")
    count = 1_000_000 if LONG else 200_000
    many_events(tmp_path / "events.csv", count, rng)
    data = tmp_path / "data"
    process = subprocess.Popen([WEIR, "ingest", "purchases", tmp_path / "events.csv", "--data", data], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: process.poll() is not None or history_count(data) > 0.8 * count, 300)
    process.send_signal(signal.SIGKILL)
    process.wait()
    behind = history_count(data)
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        with Server(data, "--clock", "event") as server:
            answer = server.client().execute_command(
                "FEATURES.GET", "checkout_offer", json.dumps({"household": 5, "basket": 1, "store": 1, "cart_value": 1}))
            seconds.append(time.monotonic() - start)
            assert answer
            server.kill()
    sequence = stats(data)
    assert sequence["applied_sequence"] == sequence["history_sequence"] == behind
    print(f"killed at {behind} of {count} events; back after {', '.join(f'{value:.2f} s' for value in seconds)}")
    assert seconds[0] < (1 if LONG else 3)
    weir("ingest", "purchases", tmp_path / "events.csv", "--data", data)
    assert history_count(data) == count


def test_dead_letters(tmp_path):
    """Listed, shown, tried again."""
    rows = read_rows(SLICE)[:50]
    write_rows(tmp_path / "events.csv", rows)
    with open(tmp_path / "events.csv", "a") as file:
        file.write("x,1,2\n")
    data = tmp_path / "data"
    weir("ingest", "purchases", tmp_path / "events.csv", "--data", data)
    number = weir("dead-letters", "list", "--kind", "malformed", "--data", data).stdout.split("\t")[0]
    assert not weir("dead-letters", "list", "--kind", "too late", "--data", data).stdout
    shown = weir("dead-letters", "show", number, "--data", data).stdout
    assert "x,1,2" in shown and "reason:      3 fields" in shown and "events.csv" in shown
    missing = weir("dead-letters", "show", 99, "--data", data, check=False)
    assert missing.returncode == 1 and "99" in missing.stderr
    assert weir("dead-letters", "retry", "--data", data).stdout.startswith("0 of 1 dead letters are taken, 1 are refused again")
    assert "retries:     1" in weir("dead-letters", "show", number, "--data", data).stdout
    assert weir("dead-letters", "list", "--kind", "nonsense", "--data", data, check=False).returncode == 64
    text = weir("stats", "--data", data).stdout
    assert "malformed 1" in text and "entities" in text and "bytes_per_entity" in text
