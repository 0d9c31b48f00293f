"""Serialization of the control plane: round trips, also between two versions, as during an upgrade."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from llmariner.gateway.control_plane import serialization as wire
from llmariner.gateway.control_plane.port import (
    NO_AMOUNTS,
    Amounts,
    Changes,
    Key,
    LeaseGrant,
    LeaseReport,
    LeaseRequest,
    LeaseResponse,
    ModelState,
    Rule,
    RulesQuery,
)
from llmariner.gateway.metering.pricing import Price

KEY = Key("key_1", "proj_1", "org_1", "user_1", frozenset({"a", "b"}), 17.5, False, frozenset({"m"}), frozenset({"n"}))
BOUND = Key("key_2", "proj_1", "org_1", "user_1", frozenset(), None, True, allowed_networks=("10.0.0.0/8", "::1/128"))
MODEL = ModelState(
    "m", None, "generate", True, True, "ready", 1.0, None, "", "http://a", 4, 2, ("http://b", "http://c")
)
PRICED = ModelState(
    "n", "proj_1", "embed", True, False, "asleep", 0.0, 3.5, "waits", None, 0, 0, price=Price("price_1", 1, 2, 3, 4)
)
CHANGES = Changes("7", ("key_1",), ("m", "n"), 3, 2.5, (("key", "key_1"), ("project", "proj_1")))
HOLD = LeaseReport(
    "limit_1", Amounts(1, 2, 3, 4), Amounts(5, 6, 7, 8), Amounts(9), Amounts(0, 1), 2.5, ((20544, 3), (20545, 1))
)
ASK = LeaseRequest("replica", 12.5, [HOLD], KEY, "m", Amounts(1, 64), [RulesQuery(BOUND, "", NO_AMOUNTS)])
RULE = Rule("limit_1", "org_1", "project", "proj_1", "", {"requests_per_minute": 5}, None, None, True, 0.5)
ANSWER = LeaseResponse([LeaseGrant("limit_1", Amounts(1), Amounts(2, 3), 0.5, 8, 9)], [RULE], [[RULE], []])


class Kind(NamedTuple):
    """Values of one class, and the functions that serialize and parse them."""

    to_wire: Callable[[Any], dict[str, Any]]
    from_wire: Callable[[dict[str, Any]], Any]
    values: tuple[Any, ...]


KINDS = [
    Kind(wire.key_to_wire, wire.key_from_wire, (KEY, BOUND)),
    Kind(wire.model_to_wire, wire.model_from_wire, (MODEL, PRICED)),
    Kind(wire.changes_to_wire, wire.changes_from_wire, (CHANGES, Changes("", (), ()))),
    Kind(
        wire.lease_request_to_wire,
        wire.lease_request_from_wire,
        (ASK, LeaseRequest("replica", 0.0, [], other_queries=[])),
    ),
    Kind(wire.lease_response_to_wire, wire.lease_response_from_wire, (ANSWER, LeaseResponse([], other_rules=[]))),
]
EACH = pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind in KINDS for value in kind.values])


@EACH
def test_serialization_round_trip(kind: Kind, value: Any) -> None:
    assert kind.from_wire(json.loads(json.dumps(kind.to_wire(value)))) == value


@EACH
def test_fields_of_the_next_version_are_ignored(kind: Kind, value: Any) -> None:
    assert kind.from_wire(_more(json.loads(json.dumps(kind.to_wire(value))))) == value


def _more(value: Any) -> Any:
    """A field more in each object, an item more in each row; lists of names are no rows."""
    if isinstance(value, dict):
        # What a rule allows is a mapping by names, not an object with fields.
        return {**{name: each if name == "most" else _more(each) for name, each in value.items()}, "of the next": [1]}
    if isinstance(value, list) and value and all(isinstance(each, list | dict) for each in value):
        return [_more(each) for each in value]
    if isinstance(value, list) and any(isinstance(each, int) for each in value):
        return [*map(_more, value), "of the next"]
    return value


@pytest.mark.parametrize(
    ("kind", "value", "unsaid"),
    [
        (KINDS[0], replace(BOUND, allowed_networks=None), ("models", "refused_models", "sources")),
        (KINDS[1], replace(PRICED, price=None), ("replicas", "price")),
        (KINDS[2], Changes("7", ("key_1",), ()), ("rules", "prices", "subjects")),
    ],
)
def test_missing_fields_of_the_previous_version_have_defaults(kind: Kind, value: Any, unsaid: tuple[str, ...]) -> None:
    serialized = kind.to_wire(value)
    assert kind.from_wire({name: each for name, each in serialized.items() if name not in unsaid}) == value


def test_quota_reports_of_the_previous_version_are_accepted() -> None:
    serialized = wire.lease_request_to_wire(ASK)
    serialized["newcomer"] = {name: each for name, each in serialized["newcomer"].items() if name != "sources"}
    serialized["holds"] = [row[:6] for row in serialized["holds"]]
    del serialized["others"]
    assert wire.lease_request_from_wire(serialized) == ASK._replace(
        reports=[HOLD._replace(daily_spend=(), acknowledged=NO_AMOUNTS)], other_queries=[]
    )
