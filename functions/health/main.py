"""GET /health: degraded components, unauthenticated; /health/live and /health/ready for probes."""

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.health import check_components


def build(context: Context) -> Application:
    """The application with its routes; every function has the probes."""
    app = create_app("health", context)
    app.get("/health")(health)
    return app


async def health(request: Request) -> JSONResponse:
    """200 when all components are healthy, else 503; each component with the reason, without internal details."""
    components: dict[str, Any] = await check_components(context_of(request))
    status = "ok" if not any(components.values()) else "degraded"
    body = {
        "status": status,
        "parts": {
            name: {"status": "degraded" if reason else "ok", "reason": reason} for name, reason in components.items()
        },
    }
    return JSONResponse(body, status_code=200 if status == "ok" else 503)


handle = http_function(build)
