"""A project's model waits for quota in the project's LocalQueue, which is created and deleted with its models."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from llmariner.manifests.installation import MODELS_NAMESPACE
from llmariner.platform.serving.kserve.queues import PROJECT_ANNOTATION, queue_name
from llmariner.settings import StandaloneSettings, environment

from ...lab.kubectl import get
from ...lab.wait import until
from ...platform.installed import Installed
from ...platform.overlay import MODELS
from ..platform_client import PlatformClient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture
def client(installed: Installed) -> Iterator[PlatformClient]:
    client = PlatformClient(installed)
    yield client
    client.close()


def test_a_model_is_admitted_by_its_projects_queue_which_is_deleted_with_the_last_model(client: PlatformClient) -> None:
    model = f"of-a-project-{uuid.uuid4().hex[:6]}"
    # A folder that is there: a volume's path that is not would be made.
    folder = min((StandaloneSettings.load(environment()).cache / "models").iterdir()).name
    body = {
        "id": model,
        "is_project_scoped": True,
        "source_repository": "OBJECT_STORE",
        "model_file_location": f"pvc://{MODELS}/{folder}",
        "config": {"runtime_config": {"resources": {"gpu": 0}}},
    }
    status, answer = client.installed.call("POST", "/models", body)
    assert status == 200, answer
    try:
        until("loaded", lambda: None if client.context.registry.get(model).loaded else "not yet", seconds=180)
        project = client.context.registry.get(model).project_id
        assert project is not None
        queue = queue_name("cpu", project)
        client.whole(model, wait=1)
        until("a workload admitted by the project's queue", lambda: _not_admitted(client, queue), seconds=90)
        made = get(client.installed.lab, "localqueue", queue, "-n", MODELS_NAMESPACE)
        assert made["metadata"]["annotations"][PROJECT_ANNOTATION] == project
        assert made["spec"]["clusterQueue"] == "llmariner-cpu"
        assert _is(made, "Active")
    finally:
        client.installed.call("POST", f"/models/{model}:deactivate")
        client.installed.call("DELETE", f"/models/{model}")
    until("the queue goes", lambda: "there" if queue in _queues(client) else None, seconds=90)


def _queues(client: PlatformClient) -> set[str]:
    queues = get(client.installed.lab, "localqueues", "-n", MODELS_NAMESPACE)["items"]
    return {str(each["metadata"]["name"]) for each in queues}


def _not_admitted(client: PlatformClient, queue: str) -> str | None:
    workloads = get(client.installed.lab, "workloads", "-n", MODELS_NAMESPACE)["items"]
    ours = [each for each in workloads if each["spec"].get("queueName") == queue]
    return None if any(_is(each, "Admitted") for each in ours) else f"{len(ours)} workloads of the queue, none admitted"


def _is(body: dict[str, Any], kind: str) -> bool:
    said = body.get("status", {}).get("conditions", ())
    return any((each["type"], each["status"]) == (kind, "True") for each in said)
