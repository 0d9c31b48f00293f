"""The capacity port on a cluster: Kueue's ClusterQueues, LocalQueues and Workloads.

The pool is the ClusterQueue of the pool's LocalQueue. A project with a quota has a ClusterQueue of its own in the pool's
cohort, where it borrows; without one its LocalQueues lead to the pool. Fields that another manager set, such as a GitOps
controller, are a conflict and stay as they are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from llmariner.errors import Conflict, InvalidRequest, Unavailable
from llmariner.platform.capacity import RESOURCES, Claim, Kind, QuotaLimit, QuotaSubject, Use
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import ClusterError
from llmariner.platform.kube.errors import Conflict as OwnedByOthers
from llmariner.platform.kube.errors import NotFound as MissingResource
from llmariner.platform.kube.quantities import parse_quantity
from llmariner.platform.kube.resources import CLUSTER_QUEUES, LOCAL_QUEUES, WORKLOADS
from llmariner.platform.serving.kserve.objects import MANAGED_BY_LABELS
from llmariner.platform.serving.kserve.queues import PROJECT_ANNOTATION, QUOTA_ANNOTATION, queue_name

__all__ = ["QUOTA_MANAGER", "KueueCapacity", "cluster_queue_name"]

QUOTA_MANAGER = "llmariner-quota"
"""The field manager of ClusterQueues and of the LocalQueues that lead to them."""

_ATTEMPTS = 3
_USE_SECONDS = 1.0
_KIND_OF_OWNER = {"Job": Kind.JOBS, "JobSet": Kind.JOBS, "TrainJob": Kind.JOBS, "StatefulSet": Kind.NOTEBOOKS}
_COPIED = ("namespaceSelector", "queueingStrategy", "preemption", "flavorFungibility")

Body = dict[str, Any]


def cluster_queue_name(pool: str, project_id: str) -> str:
    """The name of a project's ClusterQueue; `pool`: the name of the pool's LocalQueue."""
    return f"llmariner-{queue_name(pool, project_id)}"


class KueueCapacity:
    """`queue`: the pool's LocalQueue in the first of `namespaces`, in which workloads are. See the port."""

    def __init__(self, cluster: Cluster, namespaces: tuple[str, ...], queue: str) -> None:
        self._cluster = cluster
        self._namespaces = namespaces
        self._queue = queue
        self._lock = threading.Lock()
        self._read_at: float | None = None
        self._use = Use({})

    def use(self) -> Use:
        """See the port. At most a second old: many callers cause one read."""
        with self._lock:
            now = time.monotonic()
            if self._read_at is None or now - self._read_at >= _USE_SECONDS:
                self._use, self._read_at = self._read(), now
            return self._use

    def _read(self) -> Use:
        try:
            queues = {
                cluster_queue["metadata"]["name"]: cluster_queue
                for cluster_queue in self._cluster.list(CLUSTER_QUEUES, None).items
            }
            pool = queues.get(self._pool_name())
            claims = [claim for namespace in self._namespaces for claim in self._claims(namespace)]
        except ClusterError as error:
            raise _unavailable(error) from error
        cohort = _cohort(pool) if pool else ""
        members = [each for each in queues.values() if each is pool or (cohort and _cohort(each) == cohort)]
        return Use(_nominal(members), claims)

    def check(self, subject: QuotaSubject, limits: Mapping[str, QuotaLimit]) -> None:
        """See the port."""
        self._apply_cluster_queue(_project(subject), limits, dry_run=True)

    def apply(self, subject: QuotaSubject, limits: Mapping[str, QuotaLimit] | None) -> None:
        """See the port. The LocalQueues of a project lead to its ClusterQueue once that is there."""
        project_id = _project(subject)
        if limits is not None:
            self._apply_cluster_queue(project_id, limits, dry_run=False)
        try:
            if limits is not None:
                self._lead_to(project_id, cluster_queue_name(self._queue, project_id), has_quota=True)
                return
            self._lead_to(project_id, self._pool_name(), has_quota=False)
            self._delete_cluster_queue(cluster_queue_name(self._queue, project_id))
        except OwnedByOthers as error:
            raise _conflict(error) from error
        except ClusterError as error:
            raise _unavailable(error) from error

    def _apply_cluster_queue(self, project_id: str, limits: Mapping[str, QuotaLimit], *, dry_run: bool) -> None:
        try:
            name = self._pool_name()
            pool = self._cluster.get(CLUSTER_QUEUES, None, name) if name else None
            body = _cluster_queue(self._queue, project_id, pool, limits)
            self._cluster.apply(body, manager=QUOTA_MANAGER, dry_run=dry_run)
        except OwnedByOthers as error:
            raise _conflict(error) from error
        except ClusterError as error:
            raise _unavailable(error) from error

    def _pool_name(self) -> str:
        found = self._cluster.get(LOCAL_QUEUES, self._namespaces[0], self._queue)
        return str(found["spec"]["clusterQueue"]) if found else ""

    def _claims(self, namespace: str) -> Iterator[Claim]:
        owners = {
            each["metadata"]["name"]: each["metadata"].get("annotations", {}).get(PROJECT_ANNOTATION)
            for each in self._cluster.list(LOCAL_QUEUES, namespace).items
        }
        for workload in self._cluster.list(WORKLOADS, namespace).items:
            queue = workload["spec"].get("queueName", "")
            if queue in owners and workload["spec"].get("active", True) and not _has_condition(workload, "Finished"):
                yield _claim(workload, owners[queue])

    def _lead_to(self, project_id: str, target: str, *, has_quota: bool) -> None:
        """Let the project's LocalQueues lead to a ClusterQueue: that can't be changed, so they are made again.

        What was admitted stays so; what waits is taken over by the new one.
        """
        name = queue_name(self._queue, project_id)
        for namespace in self._namespaces:
            found = self._cluster.get(LOCAL_QUEUES, namespace, name)
            if not has_quota and (found is None or not target):
                continue
            body = _local_queue(namespace, name, project_id, target, has_quota=has_quota)
            for attempt in range(_ATTEMPTS):
                if found is not None and found["spec"].get("clusterQueue") != target:
                    self._cluster.delete(LOCAL_QUEUES, namespace, name, uid=found["metadata"]["uid"])
                try:
                    self._cluster.apply(body, manager=QUOTA_MANAGER)
                    break
                except MissingResource:  # no such namespace in this installation
                    break
                except ClusterError:  # a waking model made the queue again in between
                    found = self._cluster.get(LOCAL_QUEUES, namespace, name)
                    if attempt == _ATTEMPTS - 1:
                        raise

    def _delete_cluster_queue(self, name: str) -> None:
        found = self._cluster.get(CLUSTER_QUEUES, None, name)
        labels = found["metadata"].get("labels", {}) if found else {}
        if found is not None and MANAGED_BY_LABELS.items() <= labels.items():
            # Kueue keeps it until the last workload that it admitted has ended.
            self._cluster.delete(CLUSTER_QUEUES, None, name, uid=found["metadata"]["uid"])


