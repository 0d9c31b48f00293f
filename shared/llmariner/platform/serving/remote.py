"""Serving adapter of functions without access to engines: it calls the control plane (`internal_gateway`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from llmariner.errors import ModelNotFound
from llmariner.platform.serving import Status

__all__ = ["ControlPlaneTransport", "RemoteServing"]


class ControlPlaneTransport(Protocol):
    """Sends operations to the control plane."""

    async def call(self, operation: str, value: dict[str, Any]) -> dict[str, Any]:
        """Post a JSON object and return the response's. Raises Unavailable when there is no response."""


class RemoteServing:
    """See `platform.serving.Serving`."""

    def __init__(self, transport: ControlPlaneTransport) -> None:
        self._transport = transport

    async def status(self, model_id: str) -> Status:
        """See the port."""
        response = await self._transport.call("status", {"model": model_id})
        if response["status"] is None:
            raise ModelNotFound(model_id)
        return Status.from_json(response["status"])

    async def statuses(self) -> dict[str, Status]:
        """See the port."""
        response = await self._transport.call("statuses", {})
        return {name: Status.from_json(value) for name, value in response["statuses"].items()}

    async def wake(self, model_id: str) -> None:
        """See the port."""
        await self._transport.call("wake", {"model": model_id})

    async def sleep(self, model_id: str) -> None:
        """See the port."""
        await self._transport.call("sleep", {"model": model_id})

    async def remove(self, model_id: str, folder: str) -> None:
        """See the port."""
        await self._transport.call("remove", {"model": model_id, "folder": folder})

    async def import_existing(self, service: str) -> None:
        """See the port."""
        await self._transport.call("adopt", {"service": service})

    async def reconcile(self) -> None:
        """See the port."""
        await self._transport.call("tidy", {})

    def subscribe(self, observer: Callable[[str, Status], None]) -> None:
        """No effect: changes of phase are not sent here; callers poll `status`."""

    async def close(self) -> None:
        """No effect: this adapter starts nothing."""
