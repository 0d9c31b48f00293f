"""Followers of a job's events: each gets every event once and in order, and the database is read once for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from sqlalchemy import delete

from llmariner.fine_tuning.event_feed import EventFeed
from llmariner.fine_tuning.history import JobEvent, JobHistory
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.platform.database import Database
from llmariner.tenancy.principal import KeyOwner

from .training_desk import TrainingDesk, step

_PATIENCE = 60


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingDesk:
    monkeypatch.setattr("llmariner.fine_tuning.event_feed._POLL_SECONDS", 0.02)
    return TrainingDesk(database, owner, tmp_path / "objects")


class CountedHistory(JobHistory):
    """Counts the reads of events; fails as long as a test says so."""

    reads = 0
    is_away = False

    def later_events(self, job_id: str, after: str, limit: int) -> list[JobEvent]:
        self.reads += 1
        return super().later_events(job_id, after, limit)

    def newest_events(self, job_ids: Sequence[str]) -> dict[str, tuple[bool, str]]:
        if self.is_away:
            raise ConnectionError("the database is away")
        return super().newest_events(job_ids)


class Follower:
    """Reads a feed in the background. `pause`: between two parts."""

    def __init__(self, feed: EventFeed, job_id: str, after: str | None = None, pause: float = 0.0) -> None:
        self.seen: list[JobEvent] = []
        self.heartbeats = 0
        self.task = asyncio.create_task(self._follow(feed, job_id, after, pause))

    async def _follow(self, feed: EventFeed, job_id: str, after: str | None, pause: float) -> None:
        async with aclosing(feed.follow(job_id, after, 0.05)) as parts:
            async for part in parts:
                self.seen += part
                self.heartbeats += not part
                await asyncio.sleep(pause)

    async def until(self, message: str) -> None:
        """Wait for an event."""
        await until(lambda: any(event.message == message for event in self.seen))


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(_PATIENCE * 100):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError("it did not happen")


def all_events(desk: TrainingDesk, job_id: str) -> list[JobEvent]:
    return desk.history.later_events(job_id, "", 1000)


def test_many_followers_cost_one_read_and_miss_nothing(desk: TrainingDesk) -> None:
    job_id, history = desk.training(), CountedHistory(desk.database)

    async def follow() -> list[Follower]:
        feed = EventFeed(history)
        followers = [Follower(feed, job_id) for _ in range(20)]
        for follower in followers:
            await follower.until("Fine-tuning job started")
        await until(lambda: all(follower.heartbeats for follower in followers))
        history.reads = 0
        for number in range(1, 4):
            await asyncio.to_thread(desk.report, job_id, 1, step(number))
            for follower in followers:
                await follower.until(f"Step {number}/6: training loss={2 / number:.4f}")
        assert history.reads == 3, "a read for each report, not for each follower"
        history.is_away = True
        await asyncio.to_thread(desk.jobs.cancel, desk.caller, job_id)
        await asyncio.sleep(0.1)
        assert not any(follower.task.done() for follower in followers), "they wait while the database is away"
        history.is_away = False
        async with asyncio.timeout(_PATIENCE):
            await asyncio.gather(*(follower.task for follower in followers))
        return followers

    followers = asyncio.run(follow())
    expected = all_events(desk, job_id)
    assert expected[-1].message == "The job was cancelled."
    for follower in followers:
        assert follower.seen == expected


def test_a_follower_continues_after_an_event_and_a_slow_one_misses_nothing(
    desk: TrainingDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmariner.fine_tuning.event_feed._KEPT", 2)
    monkeypatch.setattr("llmariner.fine_tuning.event_feed._PAGE", 3)
    job_id = desk.training()
    started = all_events(desk, job_id)[-1].id

    async def follow() -> tuple[Follower, Follower, Follower]:
        feed = EventFeed(desk.history)
        slow, resumed = Follower(feed, job_id, pause=0.1), Follower(feed, job_id, after=started)
        for number in range(1, 7):
            await asyncio.to_thread(desk.report, job_id, 1, step(number))
        await resumed.until(f"Step 6/6: training loss={2 / 6:.4f}")
        await asyncio.to_thread(desk.finish, job_id)
        async with asyncio.timeout(_PATIENCE):
            await asyncio.gather(slow.task, resumed.task)
        late = Follower(feed, job_id, after=resumed.seen[-1].id)
        async with asyncio.timeout(_PATIENCE):
            await late.task
        return slow, resumed, late

    slow, resumed, late = asyncio.run(follow())
    expected = all_events(desk, job_id)
    assert slow.seen == expected
    assert resumed.seen == [event for event in expected if event.id > started]
    assert late.seen == [], "of a job that has ended"


def test_a_job_that_is_deleted_ends_its_followers_and_the_reader_rests(desk: TrainingDesk) -> None:
    job_id = desk.training()

    async def follow() -> None:
        feed = EventFeed(desk.history)
        follower = Follower(feed, job_id)
        await follower.until("Fine-tuning job started")
        with desk.database.write() as session:
            session.run(delete(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job_id))
        async with asyncio.timeout(_PATIENCE):
            await follower.task
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    asyncio.run(follow())
