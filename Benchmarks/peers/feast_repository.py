"""A Feast repository with the values that a running Weir has, for `feast serve`.

`feast_repository.py FOLDER --weir http://127.0.0.1:6480 --view VIEW --entity ENTITY --features a,b --keys FILE [--store sqlite|redis://HOST:PORT]`

Tried: Feast 0.67.0 with its SQLite store, and with Redis (`pip install 'feast[redis]'`). One worker (`feast serve` takes more with -w, which
on two cores that the load generator shares gave nothing).
"""

import argparse
import json
import pathlib
import urllib.request
import warnings

warnings.filterwarnings("ignore")

import pandas  # noqa: E402
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType  # noqa: E402
from feast.types import Float64, Int64  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=pathlib.Path)
for name in ("weir", "view", "entity", "features", "keys"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--store", default="sqlite")
options = parser.parse_args()
features = options.features.split(",")
keys = [int(line) for line in pathlib.Path(options.keys).read_text().split()]


def values(some):
    body = {"features": [f"{options.view}:{name}" for name in features], "entities": {options.entity: some}}
    request = urllib.request.Request(options.weir + "/get-online-features", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        found = json.load(answer)
    return {name: result["values"] for name, result in zip(found["metadata"]["feature_names"], found["results"])}


columns = {name: [] for name in [options.entity, *features]}
for start in range(0, len(keys), 1_000):
    for name, found in values(keys[start : start + 1_000]).items():
        columns[name] += found
types = {name: Int64 if all(isinstance(value, int) for value in column) else Float64 for name, column in columns.items()}
frame = pandas.DataFrame(columns)
frame = frame.astype({name: "float64" for name, type_ in types.items() if type_ == Float64})
frame["event_timestamp"] = pandas.Timestamp.now(tz="UTC")

options.folder.mkdir(parents=True, exist_ok=True)
store = {"type": "sqlite", "path": str(options.folder / "online.db")}
if options.store.startswith("redis://"):
    store = {"type": "redis", "connection_string": options.store.removeprefix("redis://")}
(options.folder / "feature_store.yaml").write_text(json.dumps({
    "project": "benchmark", "provider": "local", "registry": str(options.folder / "registry.db"), "online_store": store,
    "entity_key_serialization_version": 3}))
frame.to_parquet(options.folder / "source.parquet")
entity = Entity(name=options.entity, join_keys=[options.entity], value_type=ValueType.INT64)
view = FeatureView(
    name=options.view, entities=[entity], ttl=None, source=FileSource(path=str(options.folder / "source.parquet"), timestamp_field="event_timestamp"),
    schema=[Field(name=name, dtype=type_) for name, type_ in types.items()])
feast = FeatureStore(repo_path=str(options.folder))
feast.apply([entity, view])
for start in range(0, len(frame), 10_000):
    feast.write_to_online_store(options.view, df=frame[start : start + 10_000])
