"""The identity port: verification of a token yields the identity of the user.

It imports no libraries: a function that is called with API keys only does not load those that verify tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Identity", "TokenVerifier"]


@dataclass(frozen=True)
class Identity:
    """The user that a verified token identifies, as its issuer states."""

    issuer: str
    subject: str
    """The issuer's id of the user, never reassigned."""

    email: str | None
    """In lower case; None when the token has no valid one."""

    email_verified: bool
    """Whether the issuer verified that the e-mail address is this user's."""

    name: str | None
    groups: frozenset[str] | None
    """None when the token does not state groups, which differs from an empty set."""

    signed_in_at: int
    """The time of authentication in seconds since 1970; a refreshed token has that of the first token."""

    issued_at: int
    """The time of issue of this token, in seconds since 1970."""

    expires_at: int


class TokenVerifier(Protocol):
    """Verifies the tokens of one issuer."""

    def verify(self, token: str) -> Identity:
        """The identity of a token's user. AuthenticationFailed for an invalid token, Unavailable without the keys."""
