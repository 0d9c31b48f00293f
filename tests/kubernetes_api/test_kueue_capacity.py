"""Quotas on a cluster: a project's ClusterQueue in the pool's cohort, what workloads use, and fields of other managers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmariner.errors import Conflict, InvalidRequest, Unavailable
from llmariner.manifests.rbac import roles
from llmariner.platform.capacity import Kind, OrganizationLimits, QuotaLimit, total
from llmariner.platform.capacity.kueue import QUOTA_MANAGER, KueueCapacity
from llmariner.platform.capacity.kueue_objects import cluster_queue_name
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.resources import CLUSTER_QUEUES, COHORTS, LOCAL_QUEUES, NAMESPACES, WORKLOADS, Resource
from llmariner.platform.serving.kserve.queues import PROJECT_ANNOTATION, ProjectQueues, queue_name
from llmariner.settings import ClusterSettings, KServeSettings

from .caller import Caller
from .server import ApiServer

MODELS, JOBS, POOL = "llmariner-models", "llmariner-jobs", "nvidia"
OWN, QUEUE = cluster_queue_name(POOL, "proj_1"), queue_name(POOL, "proj_1")
ORGANIZATION = cluster_queue_name(POOL, "org_1")
GIB = 2**30
_ASKED = re.compile(r"/apis/kueue\.x-k8s\.io/v1beta2/(?:namespaces/[^/]+/)?([a-z]+)(?:/([^/]+))?")
Body = dict[str, Any]
Limits = Mapping[str, QuotaLimit]


def plan(revision: int = 1, *, own: Limits | None = None, **projects: Limits) -> OrganizationLimits:
    """Quotas of an organization that has the projects proj_1 to proj_3."""
    return OrganizationLimits("org_1", revision, own or {}, projects, frozenset({"proj_1", "proj_2", "proj_3"}))


def body(resource: Resource, name: str, namespace: str = "", **fields: Any) -> Body:
    place = {"namespace": namespace} if namespace else {}
    kind = {"apiVersion": resource.api_version, "kind": resource.kind}
    return {**kind, "metadata": {"name": name, **place}, **fields}


def pool_spec(**fields: Any) -> Body:
    quotas = [{"name": "cpu", "nominalQuota": "16"}, {"name": "memory", "nominalQuota": "64Gi"}]
    quotas.append({"name": "nvidia.com/gpu", "nominalQuota": "8"})
    flavors = [{"name": "a100", "resources": quotas}]
    return {
        "namespaceSelector": {"matchLabels": {"app.kubernetes.io/part-of": "llmariner"}},
        "queueingStrategy": "BestEffortFIFO",
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [{"coveredResources": [each["name"] for each in quotas], "flavors": flavors}],
        **fields,
    }


@pytest.fixture
def api(server: ApiServer, tmp_path: Path) -> Caller:
    api = Caller(server.kubeconfig(tmp_path / "kubeconfig"))
    api.make(CLUSTER_QUEUES, body(CLUSTER_QUEUES, "pool", spec=pool_spec(cohortName="pool")))
    for namespace in (MODELS, JOBS):
        api.make(NAMESPACES, body(NAMESPACES, namespace))
        api.make(LOCAL_QUEUES, body(LOCAL_QUEUES, POOL, namespace, spec={"clusterQueue": "pool"}))
    return api


@pytest.fixture
def cluster(api: Caller, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(ClusterSettings(tmp_path / "kubeconfig"))
    yield cluster
    cluster.close()


@pytest.fixture
def capacity(cluster: Cluster) -> KueueCapacity:
    return KueueCapacity(cluster, (MODELS, JOBS, "llmariner-missing"), POOL)


def quotas(cluster: Cluster, name: str = OWN) -> dict[str, tuple[str, str | None]]:
    """Of a ClusterQueue: resource → nominal quota and borrowing limit."""
    found = cluster.get(CLUSTER_QUEUES, None, name)
    assert found is not None
    ((flavor,),) = (each["flavors"] for each in found["spec"]["resourceGroups"])
    return {each["name"]: (each["nominalQuota"], each.get("borrowingLimit")) for each in flavor["resources"]}


def targets(cluster: Cluster, owner: str = "proj_1") -> list[str | None]:
    """Where the LocalQueues of a project or an organization lead to."""
    name = queue_name(POOL, owner)
    found = (cluster.get(LOCAL_QUEUES, namespace, name) for namespace in (MODELS, JOBS))
    return [each["spec"]["clusterQueue"] if each else None for each in found]


def test_a_quota_is_the_projects_own_cluster_queue_in_the_cohort_of_the_pool(
    cluster: Cluster, capacity: KueueCapacity
) -> None:
    models = ProjectQueues(cluster, KServeSettings(namespace=MODELS, queue=POOL))
    assert models.ensure("proj_1") == QUEUE  # as when a model wakes
    limits = {"gpu": QuotaLimit(4, 2), "cpu": QuotaLimit(2500, None)}
    capacity.check(plan(proj_1=limits), limits)
    assert cluster.get(CLUSTER_QUEUES, None, OWN) is None
    for _ in range(2):
        capacity.apply(plan(proj_1=limits))
    assert quotas(cluster) == {"cpu": ("2500m", None), "memory": ("0", None), "nvidia.com/gpu": ("4", "2")}
    made = cluster.get(CLUSTER_QUEUES, None, OWN)
    assert made is not None
    assert made["metadata"]["annotations"][PROJECT_ANNOTATION] == "proj_1"
    assert made["spec"]["cohortName"] == "pool"
    assert made["spec"]["namespaceSelector"] == pool_spec()["namespaceSelector"]
    # A quota ends nothing: no preemption in the cohort.
    assert made["spec"]["preemption"].get("reclaimWithinCohort", "Never") == "Never"
    assert targets(cluster) == [OWN, OWN]
    assert models.ensure("proj_1") == QUEUE
    assert targets(cluster) == [OWN, OWN]
    capacity.apply(plan(2, proj_1={"gpu": QuotaLimit(1)}))
    assert quotas(cluster) == {"cpu": ("0", None), "memory": ("0", None), "nvidia.com/gpu": ("1", "0")}
    for _ in range(2):
        capacity.apply(plan(3))
    assert (cluster.get(CLUSTER_QUEUES, None, OWN), targets(cluster)) == (None, ["pool", "pool"])
    assert models.ensure("proj_1") == QUEUE


def cohort_quotas(cluster: Cluster) -> dict[str, tuple[str, str | None]]:
    """Of the organization's Cohort: resource → nominal quota and borrowing limit."""
    found = cluster.get(COHORTS, None, ORGANIZATION)
    assert found is not None
    assert found["spec"]["parentName"] == "pool"
    ((flavor,),) = (each["flavors"] for each in found["spec"]["resourceGroups"])
    return {each["name"]: (each["nominalQuota"], each.get("borrowingLimit")) for each in flavor["resources"]}


