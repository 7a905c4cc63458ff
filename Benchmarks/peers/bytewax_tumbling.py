"""The hourly tumbling window in Bytewax: python bytewax_tumbling.py FILE BATCH. Prints JSON."""
import json
import sys
import time
from datetime import datetime, timedelta, timezone

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.connectors.files import FileSource
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main


class Nowhere(DynamicSink):
    class Part(StatelessSinkPartition):
        def write_batch(self, items):
            pass

    def build(self, *_):
        return Nowhere.Part()


def parse(line):
    order = json.loads(line)
    return str(order["customer"]), (order["event_time"], order["price"])


path, batch = sys.argv[1], int(sys.argv[2])
clock = EventClock(ts_getter=lambda order: datetime.fromtimestamp(order[0] / 1000, timezone.utc),
                   wait_for_system_duration=timedelta(seconds=5))
windower = TumblingWindower(align_to=datetime(2026, 1, 1, tzinfo=timezone.utc), length=timedelta(hours=1))
flow = Dataflow("orders")
lines = op.input("lines", flow, FileSource(path, batch_size=batch))
orders = op.map("parse", lines, parse)
sums = win.fold_window("sums", orders, clock, windower, lambda: (0, 0.0), lambda s, order: (s[0] + 1, s[1] + order[1]),
                       lambda a, b: (a[0] + b[0], a[1] + b[1]))
op.output("nowhere", sums.down, Nowhere())
start = time.monotonic()
run_main(flow)
print(json.dumps({"wall_seconds": time.monotonic() - start, "cpu_seconds": time.process_time()}))
