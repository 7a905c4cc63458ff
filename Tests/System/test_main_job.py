"""The main job against brute force: whatever way events take, every value has the same bits."""

from __future__ import annotations

import json
import lzma
import time

import pytest

import oracle
from cases import SPINE_FIELDS, answers, differences, exported, hard_stream, request_of, same_text, spine_for, values_of
from harness import (FIELDS, LONG, REPOSITORY, SLICE, Broker, Server, as_json, export, history_count, read_rows, seeded, wait_applied,
                     wait_for, weir, write_rows)
from oracle import DAY, HOUR, format_time, parse_time


def test_hard_stream(tmp_path):
    rng = seeded("hard stream")
    rows = hard_stream(rng, 4_000)
    shuffled = rows[:]
    rng.shuffle(shuffled)
    write_rows(tmp_path / "events.csv", shuffled)
    spine = spine_for(rows, 1_500, rng)
    write_rows(tmp_path / "spine.csv", spine, SPINE_FIELDS)
    weir("ingest", "purchases", tmp_path / "events.csv", "--data", tmp_path / "data")
    truth = oracle.Oracle(rows)
    assert history_count(tmp_path / "data") == truth.count
    training = export(tmp_path / "data", tmp_path / "spine.csv", tmp_path / "out.csv")
    count, wrong = differences(training, truth)
    assert not wrong, f"{len(wrong)} of {count} differ: " + "\n".join(wrong[:5])
    assert count >= 30_000
    inclusive = export(tmp_path / "data", tmp_path / "spine.csv", tmp_path / "inclusive.csv", "--inclusive")
    count, wrong = differences(inclusive, truth, inclusive=True)
    assert not wrong, f"{len(wrong)} of {count} differ: " + "\n".join(wrong[:5])
    with Server(tmp_path / "data", "--clock", "event") as server:
        assert not same_text(exported(training), answers(server.client(), spine))[:5]


def purchases(tmp_path):
    """The half-year where it is at hand and time is, else the committed slice."""
    whole = REPOSITORY.parent / "shared/data/purchases-2017h1.csv.xz"
    if LONG and whole.exists():
        path = tmp_path / "purchases.csv"
        path.write_bytes(lzma.open(whole).read())
        return path, 4_000
    return SLICE, 2_200


def test_four_weeks_of_purchases(tmp_path):
    """The worked example: every exported value against exact sums, then the same rows over TCP."""
    rng = seeded("four weeks")
    path, count = purchases(tmp_path)
    rows = read_rows(path)
    spine = spine_for(rows, count, rng)
    write_rows(tmp_path / "spine.csv", spine, SPINE_FIELDS)
    weir("ingest", "purchases", path, "--data", tmp_path / "data")
    training = export(tmp_path / "data", tmp_path / "spine.csv", tmp_path / "out.csv")
    compared, wrong = differences(training, oracle.Oracle(rows))
    print(f"{compared} values compared, {len(wrong)} differ")
    assert not wrong, "\n".join(wrong[:5])
    assert compared >= 50_000
    # The same bytes on every run, and a manifest without clock times.
    manifest = (tmp_path / "out.csv.manifest.json").read_bytes()
    assert export(tmp_path / "data", tmp_path / "spine.csv", tmp_path / "out.csv") == training
    assert (tmp_path / "out.csv.manifest.json").read_bytes() == manifest
    assert json.loads(manifest)["rows"] == len(spine)
    with Server(tmp_path / "data", "--clock", "event") as server:
        wrong = same_text(exported(training), answers(server.client(), spine))
        assert not wrong, f"{len(wrong)} differ: " + "\n".join(wrong[:5])


