"""With policies enforced the platform works, and functions, engines and the database accept their allowed peers only."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmariner.manifests.installation import MODELS_NAMESPACE, NAMESPACE
from llmariner.settings import StandaloneSettings, environment

from ...lab.kubectl import apply, get, kubectl
from ...lab.places import Lab
from ...lab.policies import enforced
from ...lab.wait import until
from ...platform.installed import Installed
from ...platform.overlay import over, write
from ..engines import IMAGE, scripted, service
from ..functions import Call, Functions
from ..platform_client import Answer, PlatformClient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

# Tries to connect to each address of its arguments, and prints which of them took it.
_PROBE = """
import json, socket, sys
def open_(place):
    host, port = place.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
        return True
    except OSError:
        return False
print(json.dumps({place: open_(place) for place in sys.argv[1:]}))
"""


@pytest.fixture
def client(installed: Installed) -> Iterator[PlatformClient]:
    with contextlib.closing(PlatformClient(installed)) as client:
        yield client


@pytest.fixture
def engine(client: PlatformClient) -> Iterator[str]:
    """A model that is awake."""
    name = f"guarded-{uuid.uuid4().hex[:6]}"
    with scripted(client.installed.lab, service(name)):
        client.adopted(name)
        assert client.whole(name, wait=120, max_tokens=2).status == 200
        yield name


def test_only_intended_connections_are_open(client: PlatformClient, engine: str) -> None:
    installed = client.installed
    lab, targets = installed.lab, _targets(installed, engine)
    assert all(_reached(lab, "default", targets).values()), "without policies everybody reaches everything"
    with _guarded(installed):
        assert not any(_reached(lab, "default", targets).values())
        from_engines = {what: place for what, place in targets.items() if what != "an engine"}
        assert not any(_reached(lab, MODELS_NAMESPACE, from_engines).values())
        answer = _works(client, engine)
    # Only now: the database is shut for this test, too.
    assert client.row(answer.request_id)["completion_tokens"] == answer.usage["completion_tokens"]


def _works(client: PlatformClient, engine: str) -> Answer:
    """A model that must be woken, a function that must start, an event that must arrive."""
    installed = client.installed
    client.sleep(engine)
    answer = client.stream(engine, wait=120, max_tokens=4)
    assert answer.error is None, answer.error
    folder = min((StandaloneSettings.load(environment()).cache / "models").iterdir()).name
    name = f"guarded-{uuid.uuid4().hex[:6]}"
    with contextlib.ExitStack() as stack:
        stack.callback(installed.call, "DELETE", f"/models/{name}")
        installed.register(name, folder)
    assert installed.call("GET", "/api_usages")[0] == 200
    return answer


@contextlib.contextmanager
def _guarded(installed: Installed) -> Iterator[None]:
    lab = installed.lab
    plain, guarded = write(lab.folder / "overlay"), _with_policies(lab.folder)
    try:
        kubectl(lab, "apply", "--server-side", "--force-conflicts", "-k", guarded, seconds=300)
        with enforced(lab):
            yield
    finally:
        for space in (NAMESPACE, MODELS_NAMESPACE):
            kubectl(lab, "delete", "networkpolicies", "--all", "-n", space)
        kubectl(lab, "apply", "--server-side", "--force-conflicts", "-k", plain, seconds=300)


def _with_policies(folder: Path) -> Path:
    """The test overlay behind its policies, whose local gateway is this cluster's."""
    return over(folder, "overlay-guarded", "network-policy")


def _targets(installed: Installed, engine: str) -> dict[str, str]:
    """What an attacker might try, by address and port."""
    functions = Functions(installed)
    assert functions.ask("health", Call()).status == 200
    function = str(functions.pod("health")["status"]["podIP"])
    (pod,) = installed.engine_pods(engine)
    return {
        "a function": f"{function}:8080",
        "a function's sidecar": f"{function}:8012",
        "an engine": f"{pod['status']['podIP']}:8080",
        "PgBouncer": f"{_address(installed.lab, 'pgbouncer')}:6432",
        "PostgreSQL": f"{_address(installed.lab, 'postgres')}:5432",
    }


def _address(lab: Lab, name: str) -> str:
    (pod,) = get(lab, "pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/name={name}")["items"]
    return str(pod["status"]["podIP"])


def _reached(lab: Lab, namespace: str, places: dict[str, str]) -> dict[str, bool]:
    """Which of the places a pod of that namespace can connect to."""
    name = f"outsider-{uuid.uuid4().hex[:6]}"
    security: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "name": "probe",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", _PROBE, *places.values()],
        "securityContext": security,
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
    }
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
    metadata = {"name": name, "namespace": namespace}
    apply(lab, [{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}])
    try:
        until(f"{name} is done", lambda: _running(lab, namespace, name), seconds=90)
        reported: dict[str, bool] = json.loads(kubectl(lab, "logs", name, "-n", namespace))
    finally:
        kubectl(lab, "delete", "pod", name, "-n", namespace, "--wait=false")
    print(
        f"\nfrom {namespace}: "
        + ", ".join(f"{what} {'open' if reported[place] else 'shut'}" for what, place in places.items())
    )
    return reported


def _running(lab: Lab, namespace: str, name: str) -> str | None:
    phase = get(lab, "pod", name, "-n", namespace)["status"]["phase"]
    assert phase != "Failed", kubectl(lab, "logs", name, "-n", namespace)
    return None if phase == "Succeeded" else str(phase)
