"""Concurrent equal calls share one execution, and no call gets a result from before an invalidation."""

from __future__ import annotations

import asyncio

import pytest

from llmariner.errors import Unavailable
from llmariner.gateway.single_flight import SingleFlight


class NumberedResults:
    """Gives the next number to each call, when released."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = asyncio.Event()

    async def next(self) -> int:
        self.asked += 1
        mine = self.asked
        await self.go.wait()
        return mine


def test_concurrent_calls_share_a_result() -> None:
    async def ask() -> tuple[list[int], int]:
        flights, answers = SingleFlight[int](), NumberedResults()
        waiting = [asyncio.create_task(flights.do("key", answers.next)) for _ in range(50)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # the first caller disconnects, and the others continue
        answers.go.set()
        together = await asyncio.gather(*waiting[1:])
        return together, await flights.do("key", answers.next)

    assert asyncio.run(ask()) == ([1] * 49, 2)


def test_a_call_after_an_invalidation_gets_the_new_value() -> None:
    async def ask() -> tuple[int, int, int]:
        flights, answers = SingleFlight[int](), NumberedResults()
        before = asyncio.create_task(flights.do("key", answers.next))
        await asyncio.sleep(0)
        flights.invalidate()
        after = asyncio.create_task(flights.do("key", answers.next))
        await asyncio.sleep(0)
        answers.go.set()
        return await before, await after, flights.generation

    assert asyncio.run(ask()) == (1, 2, 1)


def test_an_error_is_shared_and_the_next_call_retries() -> None:
    async def ask() -> list[int | BaseException]:
        flights = SingleFlight[int]()

        async def fail() -> int:
            await asyncio.sleep(0)
            raise Unavailable("The control function does not answer.")

        async def succeed() -> int:
            return 7

        failed = await asyncio.gather(*(flights.do("key", fail) for _ in range(2)), return_exceptions=True)
        return [*failed, await flights.do("key", succeed)]

    first, second, third = asyncio.run(ask())
    assert isinstance(first, Unavailable)
    assert isinstance(second, Unavailable)
    assert third == 7


@pytest.mark.parametrize("others", [0, 3])
def test_different_keys_are_separate_calls(others: int) -> None:
    async def ask() -> int:
        flights, answers = SingleFlight[int](), NumberedResults()
        answers.go.set()
        await asyncio.gather(*(flights.do(name, answers.next) for name in range(1 + others)))
        return answers.asked

    assert asyncio.run(ask()) == 1 + others