def cohorts(cluster: Cluster) -> dict[str, str]:
    """The cohort of each ClusterQueue."""
    return {each["metadata"]["name"]: each["spec"]["cohortName"] for each in cluster.list(CLUSTER_QUEUES, None).items}


def test_the_quota_of_an_organization_is_a_cohort_that_all_its_projects_are_in(
    cluster: Cluster, capacity: KueueCapacity
) -> None:
    models = ProjectQueues(cluster, KServeSettings(namespace=MODELS, queue=POOL))
    theirs = ProjectQueues(cluster, KServeSettings(namespace=JOBS, queue=POOL))
    models.ensure("proj_2", "org_1")
    theirs.ensure("proj_9", "org_9")
    own, limits = {"gpu": QuotaLimit(6, 1)}, {"gpu": QuotaLimit(4, None)}
    capacity.check(plan(own=own), own)
    assert cluster.get(COHORTS, None, ORGANIZATION) is None
    capacity.apply(plan(1, own=own))
    assert cohort_quotas(cluster) == {"cpu": ("0", None), "memory": ("0", None), "nvidia.com/gpu": ("6", "1")}
    assert quotas(cluster, ORGANIZATION) == dict.fromkeys(("cpu", "memory", "nvidia.com/gpu"), ("0", None))
    assert targets(cluster, "org_1") == [ORGANIZATION, ORGANIZATION]
    assert targets(cluster, "proj_2") == [ORGANIZATION, None]
    assert targets(cluster, "proj_9") == [None, "pool"]
    # A project whose first workload comes later.
    assert theirs.ensure("proj_3", "org_1") == queue_name(POOL, "proj_3")
    assert targets(cluster, "proj_3") == [None, ORGANIZATION]
    # What a project has is a part of the organization's.
    for _ in range(2):
        capacity.apply(plan(2, own=own, proj_1=limits))
    assert cohort_quotas(cluster)["nvidia.com/gpu"] == ("2", "1")
    assert quotas(cluster)["nvidia.com/gpu"] == ("4", None)
    assert cohorts(cluster) == {"pool": "pool", OWN: ORGANIZATION, ORGANIZATION: ORGANIZATION}
    assert capacity.use().pool["gpu"] == 8 + 6
    # Where projects have more than it, they borrow it from each other, and it still holds.
    capacity.apply(plan(3, own=own, proj_1=limits, proj_2={"gpu": QuotaLimit(3, 2)}))
    assert cohort_quotas(cluster)["nvidia.com/gpu"] == ("6", "1")
    assert quotas(cluster)["nvidia.com/gpu"] == ("0", None)
    assert quotas(cluster, cluster_queue_name(POOL, "proj_2"))["nvidia.com/gpu"] == ("0", "5")
    capacity.apply(plan(4, proj_1=limits))
    assert (cluster.get(COHORTS, None, ORGANIZATION), cohorts(cluster)) == (None, {"pool": "pool", OWN: "pool"})
    assert quotas(cluster)["nvidia.com/gpu"] == ("4", None)
    assert [targets(cluster, each) for each in ("org_1", "proj_1", "proj_2", "proj_3")] == [
        [None, None],
        [OWN, OWN],
        ["pool", "pool"],
        [None, "pool"],
    ]
    capacity.apply(plan(5))
    assert cohorts(cluster) == {"pool": "pool"}
    assert models.ensure("proj_3", "org_1") == queue_name(POOL, "proj_3")
    assert targets(cluster, "proj_3") == ["pool", "pool"]