def _project(subject: QuotaSubject) -> str:
    if subject.project_id is None:
        raise InvalidRequest(
            "On a cluster quotas are of projects: name a project.", param="id", code="organization_quota_unsupported"
        )
    return subject.project_id


def _cluster_queue(queue: str, project_id: str, pool: Body | None, limits: Mapping[str, QuotaLimit]) -> Body:
    """A project's ClusterQueue. A resource without a limit has nothing of its own and borrows what is free."""
    if pool is None:
        raise Unavailable(f"The pool's LocalQueue '{queue}' or its ClusterQueue is missing: ask an operator.")
    cohort = _cohort(pool)
    if not cohort:
        raise Conflict(
            f"The ClusterQueue '{pool['metadata']['name']}' is in no cohort, so no project can have a part of it: "
            "an operator sets its 'spec.cohortName'.",
            code="no_cohort",
        )
    groups = pool["spec"].get("resourceGroups", [])
    covered = {_resource_of(name) for group in groups for name in group["coveredResources"]}
    for resource in limits:
        if resource not in covered:
            raise InvalidRequest(f"The pool has no '{resource}': leave it out.", param=resource, code="not_in_pool")
    metadata = {
        "name": cluster_queue_name(queue, project_id),
        "labels": MANAGED_BY_LABELS,
        "annotations": {PROJECT_ANNOTATION: project_id},
    }
    spec = {name: pool["spec"][name] for name in _COPIED if name in pool["spec"]}
    spec |= {"cohortName": cohort, "resourceGroups": [_resource_group(group, limits) for group in groups]}
    kind = {"apiVersion": CLUSTER_QUEUES.api_version, "kind": CLUSTER_QUEUES.kind}
    return {**kind, "metadata": metadata, "spec": spec}


