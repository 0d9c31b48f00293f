"""Waiting in the server of Milvus Lite: who goes next, and that every wait ends and leaves nothing behind."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from llmariner.standalone.milvus_lite.shares import Shares
from llmariner.standalone.milvus_lite.turns import Busy, Turns

Turn = Callable[[], AbstractContextManager[None]]


def eventually(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@contextlib.contextmanager
def held(turn: Turn) -> Iterator[None]:
    """Another thread has the turn meanwhile."""
    entered, release = threading.Event(), threading.Event()

    def hold() -> None:
        with turn():
            entered.set()
            release.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(20)
    try:
        yield
    finally:
        release.set()
        thread.join()


def test_a_wait_to_be_alone_ends_and_others_go_on_as_before() -> None:
    turns = Turns()
    with held(lambda: turns.shared(9)):
        for _ in range(2):
            with pytest.raises(Busy), turns.alone(0.01):
                pytest.fail("it was not alone")
        with turns.shared(0):
            pass
    with turns.alone(0):
        pass


def test_a_wait_to_share_ends_and_the_next_one_may_be_alone() -> None:
    turns = Turns()
    with held(lambda: turns.alone(9)), pytest.raises(Busy), turns.shared(0.01):
        pytest.fail("it shared")
    with turns.alone(0):
        pass


def test_one_that_waits_to_be_alone_goes_before_new_ones_that_share() -> None:
    turns, order = Turns(), []
    with held(lambda: turns.shared(9)):

        def be_alone() -> None:
            with turns.alone(20):
                order.append("alone")

        thread = threading.Thread(target=be_alone)
        thread.start()
        eventually(lambda: turns._alone)
        with pytest.raises(Busy), turns.shared(0.01):
            pytest.fail("it went before the one that waits")
    thread.join()
    with turns.shared(0):
        order.append("shared")
    assert order == ["alone", "shared"]


def test_an_error_ends_a_turn() -> None:
    turns, shares = Turns(), Shares(1)
    for turn in (turns.alone, turns.shared, lambda seconds: shares.of("a", seconds)):
        with pytest.raises(ZeroDivisionError), turn(0):
            raise ZeroDivisionError
        with turn(0), contextlib.suppress(Busy):
            pass


def waiting(shares: Shares) -> int:
    return sum(len(calls) for calls in shares._waiting.values())


def test_a_tenant_waits_for_one_piece_of_anothers_work_however_many_wait() -> None:
    shares, order, threads = Shares(1), [], []

    def work(tenant: str) -> None:
        with shares.of(tenant, 20):
            order.append(tenant)

    with held(lambda: shares.of("greedy", 9)):
        for number, tenant in enumerate(["greedy"] * 6 + ["modest", "other", "modest"], 1):
            threads.append(threading.Thread(target=work, args=(tenant,)))
            threads[-1].start()
            eventually(lambda number=number: waiting(shares) == number)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert set(order[:2]) == {"modest", "other"}
    assert sorted(order[2:4]) == ["greedy", "modest"]
    assert (shares._waiting, shares._since, shares._working.total(), len(shares._working)) == ({}, {}, 0, 0)


def test_a_tenant_alone_has_all_shares_and_another_the_next_one() -> None:
    shares = Shares(2)
    with shares.of("a", 0), shares.of("a", 0):
        with pytest.raises(Busy), shares.of("b", 0.01):
            pytest.fail("there were three")
        assert waiting(shares) == 0
    with shares.of("b", 0):
        pass
    assert (shares._waiting, shares._since, len(shares._working)) == ({}, {}, 0)
