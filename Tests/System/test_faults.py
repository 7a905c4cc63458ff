"""What goes wrong in production: kills, malformed inputs, hostile bytes."""

from __future__ import annotations

import json
import socket
import time

import oracle
from cases import SPINE_FIELDS, answers, differences, exported, same_text, spine_for
from harness import FIELDS, LONG, SLICE, Broker, Server, as_json, export, history_count, read_rows, seeded, wait_applied, wait_for, weir, write_rows


def test_kill_while_consuming(tmp_path):
    """kill -9 at random moments while topics are consumed: nothing lost, nothing twice, the same answers and bytes."""
    rng = seeded("kill while consuming")
    rows = read_rows(SLICE)[: 30_000 if LONG else 12_000]
    kills = 20
    spine = spine_for(rows, 400, rng)
    write_rows(tmp_path / "spine.csv", spine, SPINE_FIELDS)
    write_rows(tmp_path / "all.csv", rows)
    weir("ingest", "purchases", tmp_path / "all.csv", "--data", tmp_path / "undisturbed")
    training = export(tmp_path / "undisturbed", tmp_path / "spine.csv", tmp_path / "undisturbed.csv")
    data = tmp_path / "data"
    with Broker(tmp_path / "broker") as broker:
        parts = [rows[number::kills] for number in range(kills)]
        weir("produce", "purchases", "--kafka", broker.address, "--partitions", 4, write(tmp_path, parts[0]))
        for part in parts[1:] + [[]]:
            server = Server(data, "--clock", "event", "--kafka", broker.address)
            if part:
                weir("produce", "purchases", "--kafka", broker.address, write(tmp_path, part))
            time.sleep(rng.random() * 0.4)
            server.kill()
        with Server(data, "--clock", "event", "--kafka", broker.address) as server:
            wait_for(lambda: history_count(data) >= len(rows))
            wait_applied(data)
            assert history_count(data) == len(rows)
            wrong = same_text(exported(training), answers(server.client(), spine))
            assert not wrong, "\n".join(wrong[:5])
    assert export(data, tmp_path / "spine.csv", tmp_path / "out.csv") == training
    # Redelivery was skipped by position, not taken for copies.
    assert "0 dead letters" in f"{len(weir('dead-letters', 'list', '--data', data).stdout.splitlines())} dead letters"


def write(folder, rows):
    path = folder / "part.csv"
    write_rows(path, rows)
    return path


def test_kill_after_push(tmp_path):
    """What EVENTS.ADD acknowledged is there after kill -9, once."""
    rng = seeded("kill after push")
    rows = read_rows(SLICE)[:3_000]
    taken = []
    while len(taken) < len(rows):
        server = Server(tmp_path / "data", "--clock", "event")
        client = server.client()
        stop = time.monotonic() + rng.random() * 0.5
        while time.monotonic() < stop and len(taken) < len(rows):
            some = rows[len(taken):len(taken) + rng.randrange(1, 60)]
            assert int(client.execute_command("EVENTS.ADD", "purchases", *map(as_json, some))) == len(some)
            taken += some
        server.kill()
    spine = spine_for(rows, 200, rng)
    write_rows(tmp_path / "spine.csv", spine, SPINE_FIELDS)
    with Server(tmp_path / "data", "--clock", "event") as server:
        wait_for(lambda: history_count(tmp_path / "data") == len(rows))
        wait_applied(tmp_path / "data")
        answered = answers(server.client(), spine)
    training = export(tmp_path / "data", tmp_path / "spine.csv", tmp_path / "out.csv")
    assert not same_text(exported(training), answered)[:5]
    count, wrong = differences(training, oracle.Oracle(rows))
    assert not wrong, "\n".join(wrong[:5])


def malformed_json(rng, row: dict) -> tuple[bytes, str]:
    """A malformed event and a word that its reason must have."""
    good = as_json(row)
    kind = rng.randrange(12)
    if kind == 0:
        return good[: rng.randrange(1, len(good) - 1)].encode(), ""
    if kind == 1:
        return good.replace('"household": ', '"household": "x', 1).replace(", ", '", ', 2).encode()[:60], ""
    if kind == 2:
        fields = json.loads(good)
        name = rng.choice([field for field in FIELDS])
        del fields[name]
        return json.dumps(fields).encode(), name
    if kind == 3:
        return good.replace('"price": ', '"price": NaN, "x": ', 1).encode(), "price"
    if kind == 4:
        return good.replace('"price": ', '"price": 1e999, "x": ', 1).encode(), "price"
    if kind == 5:
        return good.replace('"basket": ', '"basket": 99999999999999999999, "x": ', 1).encode(), "basket"
    if kind == 6:
        return good.replace('"department": "', '"department": "\xff', 1).encode("latin-1", "replace"), "UTF-8"
    if kind == 7:
        return good.replace(row["event_time"], rng.choice(["2017-02-30T00:00:00Z", "yesterday", "2017-01-01", "2017-01-01T25:00:00Z"]), 1).encode(), "event_time"
    if kind == 8:
        return good.replace('"store": ', '"store": 1.5, "x": ', 1).encode(), "store"
    if kind == 9:
        return b"[" + good.encode() + b"]", "object"
    if kind == 10:
        return good.replace('"id": "', '"id": null, "x": "', 1).encode(), "id"
    return good.encode() + b"}", "follows"


