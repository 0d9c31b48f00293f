"""Models on several clusters: where each is woken, what is tried when a cluster is full or away, and how it moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from llmariner.errors import ModelNotFound, Unavailable
from llmariner.platform.serving import EngineModel, Phase, Status
from llmariner.platform.serving.kserve.model_lookup import EngineKey, ServedEngine
from llmariner.platform.serving.placed.adapter import PlacedServing
from llmariner.platform.serving.placed.placements import HOME, Choice, Placement

MODEL = EngineModel("small", "hf://org/small", "generate", 0, storage_uri="hf://org/small")
READY = Status(Phase.READY, progress=1.0, endpoint="http://engine", capacity=4)


class OneCluster:
    """A serving adapter in memory. `becomes`: the status after a wake; `away`: it does not answer, `error`: nonsense."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.now: dict[str, Status] = {}
        self.becomes = replace(READY, endpoint=f"http://{name}")
        self.away = self.hangs = False
        self.error: Exception | None = None
        self.calls: list[str] = []
        self.observers: list[Callable[[str, Status], None]] = []

    def call(self, what: str) -> None:
        if self.away:
            raise Unavailable("No agent of this cluster is connected.")
        if self.error is not None:
            raise self.error
        self.calls.append(what)

    def set(self, status: Status) -> None:
        self.now[MODEL.id] = status

    async def status(self, model_id: str) -> Status:
        self.call("status")
        return self.now.get(model_id, Status())

    async def statuses(self) -> dict[str, Status]:
        self.call("statuses")
        if self.hangs:
            await asyncio.sleep(60)
        return {name: status for name, status in self.now.items() if status.phase is not Phase.ASLEEP}

    async def wake(self, model_id: str) -> None:
        self.call("wake")
        if self.now.get(model_id, Status()).phase is Phase.ASLEEP:
            self.now[model_id] = self.becomes

    async def sleep(self, model_id: str) -> None:
        self.call("sleep")
        self.now[model_id] = Status()

    async def evict(self, model_id: str) -> None:
        self.call("evict")
        self.now.pop(model_id, None)

    async def remove(self, model_id: str, folder: str) -> None:
        self.call("remove")
        self.now.pop(model_id, None)

    async def import_existing(self, service: str) -> None:
        self.call("import")

    async def reconcile(self) -> None:
        self.call("reconcile")

    def subscribe(self, observer: Callable[[str, Status], None]) -> None:
        self.observers.append(observer)

    async def close(self) -> None:
        pass


@dataclass
class InMemoryPlacements:
    """Chooses the first of `order` that is not excluded."""

    order: list[str]
    rows: dict[str, Placement] = field(default_factory=dict)
    draining: set[str] = field(default_factory=set)
    excluded: list[frozenset[str]] = field(default_factory=list)

    async def exist(self) -> bool:
        return bool(self.order)

    async def of(self, engine: EngineKey) -> Sequence[Placement]:
        return [each for each in await self.all() if each.engine == engine]

    async def all(self) -> Sequence[Placement]:
        rows = sorted(self.rows.values(), key=lambda each: -each.woken_at)
        return [replace(each, is_draining=each.cluster_id in self.draining) for each in rows]

    async def is_home_draining(self) -> bool:
        return HOME in self.draining

    async def place(self, served: ServedEngine, *, excluded: Collection[str]) -> Choice:
        self.excluded.append(frozenset(excluded))
        free = [each for each in self.order if each not in excluded and each not in self.draining]
        if not free:
            return Choice(None, "No cluster takes the model now.")
        if free[0] != HOME:
            key = (served.engine.id, served.engine.adapters_of)
            self.rows[free[0]] = Placement(key, free[0], f"the {free[0]}", time.time(), False)
        return Choice(free[0])

    async def forget_gone(self) -> None:
        pass

    async def remove(self, engine: EngineKey, cluster_id: str) -> None:
        self.rows.pop(cluster_id, None)


