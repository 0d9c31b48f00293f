"""The client's address in a call that a function makes for the caller of its own request, with the caller's credentials.

The called function would see the address of the calling one: it would refuse keys that are bound to networks, and count
invalid keys of all callers as those of one client. A header tells it the address, signed by the service secret.
"""

from __future__ import annotations

import time

from llmariner.gateway.authentication.signed_tokens import sign, verified_claims

__all__ = ["CLIENT_HEADER", "ClientAddress", "attest_client", "attested_client"]

CLIENT_HEADER = b"x-llmariner-client"
ClientAddress = tuple[str | None, bool]
"""An address, None: unknown; and whether it is that of an untrusted proxy, which stands for clients that are unknown."""

_AUDIENCE = "client_address"
# Longer than any search, whose second call carries the same header, and whose function may have to start first.
_LIFETIME_SECONDS = 120
# Clocks of two nodes differ.
_LEEWAY_SECONDS = 5


def attest_client(client: ClientAddress, secret: str) -> bytes:
    """The value of the header, valid for two minutes."""
    now, (address, untrusted_proxy) = int(time.time()), client
    claims = {"aud": _AUDIENCE, "iat": now, "exp": now + _LIFETIME_SECONDS, "untrusted_proxy": untrusted_proxy}
    return sign({**claims, "address": address}, secret.encode()).encode()


def attested_client(value: bytes, secret: str) -> ClientAddress | None:
    """The client that the header names; None where this platform did not sign it, or not now."""
    try:
        claims = verified_claims(value.decode("latin-1"), secret.encode())
        now = time.time()
        premature, expired = claims["iat"] - _LEEWAY_SECONDS > now, claims["exp"] + _LEEWAY_SECONDS <= now
        if claims["aud"] != _AUDIENCE or premature or expired:
            return None
        return claims["address"], claims["untrusted_proxy"]
    except (ValueError, KeyError, TypeError):
        return None
