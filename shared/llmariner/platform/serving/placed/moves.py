"""What the sweep does about placements: engines leave drained clusters once another one serves, and leave nothing behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from llmariner.errors import ModelNotFound, PlatformError
from llmariner.platform.kube.errors import ClusterError
from llmariner.platform.serving import Phase, Serving, served_name
from llmariner.platform.serving.kserve.model_lookup import EngineKey, ModelLookup
from llmariner.platform.serving.placed.cluster_access import ClusterAccess
from llmariner.platform.serving.placed.placements import HOME, Placement, Placements
from llmariner.platform.serving.placed.view import EngineView, Located

__all__ = ["Moves"]

_log = logging.getLogger(__name__)
_CONCURRENCY = 8
_FAILURES = (PlatformError, ClusterError, TimeoutError)


class Moves:
    """`view` reads an engine on its clusters, by the id of a model that it serves."""

    def __init__(
        self,
        home: Serving,
        placements: Placements,
        lookup: ModelLookup,
        access: ClusterAccess,
        view: Callable[[str], Awaitable[EngineView]],
    ) -> None:
        self._home = home
        self._placements = placements
        self._lookup = lookup
        self._access = access
        self._view = view

    async def sweep(self) -> None:
        """One round over all placements, and over the engines of a drained home cluster. Idempotent."""
        await self._placements.forget_gone()
        rows = await self._placements.all()
        for cluster_id in sorted({each.cluster_id for each in rows}):
            try:
                await self._access.reconcile(cluster_id)
            except _FAILURES as error:
                _log.warning("the engines of cluster %s can't be swept now: %s", cluster_id, error)
        by_engine: dict[EngineKey, list[Placement]] = {}
        for each in rows:
            by_engine.setdefault(each.engine, []).append(each)
        served = await self._lookup.engines(set(by_engine))
        ids = {engine: served[engine].ids[0] for engine in by_engine if engine in served and served[engine].ids}
        for engine, placements in by_engine.items():
            if engine not in ids:
                await asyncio.gather(*map(self.clean, placements))
        targets = set(ids.values())
        if await self._placements.is_home_draining():
            targets |= set(await self._home.statuses())
        semaphore = asyncio.Semaphore(_CONCURRENCY)

        async def settle(model_id: str) -> None:
            async with semaphore:
                await self._settle(model_id)

        await asyncio.gather(*map(settle, sorted(targets)))

    async def clean(self, placement: Placement) -> None:
        """Remove what a deleted model left on a cluster; its row stays while the cluster is away."""
        try:
            await self._access.remove(placement.cluster_id, placement.engine[0])
        except _FAILURES as error:
            _log.warning("%s stays on %s for now: %s", served_name(placement.engine[0]), placement.cluster_id, error)
            return
        await self._placements.remove(placement.engine, placement.cluster_id)

    async def _settle(self, model_id: str) -> None:
        try:
            view = await self._view(model_id)
            if (keeper := view.keeper()) is not None:
                await self._end_others(model_id, view, keeper)
            elif any(each.is_draining and each.status.phase is not Phase.ASLEEP for each in view.located):
                await self._start_elsewhere(model_id, view)
            else:
                leaving = [each for each in view.located if each.is_draining and each.cluster_id != HOME]
                await asyncio.gather(*(self._end(model_id, view, each) for each in leaving))
        except ModelNotFound:
            return
        except _FAILURES as error:
            _log.warning("where %s runs can't be settled now: %s", served_name(model_id), error)

    async def _start_elsewhere(self, model_id: str, view: EngineView) -> None:
        """Wake it on a cluster that is not drained; the drained one serves until then."""
        elsewhere = [each for each in view.located if not each.is_draining and each.status.phase is not Phase.ASLEEP]
        cluster_id = next((each.cluster_id for each in elsewhere if each.away_seconds is None), None)
        if cluster_id is None:
            cluster_id = (await self._placements.place(view.served, excluded=view.hopeless())).cluster_id
        if cluster_id == HOME:
            await self._home.wake(model_id)
        elif cluster_id is not None:
            await self._access.wake(cluster_id, model_id)

    async def _end_others(self, model_id: str, view: EngineView, keeper: Located) -> None:
        """End it where another cluster serves instead; requests in flight end first."""
        for each in view.located:
            if each.cluster_id != keeper.cluster_id and not each.status.requests_running:
                await self._end(model_id, view, each)

    async def _end(self, model_id: str, view: EngineView, located: Located) -> None:
        if located.away_seconds is not None:
            return
        if located.cluster_id == HOME:
            if located.status.phase is not Phase.ASLEEP:
                await self._home.sleep(model_id)
            return
        await self._access.evict(located.cluster_id, model_id)
        await self._placements.remove((view.served.engine.id, view.served.engine.adapters_of), located.cluster_id)
