"""Authentication of calls between functions by tokens (RFC 7519) that the shared service secret signs for one audience.

Verified without the JWT library, whose import would add a tenth of a second to the start of a function that verifies only
these. `gateway.authentication.service_tokens` issues them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

from fastapi import Request

from llmariner.errors import AuthenticationFailed
from llmariner.settings import Secret

__all__ = ["verify_service_token"]

# Clocks of two nodes differ.
_LEEWAY_SECONDS = 5


def verify_service_token(request: Request, secret: Secret, *, audience: str) -> str:
    """The calling function's name. Raises AuthenticationFailed without a valid token for the audience."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    try:
        claims = _verified_claims(token if scheme == "Bearer" else "", secret)
        now = time.time()
        premature, expired = claims["iat"] - _LEEWAY_SECONDS > now, claims["exp"] + _LEEWAY_SECONDS <= now
        if claims["aud"] != audience or not isinstance(claims["iss"], str) or not claims["iss"] or premature or expired:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AuthenticationFailed("This function takes calls of other functions only.") from error
    return str(claims["iss"])


def _verified_claims(token: str, secret: Secret) -> dict[str, Any]:
    """The claims of a token that the secret signed with HMAC-SHA256 (RFC 7515). Raises ValueError for any other token."""
    signed, _, signature = token.rpartition(".")
    digest = hmac.digest(secret.reveal().encode(), signed.encode(), hashlib.sha256)
    header, body = signed.split(".")
    if (
        not hmac.compare_digest(_base64url_decode(signature), digest)
        or json.loads(_base64url_decode(header)).get("alg") != "HS256"
    ):
        raise ValueError
    claims = json.loads(_base64url_decode(body))
    if not isinstance(claims, dict):
        raise ValueError
    return claims


def _base64url_decode(part: str) -> bytes:
    return base64.b64decode(part.encode() + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
