"""Where a request comes from: told to the audit log, and looked at for keys that are bound to networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmariner.audit.request_context import client_address
from llmariner.gateway.requests.client_ip import ClientIpResolver

__all__ = ["ClientAddressMiddleware"]


class ClientAddressMiddleware:
    """ASGI middleware. `trusted`: networks of those whose X-Forwarded-For is believed.

    A request's `state.proxied` says whether the address is that of a proxy which is not: then it stands for many callers.
    """

    def __init__(self, app: Any, *, trusted: Sequence[str]) -> None:
        self._app = app
        self._client_ips = ClientIpResolver(trusted)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        address, proxied = self._client_ips.resolve_behind_proxy(scope, dict(scope["headers"]))
        scope.setdefault("state", {})["proxied"] = proxied
        token = client_address.set(address)
        try:
            await self._app(scope, receive, send)
        finally:
            client_address.reset(token)
