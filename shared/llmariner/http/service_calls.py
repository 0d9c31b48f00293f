"""Calls between functions: who calls must show a token that the shared service secret signed, for this very function."""

from __future__ import annotations

import jwt
from fastapi import Request

from llmariner.errors import AuthenticationFailed
from llmariner.settings import Secret

__all__ = ["verified"]

# Clocks of two nodes are never quite the same.
_LEEWAY_SECONDS = 5


def verified(request: Request, secret: Secret, *, audience: str) -> str:
    """The calling function's name. AuthenticationFailed for a token that is missing, forged, expired or for another."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    try:
        claims = jwt.decode(
            token if scheme == "Bearer" else "",
            secret.reveal(),
            algorithms=["HS256"],
            audience=audience,
            leeway=_LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "aud"]},
        )
    except jwt.InvalidTokenError as error:
        raise AuthenticationFailed("This function takes calls of other functions only.") from error
    return str(claims["iss"])
