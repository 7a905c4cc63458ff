"""The hourly tumbling window in Bytewax: python bytewax_tumbling.py FILE BATCH [KEYS] [PROCESSES].

KEYS is `customers` (the default: a window per customer, as the library's operators are meant) or a number: customers are spread over so
many keys, and a window's accumulator is a dictionary of customers. PROCESSES is 1 or 2 (the default). Prints a line with the
configuration, then one with the seconds, both JSON; leaves with an error unless every line was counted once.

What was tried (Bytewax 0.21.1, Python 3.11, two cores that other work also used; the first 100,000 of ten million orders over 35 days,
unless it says otherwise; the better of two runs, in thousands of orders a second):

    batch                                     100   1,000   10,000   100,000 (the file)
    customers, 1 process                       38      38       37        46
    customers, 2 processes                     49      63       49        58
    customers, 1 process, 30,000 orders        28      37       42        35
    customers, 2 processes, 30,000 orders      55      35       41        42
    1 key of dictionaries, 1 process          272     236      269       260
    1 key of dictionaries, 2 processes        188     126      187       140
    16 keys of dictionaries, 1 process        235     256      225       187
    16 keys of dictionaries, 2 processes      198     118      158       206

So 1,000, customers and 2 are the best for windows that the library keeps, and 1 key in 1 process for those that a user's dictionary keeps
(one that would have to be pickled whole at each snapshot, if anything were to be durable). All have these settings:

- `to_system_utc` gives None, as the events' hours are long over: without it 5 with batches of 1,000 (30,000 orders; of 100,000 it does
  not end within 40 s), as each batch wakes every open window;
- the cyclic garbage collector is off: with it 20 instead of 32 (measured while the cores were busy);
- events are folded in the order of arrival and not of time, and decoded by orjson, where it is installed, a batch at a call: without
  these 16 instead of 20 (collector on, cores busy).
"""
import gc
import json
import os
import resource
import sys
import time
from datetime import datetime, timedelta, timezone

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.connectors.files import FileSource
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import cluster_main, run_main

try:
    from orjson import loads
except ImportError:
    from json import loads

path, batch = sys.argv[1], int(sys.argv[2])
keys = sys.argv[3] if len(sys.argv) > 3 else "customers"
processes = int(sys.argv[4]) if len(sys.argv) > 4 else 2
shards = [str(number) for number in range(int(keys))] if keys != "customers" else []
started = counted = windows = late = 0


class Source(FileSource):
    """Starts the clock with the file: that processes find each other takes a second, which is not counted."""

    def build_part(self, *arguments):
        global started
        started = time.monotonic()
        return super().build_part(*arguments)


class Sink(DynamicSink):
    """Takes closed windows, finishes the mean, and keeps nothing but how many there were."""

    class Part(StatelessSinkPartition):
        def write_batch(self, items):
            global counted, windows
            for _, (_, sums) in items:
                for count, total in sums.values() if shards else (sums,):
                    mean = total / count
                    counted += count
                    windows += 1

    def build(self, *_):
        return Sink.Part()


class Late(DynamicSink):
    class Part(StatelessSinkPartition):
        def write_batch(self, items):
            global late
            late += len(items)

    def build(self, *_):
        return Late.Part()


def parse(lines):
    parsed = []
    for line in lines:
        order = loads(line)
        customer = order["customer"]
        if shards:
            parsed.append((shards[customer % len(shards)], (order["event_time"], order["price"], customer)))
        else:
            parsed.append((str(customer), (order["event_time"], order["price"])))
    return parsed


def add(sums, order):
    return sums[0] + 1, sums[1] + order[1]


def add_in_shard(sums, order):
    _, price, customer = order
    count, total = sums.get(customer, (0, 0.0))
    sums[customer] = count + 1, total + price
    return sums


def merge(*_):
    raise NotImplementedError("tumbling windows do not merge")


clock = EventClock(ts_getter=lambda order: datetime.fromtimestamp(order[0] / 1000, timezone.utc),
                   wait_for_system_duration=timedelta(seconds=5),
                   # Events are replayed: without this every open window counts as due and is woken for every batch.
                   to_system_utc=lambda _: None)
windower = TumblingWindower(align_to=datetime(2026, 1, 1, tzinfo=timezone.utc), length=timedelta(hours=1))
flow = Dataflow("orders")
lines = op.input("lines", flow, Source(path, batch_size=batch))
orders = op.flat_map_batch("parse", lines, parse)
sums = win.fold_window("sums", orders, clock, windower, dict if shards else lambda: (0, 0.0), add_in_shard if shards else add, merge,
                       ordered=False)
op.output("sink", sums.down, Sink())
op.output("late", sums.late, Late())

gc.disable()
cpu = time.process_time()
if processes == 1:
    run_main(flow)
else:
    port = 20_000 + os.getpid() % 5_000 * 2
    addresses = [f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"]
    reader, writer = os.pipe()
    child = os.fork()
    cluster_main(flow, addresses, 1 if child == 0 else 0)
    if child == 0:
        # Both have done their work when the flow ends; the one that read the file knows when it began.
        os.write(writer, json.dumps([started, counted, windows, late]).encode())
        os._exit(0)
    os.close(writer)
    others = json.loads(os.read(reader, 1_000))
    _, status = os.waitpid(child, 0)
    if status != 0:
        sys.exit(f"the other process ended with {status}")
    started = max(started, others[0])
    counted, windows, late = counted + others[1], windows + others[2], late + others[3]
wall = time.monotonic() - started
children = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = time.process_time() - cpu + children.ru_utime + children.ru_stime
expected = sum(1 for _ in open(path, "rb"))
if counted != expected or late != 0:
    sys.exit(f"{counted} of {expected} orders counted, {late} late")
print(json.dumps({"batch": batch, "keys": keys, "processes": processes, "orders": counted, "windows": windows}))
print(json.dumps({"wall_seconds": wall, "cpu_seconds": cpu}))
