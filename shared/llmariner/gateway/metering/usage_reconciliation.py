"""Usage of requests whose client disconnected, or whose response was too large: queried from the engine.

The last chunk of a stream before the disconnect has nearly all of it; a response that is not streamed has none. The engine
plugin `engine_plugins/request_usage.py` reports it. If the query fails, the usage seen so far counts. If an engine cannot
report usage and none was seen, the request is charged by its bounds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmariner.gateway.metering.meter import MeteredRequest
from llmariner.http_client import Client, ConnectionFailed, ResponseFailed

__all__ = ["UsageReconciliation"]

_TIMEOUT_SECONDS = 5.0
# Many times the size of the plugin's response.
_MAX_RESPONSE_BYTES = 64 * 1024
# The plugin's error for a request that its engine never processed. Any other error means that the engine has no plugin.
_NOTHING_ENDED = b"no request of this id ended here"


class UsageReconciliation:
    """Queries engines in background tasks; a request's metering ends with its task."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()

    def reconcile(self, metered: MeteredRequest, request_id: str, endpoint: str, close: Callable[[], None]) -> None:
        """Query the usage of a request from `endpoint`, then call `close`, also after a failure."""
        task = asyncio.create_task(self._reconcile(metered, request_id, endpoint, close))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for the queries in flight; each has a timeout."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _reconcile(
        self, metered: MeteredRequest, request_id: str, endpoint: str, close: Callable[[], None]
    ) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                response = await self._client.request(endpoint, "GET", f"/llmariner/usage/{request_id}")
                body = await response.read(_MAX_RESPONSE_BYTES)
                if response.status == 200:
                    metered.usage = body
                else:
                    metered.usage_unavailable = _NOTHING_ENDED not in body
        except (ConnectionFailed, ResponseFailed, TimeoutError):
            pass
        finally:
            close()