def test_an_older_revision_changes_nothing_and_the_same_quotas_are_not_written_again(
    server: ApiServer, cluster: Cluster, capacity: KueueCapacity
) -> None:
    newest = plan(7, own={"gpu": QuotaLimit(5)}, proj_1={"gpu": QuotaLimit(3, 1)})
    capacity.apply(newest)
    server.answered.clear()
    capacity.apply(newest)
    capacity.apply(plan(8, own=newest.limits, **newest.projects))
    assert {method for _, method, path in server.answered if "missing" not in path} == {"GET"}
    capacity.apply(plan(6, own={"gpu": QuotaLimit(9)}, proj_1={"gpu": QuotaLimit(1)}))
    assert (quotas(cluster)["nvidia.com/gpu"], cohort_quotas(cluster)["nvidia.com/gpu"]) == (("3", "1"), ("2", "0"))
    # Changed by a process that has read it before.
    capacity.apply(plan(9, proj_1={"gpu": QuotaLimit(3, None)}))
    assert quotas(cluster)["nvidia.com/gpu"] == ("3", None)


def test_processes_that_apply_quotas_at_the_same_time_wait_for_each_other(
    api: Caller, cluster: Cluster, capacity: KueueCapacity, tmp_path: Path
) -> None:
    def apply(revision: int) -> None:
        own = Cluster(ClusterSettings(tmp_path / "kubeconfig"))
        # The organization has a quota and has none by turns: objects are made, changed and deleted.
        limits = {"gpu": QuotaLimit(revision)} if revision % 2 else {}
        try:
            KueueCapacity(own, (MODELS, JOBS), POOL).apply(
                plan(revision, own=limits, proj_1={"gpu": QuotaLimit(revision)})
            )
        finally:
            own.close()

    for first in (1, 11, 21):
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(apply, range(first, first + 4))) == [None] * 4
        apply(first + 4)  # as the last of them does, which has read the rows again
        assert quotas(cluster)["nvidia.com/gpu"] == (str(first + 4), "0")
        assert (targets(cluster), cohort_quotas(cluster)["nvidia.com/gpu"]) == ([OWN, OWN], ("0", "0"))


