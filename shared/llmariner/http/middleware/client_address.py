"""The client's address of a request, for the audit log and for keys that are restricted to networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmariner.audit.request_context import client_address
from llmariner.gateway.requests.client_ip import ClientIpResolver

__all__ = ["ClientAddressMiddleware"]


class ClientAddressMiddleware:
    """ASGI middleware that sets the request context's client address. `trusted`: networks whose X-Forwarded-For is used.

    A request's `state.untrusted_proxy` is true when the address is that of an untrusted proxy, which many callers share.
    """

    def __init__(self, app: Any, *, trusted: Sequence[str]) -> None:
        self._app = app
        self._client_ips = ClientIpResolver(trusted)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        address, untrusted_proxy = self._client_ips.resolve_behind_proxy(scope, dict(scope["headers"]))
        scope.setdefault("state", {})["untrusted_proxy"] = untrusted_proxy
        token = client_address.set(address)
        try:
            await self._app(scope, receive, send)
        finally:
            client_address.reset(token)
