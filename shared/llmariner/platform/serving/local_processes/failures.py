"""What the adapter remembers of engines that failed. `created` tells models of the same id apart: see `EngineModel`."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Crashes", "Failure"]


class Failure(NamedTuple):
    """Why a model has no engine, for `Status`."""

    created: int
    message: str
    detail: str = ""
    ended_at: float = 0.0
    """When an engine of it ended, in Unix seconds; 0: none was started."""


class Crashes(NamedTuple):
    """The number of consecutive failed starts and the monotonic time of the last."""

    created: int
    starts: int = 0
    last: float = 0.0
