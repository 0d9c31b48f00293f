"""The capacity port on a cluster: Kueue's ClusterQueues, Cohorts, LocalQueues and Workloads.

The pool is the ClusterQueue of the pool's LocalQueue; quotas are in its cohort (`kueue_objects`). What differs from the
quotas is written, and nothing else. Fields that another manager set, such as a GitOps controller, are a conflict and stay
as they are.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from llmariner.errors import Conflict, Unavailable
from llmariner.platform.capacity import Claim, OrganizationLimits, Use
from llmariner.platform.capacity.kueue_claims import claim_of, has_condition, nominal_amounts
from llmariner.platform.capacity.kueue_objects import (
    ORGANIZATION_ANNOTATION,
    REVISION_ANNOTATION,
    check_pool,
    cluster_queue_name,
    cohort_of,
    emptied,
    local_queue,
    quota_objects,
)
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import ClusterError
from llmariner.platform.kube.errors import Conflict as OwnedByOthers
from llmariner.platform.kube.errors import NotFound as MissingResource
from llmariner.platform.kube.resources import CLUSTER_QUEUES, COHORTS, LOCAL_QUEUES, WORKLOADS, Resource, resource_for
from llmariner.platform.serving.kserve.objects import MANAGED_BY_LABELS
from llmariner.platform.serving.kserve.queues import PROJECT_ANNOTATION, QUOTA_ANNOTATION, queue_name

__all__ = ["QUOTA_MANAGER", "KueueCapacity"]

QUOTA_MANAGER = "llmariner-quota"
"""The field manager of ClusterQueues, Cohorts and the LocalQueues that lead to them."""

_ATTEMPTS = 8
_PAUSE_SECONDS = 0.2
_USE_SECONDS = 1.0

Body = dict[str, Any]
T = TypeVar("T")


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
            queues, cohorts = self._stored(CLUSTER_QUEUES), self._stored(COHORTS)
            pool = queues.get(self._pool_name())
            claims = [claim for namespace in self._namespaces for claim in self._claims(namespace)]
        except ClusterError as error:
            raise _unavailable(error) from error
        if pool is None:
            return Use(nominal_amounts(()), claims)
        root = cohort_of(pool)
        below = {name for name, each in cohorts.items() if root and each.get("spec", {}).get("parentName") == root}
        inside = {root, *below} - {""}
        members = [each for each in queues.values() if each is pool or cohort_of(each) in inside]
        return Use(nominal_amounts([*members, *(cohorts[each] for each in inside & cohorts.keys())]), claims)

    def check(self, quotas: OrganizationLimits, changed: Collection[str]) -> None:
        """See the port."""
        self._in_cluster(lambda: self._write(quotas, self._pool(changed), dry_run=True))

    def apply(self, quotas: OrganizationLimits) -> bool:
        """See the port. LocalQueues lead to a ClusterQueue once that is there."""
        return self._in_cluster(lambda: self._apply(quotas))

    def _apply(self, quotas: OrganizationLimits) -> bool:
        wanted: dict[str, str] = {}
        if quotas.limits or quotas.projects:
            self._write(quotas, self._pool(()), dry_run=False)
            wanted = {each: cluster_queue_name(self._queue, each) for each in quotas.projects}
        own = cluster_queue_name(self._queue, quotas.organization_id) if quotas.limits else ""
        rest = own or self._pool_name()
        if rest:
            self._lead(quotas, wanted, own, rest)
        return self._remove_others(quotas, wanted, keeps_own=bool(quotas.limits))

    def _write(self, quotas: OrganizationLimits, pool: Body, *, dry_run: bool) -> None:
        """Write what differs; what a later revision wrote stays."""
        stored = {CLUSTER_QUEUES: self._stored(CLUSTER_QUEUES), COHORTS: self._stored(COHORTS)}
        for body in quota_objects(self._queue, quotas, pool):
            found = stored[resource_for(body)].get(body["metadata"]["name"])
            self._write_one(body, found, quotas.revision, dry_run=dry_run)

    def _write_one(self, body: Body, found: Body | None, revision: int, *, dry_run: bool) -> None:
        if found is not None:
            if "deletionTimestamp" in found["metadata"]:
                raise Unavailable(
                    "What the last quota admitted is still ending. Set the quota when it has ended.",
                    code="quota_ending",
                )
            if _revision(found) > revision or _is_same(body["spec"], found["spec"]):
                return
            body = {**body, "metadata": {**body["metadata"], "resourceVersion": found["metadata"]["resourceVersion"]}}
        self._cluster.apply(body, manager=QUOTA_MANAGER, dry_run=dry_run)

    def _pool(self, changed: Collection[str]) -> Body:
        name = self._pool_name()
        return check_pool(self._queue, self._cluster.get(CLUSTER_QUEUES, None, name) if name else None, changed)

    def _pool_name(self) -> str:
        found = self._cluster.get(LOCAL_QUEUES, self._namespaces[0], self._queue)
        return str(found["spec"]["clusterQueue"]) if found else ""

    def _stored(self, resource: Resource, namespace: str | None = None) -> dict[str, Body]:
        """Objects by name; none of a kind or in a namespace that the cluster does not have."""
        try:
            return {each["metadata"]["name"]: each for each in self._cluster.list(resource, namespace).items}
        except MissingResource:
            return {}

    def _claims(self, namespace: str) -> Iterator[Claim]:
        owners = {
            name: each["metadata"].get("annotations", {}).get(PROJECT_ANNOTATION)
            for name, each in self._stored(LOCAL_QUEUES, namespace).items()
        }
        for workload in self._cluster.list(WORKLOADS, namespace).items:
            queue = workload["spec"].get("queueName", "")
            if queue in owners and workload["spec"].get("active", True) and not has_condition(workload, "Finished"):
                yield claim_of(workload, owners[queue])

    def _lead(self, quotas: OrganizationLimits, wanted: Mapping[str, str], own: str, rest: str) -> None:
        """Let LocalQueues lead to the ClusterQueues of quotas, and those of other projects to `rest`.

        Projects with a quota, and the organization with `own`, get one; other projects get theirs with their first workload.
        """
        organization = queue_name(self._queue, quotas.organization_id)
        members = {queue_name(self._queue, each): each for each in quotas.members}
        for namespace in self._namespaces:
            found = self._stored(LOCAL_QUEUES, namespace)
            if own:
                owner = {ORGANIZATION_ANNOTATION: quotas.organization_id}
                body = local_queue(namespace, organization, owner, own, has_quota=True)
                self._lead_one(body, found.get(organization))
            elif organization in found:
                self._cluster.delete(LOCAL_QUEUES, namespace, organization, uid=found[organization]["metadata"]["uid"])
            for name, project_id in members.items():
                target = wanted.get(project_id)
                if target is None and not (name in found and _is_ours(found[name])):
                    continue
                owner = {PROJECT_ANNOTATION: project_id}
                has_quota = bool(target or own)
                self._lead_one(
                    local_queue(namespace, name, owner, target or rest, has_quota=has_quota), found.get(name)
                )

    def _lead_one(self, body: Body, found: Body | None) -> None:
        """Where a LocalQueue leads to can't be changed, so it is made again.

        What was admitted stays so; what waits is taken over by the new one.
        """
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        target = body["spec"]["clusterQueue"]
        for attempt in range(_ATTEMPTS):
            leads = found is not None and found["spec"].get("clusterQueue") == target
            if found is not None and leads and _has_quota(found) == _has_quota(body):
                return
            if found is not None and not (leads and _has_quota(body)):
                self._cluster.delete(LOCAL_QUEUES, namespace, name, uid=found["metadata"]["uid"])
            try:
                self._cluster.apply(body, manager=QUOTA_MANAGER)
                return
            except MissingResource:  # no such namespace in this installation
                return
            except ClusterError:  # a waking model made the queue again in between
                found = self._cluster.get(LOCAL_QUEUES, namespace, name)
                if attempt == _ATTEMPTS - 1:
                    raise

    def _remove_others(self, quotas: OrganizationLimits, wanted: Mapping[str, str], *, keeps_own: bool) -> bool:
        """Delete what quotas that are gone left behind; whether that is all."""
        gone = {cluster_queue_name(self._queue, each) for each in quotas.members - wanted.keys()}
        own = cluster_queue_name(self._queue, quotas.organization_id)
        stored = self._stored(CLUSTER_QUEUES)
        left = sorted((gone | (set() if keeps_own else {own})) & stored.keys())
        removed = [self._remove(stored[name], quotas.revision, cohort=own if keeps_own else "") for name in left]
        if not keeps_own and (cohort := self._cluster.get(COHORTS, None, own)) is not None and _is_ours(cohort):
            self._cluster.delete(COHORTS, None, own, uid=cohort["metadata"]["uid"])
        return all(removed)

    def _remove(self, found: Body, revision: int, *, cohort: str) -> bool:
        """Delete a ClusterQueue, or take its quota away while what it admitted runs: then False."""
        metadata = found["metadata"]
        if not _is_ours(found) or _revision(found) > revision:
            return True
        if not found.get("status", {}).get("reservingWorkloads", 0):
            # Kueue keeps it until the last workload that it admitted has ended.
            self._cluster.delete(CLUSTER_QUEUES, None, metadata["name"], uid=metadata["uid"])
            return True
        pool = None if "deletionTimestamp" in metadata else self._cluster.get(CLUSTER_QUEUES, None, self._pool_name())
        if pool is not None:
            self._cluster.apply(emptied(found, pool, cohort or cohort_of(pool), revision), manager=QUOTA_MANAGER)
        return False

    def _in_cluster(self, action: Callable[[], T]) -> T:
        """Run an action, again if another process changes the same objects meanwhile; idempotent, so none is harmful."""
        for attempt in range(_ATTEMPTS):
            try:
                return action()
            except OwnedByOthers as error:
                if error.causes:
                    raise _conflict(error) from error
                # Without causes an object was changed since it was read.
                if attempt == _ATTEMPTS - 1:
                    raise _unavailable(error) from error
                time.sleep(random.uniform(0, _PAUSE_SECONDS))
            except ClusterError as error:
                raise _unavailable(error) from error
        raise AssertionError


def _is_same(wanted: Body, found: Body) -> bool:
    """Whether a stored spec has the quotas that are wanted, and the other fields, which may have defaults besides."""
    if wanted["resourceGroups"] != found.get("resourceGroups"):
        return False
    return all(_is_within(each, found.get(key)) for key, each in wanted.items())


def _is_within(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return all(_is_within(each, found.get(key)) for key, each in wanted.items())
    return bool(wanted == found)


def _revision(body: Body) -> int:
    text = body["metadata"].get("annotations", {}).get(REVISION_ANNOTATION, "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _is_ours(body: Body) -> bool:
    return bool(MANAGED_BY_LABELS.items() <= body["metadata"].get("labels", {}).items())


def _has_quota(queue: Body) -> bool:
    return QUOTA_ANNOTATION in queue["metadata"].get("annotations", {})


def _conflict(error: ClusterError) -> Conflict:
    owned = ", ".join(sorted({f"'{each.field}' by '{each.owner}'" for each in error.causes if each.owner}))
    return Conflict(
        f"The quota is set elsewhere: {owned}. Change it there, or let that manager give up the fields.",
        code="quota_managed_elsewhere",
    )


def _unavailable(error: ClusterError) -> Unavailable:
    return Unavailable(f"Kueue can't be read or changed now: {error.message[:300]}", code="no_quotas")
