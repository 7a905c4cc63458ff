"""Training sets: labels, spines of streams, bounded memory, interruptions, and files that are made again."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time

import pytest
import redis

import oracle
from cases import SPINE_FIELDS, request_of, spine_for
from harness import LIVE, SLICE, WEIR, Server, export, read_rows, seeded, weir, write_rows
from oracle import DAY, format_time, parse_time


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The slice of purchases, ingested, with a spine of 3,000 rows."""
    directory = tmp_path_factory.mktemp("export")
    rng = seeded("export")
    rows = read_rows(SLICE)
    weir("ingest", "purchases", SLICE, "--data", directory / "data")
    write_rows(directory / "spine.csv", spine_for(rows, 3_000, rng), SPINE_FIELDS)
    return directory


def test_threads_memory_and_shards_do_not_show(store, tmp_path):
    """The same bytes from one thread or five, in one part or many, from a store of another number of shards."""
    whole = export(store / "data", store / "spine.csv", tmp_path / "whole.csv")
    for number, arguments in enumerate([("--threads", "1"), ("--threads", "5", "--memory", "1MB")]):
        assert export(store / "data", store / "spine.csv", tmp_path / f"{number}.csv", *arguments) == whole
    weir("ingest", "purchases", SLICE, "--data", tmp_path / "other", "--shards", "5")
    assert export(tmp_path / "other", store / "spine.csv", tmp_path / "other.csv") == whole


