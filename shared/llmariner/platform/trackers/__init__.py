"""The tracking port: runs of training with their metrics, on a server of experiments such as MLflow's.

Every call may be repeated: what a server has already stays as it is, so a caller that was killed between two calls continues
where it knows that it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from llmariner.settings import Secret

__all__ = [
    "Credential",
    "NewRun",
    "Outcome",
    "Point",
    "Run",
    "Tracker",
    "TrackingRefused",
    "TrackingUnavailable",
]


class TrackingUnavailable(Exception):
    """The server can't be reached, or does not answer now; a later call may succeed. The message is for people.

    `retry_after`: seconds that the server asks for; 0: it does not say.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TrackingRefused(Exception):
    """The server refuses the call, and would refuse it again. The message is for people."""


class Outcome(StrEnum):
    """How a run ended."""

    FINISHED = "finished"
    FAILED = "failed"
    KILLED = "killed"


@dataclass(frozen=True)
class Credential:
    """What a server asks for; `username` empty: the secret is a token, or an API key."""

    username: str
    secret: Secret


@dataclass(frozen=True)
class NewRun:
    """A run to begin. `key`: the same for every attempt to begin it. `started_at`: seconds since 1970.

    `project`: OpenAI's word; MLflow calls it an experiment. `tags`: names to values; labels without a value have "".
    """

    key: str
    project: str
    name: str
    started_at: float
    entity: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run that has begun. `url`: its page for people. `place`: where the server keeps it, in the server's words."""

    id: str
    url: str
    place: str


@dataclass(frozen=True)
class Point:
    """The metrics of a step. `number`: how many points of the run are before it. `at`: seconds since 1970."""

    number: int
    step: int
    at: float
    metrics: Mapping[str, float]


class Tracker(Protocol):
    """A server, as one project may use it. All methods block, raise TrackingUnavailable and TrackingRefused."""

    max_points: int
    """Points that one call of `log` may have."""

    takes_files: bool
    """Whether `upload` is offered."""

    def begin(self, run: NewRun) -> Run:
        """Begin a run with its parameters, or find the one that a call before began."""

    def log(self, run: Run, points: Sequence[Point]) -> None:
        """Store metrics, in the order of their steps."""

    def upload(self, run: Run, name: str, size_bytes: int, parts: Iterable[bytes]) -> None:
        """Store a file, whose name may have slashes. TrackingRefused where the server takes none."""

    def end(self, run: Run, outcome: Outcome, at: float, points: int) -> None:
        """End a run, which has so many points. `at`: seconds since 1970."""
