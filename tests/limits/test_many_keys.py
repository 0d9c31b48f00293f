"""Many keys in one instance: refilled and loaded in one request, and invalidated separately."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from llmariner.errors import RateLimited
from llmariner.gateway.control_plane.port import Key, LeaseRequest, LeaseResponse
from llmariner.gateway.limits.limiter import Limiter
from llmariner.limits.leases import Leases
from llmariner.limits.revisions import Revisions
from llmariner.limits.rules import Limits as Rules
from llmariner.limits.rules import Subject
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.settings import DatabaseSettings
from llmariner.tenancy.organizations.bootstrap import ensure_first_owner

Result = TypeVar("Result")


class RecordingControlPlane:
    """The control plane as far as limits go, on a database of its own. `older`: it answers for one caller at a time."""

    def __init__(self, leases: Leases, *, older: bool = False) -> None:
        self.leases = leases
        self.asks: list[LeaseRequest] = []
        self.pause = 0.0
        self._older = older

    async def lease(self, ask: LeaseRequest) -> LeaseResponse:
        self.asks.append(ask)
        answer = self.leases.lease(ask._replace(other_queries=()) if self._older else ask)
        await asyncio.sleep(self.pause)
        return answer

    @property
    def queried_keys(self) -> list[str]:
        """Those whose rules were asked for, in order."""
        found: list[str] = []
        for ask in self.asks:
            found += [] if ask.key is None else [ask.key.id, *(each.key.id for each in ask.other_queries)]
        return found


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(DatabaseSettings(f"sqlite:///{tmp_path}/limits.db"))
    upgrade(made)
    yield made
    made.close()


@pytest.fixture
def owner(database: Database) -> Key:
    """A key of the installation's first organization."""
    found = ensure_first_owner(database)
    return Key("key_0", found.project_id, found.organization_id, found.user_id, frozenset(), None, unlimited=False)


def keys(owner: Key, count: int) -> list[Key]:
    return [replace(owner, id=f"key_{number}") for number in range(count)]


def new_limiter(control: RecordingControlPlane, instance: str | None = None) -> Limiter:
    return Limiter(control, instance)  # type: ignore[arg-type]


def run(work: Callable[[], Awaitable[Result]]) -> Result:
    async def whole() -> Result:
        return await work()

    return asyncio.run(whole())


async def reserve_all(limits: Limiter, callers: Sequence[Key], requests: int = 1) -> list[Any]:
    """The number of admitted concurrent requests of each caller."""
    asked = (limits.reserve(key, "m", 1, 1) for key in callers for _ in range(requests))
    return await asyncio.gather(*asked, return_exceptions=True)


def test_many_concurrent_refills_reject_no_key(database: Database, owner: Key) -> None:
    control = RecordingControlPlane(Leases(database, {"requests_per_minute": 1000}))
    many = keys(owner, 1000)

    async def work() -> list[Any]:
        limits = new_limiter(control)
        await reserve_all(limits, many)
        # The first slice of each is a sixty-fourth of its limit.
        return await reserve_all(limits, many, 20)

    assert [found for found in run(work) if isinstance(found, Exception)] == []
    assert len(control.asks) < 100


def test_concurrent_new_keys_are_loaded_in_one_request(database: Database, owner: Key) -> None:
    control = RecordingControlPlane(Leases(database, {"requests_per_minute": 10}))
    found = run(lambda: reserve_all(new_limiter(control), keys(owner, 500)))
    assert not [each for each in found if isinstance(each, Exception)]
    assert sorted(control.queried_keys) == sorted(key.id for key in keys(owner, 500))
    assert len(control.asks) <= 5


def test_models_of_a_key_are_not_part_of_the_request(database: Database, owner: Key) -> None:
    control = RecordingControlPlane(Leases(database, {"requests_per_minute": 10}))
    names = frozenset(f"model-{number}" for number in range(1000))
    run(
        lambda: reserve_all(new_limiter(control), [replace(owner, models=names, own_models=names, denied_models=names)])
    )
    unknown = control.asks[0].key
    assert unknown is not None
    assert (unknown.models, unknown.own_models, unknown.denied_models) == (None, frozenset(), frozenset())


