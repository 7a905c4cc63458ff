"""Disks that are full, files that are damaged, databases that are locked, clocks that go back: a clear message, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import sqlite3
import subprocess
import threading
import time

import pytest
import redis

from cases import SPINE_FIELDS, answers, exported, same_text, spine_for
from harness import SLICE, WEIR, Broker, Server, as_json, export, history_count, read_rows, seeded, wait_for, weir, write_rows


class Undisturbed:
    """A store of some events that nothing happened to, and what it exports."""

    def __init__(self, folder, count=8_000) -> None:
        self.folder = folder
        self.rows = read_rows(SLICE)[:count]
        rng = seeded("damage")
        self.rng = rng
        self.spine = spine_for(self.rows, 200, rng)
        write_rows(folder / "spine.csv", self.spine, SPINE_FIELDS)
        write_rows(folder / "all.csv", self.rows)
        weir("ingest", "purchases", folder / "all.csv", "--data", folder / "undisturbed")
        self.training = export(folder / "undisturbed", folder / "spine.csv", folder / "undisturbed.csv")

    def copy(self, name: str) -> pathlib.Path:
        shutil.copytree(self.folder / "undisturbed", self.folder / name)
        return self.folder / name

    def check(self, data, out) -> None:
        """The store holds what the undisturbed one does: in the history, in exports, in lookups."""
        assert history_count(data) == len(self.rows)
        assert export(data, self.folder / "spine.csv", out) == self.training
        with Server(data, "--clock", "event") as server:
            wrong = same_text(exported(self.training), answers(server.client(), self.spine))
            assert not wrong, "\n".join(wrong[:5])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return Undisturbed(tmp_path_factory.mktemp("damage"))


def limited(size: int):
    """No file may grow beyond `size`."""
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return limit


@contextlib.contextmanager
def small_disk(path, size: str):
    path.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, text=True)
    if mounted.returncode != 0:
        # Only where it cannot be: a right that is there and does not suffice is a failure.
        status = pathlib.Path("/proc/self/status").read_text()
        rights = int(next(line for line in status.splitlines() if line.startswith("CapEff")).split()[1], 16)
        assert not rights >> 21 & 1, mounted.stderr
        pytest.skip(f"no file system can be mounted here without CAP_SYS_ADMIN: {mounted.stderr}")
    try:
        yield lambda larger: subprocess.run(["mount", "-o", f"remount,size={larger}", str(path)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_limit_on_files(undisturbed, tmp_path):
    """RLIMIT_FSIZE: first the history cannot grow, then the online store, while it catches up with the whole history."""
    data = tmp_path / "data"
    events = undisturbed.folder / "all.csv"
    for size in [300_000, 700_000]:
        failed = weir("ingest", "purchases", events, "--data", data, check=False, preexec_fn=limited(size))
        assert failed.returncode == 1 and "history.sqlite" in failed.stderr and "start again" in failed.stderr, failed.stderr
    weir("ingest", "purchases", events, "--data", data)
    subprocess.run(["sqlite3", data / "history.sqlite", "pragma wal_checkpoint(truncate)"], check=True, capture_output=True)
    shutil.rmtree(data / "online")
    failed = weir("ingest", "purchases", events, "--data", data, check=False, preexec_fn=limited(200_000))
    assert failed.returncode == 1 and "/online/shard-" in failed.stderr and "disk" in failed.stderr, failed.stderr
    weir("ingest", "purchases", events, "--data", data)
    undisturbed.check(data, tmp_path / "out.csv")


@pytest.mark.parametrize("where", ["both", "online", "history"])
def test_full_disk(undisturbed, tmp_path, where):
    """A file system that fills: under both stores, and under each alone."""
    data = tmp_path / "data"
    size = {"both": "2m", "online": "600k", "history": "800k"}[where]
    with small_disk(data / "online" if where == "online" else data, size) as enlarge:
        if where == "history":
            # The online store has room elsewhere.
            (tmp_path / "elsewhere").mkdir()
            (data / "online").symlink_to(tmp_path / "elsewhere")
        failed = weir("ingest", "purchases", undisturbed.folder / "all.csv", "--data", data, check=False)
        assert failed.returncode == 1, f"{failed.returncode} {failed.stderr}"
        assert "full" in failed.stderr and "nothing is lost" in failed.stderr, failed.stderr
        if where != "both":
            assert ("history.sqlite" if where == "history" else "online") in failed.stderr, failed.stderr
        enlarge("200m")
        weir("ingest", "purchases", undisturbed.folder / "all.csv", "--data", data)
        undisturbed.check(data, tmp_path / "out.csv")


def test_full_disk_of_pushes(undisturbed, tmp_path):
    """A push that the disk has no room for gets an error; lookups go on; with room again pushes are taken, and each counts once."""
    data = tmp_path / "data"
    rows = undisturbed.rows
    with small_disk(data / "push", "160k") as enlarge:
        with Server(data, "--clock", "event") as server:
            client = server.client()
            taken, refused = 0, 0
            while taken < 2_000:
                some = rows[taken:taken + 50]
                try:
                    taken += int(client.execute_command("EVENTS.ADD", "purchases", *map(as_json, some)))
                except redis.ResponseError as error:
                    refused += 1
                    assert "No space left" in str(error) or "full" in str(error), error
                    assert client.ping()
                    # What was acknowledged before is on its way.
                    wait_for(lambda: client.execute_command("EXISTS", f"household_spend:{rows[0]['household']}") in (1, "1"))
                    enlarge("20m")
            assert refused
            wait_for(lambda: history_count(data) == taken)
        assert history_count(data) == taken


def test_map_that_grows(undisturbed, tmp_path):
    """The memory map begins with one MiB and grows by itself, also under processes that only read."""
    data = tmp_path / "data"
    half = tmp_path / "half.csv"
    write_rows(half, undisturbed.rows[:300])
    weir("ingest", "purchases", half, "--data", data, "--shards", 1, "--map-size", 1)
    with Server(data, "--clock", "event", command="serve") as reader:
        client = reader.client()
        key = f"household_spend:{undisturbed.rows[0]['household']}"
        weir("ingest", "purchases", undisturbed.folder / "all.csv", "--data", data, "--map-size", 1)
        assert sum(path.stat().st_size for path in (data / "online").glob("*/data.mdb")) > 1 << 20
        wrong = same_text(exported(undisturbed.training), answers(client, undisturbed.spine))
        assert not wrong, "\n".join(wrong[:5])
        assert client.execute_command("EXISTS", key) in (1, "1")
    undisturbed.check(data, tmp_path / "out.csv")


def test_locked_history(undisturbed, tmp_path):
    """Another process holds a transaction on the history: a warning, and all is taken once it ends."""
    data = tmp_path / "data"
    with Server(data, "--clock", "event") as server:
        client = server.client()
        client.execute_command("EVENTS.ADD", "purchases", *map(as_json, undisturbed.rows[:100]))
        wait_for(lambda: history_count(data) == 100)
        other = sqlite3.connect(data / "history.sqlite", isolation_level=None, timeout=20)
        other.execute("BEGIN IMMEDIATE")
        assert int(client.execute_command("EVENTS.ADD", "purchases", *map(as_json, undisturbed.rows[100:200]))) == 100
        time.sleep(6)
        assert client.ping()
        other.execute("COMMIT")
        other.close()
        wait_for(lambda: history_count(data) == 200)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=30) == 0
        assert "locked" in server.process.stderr.read()


def test_damaged_online_store(undisturbed, tmp_path):
    """Cut off or overwritten: the process says which file it is and what to do; `weir rebuild` does it.

    Pages have no checksums. Zeros and cut files never look like a store's: each answer is the undisturbed one, or an error that names
    the file. Random bytes may: then what is asserted is that there is an answer or such an error, and no crash.
    """
    named = 0
    request = {name: int(undisturbed.rows[-1][name]) for name in ("household", "basket", "store")} | {"cart_value": 1}
    lookup = ["get", "checkout_offer", json.dumps(request), "--clock", "event"]
    right = weir(*lookup, "--data", undisturbed.folder / "undisturbed").stdout
    for kind in ["half", "pages", "one page", "zeros"]:
        data = undisturbed.copy(kind)
        for file in (data / "online").glob("*/data.mdb"):
            size = file.stat().st_size
            with open(file, "r+b") as handle:
                if kind == "half":
                    handle.truncate(size // 2)
                else:
                    for _ in range(1 if kind == "one page" else 30):
                        handle.seek(undisturbed.rng.randrange(2, size // 4_096) * 4_096)
                        handle.write(bytes(4_096) if kind == "zeros" else undisturbed.rng.randbytes(4_096))
        for command in [["stats"], lookup]:
            done = weir(*command, "--data", data, check=False)
            assert done.returncode in (0, 1), f"{kind} {command}: {done.returncode} {done.stderr}"
            if done.returncode == 1:
                assert "online" in done.stderr and "weir rebuild" in done.stderr, done.stderr
                named += 1
            elif command == lookup and kind in ("half", "zeros"):
                assert done.stdout == right, f"{kind}: {done.stdout}"
        weir("rebuild", "--data", data)
        undisturbed.check(data, tmp_path / "out.csv")
    assert named


def test_recovery_from_a_damaged_history(undisturbed, tmp_path):
    """A backup takes the place of a damaged store, with the push log of the damaged one: the topic is read on from where the backup
    was, files that came later are ingested again, and nothing is missing or twice."""
    rows = undisturbed.rows
    data = tmp_path / "data"

    def part(name: str, start: int, end: int):
        write_rows(tmp_path / name, rows[start:end])
        return tmp_path / name

    def push(client, start: int, end: int) -> None:
        for first in range(start, end, 100):
            assert int(client.execute_command("EVENTS.ADD", "purchases", *map(as_json, rows[first:first + 100]))) == 100

    with Broker(tmp_path / "broker") as broker:
        weir("ingest", "purchases", part("one.csv", 0, 1_000), "--data", data)
        weir("produce", "purchases", "--kafka", broker.address, "--partitions", 2, part("two.csv", 1_000, 3_000))
        with Server(data, "--clock", "event", "--kafka", broker.address) as server:
            push(server.client(), 3_000, 4_000)
            wait_for(lambda: history_count(data) == 4_000)
            weir("backup", tmp_path / "backup", "--data", data)
            weir("produce", "purchases", "--kafka", broker.address, part("three.csv", 4_000, 6_000))
            push(server.client(), 6_000, 7_000)
            wait_for(lambda: history_count(data) == 7_000)
        weir("ingest", "purchases", part("four.csv", 7_000, len(rows)), "--data", data)
        subprocess.run(["sqlite3", data / "history.sqlite", "pragma wal_checkpoint(truncate)"], check=True, capture_output=True)
        with open(data / "history.sqlite", "r+b") as handle:
            handle.write(bytes(4_096))
        refused = weir("run", "--data", data, "--port", "0", "--http", "0", check=False)
        assert refused.returncode == 1 and "history.sqlite is damaged" in refused.stderr and "backup" in refused.stderr, refused.stderr
        data.rename(tmp_path / "damaged")
        shutil.copytree(tmp_path / "backup", data)
        shutil.copytree(tmp_path / "damaged/push", data / "push", dirs_exist_ok=True)
        with Server(data, "--clock", "event", "--kafka", broker.address):
            wait_for(lambda: history_count(data) == 7_000)
        weir("ingest", "purchases", tmp_path / "four.csv", "--data", data)
    undisturbed.check(data, tmp_path / "out.csv")
    assert not weir("dead-letters", "list", "--data", data).stdout


def test_backups_that_would_lack_something(undisturbed, tmp_path):
    """What cannot be read of the push log, or is not there, ends a backup; and a rebuild wants its place free."""
    data = tmp_path / "data"
    with Server(data, "--clock", "event") as server:
        assert int(server.client().execute_command("EVENTS.ADD", "purchases", *map(as_json, undisturbed.rows[:100]))) == 100
        wait_for(lambda: history_count(data) == 100)
    weir("backup", tmp_path / "good", "--data", data)
    # A directory cannot be read as a file, whoever asks.
    (data / "push/00000000000099999999.log").mkdir()
    refused = weir("backup", tmp_path / "bad", "--data", data, check=False)
    assert refused.returncode == 1 and "push/00000000000099999999.log" in refused.stderr, refused.stderr
    (data / "push/00000000000099999999.log").rmdir()
    shutil.move(data / "push", tmp_path / "push")
    refused = weir("backup", tmp_path / "bad", "--data", data, check=False)
    assert refused.returncode == 1 and "does not go on from" in refused.stderr, refused.stderr
    assert not (tmp_path / "bad").exists() and not (tmp_path / "bad.partial").exists()
    shutil.move(tmp_path / "push", data / "push")
    # What is mounted cannot be removed.
    with small_disk(data / "online.new", "10m"):
        refused = weir("rebuild", "--data", data, check=False)
        assert refused.returncode == 1 and "online.new" in refused.stderr and "remove it" in refused.stderr, refused.stderr
    (data / "online.new").rmdir()
    weir("rebuild", "--data", data)


def test_damaged_push_log(undisturbed, tmp_path):
    """A damaged record before acknowledged ones: the process says where, and cuts nothing off; the way out of docs/OPERATIONS.md keeps
    what is before it."""
    data = tmp_path / "data"
    rows = undisturbed.rows
    with Server(data, "--clock", "event", environment={"WEIR_CRASH_AT": "submitted:1"}) as server:
        client = redis.Redis(port=server.port)
        # The first one ends the process as it is handed over; the log has it.
        with contextlib.suppress(redis.ConnectionError):
            client.execute_command("EVENTS.ADD", "purchases", *map(as_json, rows[:10]))
        assert server.process.wait(timeout=30) == -signal.SIGKILL
    log = next((data / "push").glob("*.log"))
    one = log.read_bytes()
    # Records are independent: the same push three times.
    damaged = bytearray(one * 3)
    damaged[len(one) + 100] ^= 1
    log.write_bytes(damaged)
    refused = weir("run", "--data", data, "--port", "0", "--http", "0", check=False)
    assert refused.returncode == 1 and f"damaged at byte {len(one)}" in refused.stderr and "OPERATIONS.md" in refused.stderr, refused.stderr
    assert log.read_bytes() == damaged
    os.truncate(log, len(one))
    with Server(data, "--clock", "event"):
        wait_for(lambda: history_count(data) == 10)


def test_damaged_history(undisturbed, tmp_path):
    """A damaged page of the history: its name, and that it is damaged; no crash."""
    data = undisturbed.copy("history")
    subprocess.run(["sqlite3", data / "history.sqlite", "pragma wal_checkpoint(truncate)"], check=True, capture_output=True)
    with open(data / "history.sqlite", "r+b") as handle:
        size = handle.seek(0, 2)
        for page in range(20, size // 4_096, 3):
            handle.seek(page * 4_096)
            handle.write(undisturbed.rng.randbytes(4_096))
    failed = weir("export", "checkout_offer", "--spine", undisturbed.folder / "spine.csv", "--out", tmp_path / "out.csv", "--data", data, check=False)
    assert failed.returncode == 1 and "history.sqlite is damaged" in failed.stderr and "backup" in failed.stderr, failed.stderr
    with open(data / "history.sqlite", "r+b") as handle:
        handle.write(b"no database at all")
    failed = weir("stats", "--data", data, check=False)
    assert failed.returncode == 1 and "history.sqlite is damaged" in failed.stderr, failed.stderr


def test_backup_of_a_live_store(undisturbed, tmp_path):
    """A copy taken while events are pushed: a store of its own starts from it, with all that was acknowledged before."""
    data = tmp_path / "data"
    rows = undisturbed.rows
    with Server(data, "--clock", "event") as server:
        client = server.client()
        taken = 0
        stop = threading.Event()

        def push():
            nonlocal taken
            other = server.client()
            while not stop.is_set() and taken < len(rows):
                taken += int(other.execute_command("EVENTS.ADD", "purchases", *map(as_json, rows[taken:taken + 20])))
        pusher = threading.Thread(target=push)
        pusher.start()
        wait_for(lambda: taken > 500)
        for number in range(3):
            before = taken
            weir("backup", tmp_path / f"copy{number}", "--data", data)
            with Server(tmp_path / f"copy{number}", "--clock", "event"):
                wait_for(lambda: history_count(tmp_path / f"copy{number}") >= before)
                time.sleep(0.2)
                count = history_count(tmp_path / f"copy{number}")
                ids = sqlite3.connect(tmp_path / f"copy{number}/history.sqlite").execute("select count(distinct id || event_time || household) from purchases").fetchone()
            assert before <= count <= len(rows) and ids[0] <= count
        stop.set()
        pusher.join()
        assert client.ping()
        wait_for(lambda: history_count(data) == taken)
    refused = weir("backup", tmp_path / "copy0", "--data", data, check=False)
    assert refused.returncode == 1 and "not empty" in refused.stderr
    # The last copy, brought up to date, equals the undisturbed store.
    weir("ingest", "purchases", undisturbed.folder / "all.csv", "--data", tmp_path / "copy2")
    undisturbed.check(tmp_path / "copy2", tmp_path / "out.csv")


def test_two_writers(undisturbed, tmp_path):
    """A second writer is refused; after kill -9 of the first it starts."""
    data = tmp_path / "data"
    server = Server(data, "--clock", "event")
    for command in [["run", "--port", "0", "--http", "0"], ["ingest", "purchases", undisturbed.folder / "all.csv"], ["rebuild"],
                    ["dead-letters", "retry"]]:
        refused = weir(*command, "--data", data, check=False)
        assert refused.returncode == 1 and "another weir process" in refused.stderr, refused.stderr
    server.kill()
    weir("ingest", "purchases", undisturbed.folder / "all.csv", "--data", data)
    undisturbed.check(data, tmp_path / "out.csv")


CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <stdio.h>
#include <time.h>
// Adds the seconds that the file in WEIR_TEST_CLOCK says to the wall clock, and to no other.
int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    const char *path = getenv("WEIR_TEST_CLOCK");
    if (clock == CLOCK_REALTIME && path) {
        FILE *file = fopen(path, "re");
        long offset = 0;
        if (file) {
            if (fscanf(file, "%ld", &offset) != 1) offset = 0;
            fclose(file);
        }
        time->tv_sec += offset;
    }
    return result;
}
"""


