"""JSON Web Tokens (RFC 7519) that the shared service secret signs with HMAC-SHA256.

This module implements JWT itself, because importing a JWT library would cost more than the whole start of the token path,
and a tenth of a second of the start of a function that verifies only these. The tests check it against PyJWT.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["NotSigned", "SignedTokens", "sign", "verified_claims"]

_LONGEST = 6144
"""Characters of a token of `SignedTokens`."""


class NotSigned(ValueError):
    """The text is no token that the secret signed."""


class SignedTokens:
    """Tokens for one purpose, the audience. `secrets`: the first signs, each of them verifies."""

    def __init__(self, secrets: Sequence[bytes], audience: str) -> None:
        self._secrets = tuple(secrets)
        self._audience = audience

    def sign(self, claims: Mapping[str, object]) -> str:
        """A token with these claims and the audience."""
        return sign({"aud": self._audience, **claims}, self._secrets[0])

    def verified(self, token: str) -> dict[str, Any]:
        """The claims of a token of the audience. Raises NotSigned for any other text. The caller checks the expiry."""
        for secret in self._secrets:
            try:
                claims = verified_claims(token[:_LONGEST], secret)
            except NotSigned:
                continue
            if claims.get("aud") == self._audience:
                return claims
        raise NotSigned("None of the secrets signed it for this purpose.")

    def is_signed(self, token: str) -> bool:
        """Whether the installation made a token, so that it is no guess."""
        try:
            self.verified(token)
        except NotSigned:
            return False
        return True


def sign(claims: Mapping[str, object], secret: bytes) -> str:
    """A token with these claims."""
    signed = _json_segment({"alg": "HS256", "typ": "JWT"}) + b"." + _json_segment(claims)
    return (signed + b"." + _base64url(hmac.digest(secret, signed, hashlib.sha256))).decode()


def verified_claims(token: str, secret: bytes) -> dict[str, Any]:
    """The claims of a token that the secret signed (RFC 7515). Raises NotSigned for any other text.

    The caller checks the claims, of which audience and expiry come first.
    """
    signed, _, signature = token.rpartition(".")
    try:
        header, body = signed.split(".")
        digest = hmac.digest(secret, signed.encode(), hashlib.sha256)
        if not hmac.compare_digest(_base64url_decode(signature), digest):
            raise NotSigned("The signature is not that of the secret.")
        if json.loads(_base64url_decode(header)).get("alg") != "HS256":
            raise NotSigned("The algorithm is not HS256.")
        claims = json.loads(_base64url_decode(body))
    except (ValueError, AttributeError) as error:
        raise NotSigned("The text is no signed token.") from error
    if not isinstance(claims, dict):
        raise NotSigned("The claims are no JSON object.")
    return claims


def _json_segment(value: Mapping[str, object]) -> bytes:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")


def _base64url_decode(part: str) -> bytes:
    return base64.b64decode(part.encode() + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
