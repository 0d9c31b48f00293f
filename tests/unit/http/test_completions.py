"""Completions of uploads: no project waits behind another one's."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable

import pytest

from llmariner.errors import InvalidRequest, Unavailable
from llmariner.http.resources.completions import Completions


class Work:
    """Completions that end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._starts = threading.Semaphore(0)
        self.may_end = threading.Event()

    def of(self, name: str) -> Callable[[], str]:
        def complete() -> str:
            self.begun.append(name)
            self._starts.release()
            assert self.may_end.wait(60)
            return name

        return complete

    async def starts(self, number: int) -> None:
        """Wait until that many more have begun."""
        for _ in range(number):
            assert await asyncio.to_thread(self._starts.acquire, timeout=60)


def start(completions: Completions, work: Work, project: str, number: int) -> list[asyncio.Task[str]]:
    return [asyncio.ensure_future(completions.run(project, work.of(f"{project}{each}"))) for each in range(number)]


def test_a_project_with_many_completions_leaves_threads_to_others() -> None:
    async def run() -> None:
        completions, work = Completions(), Work()
        many = start(completions, work, "a", 10)
        await work.starts(2)
        other = start(completions, work, "b", 1)
        await work.starts(1)
        assert sorted(work.begun) == ["a0", "a1", "b0"]
        with pytest.raises(Unavailable, match="of your project"):
            await completions.run("a", work.of("one too many"))
        work.may_end.set()
        assert await asyncio.gather(*other, *many) == ["b0", *(f"a{each}" for each in range(10))]

    asyncio.run(run())


def test_those_that_wait_take_turns_by_project() -> None:
    async def run() -> None:
        completions, work = Completions(), Work()
        running = [*start(completions, work, "a", 2), *start(completions, work, "b", 2)]
        await work.starts(4)
        waiting = [*start(completions, work, "a", 4), *start(completions, work, "c", 1)]
        await asyncio.sleep(0)
        work.may_end.set()
        await asyncio.gather(*running, *waiting)
        assert work.begun.index("c0") <= 6  # at most one of each other project before it

    asyncio.run(run())


def test_a_completion_ends_though_its_caller_left_and_an_error_reaches_the_caller() -> None:
    async def run() -> None:
        completions, work = Completions(), Work()
        [left] = start(completions, work, "a", 1)
        await work.starts(1)
        left.cancel()
        work.may_end.set()
        assert await completions.run("a", work.of("after")) == "after"
        with pytest.raises(ZeroDivisionError):
            await completions.run("a", lambda: 1 / 0)

    asyncio.run(run())


def test_a_refusal_of_a_caller_that_left_is_no_error_of_the_loop() -> None:
    """A tenant would fill the log with tracebacks; a defect is logged as before."""
    logged: list[BaseException] = []

    async def run(error: Exception) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context["exception"]))
        completions, work = Completions(), Work()

        def refuse() -> None:
            work.of("a")()
            raise error

        left = asyncio.ensure_future(completions.run("a", refuse))
        await work.starts(1)
        left.cancel()
        work.may_end.set()
        await completions.run("a", work.of("after"))
        gc.collect()

    asyncio.run(run(InvalidRequest("no such part")))
    assert logged == []
    defect = ZeroDivisionError()
    asyncio.run(run(defect))
    assert logged == [defect]
