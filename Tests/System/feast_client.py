"""Reads features from Weir with Feast's own SDK: `feast_client.py ADDRESS < CALLS`, a JSON array of calls.

A call is `get_online_features`'s arguments (`features`, or `service`; `entity_rows`; `full_feature_names`), or `online_read`: a view,
features and keys. Prints a JSON array of what each gave: a dictionary of lists and the statuses by name, rows, or an error's text.
"""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile
import warnings
from datetime import timedelta

warnings.filterwarnings("ignore")

import pandas  # noqa: E402
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType  # noqa: E402
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus  # noqa: E402
from feast.protos.feast.types.EntityKey_pb2 import EntityKey  # noqa: E402
from feast.protos.feast.types.Value_pb2 import Value  # noqa: E402
from feast.repo_config import RepoConfig  # noqa: E402
from feast.types import Array, Float64, Int64, String  # noqa: E402

VIEWS = {
    "household_spend": (["household"], {
        "avg_price_28d": Float64, "spend_28d": Float64, "purchases_28d": Int64, "top_departments_28d": Array(String),
        "last_department": String, "last_five_departments": Array(String)}),
    "basket_activity": (["basket"], {"items_in_basket": Int64, "basket_value": Float64}),
    "store_departments": (["store", "department"], {"department_sales": Int64}),
}
TYPES = {"department": String}


def repository(address: str, folder: pathlib.Path) -> tuple[FeatureStore, dict]:
    """A Feast repository with the definitions that Weir has, and Weir as its online store."""
    store = FeatureStore(config=RepoConfig(
        project="shop", provider="local", registry=str(folder / "registry.db"), entity_key_serialization_version=3,
        online_store={"type": "remote", "path": address}))
    keys = {key: TYPES.get(key, Int64) for names, _ in VIEWS.values() for key in names}
    frame = pandas.DataFrame({**{key: [0] for key in keys}, "event_timestamp": [pandas.Timestamp.now(tz="UTC")]})
    frame.to_parquet(folder / "source.parquet")
    source = FileSource(path=str(folder / "source.parquet"), timestamp_field="event_timestamp")
    entities = {key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING if type_ == String else ValueType.INT64)
                for key, type_ in keys.items()}
    views = {name: FeatureView(name=name, entities=[entities[key] for key in names], ttl=timedelta(days=1), source=source,
                               schema=[Field(name=key, dtype=keys[key]) for key in names]
                               + [Field(name=feature, dtype=type_) for feature, type_ in features.items()])
             for name, (names, features) in VIEWS.items()}
    service = FeatureService(name="checkout_offer", features=[views["household_spend"], views["basket_activity"]])
    store.apply([*entities.values(), *views.values(), service])
    return store, views


def answer(store: FeatureStore, views: dict, call: dict):
    if "online_read" in call:
        view = views[call["online_read"]]
        (key,) = view.join_keys
        rows = store._get_provider().online_store.online_read(
            store.config, view, [EntityKey(join_keys=[key], entity_values=[Value(int64_val=number)]) for number in call["keys"]],
            call["features"])
        def native(value: Value):
            kind = value.WhichOneof("val")
            found = getattr(value, kind) if kind else None
            return list(found.val) if hasattr(found, "val") else found
        return [[time.isoformat(), {name: native(value) for name, value in features.items()}] for time, features in rows]
    features = store.get_feature_service(call.pop("service")) if "service" in call else call.pop("features")
    response = store.get_online_features(features=features, **call)
    names = response.proto.metadata.feature_names.val
    return {"values": response.to_dict(), "columns": list(response.to_df().columns),
            "statuses": {name: [FieldStatus.Name(status) for status in result.statuses]
                         for name, result in zip(names, response.proto.results)}}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, views = repository(sys.argv[1], pathlib.Path(folder))
        results = []
        for call in json.load(sys.stdin):
            try:
                results.append(answer(store, views, call))
            except Exception as error:  # noqa: BLE001 - the test looks at what it says
                results.append({"error": f"{type(error).__name__}: {error}"})
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
