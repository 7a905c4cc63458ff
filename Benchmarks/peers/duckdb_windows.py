"""The orders' windows as batch queries in DuckDB: python duckdb_windows.py FILE tumbling|sliding THREADS. Prints JSON."""
import json
import sys
import time

import duckdb

path, query, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
db = duckdb.connect()
db.execute(f"SET threads = {threads}")
source = f"read_json('{path}', format = 'newline_delimited', columns = {{customer: 'BIGINT', event_time: 'BIGINT', price: 'DOUBLE'}})"
cpu = time.process_time()
start = time.monotonic()
if query == "tumbling":
    db.execute(f"CREATE TABLE result AS SELECT customer, event_time // 3600000 AS hour, count(*), sum(price), avg(price) "
               f"FROM {source} GROUP BY ALL")
else:
    db.execute(f"CREATE TABLE result AS SELECT customer, event_time, count(*) OVER w, sum(price) OVER w, avg(price) OVER w "
               f"FROM {source} WINDOW w AS (PARTITION BY customer ORDER BY event_time "
               f"RANGE BETWEEN 2419200000 PRECEDING AND CURRENT ROW)")
print(json.dumps({"wall_seconds": time.monotonic() - start, "cpu_seconds": time.process_time() - cpu}))