class Lookup:
    """The registry with one model."""

    model: EngineModel | None = MODEL

    async def engine(self, model_id: str) -> ServedEngine:
        if self.model is None:
            raise ModelNotFound(model_id)
        return ServedEngine(self.model)

    async def engines(self, keys: Collection[EngineKey], *, waking: Collection[str] = ()) -> Any:
        return {} if self.model is None else {key: ServedEngine(self.model) for key in keys}


class World:
    """A home, two worker clusters, and the adapter over them."""

    def __init__(self, *order: str, away_seconds: float = 0.0) -> None:
        self.home, self.west, self.east = (OneCluster(name) for name in ("home", "west", "east"))
        self.placements, self.lookup = InMemoryPlacements(list(order)), Lookup()
        workers = {"west": self.west, "east": self.east}
        self.serving = PlacedServing(
            self.home,
            self.placements,
            self.lookup,  # type: ignore[arg-type]
            lambda cluster_id: workers[cluster_id],
            away_seconds=away_seconds,
        )
        self.changes: list[tuple[Phase, str | None]] = []
        self.serving.subscribe(lambda _, status: self.changes.append((status.phase, status.endpoint)))

    async def status(self) -> Status:
        self.serving._views.clear()
        self.serving._access._asked_at.clear()
        return await self.serving.status(MODEL.id)

    def wait(self, seconds: float, *, asked: bool = True) -> None:
        """Time passes; `asked`: in which requests wait."""
        for each in self.serving._queue_times._waits.values():
            each.since -= seconds
            each.asked_at -= 0 if asked else seconds

    async def wake(self) -> Status:
        await self.serving.wake(MODEL.id)
        return await self.status()


Scenario = Callable[[World], Awaitable[None]]


def run(world: World, scenario: Scenario) -> None:
    async def whole() -> None:
        try:
            await scenario(world)
        finally:
            await world.serving.close()

    asyncio.run(asyncio.wait_for(whole(), 30))


def test_without_worker_clusters_home_alone_is_asked() -> None:
    async def scenario(world: World) -> None:
        assert (await world.wake()).endpoint == "http://home"
        assert list(await world.serving.statuses()) == ["small"]
        await world.serving.sleep(MODEL.id)
        await world.serving.reconcile()
        assert world.home.calls == ["wake", "status", "statuses", "sleep", "reconcile"]

    run(World(), scenario)


def test_a_model_is_woken_where_it_is_placed_and_shows_its_clusters() -> None:
    async def scenario(world: World) -> None:
        world.west.becomes = Status(Phase.LOADING, progress=0.5)
        assert (await world.wake()).phase is Phase.LOADING
        await world.wake()
        assert len(world.placements.excluded) == 1  # a second wake places nothing
        world.west.set(replace(READY, endpoint="http://west"))
        status = await world.status()
        assert (status.endpoint, status.clusters) == ("http://west", (("west", "the west", "ready"),))
        assert Status.from_json(status.to_json()) == status
        assert (await world.serving.statuses())["small"].endpoint == "http://west"
        assert "wake" not in world.home.calls

    run(World("west", HOME), scenario)


def test_a_cluster_that_is_away_longer_than_a_moment_is_replaced_and_a_shorter_time_waited_for() -> None:
    async def scenario(world: World) -> None:
        await world.wake()
        world.west.away = True
        status = await world.status()
        assert (status.phase, status.endpoint) == (Phase.QUEUED, None)
        await world.wake()
        assert list(world.placements.rows) == ["west"]  # its agent may be back in a second
        world.serving._away_seconds = 0.0
        assert (await world.wake()).endpoint == "http://east"
        assert world.placements.excluded[-1] == {"west"}
        world.west.away = False  # it comes back, and its engine still runs
        assert (await world.status()).endpoint == "http://east"
        await world.serving.reconcile()
        assert list(world.placements.rows) == ["east"]
        assert "evict" in world.west.calls

    run(World("west", "east", away_seconds=60), scenario)


def test_a_model_that_waits_for_room_too_long_is_tried_elsewhere_too() -> None:
    async def scenario(world: World) -> None:
        world.west.becomes = Status(Phase.QUEUED, message="waiting for quota")
        assert (await world.wake()).message == "waiting for quota"
        await world.wake()
        assert list(world.placements.rows) == ["west"]
        world.wait(61)
        assert (await world.wake()).endpoint == "http://east"
        await world.serving.reconcile()
        assert list(world.placements.rows) == ["east"]  # its place in the other queue is given up

    run(World("west", "east"), scenario)


