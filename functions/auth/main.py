"""GET /v1/auth/configuration: the issuer and client id for sign-in. Unauthenticated."""

from typing import Any

from fastapi import Request

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.settings import IdentitySettings


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("auth", context)
    app.get("/v1/auth/configuration")(configuration)
    return app


def configuration(request: Request) -> dict[str, Any]:
    """The configuration that a client needs for sign-in. `issuer` null: this platform has API keys only.

    The issuer itself publishes its endpoints (OpenID Connect Discovery), at `/.well-known/openid-configuration`.
    """
    settings = IdentitySettings.load(context_of(request).env)
    issuer = {"issuer": settings.issuer, "client_id": settings.client_id, "scopes": settings.scopes.split()}
    no_issuer: dict[str, Any] = {"issuer": None, "client_id": None, "scopes": []}
    return {"object": "auth.configuration", **(issuer if settings.issuer else no_issuer)}


handle = http_function(build)
