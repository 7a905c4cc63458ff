"""From an event's arrival to its being visible to a lookup, while others stream in.

    .venv/bin/python Benchmarks/freshness.py [--rates 10000,100000] [--seconds 20]

Starts the benchmarks' executable `orders` (swift build -c release in Benchmarks), pushes orders at each rate over one connection, and on
another one an order of a customer of its own every some milliseconds, whose count it asks for until it is there. Prints JSON.
"""
import argparse
import json
import pathlib
import random
import re
import subprocess
import tempfile
import threading
import time

import redis

ORDERS = pathlib.Path(__file__).parent / ".build/release/orders"


def order(customer: int, rng: random.Random) -> str:
    return f'{{"customer":{customer},"event_time":{int(time.time() * 1000)},"price":{rng.randrange(1, 20_000) / 100}}}'


def push(port: int, rate: int, end: float, pushed: list[int]) -> None:
    """Orders in calls of ten milliseconds' worth, as many as the rate asks for."""
    client = redis.Redis(port=port)
    rng = random.Random(1)
    start = time.monotonic()
    while time.monotonic() < end:
        due = int((time.monotonic() - start) * rate) - pushed[0]
        if due < rate // 100:
            time.sleep(0.002)
            continue
        due = min(due, 10_000)
        client.execute_command("EVENTS.ADD", "orders", *[order(int(rng.random() ** 3 * 100_000), rng) for _ in range(due)])
        pushed[0] += due


def probe(port: int, end: float) -> tuple[list[float], list[float]]:
    """Seconds from sending an order to its acknowledgement, and to its being counted."""
    client = redis.Redis(port=port, protocol=2, decode_responses=True)
    rng = random.Random(2)
    acknowledged, visible = [], []
    customer = 1_000_000
    while time.monotonic() < end:
        customer += 1
        start = time.monotonic()
        client.execute_command("EVENTS.ADD", "orders", order(customer, rng))
        acknowledged.append(time.monotonic() - start)
        while client.hmget(f"customer_spend:{customer}", "orders_28d") != ["1"]:
            time.sleep(0.0005)
        visible.append(time.monotonic() - start)
        time.sleep(rng.random() * 0.02)
    return acknowledged, visible


def percentiles(seconds: list[float]) -> dict:
    ordered = sorted(seconds)
    return {f"p{part}_ms": round(ordered[min(len(ordered) - 1, len(ordered) * part // 100)] * 1000, 1) for part in (50, 99)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rates", default="10000,100000")
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    report = {}
    for rate in map(int, options.rates.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            with subprocess.Popen([ORDERS, "run", "--data", f"{folder}/data", "--port", "0", "--http", "0"], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True) as server:
                port = int(re.search(r"lookups on [^:]*:(\d+)", server.stdout.readline()).group(1))
                end = time.monotonic() + options.seconds
                pushed = [0]
                pusher = threading.Thread(target=push, args=(port, rate, end, pushed))
                pusher.start()
                acknowledged, visible = probe(port, end)
                pusher.join()
                server.terminate()
            report[f"{rate}_per_second"] = {
                "pushed_per_second": round(pushed[0] / options.seconds), "probes": len(visible),
                "acknowledged": percentiles(acknowledged), "visible": percentiles(visible),
            }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
