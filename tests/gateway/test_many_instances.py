"""Eight chat functions, each in its own process, under one limit and ten times as many requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llmariner.limits.quota_state import LEASE_SECONDS
from llmariner.limits.rules import Subject

from .caller import Caller, ConnectionLost
from .running_platform import EngineProcess, Platform, eventually, free_port, listens
from .test_control_plane import Functions, booted

pytestmark = pytest.mark.quiet

SIZE = 8
PER_MINUTE = 3600
TIMES = 10
MINUTE = 60.0


@dataclass
class Outcome:
    """What became of the requests: when those let through were answered. `began` in seconds since 1970."""

    began: float = field(default_factory=time.time)
    served: list[float] = field(default_factory=list)
    refused: int = 0
    broken: int = 0

    @property
    def offered(self) -> int:
        return len(self.served) + self.refused + self.broken


class Fleet:
    """The functions' processes and their callers, and the statements of their control function."""

    def __init__(
        self, functions: Functions, counts: Path, processes: list[subprocess.Popen[bytes]], ports: list[int]
    ) -> None:
        self.functions = functions
        self.processes = processes
        self.callers = [Caller(port, functions.limited.secret) for port in ports]
        self._counts = counts

    def statements(self) -> Counter[str]:
        """Until now, by table."""
        time.sleep(0.5)
        return Counter(json.loads(self._counts.read_text()))

    async def load(self, seconds: float, per_second: float, callers: list[Caller] | None = None) -> Outcome:
        """Offer requests at a steady pace to all in turn."""
        outcome, tasks = Outcome(), set()
        chosen = callers or self.callers
        began = time.monotonic()

        async def one(caller: Caller) -> None:
            try:
                answer = await caller.chat("static", max_tokens=1)
            except (ConnectionLost, OSError):
                outcome.broken += 1
                return
            if answer.status == 200:
                outcome.served.append(time.monotonic() - began)
            else:
                assert answer.status == 429, answer.body
                outcome.refused += 1

        for number in range(int(seconds * per_second)):
            pause = began + number / per_second - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            task = asyncio.create_task(one(chosen[number % len(chosen)]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        return outcome


@pytest.fixture
def fleet(tmp_path: Path, database: Path) -> Iterator[Fleet]:
    counts = tmp_path / "counts.json"
    engine = EngineProcess.start("--model", "static", "--tokens", "1")
    with ExitStack() as stack:
        stack.callback(engine.kill)
        functions = Functions(tmp_path, database, engine.port)
        stack.callback(functions.home.context.database.close)
        stack.enter_context(counted(functions, counts))
        ports = [free_port() for _ in range(SIZE)]
        processes = [
            stack.enter_context(booted("chat_completions", port, functions.gateway, functions.log)) for port in ports
        ]
        yield Fleet(functions, counts, processes, ports)


@contextlib.contextmanager
def counted(functions: Functions, counts: Path) -> Iterator[None]:
    """The control function in a process that counts its statements."""
    command = [sys.executable, str(Path(__file__).with_name("counting_control_plane.py")), str(counts)]
    with functions.log.open("ab") as output:
        environment = {**os.environ, **functions.control}
        process = subprocess.Popen(
            [*command, str(functions.control_port)], env=environment, stdout=output, stderr=output
        )
    try:
        eventually(lambda: listens(functions.control_port), seconds=60, what="the control function's start")
        yield
    finally:
        process.kill()
        process.wait(10)


def limit(home: Platform, **most: int) -> None:
    home.context.limits.put(None, Subject(home.owner.organization_id, "project", home.owner.project_id), "*", most)


def slices(home: Platform) -> list[int]:
    """How many requests each process holds of the one limit there is."""
    subject = Subject(home.owner.organization_id, "project", home.owner.project_id)
    rule = home.context.limits.for_subject(subject)[0].id
    return [part.leased.requests for part in home.context.leases.quota_states([rule])[rule].instances.values()]


def admissions(home: Platform, count: int) -> list[float]:
    """The times of that many admissions, as soon as the ledger has them all."""
    eventually(lambda: len(home.ledger("static")) >= count, seconds=30, what="the ledger's rows")
    return sorted(row["admitted_at"] for row in home.ledger("static"))


def test_eight_instances_together_admit_exactly_the_limit(fleet: Fleet) -> None:
    limit(fleet.functions.home, requests_per_minute=PER_MINUTE)
    warm = asyncio.run(fleet.load(2, SIZE / 2))
    assert len(warm.served) == SIZE
    before = fleet.statements()
    outcome = asyncio.run(fleet.load(MINUTE + 15, TIMES * PER_MINUTE / MINUTE))
    asked = fleet.statements() - before
    # The ledger has when a request was counted, which is a moment after it was let through, and never before.
    admitted = [at for at in admissions(fleet.functions.home, SIZE + len(outcome.served)) if at >= outcome.began]
    minute = sum(at < outcome.began + MINUTE for at in admitted)
    rest = len(admitted) - minute
    print(
        f"\n{outcome.offered} requests at ten times the limit: {minute} of {PER_MINUTE} let through in the first minute, "
        f"{rest} after it; {outcome.offered / asked['allowances']:.0f} requests per statement for limits, "
        f"{outcome.offered / asked.total():.0f} per statement of any kind: {dict(asked)}"
    )
    assert outcome.broken == 0
    assert 0.95 * PER_MINUTE <= minute <= PER_MINUTE
    assert rest > 0
    assert len(admitted) == len(outcome.served)
    assert outcome.offered / asked.total() > 50


def test_a_killed_instance_loses_at_most_its_lease(fleet: Fleet) -> None:
    day = 2000
    limit(fleet.functions.home, requests_per_day=day)
    first = asyncio.run(fleet.load(4, 100))
    assert first.refused == 0
    fleet.processes[0].send_signal(signal.SIGKILL)
    fleet.processes[0].wait(10)
    held = slices(fleet.functions.home)
    assert len(held) == SIZE
    alive = fleet.callers[1:]
    second = asyncio.run(fleet.load(10, 250, alive))
    served = len(first.served) + len(second.served)
    lost = day - served
    print(
        f"\n{lost} of {day} requests were lost with the killed function, for as long as its lease lasts; held: {held}"
    )
    assert second.refused > 0
    assert 0 <= lost <= max(held)
    # The lease expires: usage that the ledger does not have is available again.
    deadline = time.monotonic() + LEASE_SECONDS + 10
    while time.monotonic() < deadline:
        served += len(asyncio.run(fleet.load(2, 20, alive)).served)
    assert asyncio.run(fleet.load(4, 20, alive)).served == []
    # What the killed function had answered and not sent to the ledger yet, half a second of it, comes on top.
    assert day <= served <= day + 15
