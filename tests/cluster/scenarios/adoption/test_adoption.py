"""An InferenceService created or deleted with kubectl is imported or removed by Kubernetes' event, without polling."""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Iterator

import pytest

from llmariner.manifests.installation import MODELS_NAMESPACE

from ...lab.kubectl import kubectl
from ...lab.wait import until
from ...platform.installed import Installed
from ..engines import scripted, service
from ..platform_client import PlatformClient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture
def client(installed: Installed) -> Iterator[PlatformClient]:
    client = PlatformClient(installed)
    yield client
    client.close()


def test_an_inference_service_is_imported_and_removed_within_seconds(client: PlatformClient) -> None:
    lab = client.installed.lab
    known, forgotten = [], []
    for _ in range(3):
        name = f"imported-{uuid.uuid4().hex[:6]}"
        with scripted(lab, service(name)):
            began = time.monotonic()
            until("known", lambda name=name: None if name in client.listed() else "not listed", seconds=90)  # type: ignore[misc]
            known.append(time.monotonic() - began)
            assert client.whole(name, wait=120).status == 200
            kubectl(lab, "delete", f"inferenceservice/{name}", "-n", MODELS_NAMESPACE, "--wait", seconds=120)
            began = time.monotonic()
            until("forgotten", lambda name=name: "listed" if name in client.listed() else None, seconds=90)  # type: ignore[misc]
            forgotten.append(time.monotonic() - began)
    print(f"\nknown after {[round(each, 1) for each in known]}, median {statistics.median(known):.1f} s")
    print(f"forgotten after {[round(each, 1) for each in forgotten]}, median {statistics.median(forgotten):.1f} s")