def test_baskets_as_sessions(tmp_path):
    """A basket's lines held back from the stream and given as the session instead: the same values."""
    rng = seeded("baskets as sessions")
    rows = read_rows(SLICE)[:12_000]
    truth = oracle.Oracle(rows)
    baskets = rng.sample(sorted({row["basket"] for row in rows}), 60)
    held = {basket: [row for row in rows if row["basket"] == basket] for basket in baskets}
    write_rows(tmp_path / "rest.csv", [row for row in rows if row["basket"] not in held])
    weir("ingest", "purchases", tmp_path / "rest.csv", "--data", tmp_path / "data")
    with Server(tmp_path / "data", "--clock", "event") as server:
        client = server.client()
        wrong = []
        for number, (basket, lines) in enumerate(held.items()):
            others = [oracle.event_of(row) for other, its in held.items() if other != basket for row in its]
            partial = oracle.Oracle([row for row in rows if row["basket"] not in held or row["basket"] == basket])
            at = parse_time(lines[-1]["event_time"]) + 1
            request = {"household": int(lines[0]["household"]), "basket": int(basket), "store": int(lines[0]["store"]), "cart_value": 10.0}
            # Every other line is also in the store by now.
            events = [as_json(row) for row in lines]
            if number % 3 == 0:
                session = ["SESSIONID", f"till-{number}"]
                client.execute_command("SESSION.ADD", f"till-{number}", "purchases", *events)
            else:
                session = ["SESSION", "purchases", "[" + ",".join(events) + "]"]
            answer = values_of(client.execute_command("FEATURES.GET", "checkout_offer", json.dumps(request), "AT", format_time(at), *session))
            for name, (expected, got) in zip(oracle.CHECKOUT_OFFER, zip(partial.checkout_offer(request, at).values(), answer)):
                if not oracle.agrees(expected, got):
                    wrong.append(f"basket {basket}, {name}: expected {expected}, got {got}")
            assert others is not None
        assert not wrong, "\n".join(wrong[:5])
        # When the stream brings them as well they still count once.
        for lines in held.values():
            client.execute_command("EVENTS.ADD", "purchases", *[as_json(row) for row in lines])
        wait_for(lambda: history_count(tmp_path / "data") == truth.count)
        wait_applied(tmp_path / "data")
        for basket, lines in held.items():
            at = parse_time(lines[-1]["event_time"]) + 1
            request = {"household": int(lines[0]["household"]), "basket": int(basket), "store": int(lines[0]["store"]), "cart_value": 10.0}
            session = ["SESSION", "purchases", "[" + ",".join(as_json(row) for row in lines) + "]"]
            answer = values_of(client.execute_command("FEATURES.GET", "checkout_offer", json.dumps(request), "AT", format_time(at), *session))
            for name, (expected, got) in zip(oracle.CHECKOUT_OFFER, zip(truth.checkout_offer(request, at).values(), answer)):
                if not oracle.agrees(expected, got):
                    wrong.append(f"basket {basket}, {name}: expected {expected}, got {got}")
        assert not wrong, "\n".join(wrong[:5])