def test_interrupted_exports_leave_nothing_half(store, tmp_path):
    """Killed at any moment an export leaves the old file, or the new one, and the next one makes the same bytes."""
    rng = seeded("interrupted exports")
    out = tmp_path / "out.csv"
    whole = export(store / "data", store / "spine.csv", tmp_path / "whole.csv")
    out.write_bytes(b"old\n")
    started = time.monotonic()
    export(store / "data", store / "spine.csv", tmp_path / "timed.csv")
    took = time.monotonic() - started
    killed = 0
    for _ in range(12):
        process = subprocess.Popen(
            [WEIR, "export", "checkout_offer", "--spine", store / "spine.csv", "--out", out, "--data", store / "data"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.random() * took)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert out.read_bytes() in (b"old\n", whole)
    assert killed >= 4
    assert export(store / "data", store / "spine.csv", out) == whole
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == ["out.csv", "out.csv.manifest.json"]


def test_manifests_are_checked(store, tmp_path):
    """A file is made again from its manifest, however much the store has grown; a changed byte is found with its line."""
    weir("ingest", "purchases", SLICE, "--data", tmp_path / "data")
    out = tmp_path / "out.csv"
    export(tmp_path / "data", store / "spine.csv", out, "--sample", "0.5", "--from", "2017-01-02T00:00:00Z")
    manifest = f"{out}.manifest.json"
    facts = json.loads(open(manifest).read())
    assert facts["sample"] == 0.5 and facts["from"] == "2017-01-02T00:00:00Z" and 500 < facts["rows"] < 2_000
    row = list(csv.DictReader(open(out)))[20]
    late = {**read_rows(SLICE)[100], "id": "late-one", "price": "1000000.0", "household": row["household"],
            "event_time": format_time(parse_time(row["event_timestamp"]) - 1)}
    write_rows(tmp_path / "late.csv", [late])
    weir("ingest", "purchases", tmp_path / "late.csv", "--data", tmp_path / "data")
    done = weir("export", "--manifest", manifest, "--check", "--data", tmp_path / "data")
    assert done.stdout.startswith(f"the same: {facts['rows']} rows, sha256 {facts['sha256']}")
    # Without the manifest's position the late event counts.
    export(tmp_path / "data", store / "spine.csv", tmp_path / "new.csv", "--sample", "0.5", "--from", "2017-01-02T00:00:00Z")
    assert (tmp_path / "new.csv").read_bytes() != out.read_bytes()
    text = out.read_text().splitlines(keepends=True)
    changed = text[7].replace("0", "1", 1)
    out.write_text("".join(text[:7] + [changed] + text[8:]))
    done = weir("export", "--manifest", manifest, "--check", "--data", tmp_path / "data", check=False)
    assert done.returncode == 1 and "line 8 of" in done.stdout and changed.strip() in done.stdout
    out.write_text("".join(text[:-1]))
    done = weir("export", "--manifest", manifest, "--check", "--data", tmp_path / "data", check=False)
    assert done.returncode == 1 and "(ends here)" in done.stdout
    with open(store / "spine.csv") as spine, open(tmp_path / "spine.csv", "w") as other:
        other.write(spine.read().replace("\n", "\r\n"))
    done = weir("export", "--manifest", manifest, "--check", "--spine", tmp_path / "spine.csv", "--data", tmp_path / "data", check=False)
    assert done.returncode == 1 and "is not the one that the training set was made from" in done.stderr


def test_labels_and_spines_of_streams(tmp_path):
    """A training set from one command, without a file of labels: against brute force."""
    rows = read_rows(SLICE)[:8_000]
    write_rows(tmp_path / "events.csv", rows)
    subprocess.run([LIVE, "ingest", "purchases", tmp_path / "events.csv", "--data", tmp_path / "data"], check=True, capture_output=True)
    out = tmp_path / "out.csv"
    done = subprocess.run(
        [LIVE, "export", "store_forecast", "--spine-from", "purchases", "--every", "12h", "--out", out, "--data", tmp_path / "data"],
        check=True, capture_output=True, text=True)
    assert "1 features and 2 labels" in done.stdout
    events = [(parse_time(row["event_time"]), int(row["store"]), float(row["price"])) for row in rows]
    half = DAY // 2
    steps = sorted({(time // half * half + half, store) for time, store, _ in events})
    table = list(csv.DictReader(open(out)))
    assert sorted((parse_time(row["event_timestamp"]), int(row["store"])) for row in table) == steps
    last = max(time for time, _, _ in events)
    known = 0
    for row in table:
        at, store = parse_time(row["event_timestamp"]), int(row["store"])
        assert int(row["sales"]) == sum(1 for time, other, _ in events if other == store and time < at)
        ahead = [price for time, other, price in events if other == store and at <= time < at + DAY]
        if at + DAY > last:
            # Not over yet.
            assert row["sales_next_day"] == row["spend_next_day"] == ""
        else:
            known += 1
            assert int(row["sales_next_day"]) == len(ahead)
            assert row["spend_next_day"] == oracle.double_text(float(oracle.math.fsum(ahead)))
    assert known > 50 and known < len(table)
    # A label is never served.
    with Server(tmp_path / "data", "--clock", "event", binary=LIVE) as server:
        client = server.client()
        answer = client.execute_command("FEATURES.GET", "store_forecast", json.dumps({"store": events[0][1]}))
        assert answer[0::2] == ["sales"]
        with pytest.raises(redis.ResponseError, match="labels, which are known only afterwards"):
            client.execute_command("HGETALL", f"store_next:{events[0][1]}")


def test_plan(store, tmp_path):
    """What a store that was made with other definitions would take; nothing is changed."""
    assert weir("plan", "--data", store / "data").stdout == "nothing differs\n"
    done = subprocess.run([LIVE, "plan", "--data", store / "data"], check=True, capture_output=True, text=True)
    assert "~ stream purchases" in done.stdout and "- view household_spend" in done.stdout and "+ view live_stores" in done.stdout
    assert "to do: `weir apply`" in done.stdout and "get their keys" in done.stdout
    done = subprocess.run([LIVE, "plan", "--json", "--data", store / "data"], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["consequence"] == "rekey"
    assert weir("plan", "--data", store / "data").stdout == "nothing differs\n"


def test_served_values_against_a_training_set(store, tmp_path):
    """The manifest of an export is what `weir stats SERVICE --against` compares with."""
    training = export(store / "data", store / "spine.csv", tmp_path / "out.csv")
    column = [float(row["cart_vs_usual"]) for row in csv.DictReader(training.decode().splitlines()) if row["cart_vs_usual"]]
    facts = next(facts for facts in json.loads((tmp_path / "out.csv.manifest.json").read_text())["features"]
                 if facts["name"] == "cart_vs_usual")
    assert facts["rows"] == 3_000 and facts["nulls"] == 3_000 - len(column)
    assert facts["minimum"] == min(column) and facts["maximum"] == max(column)
    assert facts["mean"] == oracle.math.fsum(column) / len(column)
    median = sorted(column)[(len(column) - 1) // 2]
    assert abs(facts["quantiles"]["0.5"] - median) <= 0.01 * (1 + 1e-9) * median
    with Server(store / "data", "--clock", "event", "--log-requests", "1") as server:
        client = server.client()
        for row in list(csv.DictReader(open(store / "spine.csv")))[:1_000]:
            client.execute_command(
                "FEATURES.GET", "checkout_offer", json.dumps({**request_of(row), "cart_value": 1e6}), "AT", row["event_timestamp"])
    done = weir("stats", "checkout_offer", "--against", tmp_path / "out.csv.manifest.json", "--json", "--data", store / "data")
    drift = {facts["name"]: facts["stability_index"] for facts in json.loads(done.stdout)["features"]}
    # Carts of a million are what the model was never shown.
    assert drift["cart_vs_usual"] > 1 > 0.2 > drift["spend_28d"] >= 0


def test_commands_that_make_no_sense(store, tmp_path):
    def failure(*arguments):
        done = weir("export", *arguments, "--data", store / "data", check=False)
        return done.returncode, done.stderr

    out = ("--out", tmp_path / "out.csv")
    assert failure("checkout_offer", *out)[0] == 64
    assert failure("checkout_offer", "--spine-from", "purchases", *out)[0] == 64
    assert failure("checkout_offer", "--spine", store / "spine.csv", "--sample", "7", *out)[0] == 64
    assert failure("--check", *out)[0] == 64
    code, text = failure("checkout_offer", "--spine-from", "purchases", "--every", "7d", *out)
    assert code == 1 and "the request's field 'cart_value' is none of the stream purchases" in text
    code, text = failure("checkout_offer", "--spine-from", "visits", "--every", "7d", *out)
    assert code == 1 and "unknown stream 'visits'" in text
    code, text = failure("checkout_offer", "--spine-from", "purchases", "--every", "seven", *out)
    assert code == 1 and "a duration is a number with a unit" in text
    code, text = failure("checkout_offer", "--spine", store / "spine.csv", "--from", "tomorrow", *out)
    assert code == 1 and "--from" in text
    weir("export", "checkout_offer", "--spine-from", "purchases", "--every", "7d", "--spine-value", "cart_value=0", *out,
         "--data", store / "data")
    assert not (tmp_path / "out.csv.partial").exists()


def memory_of(process) -> int:
    """A process's peak of anonymous memory, sampled until it ends; bytes."""
    peak = 0
    while process.poll() is None:
        try:
            for line in open(f"/proc/{process.pid}/status"):
                if line.startswith("RssAnon"):
                    peak = max(peak, int(line.split()[1]) * 1024)
        except OSError:
            break
        time.sleep(0.01)
    return peak


def test_memory_is_bounded(store, tmp_path):
    """A spine that is far larger than the memory it may take."""
    rng = seeded("bounded memory")
    rows = read_rows(SLICE)
    with open(tmp_path / "spine.csv", "w") as spine:
        spine.write("event_timestamp,household,basket,store,cart_value,note\n")
        for _ in range(150_000):
            row = rng.choice(rows)
            spine.write(f"{row['event_time']},{row['household']},{row['basket']},{row['store']},1.5,{'x' * 200}\n")
    peaks = []
    for memory in ["2MB", "1GB"]:
        process = subprocess.Popen(
            [WEIR, "export", "checkout_offer", "--spine", tmp_path / "spine.csv", "--out", tmp_path / f"{memory}.csv", "--memory", memory,
             "--threads", "2", "--data", store / "data"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "MALLOC_ARENA_MAX": "1"})
        peaks.append(memory_of(process))
        assert process.returncode == 0
    print(f"anonymous memory: {peaks[0] >> 20} MiB with --memory 2MB, {peaks[1] >> 20} MiB with 1GB")
    assert (tmp_path / "2MB.csv").read_bytes() == (tmp_path / "1GB.csv").read_bytes()
    assert peaks[0] < 100 << 20 < peaks[1]