def test_an_older_control_plane_responds_for_all_keys(database: Database, owner: Key) -> None:
    control = RecordingControlPlane(Leases(database, {"requests_per_minute": 10}), older=True)
    found = run(lambda: reserve_all(new_limiter(control), keys(owner, 20)))
    assert not [each for each in found if isinstance(each, Exception)]


def test_a_change_affects_its_subjects_only(database: Database, owner: Key) -> None:
    control, many = RecordingControlPlane(Leases(database, {"requests_per_minute": 6400})), keys(owner, 300)
    rules, revisions = Rules(database), Revisions(database)

    async def work() -> None:
        limits = new_limiter(control)
        await reserve_all(limits, many)
        limits.invalidate((), revisions.latest().limits, ())
        control.asks.clear()
        before = limits.revision
        rules.put(None, Subject(owner.organization_id, "key", "key_7"), "*", {"requests_per_minute": 0})
        await asyncio.sleep(1.01)  # as long as the newest revision is remembered
        limits.invalidate((), revisions.latest().limits, revisions.changed_subjects_since(before))
        assert limits.revision > before
        await until(lambda: bool(control.asks))
        await asyncio.sleep(0.05)
        assert control.queried_keys == ["key_7"]
        with pytest.raises(RateLimited):
            await limits.reserve(many[7], "m", 1, 1)
        assert limits.try_reserve(many[8], "m", 1, 1) is not None

    run(work)


@pytest.mark.parametrize("kind", ["key", "user", "project", "organization"])
def test_every_subject_of_a_rule_gets_its_change(database: Database, owner: Key, kind: str) -> None:
    control = RecordingControlPlane(Leases(database, {"requests_per_minute": 100}))
    ids = {"key": owner.id, "user": owner.user_id, "project": owner.project_id, "organization": owner.organization_id}

    async def work() -> None:
        limits = new_limiter(control)
        await limits.reserve(owner, "m", 1, 1)
        Rules(database).put(None, Subject(owner.organization_id, kind, ids[kind]), "*", {"requests_per_minute": 0})
        limits.invalidate((), 1, [(kind, ids[kind])])
        await until(lambda: len(control.asks) > 1)
        await asyncio.sleep(0.01)
        with pytest.raises(RateLimited):
            await limits.reserve(owner, "m", 1, 1)

    run(work)


def test_a_reload_of_all_rules_blocks_no_request(database: Database, owner: Key) -> None:
    control, many = RecordingControlPlane(Leases(database, {"requests_per_minute": 6400})), keys(owner, 1000)

    async def work() -> None:
        limits = new_limiter(control)
        await reserve_all(limits, many)
        control.asks.clear()
        control.pause = 0.01
        limits.invalidate((), 1, None)
        # Cached rules need no wait.
        assert all(limits.try_reserve(key, "m", 1, 1) is not None for key in many)
        await until(lambda: len(control.queried_keys) == len(many))
        assert len(control.asks) <= 6

    run(work)


def test_a_change_during_the_load_of_its_rules_reloads_them(database: Database, owner: Key) -> None:
    control = RecordingControlPlane(Leases(database, {"requests_per_minute": 100}))
    control.pause = 0.05

    async def work() -> None:
        limits = new_limiter(control)
        meeting = asyncio.create_task(limits.reserve(owner, "m", 1, 1))
        await until(lambda: bool(control.asks))
        # The answer is read already, and under way.
        Rules(database).put(None, Subject(owner.organization_id, "key", owner.id), "*", {"requests_per_minute": 0})
        limits.invalidate((), 1, [("key", owner.id)])
        await meeting
        await until(lambda: len(control.asks) > 1)
        await asyncio.sleep(0.1)
        with pytest.raises(RateLimited):
            await limits.reserve(owner, "m", 1, 1)

    run(work)


async def until(fact: Callable[[], bool]) -> None:
    for _ in range(4000):
        if fact():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come true")
