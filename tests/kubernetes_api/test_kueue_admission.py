"""Quotas as Kueue enforces them: what is admitted of models and jobs of projects, what waits and why, what is preempted.

Nothing runs: jobs are admitted and end when a test deletes them. Skipped without a cluster that has Kueue
(`python -m tests.cluster.lab up --rung 2`).
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llmariner.platform.capacity import OrganizationLimits, QuotaLimit, total
from llmariner.platform.capacity.kueue import KueueCapacity
from llmariner.platform.jobs import Job, JobStatus, Phase
from llmariner.platform.jobs.kubernetes.adapter import KubernetesJobs
from llmariner.platform.jobs.kubernetes.settings import ClusterJobSettings
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.resources import CLUSTER_QUEUES, JOBS, NAMESPACES, PODS, WORKLOADS, Resource
from llmariner.platform.serving.kserve.queues import ProjectQueues
from llmariner.quotas.quota import Quota, Subject
from llmariner.quotas.representation import quota_object
from llmariner.settings import ClusterSettings, KServeSettings

from .caller import Body, Caller, until
from .conftest import REAL

KUEUE = "kueue.x-k8s.io/v1beta2"
GPU = "nvidia.com/gpu"
VISIBILITY = "/apis/visibility.kueue.x-k8s.io/v1beta2"
POOL_GPUS = 2
LEVELS = {"jobs": 100, "serving": 1000}

pytestmark = pytest.mark.timeout(300)


class Pool:
    """A pool of two GPUs and its namespaces, the jobs of a test and the pods of its models."""

    def __init__(self, kubeconfig: Path) -> None:
        self.api, self.cluster = Caller(kubeconfig, real=True), Cluster(ClusterSettings(kubeconfig))
        self.name = f"quota-{uuid.uuid4().hex[:6]}"
        self.models, self.jobs_in = f"{self.name}-models", f"{self.name}-jobs"
        settings = ClusterJobSettings(
            namespace=self.jobs_in, queue=self.name, images={"python": "localhost/none"}, gpu_resource=GPU, cpu="100m",
            memory_bytes=1 << 20, disk_bytes=1 << 20, priority=f"{self.name}-jobs",
        )  # fmt: skip
        self.jobs = KubernetesJobs(self.cluster, settings, lambda job: ())
        self.capacity = KueueCapacity(self.cluster, (self.models, self.jobs_in), self.name)
        self._made: list[tuple[Resource, str, str]] = []
        for each in self._objects():
            if each["kind"] in ("ResourceFlavor", "WorkloadPriorityClass"):
                self._post(each)
            else:
                self.cluster.apply(each)
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        # The controller that makes it may be missing.
        self.api.request("POST", f"/api/v1/namespaces/{self.models}/serviceaccounts", account)

    def job(self, project: str, organization: str = "org_1") -> str:
        """A job of one GPU."""
        job_id = f"bj-{uuid.uuid4().hex[:12]}"
        self.jobs.submit(Job(job_id, project, "true", image="python", gpu_count=1, organization_id=organization))
        self._made.append((JOBS, self.jobs_in, job_id))
        return job_id

    def model(self, project: str, organization: str = "org_1") -> str:
        """A pod of one GPU, as one of a Deployment that KServe makes."""
        queues = ProjectQueues(self.cluster, KServeSettings(namespace=self.models, queue=self.name))
        name = f"model-{uuid.uuid4().hex[:6]}"
        labels = {
            "kueue.x-k8s.io/queue-name": queues.ensure(project, organization),
            "kueue.x-k8s.io/priority-class": f"{self.name}-serving",
        }
        amounts = {"cpu": "100m", "memory": "1Mi", GPU: "1"}
        container = {
            "name": "main",
            "image": "localhost/none",
            "resources": {"requests": amounts, "limits": {GPU: "1"}},
        }
        metadata = {"name": name, "namespace": self.models, "labels": labels}
        spec = {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 0}
        self.api.make(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        self._made.append((PODS, self.models, name))
        return name

    def cancel(self, job_id: str) -> None:
        """Cancel a job; its workload is deleted with its Job, as the garbage collector does."""
        self._end(JOBS, self.jobs_in, job_id, partial(self.jobs.cancel, job_id))

    def end(self, name: str) -> None:
        """The same for a job or model that is deleted."""
        ((resource, namespace, _),) = (each for each in self._made if each[2] == name)
        self._end(resource, namespace, name, partial(self.cluster.delete, resource, namespace, name))

    def _end(self, resource: Resource, namespace: str, name: str, end: Callable[[], object]) -> None:
        uid = self.api.get(resource, namespace, name)["metadata"]["uid"]
        owned = [each["metadata"]["name"] for each in self._workloads(namespace, uid)]
        end()
        for each in owned:
            self.cluster.delete(WORKLOADS, namespace, each)
        until(lambda: not self._workloads(namespace, uid))

    def status(self, job_id: str) -> JobStatus:
        """Of a job; one that is admitted is about to start, for ever."""
        status = self.jobs.status(job_id)
        assert status is not None
        return status

    def is_admitted(self, name: str) -> bool:
        """Whether a job or model holds quota."""
        ((resource, namespace, _),) = (each for each in self._made if each[2] == name)
        uid = self.api.get(resource, namespace, name)["metadata"]["uid"]
        return any(_is(each, "QuotaReserved") for each in self._workloads(namespace, uid))

    def use(self, project: str, limits: Any = None, organization: str = "org_1") -> Body:
        """What the API shows of a project."""
        capacity = KueueCapacity(self.cluster, (self.models, self.jobs_in), self.name)
        claims = [each for each in capacity.use().claims if each.project_id == project]
        subject = Subject(organization, project)
        return quota_object(subject, project, Quota(subject, limits or {}, 0, 0), claims)

    def remove(self) -> None:
        """Delete all that it made."""
        for _, _, name in list(self._made):
            try:
                self.end(name)
            except AssertionError:
                continue
        self.capacity.apply(OrganizationLimits("org_1", 10**6, members=frozenset(f"proj_{n}" for n in range(9))))
        for each in self.cluster.list(CLUSTER_QUEUES, None).items:
            if each["spec"].get("cohortName") == self.name:
                self.cluster.delete(CLUSTER_QUEUES, None, each["metadata"]["name"])
        classes = (f"workloadpriorityclasses/{self.name}-{level}" for level in LEVELS)
        for path in (f"resourceflavors/{self.name}", *classes):
            self.api.request("DELETE", f"/apis/{KUEUE}/{path}")
        for namespace in (self.models, self.jobs_in):
            self.cluster.delete(NAMESPACES, None, namespace)
        self.cluster.close()

    def _workloads(self, namespace: str, uid: str) -> list[Body]:
        found = self.cluster.list(WORKLOADS, namespace).items
        return [
            each for each in found if any(owner["uid"] == uid for owner in each["metadata"].get("ownerReferences", ()))
        ]

    def _post(self, body: Body) -> None:
        self.api.done(
            "POST", f"/apis/{KUEUE}/{body['kind'].lower()}{'es' if body['kind'].endswith('s') else 's'}", body
        )

    def _objects(self) -> Iterator[Body]:
        def made(kind: str, name: str, namespace: str = "", **fields: Any) -> Body:
            place = {"namespace": namespace} if namespace else {}
            version = "v1" if kind == "Namespace" else KUEUE
            return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **place}, **fields}

        yield made("ResourceFlavor", self.name)
        for level, value in LEVELS.items():
            yield made("WorkloadPriorityClass", f"{self.name}-{level}", value=value)
        amounts = [("cpu", "16"), ("memory", "64Gi"), (GPU, str(POOL_GPUS))]
        resources = [{"name": name, "nominalQuota": amount} for name, amount in amounts]
        groups = [{"coveredResources": [name for name, _ in amounts]}]
        groups[0]["flavors"] = [{"name": self.name, "resources": resources}]  # type: ignore[list-item]
        spec = {
            "cohortName": self.name,
            "namespaceSelector": {},
            "queueingStrategy": "BestEffortFIFO",
            "preemption": {"withinClusterQueue": "LowerPriority"},
            "resourceGroups": groups,
        }
        yield made("ClusterQueue", self.name, spec=spec)
        for namespace in (self.models, self.jobs_in):
            yield made("Namespace", namespace)
            yield made("LocalQueue", self.name, namespace, spec={"clusterQueue": self.name})


def _is(body: Body, kind: str) -> bool:
    conditions = body.get("status", {}).get("conditions", ())
    return any((each["type"], each["status"]) == (kind, "True") for each in conditions)


@pytest.fixture
def pool() -> Iterator[Pool]:
    kubeconfig = os.environ.get(REAL)
    if kubeconfig is None or Caller(Path(kubeconfig)).request("GET", VISIBILITY)[0] != 200:
        pytest.skip("no cluster with Kueue is up")
    made = Pool(Path(kubeconfig))
    yield made
    made.remove()


def plan(revision: int, own: dict[str, QuotaLimit] | None = None, **projects: QuotaLimit) -> OrganizationLimits:
    """Quotas of GPUs of an organization with the projects proj_1 to proj_3."""
    gpus = {project: {"gpu": limit} for project, limit in projects.items()}
    return OrganizationLimits("org_1", revision, own or {}, gpus, frozenset({"proj_1", "proj_2", "proj_3"}))


def stay(pool: Pool, *names: str) -> None:
    """Wait until these jobs have a place in line, the first with its reason: Kueue tries no others that are like it."""
    for name in names:
        until(lambda name=name: pool.status(name).place is not None)
    until(lambda: any("insufficient" in pool.status(name).reason for name in names))
    assert not any(map(pool.is_admitted, names))


def admit(pool: Pool, *names: str, seconds: float = 30) -> None:
    """Wait until these are admitted."""
    for name in names:
        until(lambda name=name: pool.is_admitted(name), seconds)


def test_models_and_jobs_of_a_project_share_its_quota_and_what_is_more_waits_in_line(pool: Pool) -> None:
    limits = {"proj_1": QuotaLimit(2, 1), "proj_2": QuotaLimit(1, 0)}
    pool.capacity.apply(plan(1, None, **limits))
    model, first, second = pool.model("proj_1"), pool.job("proj_1"), pool.job("proj_1")
    admit(pool, model, first, second)
    waiting = [pool.job("proj_1")]
    stay(pool, *waiting)
    time.sleep(1.1)  # Kueue's order has whole seconds
    waiting.append(pool.job("proj_1"))
    stay(pool, *waiting)
    other = pool.job("proj_2")
    admit(pool, other)
    assert [pool.status(each).place for each in waiting] == [1, 2]
    assert "nvidia.com/gpu" in pool.status(waiting[0]).reason
    shown = pool.use("proj_1", {"gpu": limits["proj_1"]})
    assert shown["gpu"] == {"nominal": 2, "borrowing_limit": 1, "used": 3, "borrowed": 1, "waiting": 2}
    kinds = shown["kinds"]
    assert (kinds["models"]["gpu"], kinds["jobs"]["gpu"]) == ({"used": 1, "waiting": 0}, {"used": 2, "waiting": 2})
    assert total(each for each in pool.capacity.use().claims if not each.waits)["gpu"] == 4
    # A quota that is lowered below what is in use ends nothing, and admits nothing.
    pool.capacity.apply(plan(2, proj_1=QuotaLimit(1, 0), proj_2=limits["proj_2"]))
    pool.end(first)
    stay(pool, *waiting)
    assert all(map(pool.is_admitted, (model, second)))
    pool.capacity.apply(plan(3, proj_1=QuotaLimit(2, 1), proj_2=limits["proj_2"]))
    admit(pool, waiting[0])
    # Without a quota it waits for nothing but the pool.
    pool.capacity.apply(plan(4, proj_2=limits["proj_2"]))
    assert all(map(pool.is_admitted, (model, second, waiting[0])))
    admit(pool, waiting[1])


def test_a_canceled_job_holds_no_quota_whenever_kueue_looks(pool: Pool) -> None:
    pool.capacity.apply(plan(1, proj_1=QuotaLimit(1, 0)))
    for _ in range(5):
        job = pool.job("proj_1")
        admit(pool, job)
        pool.cancel(job)
        assert pool.status(job).phase is Phase.CANCELED


def test_the_quota_of_an_organization_bounds_the_sum_of_its_projects(pool: Pool) -> None:
    own = {"gpu": QuotaLimit(2, 0)}
    pool.capacity.apply(plan(1, own, proj_1=QuotaLimit(1, None)))
    admitted = [pool.job("proj_1"), pool.model("proj_3")]
    admit(pool, *admitted)
    held = [pool.job("proj_1"), pool.job("proj_3"), pool.job("proj_2")]
    stay(pool, *held)
    # Other organizations have the pool, which this one may not borrow from.
    others = [pool.job("proj_9", "org_9") for _ in range(POOL_GPUS)]
    admit(pool, *others)
    stay(pool, *held)
    pool.end(others[0])
    stay(pool, *held)
    pool.end(admitted[0])
    until(lambda: sum(map(pool.is_admitted, held)) == 1)
    # Projects with more than it has: still the sum holds, and a larger one lets more in.
    pool.capacity.apply(plan(2, own, proj_1=QuotaLimit(3, None), proj_2=QuotaLimit(2, None)))
    assert sum(map(pool.is_admitted, [*held, admitted[1]])) == 2
    pool.capacity.apply(plan(3, {"gpu": QuotaLimit(2, 1)}, proj_1=QuotaLimit(3, None), proj_2=QuotaLimit(2, None)))
    until(lambda: sum(map(pool.is_admitted, [*held, admitted[1]])) == 3)
    pool.capacity.apply(plan(4))
    assert sum(map(pool.is_admitted, [*held, admitted[1]])) == 3


def test_what_a_project_lends_is_preempted_where_the_pool_says_so(pool: Pool) -> None:
    # Of all that a job needs: Kueue reclaims nothing for a workload that borrows anything.
    lends = {"gpu": QuotaLimit(1), "cpu": QuotaLimit(1000), "memory": QuotaLimit(1 << 30)}
    borrows = {"gpu": QuotaLimit(0, None)}
    preemption = {"withinClusterQueue": "LowerPriority", "reclaimWithinCohort": "Any"}
    pool.cluster.merge_patch(CLUSTER_QUEUES, None, pool.name, {"spec": {"preemption": preemption}})
    pool.capacity.apply(replace(plan(1), projects={"proj_1": borrows, "proj_2": lends}))
    borrowed = [pool.job("proj_1") for _ in range(POOL_GPUS + 1)]
    admit(pool, *borrowed)
    assert pool.use("proj_1", borrows)["gpu"]["borrowed"] == POOL_GPUS + 1
    owner = pool.job("proj_2")
    admit(pool, owner)
    (ended,) = (each for each in borrowed if not pool.is_admitted(each))
    status = pool.status(ended)
    assert status.phase is Phase.QUEUED, status
    print(f"\nof the preempted job: {status.reason!r}, place {status.place}")
    # It begins again when there is room.
    pool.end(owner)
    admit(pool, ended, seconds=90)


def test_a_model_preempts_a_job_of_its_own_queue_which_begins_again(pool: Pool) -> None:
    pool.capacity.apply(plan(1, proj_1=QuotaLimit(1, 0)))
    job = pool.job("proj_1")
    admit(pool, job)
    model = pool.model("proj_1")
    admit(pool, model)
    assert pool.status(job).phase is Phase.QUEUED
    use = pool.use("proj_1")["kinds"]
    assert (use["models"]["running"], use["jobs"]["waiting"]) == (1, 1)
    pool.end(model)
    admit(pool, job, seconds=90)
