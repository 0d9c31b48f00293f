"""The pool is full: a waiting caller learns its place and the reason, and is served when a model sleeps."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import pytest

from llmariner.manifests.installation import MODELS_NAMESPACE

from ...lab.kubectl import get
from ...lab.wait import until
from ...platform.installed import Installed
from ..engines import scripted, service
from ..platform_client import Answer, PlatformClient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

_QUEUE = {"kueue.x-k8s.io/queue-name": "cpu"}
_MIB = {"Gi": 1024, "Mi": 1}


@pytest.fixture
def client(installed: Installed) -> Iterator[PlatformClient]:
    client = PlatformClient(installed)
    yield client
    client.close()


def pool(client: PlatformClient) -> int:
    """The memory of the pool in MiB."""
    (group,) = get(client.installed.lab, "clusterqueue", "llmariner-cpu")["spec"]["resourceGroups"]
    quota = {each["name"]: each["nominalQuota"] for each in group["flavors"][0]["resources"]}["memory"]
    return int(quota[:-2]) * _MIB[quota[-2:]]


def admitted(client: PlatformClient) -> str | None:
    """What holds quota now; None: nothing."""
    workloads = get(client.installed.lab, "workloads", "-n", MODELS_NAMESPACE)["items"]
    names = [each["metadata"]["name"] for each in workloads]
    return ", ".join(names) if names else None


def test_a_third_model_is_queued_with_its_position_and_admitted_when_another_sleeps(client: PlatformClient) -> None:
    lab, mark = client.installed.lab, uuid.uuid4().hex[:6]
    first, second, third = names = [f"{each}-{mark}" for each in ("first", "second", "third")]
    client.ticking("an empty pool", lambda: admitted(client))
    half = f"{pool(client) // 2}Mi"
    # The third is larger than what is left, so that it waits in either order.
    with scripted(lab, *(service(each, labels=_QUEUE, memory=half) for each in names)):
        client.adopted(*names)
        client.sleep(third)
        for name in (first, second):
            assert client.whole(name, wait=120).status == 200
        answers: list[Answer] = []
        waiting = threading.Thread(target=lambda: answers.append(client.stream(third, wait=180)))
        waiting.start()
        until("the third waits for quota", lambda: _gated(client, third))
        until("its place is reported", lambda: _without_place(client.whole(third, wait=1)))
        assert waiting.is_alive()
        assert client.whole(first, wait=0).status == 200, "who is awake is served on"
        client.sleep(first)
        waiting.join(180)
        (answer,) = answers
        print(f"\nfirst token after {answer.first_token:.1f} s; phases {answer.phases}\n" + "\n".join(answer.messages))
        assert answer.error is None, answer.error
        assert "queued" in answer.phases
        assert client.whole(second, wait=0).status == 200


def _without_place(refused: Answer) -> str | None:
    """The message of an error without queue position and cause (Kueue decides after a moment); None if it has both."""
    assert refused.status == 503
    assert refused.error is not None
    assert refused.error["phase"] == "queued", refused.error
    message = str(refused.error["message"])
    place = "waiting for quota, number 1 of 1 in the queue: couldn't assign flavors"
    return None if place in message and "memory" in message else message


def _gated(client: PlatformClient, name: str) -> str | None:
    selector = f"serving.kserve.io/inferenceservice={name}"
    pods = get(client.installed.lab, "pods", "-n", MODELS_NAMESPACE, "-l", selector)["items"]
    return None if any(pod["spec"].get("schedulingGates") for pod in pods) else "no pod with a gate"
