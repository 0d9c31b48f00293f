"""The adapters of worker clusters, each asked with a limit of time, and what is known of a cluster that is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from llmariner.errors import PlatformError, Unavailable
from llmariner.platform.kube.errors import ClusterError
from llmariner.platform.serving import Phase, Serving, Status

__all__ = ["ClusterAccess", "WorkerServing"]

T = TypeVar("T")
_log = logging.getLogger(__name__)
_STATUS_SECONDS, _CHANGE_SECONDS = 5.0, 40.0
# A cluster that did not answer is asked again after this time, once for all of its models.
_RETRY_SECONDS = 1.0
# How long the statuses of all clusters wait for one that is slow. Its answer counts as soon as it is there.
_LIST_SECONDS = 1.0
_FAILURES = (PlatformError, ClusterError, TimeoutError)


class WorkerServing(Serving, Protocol):
    """The serving port of one worker cluster: `kserve.adapter.KServeServing`."""

    async def evict(self, model_id: str) -> None:
        """Leave nothing of the model's engine on the cluster, since another one serves it. Idempotent."""


class ClusterAccess:
    """`worker` makes the adapter of a cluster, in a thread. `observer` gets their changes of phase, with the cluster.

    A cluster is its organization's, which may let it say anything: what can't be read is a cluster that can't be asked.
    """

    def __init__(self, worker: Callable[[str], WorkerServing], observer: Callable[[str, str, Status], None]) -> None:
        self._make = worker
        self._observer = observer
        self._workers: dict[str, asyncio.Task[WorkerServing]] = {}
        self._away_since: dict[str, float] = {}
        self._asked_at: dict[str, float] = {}
        self._known: dict[str, dict[str, Status]] = {}
        self._listings: dict[str, tuple[float, asyncio.Task[None]]] = {}

    async def status(self, cluster_id: str, model_id: str) -> tuple[Status, float | None]:
        """The status of a model there; for how many seconds the cluster has been away, None: it answers."""
        now = time.monotonic()
        since = self._away_since.get(cluster_id)
        if since is not None and now - self._asked_at.get(cluster_id, float("-inf")) < _RETRY_SECONDS:
            return _away(), now - since
        self._asked_at[cluster_id] = now
        try:
            status = await self._ask(cluster_id, lambda worker: worker.status(model_id), _STATUS_SECONDS)
        except _FAILURES as error:
            since = self._mark_away(cluster_id, error)
            return _away(), time.monotonic() - since
        self._away_since.pop(cluster_id, None)
        return status, None

    async def statuses(self, cluster_id: str) -> dict[str, Status]:
        """The statuses there; the last known ones without endpoints while the cluster is away.

        Returns within a second: until a slow cluster has answered, the last known ones count.
        """
        now = time.monotonic()
        started_at, task = self._listings.get(cluster_id, (float("-inf"), None))
        if task is None or task.done():
            if cluster_id in self._away_since and now - self._asked_at.get(cluster_id, 0.0) < _RETRY_SECONDS:
                return dict.fromkeys(self._known.get(cluster_id, {}), _away())
            self._asked_at[cluster_id] = started_at = now
            task = asyncio.create_task(self._list(cluster_id))
            self._listings[cluster_id] = started_at, task
        if (left := started_at + _LIST_SECONDS - now) > 0:
            await asyncio.wait((task,), timeout=left)
        known = self._known.get(cluster_id, {})
        return dict.fromkeys(known, _away()) if cluster_id in self._away_since else known

    async def _list(self, cluster_id: str) -> None:
        try:
            found = await self._ask(cluster_id, lambda worker: worker.statuses(), _STATUS_SECONDS)
        except _FAILURES as error:
            self._mark_away(cluster_id, error)
        else:
            self._away_since.pop(cluster_id, None)
            self._known[cluster_id] = found

    async def wake(self, cluster_id: str, model_id: str) -> None:
        """Raises PlatformError, ClusterError or TimeoutError, as all that follow."""
        await self._ask(cluster_id, lambda worker: worker.wake(model_id), _CHANGE_SECONDS)

    async def sleep(self, cluster_id: str, model_id: str) -> None:
        """Stop the engine there."""
        await self._ask(cluster_id, lambda worker: worker.sleep(model_id), _CHANGE_SECONDS)

    async def evict(self, cluster_id: str, model_id: str) -> None:
        """Leave nothing of the engine there."""
        await self._ask(cluster_id, lambda worker: worker.evict(model_id), _CHANGE_SECONDS)

    async def remove(self, cluster_id: str, model_id: str) -> None:
        """Leave nothing of a deleted model there."""
        await self._ask(cluster_id, lambda worker: worker.remove(model_id, ""), _CHANGE_SECONDS)

    async def reconcile(self, cluster_id: str) -> None:
        """The cluster's own sweep."""
        await self._ask(cluster_id, lambda worker: worker.reconcile(), _CHANGE_SECONDS)

    async def close(self) -> None:
        """Close the adapters; engines keep running."""
        for _, listing in self._listings.values():
            listing.cancel()
        for task in self._workers.values():
            if task.done() and not task.cancelled() and task.exception() is None:
                await task.result().close()
            task.cancel()

    async def _ask(self, cluster_id: str, work: Callable[[WorkerServing], Awaitable[T]], seconds: float) -> T:
        task = self._workers.get(cluster_id)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._workers[cluster_id] = asyncio.create_task(self._start(cluster_id))
        try:
            async with asyncio.timeout(seconds):
                return await work(await asyncio.shield(task))
        except _FAILURES:
            raise
        except Exception as error:
            _log.warning("what cluster %s answers can't be read", cluster_id, exc_info=True)
            raise Unavailable(f"What the cluster answers can't be read: {type(error).__name__}.") from error

    async def _start(self, cluster_id: str) -> WorkerServing:
        worker = await asyncio.to_thread(self._make, cluster_id)
        worker.subscribe(lambda model_id, status: self._observer(cluster_id, model_id, status))
        return worker

    def _mark_away(self, cluster_id: str, error: BaseException) -> float:
        if cluster_id not in self._away_since:
            _log.warning("cluster %s can't be asked: %s", cluster_id, str(error) or "no answer in time")
        return self._away_since.setdefault(cluster_id, time.monotonic())


def _away() -> Status:
    return Status(Phase.QUEUED, message="its cluster is not connected now")
