"""The objects of one model do not affect others: colliding names, and fields written by third parties."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.platform.kube.resources import INFERENCE_SERVICES, PODS
from llmariner.platform.serving import EngineModel, Phase
from llmariner.platform.serving.kserve.objects import object_name

from .conftest import free_port
from .kserve_cluster import NAMESPACE, ServingOnCluster, serving_on_cluster

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

# Found by search: anyone who chooses an id finds one for a given name in minutes.
FIRST, SECOND = (f"org/a-model-with-quite-a-long-name-{each}" for each in (15101, 62941))
MINE = EngineModel(FIRST, "hf://org/mine", "generate", 0, typical_wake_seconds=1.0, project="proj_a", created=7)
THEIRS = replace(MINE, id=SECOND, folder="hf://org/theirs", project="proj_b", created=8)


@pytest.fixture
def cluster(upstream_schemas: tuple[Path, Schemas], tmp_path: Path) -> Iterator[ServingOnCluster]:
    crds, schemas = upstream_schemas
    with serving_on_cluster(tmp_path, schemas, crds, free_port(), MINE, THEIRS) as made:
        yield made


def services(cluster: ServingOnCluster) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in cluster.controllers.listed(INFERENCE_SERVICES)}


def test_a_model_with_a_colliding_object_name_does_not_change_the_other(cluster: ServingOnCluster) -> None:
    assert object_name(MINE, NAMESPACE) == object_name(THEIRS, NAMESPACE)
    cluster.driver.ready(MINE.id)
    before = services(cluster)[object_name(MINE, NAMESPACE)]["metadata"]["uid"]
    for _ in range(2):
        cluster.driver.wake(THEIRS.id)
        status = cluster.driver.status(THEIRS.id)
        assert status.phase is Phase.FAILED
        assert "another name" in status.message
        assert status.endpoint is None
    cluster.driver.sleep(THEIRS.id)
    cluster.driver.run(cluster.serving.remove(THEIRS.id, THEIRS.folder))
    cluster.driver.run(cluster.serving.reconcile())
    assert cluster.driver.status(MINE.id).phase is Phase.READY
    assert services(cluster)[object_name(MINE, NAMESPACE)]["metadata"]["uid"] == before
    assert cluster.driver.run(cluster.serving.statuses()).keys() == {MINE.id}


@pytest.mark.parametrize("stamp", ["yesterday", "0001-01-01T00:00:00+23:59"])
def test_an_invalid_time_affects_no_other_models_status(cluster: ServingOnCluster, stamp: str) -> None:
    """KServe copies an InferenceService's annotations to its pods: users of kubectl choose them."""
    cluster.controllers.fixed_pod_status = {"phase": "Pending"}
    cluster.driver.wake(MINE.id)
    cluster.driver.wait_until(lambda _: cluster.controllers.listed(PODS), MINE.id)
    (pod,) = cluster.controllers.listed(PODS)
    annotated = {"metadata": {"annotations": {"llmariner.ai/reserved-at": stamp}}}
    cluster.caller.patch(PODS, NAMESPACE, pod["metadata"]["name"], annotated)
    cluster.driver.run_loop_for(0.6)
    assert cluster.driver.run(cluster.serving.statuses()).keys() == {MINE.id}
    assert cluster.driver.status(MINE.id).phase is Phase.STARTING
    cluster.driver.run(cluster.serving.reconcile())
