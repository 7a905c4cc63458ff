"""What a server does when it is stopped, crowded, or has clients that stand still."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import threading
import time

import hiredis
import pytest
import redis

from harness import SLICE, Server, as_json, history_count, read_rows, wait_applied, wait_for, weir, write_rows

ROWS = read_rows(SLICE)


@pytest.fixture
def data(tmp_path):
    write_rows(tmp_path / "events.csv", ROWS[:1_000])
    weir("ingest", "purchases", tmp_path / "events.csv", "--data", tmp_path / "data")
    return tmp_path / "data"


def packed(*commands) -> bytes:
    return b"".join(hiredis.pack_command(tuple(map(str, command))) for command in commands)


def read_to_end(connection) -> list:
    """All replies until the server closes; a reset or a part of a reply fails."""
    reader, replies = hiredis.Reader(encoding="utf-8"), []
    while part := connection.recv(1 << 16):
        reader.feed(part)
        while (reply := reader.gets()) is not False:
            replies.append(reply)
    assert not reader.has_data(), "the connection ended within a reply"
    return replies


def test_stopping_answers_what_was_sent(data):
    key = f"household_spend:{ROWS[0]['household']}"
    with Server(data) as server:
        connections = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(4)]
        for number, connection in enumerate(connections):
            connection.settimeout(30)
            commands = []
            for index in range(100):
                commands += [("HMGET", key, "spend_7d"), ("EVENTS.ADD", "purchases", as_json(dict(ROWS[4 * index + number], id=f"{number}-{index}"))), ("ECHO", index)]
            connection.sendall(packed(*commands))
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for connection in connections:
            replies = read_to_end(connection)
            assert len(replies) == 300 and replies[1::3] == [1] * 100 and replies[2::3] == [str(index) for index in range(100)]
        assert server.process.wait(timeout=30) == 0 and time.monotonic() - start < 15
    assert history_count(data) == 1_400


def test_stopping_amid_endless_pipelines(data):
    """More than can be answered in time: the end comes between two commands, and what was acknowledged is there."""
    with Server(data) as server:
        connections = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(3)]
        sent = [0] * len(connections)

        def send(number: int) -> None:
            for index in range(1_000_000):
                commands = [("EVENTS.ADD", "purchases", as_json(dict(ROWS[(7 * index + number) % len(ROWS)], id=f"{number}-{index}")))] + [("ECHO", "x" * 100)] * 50
                try:
                    connections[number].sendall(packed(*commands))
                except OSError:
                    return
                sent[number] = index + 1
        senders = [threading.Thread(target=send, args=(number,), daemon=True) for number in range(len(connections))]
        for connection in connections:
            connection.settimeout(30)
        replies = [None] * len(connections)
        receivers = [threading.Thread(target=lambda number=number: replies.__setitem__(number, read_to_end(connections[number]))) for number in range(len(connections))]
        for thread in senders + receivers:
            thread.start()
        time.sleep(0.5)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for thread in receivers:
            thread.join(timeout=30)
        assert time.monotonic() - start < 15
        # It ends when the stores have what was acknowledged.
        assert server.process.wait(timeout=60) == 0
        acknowledged = 0
        for found in replies:
            assert found, "a connection was reset, or ended within a reply"
            assert all(reply == (1 if index % 51 == 0 else "x" * 100) for index, reply in enumerate(found))
            acknowledged += (len(found) + 50) // 51
    assert acknowledged > 0 and history_count(data) >= 1_000 + acknowledged


def used_after_writes(data, stall) -> int:
    """Bytes of the store's pages after steady writing, beside what `stall` does."""
    with Server(data) as server:
        stalled = stall(server)
        client = server.client()
        for round in range(150):
            # A transaction of every shard each time: the pages that it replaces are free once no snapshot needs them.
            client.execute_command("EVENTS.ADD", "purchases", *map(as_json, ROWS[1_000 + 20 * round:1_020 + 20 * round]))
            wait_for(lambda: history_count(data) == 1_020 + 20 * round)
            wait_applied(data) if round % 10 == 0 else time.sleep(0.03)
        wait_applied(data)
        used = client.info("store")["store_bytes"]
        assert client.ping()
        for connection in stalled:
            connection.close()
    return used


