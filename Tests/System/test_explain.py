"""How answers came about: explanations against a scan of all events, and what META says."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import redis

import oracle
from cases import hard_stream, values_of
from harness import SLICE, Server, as_json, read_rows, seeded, wait_for, weir, write_rows
from oracle import DAY, HOUR, format_time, parse_time

KEYS = {"household_spend": "household", "basket_activity": "basket", "store_traffic": "store"}


def text_of(value) -> str | None:
    """A JSON value as RESP2 shows it."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) if isinstance(value, list) else oracle.double_text(value) if isinstance(
        value, float) else str(value)


def window_start(signature: str, at: int) -> int | None:
    """Where a window begins; None for a session, whose start the events decide."""
    kind, *numbers = re.findall(r"[a-z_]+|\d+", signature)
    numbers = [int(number) for number in numbers]
    if kind == "sliding":
        return at - numbers[0]
    if kind == "hopping":
        return (at - numbers[0]) // numbers[1] * numbers[1]
    if kind == "tumbling":
        return at // numbers[0] * numbers[0]
    return -(1 << 62) if kind == "lifetime" else None


def identity(row) -> tuple:
    return (row["id"], row["event_time"], row["household"], row["basket"], row["store"])


def test_explanations_against_a_scan(tmp_path):
    rng = seeded("explanations")
    rows = hard_stream(rng, 1_500)
    end = max(parse_time(row["event_time"]) for row in rows)
    dense = [{**rows[0], "id": f"dense{number}", "event_time": format_time(end + rng.randrange(8 * DAY))} for number in range(2_000)]
    rows += dense
    # So that some events stand in head records, some in leaves and tiles.
    for number, part in enumerate((rows[:3_400], rows[3_400:3_470], rows[3_470:])):
        write_rows(tmp_path / f"events{number}.csv", part)
        weir("ingest", "purchases", tmp_path / f"events{number}.csv", "--data", tmp_path / "data")
    stored = list({identity(row): row for row in rows}.values())
    by_key = {view: {} for view in KEYS}
    for row in stored:
        for view, field in KEYS.items():
            by_key[view].setdefault(str(int(row[field])), []).append(row)
    answered_by, seen = set(), {"tiles": 0, "leaves": 0, "head_events": 0, "history_events": 0, "session_events": 0, "totals": 0}
    with Server(tmp_path / "data", "--clock", "event") as server:
        client = server.client()
        for number in range(150):
            anchor = rng.choice(rng.choice((rows, dense)))
            at = parse_time(anchor["event_time"]) + rng.choice([0, 1, HOUR, 28 * DAY, rng.randrange(10 * DAY)])
            session = [] if number % 3 == 0 else [anchor] + [
                {**anchor, "id": f"s{number}-{extra}", "event_time": format_time(at + rng.choice([0, 1, -rng.randrange(1, 40 * DAY)]))}
                for extra in range(rng.randrange(1, 5))]
            request = json.dumps({name: int(anchor[name]) for name in ("household", "basket", "store")} | {"cart_value": 3.5})
            options = ["AT", format_time(at)]
            if session:
                options += ["SESSION", "purchases", "[" + ",".join(as_json(row) for row in session) + "]"]
            served = client.execute_command("FEATURES.GET", "checkout_offer", request, *options)
            explained = json.loads(client.execute_command("FEATURES.EXPLAIN", "checkout_offer", request, *options, "JSON"))
            # The values are those that are served.
            values = {feature["name"]: feature["value"] for view in explained["views"] for feature in view["features"]}
            values |= {feature["name"]: feature["value"] for feature in explained["on_demand"]}
            assert {name: text_of(value) for name, value in values.items()} == dict(zip(served[::2], served[1::2]))
            assert explained["session"] == {"events": len(session), "ignored": sum(parse_time(row["event_time"]) > at for row in session)}
            for view in explained["views"]:
                answered_by.add(view["answered_by"])
                assert (view["answered_by"] == "history") == (view["reason"] is not None)
                mine = by_key[view["view"]].get(view["key"], [])
                before = [row for row in mine if parse_time(row["event_time"]) < at]
                known = {identity(row) for row in before}
                mine_now = [row for row in session if parse_time(row["event_time"]) <= at]
                new = [row for row in mine_now if identity(row) not in known]
                assert view["session"]["events"] == len(session)
                # A copy of what lies in no window any more may not be looked for.
                starts = [window["start"] and parse_time(window["start"]) or -(1 << 62) for window in view["windows"]]
                copies = [row for row in mine_now if identity(row) in known]
                assert sum(parse_time(row["event_time"]) >= min(starts) for row in copies) <= view["session"]["known"] <= len(copies)
                assert view["session"]["known"] + view["session"]["counted"] == len(mine_now) and not view["session"]["repeated"]
                times = [parse_time(row["event_time"]) for row in before + new]
                latest = max(times, default=None)
                if latest is not None and latest < min(starts) and view["event_time"] != format_shortest(latest):
                    latest = view["event_time"] and parse_time(view["event_time"])
                    assert latest is None or latest in times
                assert view["event_time"] == (None if latest is None else format_shortest(latest))
                assert view["freshness_us"] == (None if latest is None else at - latest)
                for window in view["windows"]:
                    start = window_start(window["window"], at)
                    if start is None:
                        start = at + 1
                        for time in sorted(times, reverse=True):
                            if time < (at if start > at else start) - oracle.SESSION_GAP:
                                break
                            start = time
                    elif start > -(1 << 61):
                        assert parse_time(window["start"]) == start
                    counts = [sum(start <= parse_time(row["event_time"]) for row in some) for some in (before, new)]
                    assert window["session_events"] == counts[1] and window["events"] == sum(counts), (view["view"], window, counts)
                    parts = [window["head_events"], window["history_events"]]
                    parts += [part["events"] for part in window["tiles"] + window["leaves"] + ([window["totals"]] if window["totals"] else [])]
                    assert sum(parts) == counts[0]
                    assert (window["history_events"] > 0) <= (view["answered_by"] == "history")
                    for name in seen:
                        seen[name] += window[name] if isinstance(window[name], int) else len(window[name] or [])
        assert answered_by == {"online store", "history"} and all(seen[name] > 0 for name in seen if name != "totals"), (answered_by, seen)


