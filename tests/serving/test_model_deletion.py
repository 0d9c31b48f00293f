"""A repeated, late or false deletion event ends only the engine of a model that is deleted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmariner.platform.kube.resources import INFERENCE_SERVICES
from llmariner.platform.serving import EngineModel, Phase

from .conftest import free_port
from .driver import processes
from .kserve_cluster import NAMESPACE, ServingOnCluster, serving_on_cluster
from .scripted_engines import model, scripted_settings

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

SMALL = EngineModel("small", "hf://org/small", "generate", 0, typical_wake_seconds=1.0, created=7)
AGAIN = replace(SMALL, folder="hf://org/other", created=8)


@pytest.fixture
def cluster(upstream_schemas: tuple[Path, Schemas], tmp_path: Path) -> Iterator[ServingOnCluster]:
    crds, schemas = upstream_schemas
    with serving_on_cluster(tmp_path, schemas, crds, free_port(), SMALL) as made:
        yield made


def uids(cluster: ServingOnCluster) -> list[str]:
    return [each["metadata"]["uid"] for each in cluster.controllers.listed(INFERENCE_SERVICES)]


def test_a_registered_model_keeps_its_inference_service(cluster: ServingOnCluster) -> None:
    cluster.driver.ready(SMALL.id)
    before = uids(cluster)
    cluster.driver.run(cluster.serving.remove(SMALL.id, SMALL.folder))
    assert uids(cluster) == before
    del cluster.models.registered[SMALL.id]
    for _ in range(2):
        cluster.driver.run(cluster.serving.remove(SMALL.id, SMALL.folder))
        assert uids(cluster) == []


def test_a_model_is_not_served_by_an_engine_of_a_deleted_model_with_its_id(cluster: ServingOnCluster) -> None:
    cluster.driver.ready(SMALL.id)
    before = uids(cluster)
    cluster.models.registered[SMALL.id] = AGAIN
    assert cluster.driver.status(SMALL.id).phase is Phase.STOPPING
    cluster.driver.wake(SMALL.id)
    assert uids(cluster) != before
    cluster.driver.wait_until(lambda status: status.phase is Phase.ASLEEP, SMALL.id)
    cluster.driver.wake(SMALL.id)
    (service,) = cluster.controllers.listed(INFERENCE_SERVICES)
    assert service["spec"]["predictor"]["model"]["storageUri"] == AGAIN.folder
    cluster.driver.run(cluster.serving.remove(SMALL.id, SMALL.folder))  # delivered again
    assert uids(cluster) == [service["metadata"]["uid"]]


def test_an_engine_with_a_missed_deletion_is_deleted_by_the_next_sweep(cluster: ServingOnCluster) -> None:
    cluster.driver.ready(SMALL.id)
    cluster.driver.run(cluster.serving.reconcile())
    assert len(uids(cluster)) == 1
    del cluster.models.registered[SMALL.id]
    cluster.driver.run(cluster.serving.reconcile())
    assert uids(cluster) == []


def test_a_model_missing_in_the_sweeps_list_is_looked_up_before_its_deletion(
    cluster: ServingOnCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.driver.ready(SMALL.id)

    async def stale_statuses(*_: object, **__: object) -> dict[object, object]:
        return {}

    monkeypatch.setattr(cluster.models, "engines", stale_statuses)
    cluster.driver.run(cluster.serving.reconcile())
    assert len(uids(cluster)) == 1


def test_a_late_deletion_keeps_a_newer_object(cluster: ServingOnCluster) -> None:
    cluster.driver.wake(SMALL.id)
    (old,) = cluster.controllers.listed(INFERENCE_SERVICES)
    del cluster.models.registered[SMALL.id]
    cluster.driver.run(cluster.serving.remove(SMALL.id, SMALL.folder))
    cluster.models.registered[SMALL.id] = SMALL
    cluster.driver.wake(SMALL.id)
    made = uids(cluster)
    assert made != [old["metadata"]["uid"]]
    cluster.serving._transitions.delete(old)
    assert uids(cluster) == made


def test_an_external_object_survives_the_registry(cluster: ServingOnCluster) -> None:
    kind = {"apiVersion": INFERENCE_SERVICES.api_version, "kind": INFERENCE_SERVICES.kind}
    model = {"modelFormat": {"name": "vLLM"}, "storageUri": "hf://a/b"}
    body = {**kind, "metadata": {"name": "theirs", "namespace": NAMESPACE}, "spec": {"predictor": {"model": model}}}
    cluster.caller.make(INFERENCE_SERVICES, body)
    cluster.driver.run(cluster.serving.reconcile())
    assert len(uids(cluster)) == 1


def test_a_process_of_a_deleted_or_replaced_model_is_terminated(tmp_path: Path) -> None:
    small = replace(model(tmp_path, "small", "--ready-after", "0.1"), created=7)
    with processes(scripted_settings(tmp_path), small) as (driver, serving):
        driver.ready("small")
        driver.run(serving.remove("small", small.folder))
        assert driver.status("small").phase is Phase.READY
        driver.registered["small"] = replace(small, created=8)
        driver.run(serving.remove("small", small.folder))
        assert driver.status("small").phase is Phase.ASLEEP
        driver.ready("small")
        del driver.registered["small"]
        driver.run(serving.remove("small", small.folder))
        assert driver.run(serving.statuses()) == {}


def test_a_failure_is_not_attributed_to_the_next_model_of_the_id(tmp_path: Path) -> None:
    """It may be another project's, which neither learns of the first nor waits for it."""
    first = replace(model(tmp_path, "small", "--fail-load"), created=7, project="proj_a")
    with processes(scripted_settings(tmp_path), first) as (driver, serving):
        for _ in range(2):
            driver.wake("small")
            driver.wait_until(lambda status: status.phase is Phase.FAILED, "small")
        driver.registered["small"] = replace(model(tmp_path, "small"), created=8, project="proj_b")
        status = driver.status("small")
        assert (status.phase, status.message, status.detail) == (Phase.ASLEEP, "", "")
        driver.wake("small")
        driver.run_loop_for(0)
        assert "failed" not in driver.status("small").message
        driver.wait_until(lambda status: status.phase is Phase.READY, "small")
        driver.run(serving.remove("small", first.folder))
        assert driver.status("small").phase is Phase.READY
        assert (serving._failures, serving._crashes) == ({}, {})


def test_a_model_is_not_served_by_a_process_of_a_deleted_model_with_its_id(tmp_path: Path) -> None:
    first = replace(model(tmp_path, "small"), created=7)
    with processes(scripted_settings(tmp_path), first) as (driver, serving):
        driver.ready("small")
        pid = serving._engines["small"].pid
        driver.registered["small"] = replace(first, created=8)
        status = driver.status("small")
        assert (status.phase, status.endpoint) == (Phase.STOPPING, None)
        driver.ready("small")
        assert serving._engines["small"].pid != pid
        assert serving._engines["small"].model.created == 8
