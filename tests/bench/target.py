"""What is measured: something that answers chat completions on a port."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MODEL = "bench"
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Say in a few words where the river bends."}]


@dataclass(frozen=True)
class Target:
    """How to start a peer and how to speak to it. `companions` run beside it and are not measured."""

    name: str
    command: list[str]
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    companions: tuple[Target, ...] = ()


@dataclass(frozen=True)
class Started:
    """A running peer; `pid` is the root of the process tree that its cost is read from."""

    name: str
    port: int
    pid: int
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Site:
    """Where a peer may keep files, and the engine it has to stand before."""

    folder: Path
    engine_port: int
