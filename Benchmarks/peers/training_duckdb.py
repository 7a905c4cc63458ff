"""Training sets with DuckDB on two threads.

`training_duckdb.py prepare FOLDER`: `orders.parquet` and `spine.parquet` of the CSV files beside them.
`training_duckdb.py latest|month|ten FOLDER OUT`: joins them, writes OUT, prints its seconds as JSON.

Tried with DuckDB 2.0.1, ten million orders of 100,000 customers, a spine of a million rows, and left for what is here:
- one window (`month`): `RANGE BETWEEN INTERVAL …` over the union of orders and spine, 2 to 3 times as long; running sums and two ASOF
  joins, 1.2 to 2 times, with 3 times the memory; an inequality join with GROUP BY, 4 times at a tenth of the size.
- four windows (`ten`): RANGE windows for everything, 2 to 4 times as long; running sums and five ASOF joins, up to twice, with 4.5 GB; maxima by
  prefixes and suffixes of blocks as long as the window (van Herk), no faster.
- times as TIMESTAMP and INTERVAL instead of integers: some 10 to 20 % slower.
"""

import json
import sys
import time

import duckdb

DAY = 86_400_000_000
HOUR = DAY // 24


def running(bounds, columns):
    """Differences of running counts and sums: each row of the spine stands in the order of events once for each bound.

    Times are doubled so that a bound comes before the events of its microsecond. `bounds` begins with 0, the row's own time.
    """
    rows = " UNION ALL ".join(
        f"SELECT customer, 2 * (epoch_us(event_timestamp) - {bound}), NULL, {len(bounds)} * \"row\" + {number} FROM spine"
        for number, bound in enumerate(bounds))
    at = f"max({{}}) FILTER (tag % {len(bounds)} = {{}})"
    differences = ", ".join(
        f"{at.format('n', 0)} - {at.format('n', number)} AS n{number}, "
        f"coalesce({at.format('s', 0)}, 0) - coalesce({at.format('s', number)}, 0) AS s{number}"
        for number in range(1, len(bounds)))
    return f"""
        SELECT "row", {columns} FROM (
            SELECT tag // {len(bounds)} AS "row", {differences} FROM (
                SELECT tag, count(price) OVER w AS n, sum(price) OVER w AS s FROM (
                    SELECT customer, 2 * epoch_us(event_time) + 1 AS t, price, NULL::BIGINT AS tag FROM orders UNION ALL {rows})
                WINDOW w AS (PARTITION BY customer ORDER BY t ROWS UNBOUNDED PRECEDING))
            WHERE tag IS NOT NULL GROUP BY ALL)"""


MAXIMA = f"""
    SELECT * FROM (
        SELECT "row", max(price) OVER d7 AS max_price_7d, max(price) OVER d28 AS max_price_28d FROM (
            SELECT customer, epoch_us(event_time) AS t, price, NULL::BIGINT AS "row" FROM orders UNION ALL
            SELECT customer, epoch_us(event_timestamp), NULL, "row" FROM spine)
        WINDOW d7 AS (PARTITION BY customer ORDER BY t RANGE BETWEEN {7 * DAY} PRECEDING AND 1 PRECEDING),
            d28 AS (PARTITION BY customer ORDER BY t RANGE BETWEEN {28 * DAY} PRECEDING AND 1 PRECEDING))
    WHERE "row" IS NOT NULL"""

MONTH = "n{0} AS orders_28d, CASE WHEN n{0} > 0 THEN s{0} ELSE 0 END AS spend_28d, CASE WHEN n{0} > 0 THEN s{0} / n{0} END AS avg_price_28d"

QUERIES = {
    "latest": """
        SELECT spine.*, price AS last_price, quantity AS last_quantity, channel AS last_channel
        FROM spine ASOF LEFT JOIN orders ON spine.customer = orders.customer AND spine.event_timestamp > orders.event_time""",
    "month": f"""SELECT * FROM spine JOIN ({running([0, 28 * DAY], MONTH.format(1))}) USING ("row")""",
    "ten": f"""
        SELECT * FROM spine JOIN ({running([0, HOUR, DAY, 7 * DAY, 28 * DAY], '''
            n1 AS orders_1h, CASE WHEN n1 > 0 THEN s1 ELSE 0 END AS spend_1h, n2 AS orders_1d, CASE WHEN n2 > 0 THEN s2 ELSE 0 END AS spend_1d,
            CASE WHEN n3 > 0 THEN s3 / n3 END AS avg_price_7d, ''' + MONTH.format(4))}) USING ("row") JOIN ({MAXIMA}) USING ("row")""",
}


def prepare(folder):
    duckdb.execute("SET TimeZone = 'UTC'")
    duckdb.execute(f"""
        COPY (SELECT customer, make_timestamp(event_time) AS event_time, price, quantity, channel
              FROM read_csv('{folder}/orders.csv', types = {{'customer': 'BIGINT', 'event_time': 'BIGINT', 'price': 'DOUBLE', 'quantity': 'BIGINT'}}))
        TO '{folder}/orders.parquet' (FORMAT parquet)""")
    duckdb.execute(f"""
        COPY (SELECT * REPLACE (event_timestamp::TIMESTAMPTZ::TIMESTAMP AS event_timestamp)
              FROM read_csv('{folder}/spine.csv', types = {{'event_timestamp': 'VARCHAR'}}))
        TO '{folder}/spine.parquet' (FORMAT parquet)""")


def join(query, folder, out):
    start = time.monotonic()
    # The rows may come in any order, which is faster.
    duckdb.execute("SET threads = 2; SET preserve_insertion_order = false")
    for name in ("orders", "spine"):
        duckdb.execute(f"CREATE VIEW {name} AS FROM '{folder}/{name}.parquet'")
    duckdb.execute(f"COPY ({query}) TO '{out}' (HEADER)")
    print(json.dumps({"seconds": time.monotonic() - start}))


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(sys.argv[2])
    else:
        join(QUERIES[sys.argv[1]], *sys.argv[2:])
