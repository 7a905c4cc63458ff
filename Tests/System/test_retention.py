"""Times to live: of a view and of a stream, alike in lookups, training sets and a store made anew, also when it is killed in the middle."""

from __future__ import annotations

import csv
import json
import math
import os
import pathlib
import random
import shutil
import signal
import subprocess

import pytest
import redis

from harness import WEIR, Server, seeded, wait_for
from oracle import DAY, HOUR, double_text, format_time, parse_time
from test_kills import sql

SHOP = str(pathlib.Path(WEIR).with_name("RetentionShop"))
START = parse_time("2026-03-01T00:00:00Z")
FIELDS = ["id", "rider", "city", "fare", "event_time"]
KNOWN_AT = "known_at"
FEATURES = ["fares_1d", "rides", "last_city", "trip_rides", "rides_hopping", "city_rides_3d", "city_fares_3d", "hourly_rides"]
# What the stream keeps behind its watermark, windows' lateness with it, and the steps in which it lets go.
RETENTION = 10 * DAY + 30 * HOUR // 60
STEP = 10 * DAY // 16
# How far back windows of the service reach.
REACH = 3 * DAY


def shop(*arguments, check=True, **environment) -> subprocess.CompletedProcess:
    done = subprocess.run([SHOP, *map(str, arguments)], capture_output=True, text=True, timeout=300, env={**os.environ, **environment})
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def rides(rng: random.Random, count: int, first: int = START, span: int = 25 * DAY) -> list[dict]:
    """Rides in the order in which they arrive: some are late, by days at most."""
    found = []
    for number in range(count):
        arrival = at = first + span * number // count
        late = rng.randrange(20 * DAY) if rng.random() < 0.02 else rng.randrange(DAY) if rng.random() < 0.2 else 0
        # Whole milliseconds, so that times that clients name can meet them.
        at = (at - late) // 1_000 * 1_000
        found.append({"id": f"{first}-{number}", "rider": f"r{rng.randrange(12)}", "city": rng.randrange(4),
                      "fare": rng.randrange(100, 9_000) / 100, "event_time": format_time(at), "at": at,
                      KNOWN_AT: format_time(arrival), "known": arrival})
    return found


def write(path, found: list[dict]) -> pathlib.Path:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [*FIELDS, KNOWN_AT], lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(found)
    return path