def _resource_group(group: Body, limits: Mapping[str, QuotaLimit]) -> Body:
    """The pool's resources with the project's limits; the first flavor has them, of the others nothing may be borrowed."""
    flavors = []
    for number, flavor in enumerate(group["flavors"]):
        resources = []
        for name in group["coveredResources"]:
            limit = limits.get(_resource_of(name))
            if limit is not None and number > 0:
                limit = QuotaLimit(0, 0)
            resources.append(_quota(name, limit or QuotaLimit(0, None)))
        flavors.append({"name": flavor["name"], "resources": resources})
    return {"coveredResources": group["coveredResources"], "flavors": flavors}


def _quota(name: str, limit: QuotaLimit) -> Body:
    borrowing = {} if limit.borrowing is None else {"borrowingLimit": _quantity(name, limit.borrowing)}
    return {"name": name, "nominalQuota": _quantity(name, limit.nominal), **borrowing}


def _quantity(name: str, amount: int) -> str:
    """The canonical form, which the API server returns: an apply of the same again changes nothing."""
    if name != "cpu":
        return str(amount)
    return f"{amount}m" if amount % 1000 else str(amount // 1000)


def _local_queue(namespace: str, name: str, project_id: str, target: str, *, has_quota: bool) -> Body:
    kind = {"apiVersion": LOCAL_QUEUES.api_version, "kind": LOCAL_QUEUES.kind}
    annotations = {PROJECT_ANNOTATION: project_id, **({QUOTA_ANNOTATION: "true"} if has_quota else {})}
    metadata = {"name": name, "namespace": namespace, "labels": MANAGED_BY_LABELS, "annotations": annotations}
    return {**kind, "metadata": metadata, "spec": {"clusterQueue": target}}


def _claim(workload: Body, project_id: str | None) -> Claim:
    holds = _has_condition(workload, "QuotaReserved")
    owners = workload["metadata"].get("ownerReferences") or [{}]
    kind = _KIND_OF_OWNER.get(str(owners[0].get("kind", "")), Kind.MODELS)
    amounts = dict.fromkeys(RESOURCES, 0)
    for name, quantity in _admitted(workload) if holds else _requested(workload):
        if (resource := _resource_of(name)) in amounts:
            amounts[resource] += (
                round(parse_quantity(quantity) * 1000) if name == "cpu" else int(parse_quantity(quantity))
            )
    return Claim(project_id, kind, amounts, waits=not holds)


def _admitted(workload: Body) -> Iterator[tuple[str, object]]:
    for assignment in workload["status"].get("admission", {}).get("podSetAssignments", ()):
        yield from assignment.get("resourceUsage", {}).items()


def _requested(workload: Body) -> Iterator[tuple[str, object]]:
    for pods in workload["spec"].get("podSets", ()):
        for container in pods["template"]["spec"].get("containers", ()):
            for name, quantity in container.get("resources", {}).get("requests", {}).items():
                for _ in range(pods.get("count", 1)):
                    yield name, quantity


def _has_condition(body: Body, kind: str) -> bool:
    conditions = body.get("status", {}).get("conditions", ())
    return any((each["type"], each["status"]) == (kind, "True") for each in conditions)


def _nominal(queues: list[Body]) -> dict[str, int]:
    amounts = dict.fromkeys(RESOURCES, 0)
    for queue in queues:
        for group in queue["spec"].get("resourceGroups", ()):
            for quota in (each for flavor in group["flavors"] for each in flavor["resources"]):
                if (resource := _resource_of(quota["name"])) in amounts:
                    unit = 1000 if quota["name"] == "cpu" else 1
                    amounts[resource] += round(parse_quantity(quota["nominalQuota"]) * unit)
    return amounts


def _resource_of(name: str) -> str:
    """`gpu` for a device such as `nvidia.com/gpu`."""
    return "gpu" if "/" in name else name


def _cohort(queue: Body) -> str:
    return str(queue["spec"].get("cohortName") or "")


def _conflict(error: ClusterError) -> Conflict:
    owned = ", ".join(sorted({f"'{each.field}' by '{each.owner}'" for each in error.causes if each.owner}))
    return Conflict(
        f"The quota is set elsewhere: {owned or 'the object was changed meanwhile'}. Change it there, or let that manager "
        "give up the fields.",
        code="quota_managed_elsewhere",
    )


def _unavailable(error: ClusterError) -> Unavailable:
    return Unavailable(f"Kueue can't be read or changed now: {error.message[:300]}", code="no_quotas")
