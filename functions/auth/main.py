"""GET /v1/auth/configuration: where and as which client people sign in, for who has no key and no token yet."""

from typing import Any

from fastapi import Request

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.settings import IdentitySettings


def build(context: Context) -> Application:
    """The routes."""
    app = create_app("auth", context)
    app.get("/v1/auth/configuration")(configuration)
    return app


def configuration(request: Request) -> dict[str, Any]:
    """What a client must know to sign somebody in. `issuer` null: this platform has API keys only.

    All else (endpoints, device flow, revocation) the issuer says itself, below `/.well-known/openid-configuration`.
    """
    settings = IdentitySettings.load(context_of(request).env)
    issuer = {"issuer": settings.issuer, "client_id": settings.client_id, "scopes": settings.scopes.split()}
    nobody: dict[str, Any] = {"issuer": None, "client_id": None, "scopes": []}
    return {"object": "auth.configuration", **(issuer if settings.issuer else nobody)}


handle = http_function(build)