def test_stalled_clients_hold_no_snapshot(data, tmp_path):
    """LMDB could reuse no page that was freed since the oldest snapshot: the store would grow with every write."""
    shutil.copytree(data, tmp_path / "copy")
    plain = used_after_writes(tmp_path / "copy", lambda server: [])

    def stall(server):
        key = f"household_spend:{ROWS[0]['household']}"
        request = json.dumps({"household": int(ROWS[0]["household"]), "basket": 1, "store": 1, "cart_value": 1})
        beginnings = [
            # Asks for much and reads nothing; half a request behind whole ones; a push in between; bytes of a large request.
            packed(*[("HGETALL", key)] * 20_000),
            packed(("FEATURES.GET", "checkout_offer", request), ("HGETALL", key)) + b"*3\r\n$5\r\nHMGET\r\n$17\r\nhouse",
            packed(("HGETALL", key), ("EVENTS.ADD", "purchases", "{}"), ("HGETALL", key)) + b"*2\r\n",
            packed(("HGETALL", key)) + b"*2\r\n$4\r\nECHO\r\n$10000000\r\n" + b"x" * 100_000,
        ]
        connections = []
        for beginning in beginnings:
            connection = socket.create_connection(("127.0.0.1", server.port), 10)
            connection.setblocking(False)
            try:
                while beginning:
                    beginning = beginning[connection.send(beginning):]
            except BlockingIOError:
                pass
            connections.append(connection)
        return connections
    stalled = used_after_writes(data, stall)
    print(f"store: {plain} bytes alone, {stalled} beside stalled clients")
    assert stalled <= plain * 1.25 + (1 << 20)


def test_connections_are_limited(data):
    with Server(data, "--connections", "3") as server:
        kept = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(3)]
        for connection in kept:
            connection.sendall(b"PING\r\n")
            assert connection.recv(100) == b"+PONG\r\n"
        with pytest.raises(redis.ConnectionError, match="max number of clients reached"):
            server.client().ping()
        kept.pop().close()
        wait_for(lambda: server.client().ping(), 5)


def test_idle_connections_are_closed(data):
    with Server(data, "--idle-timeout", "1") as server:
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            connection.sendall(b"PING\r\n")
            assert connection.recv(100) == b"+PONG\r\n"
            start = time.monotonic()
            assert connection.recv(100) == b"" and 0.8 < time.monotonic() - start < 20
        # A client of a pool asks again when it needs to.
        client = server.client()
        assert client.ping()
        time.sleep(2)
        assert client.ping()


def test_logs_name_nobody(data):
    """Keys and payloads are personal: whatever clients do wrong, the log does not repeat it."""
    secret = "4711-personal-0815"
    with Server(data, "--idle-timeout", "1", environment={"WEIR_PASSWORD": "s3cret-0815"}) as server:
        client = redis.Redis(port=server.port, password="s3cret-0815")
        for command in [("HGETALL", f"household_spend:{secret}"), ("HMGET", f"{secret}:1", "x"), ("EVENTS.ADD", "purchases", f'{{"id":"{secret}"}}'),
                        ("EVENTS.ADD", secret, "{}"), ("FEATURES.GET", "checkout_offer", f'{{"household":"{secret}"}}'), (secret,), ("SESSION.ADD", secret, "purchases", "{"),
                        ("AUTH", secret), ("CLIENT", "SETNAME", secret), ("CLIENT", secret)]:
            try:
                client.execute_command(*command)
            except redis.RedisError:
                pass
        for bytes in [f"POST /{secret} HTTP/1.1\r\n".encode(), f"*1\r\n:{secret}\r\n".encode(), f'GET "{secret}\r\n'.encode(), f"AUTH {secret}\r\n".encode()]:
            with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
                connection.sendall(bytes)
                connection.recv(1_000)
        # Cut while it is idle, with half a request.
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            connection.sendall(f"AUTH s3cret-0815\r\nHGETALL household_spend:{secret}".encode())
            while connection.recv(1_000):
                pass
        server.stop()
        log = server.process.stderr.read()
    assert "it was idle" in log and "speaks HTTP" in log
    assert "0815" not in log and "4711" not in log
