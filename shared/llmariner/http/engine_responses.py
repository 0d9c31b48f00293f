"""Requests of the platform's own functions for engines of worker clusters, passed on by the tunnel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from llmariner.errors import BodyTooLarge, PlatformError, Unavailable
from llmariner.gateway.requests.body_budget import BodyBudget
from llmariner.http.middleware.errors import error_response
from llmariner.http.tunneled_responses import Fields, OpenStream, TunneledResponse
from llmariner.platform.tunnel import Stream
from llmariner.platform.tunnel.engine_paths import FAILED, EnginePath

__all__ = ["EngineResponse", "engine_fields"]

_PASSED = frozenset({b"content-type", b"accept", b"x-request-id"})
_MAX_FIELD_BYTES = 1024
_MAX_BODY_BYTES = 32 * 1024 * 1024


def engine_fields(method: str, path: EnginePath, headers: Iterable[tuple[bytes, bytes]]) -> Fields:
    """The head of a request for an engine on the tunnel."""
    fields = [(b":method", method.encode()), (b":scheme", b"http"), (b":authority", b"engine"), (b":path", path.text())]
    return [*fields, *(each for each in headers if each[0] in _PASSED and len(each[1]) <= _MAX_FIELD_BYTES)]


class EngineResponse(TunneledResponse):
    """Passes a request on and its response back. Responses of ours, when no engine gives one, have the field FAILED.

    The body is held until the response begins, since it may be sent by another replica; an engine gets it once.
    """

    def __init__(self, open_stream: OpenStream, fields: Fields, budget: BodyBudget, cluster_id: str) -> None:
        super().__init__(open_stream, fields)
        self._budget = budget
        self._cluster_id = cluster_id
        self._held = 0

    async def _begin(self, receive: Any) -> tuple[Stream, asyncio.Task[None], int, Fields]:
        try:
            self._request_body = await self._read_body(receive)
            return await super()._begin(receive)
        finally:
            self._request_body = None
            if self._held:
                self._budget.release(self._cluster_id, self._held)

    async def _read_body(self, receive: Any) -> bytes | None:
        """The body; None for none. BodyTooLarge, WaitingRoomFull; Unavailable when the client is gone."""
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Unavailable("The caller is gone.")
            part, more = message.get("body", b""), message.get("more_body", False)
            if len(body) + len(part) > _MAX_BODY_BYTES:
                raise BodyTooLarge(f"The body is over {_MAX_BODY_BYTES} bytes.")
            if part:
                self._budget.reserve(self._cluster_id, len(part))
                self._held += len(part)
                body += part
        return bytes(body) or None

    async def _send_error(self, _scope: Any, send: Any, error: PlatformError) -> None:
        response = error_response(error)
        if isinstance(error, Unavailable):
            response.raw_headers.append(FAILED)
        await response({"type": "http"}, _nothing, send)


async def _nothing() -> Any:
    """A client that sends nothing."""
