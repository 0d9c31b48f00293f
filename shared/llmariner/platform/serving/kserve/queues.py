"""A LocalQueue of Kueue per project: whose models wait for quota, and hold it, is told apart.

It leads to the ClusterQueue of the pool's own LocalQueue, which models of the whole organisation wait in. It is made when a
model of the project first wakes, and goes when the project has no model left.
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

__all__ = ["PROJECT_ANNOTATION", "PoolWorkloads", "ProjectQueues", "queue_name", "queue_of"]

PROJECT_ANNOTATION = "llmariner.ai/project"
"""The annotation that holds a project's id."""

_log = logging.getLogger(__name__)
_SLUG_LIMIT = 36

Body = dict[str, Any]


def queue_name(pool: str, project: str) -> str:
    """The LocalQueue of a project in a pool: it is the value of a label, so of at most 63 characters."""
    slug = re.sub(r"[^a-z0-9]+", "-", project.lower()).strip("-")[:_SLUG_LIMIT].strip("-")
    return f"{pool[:16]}-{slug}-{hashlib.sha256(f'{pool} {project}'.encode()).hexdigest()[:8]}"


class ProjectQueues:
    """Of one pool. Calls block, but for `delete_unused`."""

    def __init__(self, cluster: Cluster, settings: KServeSettings) -> None:
        self._cluster = cluster
        self._namespace = settings.namespace
        self._pool = settings.queue

    def ensure(self, project: str | None) -> str:
        """The queue that a project's models wait in, made where it isn't there; "" where Kueue is not asked.

        Where the pool's own queue is missing there is no pool to lead to: its name stands, and Kueue says what is wrong.
        ClusterError: ours can't be made.
        """
        if not self._pool or project is None:
            return self._pool
        pool = self._cluster.get(LOCAL_QUEUES, self._namespace, self._pool)
        if pool is None:
            return self._pool
        name = queue_name(self._pool, project)
        metadata = {
            "name": name,
            "namespace": self._namespace,
            "labels": MANAGED_BY_LABELS,
            "annotations": {PROJECT_ANNOTATION: project},
        }
        kind = {"apiVersion": LOCAL_QUEUES.api_version, "kind": LOCAL_QUEUES.kind}
        self._cluster.apply({**kind, "metadata": metadata, "spec": {"clusterQueue": pool["spec"]["clusterQueue"]}})
        return name

    async def delete_unused(
        self, in_thread: Callable[..., Awaitable[Any]], used: Callable[[], Awaitable[set[str]]]
    ) -> None:
        """Delete the queues of projects that have no model. `used`: the projects that have one."""
        if not self._pool or not (queues := await in_thread(self._list_managed)):
            return
        projects = await used()
        unused = [each for each in queues if _project(each) not in projects]
        for queue in unused:
            await in_thread(self._delete, queue)
        # A model that was made meanwhile has woken before its queue went, or will make it anew by itself.
        if unused and (missed := {_project(each) for each in unused} & await used()):
            for project in missed:
                await in_thread(self.ensure, project)

    def list_all(self) -> tuple[list[Body], list[Body]]:
        """All queues and all workloads; none where the cluster has no Kueue."""
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
        return [each for each in found if PROJECT_ANNOTATION in each["metadata"].get("annotations", {})]

    def _delete(self, queue: Body) -> None:
        name, uid = queue["metadata"]["name"], queue["metadata"]["uid"]
        try:
            self._cluster.delete(LOCAL_QUEUES, self._namespace, name, uid=uid)
        except Conflict:
            _log.info("the queue %s is another by now: it stays", name)


class PoolWorkloads:
    """The workloads of pools at one moment; read when first asked for. Blocks then."""

    def __init__(self, queues: ProjectQueues) -> None:
        self._queues = queues
        self._pools: dict[str, list[Body]] | None = None
        self._pool_of: dict[str, str] = {}

    def of_queue(self, queue: str) -> list[Body]:
        """All workloads of a queue's pool, whichever of its queues they came by, oldest first."""
        if self._pools is None:
            queues, workloads = self._queues.list_all()
            self._pool_of = {each["metadata"]["name"]: each["spec"]["clusterQueue"] for each in queues}
            self._pools = {}
            for each in sorted(workloads, key=lambda each: str(each["metadata"].get("creationTimestamp", ""))):
                pool = self._pool_of.get(each["spec"].get("queueName", ""), "")
                self._pools.setdefault(pool, []).append(each)
        return self._pools.get(self._pool_of.get(queue, ""), [])


def queue_of(pod: Body) -> str:
    """The queue that a pod waits in; "" for none."""
    return str(pod["metadata"].get("labels", {}).get(QUEUE_LABEL, ""))


def _project(queue: Body) -> str:
    return str(queue["metadata"]["annotations"][PROJECT_ANNOTATION])
