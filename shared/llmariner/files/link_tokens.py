"""The signed tokens of links, and the present rights of those who made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select

from llmariner.errors import InvalidRequest, PermissionDenied
from llmariner.gateway.authentication.signed_tokens import NotSigned, SignedTokens
from llmariner.platform.database import Database
from llmariner.settings import Secret
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.current_rights import read_rights
from llmariner.tenancy.roles.scopes import with_implied
from llmariner.tenancy.tables import users

__all__ = ["PARAMETER", "LinkTokens", "check_lifetime", "maker_claims", "read_maker"]

PARAMETER = "link"
"""The parameter of a URL whose value is a token."""


class LinkTokens:
    """Tokens for one purpose, the audience. `secrets`: the first signs, each of them verifies."""

    def __init__(self, secrets: Sequence[Secret], audience: str) -> None:
        self._tokens = SignedTokens([secret.reveal().encode() for secret in secrets], audience)

    def sign(self, claims: Mapping[str, object]) -> str:
        """A token with these claims, which include `exp`, `jti` and those of `maker_claims`."""
        return self._tokens.sign(claims)

    def verified(self, token: str) -> dict[str, Any]:
        """The claims of a token. Raises PermissionDenied for any other text."""
        try:
            return self._tokens.verified(token)
        except NotSigned:
            raise self.invalid() from None

    def is_signed(self, token: str) -> bool:
        """Whether the installation made a token, so that it is no guess."""
        return self._tokens.is_signed(token)

    @staticmethod
    def invalid() -> PermissionDenied:
        """The error for whatever is no link to what is asked for."""
        return PermissionDenied(
            "The link is not valid. Use it exactly as it was given to you, or ask for another one.", code="invalid_link"
        )

    @staticmethod
    def check_time(claims: Mapping[str, Any], now: float) -> None:
        """Raises PermissionDenied for an expired token. `now`: by the database, whose time all processes share."""
        if claims["exp"] <= now:
            raise PermissionDenied("The link has expired. Ask for another one.", code="link_expired")


def check_lifetime(seconds: int, longest: int) -> None:
    """Raises InvalidRequest unless a link may be valid for that time."""
    if not 1 <= seconds <= longest:
        raise InvalidRequest(
            f"'expires_in_seconds' must be from 1 to {longest}.", param="expires_in_seconds", code="invalid_value"
        )


def maker_claims(caller: Caller) -> dict[str, str]:
    """The claims that say who made a link."""
    return {"user": caller.user_id, **({} if caller.key_id is None else {"key": caller.key_id})}


def read_maker(
    database: Database, claims: Mapping[str, Any], *, organization_id: str, project_id: str, scope: str
) -> Caller:
    """Who made a link, with that scope and no other.

    Raises PermissionDenied where the user or the key has lost the scope in the project, or the project is archived.
    """
    user_id, key_id = claims["user"], claims.get("key")
    rights = read_rights(
        database, user_id=user_id, organization_id=organization_id, project_id=project_id, key_id=key_id
    )
    scopes = rights.scopes
    if key_id is not None:
        scopes = frozenset() if rights.key is None else scopes & with_implied(rights.key.scopes)
    if not rights.is_project_active or scope not in scopes:
        raise PermissionDenied(
            "The one who made this link may not do this any more. Ask for another link.", code="link_revoked"
        )
    with database.read() as session:
        email = session.value(select(users.c.email).where(users.c.id == user_id))
    return Caller(
        user_id=user_id,
        email=email or "",
        organization_id=organization_id,
        project_id=project_id,
        organization_role=None,
        project_role=None,
        scopes=frozenset({scope}),
        key_id=key_id,
        key_name=None if rights.key is None else rights.key.name,
        allowed_sources=None if rights.key is None else rights.key.allowed_sources,
    )
