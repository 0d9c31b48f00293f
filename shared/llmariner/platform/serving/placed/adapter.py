"""The serving port over several clusters. Without worker clusters it is the adapter of the home cluster, at its cost.

A model is woken on the cluster that the placements choose; a second one is chosen when the first is away, full for too
long, or fails. Rows are written before anything is made on a cluster, so that a killed process leaves nothing unknown.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from llmariner.errors import ModelNotFound, PlatformError
from llmariner.gateway.single_flight import SingleFlight
from llmariner.platform.kube.errors import ClusterError
from llmariner.platform.serving import EngineModel, Phase, Serving, Status
from llmariner.platform.serving.kserve.model_lookup import EngineKey, ModelLookup, ServedEngine
from llmariner.platform.serving.placed.cluster_access import ClusterAccess, WorkerServing
from llmariner.platform.serving.placed.moves import Moves
from llmariner.platform.serving.placed.placements import HOME, HOME_NAME, Placement, Placements
from llmariner.platform.serving.placed.queue_times import QueueTimes
from llmariner.platform.serving.placed.retries import Retries, Retry
from llmariner.platform.serving.placed.view import EngineView, Located

__all__ = ["PlacedServing"]

_log = logging.getLogger(__name__)
_VIEW_SECONDS = 0.3
_REASON_SECONDS = 10.0
_MAX_REMEMBERED = 2000
AWAY_SECONDS = 10.0
"""How long a cluster may be away before its models are woken elsewhere: agents connect again within seconds."""


class PlacedServing:
    """See `platform.serving.Serving`. `worker` makes the adapter of a cluster; it may block.

    `spill_seconds`: how long an engine may wait for room on its cluster before another one is tried, too.
    """

    def __init__(
        self,
        home: Serving,
        placements: Placements,
        lookup: ModelLookup,
        worker: Callable[[str], WorkerServing],
        *,
        spill_seconds: float = 60.0,
        away_seconds: float = AWAY_SECONDS,
    ) -> None:
        self._home = home
        self._placements = placements
        self._lookup = lookup
        self._spill_seconds = spill_seconds
        self._away_seconds = away_seconds
        self._observers: list[Callable[[str, Status], None]] = []
        self._access = ClusterAccess(worker, self._notify_of_worker)
        self._moves = Moves(home, placements, lookup, self._access, self._fresh_view)
        self._views: dict[str, tuple[float, EngineView]] = {}
        self._view_flights: SingleFlight[EngineView] = SingleFlight()
        self._wake_flights: SingleFlight[None] = SingleFlight()
        self._retries = Retries()
        self._reasons: dict[str, tuple[float, str]] = {}
        self._queue_times = QueueTimes()
        self._endpoints: dict[str, str | None] = {}
        self._placed: frozenset[tuple[str, str]] = frozenset()
        home.subscribe(self._notify)

    async def status(self, model_id: str) -> Status:
        """See the port: the status where it serves, or is about to.

        One that failed is started on another cluster, if that takes it and somebody waits for the model.
        """
        if not await self._placements.exist():
            return await self._home.status(model_id)
        status = (await self._view(model_id)).status()
        if status.phase is Phase.FAILED and (retry := self._retries.of(model_id)) is not None:
            status = await self._retried(model_id, retry)
        at, reason = self._reasons.get(model_id, (float("-inf"), ""))
        if status.phase is Phase.ASLEEP and time.monotonic() - at < _REASON_SECONDS:
            status = replace(status, phase=Phase.QUEUED, message=reason)
        self._observe_endpoint(model_id, status)
        return status

    async def statuses(self) -> dict[str, Status]:
        """See the port. A cluster that does not answer in time has the statuses that it had last."""
        if not await self._placements.exist():
            return await self._home.statuses()
        rows = await self._placements.all()
        draining = {each.cluster_id for each in rows if each.is_draining}
        names = {each.cluster_id: each.cluster_name for each in rows}
        ids = sorted(names)
        placed = self._placed = await self._placed_models(rows)
        home, *others = await asyncio.gather(self._home.statuses(), *map(self._access.statuses, ids))
        found: dict[str, list[Located]] = {}
        for cluster_id, statuses in zip((HOME, *ids), (home, *others), strict=True):
            for model_id, status in statuses.items():
                if cluster_id != HOME and (cluster_id, model_id) not in placed:
                    continue
                located = Located(
                    cluster_id, names.get(cluster_id, HOME_NAME), status, is_draining=cluster_id in draining
                )
                found.setdefault(model_id, []).append(located)
        merged = {}
        for model_id, everywhere in found.items():
            merged[model_id] = EngineView(_NOTHING, (), everywhere).status()
            if model_id in self._endpoints:
                self._observe_endpoint(model_id, merged[model_id])
        return merged

    async def wake(self, model_id: str) -> None:
        """See the port."""
        if not await self._placements.exist():
            await self._home.wake(model_id)
            return
        self._retries.note_wake(model_id)
        await self._wake_flights.do(model_id, lambda: self._wake(model_id))

    async def sleep(self, model_id: str) -> None:
        """See the port, on every cluster. Unavailable if one of them can't be asked."""
        if not await self._placements.exist():
            await self._home.sleep(model_id)
            return
        self._retries.forget(model_id)
        view = await self._view(model_id, fresh=True)
        works: list[Awaitable[None]] = [self._home.sleep(model_id)]
        works += [self._access.sleep(each.cluster_id, model_id) for each in view.placements]
        self._views.pop(model_id, None)
        _raise_first(await asyncio.gather(*works, return_exceptions=True))

    async def remove(self, model_id: str, folder: str) -> None:
        """See the port. What a cluster that is away has left is removed by a later sweep."""
        await self._home.remove(model_id, folder)
        if not await self._placements.exist():
            return
        self._views.pop(model_id, None)
        self._retries.forget(model_id)
        for each in await self._placements.all():
            if each.engine[0] == model_id:
                await self._moves.clean(each)

    async def import_existing(self, service: str) -> None:
        """See the port: InferenceServices of others are looked for at home alone."""
        await self._home.import_existing(service)

    async def reconcile(self) -> None:
        """See the port: each cluster's own sweep, then moves between clusters."""
        await self._home.reconcile()
        if await self._placements.exist():
            await self._moves.sweep()
            self._views.clear()

    def subscribe(self, observer: Callable[[str, Status], None]) -> None:
        """See the port."""
        self._observers.append(observer)

    async def close(self) -> None:
        """See the port."""
        await self._access.close()
        await self._home.close()

    async def _fresh_view(self, model_id: str) -> EngineView:
        return await self._view(model_id, fresh=True)

    async def _view(self, model_id: str, *, fresh: bool = False) -> EngineView:
        """The engine of a model on its clusters; callers at the same moment share one. ModelNotFound."""
        read_at, view = self._views.get(model_id, (float("-inf"), None))
        if view is not None and not fresh and time.monotonic() - read_at < _VIEW_SECONDS:
            return view
        return await self._view_flights.do(model_id, lambda: self._read_view(model_id))

    async def _read_view(self, model_id: str) -> EngineView:
        served = await self._lookup.engine(model_id)
        placements = await self._placements.of((served.engine.id, served.engine.adapters_of))
        home, *others = await asyncio.gather(
            self._locate_home(served, model_id), *(self._locate(served, model_id, each) for each in placements)
        )
        view = EngineView(served, placements, (home, *others))
        self._views.pop(model_id, None)
        self._views[model_id] = (time.monotonic(), view)
        if len(self._views) > _MAX_REMEMBERED:
            del self._views[next(iter(self._views))]
        return view

    async def _locate_home(self, served: ServedEngine, model_id: str) -> Located:
        status = await self._home.status(model_id)
        draining = not _allows(served, HOME)
        if not draining and status.phase is not Phase.ASLEEP:
            draining = await self._placements.is_home_draining()
        queued_seconds = self._queue_times.seconds(HOME, model_id, status)
        return Located(HOME, HOME_NAME, status, is_draining=draining, queued_seconds=queued_seconds)

    async def _locate(self, served: ServedEngine, model_id: str, placement: Placement) -> Located:
        status, away_seconds = await self._access.status(placement.cluster_id, model_id)
        draining = placement.is_draining or not _allows(served, placement.cluster_id)
        return Located(
            placement.cluster_id,
            placement.cluster_name,
            status,
            placement.woken_at,
            draining,
            away_seconds,
            queued_seconds=self._queue_times.seconds(placement.cluster_id, model_id, status),
        )

    async def _wake(self, model_id: str) -> None:
        view = await self._view(model_id, fresh=True)
        limits = {"spill_seconds": self._spill_seconds, "away_seconds": self._away_seconds}
        if running := view.in_progress(**limits):
            await self._wake_on((each.cluster_id for each in running if not each.is_ready), model_id)
            return
        choice = await self._placements.place(view.served, excluded=view.hopeless())
        self._views.pop(model_id, None)
        if choice.cluster_id is not None:
            self._reasons.pop(model_id, None)
            _log.info("%s is woken on %s", model_id, choice.cluster_id)
            await self._wake_on((choice.cluster_id,), model_id)
            return
        self._reasons[model_id] = (time.monotonic(), choice.reason)
        # No other cluster takes it: it is tried again where it failed or waits.
        present = [each for each in view.located if each.status.phase is not Phase.ASLEEP]
        await self._wake_on((each.cluster_id for each in present if each.away_seconds is None), model_id)

    async def _retried(self, model_id: str, retry: Retry) -> Status:
        """The status of a model that failed where it was woken, once it is started on another cluster that takes it."""
        if not retry.is_starting(await self._view(model_id)):
            await self._wake_flights.do(model_id, lambda: self._start_elsewhere(model_id, retry))
        view = await self._view(model_id)
        status = view.status()
        if status.phase is Phase.FAILED and retry.is_starting(view):
            return replace(status, phase=Phase.QUEUED, message=f"started on another cluster, after: {status.message}")
        return status

    async def _start_elsewhere(self, model_id: str, retry: Retry) -> None:
        view = await self._view(model_id, fresh=True)
        at, _ = self._reasons.get(model_id, (float("-inf"), ""))
        if view.status().phase is not Phase.FAILED or time.monotonic() - at < _REASON_SECONDS:
            return
        choice = await self._placements.place(view.served, excluded=view.hopeless() | retry.tried)
        self._views.pop(model_id, None)
        if choice.cluster_id is None:
            self._reasons[model_id] = (time.monotonic(), choice.reason)
            return
        _log.info("%s failed, and is woken on %s", model_id, choice.cluster_id)
        retry.note_start(choice.cluster_id)
        await self._wake_on((choice.cluster_id,), model_id)

    async def _wake_on(self, cluster_ids: Iterable[str], model_id: str) -> None:
        for cluster_id in cluster_ids:
            if cluster_id == HOME:
                await self._home.wake(model_id)
                continue
            try:
                await self._access.wake(cluster_id, model_id)
            except (PlatformError, ClusterError, TimeoutError) as error:
                _log.warning("%s could not be woken on %s: %s", model_id, cluster_id, error)

    async def _placed_models(self, rows: Iterable[Placement]) -> frozenset[tuple[str, str]]:
        """Clusters with the models that are placed on them: a cluster may say that it serves others, too."""
        keys = {each.cluster_id: set[EngineKey]() for each in rows}
        for each in rows:
            keys[each.cluster_id].add(each.engine)
        served = await self._lookup.engines({each.engine for each in rows})
        return frozenset(
            (cluster_id, model_id)
            for cluster_id, engines in keys.items()
            for engine in engines & served.keys()
            for model_id in served[engine].ids
        )

    def _observe_endpoint(self, model_id: str, status: Status) -> None:
        """Notify observers when another cluster serves a model than before."""
        before = self._endpoints.pop(model_id, status.endpoint)
        if status.endpoint is not None or before is not None:
            self._endpoints[model_id] = status.endpoint
        if before != status.endpoint:
            self._notify(model_id, status)
        while len(self._endpoints) > _MAX_REMEMBERED:
            del self._endpoints[next(iter(self._endpoints))]

    def _notify_of_worker(self, cluster_id: str, model_id: str, status: Status) -> None:
        if (cluster_id, model_id) in self._placed or model_id in self._endpoints or model_id in self._views:
            self._notify(model_id, status)

    def _notify(self, model_id: str, status: Status) -> None:
        self._views.pop(model_id, None)
        for observer in self._observers:
            observer(model_id, status)


_NOTHING = ServedEngine(EngineModel("", "", "", 0))


def _allows(served: ServedEngine, cluster_id: str) -> bool:
    """Whether the model's configuration lets it stay on a cluster."""
    return not served.engine.allowed_clusters or cluster_id in served.engine.allowed_clusters


def _raise_first(results: Iterable[object]) -> None:
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, ModelNotFound):
            raise result