def format_shortest(micros: int) -> str:
    """Without zeros at the end of the decimals."""
    text = format_time(micros)
    return text[:-1].rstrip("0").rstrip(".") + "Z" if "." in text else text


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    rows = read_rows(SLICE)[:2_000]
    write_rows(folder / "events.csv", rows)
    weir("ingest", "purchases", folder / "events.csv", "--data", folder / "data")
    with Server(folder / "data", "--clock", "event") as server:
        yield server, rows, folder


def request_for(row) -> str:
    return json.dumps({"household": int(row["household"]), "basket": int(row["basket"]), "store": int(row["store"]), "cart_value": 20})


def test_explanations_in_clients(shop):
    server, rows, folder = shop
    row = rows[-1]
    client = server.client()
    lines = client.execute_command("FEATURES.EXPLAIN", "checkout_offer", request_for(row))
    assert lines[0].startswith("checkout_offer at ") and all("\n" not in line for line in lines)
    assert server.client(3).execute_command("FEATURES.EXPLAIN", "checkout_offer", request_for(row)) == lines
    shell = subprocess.run(
        ["redis-cli", "-p", str(server.port), "FEATURES.EXPLAIN", "checkout_offer", request_for(row)], capture_output=True, text=True)
    assert shell.stdout.splitlines()[:len(lines)] == lines
    # Every number of the answer is explained.
    answer = client.execute_command("FEATURES.GET", "checkout_offer", request_for(row))
    for name, value in zip(answer[::2], answer[1::2]):
        shown = [line for line in lines if line.strip().startswith(f"{name} = ")]
        assert len(shown) == 1 and (value is None or value in shown[0].replace('"', "") or value in shown[0])
    # An entity of a view, some features, and what they are derived from.
    key = f"household_spend:00{row['household']}"
    some = client.execute_command("FEATURES.EXPLAIN", key, "price_vs_usual", "purchases_28d", "AT", row["event_time"])
    assert some[0].startswith("household_spend at ") and f'household "{row["household"]}"' in some[2]
    named = [line.split(" = ")[0].strip() for line in some if " = " in line]
    assert sorted(named) == ["avg_price_28d", "price_vs_usual", "purchases_28d", "spend_1h"]
    assert len(client.execute_command("FEATURES.EXPLAIN", key)) > len(some)
    # A session that the server holds.
    client.execute_command("SESSION.ADD", "s", "purchases", as_json(dict(row, id="in-session")))
    held = json.loads(client.execute_command("FEATURES.EXPLAIN", key, "purchases_lifetime", "SESSIONID", "s", "JSON"))
    assert held["session"]["events"] == 1 and held["views"][0]["windows"][0]["session_events"] == 1
    # An entity that nobody knows.
    nobody = client.execute_command("FEATURES.EXPLAIN", "household_spend:987654", "spend_7d")
    assert any("unknown" in line for line in nobody) and "spend_7d = 0.0 (NOT_FOUND): sum(price)" in nobody[-1]
    for wrong, said in ((["nothing", "{}"], "checkout_offer"), (["nothing:1"], "household_spend"), ([key, "nothing"], "spend_7d"),
                        (["checkout_offer"], "no request"), (["household_spend:abc"], "household, which is int"), (["checkout_offer", "{}"], "household")):
        with pytest.raises(redis.ResponseError, match=said):
            client.execute_command("FEATURES.EXPLAIN", *wrong)
    # The command line says the same.
    at = row["event_time"]
    shown = weir("get", "checkout_offer", request_for(row), "--at", at, "--explain", "--data", folder / "data").stdout.splitlines()
    assert shown == client.execute_command("FEATURES.EXPLAIN", "checkout_offer", request_for(row), "AT", at)
    tree = weir("get", "checkout_offer", request_for(row), "--at", at, "--explain", "--json", "--data", folder / "data").stdout
    assert tree.strip() == client.execute_command("FEATURES.EXPLAIN", "checkout_offer", request_for(row), "AT", at, "JSON")


