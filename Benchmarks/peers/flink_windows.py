"""The orders' windows in Flink SQL, two slots, nothing durable: python flink_windows.py FILE tumbling|sliding. Prints JSON."""
import json
import os
import pathlib
import sys
import time

from pyflink.table import EnvironmentSettings, TableEnvironment


def cpu_seconds():
    """What this process and its Java process, where the work is done, have taken so far."""
    cpu = time.process_time()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == os.getpid():
                cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            pass
    return cpu


path, query = sys.argv[1], sys.argv[2]
env = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
env.get_config().set("parallelism.default", "2")
env.execute_sql(f"""
    CREATE TABLE orders (customer BIGINT, event_time BIGINT, price DOUBLE, ts AS TO_TIMESTAMP_LTZ(event_time, 3),
                         WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
    WITH ('connector' = 'filesystem', 'path' = 'file://{path}', 'format' = 'json')""")
cpu = cpu_seconds()
start = time.monotonic()
if query == "tumbling":
    env.execute_sql("CREATE TABLE sums (hour_start TIMESTAMP(3), customer BIGINT, n BIGINT, total DOUBLE, mean DOUBLE) "
                    "WITH ('connector' = 'blackhole')")
    job = env.execute_sql("""
        INSERT INTO sums SELECT window_start, customer, COUNT(*), SUM(price), AVG(price)
        FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY window_start, window_end, customer""")
else:
    env.execute_sql("CREATE TABLE sums (customer BIGINT, n BIGINT, total DOUBLE, mean DOUBLE) WITH ('connector' = 'blackhole')")
    job = env.execute_sql("""
        INSERT INTO sums SELECT customer, COUNT(*) OVER w, SUM(price) OVER w, AVG(price) OVER w FROM orders
        WINDOW w AS (PARTITION BY customer ORDER BY ts RANGE BETWEEN INTERVAL '28' DAY PRECEDING AND CURRENT ROW)""")
job.wait()
wall = time.monotonic() - start
print(json.dumps({"wall_seconds": wall, "cpu_seconds": cpu_seconds() - cpu}))
