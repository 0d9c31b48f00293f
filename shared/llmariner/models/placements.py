"""Placements of engines on worker clusters: the rows, and the choice of a cluster by `clusters.placement`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select, update

from llmariner.clusters.cluster import LOCAL_CLUSTER_ID
from llmariner.clusters.placement import Candidate, Decision, Demand, Policy, place
from llmariner.clusters.status import ClusterStatus, ClusterStatuses
from llmariner.clusters.tables import clusters
from llmariner.models.tables import model_placements
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.kserve.model_lookup import EngineKey, ServedEngine
from llmariner.platform.serving.placed.placements import HOME, Choice, Placement
from llmariner.showback.prices import ComputePriceList
from llmariner.tenancy.tables import organizations, projects

__all__ = ["ModelPlacements", "can_leave_home"]

assert HOME == LOCAL_CLUSTER_ID
_FRESH_SECONDS = 2.0
_MAX_CANDIDATES = 200
# A process that wakes the same engine has read where it is before another one placed it: so long that may take.
_SAME_WAKE_SECONDS = 5.0
_MAX_REASONS = 10
_GIB = 1 << 30


class ModelPlacements:
    """Implements `placed.placements.Placements`; database work runs in threads."""

    def __init__(
        self, database: Database, statuses: Callable[[], ClusterStatuses], policy: Policy = Policy.SPREAD
    ) -> None:
        self._database = database
        self._statuses = statuses
        self._policy = policy
        self._exist: tuple[float, bool] = (float("-inf"), False)

    async def exist(self) -> bool:
        """See the port; cached for two seconds."""
        read_at, found = self._exist
        if time.monotonic() - read_at > _FRESH_SECONDS:
            found = await asyncio.to_thread(self._any)
            self._exist = (time.monotonic(), found)
        return found

    async def of(self, engine: EngineKey) -> Sequence[Placement]:
        """See the port."""
        return await asyncio.to_thread(self._read, _is_of(engine))

    async def all(self) -> Sequence[Placement]:
        """See the port."""
        return await asyncio.to_thread(self._read, None)

    async def is_home_draining(self) -> bool:
        """See the port."""
        return await asyncio.to_thread(self._is_home_draining)

    async def place(self, served: ServedEngine, *, excluded: Collection[str]) -> Choice:
        """See the port."""
        return await asyncio.to_thread(self._place, served, frozenset(excluded))

    async def remove(self, engine: EngineKey, cluster_id: str) -> None:
        """See the port."""
        this = _is_of(engine) & (model_placements.c.cluster_id == cluster_id)
        await asyncio.to_thread(
            self._database.transact, lambda session: session.run(delete(model_placements).where(this))
        )

    async def forget_gone(self) -> None:
        """See the port."""
        gone = model_placements.c.cluster_id.not_in(select(clusters.c.id))
        await asyncio.to_thread(self._forget, gone)

    def _forget(self, gone: ColumnElement[bool]) -> None:
        with self._database.read() as session:
            if session.first(select(model_placements.c.cluster_id).where(gone).limit(1)) is None:
                return
        self._database.transact(lambda session: session.run(delete(model_placements).where(gone)))

    def _any(self) -> bool:
        with self._database.read() as session:
            others = select(clusters.c.id).where(clusters.c.id != HOME).limit(1)
            return session.first(others) is not None or session.first(select(model_placements.c.cluster_id)) is not None

    def _read(self, condition: ColumnElement[bool] | None) -> list[Placement]:
        c = model_placements.c
        query = select(
            c.model_id, c.adapters_of, c.cluster_id, c.woken_at, clusters.c.name, clusters.c.drain_requested_at
        )
        query = query.select_from(model_placements.outerjoin(clusters, clusters.c.id == c.cluster_id))
        query = query if condition is None else query.where(condition)
        with self._database.read() as session:
            rows = session.rows(query.order_by(c.woken_at.desc(), c.cluster_id))
        return [
            Placement(
                (row.model_id, row.adapters_of or None),
                row.cluster_id,
                row.name or row.cluster_id,  # of one that was unregistered while it was away
                row.woken_at,
                row.drain_requested_at is not None,
            )
            for row in rows
        ]

    def _is_home_draining(self) -> bool:
        with self._database.read() as session:
            return session.value(select(clusters.c.drain_requested_at).where(clusters.c.id == HOME)) is not None

    def _place(self, served: ServedEngine, excluded: frozenset[str]) -> Choice:
        with self._database.read() as session:
            visible = self._visible(session, served.engine)
            query = select(clusters).where(visible).order_by(clusters.c.id).limit(_MAX_CANDIDATES)
            found = session.rows(query)
            prices = self._prices(session)
        # Read before the transaction: the machine of the standalone mode is asked in the event loop.
        known = self._statuses().of([row.id for row in found], whole=True)

        def choose(session: WriteSession) -> Choice:
            # Of two placements at once, the second sees what the first assumed: it waits for the rows, in the order of ids.
            rows = session.rows(query.with_for_update())
            if placed := _just_placed(
                session, served, {row.id for row in rows if not row.drain_requested_at} - excluded
            ):
                return Choice(placed)
            assumed = _assumed(session, known)
            candidates = [_candidate(row, known.get(row.id), assumed.get(row.id, 0), prices) for row in rows]
            decision = self._decide(served, candidates, excluded)
            if decision.cluster_id not in (None, HOME):
                _record(session, served, str(decision.cluster_id))
            # Everybody may wait for a shared model, and not everybody may know the clusters.
            names = {} if served.engine.project is None else {row.id: row.name for row in rows}
            return Choice(decision.cluster_id, _why_not(decision, names))

        return self._database.transact(choose)

    def _prices(self, session: ReadSession) -> ComputePriceList | None:
        """The present prices of GPUs, where they matter."""
        now = time.time()
        return ComputePriceList.of_span(session, now, now + 1) if self._policy is Policy.CHEAPEST else None

    def _visible(self, session: ReadSession, engine: EngineModel) -> ColumnElement[bool]:
        """The clusters of the model's project; of a shared model those of the organization that runs the installation."""
        organization = engine.organization
        if engine.project is None:
            organization = session.value(select(organizations.c.id).where(organizations.c.is_default))
        own = or_(clusters.c.organization_id == organization, clusters.c.id == HOME)
        stored = session.value(select(projects.c.assignments).where(projects.c.id == engine.project))
        named = {each["cluster_id"] for each in json.loads(stored or "[]")}
        if named and "" not in named:
            own &= or_(clusters.c.id.in_(sorted(named)), clusters.c.id == HOME)
        return own & clusters.c.delete_requested_at.is_(None)

    def _decide(self, served: ServedEngine, candidates: Sequence[Candidate], excluded: frozenset[str]) -> Decision:
        engine = served.engine
        ids = {HOME, *(each.cluster_id for each in candidates)} if can_leave_home(served) else {HOME}
        allowed = frozenset((ids & set(engine.allowed_clusters) if engine.allowed_clusters else ids) - excluded)
        home = next((each for each in candidates if each.cluster_id == HOME), None)
        if HOME in allowed and (home is None or (home.inventory is None and not home.is_draining)):
            return Decision(HOME, (), ())  # nobody reports what it has: it is asked first, as before there were others
        has_gpus = any(
            each.inventory is not None
            and each.inventory.total("gpus")
            and each.is_connected
            and each.cluster_id in allowed
            for each in candidates
        )
        demand = Demand(
            # Where no cluster has a GPU, engines run on processors, whatever a model asks for.
            gpus=engine.gpus if has_gpus else 0,
            memory_bytes=round(engine.size_bytes * 1.3) + 3 * _GIB if engine.size_bytes else 0,
            allowed=allowed,
            warm=frozenset({HOME}) if engine.folder.startswith("/") else frozenset(),
        )
        return place(demand, candidates, self._policy)


