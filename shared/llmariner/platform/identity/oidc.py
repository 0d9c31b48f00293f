"""Verifies tokens of an OpenID Connect issuer with its published keys, without a request to it per token."""

from __future__ import annotations

import time
from typing import Any

import jwt

from llmariner.errors import AuthenticationFailed
from llmariner.platform.identity import Identity
from llmariner.platform.identity.discovery import fetch_signing_keys
from llmariner.platform.identity.email_addresses import normalize_email
from llmariner.platform.identity.signing_keys import SigningKeys
from llmariner.settings import IdentitySettings

__all__ = ["OidcTokenVerifier"]

_MAX_TOKEN_LENGTH = 16 * 1024
_MAX_SUBJECT_LENGTH = 320
_MAX_GROUP_LENGTH = 256
# ID tokens and access tokens (RFC 9068). Other types, such as logout tokens, are not accepted.
_TOKEN_TYPES = frozenset({"JWT", "at+jwt", "application/at+jwt"})


class OidcTokenVerifier:
    """Verifies tokens of `LLMARINER_OIDC_ISSUER`. One per process, since it caches the keys."""

    def __init__(self, settings: IdentitySettings, keys: SigningKeys | None = None) -> None:
        self._settings = settings
        self._keys = keys or SigningKeys(lambda: fetch_signing_keys(settings), settings.outage_seconds)

    def verify(self, token: str) -> Identity:
        """The identity of a token's user (OpenID Connect Core 1.0, 3.1.3.7).

        AuthenticationFailed unless a key of the issuer signed the token with an asymmetric algorithm, for one of our
        audiences and clients, and it is valid now. Unavailable when the issuer's keys can't be fetched.
        """
        if len(token) > _MAX_TOKEN_LENGTH:
            raise invalid_token("it is longer than any token that this platform takes")
        try:
            claims = self._claims(token)
        except jwt.ExpiredSignatureError as error:
            raise invalid_token("it has expired", code="token_expired") from error
        except jwt.InvalidTokenError as error:
            raise invalid_token(_REASONS.get(type(error), "it is malformed or was forged")) from error
        self._check_client(claims)
        return self._identity(claims)

    def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        # The header is untrusted input: its values may have any type.
        if not isinstance(algorithm, str) or algorithm not in self._settings.algorithms:
            raise jwt.InvalidAlgorithmError
        if not isinstance(header.get("typ", "JWT"), str) or header.get("typ", "JWT") not in _TOKEN_TYPES:
            raise invalid_token("it is no token of a sign-in")
        key = self._keys.key(None if kid is None else str(kid), algorithm)
        if key is None:
            raise invalid_token("the issuer has no such key (any more)")
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=sorted(self._settings.audiences),
            issuer=self._settings.issuer,
            leeway=self._settings.leeway,
            options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )
        return claims

    def _check_client(self, claims: dict[str, Any]) -> None:
        """AuthenticationFailed unless the token's client is ours; a token with several audiences must name its client."""
        named = [claims[name] for name in ("azp", "client_id") if name in claims]
        if any(not isinstance(client, str) or client not in self._settings.clients for client in named):
            raise invalid_token("it was made for another application")
        if not named and isinstance(claims["aud"], list) and len(claims["aud"]) > 1:
            raise invalid_token("it has several audiences and does not say for which application it was made")

    def _identity(self, claims: dict[str, Any]) -> Identity:
        subject, email, signed_in = _printable(claims["sub"]), _printable(claims.get("email")), claims.get("auth_time")
        if subject is None or len(subject) > _MAX_SUBJECT_LENGTH or len(email or "") > _MAX_SUBJECT_LENGTH:
            raise invalid_token("its subject or e-mail is no name")
        groups = _groups(claims.get(self._settings.groups_claim, [] if self._settings.groups_omitted else None))
        at = signed_in if isinstance(signed_in, int) else int(claims["iat"])
        return Identity(
            issuer=self._settings.issuer,
            subject=subject,
            email=normalize_email(email) if email else None,
            # Some issuers send a string.
            email_verified=self._settings.trust_unverified_email or str(claims.get("email_verified")).lower() == "true",
            name=(_printable(claims.get("name")) or "")[:256] or None,
            groups=groups,
            signed_in_at=max(0, min(at, int(time.time()))),
            issued_at=int(claims["iat"]),
            expires_at=int(claims["exp"]),
        )


def _groups(claim: Any) -> frozenset[str] | None:
    """The groups of a claim: a list, or a string where the user is in one group.

    None where the claim is absent or has another form: memberships by groups must not be revoked for that.
    """
    listed = [claim] if isinstance(claim, str) else claim
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        return None
    return frozenset(name for name in map(_printable, listed) if name is not None and len(name) <= _MAX_GROUP_LENGTH)


def _printable(claim: Any) -> str | None:
    """The claim where it is a non-empty string of printable characters, else None."""
    return claim if isinstance(claim, str) and claim and claim.isprintable() else None


def invalid_token(reason: str, *, code: str = "invalid_token") -> AuthenticationFailed:
    """The error for an invalid token; the reason discloses nothing, since the caller has the token."""
    return AuthenticationFailed(
        f"Your sign-in is not accepted: {reason}. Sign in again with `llma auth login`.",
        code=code,
        headers={"www-authenticate": 'Bearer error="invalid_token"'},
    )


_REASONS: dict[type[Exception], str] = {
    jwt.InvalidAlgorithmError: "it is signed with an algorithm that this platform does not take",
    jwt.InvalidSignatureError: "its signature is not the issuer's",
    jwt.InvalidIssuerError: "it is of another issuer",
    jwt.InvalidAudienceError: "it is for somebody else (its audience is not this platform)",
    jwt.ImmatureSignatureError: "it is not good yet; compare this machine's clock with the issuer's",
    jwt.MissingRequiredClaimError: "it lacks a claim (exp, iat, iss, aud and sub are needed)",
}
