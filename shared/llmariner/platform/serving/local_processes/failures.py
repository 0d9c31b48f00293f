"""What the adapter remembers of engines that failed. `created` tells models of the same id apart: see `EngineModel`."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Crashes", "Failure"]


class Failure(NamedTuple):
    """Why a model has no engine, for `Status`."""

    created: int
    message: str
    detail: str = ""


class Crashes(NamedTuple):
    """The number of consecutive failed starts and the monotonic time of the last."""

    created: int
    starts: int = 0
    last: float = 0.0
