"""Served requests are logged, recomputed from the history, and compared bit by bit; what was served lately against a training set."""

from __future__ import annotations

import collections
import contextlib
import json
import pathlib
import random
import re
import sqlite3
import subprocess
import threading
import time
import urllib.request

import oracle
import redis
from cases import hard_stream, request_of, spine_for
from harness import LONG, SLICE, Server, as_json, read_rows, seeded, wait_for, weir, write_rows
from oracle import DAY, HOUR, MINUTE, format_time, parse_time


def verify(data, *arguments, code=0) -> dict:
    done = weir("verify", "--json", "--data", data, *arguments, check=False)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout[:3000]}\n{done.stderr}"
    return json.loads(done.stdout)


def log_of(data) -> sqlite3.Connection:
    return sqlite3.connect(pathlib.Path(data) / "requests.sqlite", timeout=20, isolation_level=None)


def logged(data) -> int:
    return log_of(data).execute("select count(*) from requests").fetchone()[0]


def post(server: Server, body: dict) -> dict:
    request = urllib.request.Request(f"http://127.0.0.1:{server.http}/get-online-features", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.load(reply)


def metrics(server: Server) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http}/metrics", timeout=20) as reply:
        lines = [line for line in reply.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


class Traffic:
    """Requests of every kind, at times that matter."""

    def __init__(self, rows: list[dict], rng: random.Random) -> None:
        self.rows, self.rng, self.sessions = rows, rng, 0

    def event(self, row: dict, at: int) -> dict:
        """An event of the running session: new, a copy of a stored one, or one that is still to come."""
        rng = self.rng
        if rng.random() < 0.3:
            return row
        self.sessions += 1
        return dict(row, id=f"s{self.sessions}", event_time=format_time(at + rng.choice([-2 * HOUR, -MINUTE, -1, 0, 0, 1, MINUTE])),
                    price=rng.choice([0.1, 0.2, 1 / 3, 12.5]))

    def command(self, client: redis.Redis) -> tuple[int, list]:
        """How many requests, and the command."""
        rng = self.rng
        row = spine_for([rng.choice(self.rows)], 1, rng)[0]
        requests = [request_of(row)]
        if rng.random() < 0.1:
            requests[0]["household"] = 10**9
        if rng.random() < 0.1:
            requests.append(request_of(rng.choice(self.rows) | {"cart_value": 1}))
        command = ["FEATURES.GET", "checkout_offer", *map(json.dumps, requests)]
        if rng.random() < 0.7:
            command += ["AT", row["event_timestamp"]]
        at = parse_time(row["event_timestamp"])
        others = rng.sample(self.rows, 2) + [rng.choice(self.rows) | {"household": row["household"], "basket": row["basket"]}]
        events = [as_json(self.event(other, at)) for other in others[-rng.randrange(1, 4):]]
        kind = rng.random()
        if kind < 0.2:
            command += ["SESSION", "purchases", f"[{','.join(events)}]"]
        if 0.1 < kind < 0.3:
            session = f"visit-{rng.randrange(50)}"
            client.execute_command("SESSION.ADD", session, "purchases", *events)
            command += ["SESSIONID", session]
        return len(requests), command

    def body(self) -> dict:
        rng = self.rng
        rows = [rng.choice(self.rows) for _ in range(rng.randrange(1, 5))]
        body = {"entities": {name: [int(row[name]) for row in rows] for name in ("household", "basket")}}
        if rng.random() < 0.5:
            body["feature_service"] = "checkout_offer"
            body["entities"] |= {"store": [int(row["store"]) for row in rows], "cart_value": [rng.random() * 9 for _ in rows]}
        else:
            body["features"] = ["household_spend:avg_price_28d", "basket_activity:basket_value", "household_spend:last_five_departments"][:rng.randrange(1, 4)]
            body["entities"]["household"][0] = rng.choice([None, 10**9, body["entities"]["household"][0]])
        if rng.random() < 0.7:
            body["at"] = format_time(parse_time(rows[0]["event_time"]) + rng.choice([0, 1, HOUR, 9 * DAY]))
        return body


def test_verify_what_was_served(tmp_path):
    """While events stream in, many of them late, with sessions in all three ways, restarts and kill -9: no bit differs."""
    rng = seeded("verify")
    wanted = 105_000 if LONG else 4_000
    stops = 24 if LONG else 8
    rows = hard_stream(rng, 30_000 if LONG else 2_000)
    rows += read_rows(SLICE)[:20_000 if LONG else 2_000]
    # Nearly in order, a tenth late by up to all of it.
    order = sorted(range(len(rows)), key=lambda number: rng.random() * len(rows) if rng.random() < 0.1 else number + rng.random() * 50)
    rows = [rows[number] for number in order]
    data = tmp_path / "data"
    traffic = Traffic(rows, rng)
    answered = pushed = 0
    for stop in range(stops):
        # A busy machine shall not refuse what waited for long.
        with Server(data, "--clock", "event", "--log-requests", 1, "--queue-delay", 60_000) as server:
            client = server.client()
            end = len(rows) * (stop + 1) // stops

            def push() -> None:
                nonlocal pushed
                own = server.client()
                with contextlib.suppress(redis.ConnectionError):
                    while pushed < end:
                        some = rows[pushed:min(end, pushed + 20)]
                        own.execute_command("EVENTS.ADD", "purchases", *map(as_json, some))
                        pushed += len(some)
                        time.sleep(0.004)

            pushing = threading.Thread(target=push)
            pushing.start()
            # Kills cost what was served in the last moments: the last round makes up for it.
            while answered < wanted * (stop + 1) // stops or stop == stops - 1 and logged(data) < wanted:
                commands = [traffic.command(client) for _ in range(20)]
                pipeline = client.pipeline(transaction=False)
                for _, command in commands:
                    pipeline.execute_command(*command)
                pipeline.execute()
                answered += sum(count for count, _ in commands)
                if rng.random() < 0.2:
                    body = traffic.body()
                    post(server, body)
                    answered += len(body["entities"]["household"])
            if stop % 3 < 2 and stop < stops - 1:
                server.kill()
                pushing.join()
            else:
                pushing.join()
                server.stop()
        found = verify(data, "--limit", 2_000)
        assert found["differing"] == 0 and not any(found["uncheckable"].values()), found
    found = verify(data)
    assert found["differing"] == 0 and not any(found["uncheckable"].values()), found
    assert found["checked"] == found["equal"] >= wanted
    assert found["checked"] > 0.6 * answered, (found, answered)
    late = sqlite3.connect(data / "history.sqlite").execute(
        "select count(*) from purchases a join purchases b on b._seq = a._seq + 1 where b.event_time < a.event_time").fetchone()[0]
    kinds = dict(log_of(data).execute("select ifnull(service, view), count(*) from requests group by 1").fetchall())
    sessions = log_of(data).execute("select count(*) from requests where session is not null").fetchone()[0]
    assert late > 100 and sessions > wanted / 8 and set(kinds) == {"checkout_offer", "household_spend", "basket_activity"}, (late, sessions, kinds)
    print(f"{found['checked']} of {answered} requests equal: {kinds}, {sessions} with sessions, {late} events behind later ones")
    text = weir("verify", "--data", data, "--limit", 100).stdout
    assert text.startswith("100 requests checked: 100 equal, 0 differ"), text
    assert verify(data, "checkout_offer")["checked"] == kinds["checkout_offer"]


def small_store(tmp_path, *arguments, count=300, requests=200):
    """A store of some events, and requests that it was asked at once."""
    rng = seeded("small store")
    rows = read_rows(SLICE)[:count]
    write_rows(tmp_path / "rows.csv", rows)
    data = tmp_path / "data"
    weir("ingest", "purchases", tmp_path / "rows.csv", "--data", data)
    with Server(data, "--clock", "event", "--log-requests", 1, *arguments) as server:
        ask(server, rows, rng, requests)
        wait_for(lambda: metrics(server)["weir_requests_logged_total"] == requests)
    return data, rows


def ask(server: Server, rows, rng, count: int, cart=None) -> None:
    client = server.client()
    for start in range(0, count, 500):
        pipeline = client.pipeline(transaction=False)
        for row in spine_for(rows, min(500, count - start), rng):
            pipeline.execute_command("FEATURES.GET", "checkout_offer", json.dumps(request_of(row) | ({"cart_value": cart} if cart else {})))
        pipeline.execute()


def test_a_planted_skew_is_found(tmp_path):
    data, rows = small_store(tmp_path)
    assert verify(data)["checked"] == 200
    history = sqlite3.connect(data / "history.sqlite", isolation_level=None)
    often, count = collections.Counter(
        json.loads(request)["household"] for (request,) in log_of(data).execute("select request from requests")).most_common(1)[0]
    sequence, household, price = history.execute(
        "select _seq, household, price from purchases where household = ? order by event_time desc limit 1", [often]).fetchone()
    history.execute("update purchases set price = price + 0.01 where _seq = ?", [sequence])
    asked = {number for number, request in log_of(data).execute("select number, request from requests")
             if json.loads(request)["household"] == household}
    assert len(asked) == count
    found = verify(data, code=1)
    assert found["checked"] == 200 and found["differing"] >= len(asked)
    by_number = {difference["number"]: difference for difference in found["differences"]}
    assert asked <= set(by_number)
    for number in asked:
        difference = by_number[number]
        names = {feature["name"] for feature in difference["features"]}
        assert "avg_price_28d" in names and "purchases_28d" not in names, names
        feature = next(feature for feature in difference["features"] if feature["name"] == "avg_price_28d")
        assert 0 < float(feature["recomputed"]) - float(feature["served"]) < 0.011
        sides = [{feature["name"]: feature["value"] for view in difference[side]["views"] for feature in view["features"]}
                 for side in ("online", "history")]
        assert sides[0]["avg_price_28d"] == float(feature["served"]) and sides[1]["avg_price_28d"] == float(feature["recomputed"])
        assert [view["answered_by"] for view in difference["history"]["views"] if view["key"]] == ["history"] * 3
    text = weir("verify", "--data", data, "--limit", 200, check=False)
    assert text.returncode == 1 and re.search(r"avg_price_28d: served \S+, recomputed \S+\n", text.stdout), text.stdout
    assert "as the lookup service explains it now:" in text.stdout and "as it is recomputed:" in text.stdout
    # On a schedule, beside lookups: counted and said.
    with Server(data, "--clock", "event", "--verify-every", "1s") as server:
        wait_for(lambda: metrics(server).get("weir_verified_requests_total") == 200)
        told = metrics(server)
    assert told["weir_differing_requests_total"] == found["differing"] and time.time() - told["weir_verify_last_run_timestamp_seconds"] < 60
    said = server.process.stderr.read()
    assert f"verify: 200 requests checked: {200 - found['differing']} equal, {found['differing']} differ" in said, said
    assert str(household) not in said.replace(f"number {min(by_number)}", "")
    history.execute("update purchases set price = ? where _seq = ?", [price, sequence])
    assert verify(data)["equal"] == 200


def test_what_cannot_be_checked_is_counted(tmp_path):
    data, _ = small_store(tmp_path)
    log = log_of(data)
    log.execute("update requests set definitions = '0000000000000000' where number <= 30")
    log.execute("update requests set applied = replace(applied, ',300]', ',301]') where number between 41 and 60")
    found = verify(data)
    assert found["uncheckable"] == {"definitions changed since": 30, "the history has not all of it any more": 20}, found
    assert found["checked"] == found["equal"] == 150
    log.execute("update requests set answer = replace(answer, '\"purchases_28d\":', '\"purchases_28d\":1') where number = 100")
    assert verify(data, code=1)["differing"] == 1
    log.execute("update requests set answer = '[' where number = 100")
    done = weir("verify", "--data", data, check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    # Of another store: a copy's own requests are logged anew.
    log.execute("update meta set value = 'another'")
    log.close()
    done = weir("verify", "--data", data, check=False)
    assert done.returncode == 1 and "another store" in done.stderr
    with Server(data, "--log-requests", 0.5) as server:
        server.client().execute_command("FEATURES.LIST")
    assert verify(data)["checked"] == 0


def test_errors_say_what_would_be_right(tmp_path):
    data, _ = small_store(tmp_path, requests=10)
    for arguments, words, code in [
        (("serve", "--data", data, "--log-requests", 1), "weir run --log-requests", 64), (("run", "--data", data, "--log-requests", 2), "between 0 and 1", 64),
        (("run", "--data", data, "--verify-every", "soon"), "verify-every", 64), (("run", "--data", data, "--drift-against", tmp_path / "no.json"), "cannot read the manifest", 1),
        (("verify", "nothing", "--data", data), "checkout_offer", 1), (("stats", "--against", "x", "--data", data), "SERVICE", 64),
        (("stats", "checkout_offer", "--against", tmp_path / "rows.csv", "--data", data), "has no statistics", 1),
    ]:
        done = weir(*arguments, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == code and words in done.stderr, (arguments, done)
    (tmp_path / "data/requests.sqlite").write_bytes(b"no database at all" * 1_000)
    for name in ("requests.sqlite-wal", "requests.sqlite-shm"):
        (tmp_path / "data" / name).unlink(missing_ok=True)
    done = weir("verify", "--data", data, check=False)
    assert done.returncode == 1 and "damaged" in done.stderr
    # It is a sample: the server begins it anew.
    with Server(data, "--log-requests", 1) as server:
        post(server, {"features": ["household_spend:avg_price_28d"], "entities": {"household": [1]}})
    assert verify(data)["checked"] == 1


def test_the_log_is_bounded(tmp_path):
    """Its size by its oldest; what waits for a log that cannot be written by counting instead of waiting."""
    rng = seeded("bounded log")
    data, rows = small_store(tmp_path, requests=1)
    count = 12_000
    with Server(data, "--clock", "event", "--log-requests", 1, "--request-log-size", "2MB") as server:
        ask(server, rows, rng, count)
        wait_for(lambda: metrics(server)["weir_requests_logged_total"] == count)
        first, last, kept = log_of(data).execute("select min(number), max(number), count(*) from requests").fetchone()
        assert last == count + 1 and kept == last - first + 1 and 1_000 < kept < count / 2, (first, last, kept)
        assert (data / "requests.sqlite").stat().st_size < 4_000_000
        assert verify(data)["equal"] == kept
        # Another process has it locked.
        lock = log_of(data)
        lock.execute("begin exclusive")
        start = time.monotonic()
        ask(server, rows, rng, 40_000)
        seconds = time.monotonic() - start
        assert metrics(server)["weir_requests_unlogged_total"] > 0
        lock.execute("rollback")
        assert seconds < 30, seconds
        wait_for(lambda: sum(value for name, value in metrics(server).items() if name in (
            "weir_requests_logged_total", "weir_requests_unlogged_total")) == count + 40_000)
    with Server(data, "--clock", "event", "--log-requests", 0.25) as server:
        ask(server, rows, rng, 4_000)
        sampled = None

        def settled() -> bool:
            nonlocal sampled
            before, sampled = sampled, metrics(server)["weir_requests_logged_total"]
            return before == sampled and sampled > 0

        wait_for(settled)
    # Five standard deviations.
    assert abs(sampled - 1_000) < 140, sampled
    with Server(data) as server:
        assert "weir_requests_logged_total" not in metrics(server)


def test_stats_of_a_service(tmp_path):
    """What was served beside a training set: the same distribution, then another."""
    rng = seeded("stats of a service")
    data, rows = small_store(tmp_path, requests=3_000)
    served = json.loads(weir("stats", "checkout_offer", "--json", "--data", data).stdout)
    assert served["requests"] == 3_000 and served["outdated_requests"] == 0
    features = {feature["name"]: feature["served"] for feature in served["features"]}
    assert list(features) == oracle.CHECKOUT_OFFER
    answers = [json.loads(answer) for (answer,) in log_of(data).execute("select answer from requests")]
    for name, summary in features.items():
        values = [answer[name] for answer in answers if answer[name] is not None]
        assert summary["rows"] == 3_000 and summary["nulls"] == 3_000 - len(values), name
        if summary["type"] in ("int", "double") and values:
            assert (summary["minimum"], summary["maximum"]) == (min(values), max(values))
            assert abs(summary["mean"] - sum(values) / len(values)) <= 1e-9 * abs(summary["mean"])
            median = sorted(values)[(len(values) - 1) // 2]
            assert abs(summary["quantiles"]["0.5"] - median) <= 0.0101 * abs(median)
            assert sum(one["rows"] for one in summary["bins"]) == len(values)
    manifest = tmp_path / "training.csv.manifest.json"
    manifest.write_text(json.dumps({"service": "checkout_offer", "rows": 3_000, "features": list(features.values())}))

    def indexes() -> dict:
        found = json.loads(weir("stats", "checkout_offer", "--against", manifest, "--json", "--limit", 3_000, "--data", data).stdout)
        return {feature["name"]: feature["stability_index"] for feature in found["features"]}

    assert all(index is None or abs(index) < 1e-12 for index in indexes().values())
    with Server(data, "--clock", "event", "--log-requests", 1, "--drift-against", manifest) as server:
        wait_for(lambda: "weir_feature_stability_index" in "".join(metrics(server)))
        ask(server, rows, rng, 3_000, cart=1e6)
        wait_for(lambda: metrics(server)["weir_requests_logged_total"] == 3_000)
        told = {re.search(r'feature="([^"]+)"', name)[1]: value for name, value in metrics(server).items()
                if name.startswith("weir_feature_stability_index")}
        # At the start, when nothing was served yet that differs.
        assert told and all(abs(value) < 1e-12 for value in told.values()), told
    shifted = indexes()
    assert shifted["cart_vs_usual"] > 2 and abs(shifted["avg_price_28d"]) < 0.1, shifted
    text = weir("stats", "checkout_offer", "--against", manifest, "--limit", 3_000, "--data", data).stdout
    assert re.search(r"^feature +nulls +psi +mean", text, re.MULTILINE) and "served | training set" in text, text
    # Without a service it stays what it was.
    assert json.loads(weir("stats", "--json", "--data", data).stdout)["history_sequence"] == 300
