"""Any component may crash at any time: usage is counted, events are delivered, and every request gets a response.

`LLMARINER_CHAOS_SECONDS`: how long parts are killed; 120 unless said.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import urllib.error
import uuid
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import func, select

from llmariner.manifests.installation import MODELS_NAMESPACE, NAMESPACE
from llmariner.platform.events.tables import events
from llmariner.usage.tables import ledger_requests

from ...lab.places import Lab
from ...lab.processes import alive
from ...platform.installed import Installed
from ...platform.overlay import MODELS
from ..engines import scripted, service
from ..fault_injection import crash, drain, processes_of, stopped
from ..platform_client import PlatformClient
from .load import Load, TokenCounter

_SECONDS = float(os.environ.get("LLMARINER_CHAOS_SECONDS", "120"))
_BETWEEN = 7.0
_UNSEEN = 60.0  # after so long without a sign of life the sweep closes a request of a function that is gone

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(_SECONDS + 900)]

Kill = Callable[[Lab, str, str], int]


def function(name: str) -> str:
    return f"serving.knative.dev/service={name}"


# The relay is stopped as a drain stops it: a kill without a signal would lose its streams.
PARTS: tuple[tuple[Kill, str, str], ...] = (
    (crash, NAMESPACE, function("internal-gateway")),
    (drain, NAMESPACE, function("chat-completions")),
    (crash, NAMESPACE, function("models")),
    (crash, NAMESPACE, "app.kubernetes.io/name=pgbouncer"),
    (crash, NAMESPACE, function("model-loader")),
    (crash, NAMESPACE, "app.kubernetes.io/name=postgres"),
    (crash, NAMESPACE, function("sweep")),
)


@pytest.fixture
def client(installed: Installed) -> Iterator[PlatformClient]:
    client = PlatformClient(installed)
    yield client
    client.close()


@pytest.fixture
def engines(client: PlatformClient) -> Iterator[tuple[str, str]]:
    """Two models that are awake: one whose engine is left alone, one whose engine is not."""
    names = f"steady-{uuid.uuid4().hex[:6]}", f"victim-{uuid.uuid4().hex[:6]}"
    with scripted(client.installed.lab, *(service(each, "--token-interval=50") for each in names)):
        client.adopted(*names)
        for name in names:
            assert client.whole(name, wait=120, max_tokens=1).status == 200
        yield names


def test_killed_components_lose_no_event_and_no_token(client: PlatformClient, engines: tuple[str, str]) -> None:
    steady, victim = engines
    loads = [Load(client, steady), Load(client, steady, tokens=120), Load(client, victim)]
    counter = TokenCounter(client, steady)
    for each in (counter, *loads):
        each.start()
    made = _kill_for(client, (crash, MODELS_NAMESPACE, f"serving.kserve.io/inferenceservice={victim}"))
    for load in loads:
        load.stop()
    made_by_engine = counter.stop()
    for load in loads:
        print(f"\n{load.model}: {dict(load.counted())}")
    try:
        _settled(client, made, steady)
        difference = made_by_engine - _in_ledger(client, steady)
        print(f"engine's tokens {made_by_engine}, ledger's tokens less by {difference}")
        assert difference == 0
        assert not [fate for load in loads for fate in load.fates if fate.how == "cut"]
        assert sum(fate.how == "whole" for load in loads[:2] for fate in load.fates) > 10
    finally:
        for name in made:
            client.installed.call("DELETE", f"/models/{name}")


@pytest.mark.parametrize("away", ["internal_gateway", "database", "api_server"])
def test_running_models_are_served_while_a_component_is_down(
    away: str, client: PlatformClient, engines: tuple[str, str]
) -> None:
    lab, (model, _) = client.installed.lab, engines
    statuses = []
    with _away(lab, away):
        limit = time.monotonic() + (6 if away == "api_server" else 15)
        while time.monotonic() < limit:
            if away == "internal_gateway":
                crash(lab, NAMESPACE, function("internal-gateway"))
            statuses.append(client.whole(model, wait=5, max_tokens=2).status)
            time.sleep(0.3)
    print(f"\n{len(statuses)} answers")
    assert set(statuses) == {200}
    assert len(statuses) > 5


@contextlib.contextmanager
def _away(lab: Lab, what: str) -> Iterator[None]:
    if what == "internal_gateway":
        yield
        # A new one: the kubelet lets a container that ended again and again wait for minutes.
        drain(lab, NAMESPACE, function("internal-gateway"))
        return
    # Shorter than the leases that controllers must renew at the API server.
    server = alive(lab, "kube-apiserver")
    pids = [server] if what == "api_server" and server else []
    with stopped(pids or processes_of(lab, NAMESPACE, "app.kubernetes.io/name=postgres")):
        yield


def _kill_for(client: PlatformClient, engine: tuple[Kill, str, str]) -> list[str]:
    """Kill one part after another and register models meanwhile; returns the models."""
    limit, made, ended = time.monotonic() + _SECONDS, [], []
    for kill, namespace, selector in itertools.cycle((*PARTS, engine)):
        if time.monotonic() > limit:
            break
        ended.append(f"{selector.rpartition('=')[2]} ×{kill(client.installed.lab, namespace, selector)}")
        time.sleep(_BETWEEN)
        if len(ended) % 4 == 0:
            made.append(_register(client))
    print("\nended: " + ", ".join(ended))
    return made


def _register(client: PlatformClient) -> str:
    """As a caller does it: again until it is taken, or is there already."""
    name = f"made-in-chaos-{uuid.uuid4().hex[:6]}"
    body = {
        "id": name,
        "source_repository": "OBJECT_STORE",
        "model_file_location": f"pvc://{MODELS}/x",
        "task": "embed",
    }
    limit, status = time.monotonic() + 90, 0
    while status not in (200, 409):
        assert time.monotonic() < limit, f"{name} could not be registered: {status}"
        with contextlib.suppress(urllib.error.URLError, OSError, ValueError):
            status, _ = client.installed.call("POST", "/models", body, seconds=60)
        if status not in (200, 409):
            time.sleep(1)
    return name


def _settled(client: PlatformClient, made: list[str], model: str) -> None:
    """Nothing is under way any more: events are published and consumed, requests closed."""

    def missing() -> str | None:
        with contextlib.suppress(OSError, ValueError):
            left = [name for name in made if name not in client.listed()]
            with client.context.database.read() as session:
                unpublished = session.value(select(func.count()).where(events.c.published.is_(False)))
                open_ = session.value(
                    select(func.count()).where(ledger_requests.c.outcome == "open", ledger_requests.c.model == model)
                )
            if not (left or unpublished or open_):
                return None
            return f"{len(left)} models not loaded, {unpublished} events unpublished, {open_} requests open"
        return "no answer"

    time.sleep(_UNSEEN)
    client.ticking("all is settled", missing)


def _in_ledger(client: PlatformClient, model: str) -> int:
    query = select(func.coalesce(func.sum(ledger_requests.c.completion_tokens), 0))
    outcomes = select(ledger_requests.c.outcome, func.count()).where(ledger_requests.c.model == model)
    with client.context.database.read() as session:
        print("outcomes", [tuple(row) for row in session.rows(outcomes.group_by(ledger_requests.c.outcome))])
        return int(session.value(query.where(ledger_requests.c.model == model)))
