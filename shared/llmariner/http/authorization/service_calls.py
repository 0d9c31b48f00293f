"""Authentication of calls between functions, by tokens that the shared service secret signs for one audience.

`gateway.authentication.service_tokens` issues them.
"""

from __future__ import annotations

import time

from fastapi import Request

from llmariner.errors import AuthenticationFailed
from llmariner.gateway.authentication.signed_tokens import verified_claims
from llmariner.settings import Secret

__all__ = ["verify_service_token"]

# Clocks of two nodes differ.
_LEEWAY_SECONDS = 5


def verify_service_token(request: Request, secret: Secret, *, audience: str) -> str:
    """The calling function's name. Raises AuthenticationFailed without a valid token for the audience."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    try:
        claims = verified_claims(token if scheme == "Bearer" else "", secret.reveal().encode())
        now = time.time()
        premature, expired = claims["iat"] - _LEEWAY_SECONDS > now, claims["exp"] + _LEEWAY_SECONDS <= now
        if claims["aud"] != audience or not isinstance(claims["iss"], str) or not claims["iss"] or premature or expired:
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise AuthenticationFailed("This function takes calls of other functions only.") from error
    return str(claims["iss"])
