"""An API server that is reached at a URL, by a token that its caller renews."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["RemoteServer"]


@dataclass(frozen=True)
class RemoteServer:
    """`url`: may have a path, below which the API's paths are. `token`: the bearer token of a request, in any thread."""

    url: str
    token: Callable[[], str]
