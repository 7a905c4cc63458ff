"""Redis's own clients against the server: the protocol as they have it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import select
import socket
import struct
import subprocess
import termios
import time

import hiredis
import pytest
import redis
import redis.asyncio
from redis._parsers import _HiredisParser, _RESP2Parser, _RESP3Parser

from harness import SLICE, Server, read_rows, weir, write_rows

NAMES = ["purchases_28d", "spend_28d", "last_department", "top_departments_28d", "price_vs_usual"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    write_rows(folder / "events.csv", read_rows(SLICE)[:2_000])
    weir("ingest", "purchases", folder / "events.csv", "--data", folder / "data")
    with Server(folder / "data", "--clock", "event") as server:
        yield server


KEY = f"household_spend:{read_rows(SLICE)[1_999]['household']}"


@pytest.mark.parametrize("protocol,parser", [(2, _RESP2Parser), (3, _RESP3Parser), (2, _HiredisParser), (3, _HiredisParser)])
def test_redis_py(server, protocol, parser):
    pool = redis.ConnectionPool(port=server.port, protocol=protocol, parser_class=parser, decode_responses=True, health_check_interval=1,
                                client_name="tester", max_connections=4)
    client = redis.Redis(connection_pool=pool)
    connection = pool.get_connection()
    assert isinstance(connection._parser, parser)
    pool.release(connection)
    values = client.hmget(KEY, NAMES)
    if protocol == 3:
        assert isinstance(values[0], int) and isinstance(values[1], float) and isinstance(values[3], list)
    else:
        assert all(isinstance(value, str) for value in values) and int(values[0]) > 0 and json.loads(values[3])
    with client.pipeline(transaction=False) as pipeline:
        for _ in range(300):
            pipeline.hmget(KEY, NAMES).hget(KEY, "nothing").echo("é").exists(KEY)
        got = pipeline.execute(raise_on_error=False)
    assert [got[index] for index in (0, 2, 3)] == [values, "é", 1] and len(got) == 1_200
    assert all(isinstance(error, redis.ResponseError) for error in got[1::4])
    # Longer than the health check's interval: PING first.
    time.sleep(1.2)
    assert client.hmget(KEY, NAMES) == values
    mine = client.client_info()
    assert mine["name"] == "tester" and mine["lib-name"] == "redis-py" and int(mine["resp"]) == protocol and mine["user"] == "default"
    assert any(int(entry["id"]) == client.client_id() for entry in client.client_list())
    assert client.client_getname() == "tester" and client.client_setname("other") and client.client_getname() == "other"
    assert client.client_no_evict("ON") and client.client_no_touch("ON")
    assert client.select(0)
    with pytest.raises(redis.ResponseError, match="DB index is out of range"):
        client.select(1)
    info = client.info("everything")
    assert info["tcp_port"] == server.port and info["used_memory"] > 0 and info["cmdstat_hmget"]["calls"] > 300
    assert info["total_net_output_bytes"] > 0 and info["used_cpu_user"] >= 0 and info["loading"] == 0
    commands = client.command()
    assert commands["hmget"]["arity"] == -3 and "readonly" in commands["hmget"]["flags"] and client.command_count() == len(commands)
    assert set(client.command_list()) == set(commands)
    with pytest.raises(redis.ResponseError, match=r"unknown command 'GETT', with args beginning with: 'a' 'b'"):
        client.execute_command("GETT", "a", "b")
    assert client.execute_command("RESET") == "RESET"
    pool.disconnect()


@pytest.mark.parametrize("protocol", [2, 3])
def test_asyncio(server, protocol):
    async def run():
        pool = redis.asyncio.BlockingConnectionPool(port=server.port, protocol=protocol, decode_responses=True, max_connections=10, health_check_interval=1)
        client = redis.asyncio.Redis(connection_pool=pool)
        async def one(number):
            async with client.pipeline(transaction=False) as pipeline:
                pipeline.hmget(KEY, NAMES)
                pipeline.echo(str(number))
                return await pipeline.execute()
        results = await asyncio.gather(*[one(number) for number in range(200)])
        # A cancelled command does not mix up the replies of the next.
        task = asyncio.create_task(client.echo("cancelled"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await client.echo("after") == "after"
        await client.aclose()
        await pool.disconnect()
        return results
    results = asyncio.run(run())
    assert all(result[1] == str(number) and result[0] == results[0][0] for number, result in enumerate(results))


def test_hiredis_reads_every_reply(server):
    """The C parser alone, over a raw socket, byte by byte."""
    commands = [["HELLO", "3"], ["HMGET", KEY, *NAMES], ["HGETALL", KEY], ["FEATURES.LIST"], ["COMMAND"], ["COMMAND", "DOCS"], ["INFO"], ["CLIENT", "LIST"],
                ["NOPE"], ["PING"], ["FEATURES.DESCRIBE", "checkout_offer"], ["CLIENT", "HELP"], ["HELLO", "2"], ["HGETALL", KEY], ["COMMAND", "DOCS"], ["PING"]]
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(b"".join(hiredis.pack_command(tuple(command)) for command in commands))
        reader = hiredis.Reader(encoding="utf-8")
        replies = []
        while len(replies) < len(commands):
            part = connection.recv(65_536)
            assert part
            for index in range(len(part)):
                reader.feed(part[index:index + 1])
                while (reply := reader.gets()) is not False:
                    replies.append(reply)
    assert reader.gets() is False and len(replies) == len(commands)
    assert replies[0]["server"] == "weir" and replies[0]["proto"] == 3 and isinstance(replies[2], dict) and isinstance(replies[13], list)
    assert [isinstance(reply, hiredis.ReplyError) for reply in replies].count(True) == 1
    assert "hmget" in replies[5] and replies[9] == "PONG" and replies[-1] == "PONG"


def shell(server, *arguments, text=None):
    return subprocess.run(["redis-cli", "-p", str(server.port), *arguments], input=text, capture_output=True, text=True, timeout=30)


def test_redis_cli(server):
    assert shell(server, "PING").stdout == "PONG\n"
    assert shell(server, "-3", "HMGET", KEY, "purchases_28d", "last_department").stdout.count("\n") == 2
    assert shell(server, "FOO", "bar").stdout == "ERR unknown command 'FOO', with args beginning with: 'bar' \n\n"
    # Lines of a file: quoting, errors in between, many commands.
    lines = shell(server, text='ECHO "a b\\x41"\nNOPE\nECHO \'it\\\'s\'\nQUIT\n').stdout.splitlines()
    assert lines[0] == "a bA" and lines[1].startswith("ERR unknown command 'NOPE'") and "it's" in lines
    assert shell(server, "--csv", "HMGET", KEY, "purchases_28d", "last_department").stdout.count(",") == 1
    assert shell(server, "-r", "3", "ECHO", "x").stdout == "x\nx\nx\n"
    piped = b"".join(hiredis.pack_command(("ECHO", str(number))) for number in range(10_000))
    mass = subprocess.run(["redis-cli", "-p", str(server.port), "--pipe"], input=piped, capture_output=True, timeout=60)
    assert b"errors: 0, replies: 10000" in mass.stdout, mass


def test_redis_cli_hints(server):
    """At a terminal redis-cli asks COMMAND DOCS and shows the arguments while one types."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    process = subprocess.Popen(["redis-cli", "-p", str(server.port)], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                               env={**os.environ, "TERM": "xterm", "REDISCLI_RCFILE": "/dev/null", "REDISCLI_HISTFILE": "/dev/null"})
    os.close(slave)
    shown = b""

    def read_until(text, typed):
        """Types again what redis-cli may have thrown away while it changed the terminal's mode."""
        nonlocal shown
        for _ in range(5):
            os.write(master, typed)
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                if select.select([master], [], [], 0.1)[0]:
                    shown += os.read(master, 65_536)
                if text in re.sub(rb"\x1b\[[0-9;]*[A-Za-z]", b"", shown):
                    return
        raise AssertionError(shown)
    read_until(b"> ", b"")
    read_until(b"service request-json", b"\x15features.get ")
    read_until(b"ID client-id", b"\x15client kill ")
    read_until(b"Answers features of an entity", b"\x15help hmget\r")
    read_until(b'"done"', b"\x15echo done\r")
    process.terminate()
    process.wait(timeout=10)
    os.close(master)


@pytest.mark.parametrize("options", [[], ["-P", "16"], ["-3"]])
def test_redis_benchmark(server, options):
    done = subprocess.run(["redis-benchmark", "-p", str(server.port), "-n", "5000", "-c", "20", "-q", *options, "HMGET", KEY, *NAMES],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "requests per second" in done.stdout and "rror" not in done.stdout + done.stderr, done
    done = subprocess.run(["redis-benchmark", "-p", str(server.port), "-n", "2000", "-t", "ping_inline,ping_mbulk", "--csv", *options],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.count("PING_") == 2, done