def test_malformed_events(tmp_path):
    """All in dead letters with a true reason and their raw bytes, none lost, and the stream goes on: JSON Lines, CSV and Kafka."""
    rng = seeded("malformed")
    rows = read_rows(SLICE)[:2_000]
    lines, expected = [], []
    for number, row in enumerate(rows):
        lines.append(as_json(row).encode())
        if number % 4 == 0:
            bad, word = malformed_json(rng, row)
            bad = bad.replace(b"\n", b" ")
            lines.append(bad)
            expected.append((bad, word))
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    done = weir("ingest", "purchases", tmp_path / "events.jsonl", "--data", tmp_path / "json", "--strict", check=False)
    assert done.returncode == 3, done.stderr
    check_dead_letters(tmp_path / "json", len(rows), expected)

    # CSV, with quotes that do not close, text behind quotes, too few and too many fields.
    text, expected = [",".join(FIELDS)], []
    for number, row in enumerate(rows):
        text.append(",".join(row[name] for name in FIELDS))
        if number % 4 == 0:
            cells = [row[name] for name in FIELDS]
            kind = rng.randrange(8)
            if kind == 0:
                cells[5], word = '"never closed', ""
            elif kind == 1:
                cells[5], word = '"closed" too early', ""
            elif kind == 2:
                cells, word = cells[:-1], "fields"
            elif kind == 3:
                cells, word = [*cells, "more"], "fields"
            elif kind == 4:
                cells[8], word = rng.choice(["nan", "inf", "1e999", "twelve", ""]), "price"
            elif kind == 5:
                cells[11], word = "2017-13-01T00:00:00Z", "event_time"
            elif kind == 6:
                cells[1], word = "", "household"
            else:
                cells[5], word = 'a "quote" inside', "quote"
            text.append(",".join(cells))
            expected.append((text[-1].encode(), word))
    (tmp_path / "events.csv").write_text("\n".join(text) + "\n")
    done = weir("ingest", "purchases", tmp_path / "events.csv", "--data", tmp_path / "csv")
    assert "dead letters" in done.stderr
    check_dead_letters(tmp_path / "csv", len(rows), expected)


def check_dead_letters(data, good: int, expected: list[tuple[bytes, str]]) -> None:
    assert history_count(data) == good
    letters = [line.split("\t") for line in weir("dead-letters", "list", "--data", data).stdout.splitlines()]
    assert len(letters) == len(expected)
    for letter, (raw, word) in zip(letters, expected):
        assert letter[1] == "purchases" and letter[2] == "malformed"
        assert letter[6] and word in letter[6], f"{raw!r}: {letter[6]}"
        try:
            assert letter[7] == raw.decode().replace("\t", "\\t"), letter
        except UnicodeDecodeError:
            assert "\\x" in letter[7]


def test_hostile_bytes(tmp_path):
    """Random and hostile bytes on the port: an error or a closed connection; other clients are unhurt."""
    rng = seeded("hostile bytes")
    weir("ingest", "purchases", write(tmp_path, read_rows(SLICE)[:500]), "--data", tmp_path / "data")
    request = json.dumps({"household": 900, "basket": 31198570044, "store": 330, "cart_value": 20})
    frames = [b"*1\r\n$4\r\nPING\r\n", b"*3\r\n$12\r\nFEATURES.GET\r\n$14\r\ncheckout_offer\r\n$" + str(len(request)).encode() + b"\r\n" + request.encode() + b"\r\n",
              b"*-1\r\n", b"*1000000000\r\n", b"$-5\r\n", b"*2\r\n$-1\r\n", b"*1\r\n$99999999999\r\n", b"PING\r\n", b"\r\n", b"\0" * 64,
              b"*3\r\n$10\r\nEVENTS.ADD\r\n$9\r\npurchases\r\n$2\r\n{}\r\n", b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", b"GET / HTTP/1.1\r\n\r\n"]
    with Server(tmp_path / "data", "--clock", "event") as server:
        other = server.client()
        first = other.execute_command("FEATURES.GET", "checkout_offer", request)
        for number in range(10_000):
            kind = rng.randrange(3)
            if kind == 0:
                data = rng.randbytes(rng.randrange(1, 200))
            else:
                data = bytearray(b"".join(rng.choice(frames) for _ in range(rng.randrange(1, 4))))
                for _ in range(rng.randrange(0, 4) if kind == 1 else 0):
                    data[rng.randrange(len(data))] = rng.randrange(256)
            with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
                connection.settimeout(5)
                try:
                    connection.sendall(data)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65_536):
                        pass
                except (ConnectionResetError, BrokenPipeError):
                    pass
            if number % 500 == 0:
                assert other.execute_command("FEATURES.GET", "checkout_offer", request) == first
        assert server.process.poll() is None
        assert other.execute_command("FEATURES.GET", "checkout_offer", request) == first
    assert history_count(tmp_path / "data") == 500
