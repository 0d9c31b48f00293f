"""The identity port: from a token to who stands behind it. Whoever implements it has checked all that makes it good.

Kept free of libraries: a function that is only ever called with API keys pays nothing for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Identity", "TokenVerifier"]


@dataclass(frozen=True)
class Identity:
    """Who a token speaks of, in its issuer's words."""

    issuer: str
    subject: str
    """The issuer's own name for the person, never given to another one."""

    email: str | None
    """In lower case; None when the token names none."""

    email_verified: bool
    """Whether the issuer vouches that the e-mail is this person's."""

    name: str | None
    groups: frozenset[str] | None
    """None when the token does not say, which is not the same as none."""

    signed_in_at: int
    """When the person showed who they are, in seconds since 1970; a refreshed token says the same as the first."""

    issued_at: int
    """Of this token, in seconds since 1970."""

    expires_at: int


class TokenVerifier(Protocol):
    """Who vouches for people."""

    def verify(self, token: str) -> Identity:
        """Who stands behind a token. AuthenticationFailed for one that isn't good, Unavailable when nobody can tell."""
