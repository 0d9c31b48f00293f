"""GET /health: what is degraded, without a key; /health/live and /health/ready for probes."""

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.health import check_components


def build(context: Context) -> Application:
    """The routes; the probes stand in every function."""
    app = create_app("health", context)
    app.get("/health")(health)
    return app


async def health(request: Request) -> JSONResponse:
    """200 when all parts answer, else 503; each part with what is wrong, and nothing of the inside."""
    parts: dict[str, Any] = await check_components(context_of(request))
    status = "ok" if not any(parts.values()) else "degraded"
    body = {
        "status": status,
        "parts": {name: {"status": "degraded" if why else "ok", "reason": why} for name, why in parts.items()},
    }
    return JSONResponse(body, status_code=200 if status == "ok" else 503)


handle = http_function(build)
