"""The HTTP port: Feast's SDK as a client, answers equal to those of the lookups' port, metrics as Prometheus reads them, readiness."""

from __future__ import annotations

import base64
import json
import pathlib
import random
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness import (FEAST_PYTHON, LIVE, REPOSITORY, SLICE, WEIR, Broker, Server, as_json, free_port, read_rows, seeded, wait_for, weir,
                     write_rows)

HOUSEHOLD = ["avg_price_28d", "spend_28d", "purchases_28d", "top_departments_28d", "last_department", "spend_1h"]
EPOCH = "1970-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def rows():
    return read_rows(SLICE)[:3_000]


@pytest.fixture(scope="module")
def server(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("http")
    write_rows(folder / "events.csv", rows)
    weir("ingest", "purchases", folder / "events.csv", "--data", folder / "data")
    with Server(folder / "data", "--clock", "event") as server:
        yield server


def ask(port: int, path: str, body=None, headers=None, method=None) -> tuple[int, str, dict]:
    """Status, body and headers; `body` goes as JSON, unless it is bytes."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data=data, method=method,
        headers={**({"Content-Type": "application/json"} if data is not None else {}), **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


def online(port: int, **body) -> dict:
    """The answer's columns by name: (values, statuses, event times)."""
    status, text, _ = ask(port, "/get-online-features", body)
    assert status == 200, text
    answer = json.loads(text)
    names = answer["metadata"]["feature_names"]
    assert len(names) == len(answer["results"])
    return {name: (result["values"], result["statuses"], result["event_timestamps"]) for name, result in zip(names, answer["results"])}


def metrics(port: int) -> dict:
    """Every sample by name and labels, as Prometheus's own parser reads them."""
    status, text, headers = ask(port, "/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4"), text
    samples = {}
    for family in text_string_to_metric_families(text):
        assert family.type != "unknown" and family.documentation, family.name
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in samples, key
            samples[key] = sample.value
    return samples


def value(samples: dict, name: str, **labels) -> float:
    return samples[(name, *sorted(labels.items()))]


# MARK: Features


def test_answers_are_those_of_the_lookups_port(server, rows):
    rng = seeded("test_answers_are_those_of_the_lookups_port")
    households = rng.sample(sorted({int(row["household"]) for row in rows}), 30) + [999_999_999]
    client = server.client(protocol=3)
    found = online(server.http, features=[f"household_spend:{name}" for name in HOUSEHOLD], entities={"household": households})
    assert list(found) == ["household", *HOUSEHOLD]
    assert found["household"] == (households, ["PRESENT"] * 31, [EPOCH] * 31)
    for number, household in enumerate(households):
        expected = client.hmget(f"household_spend:{household}", HOUSEHOLD)
        for name, stored in zip(HOUSEHOLD, expected):
            (values, statuses, times) = (column[number] for column in found[name])
            assert values == (None if stored == [] else stored) and type(values) is type(None if stored == [] else stored), name
            assert statuses == ("NOT_FOUND" if household == 999_999_999 else "PRESENT"), name
            assert (times == EPOCH) == (household == 999_999_999)
    # One by one, in another order and by a key as text: the same.
    for number in rng.sample(range(31), 5):
        one = online(server.http, features=[f"household_spend:{name}" for name in reversed(HOUSEHOLD)],
                     entities={"household": [f"0{households[number]}"]})
        for name in HOUSEHOLD:
            assert [column[0] for column in one[name]] == [column[number] for column in found[name]]


def test_a_service_is_answered_from_columns(server, rows):
    chosen = rows[-5:]
    entities = {name: [int(row[name]) for row in chosen] for name in ("household", "basket", "store")} | {"cart_value": [20, 1.5, 0, 7, 1e3]}
    at = rows[-1]["event_time"]
    found = online(server.http, feature_service="checkout_offer", features=[], entities=entities, at=at)
    assert list(found)[:3] == ["household", "basket", "store"] and "cart_value" not in found
    client = server.client(protocol=3)
    for number in range(5):
        request = {name: column[number] for name, column in entities.items()}
        expected = client.execute_command("FEATURES.GET", "checkout_offer", json.dumps(request), "AT", at)
        got = {name: column[0][number] for name, column in found.items() if name not in entities}
        assert got == {name: None if stored == [] else stored for name, stored in expected.items()}
    prefixed = online(server.http, feature_service="checkout_offer", entities=entities, full_feature_names=True)
    assert "household_spend__avg_price_28d" in prefixed and "checkout_offer__cart_vs_usual" in prefixed


def test_a_past_time(server, rows):
    row = rows[1_500]
    entity = {"household": [int(row["household"])]}
    at = int(time.mktime(time.strptime(row["event_time"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone) * 1_000
    now = online(server.http, features=["household_spend:purchases_lifetime"], entities=entity)
    past = online(server.http, features=["household_spend:purchases_lifetime"], entities=entity, at=at)
    assert past == online(server.http, features=["household_spend:purchases_lifetime"], entities=entity, at=row["event_time"])
    earlier = [other for other in rows if other["household"] == row["household"] and other["event_time"] < row["event_time"]]
    assert past["purchases_lifetime"][0] == [len(earlier)] != now["purchases_lifetime"][0]


def test_null_and_empty(server):
    found = online(server.http, features=["household_spend:purchases_28d", "household_spend:last_five_departments"],
                   entities={"household": [None, 987_654_321]})
    # An empty list is null, since Feast's SDK cannot read it.
    assert found["purchases_28d"] == ([0, 0], ["NOT_FOUND"] * 2, [EPOCH] * 2)
    assert found["last_five_departments"] == ([None, None], ["NOT_FOUND"] * 2, [EPOCH] * 2)
    assert found["household"][:2] == ([None, 987_654_321], ["NULL_VALUE", "PRESENT"])
    nobody = online(server.http, features=["household_spend:purchases_28d"], entities={"household": []})
    assert nobody == {"household": ([], [], []), "purchases_28d": ([], [], [])}


@pytest.mark.parametrize("status, message, hint, body", [
    (404, "no view 'no_view'", "household_spend", {"features": ["no_view:x"], "entities": {"household": [1]}}),
    (404, "no feature 'x' of household_spend", "avg_price_28d", {"features": ["household_spend:x"], "entities": {"household": [1]}}),
    (404, "no service 'x'", "checkout_offer", {"feature_service": "x", "entities": {"household": [1]}}),
    (422, "no 'household'", "which is int", {"features": ["household_spend:spend_28d"], "entities": {"store": [1]}}),
    (422, "no entity 'houshold'", "household", {"features": ["household_spend:spend_28d"], "entities": {"houshold": [1]}}),
    (422, "'household' in row 1: x", "int", {"features": ["household_spend:spend_28d"], "entities": {"household": [1, "x"]}}),
    (422, "'household' in row 0: 1.0", "int", {"features": ["household_spend:spend_28d"], "entities": {"household": [1.0]}}),
    (422, "'household' in row 0: [1]", "int", {"features": ["household_spend:spend_28d"], "entities": {"household": [[1]]}}),
    (422, "'household' in row 0: true", "int", {"features": ["household_spend:spend_28d"], "entities": {"household": [True]}}),
    (422, "two columns", "full_feature_names",
     {"features": ["household_spend:spend_28d"] * 2, "entities": {"household": [1]}}),
    (422, "field 'basket': it is missing", "cart_value (float64)", {"feature_service": "checkout_offer", "entities": {"household": [1]}}),
    (422, "no field 'kart'", "cart_value",
     {"feature_service": "checkout_offer", "entities": {"household": [1], "basket": [1], "store": [1], "cart_value": [1], "kart": [1]}}),
    (422, "row 1", "cart_value",
     {"feature_service": "checkout_offer", "entities": {"household": [1, None], "basket": [1, 1], "store": [1, 1], "cart_value": [1, 1]}}),
    (422, "differ in length", "", {"features": ["household_spend:spend_28d"], "entities": {"household": [1, 2], "store": [1]}}),
    (422, "10001 values", "several requests", {"features": ["household_spend:spend_28d"], "entities": {"household": [1] * 10_001}}),
    (400, "not the JSON", "view:feature", b"{"),
])
def test_what_is_wrong_is_said(server, status, message, hint, body):
    got, text, headers = ask(server.http, "/get-online-features", body)
    answer = json.loads(text)
    assert got == status and message in answer["error"], text
    assert hint in answer.get("hint", ""), text
    assert headers["Content-Type"] == "application/json"
    # And the connection, or the next one, is as good as before.
    assert online(server.http, features=["household_spend:spend_28d"], entities={"household": [1]})


def test_large_answers_are_bounded(server):
    names = [f"household_spend:{feature['name']}" for view in json.loads(ask(server.http, "/features")[1])["views"]
             if view["name"] == "household_spend" for feature in view["features"]]
    found = online(server.http, features=names, entities={"household": list(range(10_000))})
    assert len(found) == 1 + len(names) and len(found["spend_28d"][0]) == 10_000
    # A feature twice under two names of its service and view is a way to more columns than the catalog has: there is none.
    assert ask(server.http, "/get-online-features", {"features": names * 60, "entities": {"household": [1]}})[0] == 422


def test_catalog(server):
    status, text, _ = ask(server.http, "/features")
    catalog = json.loads(text)
    assert status == 200 and list(catalog) == ["services", "views", "streams"]
    (view,) = (view for view in catalog["views"] if view["name"] == "household_spend")
    assert view["entity"] == "household" and view["join_keys"] == ["household"] and view["stream"] == "purchases"
    assert len(view["fingerprint"]) == 16
    features = {feature["name"]: feature for feature in view["features"]}
    assert features["avg_price_28d"]["type"] == "double" and features["avg_price_28d"]["window"] == f"sliding({28 * 86_400_000_000})"
    assert features["price_vs_usual"]["window"] is None
    (stream,) = catalog["streams"]
    assert {"name": "price", "type": "float64", "optional": False} in stream["fields"]
    (service,) = catalog["services"]
    assert [field["name"] for field in service["request"]] == ["household", "basket", "store", "cart_value"]


# MARK: Feast


def feast(address: str, calls: list) -> list:
    if not pathlib.Path(FEAST_PYTHON).exists():
        pytest.fail(f"there is no {FEAST_PYTHON}; Scripts/setup tests installs Feast")
    done = subprocess.run([FEAST_PYTHON, REPOSITORY / "Tests/System/feast_client.py", address], input=json.dumps(calls),
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_feasts_sdk_reads_features(server, rows):
    names = ["avg_price_28d", "spend_28d", "purchases_28d", "top_departments_28d", "last_department", "last_five_departments"]
    households = sorted({int(row["household"]) for row in rows})[:20] + [999_999_999]
    client = server.client(protocol=3)
    expected = [client.hmget(f"household_spend:{household}", names) for household in households]
    row = rows[-1]
    request = {"household": int(row["household"]), "basket": int(row["basket"]), "store": int(row["store"]), "cart_value": 12.5}
    several, prefixed, service, both, unknown, read = feast(f"http://127.0.0.1:{server.http}", [
        {"features": [f"household_spend:{name}" for name in names], "entity_rows": [{"household": key} for key in households]},
        {"features": ["household_spend:spend_28d"], "entity_rows": [{"household": households[0]}], "full_feature_names": True},
        {"service": "checkout_offer", "entity_rows": [request]},
        {"features": ["household_spend:spend_28d", "basket_activity:basket_value"],
         "entity_rows": [{"household": request["household"], "basket": request["basket"]}]},
        {"features": ["household_spend:nope"], "entity_rows": [{"household": 1}]},
        {"online_read": "household_spend", "features": ["purchases_28d", "avg_price_28d", "top_departments_28d"], "keys": households[:1]},
    ])
    assert several["columns"] == ["household", *names]
    for number, name in enumerate(names):
        assert several["values"][name] == [None if stored[number] == [] else stored[number] for stored in expected], name
        assert several["statuses"][name] == ["PRESENT"] * 20 + ["NOT_FOUND"]
    assert prefixed["values"] == {"household": [households[0]], "household_spend__spend_28d": [expected[0][1]]}
    answered = client.execute_command("FEATURES.GET", "checkout_offer", json.dumps(request))
    assert {name: found for name, (found,) in service["values"].items() if name not in request} == {
        name: None if stored == [] else stored for name, stored in answered.items()}
    assert both["values"]["basket_value"] == [client.hget(f"basket_activity:{request['basket']}", "basket_value")]
    assert "404" in unknown["error"] and "there is no feature 'nope' of household_spend" in unknown["error"]
    ((latest, features),) = read
    assert features == dict(zip(["purchases_28d", "avg_price_28d", "top_departments_28d"],
                                client.hmget(f"household_spend:{households[0]}", "purchases_28d", "avg_price_28d", "top_departments_28d")))
    assert latest == max(line["event_time"] for line in rows if line["household"] == str(households[0])).replace("Z", "+00:00")


def test_keys_of_several_parts_and_a_password(tmp_path, rows):
    write_rows(tmp_path / "events.csv", rows)
    done = subprocess.run([LIVE, "ingest", "purchases", tmp_path / "events.csv", "--data", tmp_path / "data"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts: dict = {}
    for row in rows:
        counts[row["store"], row["department"]] = counts.get((row["store"], row["department"]), 0) + 1
    chosen = sorted(counts)[:25]
    entities = {"store": [int(store) for store, _ in chosen], "department": [department for _, department in chosen]}
    expected = [counts[pair] for pair in chosen]
    features = ["store_departments:department_sales"]
    with Server(tmp_path / "data", "--clock", "event", "--password", "s3cret:x", binary=LIVE) as server:
        body = {"features": features, "entities": entities}
        status, text, headers = ask(server.http, "/get-online-features", body)
        assert status == 401 and headers["WWW-Authenticate"].startswith("Basic") and "hint" in json.loads(text)
        assert ask(server.http, "/metrics")[0] == 401 and ask(server.http, "/features")[0] == 401
        assert ask(server.http, "/healthz")[0] == ask(server.http, "/readyz")[0] == 200
        bearer = {"Authorization": "Bearer s3cret:x"}
        basic = {"Authorization": "Basic " + base64.b64encode(b"default:s3cret:x").decode()}
        for header in (bearer, basic):
            status, text, _ = ask(server.http, "/get-online-features", body, header)
            answer = json.loads(text)
            assert status == 200 and answer["metadata"]["feature_names"] == ["store", "department", "department_sales"]
            assert answer["results"][2]["values"] == expected
        # The whole key as one text, a part that is missing, one that is null, one of another type.
        whole = {"store_department": [f"{store}:{department}" for store, department in chosen]}
        found = json.loads(ask(server.http, "/get-online-features", {"features": features, "entities": whole}, bearer)[1])
        assert found["results"][1]["values"] == expected
        for wrong, message in [({"store": [1]}, "no 'department'"), ({"store": ["x"], "department": ["DELI"]}, "x:DELI is no key"),
                               ({"store": [1], "department": [7]}, "'department' in row 0: 7")]:
            status, text, _ = ask(server.http, "/get-online-features", {"features": features, "entities": wrong}, bearer)
            assert status == 422 and message in json.loads(text)["error"], text
        null = json.loads(ask(server.http, "/get-online-features",
                              {"features": features, "entities": {"store": [1], "department": [None]}}, bearer)[1])
        assert null["results"][2] == {"values": [0], "statuses": ["NOT_FOUND"], "event_timestamps": [EPOCH]}
        (read,) = feast(f"http://default:s3cret%3Ax@127.0.0.1:{server.http}", [
            {"features": features, "entity_rows": [{"store": int(store), "department": department} for store, department in chosen]}])
        assert read["values"]["department_sales"] == expected


# MARK: Metrics


def test_metrics_of_requests_and_stores(tmp_path, rows):
    data = tmp_path / "data"
    write_rows(tmp_path / "events.csv", rows[:500])
    weir("ingest", "purchases", tmp_path / "events.csv", "--data", data)
    (tmp_path / "bad.jsonl").write_text("{}\n" + as_json(rows[0]) + "\nnonsense\n")
    weir("ingest", "purchases", tmp_path / "bad.jsonl", "--data", data)
    with Server(data) as server:
        client = server.client()
        before = metrics(server.http)
        assert value(before, "weir_dead_letters", stream="purchases", reason="malformed") == 2
        assert value(before, "weir_duplicate_events_total", stream="purchases") == 1
        assert value(before, "weir_accepted_events_total", stream="purchases") == 0
        assert value(before, "weir_history_sequence") == value(before, "weir_applied_sequence", shard="0") == 500
        assert value(before, "weir_unapplied_events") == 0 and value(before, "weir_scrape_failures") == 0
        assert value(before, "weir_build_info", version=client.info("server")["weir_version"]) == 1
        for _ in range(7):
            client.hmget("household_spend:1", "spend_28d")
        with pytest.raises(Exception):
            client.hmget("nope:1", "spend_28d")
        client.execute_command("SESSION.ADD", "s1", "purchases", as_json(rows[600]))
        client.execute_command("EVENTS.ADD", "purchases", *[as_json(row) for row in rows[500:520]])
        online(server.http, features=["household_spend:spend_28d"], entities={"household": [1]})
        wait_for(lambda: value(metrics(server.http), "weir_applied_sequence", shard="1") == 520)
        after = metrics(server.http)
        assert value(after, "weir_accepted_events_total", stream="purchases") == 20
        resp = {"protocol": "resp"}
        assert value(after, "weir_requests_total", command="hmget", **resp) == 8
        assert value(after, "weir_request_errors_total", command="hmget", **resp) == 1
        assert value(after, "weir_requests_total", protocol="http", command="get-online-features") == 1
        assert value(after, "weir_sessions") == 1
        assert value(after, "weir_connections", **resp) >= 1 and value(after, "weir_connections_accepted_total", **resp) >= 1
        assert value(after, "weir_request_duration_seconds_count", **resp) == sum(
            count for key, count in after.items() if key[0] == "weir_requests_total" and ("protocol", "resp") in key)
        assert value(after, "weir_request_duration_seconds_bucket", le="+Inf", **resp) == value(
            after, "weir_request_duration_seconds_count", **resp)
        assert 0 < value(after, "weir_request_duration_seconds_sum", **resp) < 60
        latest = max(row["event_time"] for row in rows[:520])
        stamp = time.mktime(time.strptime(latest, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
        assert value(after, "weir_latest_event_timestamp_seconds") == stamp
        assert abs(time.time() - stamp - value(after, "weir_freshness_seconds")) < 60
        assert value(after, "weir_watermark_timestamp_seconds", stream="purchases") <= stamp
        pushed = {"kind": "push", "source": "push", "partition": "0", "stream": "purchases"}
        assert value(after, "weir_source_position", **pushed) > 0
        assert value(after, "weir_online_store_used_bytes", shard="0") > 4_096
        assert value(after, "weir_online_store_map_bytes", shard="0") > value(after, "weir_online_store_used_bytes", shard="0")
        assert 0 < value(after, "weir_online_store_reader_slots", shard="0") < value(after, "weir_online_store_reader_slots_max", shard="0")
        assert sum(value(after, "weir_history_bytes", file=name) for name in ("history.sqlite", "history.sqlite-wal")) > 10_000
        status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
        resident = next(int(line.split()[1]) * 1_024 for line in status.splitlines() if line.startswith("VmRSS"))
        assert abs(value(after, "process_resident_memory_bytes") - resident) < 64 << 20
        assert value(after, "process_cpu_seconds_total") >= value(before, "process_cpu_seconds_total") > 0
        assert abs(value(after, "process_start_time_seconds") - time.time()) < 120
        # Counters never go down.
        for key, count in before.items():
            if key[0].endswith(("_total", "_bucket", "_count")):
                assert after[key] >= count, key
    with Server(data, command="serve") as reader:
        assert value(metrics(reader.http), "weir_history_sequence") == 520


def test_consumer_lag_and_readiness(tmp_path, rows):
    port = free_port()
    with Server(tmp_path / "data", "--kafka", f"127.0.0.1:{port}", "--ready-lag", 0) as server:
        wait_for(lambda: ask(server.http, "/readyz")[0] == 503 and "Broker transport failure" in ask(server.http, "/readyz")[1])
    write_rows(tmp_path / "events.csv", rows)
    with Broker(tmp_path / "broker") as broker:
        weir("produce", "purchases", tmp_path / "events.csv", "--kafka", broker.address, "--partitions", 2)
        with Server(tmp_path / "data", "--kafka", broker.address, "--ready-lag", 0) as server:
            wait_for(lambda: ask(server.http, "/readyz")[0] == 200)
            samples = metrics(server.http)
            assert value(samples, "weir_history_sequence") == len(rows)
            wait_for(lambda: value(metrics(server.http), "weir_consumer_lag_messages", topic="purchases", partition="0") == 0)
            lags = [key for key in metrics(server.http) if key[0] == "weir_consumer_lag_messages"]
            assert len(lags) == 2
            positions = [count for key, count in samples.items() if key[0] == "weir_source_position" and ("kind", "kafka") in key]
            assert sum(positions) == len(rows)


def test_a_shard_that_is_behind_is_not_ready(tmp_path, rows):
    data = tmp_path / "data"
    write_rows(tmp_path / "a.csv", rows[:200])
    write_rows(tmp_path / "b.csv", rows[200:400])
    weir("ingest", "purchases", tmp_path / "a.csv", "--data", data)
    # The history has the second file, a shard has not.
    killed = subprocess.run([WEIR, "ingest", "purchases", tmp_path / "b.csv", "--data", data], capture_output=True,
                            env={"WEIR_CRASH_AT": "shard-applied:1", "PATH": "/usr/bin:/bin"})
    assert killed.returncode != 0
    with Server(data, "--ready-lag", 10, command="serve") as server:
        status, text, _ = ask(server.http, "/readyz")
        assert status == 503 and "200 events behind the history" in text
        assert value(metrics(server.http), "weir_unapplied_events") == 200
        assert ask(server.http, "/healthz")[0] == 200
    with Server(data, "--ready-lag", 200, command="serve") as server:
        assert ask(server.http, "/readyz")[0] == 200
