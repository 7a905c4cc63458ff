"""The example's features, computed the slow and obvious way.

This file shares nothing with the product: events are dictionaries, a window is a filter over them, a sum is
`math.fsum`, a variance is a fraction. Values leave as the text that CSV and RESP2 show, None for null. Only the
median, which the product estimates within 1 %, is compared with a tolerance (`Near`).
"""

from __future__ import annotations

import bisect
import json
import math
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
SESSION_GAP = 30 * MINUTE

HOUSEHOLD_SPEND = [
    "avg_price_28d", "spend_28d", "purchases_28d", "min_price_28d", "max_price_28d", "stddev_price_28d",
    "median_price_28d", "baskets_28d", "grocery_spend_28d", "top_departments_28d", "spend_7d", "spend_1h",
    "spend_today", "avg_price_90d_daily", "last_department", "last_five_departments", "purchases_lifetime",
    "price_vs_usual",
]
BASKET_ACTIVITY = ["items_in_basket", "basket_value"]
STORE_TRAFFIC = ["store_baskets_1h", "store_spend_1d"]
ON_DEMAND = ["cart_vs_usual", "basket_share_of_28d"]
CHECKOUT_OFFER = HOUSEHOLD_SPEND + BASKET_ACTIVITY + STORE_TRAFFIC + ON_DEMAND

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# Every finite double is a whole number of 2^-1074.
SCALE = 1 << 1074


def parse_time(text: str) -> int:
    """Microseconds since the Unix epoch, from RFC 3339."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (moment - EPOCH) // timedelta(microseconds=1)


def format_time(micros: int) -> str:
    """RFC 3339 in UTC, with six decimals where there are any."""
    moment = EPOCH + timedelta(microseconds=micros)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return text + (f".{moment.microsecond:06d}" if moment.microsecond else "") + "Z"


def double_text(value: float | None) -> str | None:
    """The shortest text that reads back as the same bits; null where there is no finite value."""
    if value is None or not math.isfinite(value):
        return None
    if 2.0**53 < abs(value) < 1e16:
        # Python writes these out in full, Swift with an exponent; the digits are the same.
        digits = repr(value).removesuffix(".0")
        sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
        return f"{sign}{digits[0]}.{digits[1:].rstrip('0') or '0'}e+15"
    return repr(value)


def json_text(values: list[str]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).replace("\x7f", "\\u007f")


@dataclass(frozen=True)
class Near:
    """A value that the answer must come within 1 % of; the product says which rank's value it estimates."""

    value: float

    def accepts(self, text: str | None) -> bool:
        if text is None:
            return False
        estimate = float(text)
        if self.value == 0:
            return estimate == 0
        # A hair above 1 %: the bin's bounds themselves are rounded.
        return abs(estimate - self.value) <= 0.01 * (1 + 1e-9) * abs(self.value)


Expected = str | None | Near


def agrees(expected: Expected, got: str | None) -> bool:
    return expected.accepts(got) if isinstance(expected, Near) else expected == got


def fsum(values: list[float]) -> float | None:
    try:
        return math.fsum(values)
    except OverflowError:
        return None


def mean(values: list[float]) -> float | None:
    if not values:
        return None
    total = fsum(values)
    return None if total is None else total / len(values)


