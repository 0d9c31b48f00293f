"""Triggers say what their folders say, one Broker carries all events, and a clock wakes the sweeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmariner.manifests.declarations import Consumer, DeclarationError, read
from llmariner.manifests.events import broker, ping, trigger

if TYPE_CHECKING:
    from kubernetes.schemas import Schemas

Declare = Callable[..., None]
PING = "dev.knative.sources.ping"


def only(checkout: Path) -> Consumer:
    (found,) = read(checkout)[1]
    return found


def test_a_trigger_is_declared_once_and_only_placed_here(checkout: Path, consumer: Declare, schemas: Schemas) -> None:
    consumer("model_status", "ai.llmariner.model.ready", max_scale="2")
    built = trigger(only(checkout))
    assert schemas.faults(built) == []
    assert built["metadata"]["namespace"] == "llmariner"
    assert "annotations" not in built["metadata"]
    assert built["spec"] == only(checkout).trigger["spec"]


def test_a_trigger_of_another_broker_would_never_fire_and_is_refused(checkout: Path, consumer: Declare) -> None:
    consumer("model_status", "x", broker="default")
    with pytest.raises(DeclarationError, match="must be llmariner"):
        trigger(only(checkout))


def test_the_broker_keeps_and_repeats_events(schemas: Schemas) -> None:
    built = broker()
    assert schemas.faults(built) == []
    assert built["metadata"]["annotations"] == {"eventing.knative.dev/broker.class": "Kafka"}
    assert built["spec"]["delivery"]["retry"] > 0


def test_a_sweep_has_a_clock(checkout: Path, consumer: Declare, schemas: Schemas) -> None:
    consumer("usage_sweep", PING, schedule="*/5 * * * *")
    (clock,) = ping(only(checkout))
    assert schemas.faults(clock) == []
    assert clock["spec"]["schedule"] == "*/5 * * * *"
    assert clock["spec"]["sink"]["ref"]["name"] == broker()["metadata"]["name"]


def test_another_consumer_has_none(checkout: Path, consumer: Declare) -> None:
    consumer("model_status", "ai.llmariner.model.ready")
    assert list(ping(only(checkout))) == []