def test_session_events_at_the_edges(tmp_path):
    """Exactly at t, after t, already in the store within and outside of the window, at t in the store."""
    rng = seeded("session edges")
    rows = hard_stream(rng, 1_500)
    write_rows(tmp_path / "events.csv", rows)
    weir("ingest", "purchases", tmp_path / "events.csv", "--data", tmp_path / "data")
    truth = oracle.Oracle(rows)
    wrong, ignored_seen = [], 0
    with Server(tmp_path / "data", "--clock", "event") as server:
        client = server.client()
        for number in range(400):
            anchor = rng.choice(rows)
            at = parse_time(anchor["event_time"]) + rng.choice([0, 1, HOUR, 28 * DAY, rng.randrange(10 * DAY)])
            session = []
            for extra in range(rng.randrange(1, 6)):
                kind = rng.randrange(4)
                if kind == 0:
                    session.append(rng.choice(rows))
                    continue
                offset = [0, 1, -rng.randrange(1, 40 * DAY)][kind - 1]
                session.append({**anchor, "id": f"s{number}-{extra}", "price": round(rng.random() * 9, 2), "event_time": format_time(at + offset)})
            session.append(anchor)
            request = {"household": int(anchor["household"]), "basket": int(anchor["basket"]), "store": int(anchor["store"]), "cart_value": 3.5}
            events = "[" + ",".join(as_json(row) for row in session) + "]"
            answer = client.execute_command(
                "FEATURES.GET", "checkout_offer", json.dumps(request), "AT", format_time(at), "SESSION", "purchases", events, "META")
            fields = dict(zip(answer[::2], answer[1::2])) if isinstance(answer, list) else answer
            later = sum(parse_time(row["event_time"]) > at for row in session)
            if int(fields["session_events_ignored"]) != later:
                wrong.append(f"{fields['session_events_ignored']} ignored, {later} are later")
            ignored_seen += later
            expected = truth.checkout_offer(request, at, [oracle.event_of(row) for row in session])
            for name, (value, got) in zip(oracle.CHECKOUT_OFFER, zip(expected.values(), values_of(fields["features"]))):
                if not oracle.agrees(value, got):
                    wrong.append(f"{name} at {format_time(at)}: expected {value}, got {got}; request {request}, session {events}")
    assert not wrong, f"{len(wrong)} differ: " + "\n".join(wrong[:3])
    assert ignored_seen > 0


def test_any_way_in(tmp_path):
    """Shuffled within two days, split into seven files, with 1, 2 and 8 shards, a part through Kafka, rebuilt with another number
    of shards: the same answers and the same bytes."""
    rng = seeded("any way in")
    rows = read_rows(SLICE)[: 30_000 if LONG else 9_000]
    spine = spine_for(rows, 800, rng)
    write_rows(tmp_path / "spine.csv", spine, SPINE_FIELDS)
    write_rows(tmp_path / "all.csv", rows)
    weir("ingest", "purchases", tmp_path / "all.csv", "--data", tmp_path / "plain")
    training = export(tmp_path / "plain", tmp_path / "spine.csv", tmp_path / "plain.csv")
    count, wrong = differences(training, oracle.Oracle(rows))
    assert not wrong, "\n".join(wrong[:5])

    shuffled = sorted(rows, key=lambda row: parse_time(row["event_time"]) + rng.randrange(-2 * DAY, 2 * DAY))
    parts = [shuffled[number::7] for number in range(7)]
    for shards in (1, 2, 8):
        data = tmp_path / f"shards{shards}"
        files = []
        for number, part in enumerate(parts):
            files.append(tmp_path / f"part{number}.csv")
            write_rows(files[-1], part)
        weir("ingest", "purchases", *files, "--data", data, "--shards", shards)
        assert export(data, tmp_path / "spine.csv", tmp_path / "out.csv") == training
        with Server(data, "--clock", "event") as server:
            assert not same_text(exported(training), answers(server.client(), spine))[:5]
    weir("rebuild", "--data", tmp_path / "shards8", "--shards", 3)
    assert len(list((tmp_path / "shards8/online").glob("shard-*"))) == 3
    with Server(tmp_path / "shards8", "--clock", "event") as server:
        assert not same_text(exported(training), answers(server.client(), spine))[:5]

    with Broker(tmp_path / "broker") as broker:
        write_rows(tmp_path / "half.csv", shuffled[::2])
        write_rows(tmp_path / "other.csv", shuffled[1::2])
        weir("produce", "purchases", tmp_path / "half.csv", "--kafka", broker.address, "--partitions", 4)
        weir("ingest", "purchases", tmp_path / "other.csv", "--data", tmp_path / "mixed")
        with Server(tmp_path / "mixed", "--clock", "event", "--kafka", broker.address) as server:
            wait_for(lambda: history_count(tmp_path / "mixed") == len(rows))
            wait_applied(tmp_path / "mixed")
            assert not same_text(exported(training), answers(server.client(), spine))[:5]
        assert export(tmp_path / "mixed", tmp_path / "spine.csv", tmp_path / "out.csv") == training