def accepted(arrived: list[dict]) -> tuple[list[dict], int, int]:
    """What counts of rides, from when on rides are kept, and how many were older than that when they came."""
    kept_from, watermark, taken, expired = -(1 << 63), -(1 << 63), [], 0
    for ride in arrived:
        watermark = max(watermark, ride["at"])
        kept_from = max(kept_from, (watermark - RETENTION) // STEP * STEP)
        if ride["at"] < kept_from:
            expired += 1
        else:
            taken.append(ride)
    return taken, kept_from, expired


def expected(found: list[dict], rider: str, city: int, t: int) -> list[str]:
    own = sorted((ride for ride in found if ride["rider"] == rider and t - 2 * DAY <= ride["at"] < t),
                 key=lambda ride: (ride["at"], ride["id"].encode()))
    trip, reach = 0, t - 6 * HOUR
    for ride in reversed(own):
        if ride["at"] < reach:
            break
        trip, reach = trip + 1, ride["at"] - 6 * HOUR
    of_city = [ride for ride in found if ride["city"] == city and t - 3 * DAY <= ride["at"] < t]
    hopping = (t - 12 * HOUR) // HOUR * HOUR
    return [double_text(math.fsum(ride["fare"] for ride in own if ride["at"] >= t - DAY)), str(len(own)),
            str(own[-1]["city"]) if own else None, str(trip), str(sum(ride["at"] >= hopping for ride in own)),
            str(len(of_city)), double_text(math.fsum(ride["fare"] for ride in of_city)),
            str(sum(ride["at"] >= t // HOUR * HOUR for ride in of_city))]


def next_day(found: list[dict], rider: str, t: int, watermark: int) -> str:
    if t + DAY > watermark:
        return ""
    return str(sum(ride["rider"] == rider and t <= ride["at"] < t + DAY for ride in found))


def ask(client, rider: str, city: int, t: int) -> list[str]:
    reply = client.execute_command("FEATURES.GET", "ride_offer", json.dumps({"rider": rider, "city": city}), "AT", t // 1_000)
    assert reply[::2] == FEATURES
    return reply[1::2]


def moments(rng: random.Random, found: list[dict], first: int, last: int, count: int) -> list[int]:
    """Times to ask for: anywhere, and where rides come to count and stop to."""
    times = []
    while len(times) < count:
        edge = rng.choice([None, 0, DAY, 2 * DAY, 3 * DAY, 12 * HOUR])
        t = rng.randrange(first, last) if edge is None else rng.choice(found)["at"] + edge + rng.choice([-1_000, 0, 1_000])
        t = t // 1_000 * 1_000
        if first <= t < last:
            times.append(t)
    return times


def ingest(path, data, *arguments, check=True, **environment) -> subprocess.CompletedProcess:
    return shop("ingest", "rides", path, "--ingest-time-column", KNOWN_AT, "--data", data, *arguments, check=check, **environment)


def stream_stats(data) -> dict:
    return json.loads(shop("stats", "--json", "--data", data).stdout)["streams"][0]


def export(data, directory: pathlib.Path, rows: list[tuple[str, int, int]], *arguments, check=True):
    spine, out = directory / "spine.csv", directory / "out.csv"
    out.unlink(missing_ok=True)
    with open(spine, "w") as file:
        file.write("rider,city,event_timestamp\n" + "".join(f"{rider},{city},{format_time(t)}\n" for rider, city, t in rows))
    done = shop("export", "ride_offer", "--spine", spine, "--out", out, "--data", data, *arguments, check=check)
    if done.returncode != 0:
        assert not out.exists()
        return done
    with open(out, newline="") as file:
        return list(csv.DictReader(file))


def check_store(data, directory: pathlib.Path, rng: random.Random, taken: list[dict], kept_from: int, count: int) -> None:
    """Lookups, training sets and a naive count of what counts say the same; beyond what is kept they say so."""
    watermark = max(ride["at"] for ride in taken)
    found = [ride for ride in taken if ride["at"] >= kept_from]
    first = kept_from + REACH
    rows = [(f"r{rng.randrange(13)}", rng.randrange(5), t) for t in moments(rng, found, first, watermark + 4 * DAY, count)]
    rows += [("r1", 1, first), ("r2", 2, watermark + 1_000), ("r3", 3, watermark + 2 * DAY), ("nobody", 99, first + HOUR)]
    with Server(data, "--clock", "event", binary=SHOP) as server:
        client = server.client()
        for rider, city, t in rows:
            answer, wanted = ask(client, rider, city, t), expected(found, rider, city, t)
            assert answer == wanted, f"{rider} {city} at {format_time(t)}: {answer}, expected {wanted}"
        # A millisecond before, a window begins where something may be gone.
        for t in (first - 1_000, kept_from, START):
            with pytest.raises(redis.ResponseError, match="begins before"):
                ask(client, "r1", 1, t)
        # An entity whose rides are all too old is as one that never was.
        t = watermark + 11 * DAY
        meta = client.execute_command("FEATURES.GET", "ride_offer", '{"rider":"r1","city":1}', "AT", t // 1_000, "META")
        shown = dict(zip(meta[::2], meta[1::2]))
        states = {name: dict(zip(state[::2], state[1::2])) for name, state in zip(shown["meta"][::2], shown["meta"][1::2])}
        assert states["rides"]["status"] == "NOT_FOUND" and states["rides"]["event_time"] is None, states
        assert shown["features"][1::2][:5] == ["0.0", "0", None, "0", "0"]
    for arguments in ([], ["--as-known"]):
        table = export(data, directory, rows, *arguments)
        for (rider, city, t), row in zip(rows, table, strict=True):
            known = [ride for ride in found if ride["known"] <= t or not arguments]
            assert [row[name] or None for name in FEATURES] == expected(known, rider, city, t), (rider, city, format_time(t))
            assert row["rides_next_day"] == next_day(found, rider, t, watermark), (rider, format_time(t))
    bad = rows[:7] + [("r4", 1, first - 1)] + rows[7:9] + [("r1", 1, START)] + rows[9:]
    done = export(data, directory, bad, check=False)
    assert done.returncode == 1 and "line 9: a window of " in done.stderr and "keeps events of 'rides'" in done.stderr, done.stderr


def test_what_is_old_neither_counts_nor_stays(tmp_path):
    rng = seeded("retention")
    arrived = rides(rng, 2_500)
    data = tmp_path / "data"
    for number in range(5):
        part = arrived[number * 500:(number + 1) * 500]
        ingest(write(tmp_path / f"rides{number}.csv", part), data, "--shards", 3)
    taken, kept_from, expired = accepted(arrived)
    found = [ride for ride in taken if ride["at"] >= kept_from]
    assert expired > 10 and len(found) < len(taken) / 2
    stats = stream_stats(data)
    assert parse_time(stats["kept_from"]) == kept_from and stats["expired"] == expired
    assert stats["events"] == len(found), "what no longer counts is still there"
    assert sql(data, f"select count(*) from weir_closed_windows where window_end < {kept_from}") == [["0"]]
    assert int(sql(data, "select count(*) from weir_closed_windows")[0][0]) > 100
    check_store(data, tmp_path, rng, taken, kept_from, 300)

    shop("rebuild", "--data", data, "--shards", 2)
    check_store(data, tmp_path, rng, taken, kept_from, 100)

    # All rides again, in one file and another order: none comes back.
    again = sorted(arrived, key=lambda ride: ride["rider"])
    told = ingest(write(tmp_path / "again.csv", again), data).stdout
    assert told.startswith("0 events accepted") and f"{len(arrived) - len(found)} older than what is kept" in told, told
    assert f"{len(found)} duplicates" in told, told
    assert stream_stats(data)["events"] == len(found)


def test_served_answers_whose_events_have_left_are_not_compared(tmp_path):
    rng = seeded("retention verify")
    arrived = rides(rng, 600)
    data = tmp_path / "data"
    ingest(write(tmp_path / "rides.csv", arrived), data)
    taken, kept_from, _ = accepted(arrived)
    found = [ride for ride in taken if ride["at"] >= kept_from]
    watermark = max(ride["at"] for ride in taken)
    times = moments(rng, found, kept_from + REACH, watermark + DAY, 60)
    with Server(data, "--clock", "event", "--log-requests", 1, binary=SHOP) as server:
        client = server.client()
        for t in times:
            ask(client, f"r{rng.randrange(12)}", rng.randrange(4), t)
    found = json.loads(shop("verify", "--json", "--data", data).stdout)
    assert found["checked"] == found["equal"] == 60
    later = rides(rng, 50, watermark + 6 * DAY, DAY)
    ingest(write(tmp_path / "later.csv", later), data)
    _, kept_from, _ = accepted(taken + later)
    gone = sum(t < kept_from + REACH for t in times)
    found = json.loads(shop("verify", "--json", "--data", data).stdout)
    assert 0 < gone < 60 and found["uncheckable"]["the history has not all of it any more"] == gone
    assert found["checked"] == found["equal"] == 60 - gone


@pytest.mark.parametrize("point", ["retention-written", "retention-committed"])
def test_killed_while_it_deletes(tmp_path, point):
    rng = seeded(f"retention {point}")
    arrived = rides(rng, 1_500)
    taken, kept_from, expired = accepted(arrived)
    found = [ride for ride in taken if ride["at"] >= kept_from]
    parts = [write(tmp_path / f"rides{number}.csv", arrived[number * 300:(number + 1) * 300]) for number in range(5)]
    data = tmp_path / "data"
    kills = 0
    for number, part in enumerate(parts):
        for count in (1, 2, 4):
            done = ingest(part, data, check=False, WEIR_CRASH_AT=f"{point}:{count}")
            if done.returncode == 0:
                break
            assert done.returncode == -signal.SIGKILL, done.stderr
            kills += 1
        else:
            ingest(part, data)
    assert kills >= 4, kills
    stats = stream_stats(data)
    assert stats["events"] == len(found) and parse_time(stats["kept_from"]) == kept_from
    # A file that was read when the process died may be read again, and its old rides are counted again then.
    assert stats["expired"] >= expired
    check_store(data, tmp_path, rng, taken, kept_from, 60)
    shutil.copytree(data, tmp_path / "copy")
    shop("rebuild", "--data", tmp_path / "copy")
    check_store(tmp_path / "copy", tmp_path, rng, taken, kept_from, 60)


def test_a_running_server_lets_go(tmp_path):
    """Pushes move the time on, and what they leave behind goes while lookups are answered."""
    rng = seeded("retention server")
    arrived = rides(rng, 400, span=8 * DAY)
    data = tmp_path / "data"
    ingest(write(tmp_path / "rides.csv", arrived), data)
    before = stream_stats(data)["events"]
    with Server(data, "--clock", "event", binary=SHOP) as server:
        client = server.client()
        later = rides(rng, 100, START + 16 * DAY, 2 * DAY)
        for ride in later:
            body = json.dumps({name: ride[name] for name in FIELDS})
            assert client.execute_command("EVENTS.ADD", "rides", body) == 1
            arrived.append(ride)
        taken, kept_from, _ = accepted(arrived)
        found = [ride for ride in taken if ride["at"] >= kept_from]
        wait_for(lambda: stream_stats(data)["events"] == len(found), 30)
        assert len(found) < before + 100
        watermark = max(ride["at"] for ride in taken)
        for t in moments(rng, found, max(kept_from + REACH, watermark - 2 * DAY), watermark + DAY, 50):
            rider, city = f"r{rng.randrange(12)}", rng.randrange(4)
            assert ask(client, rider, city, t) == expected(found, rider, city, t)
        shown = client.execute_command("FEATURES.EXPLAIN", "ride_offer", '{"rider":"r1","city":1}', "AT", (watermark + DAY) // 1_000)
        assert shown
