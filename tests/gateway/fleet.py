"""Eight chat functions, each in its own process, before one control function that counts its statements."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llmariner.limits.rules import Subject

from .caller import Caller, ConnectionLost
from .running_platform import EngineProcess, Platform, eventually, free_port, listens
from .test_control_plane import Functions, booted

__all__ = ["SIZE", "Fleet", "admissions", "fleet", "limit", "slices"]

SIZE = 8


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