def test_meta(shop):
    server, rows, folder = shop
    two, three = server.client(2), server.client(3)
    row = rows[-1]
    at = parse_time(row["event_time"]) + 1_234_567

    def ask(request, *options):
        return three.execute_command("FEATURES.GET", "checkout_offer", request, *options, "META")

    answer = ask(request_for(row), "AT", format_time(at))
    assert list(answer) == ["features", "meta", "as_of", "session_events_ignored", "applied", "positions"]
    assert list(answer["features"]) == list(answer["meta"]) == oracle.CHECKOUT_OFFER
    assert answer["as_of"] == format_shortest(at) and answer["session_events_ignored"] == 0
    for view, features in (("household_spend", oracle.HOUSEHOLD_SPEND), ("store_traffic", oracle.STORE_TRAFFIC)):
        fingerprint = three.execute_command("FEATURES.DESCRIBE", view)["fingerprint"]
        latest = max(parse_time(other["event_time"]) for other in rows if other[KEYS[view]] == row[KEYS[view]])
        for name in features:
            about = answer["meta"][name]
            assert about["fingerprint"] == fingerprint and about["event_time"] == format_shortest(latest)
            assert about["freshness_ms"] == (at - latest) // 1_000
    # An on-demand feature is as fresh as the freshest of its inputs.
    assert answer["meta"]["cart_vs_usual"]["fingerprint"] is None
    assert answer["meta"]["cart_vs_usual"]["event_time"] == answer["meta"]["avg_price_28d"]["event_time"]
    flat = two.execute_command("FEATURES.GET", "checkout_offer", request_for(row), "AT", format_time(at), "META")
    assert flat[::2] == list(answer)
    assert flat[1][1::2] == values_of(two.execute_command("FEATURES.GET", "checkout_offer", request_for(row), "AT", format_time(at)))

    # Positions of what was read.
    size = (folder / "events.csv").stat().st_size
    assert answer["positions"] == {f"file {folder}/events.csv": size}
    assert set(answer["applied"].values()) == {len(rows)} and set(answer["applied"]) <= {"0", "1"}
    assert dict(zip(flat[-1][::2], flat[-1][1::2])) == {f"file {folder}/events.csv": str(size)}
    event = dict(row, id="pushed", event_time=format_time(at))
    assert two.execute_command("EVENTS.ADD", "purchases", as_json(event)) == 1
    wait_for(lambda: min(ask(request_for(row))["applied"].values()) == len(rows) + 1, 30)
    assert ask(request_for(row))["positions"]["push purchases"] > 0

    # Statuses.
    def statuses(request, *options):
        return {name: about["status"] for name, about in ask(request, *options)["meta"].items()}

    here = statuses(request_for(row), "AT", format_time(at))
    assert here["spend_28d"] == "PRESENT"
    later = statuses(request_for(row), "AT", format_time(at + 365 * DAY))
    assert later["avg_price_28d"] == "NULL_VALUE" and later["spend_28d"] == "PRESENT" and later["last_department"] == "PRESENT"
    unknown = ask(json.dumps({"household": 987_654, "basket": 1, "store": 987_654, "cart_value": 1}))
    assert {about["status"] for about in unknown["meta"].values()} == {"NOT_FOUND", "NULL_VALUE"}
    assert unknown["meta"]["spend_28d"] == {
        "event_time": None, "freshness_ms": None, "status": "NOT_FOUND", "fingerprint": answer["meta"]["spend_28d"]["fingerprint"]}
    assert unknown["meta"]["cart_vs_usual"]["status"] == "NULL_VALUE"
    # More departments than are counted, and more than a double holds.
    many = [dict(row, id=f"many{number}", household="555555", department=f"d{number}", price="1.7e308", event_time=format_time(at))
            for number in range(1_001)]
    session = "[" + ",".join(as_json(event) for event in many) + "]"
    extreme = statuses(json.dumps({"household": 555_555, "basket": 1, "store": 1, "cart_value": 1}), "AT", format_time(at), "SESSION", "purchases", session)
    assert extreme["top_departments_28d"] == "LIMIT" and extreme["spend_28d"] == "OVERFLOW" and extreme["purchases_28d"] == "PRESENT"
