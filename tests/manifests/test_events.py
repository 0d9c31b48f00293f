"""Triggers match their declarations, one Broker carries all events, and PingSources send the tick."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmariner.manifests.declarations import Consumer, DeclarationError, read_declarations
from llmariner.manifests.events import TICK_EVENT_TYPE, broker, ping_source, trigger

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

Declare = Callable[..., None]
CHECKOUT = Path(__file__).parents[2]


def only(checkout: Path) -> Consumer:
    (found,) = read_declarations(checkout)[1]
    return found


def test_a_trigger_is_declared_once_and_only_placed_in_the_manifests(
    checkout: Path, consumer: Declare, schemas: Schemas
) -> None:
    consumer("model_status", "ai.llmariner.model.ready", max_scale="2")
    built = trigger(only(checkout), dead_lettered=False)
    assert schemas.faults(built) == []
    assert built["metadata"]["namespace"] == "llmariner"
    assert built["metadata"]["annotations"] == {"kafka.eventing.knative.dev/delivery.order": "ordered"}
    assert built["spec"] == {**only(checkout).trigger["spec"], "delivery": {"timeout": "PT60S"}}


def test_a_trigger_of_another_broker_is_rejected(checkout: Path, consumer: Declare) -> None:
    consumer("model_status", "x", broker="llmariner")
    with pytest.raises(DeclarationError, match="must be default"):
        trigger(only(checkout), dead_lettered=False)


def test_the_broker_stores_and_retries_events(schemas: Schemas) -> None:
    built = broker()
    assert schemas.faults(built) == []
    assert built["metadata"]["annotations"] == {"eventing.knative.dev/broker.class": "Kafka"}
    assert built["spec"]["delivery"]["retry"] > 0


def test_a_consumer_of_the_tick_has_a_matching_ping_source(checkout: Path, consumer: Declare, schemas: Schemas) -> None:
    consumer("sweep", TICK_EVENT_TYPE, every_minutes="2")
    (built,) = ping_source(only(checkout))
    assert schemas.faults(built) == []
    assert built["spec"]["schedule"] == "*/2 * * * *"
    assert json.loads(built["spec"]["data"]) == {"every_seconds": 120}
    assert built["spec"]["sink"]["ref"]["name"] == broker()["metadata"]["name"]
    assert trigger(only(checkout), dead_lettered=False)["spec"]["filter"]["attributes"] == {
        "type": "dev.knative.sources.ping",
        "source": "/apis/v1/namespaces/llmariner/pingsources/sweep",
    }


def test_another_consumer_has_no_ping_source(checkout: Path, consumer: Declare) -> None:
    consumer("model_status", "ai.llmariner.model.ready")
    assert list(ping_source(only(checkout))) == []


def test_the_tick_is_an_event_of_the_platform() -> None:
    assert f"## {TICK_EVENT_TYPE}\n" in (CHECKOUT / "eventing/events.md").read_text()
