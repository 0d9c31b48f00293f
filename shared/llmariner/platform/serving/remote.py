"""Serving adapter of functions that have no engines at hand: they ask the `internal_gateway` function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from llmariner.errors import ModelNotFound
from llmariner.platform.serving import Status

__all__ = ["Caller", "RemoteServing"]


class Caller(Protocol):
    """How a call reaches the control function."""

    async def call(self, operation: str, value: dict[str, Any]) -> dict[str, Any]:
        """Post a JSON object, get one back. Unavailable when nobody answers."""


class RemoteServing:
    """See `platform.serving.Serving`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def status(self, model_id: str) -> Status:
        """See the port."""
        found = await self._caller.call("status", {"model": model_id})
        if found["status"] is None:
            raise ModelNotFound(model_id)
        return Status.read(found["status"])

    async def statuses(self) -> dict[str, Status]:
        """See the port."""
        found = await self._caller.call("statuses", {})
        return {name: Status.read(value) for name, value in found["statuses"].items()}

    async def wake(self, model_id: str) -> None:
        """See the port."""
        await self._caller.call("wake", {"model": model_id})

    async def sleep(self, model_id: str) -> None:
        """See the port."""
        await self._caller.call("sleep", {"model": model_id})

    async def remove(self, model_id: str, folder: str) -> None:
        """See the port."""
        await self._caller.call("remove", {"model": model_id, "folder": folder})

    async def adopt(self, service: str) -> None:
        """See the port."""
        await self._caller.call("adopt", {"service": service})

    async def tidy(self) -> None:
        """See the port."""
        await self._caller.call("tidy", {})

    def watch(self, observer: Callable[[str, Status], None]) -> None:
        """Phases change elsewhere; whoever wants to know asks."""

    async def close(self) -> None:
        """Nothing was started."""
