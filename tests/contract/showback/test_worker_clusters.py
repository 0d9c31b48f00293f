"""What engines hold on worker clusters: whose it is by the platform's rows, whatever a cluster says."""

from __future__ import annotations

import contextlib
import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from llmariner.cluster_settings import WorkerClusterSettings
from llmariner.errors import Conflict, Unavailable
from llmariner.models.model import NewModel, SourceRepository
from llmariner.models.registry import ModelRegistry
from llmariner.models.tables import model_placements
from llmariner.platform.database import Database
from llmariner.platform.kube.errors import Forbidden
from llmariner.platform.kube.resources import LOCAL_QUEUES, PODS, WORKLOADS
from llmariner.platform.serving.kserve.objects import INFERENCE_SERVICE_LABEL, MODEL_ANNOTATION, service_name
from llmariner.settings import KServeSettings
from llmariner.showback.installation import check_worker_clusters
from llmariner.showback.tables import NOT_ENDED, allocations
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.tenancy.tables import projects

from ..worker_clusters import LOST, ClusterDesk

HELD = "2026-11-30T10:00:00Z"
Body = dict[str, Any]


class Connection:
    """The API server of a worker cluster, with what a test puts there."""

    def __init__(self) -> None:
        self.workloads: list[Any] = []
        self.pods: dict[str, Any] = {}
        self.forbidden = False

    def list(self, resource: Any, namespace: str) -> Any:
        if self.forbidden:
            raise Forbidden("It is forbidden.")
        items: list[Any] = [{"metadata": 5}] if resource == LOCAL_QUEUES else []
        if resource == WORKLOADS:
            items = [each for each in self.workloads if _namespace(each) == namespace]
        return SimpleNamespace(items=items)

    def get(self, resource: Any, namespace: str, name: str) -> Any:
        assert (resource, namespace) == (PODS, "llmariner-models")
        if name == "refused":
            raise Forbidden("It is refused.")
        if name == "away":
            raise Unavailable("It is away.")
        return self.pods.get(name)

    def engine(self, name: str, service: str, model: str = "", **usage: Any) -> Body:
        """A pod of an engine, which Kueue has admitted."""
        metadata = {"labels": {INFERENCE_SERVICE_LABEL: service}, "annotations": {MODEL_ANNOTATION: model}}
        self.pods[name] = {"metadata": metadata}
        workload = {
            "metadata": {
                "name": f"pod-{name}",
                "namespace": "llmariner-models",
                "uid": f"uid-{name}",
                "ownerReferences": [{"kind": "Pod", "name": name}],
            },
            "spec": {"queueName": "nvidia"},
            "status": {
                "conditions": [{"type": "QuotaReserved", "status": "True", "lastTransitionTime": HELD}],
                "admission": {
                    "podSetAssignments": [
                        {"flavors": {"nvidia.com/gpu": "a100"}, "resourceUsage": {"nvidia.com/gpu": "1", **usage}}
                    ]
                },
            },
        }
        self.workloads.append(workload)
        return workload


def _namespace(workload: Any) -> str:
    try:
        return str(workload["metadata"]["namespace"])
    except (KeyError, TypeError):
        return "llmariner-models"


class Desk:
    """Models on one worker cluster."""

    def __init__(self, database: Database, owner: KeyOwner) -> None:
        self.database, self.clusters, self.api = database, ClusterDesk(database, owner), Connection()
        self.west, self.registry = self.clusters.add("west"), ModelRegistry(database)
        self.asked: list[str] = []

    def model(self, model_id: str, project_id: str | None, adapters_of: str = "", created: int = 1) -> str:
        """The name of the InferenceService of a model that is placed on the cluster."""
        with contextlib.suppress(Conflict):
            self.registry.create(NewModel(model_id, SourceRepository.HUGGING_FACE, "org/m", project_id=project_id))
        with self.database.write() as session:
            placed = {"model_id": model_id, "adapters_of": adapters_of, "cluster_id": self.west, "created": created}
            session.add(model_placements, **placed, woken_at=time.time(), gpus=1)
        return service_name(model_id, adapters_of or None, KServeSettings.namespace)

    def check(self, **limits: float) -> dict[str, Any]:
        """The rows of allocations by their pods."""

        def connection_to(cluster_id: str) -> Connection:
            self.asked.append(cluster_id)
            return self.api

        remote = SimpleNamespace(connection_to=connection_to)
        statuses, settings = self.clusters.workers._statuses, WorkerClusterSettings()
        installation: Any = SimpleNamespace(statuses=statuses, remote=remote, settings=settings)
        check_worker_clusters(self.database, installation, **limits)
        with self.database.read() as session:
            return {row.pods: row for row in session.rows(select(allocations))}


@pytest.fixture
def here(database: Database, owner: KeyOwner) -> Desk:
    return Desk(database, owner)