def sample_variance(values: list[float]) -> float | None:
    """Exact, then rounded once: integers of 2^-1074 all the way."""
    count = len(values)
    if count < 2:
        return None
    scaled = []
    for value in values:
        numerator, denominator = value.as_integer_ratio()
        scaled.append(numerator * (SCALE // denominator))
    total = sum(scaled)
    try:
        return (count * sum(x * x for x in scaled) - total * total) / (count * (count - 1) * SCALE * SCALE)
    except OverflowError:
        return None


def quotient(numerator: float | None, denominator: float | None) -> float | None:
    """Null for a null input and for a result that is not finite."""
    if numerator is None or denominator is None or denominator == 0:
        return None
    result = numerator / denominator
    return result if math.isfinite(result) else None


def lower_median(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def identity(event: dict) -> tuple:
    return (event["household"], event["basket"], event["store"], event["time"], event["id"])


def order(event: dict) -> tuple:
    return (event["time"], event["id"].encode())


def event_of(row: dict) -> dict:
    """What the features read of a purchase, from its CSV or JSON fields."""
    return {
        "id": row["id"], "household": int(row["household"]), "basket": int(row["basket"]), "store": int(row["store"]),
        "department": row["department"], "price": float(row["price"]), "time": parse_time(row["event_time"]),
    }


class Timeline:
    """One entity's events in order."""

    def __init__(self) -> None:
        self.events: list[dict] = []
        self.times: list[int] = []

    def finish(self) -> None:
        self.events.sort(key=order)
        self.times = [event["time"] for event in self.events]

    def between(self, start: int, end: int) -> list[dict]:
        """The events in [start, end)."""
        return self.events[bisect.bisect_left(self.times, start) : bisect.bisect_left(self.times, end)]


EMPTY = Timeline()


class Oracle:
    """Values at a time, over a set of events."""

    def __init__(self, rows) -> None:
        self.count = 0
        self.by: dict[str, dict[int, Timeline]] = {"household": {}, "basket": {}, "store": {}}
        self.latest_time = None
        seen = set()
        for row in rows:
            event = row if "time" in row else event_of(row)
            name = identity(event)
            if name in seen:
                continue
            seen.add(name)
            self.count += 1
            self.latest_time = event["time"] if self.latest_time is None else max(self.latest_time, event["time"])
            for entity, timelines in self.by.items():
                timelines.setdefault(event[entity], Timeline()).events.append(event)
        for timelines in self.by.values():
            for timeline in timelines.values():
                timeline.finish()

    def window(self, entity: str, key: int, start: int | None, t: int, session=(), inclusive=False) -> list[dict]:
        """Stored events in [start, t) (at t, too, where `inclusive`) and the session's in [start, t], each once."""
        low = -(1 << 62) if start is None else start
        events = self.by[entity].get(key, EMPTY).between(low, t + 1 if inclusive else t)
        if not session:
            return events
        counted = {identity(event) for event in events}
        merged = list(events)
        for event in session:
            if event[entity] == key and low <= event["time"] <= t and identity(event) not in counted:
                counted.add(identity(event))
                merged.append(event)
        merged.sort(key=order)
        return merged

    def household_spend(self, key: int, t: int, session=(), inclusive=False) -> dict[str, Expected]:
        return self._household(key, t, session, inclusive)[0]

    def _household(self, key: int, t: int, session, inclusive):
        def window(start):
            return self.window("household", key, start, t, session, inclusive)

        def prices(events):
            return [event["price"] for event in events]

        month = window(t - 28 * DAY)
        month_prices = prices(month)
        avg = mean(month_prices)
        spend_28d = fsum(month_prices)
        variance = sample_variance(month_prices)
        counts: dict[str, int] = {}
        for event in month:
            counts[event["department"]] = counts.get(event["department"], 0) + 1
        top = sorted(counts, key=lambda name: (-counts[name], name.encode()))[:3]
        spend_1h = fsum(prices(window(t - HOUR)))
        lifetime = window(None)
        recent = [event["department"] for event in reversed(lifetime[-5:])]
        text = {
            "avg_price_28d": double_text(avg),
            "spend_28d": double_text(spend_28d),
            "purchases_28d": str(len(month)),
            "min_price_28d": double_text(min(month_prices, default=None)),
            "max_price_28d": double_text(max(month_prices, default=None)),
            "stddev_price_28d": double_text(None if variance is None else math.sqrt(variance)),
            "median_price_28d": Near(lower_median(month_prices)) if month else None,
            "baskets_28d": str(len({event["basket"] for event in month})),
            "grocery_spend_28d": double_text(fsum([e["price"] for e in month if e["department"] == "GROCERY"])),
            "top_departments_28d": json_text(top),
            "spend_7d": double_text(fsum(prices(window(t - 7 * DAY)))),
            "spend_1h": double_text(spend_1h),
            "spend_today": double_text(fsum(prices(window(t // DAY * DAY)))),
            "avg_price_90d_daily": double_text(mean(prices(window((t - 90 * DAY) // DAY * DAY)))),
            "last_department": recent[0] if recent else None,
            "last_five_departments": json_text(recent),
            "purchases_lifetime": str(len(lifetime)),
            "price_vs_usual": double_text(quotient(spend_1h, avg)),
        }
        return text, avg, spend_28d

    def _basket(self, key: int, t: int, session, inclusive):
        members: list[dict] = []
        earliest = t
        for event in reversed(self.window("basket", key, None, t, session, inclusive)):
            if earliest - event["time"] > SESSION_GAP:
                break
            members.append(event)
            earliest = event["time"]
        value = fsum([event["price"] for event in members])
        return {"items_in_basket": str(len(members)), "basket_value": double_text(value)}, value

    def basket_activity(self, key: int, t: int, session=(), inclusive=False) -> dict[str, Expected]:
        return self._basket(key, t, session, inclusive)[0]

    def store_traffic(self, key: int, t: int, session=(), inclusive=False) -> dict[str, Expected]:
        hour = self.window("store", key, t - HOUR, t, session, inclusive)
        day = self.window("store", key, t - DAY, t, session, inclusive)
        return {
            "store_baskets_1h": str(len({event["basket"] for event in hour})),
            "store_spend_1d": double_text(fsum([event["price"] for event in day])),
        }

    def checkout_offer(self, request: dict, t: int, session=(), inclusive=False) -> dict[str, Expected]:
        """What the service answers, in the order of its outputs. `session` holds events as `event_of` makes them."""
        values, avg, spend_28d = self._household(request["household"], t, session, inclusive)
        basket, basket_value = self._basket(request["basket"], t, session, inclusive)
        values |= basket
        values |= self.store_traffic(request["store"], t, session, inclusive)
        values["cart_vs_usual"] = double_text(quotient(request["cart_value"], avg))
        values["basket_share_of_28d"] = double_text(quotient(basket_value, spend_28d))
        return values
