"""A deletion that is told twice, late or falsely ends no engine but that of the model which is gone."""

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


def test_a_model_that_is_registered_keeps_its_inference_service(cluster: ServingOnCluster) -> None:
    cluster.driver.ready(SMALL.id)
    before = uids(cluster)
    cluster.driver.run(cluster.serving.remove(SMALL.id, SMALL.folder))
    assert uids(cluster) == before
    del cluster.models.registered[SMALL.id]
    for _ in range(2):
        cluster.driver.run(cluster.serving.remove(SMALL.id, SMALL.folder))
        assert uids(cluster) == []


def test_a_model_of_the_same_id_is_not_served_by_the_engine_of_the_one_before(cluster: ServingOnCluster) -> None:
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
    cluster.driver.run(cluster.serving.remove(SMALL.id, SMALL.folder))  # told again
    assert uids(cluster) == [service["metadata"]["uid"]]


def test_an_engine_whose_deletion_nobody_told_of_ends_with_the_next_sweep(cluster: ServingOnCluster) -> None:
    cluster.driver.ready(SMALL.id)
    cluster.driver.run(cluster.serving.reconcile())
    assert len(uids(cluster)) == 1
    del cluster.models.registered[SMALL.id]
    cluster.driver.run(cluster.serving.reconcile())
    assert uids(cluster) == []


def test_a_model_that_a_sweep_misses_in_its_list_is_asked_for_before_its_engine_ends(
    cluster: ServingOnCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.driver.ready(SMALL.id)

    async def of_a_moment_ago(*_: object, **__: object) -> dict[object, object]:
        return {}

    monkeypatch.setattr(cluster.models, "engines", of_a_moment_ago)
    cluster.driver.run(cluster.serving.reconcile())
    assert len(uids(cluster)) == 1


def test_a_deletion_that_comes_late_leaves_the_object_that_was_made_since(cluster: ServingOnCluster) -> None:
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


def test_an_object_that_somebody_else_made_outlives_the_registry(cluster: ServingOnCluster) -> None:
    kind = {"apiVersion": INFERENCE_SERVICES.api_version, "kind": INFERENCE_SERVICES.kind}
    model = {"modelFormat": {"name": "vLLM"}, "storageUri": "hf://a/b"}
    body = {**kind, "metadata": {"name": "theirs", "namespace": NAMESPACE}, "spec": {"predictor": {"model": model}}}
    cluster.caller.make(INFERENCE_SERVICES, body)
    cluster.driver.run(cluster.serving.reconcile())
    assert len(uids(cluster)) == 1


def test_a_process_ends_for_a_model_that_is_gone_or_another(tmp_path: Path) -> None:
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


def test_what_failed_under_an_id_is_no_fault_of_the_model_that_has_it_next(tmp_path: Path) -> None:
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


def test_a_model_is_not_served_by_the_engine_of_the_one_that_had_its_id(tmp_path: Path) -> None:
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