def test_a_models_project_is_shown_what_its_engine_holds(here: Desk, owner: KeyOwner) -> None:
    with here.database.write() as session:
        row = {"id": "proj_b", "organization_id": owner.organization_id, "title": "b", "is_default": False}
        session.add(projects, **row, created_at=1)
    here.api.engine("own", here.model("m", owner.project_id), "somebody-elses", cpu="2")
    here.api.engine("shared", here.model("all", None))
    here.api.engine("adapters", here.model("all", None, adapters_of="proj_b"), "all")
    here.api.engine("strange", "m-of-another-cluster", "m")
    late = here.api.engine("early", here.model("young", owner.project_id, created=2_000_000_000))
    late["status"]["conditions"][0]["lastTransitionTime"] = "1970-01-01T00:00:00Z"
    rows = here.check()
    assert {name: (row.kind, row.workload_id, row.project_id) for name, row in rows.items()} == {
        "own": ("model", "m", owner.project_id),
        "shared": ("model", "all", ""),
        "adapters": ("model", "all", "proj_b"),
        "early": ("model", "young", owner.project_id),
    }
    own = rows["own"]
    assert (own.cluster_id, own.device, own.gpus, own.millicores) == (here.west, "a100", 1, 2000)
    assert rows["early"].started_ms > own.started_ms, "a model has no engine before it is there"
    assert here.check().keys() == rows.keys()


def test_what_an_engine_holds_ends_with_its_placement_or_its_workload(here: Desk, owner: KeyOwner) -> None:
    for name in ("a", "b"):
        here.api.engine(name, here.model(name, owner.project_id))
    assert {row.ended_ms for row in here.check().values()} == {NOT_ENDED}
    here.api.workloads[0]["status"]["conditions"].append(
        {"type": "Finished", "status": "True", "lastTransitionTime": "2026-11-30T10:00:07Z"}
    )
    with here.database.write() as session:
        session.run(delete(model_placements).where(model_placements.c.model_id == "b"))
    rows = here.check()
    assert rows["a"].ended_ms - rows["a"].started_ms == 7000
    assert rows["b"].ended_ms < NOT_ENDED, "a cluster that keeps it is not believed"


def test_clusters_that_take_their_time_hold_up_neither_the_sweep_nor_one_another_for_good(
    here: Desk, owner: KeyOwner
) -> None:
    here.api.engine("own", here.model("m", owner.project_id))
    assert here.check(cluster_seconds=-1) == {}
    east = here.clusters.add("east")
    with here.database.write() as session:
        placed = {"model_id": "m", "adapters_of": "", "cluster_id": east, "created": 1}
        session.add(model_placements, **placed, woken_at=time.time(), gpus=1)
    here.asked.clear()
    for number in range(40):
        here.check(seconds=-1)
        assert len(here.asked) == number + 1
    assert set(here.asked) == {here.west, east}


def test_an_end_that_a_cluster_says_is_not_later_than_now(here: Desk, owner: KeyOwner) -> None:
    workload = here.api.engine("own", here.model("m", owner.project_id))
    here.check()
    end = {"type": "Finished", "status": "True", "lastTransitionTime": "9999-11-30T10:00:07Z"}
    workload["status"]["conditions"].append(end)
    (row,) = here.check().values()
    assert row.ended_ms <= time.time() * 1000


@pytest.mark.parametrize("how", ["lost", "refused", "cut short"])
def test_what_nobody_sees_any_more_is_not_charged_beside_its_successor(here: Desk, owner: KeyOwner, how: str) -> None:
    service = here.model("m", owner.project_id)
    here.api.engine("own", service)
    (row,) = here.check().values()
    long_ago = row.seen_ms - round(LOST * 1000) - 5000
    if how == "lost":
        here.clusters.lose(here.west)
    elif how == "refused":
        here.api.forbidden = True
    else:
        here.api.engine("away", service)
    assert here.check()["own"].ended_ms == NOT_ENDED, "it may be back soon"
    with here.database.write() as session:
        session.run(update(allocations).values(seen_ms=long_ago))
    assert here.check()["own"].ended_ms == (NOT_ENDED if how == "cut short" else long_ago)
    here.api.forbidden = False
    here.clusters.come_back(here.west)
    row = here.check()["own"]
    assert (row.ended_ms, row.settled) == (NOT_ENDED, False), "it was there all the time"


def test_a_workload_that_can_not_be_read_is_counted_and_holds_up_no_other(
    here: Desk, owner: KeyOwner, caplog: pytest.LogCaptureFixture
) -> None:
    service = here.model("m", owner.project_id)
    faults: list[tuple[str, Any]] = [("uid", 7), ("uid", "nul\0"), ("name", "x" * 5000)]
    for number, (name, value) in enumerate(faults):
        here.api.engine(f"bad-{number}", service)["metadata"][name] = value
    here.api.engine("refused", service)
    here.api.engine("amount", service)["status"]["admission"]["podSetAssignments"] = 7
    here.api.engine("time", service)["status"]["conditions"][0]["lastTransitionTime"] = "soon"
    here.api.workloads += [5, None, {"metadata": {"name": ["x"]}}]
    here.api.engine("good", service)
    with caplog.at_level(logging.WARNING):
        assert here.check().keys() == {"good"}
    (said,) = [each.getMessage() for each in caplog.records if "can't be read" in each.getMessage()]
    assert said.startswith(f"9 Workloads of {here.west} ")
    assert "5000" not in said
    assert len(said) < 500