def test_a_quota_that_is_deleted_while_its_workloads_run_is_taken_away_and_may_be_set_again(
    api: Caller, cluster: Cluster, capacity: KueueCapacity
) -> None:
    limits = {"gpu": QuotaLimit(3, 0)}
    capacity.apply(plan(1, proj_1=limits))
    api.set_status(CLUSTER_QUEUES, None, OWN, {"reservingWorkloads": 1})
    assert capacity.apply(plan(2)) is False
    # Kueue would let it go with its last workload, even if it had a quota again by then.
    assert quotas(cluster) == dict.fromkeys(("cpu", "memory", "nvidia.com/gpu"), ("0", None))
    assert targets(cluster) == ["pool", "pool"]
    capacity.apply(plan(3, proj_1=limits))
    assert (quotas(cluster)["nvidia.com/gpu"], targets(cluster)) == (("3", "0"), [OWN, OWN])
    capacity.apply(plan(4))
    api.set_status(CLUSTER_QUEUES, None, OWN, {"reservingWorkloads": 0})
    assert capacity.apply(plan(5, proj_2=limits)) is True
    assert cluster.get(CLUSTER_QUEUES, None, OWN) is None


def test_the_role_of_quotas_has_the_verbs_that_are_used_and_no_others(
    server: ApiServer, cluster: Cluster, capacity: KueueCapacity
) -> None:
    ProjectQueues(cluster, KServeSettings(namespace=MODELS, queue=POOL)).ensure("proj_1")
    server.answered.clear()
    capacity.use()
    capacity.apply(plan(1, own={"gpu": QuotaLimit(4)}, proj_1={"gpu": QuotaLimit(1)}))
    capacity.apply(plan(2, proj_1={"gpu": QuotaLimit(1)}))
    capacity.apply(plan(3))
    used: set[tuple[str, str]] = set()
    for agent, method, path in server.answered:
        asked = _ASKED.fullmatch(path)
        if agent == "llmariner" and asked is not None:
            # An object is made by server-side apply, which needs both.
            verbs = {"PATCH": {"patch", "create"}, "DELETE": {"delete"}}.get(method) or {"get" if asked[2] else "list"}
            used |= {(asked[1], verb) for verb in verbs}
    rules = [rule for role in roles() if "quotas" in role["metadata"]["name"] for rule in role["rules"]]
    granted = {(kind, verb) for rule in rules for kind in rule["resources"] for verb in rule["verbs"]}
    assert used == granted


def workload(name: str, namespace: str, queue: str, owner: str, requests: Mapping[str, str], count: int = 1) -> Body:
    container = {"name": "main", "image": "x", "resources": {"requests": dict(requests)}}
    pods = {"name": "main", "count": count, "template": {"spec": {"containers": [container]}}}
    made = body(WORKLOADS, name, namespace, spec={"queueName": queue, "podSets": [pods]})
    reference = {"apiVersion": "batch/v1", "kind": owner, "name": name, "uid": "0"}
    return {**made, "metadata": {**made["metadata"], "ownerReferences": [reference]}}


def admit(api: Caller, name: str, namespace: str, usage: Mapping[str, str], *conditions: str) -> None:
    """Write what Kueue does into the status of a workload."""
    at = "2026-01-01T00:00:00Z"
    said = [
        {"type": each, "status": "True", "reason": each, "message": "", "lastTransitionTime": at}
        for each in ("QuotaReserved", *conditions)
    ]
    assigned = [{"name": "main", "resourceUsage": dict(usage), "count": 1}]
    status = {"conditions": said, "admission": {"clusterQueue": OWN, "podSetAssignments": assigned}}
    api.set_status(WORKLOADS, namespace, name, status)


