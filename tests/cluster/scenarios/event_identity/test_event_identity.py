"""With Knative's event authentication, unauthenticated publishers are rejected and the platform's functions are not."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmariner.manifests.installation import NAMESPACE
from llmariner.settings import StandaloneSettings, environment

from ...lab.kubectl import get, kubectl
from ...lab.wait import until
from ...platform.installed import Installed
from ...platform.overlay import over, write
from ..functions import Functions

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

_EVENTING = "knative-eventing"
_FEATURE = "authentication-oidc"


@pytest.fixture
def asked_for_identity(installed: Installed) -> Iterator[Installed]:
    """The platform with the component for it, on a Knative that has the feature on."""
    lab = installed.lab
    plain, identified = write(lab.folder / "overlay"), _identified(lab.folder)
    try:
        _feature(installed, "enabled")
        until("the Broker has an audience", lambda: None if _audience(installed) else "none yet")
        _apply(installed, identified)
        yield installed
    finally:
        _feature(installed, "disabled")
        kubectl(lab, "delete", "eventpolicy", "broker", "-n", NAMESPACE, "--ignore-not-found")
        _apply(installed, plain)


def test_unauthenticated_events_are_rejected_and_platform_events_arrive(asked_for_identity: Installed) -> None:
    installed = asked_for_identity
    assert _audience(installed) == "eventing.knative.dev/broker/llmariner/default"
    assert _publish_without_token(installed) in (401, 403)
    name = f"identity-{uuid.uuid4().hex[:6]}"
    folder = min((StandaloneSettings.load(environment()).cache / "models").iterdir()).name
    with contextlib.ExitStack() as stack:
        stack.callback(installed.call, "DELETE", f"/models/{name}")
        # Loaded by a consumer that the Broker called, for an event that a function published.
        installed.register(name, folder)
    until("the clock's source is ready", lambda: _not_ready(installed, "pingsource", "sweep"))
    until("the source of changes is ready", lambda: _not_ready(installed, "apiserversource", "kubernetes-changes"))


def _identified(folder: Path) -> Path:
    """The test overlay with the component that gives publishers their token."""
    return over(folder, "overlay-identified", "event-identity")


def _apply(installed: Installed, overlay: Path) -> None:
    kubectl(installed.lab, "apply", "--server-side", "--force-conflicts", "-k", overlay, seconds=300)
    functions = Functions(installed)
    for name in functions.services():
        functions.ready(name, seconds=300)


def _feature(installed: Installed, value: str) -> None:
    patch = json.dumps({"data": {_FEATURE: value}})
    kubectl(installed.lab, "patch", "configmap", "config-features", "-n", _EVENTING, "--type=merge", "-p", patch)


def _audience(installed: Installed) -> str:
    broker = get(installed.lab, "broker", "default", "-n", NAMESPACE)
    return str(broker.get("status", {}).get("address", {}).get("audience", ""))


def _publish_without_token(installed: Installed) -> int:
    ingress = get(installed.lab, "service", "broker-ingress", "-n", _EVENTING)["spec"]["clusterIP"]
    headers = {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-type": "ai.llmariner.model.deleted.v1",
        "ce-source": "/llmariner",
        "ce-id": uuid.uuid4().hex,
    }
    request = urllib.request.Request(f"http://{ingress}/llmariner/default", b"{}", headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _not_ready(installed: Installed, kind: str, name: str) -> str | None:
    status = get(installed.lab, kind, name, "-n", NAMESPACE).get("status", {})
    conditions: list[dict[str, str]] = status.get("conditions", [])
    ready = next((each for each in conditions if each["type"] == "Ready"), {})
    return None if ready.get("status") == "True" else str(ready.get("message") or "no condition")
