"""Drives the load process: one measured phase, with the cost of the measured process read at both ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .process_cost import cpu_seconds
from .target import CHAT, MESSAGES, MODEL, Started

PROGRAM = Path(__file__).with_name("load.py")


class LoadError(RuntimeError):
    """The measured process answered something else than asked for."""


@dataclass(frozen=True)
class Load:
    """A shape of load; the phase ends at whichever of `seconds` and `count` comes first."""

    connections: int
    seconds: float
    warm: int
    tokens: int
    stream: bool = False
    token_interval_ms: float = 0
    count: int = 200_000

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": self.tokens}
        if self.stream:
            body["stream"] = True
        if self.token_interval_ms:
            body["x_script"] = {"token_interval_ms": self.token_interval_ms}
        return body

    def plan(self, port: int, headers: Mapping[str, str]) -> str:
        where = {"port": port, "path": CHAT, "headers": dict(headers), "body": self.body()}
        bounds = {"warm": self.warm, "seconds": self.seconds, "count": self.count}
        return json.dumps({**where, **bounds, "connections": self.connections})


@dataclass(frozen=True)
class Phase:
    """What one phase cost and how long its callers waited."""

    completed: int
    seconds: float
    cpu: float
    latency_ms: dict[str, float]
    first_ms: dict[str, float]


def drive(load: Load, started: Started) -> Phase:
    """Warm up, read the clock, load, read the clock."""
    command = [sys.executable, str(PROGRAM), load.plan(started.port, started.headers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready = process.stdout.readline()
        before = cpu_seconds(started.pid)
        if ready == "warm\n":
            process.stdin.write("go\n")
            process.stdin.flush()
            ready = process.stdout.readline()
        cpu = cpu_seconds(started.pid) - before
    found = json.loads(ready or '{"errors": ["the load process ended early"]}')
    if found["errors"] or not found["completed"]:
        raise LoadError(f"{started.name}: {found['errors'][:1]}")
    return Phase(found["completed"], found["seconds"], cpu, found["latency_ms"], found["first_ms"])
