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
from ..platform_client import PARIS, Asking

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(900)]

_PATIENCE = 300


@pytest.fixture
def asking(installed: Installed) -> Iterator[Asking]:
    asking = Asking(installed)
    yield asking
    asking.close()


@pytest.fixture
def model(asking: Asking) -> Iterator[str]:
    """One that may have two replicas."""
    name = f"growing-{uuid.uuid4().hex[:6]}"
    folders = (StandaloneSettings.load(environment()).cache / "models").iterdir()
    asking.installed.register(name, next(each.name for each in folders if each.name.startswith("smollm2")))
    config = {"runtime_config": {"resources": {"gpu": 0}, "max_replicas": 2}}
    status, answer = asking.installed.call(
        "PATCH", f"/models/{name}", {"config": config, "update_mask": "config.runtime_config"}
    )
    assert status == 200, answer
    yield name
    asking.sleep(name)
    asking.installed.call("DELETE", f"/models/{name}")


def test_the_autoscaler_never_scales_to_or_from_zero_and_is_deleted_with_the_model(asking: Asking, model: str) -> None:
    answer = asking.stream(model, PARIS, wait=_PATIENCE, max_tokens=4)
    assert answer.error is None, answer.error
    name = asking.service(model)
    until("the autoscaler has looked", lambda: None if conditions(asking, name) else "not yet", seconds=90)
    print("\nawake:", conditions(asking, name))
    made = get(asking.installed.lab, "hpa", f"{name}-autoscaler", "-n", MODELS_NAMESPACE)
    assert (made["spec"]["minReplicas"], made["spec"]["maxReplicas"]) == (1, 2)
    assert made["spec"]["scaleTargetRef"]["name"] == f"{name}-predictor"
    assert conditions(asking, name)["AbleToScale"] == "True"
    time.sleep(25)
    assert replicas(asking, name) == 1
    asking.sleep(model)
    until("it does nothing at none", lambda: _enabled(asking, name), seconds=90)
    print("asleep:", conditions(asking, name))
    time.sleep(25)
    assert replicas(asking, name) == 0


def conditions(asking: Asking, name: str) -> dict[str, str]:
    found = get(asking.installed.lab, "hpa", f"{name}-autoscaler", "-n", MODELS_NAMESPACE)
    said: list[dict[str, Any]] = found.get("status", {}).get("conditions", [])
    return {each["type"]: each["status"] for each in said}


def replicas(asking: Asking, name: str) -> int:
    return int(get(asking.installed.lab, "deployment", f"{name}-predictor", "-n", MODELS_NAMESPACE)["spec"]["replicas"])


def _enabled(asking: Asking, name: str) -> str | None:
    found = get(asking.installed.lab, "hpa", f"{name}-autoscaler", "-n", MODELS_NAMESPACE)
    reasons = [each["reason"] for each in found["status"]["conditions"] if each["type"] == "ScalingActive"]
    return None if reasons == ["ScalingDisabled"] else str(reasons)
