"""A model that no operator approved is started by no adapter, and a running one is put to sleep."""

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
from .kserve_cluster import ServingOnCluster, serving_on_cluster
from .scripted_engines import model, scripted_settings

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

SMALL = EngineModel("small", "hf://org/small", "generate", 0, typical_wake_seconds=1.0, keep_awake=True)
WHY = "It is not started: ask somebody."


@pytest.fixture
def cluster(upstream_schemas: tuple[Path, Schemas], tmp_path: Path) -> Iterator[ServingOnCluster]:
    crds, schemas = upstream_schemas
    with serving_on_cluster(tmp_path, schemas, crds, free_port(), SMALL, idle_seconds=30.0) as made:
        yield made


def test_a_blocked_model_has_no_objects_on_a_cluster(cluster: ServingOnCluster) -> None:
    cluster.models.registered[SMALL.id] = replace(SMALL, blocked=WHY)
    cluster.driver.wake(SMALL.id)
    assert cluster.controllers.listed(INFERENCE_SERVICES) == []
    status = cluster.driver.status(SMALL.id)
    assert (status.phase, status.message) == (Phase.FAILED, WHY)


def test_a_sweep_puts_a_blocked_always_on_model_to_sleep(cluster: ServingOnCluster) -> None:
    cluster.driver.ready(SMALL.id)
    cluster.models.registered[SMALL.id] = replace(SMALL, blocked=WHY)
    cluster.driver.run(cluster.serving.reconcile())
    (service,) = cluster.controllers.listed(INFERENCE_SERVICES)
    assert cluster.deployment(service["metadata"]["name"])["spec"]["replicas"] == 0


def test_a_blocked_model_and_its_adapters_start_no_process(tmp_path: Path) -> None:
    base = replace(model(tmp_path, "small", "--ready-after", "0.1"), blocked=WHY)
    adapter = replace(base, id="ft:small:x", base="small", blocked="")
    with processes(scripted_settings(tmp_path), base, adapter) as (driver, _):
        for name in ("small", "ft:small:x"):
            driver.wake(name)
            assert driver.status(name).phase is Phase.FAILED
            assert WHY in driver.status(name).message
