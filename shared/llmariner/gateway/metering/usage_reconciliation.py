"""What a request had used whose caller hung up, or whose answer was too large: asked from its engine, since no answer
tells.

A stream's last chunk before the hang-up tells nearly all of it, an answer that comes whole tells nothing. The engine
knows (`engine_plugins/request_usage.py`); where it can't be asked, what was seen stands. Of an engine that can't tell
and told nothing before, the request is charged by its bounds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmariner.gateway.metering.meter import MeteredRequest
from llmariner.http_client import Client, ConnectionFailed, ResponseFailed

__all__ = ["UsageReconciliation"]

_TIMEOUT_SECONDS = 5.0
# Many times as much as our plugin says.
_MAX_RESPONSE_BYTES = 64 * 1024
# What our plugin says of a request that its engine never worked on. Any other refusal is of an engine that can't tell.
_NOTHING_ENDED = b"no request of this id ended here"


class UsageReconciliation:
    """Asks in the background; nobody waits for it but the closing of the request's count."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()

    def reconcile(self, metered: MeteredRequest, request_id: str, endpoint: str, close: Callable[[], None]) -> None:
        """Ask `endpoint` what the request has used, then `close` its count, whatever the answer."""
        task = asyncio.create_task(self._reconcile(metered, request_id, endpoint, close))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for the answers under way; each has its limit."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _reconcile(
        self, metered: MeteredRequest, request_id: str, endpoint: str, close: Callable[[], None]
    ) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                response = await self._client.request(endpoint, "GET", f"/llmariner/usage/{request_id}")
                told = await response.read(_MAX_RESPONSE_BYTES)
                if response.status == 200:
                    metered.usage = told
                else:
                    metered.usage_unavailable = _NOTHING_ENDED not in told
        except (ConnectionFailed, ResponseFailed, TimeoutError):
            pass
        finally:
            close()