def can_leave_home(served: ServedEngine) -> bool:
    """Whether another cluster can fetch everything that the engine loads."""
    return all(each.storage_uri for each in (served.engine, *served.adapters))


def _is_of(engine: EngineKey) -> ColumnElement[bool]:
    return (model_placements.c.model_id == engine[0]) & (model_placements.c.adapters_of == (engine[1] or ""))


def _assumed(session: WriteSession, known: Mapping[str, ClusterStatus]) -> dict[str, int]:
    """GPUs of engines that were placed on each cluster since its inventory."""
    c = model_placements.c
    query = select(c.cluster_id, c.woken_at, c.gpus).where(c.cluster_id.in_(sorted(known)))
    found: dict[str, int] = {}
    for row in session.rows(query):
        if row.woken_at > (known[row.cluster_id].inventory_at or 0.0):
            found[row.cluster_id] = found.get(row.cluster_id, 0) + row.gpus
    return found


def _candidate(row: Any, status: ClusterStatus | None, assumed: int, prices: ComputePriceList | None) -> Candidate:
    inventory = None if status is None else status.inventory
    products = () if inventory is None or prices is None else [each.product for each in inventory.products]
    known = {product: prices.at(product, round(time.time() * 1000)) for product in products} if prices else {}
    return Candidate(
        cluster_id=row.id,
        is_connected=status is not None and (status.is_connected if row.id == HOME else status.accepts_work),
        is_draining=row.drain_requested_at is not None,
        inventory=inventory,
        inventory_age_seconds=None
        if status is None or status.inventory_at is None
        else max(0.0, time.time() - status.inventory_at),
        assumed_gpus=assumed,
        price={product: price.gpu_hour for product, price in known.items() if price is not None},
    )


def _just_placed(session: ReadSession, served: ServedEngine, usable: Collection[str]) -> str | None:
    """Where another process has placed the engine for the same wake: two would have two clusters start it."""
    engine, c = served.engine, model_placements.c
    recent = _is_of((engine.id, engine.adapters_of)) & (c.woken_at > time.time() - _SAME_WAKE_SECONDS)
    allowed = set(usable) & set(engine.allowed_clusters) if engine.allowed_clusters else set(usable)
    found = select(c.cluster_id).where(recent, c.cluster_id.in_(sorted(allowed))).order_by(c.woken_at.desc())
    return session.value(found.limit(1)) if can_leave_home(served) else None


def _record(session: WriteSession, served: ServedEngine, cluster_id: str) -> None:
    engine = served.engine
    this = _is_of((engine.id, engine.adapters_of)) & (model_placements.c.cluster_id == cluster_id)
    values = {"woken_at": time.time(), "gpus": engine.gpus * max(1, engine.replicas), "created": engine.created}
    if session.value(select(func.count()).select_from(model_placements).where(this)):
        session.run(update(model_placements).where(this).values(**values))
        return
    key = {"model_id": engine.id, "adapters_of": engine.adapters_of or "", "cluster_id": cluster_id}
    session.add(model_placements, **key, **values)


def _why_not(decision: Decision, names: Mapping[str, str]) -> str:
    """Why no cluster was chosen, for everybody who waits for the model: clusters by their names."""
    if decision.cluster_id is not None:
        return ""
    reasons = [
        f"{names[each.cluster_id]}: {each.reason}"
        for each in decision.refusals[:_MAX_REASONS]
        if each.cluster_id in names
    ]
    return " ".join(["No cluster takes the model now.", *reasons])
