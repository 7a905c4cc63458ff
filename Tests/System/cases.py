"""Spines, hard streams and comparisons that several tests share."""

from __future__ import annotations

import csv
import io
import json
import random

import oracle
from oracle import DAY, HOUR, MINUTE, SECOND, format_time, parse_time

SPINE_FIELDS = ["label", "event_timestamp", "household", "basket", "store", "cart_value"]


def spine_for(rows: list[dict], count: int, rng: random.Random) -> list[dict]:
    """Requests at times that matter: at events, just after, at windows' ends, long before and after."""
    spine = []
    for number in range(count):
        row = rng.choice(rows)
        time = parse_time(row["event_time"]) + rng.choice([
            0, 1, -1, HOUR, HOUR + 1, 7 * DAY, 28 * DAY, 28 * DAY + 1, 30 * MINUTE, 30 * MINUTE + 1,
            rng.randrange(0, 2 * HOUR), rng.randrange(-3 * DAY, 40 * DAY)])
        other = rng.choice(rows) if rng.random() < 0.1 else row
        spine.append({
            "label": number % 2, "event_timestamp": format_time(time), "household": row["household"], "basket": other["basket"],
            "store": row["store"], "cart_value": round(rng.random() * 100, 2)})
    return spine


def request_of(row: dict) -> dict:
    return {"household": int(row["household"]), "basket": int(row["basket"]), "store": int(row["store"]),
            "cart_value": float(row["cart_value"])}


def differences(csv_bytes: bytes, truth: oracle.Oracle, session_of=None, inclusive=False) -> tuple[int, list[str]]:
    """How many values were compared, and those that differ."""
    count, wrong = 0, []
    for number, row in enumerate(csv.DictReader(io.StringIO(csv_bytes.decode()))):
        time = parse_time(row["event_timestamp"])
        expected = truth.checkout_offer(request_of(row), time, session_of(row) if session_of else (), inclusive)
        for name, value in expected.items():
            count += 1
            got = row[name]
            # CSV cannot tell an empty text from null.
            if not oracle.agrees(value, got if got != "" or value == "" else None):
                wrong.append(f"row {number} at {row['event_timestamp']}, {name}: expected {value}, got {got!r} ({request_of(row)})")
    return count, wrong


def answers(client, spine: list[dict], extra=()) -> list[list[str | None]]:
    """The service's answers over TCP, each request `AT` its time, as RESP2 text."""
    results = []
    for start in range(0, len(spine), 200):
        pipeline = client.pipeline(transaction=False)
        for row in spine[start:start + 200]:
            pipeline.execute_command("FEATURES.GET", "checkout_offer", json.dumps(request_of(row)), "AT", row["event_timestamp"], *extra)
        results += pipeline.execute()
    return [values_of(answer) for answer in results]


def values_of(answer) -> list[str | None]:
    return list(answer.values()) if isinstance(answer, dict) else answer[1::2]


def exported(csv_bytes: bytes) -> list[list[str]]:
    rows = list(csv.reader(io.StringIO(csv_bytes.decode())))
    return [row[-len(oracle.CHECKOUT_OFFER):] for row in rows[1:]]


def same_text(exported_rows: list[list[str]], answered: list[list[str | None]]) -> list[str]:
    wrong = []
    for number, (a, b) in enumerate(zip(exported_rows, answered, strict=True)):
        for name, x, y in zip(oracle.CHECKOUT_OFFER, a, b, strict=True):
            if x != ("" if y is None else y):
                wrong.append(f"row {number}, {name}: export {x!r}, lookup {y!r}")
    return wrong


def hard_stream(rng: random.Random, count: int) -> list[dict]:
    """Sub-second times, session gaps of exactly the limit and one microsecond more, ids against file order, exact duplicates,
    several events at one time, empty departments, prices of zero and of many digits."""
    rows = []
    time = parse_time("2017-01-31T22:00:00Z")
    basket = 500
    for number in range(count):
        step = rng.choice([0, 0, 1, rng.randrange(SECOND), 30 * MINUTE, 30 * MINUTE + 1, rng.randrange(HOUR), DAY, 3 * DAY if rng.random() < 0.1 else 7])
        time += step
        if rng.random() < 0.3:
            basket += 1
        rows.append({
            "id": f"p{count - number:06d}", "household": rng.randrange(1, 6), "basket": basket, "store": rng.randrange(1, 3),
            "product": 1, "department": rng.choice(["GROCERY", "", "DELI", "MEAT", "é", "Z\"Q,", "a"]), "category": "",
            "quantity": 0, "price": rng.choice([0, 0.1, 0.2, 0.3, 1e-9, 12345.678901234, round(rng.random() * 50, 2), 1 / 3]),
            "retail_discount": 0.0, "coupon_discount": 0.0, "event_time": format_time(time)})
        if rng.random() < 0.05:
            rows.append(dict(rows[rng.randrange(len(rows))]))
    return rows
