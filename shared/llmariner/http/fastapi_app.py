"""The application factory of functions with a database: FastAPI with the platform's errors, body limit and probes."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI

from llmariner.context import Context
from llmariner.function_settings import check_settings
from llmariner.gateway_settings import GatewaySettings
from llmariner.http.middleware import errors as error_middleware
from llmariner.http.middleware.client_address import ClientAddressMiddleware
from llmariner.http.middleware.readiness import Readiness
from llmariner.http.schemas.bodies import JsonRoute

__all__ = ["create_app"]

_BODY_LIMIT = 1024 * 1024


def create_app(
    title: str, context: Context, *, streamed_bodies: re.Pattern[str] | None = None, body_limit: int = _BODY_LIMIT
) -> FastAPI:
    """An application with /health/live and /health/ready, to which the caller adds routes. Raises for invalid settings.

    `streamed_bodies`: the paths whose handlers read bodies as they arrive and limit them; other bodies have at most
    `body_limit` bytes.
    """
    check_settings(context.env)
    app = FastAPI(
        title=title,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.router.route_class = JsonRoute
    app.state.context = context
    app.add_middleware(
        ClientAddressMiddleware,
        trusted=GatewaySettings.load(context.env).trusted_proxies,
        service_secret=context.secrets.service,
    )
    error_middleware.install_error_handling(app, body_limit=body_limit, streamed=streamed_bodies)
    if context.env.get("LLMARINER_BROKER_URL"):
        from llmariner.http.middleware.outbox import OutboxMiddleware

        # The publisher, and its connection to the database, is created at the first publication.
        app.add_middleware(OutboxMiddleware, publisher=lambda: context.publisher)

    @app.get("/health/live")
    def live() -> dict[str, Any]:
        return {"status": "ok"}

    readiness = Readiness(context)

    @app.get("/health/ready")
    def ready() -> dict[str, Any]:
        readiness.check()
        return {"status": "ok"}

    return app
