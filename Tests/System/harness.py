"""Runs the real binary: stores in fresh directories, servers on free ports, a broker where a test asks for one."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import redis

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
WEIR = os.environ.get("WEIR", str(REPOSITORY / ".build/release/weir"))
# The same with views that publish every change.
LIVE = str(pathlib.Path(WEIR).with_name("LiveShop"))
# Feast has many dependencies, so it has an environment of its own.
FEAST_PYTHON = os.environ.get("WEIR_FEAST_PYTHON", str(REPOSITORY / ".venv-feast/bin/python"))
LONG = bool(os.environ.get("WEIR_TEST_LONG"))
SLICE = REPOSITORY / "features/data/purchases.csv"
FIELDS = ["id", "household", "basket", "store", "product", "department", "category", "quantity", "price",
          "retail_discount", "coupon_discount", "event_time"]
INTEGERS = {"household", "basket", "store", "product", "quantity"}
DOUBLES = {"price", "retail_discount", "coupon_discount"}


def seeded(name: str) -> random.Random:
    """A generator whose seed is printed; WEIR_SEED repeats a run."""
    seed = int(os.environ.get("WEIR_SEED", random.randrange(1 << 32)))
    print(f"{name}: WEIR_SEED={seed}")
    return random.Random(seed)


def read_rows(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows, fields=FIELDS) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def as_json(row: dict) -> str:
    """A purchase as an event's JSON."""
    return json.dumps({name: int(row[name]) if name in INTEGERS else float(row[name]) if name in DOUBLES else row[name]
                       for name in FIELDS})


def weir(*arguments, check=True, binary=WEIR, **options) -> subprocess.CompletedProcess:
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, timeout=600, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"weir {' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running `weir run` or `weir serve`."""

    def __init__(self, data, *arguments, command="run", binary=WEIR, environment=None, through=()) -> None:
        self.process = subprocess.Popen(
            [*through, binary, command, "--data", str(data), "--port", "0", "--http", "0", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
        line = self.process.stdout.readline()
        if "ready" not in line:
            raise AssertionError(f"not ready: {line}{self.process.stderr.read()}")
        self.port, self.http = (int(port) for port in re.findall(r":(\d+)", line))

    def client(self, protocol=2) -> redis.Redis:
        return redis.Redis(port=self.port, protocol=protocol, decode_responses=True)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        assert code == 0, self.process.stderr.read()
        return code

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            self.kill() if kind else self.stop()


class Broker:
    """A Kafka broker for tests: an emulator, over TCP."""

    def __init__(self, directory) -> None:
        import noida_db

        folder = pathlib.Path(noida_db.__file__).parent
        self.binary = next(path for path in sorted(folder.rglob("*"))
                           if path.is_file() and os.access(path, os.X_OK) and path.stat().st_size > 1_000_000)
        self.directory = directory
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [str(self.binary), "start", "--only", "kafka", "--kafka-port", str(self.port), "--data-dir", str(self.directory)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: socket.create_connection(("127.0.0.1", self.port), 1).close() is None, 30)

    def restart(self, pause: float) -> None:
        """Stops in order, as what it acknowledged last it may lose otherwise; all connections break."""
        self.process.terminate()
        self.process.wait(timeout=60)
        time.sleep(pause)
        self.start()

    def add_partitions(self, topic: str, count: int) -> None:
        """CreatePartitions, version 0, by hand: no tool at hand sends it."""
        name = topic.encode()
        body = struct.pack(">i", 1) + struct.pack(">h", len(name)) + name + struct.pack(">i", count) + struct.pack(">i", -1)
        body += struct.pack(">ib", 10_000, 0)
        request = struct.pack(">hhih", 37, 0, 1, 4) + b"test" + body
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            reply = b""
            while len(reply) < 4 or len(reply) < 4 + struct.unpack(">i", reply[:4])[0]:
                part = connection.recv(4_096)
                assert part, reply
                reply += part
        code = struct.unpack(">h", reply[4 + 4 + 4 + 4 + 2 + len(name):][:2])[0]
        assert code == 0, f"CreatePartitions: error {code}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Proxy:
    """Stands between clients and a broker that names itself in its answers: it names itself instead, and cuts connections."""

    def __init__(self, broker: Broker) -> None:
        self.target = broker.port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.open: set[socket.socket] = set()
        self.lock = threading.Lock()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(("127.0.0.1", self.target), 5)
            except OSError:
                client.close()
                continue
            broker.settimeout(None)
            with self.lock:
                self.open.add(client)
            threading.Thread(target=self.forward, args=(client, broker, False), daemon=True).start()
            threading.Thread(target=self.forward, args=(broker, client, True), daemon=True).start()

    def forward(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        def read(count: int) -> bytes:
            data = b""
            while len(data) < count:
                part = source.recv(count - len(data))
                if not part:
                    raise OSError("closed")
                data += part
            return data

        mine, its = (b"127.0.0.1" + struct.pack(">i", port) for port in (self.port, self.target))
        try:
            while True:
                # Whole messages: a name cut in two would not be found.
                size = read(4)
                body = read(struct.unpack(">i", size)[0])
                target.sendall(size + (body.replace(its, mine) if is_answer else body))
        except OSError:
            pass
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        with self.lock:
            self.open -= {source, target}

    def cut(self) -> int:
        """Resets all connections of clients; says how many."""
        with self.lock:
            cut = list(self.open)
        for client in cut:
            with contextlib.suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.shutdown(socket.SHUT_RDWR)
        return len(cut)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        self.cut()


def wait_for(condition, seconds=60) -> None:
    """Until `condition` is true; what it raises counts as false."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except Exception:  # noqa: BLE001 - not there yet
            pass
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(0.05)


def history_count(data, stream="purchases") -> int:
    done = subprocess.run(["sqlite3", f"{data}/history.sqlite", ".timeout 20000", f"select count(*) from {stream}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def wait_applied(data, seconds=60, binary=WEIR) -> None:
    """Until the online store has what the history has."""
    def is_applied() -> bool:
        found = json.loads(weir("stats", "--json", "--data", data, binary=binary).stdout)
        return found["applied_sequence"] == found["history_sequence"]
    wait_for(is_applied, seconds)


def export(data, spine, out, *arguments) -> bytes:
    weir("export", "checkout_offer", "--spine", spine, "--out", out, "--data", data, *arguments)
    return pathlib.Path(out).read_bytes()


def resp_text(value) -> str | None:
    """A RESP2 answer as text."""
    return None if value is None else str(value)