def test_a_model_that_ran_for_long_and_lost_its_room_has_waited_from_the_first_request_on() -> None:
    async def scenario(world: World) -> None:
        assert (await world.wake()).endpoint == "http://west"
        world.placements.rows["west"] = replace(world.placements.rows["west"], woken_at=time.time() - 86_400)
        for _ in range(2):
            world.west.set(Status(Phase.QUEUED, message="waiting for quota"))
            assert (await world.wake()).message == "waiting for quota"
            world.wait(59)
            assert (await world.wake()).message == "waiting for quota"
            world.west.set(READY)
            await world.wake()
        world.west.set(Status(Phase.QUEUED))
        await world.wake()
        world.wait(3600, asked=False)  # nobody wants it, then somebody does
        await world.wake()
        assert list(world.placements.rows) == ["west"]
        world.wait(61)
        assert (await world.wake()).endpoint == "http://east"

    run(World("west", "east"), scenario)


def test_a_model_that_failed_is_tried_elsewhere_and_at_the_same_place_when_there_is_no_other() -> None:
    async def scenario(world: World) -> None:
        world.west.becomes = Status(Phase.FAILED, message="out of memory")
        assert (await world.wake()).endpoint == "http://east"  # for those who wait already
        world.east.set(Status(Phase.FAILED))
        world.west.calls.clear()
        await world.wake()
        assert world.west.calls.count("wake") == 1

    run(World("west", "east"), scenario)


def test_a_model_that_fails_everywhere_is_started_once_on_each_cluster() -> None:
    async def scenario(world: World) -> None:
        world.west.becomes = world.east.becomes = Status(Phase.FAILED, message="out of memory")
        found = [(await world.wake()).phase, *[(await world.status()).phase for _ in range(3)]]
        assert found == [Phase.FAILED] * 4
        assert [each.calls.count("wake") for each in (world.west, world.east)] == [1, 1]

    run(World("west", "east"), scenario)


def test_a_cluster_that_does_not_show_yet_what_it_starts_is_waited_for() -> None:
    async def scenario(world: World) -> None:
        world.west.becomes, world.east.becomes = Status(Phase.FAILED, message="out of memory"), Status()
        status = await world.wake()
        assert (status.phase, "out of memory" in status.message) == (Phase.QUEUED, True)
        assert (await world.status()).phase is Phase.QUEUED
        assert world.east.calls.count("wake") == 1
        world.east.set(replace(READY, endpoint="http://east"))
        assert (await world.status()).endpoint == "http://east"

    run(World("west", "east"), scenario)


def test_a_model_that_nobody_waits_for_is_started_nowhere_else() -> None:
    async def scenario(world: World) -> None:
        world.west.becomes = Status(Phase.LOADING)
        await world.wake()
        await world.serving.sleep(MODEL.id)
        world.west.set(Status(Phase.FAILED))
        assert (await world.status()).phase is Phase.FAILED
        assert not world.east.calls

    run(World("west", "east"), scenario)


def test_who_waits_gets_the_reason_why_no_cluster_takes_the_model() -> None:
    async def scenario(world: World) -> None:
        world.placements.draining = {"west"}
        status = await world.wake()
        assert (status.phase, status.message) == (Phase.QUEUED, "No cluster takes the model now.")

    run(World("west"), scenario)


