"""The client's address of a request, for the audit log and for keys that are restricted to networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmariner.audit.request_context import client_address
from llmariner.environment import Secret
from llmariner.gateway.authentication.client_attestation import CLIENT_HEADER, attested_client
from llmariner.gateway.requests.client_ip import ClientIpResolver

__all__ = ["ClientAddressMiddleware"]


class ClientAddressMiddleware:
    """ASGI middleware that sets the request context's client address. `trusted`: networks whose X-Forwarded-For is used.

    Another function may name the client for whom it calls, in a header that it signs with `service_secret`.
    A request's `state.untrusted_proxy` is true when the address is that of an untrusted proxy, which many callers share.
    """

    def __init__(self, app: Any, *, trusted: Sequence[str], service_secret: Secret) -> None:
        self._app = app
        self._service_secret = service_secret
        self._client_ips = ClientIpResolver(trusted)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        attested = None
        if CLIENT_HEADER in headers:
            attested = attested_client(headers[CLIENT_HEADER], self._service_secret.reveal())
        address, untrusted_proxy = attested or self._client_ips.resolve_behind_proxy(scope, headers)
        scope.setdefault("state", {})["untrusted_proxy"] = untrusted_proxy
        token = client_address.set(address)
        try:
            await self._app(scope, receive, send)
        finally:
            client_address.reset(token)
