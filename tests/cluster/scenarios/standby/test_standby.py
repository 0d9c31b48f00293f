"""A model that wakes in a standby engine, and its representation in KServe and kubectl."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest

from llmariner.manifests.installation import MODELS_NAMESPACE

from ...lab.kubectl import get, kubectl
from ...lab.wait import until
from ...platform.installed import Installed
from ..platform_client import GENERATED, PARIS, PROMPTED, PlatformClient
from .overlay import DEPLOYMENT, add, remove, warm_pods

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(1500)]

MODEL = "smollm2-135m-instruct"
_PATIENCE = 300


@pytest.fixture(scope="module")
def client(installed: Installed) -> Iterator[PlatformClient]:
    client = PlatformClient(installed)
    installed.register_models()
    # It has a Deployment from then on.
    assert client.whole(MODEL, PARIS, wait=_PATIENCE, max_tokens=1).status == 200
    client.sleep(MODEL)
    try:
        add(installed.lab)
        yield client
    finally:
        remove(installed.lab)
        client.sleep(MODEL)
        client.close()


def warm(client: PlatformClient) -> str:
    """The name of the pod that stands by."""
    client.sleep(MODEL)
    until("an engine stands by", lambda: None if warm_pods(client.installed.lab) else "none", seconds=300, pause=1)
    return str(warm_pods(client.installed.lab)[0]["metadata"]["name"])


def ready(conditions: list[dict[str, Any]], kind: str) -> str:
    return next(str(each["status"]) for each in conditions if each["type"] == kind)


def test_kserves_objects_report_the_standby_pod(client: PlatformClient) -> None:
    lab, stood = client.installed.lab, warm(client)
    answer = client.stream(MODEL, PARIS, wait=_PATIENCE)
    print(f"\nfirst token {answer.first_token:.1f} s, phases {answer.phases}, messages {answer.messages}")
    assert answer.error is None, answer.error
    assert "Paris" in answer.text
    (pod,) = client.installed.engine_pods(MODEL)
    name = client.service(MODEL)
    assert pod["metadata"]["name"] == stood
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"].rpartition("-")[0]) == ("ReplicaSet", f"{name}-predictor")
    until("KServe says ready", lambda: _unready(client, name), seconds=60)
    deployment = get(lab, "deployment", f"{name}-predictor", "-n", MODELS_NAMESPACE)
    assert (deployment["spec"]["replicas"], deployment["status"]["readyReplicas"]) == (1, 1)
    pods = get(lab, "pods", "-n", MODELS_NAMESPACE, "-l", f"serving.kserve.io/inferenceservice={name}")["items"]
    assert [each["metadata"]["name"] for each in pods] == [stood], "the model's own pod has gone"
    events = get(lab, "events", "-n", MODELS_NAMESPACE, "--field-selector=reason=StandbyTaken")["items"]
    assert any(stood in each["message"] and each["involvedObject"]["name"] == name for each in events)
    row = client.row(answer.request_id)
    assert row["completion_tokens"] == answer.usage["completion_tokens"] == client.counted(MODEL, GENERATED)
    assert row["prompt_tokens"] == answer.usage["prompt_tokens"] == client.counted(MODEL, PROMPTED)
    assert client.first_answer(MODEL) == "as_expected"
    print(_admitted(client, pod["metadata"]["uid"]))


def test_a_standby_pod_ends_with_its_model_and_is_replaced(client: PlatformClient) -> None:
    assert client.whole(MODEL, PARIS, wait=_PATIENCE, max_tokens=1).status == 200
    (pod,) = client.installed.engine_pods(MODEL)
    client.sleep(MODEL)
    pods = get(client.installed.lab, "pods", "-n", MODELS_NAMESPACE)["items"]
    assert pod["metadata"]["name"] not in {each["metadata"]["name"] for each in pods}
    assert warm(client) != pod["metadata"]["name"]
    deployment = get(client.installed.lab, "deployment", DEPLOYMENT, "-n", MODELS_NAMESPACE)
    assert deployment["status"]["replicas"] == 1


def test_a_disconnect_is_counted_to_the_token(client: PlatformClient) -> None:
    warm(client)
    assert client.whole(MODEL, PARIS, wait=_PATIENCE, max_tokens=1).status == 200
    before = client.counted(MODEL)
    connection = client.send(MODEL, "Tell a long story.", wait=_PATIENCE, max_tokens=3000, ignore_eos=True, stream=True)
    request = connection.getresponse().headers["x-request-id"]
    until("tokens", lambda: None if client.counted(MODEL) > before + 10 else "none yet")
    connection.close()
    assert client.row(request)["completion_tokens"] == client.counted(MODEL) - before


def test_a_wake_in_a_standby_pod_is_faster(client: PlatformClient) -> None:
    """Figures: request to first token, by a pod that stood by and, with none left, by the model's own."""
    lab = client.installed.lab
    stood = []
    for _ in range(3):
        warm(client)
        stood.append(_first_token(client))
    scale(client, 0)
    try:
        own = []
        for _ in range(3):
            client.sleep(MODEL)
            until("none stands by", lambda: "one" if warm_pods(lab) else None, seconds=180)
            own.append(_first_token(client))
    finally:
        scale(client, 1)
    print(f"\nby standby {[round(each, 1) for each in stood]}, median {statistics.median(stood):.1f} s")
    print(f"by itself {[round(each, 1) for each in own]}, median {statistics.median(own):.1f} s")
    assert statistics.median(stood) < statistics.median(own)


def scale(client: PlatformClient, replicas: int) -> None:
    kubectl(client.installed.lab, "scale", "deployment", DEPLOYMENT, "-n", MODELS_NAMESPACE, f"--replicas={replicas}")


def _first_token(client: PlatformClient) -> float:
    began = time.monotonic()
    answer = client.stream(MODEL, PARIS, wait=_PATIENCE, max_tokens=4)
    assert answer.first_token is not None, (answer.error, time.monotonic() - began)
    return answer.first_token


def _unready(client: PlatformClient, name: str) -> str | None:
    service = get(client.installed.lab, "inferenceservice", name, "-n", MODELS_NAMESPACE)
    said = ready(service["status"]["conditions"], "Ready")
    return None if said == "True" else f"Ready is {said}"


def _admitted(client: PlatformClient, uid: str) -> str:
    """Whether Kueue still counts what the pod holds, and at which priority."""
    for each in get(client.installed.lab, "workloads", "-n", MODELS_NAMESPACE)["items"]:
        if any(owner["uid"] == uid for owner in each["metadata"].get("ownerReferences", ())):
            assert ready(each["status"]["conditions"], "Admitted") == "True"
            assert each["spec"]["priority"] == 1000, "a model's own"
            return f"{each['metadata']['name']}: admitted, priority {each['spec']['priority']}"
    raise AssertionError("Kueue knows nothing of the pod")