@pytest.mark.parametrize("from_home", [False, True])
def test_a_drained_cluster_serves_until_another_one_is_ready(from_home: bool) -> None:
    async def scenario(world: World) -> None:
        first = world.home if from_home else world.west
        await world.wake()
        assert (await world.status()).endpoint == f"http://{first.name}"
        world.placements.draining = {HOME if from_home else "west"}
        world.east.becomes = Status(Phase.LOADING)
        await world.serving.reconcile()
        assert (await world.status()).endpoint == f"http://{first.name}"
        world.east.set(replace(READY, endpoint="http://east"))
        first.set(replace(first.now[MODEL.id], requests_running=1))
        await world.serving.reconcile()
        assert (await world.status()).endpoint == "http://east"
        assert (Phase.READY, "http://east") in world.changes  # gateways hear of it
        assert first.now[MODEL.id].phase is Phase.READY  # its last request has not ended
        first.set(replace(first.now[MODEL.id], requests_running=0))
        await world.serving.reconcile()
        assert first.now.get(MODEL.id, Status()).phase is Phase.ASLEEP
        assert list(world.placements.rows) == ["east"]

    run(World(*([HOME, "east"] if from_home else ["west", "east"])), scenario)


def test_a_model_leaves_a_cluster_that_its_configuration_no_longer_allows() -> None:
    async def scenario(world: World) -> None:
        await world.wake()
        world.lookup.model = replace(MODEL, allowed_clusters=("east",))
        world.placements.order.remove("west")
        await world.serving.reconcile()
        await world.serving.reconcile()
        assert (await world.status()).endpoint == "http://east"
        assert list(world.placements.rows) == ["east"]

    run(World("west", "east"), scenario)


def test_sleep_reaches_every_cluster_and_says_when_one_can_not_be_asked() -> None:
    async def scenario(world: World) -> None:
        await world.wake()
        world.west.away = True
        with pytest.raises(Unavailable):
            await world.serving.sleep(MODEL.id)
        world.west.away = False
        await world.serving.sleep(MODEL.id)
        assert (await world.status()).phase is Phase.ASLEEP

    run(World("west"), scenario)


def test_what_a_deleted_model_left_on_a_cluster_that_was_away_is_removed_when_it_is_back() -> None:
    async def scenario(world: World) -> None:
        await world.wake()
        world.west.away = True
        world.lookup.model = None
        await world.serving.remove(MODEL.id, MODEL.folder)
        assert list(world.placements.rows) == ["west"]
        await world.serving.reconcile()
        assert list(world.placements.rows) == ["west"]
        world.west.away = False
        await world.serving.reconcile()
        assert not world.placements.rows
        assert not world.west.now

    run(World("west"), scenario)


def test_two_wakes_at_once_place_once() -> None:
    async def scenario(world: World) -> None:
        await asyncio.gather(*(world.serving.wake(MODEL.id) for _ in range(20)))
        assert len(world.placements.excluded) == 1

    run(World("west", "east"), scenario)


def test_a_cluster_that_says_it_serves_models_of_others_is_not_believed() -> None:
    async def scenario(world: World) -> None:
        await world.wake()
        world.west.now["of-others"] = replace(READY, endpoint="http://west")
        assert list(await world.serving.statuses()) == ["small"]
        world.changes.clear()
        for observe in world.west.observers:
            observe("of-others", READY)
            observe("small", READY)
        assert world.changes == [(Phase.READY, "http://engine")]

    run(World("west"), scenario)


@pytest.mark.parametrize("error", [KeyError("metadata"), RecursionError(), TypeError()])
def test_what_a_cluster_says_that_can_not_be_read_is_a_cluster_that_is_away(error: Exception) -> None:
    async def scenario(world: World) -> None:
        await world.wake()
        world.home.now["other"] = READY
        world.west.error = error
        world.serving._away_seconds = 0.0
        assert (await world.serving.statuses())["other"].phase is Phase.READY
        assert (await world.status()).phase is Phase.QUEUED
        await world.serving.reconcile()
        assert (await world.wake()).endpoint == "http://east"

    run(World("west", "east"), scenario)


def test_a_cluster_that_never_answers_holds_up_the_statuses_of_others_once_at_most() -> None:
    async def scenario(world: World) -> None:
        await world.wake()
        world.home.now["other"] = READY
        assert set(await world.serving.statuses()) == {"small", "other"}
        world.west.hangs = True
        began = time.monotonic()
        for _ in range(20):
            found = await world.serving.statuses()
            assert found["other"].phase is Phase.READY
        assert set(found) == {"small", "other"}  # as it was known
        assert time.monotonic() - began < 4

    run(World("west"), scenario)
