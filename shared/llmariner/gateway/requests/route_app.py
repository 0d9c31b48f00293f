"""The token path as plain ASGI applications, one per route: a web framework would cost more than the work itself."""

from __future__ import annotations

from collections.abc import Awaitable

from llmariner.errors import MethodNotAllowed, UnknownUrl
from llmariner.gateway.requests.fields import Route
from llmariner.gateway.requests.handler import RequestHandler
from llmariner.gateway.responses.messages import Receive, Scope, Send, default_headers, send_error, send_head, send_json
from llmariner.gateway.state import Gateway

__all__ = ["RouteApp"]


class RouteApp:
    """One route of the token path, with the probes and metrics of every function."""

    def __init__(self, gateway: Gateway, route: Route) -> None:
        self._gateway = gateway
        self.route = route

    async def close(self) -> None:
        """Flush what the gateway instance holds, at shutdown."""
        await self._gateway.close()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request (ASGI)."""
        if scope["method"] == "POST" and scope["path"] == self.route.path:
            return RequestHandler(self._gateway, self.route, scope, receive, send).run()
        return self._answer(scope, send)

    async def _answer(self, scope: Scope, send: Send) -> None:
        """Answer a probe, or reject the request."""
        method, path = scope["method"], scope["path"]
        if path == self.route.path:
            await send_error(send, MethodNotAllowed(method, path, "POST"), default_headers())
        elif path in ("/health/live", "/health/ready"):
            await send_json(send, 200, b'{"status":"ok"}', [])
        elif path == "/metrics" and method == "GET":
            text = self._gateway.metrics_text().encode()
            await send_head(send, 200, b"text/plain; version=0.0.4; charset=utf-8", [], len(text))
            await send({"type": "http.response.body", "body": text})
        else:
            await send_error(send, UnknownUrl(method, path), default_headers())