def test_use_is_what_workloads_hold_and_wait_for_by_project_and_kind(
    api: Caller, cluster: Cluster, capacity: KueueCapacity
) -> None:
    capacity.apply(plan(proj_1={"gpu": QuotaLimit(2, 0)}))
    gpu = {"nvidia.com/gpu": "1", "cpu": "1500m", "memory": "2Gi"}
    for name, namespace, queue, owner, count in (
        ("model", MODELS, QUEUE, "Pod", 1),
        ("shared", MODELS, POOL, "Pod", 1),
        ("waiting", JOBS, QUEUE, "Job", 2),
        ("ended", JOBS, QUEUE, "Job", 1),
        ("nb-1", JOBS, QUEUE, "Job", 1),
        ("elsewhere", MODELS, "theirs", "Pod", 1),
    ):
        api.make(WORKLOADS, workload(name, namespace, queue, owner, gpu, count))
    for name, namespace, *conditions in (
        ("model", MODELS),
        ("shared", MODELS),
        ("ended", JOBS, "Finished"),
        ("nb-1", JOBS),
    ):
        admit(api, name, namespace, gpu, *conditions)
    use = capacity.use()
    assert use.pool == {"gpu": 10, "cpu": 16_000, "memory": 64 * GIB}  # with what is the project's own
    found = {(each.project_id, each.kind, each.waits): total([each]) for each in use.claims}
    one = {"gpu": 1, "cpu": 1500, "memory": 2 * GIB}
    assert found == {
        ("proj_1", Kind.MODELS, False): one,
        (None, Kind.MODELS, False): one,
        ("proj_1", Kind.JOBS, True): {"gpu": 2, "cpu": 3000, "memory": 4 * GIB},
        ("proj_1", Kind.NOTEBOOKS, False): one,
    }


def test_what_another_manager_set_is_reported_and_stays(api: Caller, cluster: Cluster, capacity: KueueCapacity) -> None:
    theirs = body(CLUSTER_QUEUES, OWN, spec=pool_spec(cohortName="pool"))
    cluster.apply(theirs, manager="argocd")
    ours = plan(proj_1={"gpu": QuotaLimit(4)})
    for is_check in (True, False):
        with pytest.raises(Conflict) as raised:
            capacity.check(ours, ["gpu"]) if is_check else capacity.apply(ours)
        assert raised.value.code == "quota_managed_elsewhere"
        assert "'spec.resourceGroups' by 'argocd'" in raised.value.message
    assert quotas(cluster)["nvidia.com/gpu"] == ("8", None)
    assert targets(cluster) == [None, None]
    capacity.apply(plan(3))  # what is not the platform's is not deleted
    assert cluster.get(CLUSTER_QUEUES, None, OWN) is not None
    owners = {each["manager"] for each in api.get(CLUSTER_QUEUES, None, OWN)["metadata"]["managedFields"]}
    assert QUOTA_MANAGER not in owners


def test_what_a_pool_can_not_hold_is_refused(api: Caller, cluster: Cluster, capacity: KueueCapacity) -> None:
    no_gpu = pool_spec(cohortName="pool")
    (group,) = no_gpu["resourceGroups"]
    group["coveredResources"].pop()
    group["flavors"][0]["resources"].pop()
    cluster.apply(body(CLUSTER_QUEUES, "pool", spec=no_gpu), force=True)
    with pytest.raises(InvalidRequest) as raised:
        capacity.check(plan(proj_1={"gpu": QuotaLimit(1)}), ["gpu"])
    assert raised.value.param == "gpu"
    cluster.merge_patch(CLUSTER_QUEUES, None, "pool", {"spec": {"cohortName": None}})
    with pytest.raises(Conflict) as no_cohort:
        capacity.check(plan(proj_1={"cpu": QuotaLimit(1), "gpu": QuotaLimit(1)}), ["cpu"])
    assert no_cohort.value.code == "no_cohort"
    cluster.delete(LOCAL_QUEUES, MODELS, POOL)
    with pytest.raises(Unavailable):
        capacity.apply(plan(proj_1={"cpu": QuotaLimit(1)}))
    assert capacity.use().pool == {"gpu": 0, "cpu": 0, "memory": 0}
