"""The one port of the token path: what it must ask of others, and may do without for a while.

Adapters: `llmariner.control.InProcessControl` where database and engines are at hand, `gateway.remote_control` where
they are behind the `internal_gateway` function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Changes", "Control", "Key", "ModelState"]


@dataclass(frozen=True, slots=True)
class Key:
    """What the token path needs of an API key. `expires_at` in seconds since 1970, of the secret that was shown."""

    id: str
    project_id: str
    organization_id: str
    user_id: str
    scopes: frozenset[str]
    expires_at: float | None
    unlimited: bool


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model as the token path sees it. `phase` as in the serving port; `endpoint` and `capacity` (requests at once)
    when ready; `engine_waiting`: requests that the engine itself has queued."""

    id: str
    project_id: str | None
    task: str
    loaded: bool
    on_demand: bool
    phase: str
    progress: float
    estimate_seconds: float | None
    message: str
    endpoint: str | None
    capacity: int
    engine_waiting: int

    @property
    def ready(self) -> bool:
        """An engine answers for it."""
        return self.endpoint is not None


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since a cursor was given out: ids of keys and of models. `cursor`: to be given back next time."""

    cursor: str
    keys: tuple[str, ...]
    models: tuple[str, ...]


class Control(Protocol):
    """Raises `Unavailable` when it can't answer."""

    async def key(self, digest: str) -> Key | None:
        """The live key whose present or previous secret has that keyed hash."""

    async def model(self, model_id: str) -> ModelState:
        """How a model is now. ModelNotFound for an unknown id."""

    async def wake(self, model_id: str) -> None:
        """Wish it awake; returns at once."""

    async def changes(self, cursor: str) -> Changes:
        """What changed since; an empty cursor asks for a first one."""

    async def record(self, events: Sequence[dict[str, Any]]) -> None:
        """Give ledger events away. They may come again if this raises."""

    async def used(self, last_used: dict[str, int]) -> None:
        """When keys were last used: key id → seconds since 1970."""
