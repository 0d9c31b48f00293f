"""Forged tokens: each way to make one with any signing key, and the message of its rejection."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

from .issuer import Signer, SigningKey

__all__ = ["FORGED", "sign_unchecked", "soon"]


def sign_unchecked(header: dict[str, Any], claims: dict[str, Any], key: bytes | None) -> str:
    """A token put together without a library that would refuse to."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    signed = b".".join(parts)
    signature = hmac.digest(key, signed, hashlib.sha256) if key is not None else b""
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def signed_by_unknown_key(issuer: Signer) -> str:
    return SigningKey().sign(issuer.claims(), kid=issuer.key.kid)


def altered(issuer: Signer) -> str:
    head, _, signature = issuer.token().split(".")
    body = base64.urlsafe_b64encode(json.dumps(issuer.claims(sub="admin")).encode()).rstrip(b"=").decode()
    return f"{head}.{body}.{signature}"


def soon(**ahead: int) -> dict[str, int]:
    return {name: int(time.time()) + seconds for name, seconds in ahead.items()}


FORGED: dict[str, tuple[Callable[[Signer], str], str]] = {
    "of another issuer": (lambda i: i.token(iss="https://issuer.example"), "another issuer"),
    "of an issuer with nearly that name": (lambda i: i.token(iss=f"{i.url}/"), "another issuer"),
    "for another audience": (lambda i: i.token(aud="other"), "its audience is not"),
    "for no audience": (lambda i: i.token(aud=None), "lacks a claim"),
    "for an empty list of audiences": (lambda i: i.token(aud=[]), "audience|lacks"),
    "another client's": (lambda i: i.token(azp="other"), "another application"),
    "another client's, RFC 9068": (lambda i: i.token(client_id="other"), "another application"),
    "one of two audiences, without azp": (lambda i: i.token(aud=["llmariner", "other"]), "several audiences"),
    "one of two audiences, of the other": (lambda i: i.token(aud=["llmariner", "other"], azp="other"), "another app"),
    "expired": (lambda i: i.token(**soon(iat=-700, exp=-31)), "has expired"),
    "without an end": (lambda i: i.token(exp=None), "lacks a claim"),
    "without a beginning": (lambda i: i.token(iat=None), "lacks a claim"),
    "without a subject": (lambda i: i.token(sub=None), "lacks a claim"),
    "with an empty subject": (lambda i: i.token(sub=""), "no name"),
    "with a subject of control characters": (lambda i: i.token(sub="alice\x00"), "no name"),
    "not yet valid": (lambda i: i.token(**soon(nbf=120)), "not good yet"),
    "issued in the future": (lambda i: i.token(**soon(iat=120)), "not good yet"),
    "alg none": (lambda i: sign_unchecked({"alg": "none"}, i.claims(), None), "algorithm"),
    "alg none with the key's id": (
        lambda i: sign_unchecked({"alg": "none", "kid": i.key.kid}, i.claims(), None),
        "algorithm",
    ),
    "HS256 with the public key": (
        lambda i: sign_unchecked({"alg": "HS256", "kid": i.key.kid}, i.claims(), i.key.public_pem),
        "algorithm",
    ),
    "HS256 with the public key as a JWK": (
        lambda i: sign_unchecked({"alg": "HS256"}, i.claims(), json.dumps(i.key.jwk(private=False)).encode()),
        "algorithm",
    ),
    "an algorithm that was not agreed on": (lambda i: i.key.sign(i.claims(), algorithm="RS512"), "algorithm"),
    "of an unknown key": (lambda i: SigningKey().sign(i.claims()), "no such key"),
    "of another key with a known id": (signed_by_unknown_key, "signature"),
    "with its own key in the header": (
        lambda i: (k := SigningKey()).sign(i.claims(), jwk=k.jwk(private=False)),
        "no such key",
    ),
    "altered after it was signed": (altered, "signature"),
    "a logout token": (lambda i: i.key.sign(i.claims(), typ="logout+jwt"), "no token of a sign-in"),
    "with a header that must be understood": (lambda i: i.key.sign(i.claims(), crit=["b64"], b64=True), "malformed"),
    "no token": (lambda i: "eyJ.e30.x", "malformed"),
    "far too long": (lambda i: i.token(padding="x" * 20_000), "longer"),
}
