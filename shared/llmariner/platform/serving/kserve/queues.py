"""A Kueue LocalQueue per project, so that pending and admitted workloads can be attributed to projects.

It refers to the ClusterQueue of the pool's own LocalQueue, which models of the whole organization use. It is created when
a model of the project first wakes, and deleted when the project has no model left.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import Conflict, NotFound
from llmariner.platform.kube.resources import LOCAL_QUEUES, WORKLOADS
from llmariner.platform.serving.kserve.objects import MANAGED_BY_LABELS, QUEUE_LABEL
from llmariner.settings import KServeSettings

__all__ = ["PROJECT_ANNOTATION", "QUOTA_ANNOTATION", "PoolWorkloads", "ProjectQueues", "queue_name", "queue_of"]

PROJECT_ANNOTATION = "llmariner.ai/project"
"""The annotation that holds a project's id."""

QUOTA_ANNOTATION = "llmariner.ai/quota"
"""Marks a LocalQueue that leads to a ClusterQueue of the project or of its organization, which has a quota
(`capacity.kueue`)."""

_log = logging.getLogger(__name__)
_SLUG_LIMIT = 36

Body = dict[str, Any]


def queue_name(pool: str, project: str) -> str:
    """The name of a project's LocalQueue in a pool; as a label value it has at most 63 characters."""
    slug = re.sub(r"[^a-z0-9]+", "-", project.lower()).strip("-")[:_SLUG_LIMIT].strip("-")
    return f"{pool[:16]}-{slug}-{hashlib.sha256(f'{pool} {project}'.encode()).hexdigest()[:8]}"


class ProjectQueues:
    """Project queues of one pool. Calls block, except `delete_unused`."""

    def __init__(self, cluster: Cluster, settings: KServeSettings) -> None:
        self._cluster = cluster
        self._namespace = settings.namespace
        self._pool = settings.queue
        self._is_optional = settings.queue_is_optional

    def ensure(self, project: str | None, organization: str | None = None) -> str:
        """Create the queue of a project's models if needed and return its name; "" without Kueue.

        It leads to the pool, or to what the quota of its organization has. If the pool's own queue is missing, its name is
        returned, and Kueue reports the error on the workload; "" where it is optional. Raises ClusterError if the project's
        queue can't be created.
        """
        if not self._pool or (project is None and not self._is_optional):
            return self._pool
        pool = self._find(self._pool)
        if pool is None:
            return "" if self._is_optional else self._pool
        if project is None:
            return self._pool
        name = queue_name(self._pool, project)
        found = self._find(name)
        if found is not None and _has_quota(found):
            return name
        limited = self._find(queue_name(self._pool, organization)) if organization else None
        if limited is not None and not _has_quota(limited):
            limited = None
        target = (limited or pool)["spec"]["clusterQueue"]
        if found is not None and limited is not None and found["spec"]["clusterQueue"] != target:
            return name  # the process that sets the quota is about to change where it leads
        marks = {QUOTA_ANNOTATION: "true"} if limited is not None else {}
        metadata = {
            "name": name,
            "namespace": self._namespace,
            "labels": MANAGED_BY_LABELS,
            "annotations": {PROJECT_ANNOTATION: project, **marks},
        }
        kind = {"apiVersion": LOCAL_QUEUES.api_version, "kind": LOCAL_QUEUES.kind}
        self._cluster.apply({**kind, "metadata": metadata, "spec": {"clusterQueue": target}})
        return name

    def _find(self, name: str) -> Body | None:
        return self._cluster.get(LOCAL_QUEUES, self._namespace, name)

    async def delete_unused(
        self, in_thread: Callable[..., Awaitable[Any]], used: Callable[[], Awaitable[set[str]]]
    ) -> None:
        """Delete the queues of projects that have no model. `used` returns the projects that have one."""
        if not self._pool or not (queues := await in_thread(self._list_managed)):
            return
        projects = await used()
        unused = [each for each in queues if _project(each) not in projects]
        for queue in unused:
            await in_thread(self._delete, queue)
        # A model created meanwhile may have woken before its queue was deleted: the queue is created again.
        if unused and (missed := {_project(each) for each in unused} & await used()):
            for project in missed:
                await in_thread(self.ensure, project)

    def list_all(self) -> tuple[list[Body], list[Body]]:
        """All queues and all workloads; empty if the cluster has no Kueue."""
        try:
            queues = self._cluster.list(LOCAL_QUEUES, self._namespace).items
            return queues, self._cluster.list(WORKLOADS, self._namespace).items
        except NotFound:
            return [], []

    def _list_managed(self) -> list[Body]:
        try:
            found = self._cluster.list(LOCAL_QUEUES, self._namespace, labels=MANAGED_BY_LABELS).items
        except NotFound:
            return []
        ours = [each for each in found if PROJECT_ANNOTATION in each["metadata"].get("annotations", {})]
        return [each for each in ours if not _has_quota(each)]

    def _delete(self, queue: Body) -> None:
        name, uid = queue["metadata"]["name"], queue["metadata"]["uid"]
        try:
            self._cluster.delete(LOCAL_QUEUES, self._namespace, name, uid=uid)
        except Conflict:
            _log.info("a new queue has the name %s: it stays", name)


class PoolWorkloads:
    """A snapshot of the pools' workloads; the first call of `of_queue` reads it and blocks."""

    def __init__(self, queues: ProjectQueues) -> None:
        self._queues = queues
        self._pools: dict[str, list[Body]] | None = None
        self._pool_of: dict[str, str] = {}

    def of_queue(self, queue: str) -> list[Body]:
        """All workloads of the pool that a queue belongs to, oldest first."""
        if self._pools is None:
            queues, workloads = self._queues.list_all()
            self._pool_of = {each["metadata"]["name"]: each["spec"]["clusterQueue"] for each in queues}
            self._pools = {}
            for each in sorted(workloads, key=lambda each: str(each["metadata"].get("creationTimestamp", ""))):
                pool = self._pool_of.get(each["spec"].get("queueName", ""), "")
                self._pools.setdefault(pool, []).append(each)
        return self._pools.get(self._pool_of.get(queue, ""), [])


def queue_of(pod: Body) -> str:
    """The name of a pod's LocalQueue; "" for none."""
    return str(pod["metadata"].get("labels", {}).get(QUEUE_LABEL, ""))


def _has_quota(queue: Body) -> bool:
    return QUOTA_ANNOTATION in queue["metadata"].get("annotations", {})


def _project(queue: Body) -> str:
    return str(queue["metadata"]["annotations"][PROJECT_ANNOTATION])
