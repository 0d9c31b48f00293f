"""What Kueue's Workloads hold becomes allocations, by Kueue's own times, whatever events are late, lost or false."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.manifests.rbac import roles
from llmariner.platform.capacity.kueue_workloads import KueueWorkloads
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.resources import LOCAL_QUEUES, NAMESPACES, PODS, WORKLOADS, Resource
from llmariner.platform.serving.kserve.objects import MODEL_ANNOTATION
from llmariner.platform.serving.kserve.queues import PROJECT_ANNOTATION
from llmariner.settings import ClusterSettings, DatabaseSettings
from llmariner.showback.allocations import Allocations
from llmariner.showback.cluster_allocations import ClusterAllocations
from llmariner.showback.tables import NOT_ENDED, allocations
from llmariner.tenancy.organizations.bootstrap import ensure_first_owner
from llmariner.tenancy.principal import KeyOwner

from .caller import Caller
from .server import ApiServer

MODELS, JOBS = "llmariner-models", "llmariner-jobs"
START = 1_893_456_000  # 2030-01-01T00:00:00Z
_ASKED = re.compile(r"/apis?/.*?namespaces/[^/]+/([a-z]+)(?:/([^/]+))?")
Body = dict[str, Any]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(DatabaseSettings(f"sqlite:///{tmp_path / 'platform.db'}"))
    upgrade(database)
    yield database
    database.close()


@pytest.fixture
def owner(database: Database) -> KeyOwner:
    return ensure_first_owner(database)


@pytest.fixture
def api(server: ApiServer, tmp_path: Path, owner: KeyOwner) -> Caller:
    api = Caller(server.kubeconfig(tmp_path / "kubeconfig"))
    for namespace in (MODELS, JOBS):
        api.make(NAMESPACES, body(NAMESPACES, namespace))
        metadata = {"annotations": {PROJECT_ANNOTATION: owner.project_id}}
        api.make(LOCAL_QUEUES, body(LOCAL_QUEUES, "of-project", namespace, metadata, spec={"clusterQueue": "pool"}))
    return api


@pytest.fixture
def recorded(api: Caller, server: ApiServer, tmp_path: Path, database: Database) -> ClusterAllocations:
    settings = ClusterSettings(tmp_path / "kubeconfig")
    return ClusterAllocations(Allocations(database), KueueWorkloads(Cluster(settings), (MODELS, JOBS)))


def body(resource: Resource, name: str, namespace: str = "", metadata: Body | None = None, **fields: Any) -> Body:
    place = {"namespace": namespace} if namespace else {}
    kind = {"apiVersion": resource.api_version, "kind": resource.kind}
    return {**kind, "metadata": {"name": name, **place, **(metadata or {})}, **fields}


def condition(kind: str, status: str, second: int) -> Body:
    at = f"2030-01-01T00:00:{second:02d}Z"
    return {"type": kind, "status": status, "reason": "Test", "message": "", "lastTransitionTime": at}


def workload(name: str, owner_kind: str, owner_name: str, namespace: str, *conditions: Body) -> Body:
    owner = {"apiVersion": "v1", "kind": owner_kind, "name": owner_name, "uid": "u1"}
    usage = {"cpu": "1500m", "memory": "2Gi", "nvidia.com/gpu": "2"}
    assignment = {
        "name": "main",
        "count": 1,
        "flavors": {"nvidia.com/gpu": "a100", "cpu": "any"},
        "resourceUsage": usage,
    }
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "x"}]}}
    return body(
        WORKLOADS,
        name,
        namespace,
        {"ownerReferences": [owner]},
        spec={"queueName": "of-project", "podSets": [{"name": "main", "count": 1, "template": template}]},
        status={
            "conditions": list(conditions),
            "admission": {"clusterQueue": "pool", "podSetAssignments": [assignment]},
        },
    )


def stored(database: Database) -> list[tuple[Any, ...]]:
    """Kind, workload, seconds of start and end after START, of all allocations by start."""
    with database.read() as session:
        rows = session.rows(select(allocations).order_by(allocations.c.started_ms, allocations.c.id))
    return [
        (
            row.kind,
            row.workload_id,
            row.started_ms / 1000 - START,
            None if row.ended_ms == NOT_ENDED else row.ended_ms / 1000 - START,
        )
        for row in rows
    ]


def put(api: Caller, made: Body) -> None:
    namespace, name = made["metadata"]["namespace"], made["metadata"]["name"]
    if api.request("GET", WORKLOADS.path(namespace, name))[0] == 404:
        api.make(WORKLOADS, made)
    api.set_status(WORKLOADS, namespace, name, made["status"])


def test_a_job_is_recorded_from_its_admission_to_its_end(
    api: Caller, recorded: ClusterAllocations, database: Database, owner: KeyOwner
) -> None:
    waiting = workload("w", "Job", "bj-1", JOBS)
    del waiting["status"]["admission"]
    put(api, waiting)
    recorded.reconcile(JOBS, "w")
    assert stored(database) == []
    reserved = condition("QuotaReserved", "True", 5)
    put(api, workload("w", "Job", "bj-1", JOBS, reserved))
    for _ in range(2):
        recorded.reconcile(JOBS, "w")
    with database.read() as session:
        (row,) = session.rows(select(allocations))
    assert (row.gpus, row.device, row.millicores, row.memory_mib, row.pods) == (2, "a100", 1500, 2048, "bj-1-")
    assert (row.organization_id, row.project_id) == (owner.organization_id, owner.project_id)
    put(api, workload("w", "Job", "bj-1", JOBS, reserved, condition("Finished", "True", 9)))
    recorded.reconcile(JOBS, "w")
    assert stored(database) == [("batch_job", "bj-1", 5, 9)]


def test_an_evicted_and_admitted_job_has_two_allocations_even_where_the_eviction_was_not_seen(
    api: Caller, recorded: ClusterAllocations, database: Database
) -> None:
    put(api, workload("w", "Job", "ftjob-1-1", JOBS, condition("QuotaReserved", "True", 5)))
    recorded.reconcile(JOBS, "w")
    put(api, workload("w", "Job", "ftjob-1-1", JOBS, condition("QuotaReserved", "False", 7)))
    recorded.reconcile(JOBS, "w")
    put(api, workload("w", "Job", "ftjob-1-1", JOBS, condition("QuotaReserved", "True", 20)))
    recorded.reconcile(JOBS, "w")
    put(api, workload("w", "Job", "ftjob-1-1", JOBS, condition("QuotaReserved", "True", 30)))
    recorded.reconcile_all()
    kind = "fine_tuning_job"
    assert stored(database) == [(kind, "ftjob-1", 5, 7), (kind, "ftjob-1", 20, 30), (kind, "ftjob-1", 30, None)]


def test_a_model_is_recorded_by_its_pod_and_ends_with_its_workload(
    api: Caller, recorded: ClusterAllocations, database: Database
) -> None:
    containers = {"containers": [{"name": "main", "image": "x"}]}
    annotations = {"annotations": {MODEL_ANNOTATION: "org/model"}}
    api.make(PODS, body(PODS, "m-predictor-1", MODELS, annotations, spec=containers))
    put(api, workload("w", "Pod", "m-predictor-1", MODELS, condition("QuotaReserved", "True", 5)))
    put(api, workload("other", "Pod", "unknown", MODELS, condition("QuotaReserved", "True", 6)))
    recorded.reconcile_all()
    api.done("DELETE", WORKLOADS.path(MODELS, "w"))
    recorded.reconcile("elsewhere", "w")
    recorded.reconcile("elsewhere", "other")
    assert [each[1:] for each in stored(database)] == [("org/model", 5, None), ("(standby)", 6, None)]
    recorded.reconcile(MODELS, "w")
    ended, other = stored(database)
    assert ended[3] is not None
    assert other[3] is None


def test_what_ended_unseen_ends_when_it_was_last_seen(
    api: Caller, recorded: ClusterAllocations, database: Database
) -> None:
    put(api, workload("w", "Job", "bj-1", JOBS, condition("QuotaReserved", "True", 5)))
    recorded.reconcile_all()
    with database.read() as session:
        seen = session.value(select(allocations.c.seen_ms))
    api.done("DELETE", WORKLOADS.path(JOBS, "w"))
    recorded.reconcile_all()
    with database.read() as session:
        assert session.value(select(allocations.c.ended_ms)) == seen


def test_what_still_holds_its_quota_lasts_although_a_list_lacked_it(
    api: Caller, recorded: ClusterAllocations, database: Database
) -> None:
    put(api, workload("w", "Job", "bj-1", JOBS, condition("QuotaReserved", "True", 5)))
    recorded.reconcile_all()
    Allocations(database).end_when_last_seen("")  # as after an empty list, such as of an API server that starts
    recorded.reconcile_all()
    assert stored(database) == [("batch_job", "bj-1", 5, None)]
    put(api, workload("w", "Job", "bj-1", JOBS, condition("QuotaReserved", "False", 30)))
    recorded.reconcile_all()
    assert stored(database) == [("batch_job", "bj-1", 5, 30)]


def test_the_role_has_the_verbs_that_are_used(api: Caller, recorded: ClusterAllocations, server: ApiServer) -> None:
    put(api, workload("w", "Pod", "p", MODELS, condition("QuotaReserved", "True", 5)))
    recorded.reconcile(MODELS, "w")
    recorded.reconcile_all()
    used: set[tuple[str, str]] = set()
    for agent, method, path in server.answered:
        asked = _ASKED.fullmatch(path)
        if agent == "llmariner" and asked is not None:
            assert method == "GET"
            used.add((asked[1], "get" if asked[2] else "list"))
    rules = [rule for role in roles() if role["metadata"]["name"] == "allocations" for rule in role["rules"]]
    assert used == {(kind, verb) for rule in rules for kind in rule["resources"] for verb in rule["verbs"]}