def test_clock_that_goes_back(undisturbed, tmp_path):
    """The wall clock steps an hour back: nothing is lost, and the process goes on."""
    compiler = next(filter(None, map(shutil.which, ["clang", "cc", "gcc"])))
    (tmp_path / "clock.c").write_text(CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", tmp_path / "clock.so", tmp_path / "clock.c", "-ldl"], check=True)
    clock = tmp_path / "clock"
    clock.write_text("0")
    data = tmp_path / "data"
    environment = {"LD_PRELOAD": str(tmp_path / "clock.so"), "WEIR_TEST_CLOCK": str(clock)}
    with Server(data, "--clock", "event", environment=environment) as server:
        client = server.client()
        for number, offset in enumerate(["0", "-3600", "-7200", "0"]):
            clock.write_text(offset)
            some = undisturbed.rows[number * 2_000:(number + 1) * 2_000]
            assert int(client.execute_command("EVENTS.ADD", "purchases", *map(as_json, some))) == len(some)
            wait_for(lambda: history_count(data) == (number + 1) * 2_000)
    known = [row[0] for row in sqlite3.connect(data / "history.sqlite").execute("select distinct _ingest_time from purchases order by _seq")]
    assert min(known) < max(known) - 7_000_000_000, "the clock did not go back"
    undisturbed.check(data, tmp_path / "out.csv")
