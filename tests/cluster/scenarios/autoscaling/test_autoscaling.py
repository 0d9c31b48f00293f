"""A model that may have more replicas, on a cluster with Kubernetes' own autoscaler and nobody who tells it metrics.

What that shows: the autoscaler is made, takes the Deployment for its target, leaves it alone at one without a metric and at
none, and goes with the model. That it adds replicas wants a metrics server, and KEDA its operator.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from llmariner.manifests.installation import MODELS_NAMESPACE
from llmariner.settings import StandaloneSettings, environment

from ...lab.kubectl import get
from ...lab.wait import until
from ...platform.installed import Installed
from ..platform_client import PARIS, PlatformClient

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(900)]

_PATIENCE = 300


@pytest.fixture
def client(installed: Installed) -> Iterator[PlatformClient]:
    client = PlatformClient(installed)
    yield client
    client.close()


@pytest.fixture
def model(client: PlatformClient) -> Iterator[str]:
    """One that may have two replicas."""
    name = f"growing-{uuid.uuid4().hex[:6]}"
    folders = (StandaloneSettings.load(environment()).cache / "models").iterdir()
    client.installed.register(name, next(each.name for each in folders if each.name.startswith("smollm2")))
    config = {"runtime_config": {"resources": {"gpu": 0}, "max_replicas": 2}}
    status, answer = client.installed.call(
        "PATCH", f"/models/{name}", {"config": config, "update_mask": "config.runtime_config"}
    )
    assert status == 200, answer
    yield name
    client.sleep(name)
    client.installed.call("DELETE", f"/models/{name}")


def test_the_autoscaler_never_scales_to_or_from_zero_and_is_deleted_with_the_model(
    client: PlatformClient, model: str
) -> None:
    answer = client.stream(model, PARIS, wait=_PATIENCE, max_tokens=4)
    assert answer.error is None, answer.error
    name = client.service(model)
    until("the autoscaler has looked", lambda: None if conditions(client, name) else "not yet", seconds=90)
    print("\nawake:", conditions(client, name))
    made = get(client.installed.lab, "hpa", f"{name}-autoscaler", "-n", MODELS_NAMESPACE)
    assert (made["spec"]["minReplicas"], made["spec"]["maxReplicas"]) == (1, 2)
    assert made["spec"]["scaleTargetRef"]["name"] == f"{name}-predictor"
    assert conditions(client, name)["AbleToScale"] == "True"
    time.sleep(25)
    assert replicas(client, name) == 1
    client.sleep(model)
    until("it does nothing at none", lambda: _enabled(client, name), seconds=90)
    print("asleep:", conditions(client, name))
    time.sleep(25)
    assert replicas(client, name) == 0


def conditions(client: PlatformClient, name: str) -> dict[str, str]:
    found = get(client.installed.lab, "hpa", f"{name}-autoscaler", "-n", MODELS_NAMESPACE)
    said: list[dict[str, Any]] = found.get("status", {}).get("conditions", [])
    return {each["type"]: each["status"] for each in said}


def replicas(client: PlatformClient, name: str) -> int:
    return int(get(client.installed.lab, "deployment", f"{name}-predictor", "-n", MODELS_NAMESPACE)["spec"]["replicas"])


def _enabled(client: PlatformClient, name: str) -> str | None:
    found = get(client.installed.lab, "hpa", f"{name}-autoscaler", "-n", MODELS_NAMESPACE)
    reasons = [each["reason"] for each in found["status"]["conditions"] if each["type"] == "ScalingActive"]
    return None if reasons == ["ScalingDisabled"] else str(reasons)
