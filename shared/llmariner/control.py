"""The control port where database and engines are at hand: in the local home, and inside `internal_gateway`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llmariner.errors import ModelNotFound
from llmariner.gateway.control import Changes, Key, ModelState
from llmariner.models.model import ActivationStatus
from llmariner.models.registry import Registry
from llmariner.platform.serving import Phase, Serving, Status
from llmariner.tenancy.caller import Caller
from llmariner.tenancy.callers import Callers
from llmariner.tenancy.keys import ApiKey, Keys
from llmariner.usage.ledger import Ledger

__all__ = ["InProcessControl"]

_REMEMBERED = 1000


class InProcessControl:
    """See `gateway.control.Control`. Database work happens in threads, off the loop that relays tokens."""

    def __init__(self, keys: Keys, callers: Callers, registry: Registry, serving: Serving, ledger: Ledger) -> None:
        self._keys = keys
        self._callers = callers
        self._registry = registry
        self._serving = serving
        self._ledger = ledger
        self._phases: list[tuple[int, str]] = []
        self._phase_number = 0
        serving.watch(self._phase_changed)

    async def key(self, digest: str) -> Key | None:
        """See the port."""
        found = await asyncio.to_thread(self._callers.by_digest, digest)
        return _shown(*found, digest) if found is not None else None

    async def model(self, model_id: str) -> ModelState:
        """See the port."""
        model = await asyncio.to_thread(self._registry.get, model_id)
        status = await self._serving.status(model_id) if model.loaded else Status()
        return ModelState(
            id=model.id,
            project_id=model.project_id,
            task=model.task,
            loaded=model.loaded,
            on_demand=model.config.on_demand or model.activation_status is ActivationStatus.ACTIVE,
            phase=status.phase,
            progress=status.progress,
            estimate_seconds=status.estimate_seconds,
            message=status.message,
            endpoint=status.endpoint,
            capacity=status.capacity,
            engine_waiting=status.requests_waiting,
        )

    async def wake(self, model_id: str) -> None:
        """See the port."""
        await self._serving.wake(model_id)

    async def changes(self, cursor: str) -> Changes:
        """See the port. A cursor of another process (it restarted) counts as a first one: everything is asked anew."""
        parts = cursor.split(".")
        numbers = [int(part) for part in parts] if len(parts) == 3 and cursor.replace(".", "").isdigit() else [0, 0, 0]
        key_revision, keys = await asyncio.to_thread(self._keys.changed_since, numbers[0])
        model_revision, models = await asyncio.to_thread(self._registry.changed_since, numbers[1])
        # Where no task of ours watches the engines, asking is what makes a change be seen.
        awake = await self._serving.statuses()
        moved = {name for number, name in self._phases if number > numbers[2]} if cursor else set()
        if numbers[2] > self._phase_number:
            moved = set(awake)
        at = f"{key_revision}.{model_revision}.{self._phase_number}"
        return Changes(at, tuple(keys) if cursor else (), tuple({*models, *moved}) if cursor else ())

    async def record(self, events: Sequence[dict[str, Any]]) -> None:
        """See the port."""
        await asyncio.to_thread(self._ledger.record, events)

    async def used(self, last_used: dict[str, int]) -> None:
        """See the port."""
        await asyncio.to_thread(self._keys.used, last_used)

    async def known_model(self, model_id: str) -> ModelState | None:
        """As `model`, but None for an unknown id: what goes over the wire."""
        try:
            return await self.model(model_id)
        except ModelNotFound:
            return None

    def _phase_changed(self, model_id: str, status: Status) -> None:
        if status.phase in (Phase.READY, Phase.STOPPING, Phase.ASLEEP, Phase.FAILED):
            self._phase_number += 1
            self._phases = [*self._phases[-_REMEMBERED:], (self._phase_number, model_id)]


def _shown(key: ApiKey, caller: Caller, digest: str) -> Key | None:
    if key.project_id is None:
        return None  # an admin key has no project whose models it could use
    expires: float | None = key.expires_at
    if digest == key.previous_digest and key.previous_expires_at is not None:
        expires = min(key.previous_expires_at, expires or key.previous_expires_at)
    return Key(
        id=key.id,
        project_id=key.project_id,
        organization_id=key.organization_id,
        user_id=key.user_id,
        scopes=caller.scopes,
        expires_at=expires,
        unlimited=caller.unlimited,
    )
