"""An InferenceService created with kubectl is served like any model and never modified."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from llmariner.manifests.installation import MODELS_NAMESPACE

from ...lab.kubectl import get, kubectl
from ...lab.wait import until
from ...platform.installed import Installed
from ..engines import scripted, service, specification
from ..platform_client import PlatformClient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture
def client(installed: Installed) -> Iterator[PlatformClient]:
    client = PlatformClient(installed)
    yield client
    client.close()


def test_an_external_inference_service_is_imported_served_slept_woken_and_removed(client: PlatformClient) -> None:
    lab, name = client.installed.lab, f"theirs-{uuid.uuid4().hex[:6]}"
    with scripted(lab, service(name, "--token-interval=20")):
        client.adopted(name)
        made = specification(lab, name)
        answer = client.stream(name, wait=120, max_tokens=12)
        assert answer.error is None, answer.error
        assert client.row(answer.request_id)["completion_tokens"] == 12 == client.counted(name)
        client.sleep(name)
        deployment = get(lab, "deployment", f"{name}-predictor", "-n", MODELS_NAMESPACE)
        assert deployment["spec"]["replicas"] == 0
        again = client.stream(name, wait=120, max_tokens=12)
        assert again.error is None, again.error
        assert again.phases[0] in ("asleep", "stopping", "starting", "queued")
        print(f"\nwoken in {again.first_token:.1f} s, phases {again.phases}, messages {again.messages}")
        assert specification(lab, name) == made
        kubectl(lab, "delete", f"inferenceservice/{name}", "-n", MODELS_NAMESPACE, "--wait", seconds=120)
        client.ticking("forgotten", lambda: "still listed" if name in client.listed() else None)
    # The list comes from the database; functions of the token path get changes a moment later.
    until("unknown", lambda: None if client.whole(name, wait=0).status == 404 else "still answered", seconds=30)


def test_services_with_kserve_autoscaling_are_stopped_and_started_by_kserves_annotation(client: PlatformClient) -> None:
    lab, name = client.installed.lab, f"kserves-{uuid.uuid4().hex[:6]}"
    alone = {"serving.kserve.io/deploymentMode": "Standard"}
    with scripted(lab, service(name, annotations=alone)):
        client.adopted(name)
        made = specification(lab, name)
        assert client.whole(name, wait=120).status == 200
        client.sleep(name)
        stopped = specification(lab, name)
        assert stopped["spec"] == made["spec"]
        assert stopped["annotations"] == made["annotations"] | {"serving.kserve.io/stop": "true"}
        answer = client.stream(name, wait=120)
        assert answer.error is None, answer.error
        print(f"\nstarted by KServe in {answer.first_token:.1f} s, phases {answer.phases}")
