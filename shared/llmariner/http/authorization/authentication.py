"""Authentication and scope checks of functions with a database. Every route declares the scope that it requires."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, Request

from llmariner.audit.request_context import client_address
from llmariner.context import Context
from llmariner.errors import PermissionDenied
from llmariner.gateway.authentication.key_cache import (
    bearer_token,
    invalid_key,
    is_jwt,
    missing_scope,
    sign_in_not_configured,
)
from llmariner.tenancy.keys.allowed_networks import is_allowed
from llmariner.tenancy.principal import Caller

__all__ = ["authenticate", "check_client_network", "context_of", "require_scope"]


def context_of(request: Request) -> Context:
    """The process's `Context`, which `create_app` stored in the application's state."""
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


def authenticate(request: Request) -> Caller:
    """The caller of a request, whatever their scopes.

    Raises AuthenticationFailed for an invalid key or token, RateLimited after too many of them from the client's address,
    PermissionDenied for a key that is used outside its networks.
    """
    authorization = request.headers.get("authorization")
    secret = bearer_token(authorization.encode("latin-1") if authorization else None)
    lookups, untrusted_proxy = context_of(request).secret_lookups, bool(request.state.untrusted_proxy)
    caller = lookups.look_up(
        secret, lambda: _resolve_caller(request, secret), client_address.get(), untrusted_proxy=untrusted_proxy
    )
    check_client_network(caller)
    return caller


def require_scope(scope: str, *, objects: str = "project") -> Any:
    """A FastAPI dependency that returns the caller, a key or a signed-in user, who must hold `scope`.

    `objects` declares whose objects the route accesses: "project" (those of the caller's project), "member" (those of the
    organizations and projects that the caller is in), "self" (the caller's own). docs/security/authorization.md lists them.
    """

    def authorized(request: Request) -> Caller:
        caller = authenticate(request)
        if scope not in caller.scopes:
            raise missing_scope(scope) if caller.key_id else _missing_scope(scope)
        return caller

    authorized.scope = scope  # type: ignore[attr-defined]
    authorized.objects = objects  # type: ignore[attr-defined]
    return Depends(authorized)


def _resolve_caller(request: Request, secret: str) -> Caller:
    organization, project = request.headers.get("openai-organization"), request.headers.get("openai-project")
    if is_jwt(secret):
        return _resolve_person(request, secret, organization, project)
    caller = context_of(request).authenticator.authenticate(secret, organization, project)
    if caller is None:
        raise invalid_key()
    return caller


def check_client_network(caller: Caller) -> None:
    """Raises PermissionDenied for a key that is used outside its allowed networks."""
    address = client_address.get()
    if caller.allowed_sources is not None and not is_allowed(caller.allowed_sources, address or ""):
        raise PermissionDenied(
            f"This API key may not be used from {address or 'an unknown address'}: it is bound to certain networks. "
            "Call from one of them, or have the key's owner change them.",
            code="source_not_allowed",
        )


def _resolve_person(request: Request, token: str, organization: str | None, project: str | None) -> Caller:
    people = context_of(request).identity
    if people is None:
        raise sign_in_not_configured()
    return people.authenticate(token, organization, project, source=client_address.get())


def _missing_scope(scope: str) -> PermissionDenied:
    return PermissionDenied(
        f"None of your roles here gives the scope '{scope}' that this request needs. Ask an owner of the organization, or "
        "select another organization or project (`llma auth status` shows your roles)."
    )
