"""Tokens between functions: PyJWT verifies ours, and forged ones are rejected."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from starlette.requests import Request

from llmariner.errors import AuthenticationFailed
from llmariner.gateway.authentication.service_tokens import ServiceTokens
from llmariner.http.authorization.service_calls import verify_service_token
from llmariner.settings import Secret

SECRET = "0123456789abcdef" * 4
AUDIENCE = "internal_gateway"


def token(secret: str = SECRET, *, issuer: str = "function", audience: str = AUDIENCE) -> str:
    return ServiceTokens(secret, issuer=issuer, audience=audience).token()


def caller(authorization: str | None) -> str:
    """The issuer that the control plane accepts a token of."""
    headers = [] if authorization is None else [(b"authorization", authorization.encode("latin-1"))]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers})
    return verify_service_token(request, Secret(SECRET), audience=AUDIENCE)


def sign_token(claims: dict[str, Any], *, header: dict[str, Any] | None = None, key: str = SECRET) -> str:
    """A token of arbitrary claims, header and key."""
    head = {"alg": "HS256", "typ": "JWT"} if header is None else header
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, claims)]
    digest = hmac.digest(key.encode(), b".".join(parts), hashlib.sha256)
    return b".".join([*parts, base64.urlsafe_b64encode(digest).rstrip(b"=")]).decode()


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    said = {"iss": "function", "aud": AUDIENCE, "iat": now, "exp": now + 60, **changed}
    return {name: value for name, value in said.items() if value is not None}


def test_a_token_names_its_caller() -> None:
    assert caller(f"Bearer {token(issuer='chat_completions')}") == "chat_completions"


def test_a_token_is_valid_for_a_minute_and_parsed_by_pyjwt() -> None:
    before = int(time.time())
    found = jwt.decode(token(), SECRET, algorithms=["HS256"], audience=AUDIENCE)
    assert (found["iss"], found["aud"]) == ("function", AUDIENCE)
    assert before <= found["iat"] <= time.time()
    assert 59 <= found["exp"] - found["iat"] <= 61
    assert jwt.get_unverified_header(token()) == {"alg": "HS256", "typ": "JWT"}


def test_a_token_is_signed_once_and_reused() -> None:
    tokens = ServiceTokens(SECRET, issuer="function", audience=AUDIENCE)
    assert tokens.token() is tokens.token()


def test_a_token_signed_by_pyjwt_is_accepted() -> None:
    assert caller(f"Bearer {sign_token(claims())}") == "function"


@pytest.mark.parametrize("changed", [{"iat": 3}, {"exp": -3}])
def test_a_few_seconds_of_clock_skew_are_tolerated(changed: dict[str, int]) -> None:
    now = int(time.time())
    assert caller(f"Bearer {sign_token(claims(**{name: now + by for name, by in changed.items()}))}") == "function"


RS256 = {"alg": "RS256", "typ": "JWT"}
NONE = {"alg": "none", "typ": "JWT"}
FORGED = {
    "another secret": lambda: token("x" * 64),
    "the secret of another case": lambda: token(SECRET.upper()),
    "another function's": lambda: token(audience="models"),
    "an empty audience": lambda: token(audience=""),
    "no audience": lambda: sign_token(claims(aud=None)),
    "no issuer": lambda: sign_token(claims(iss=None)),
    "no end": lambda: sign_token(claims(exp=None)),
    "expired": lambda: sign_token(claims(exp=int(time.time()) - 6)),
    "from the future": lambda: sign_token(claims(iat=int(time.time()) + 30)),
    "an end that is no number": lambda: sign_token(claims(exp="tomorrow")),
    "no algorithm": lambda: sign_token(claims(), header=NONE),
    "no algorithm and no signature": lambda: sign_token(claims(), header=NONE).rsplit(".", 1)[0] + ".",
    "no signature": lambda: token().rsplit(".", 1)[0] + ".",
    "another algorithm's name": lambda: sign_token(claims(), header=RS256),
    "a longer hash": lambda: jwt.encode(claims(), SECRET, algorithm="HS512"),
    "claims exchanged": lambda: ".".join([token().split(".")[0], sign_token(claims()).split(".")[1][:-2] + "fQ", "x"]),
    "one byte of the signature": lambda: token()[:-2] + ("A" if token()[-2] != "A" else "B") + token()[-1],
    "a list of claims": lambda: sign_token([1, 2]),  # type: ignore[arg-type]
    "cut off": lambda: token()[:40],
    "two parts": lambda: token().rsplit(".", 1)[0],
    "nothing": lambda: "",
    "text": lambda: "sk-a-users-key",
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_forged_token_is_rejected(forged: Any) -> None:
    with pytest.raises(AuthenticationFailed) as refused:
        caller(f"Bearer {forged()}")
    assert SECRET not in refused.value.message


@pytest.mark.parametrize("scheme", ["Basic ", "bearer", "", "JWT "])
def test_a_token_with_another_scheme_is_rejected(scheme: str) -> None:
    with pytest.raises(AuthenticationFailed):
        caller(scheme + token())


def test_a_call_without_a_token_is_rejected() -> None:
    for authorization in (None, "", "Bearer"):
        with pytest.raises(AuthenticationFailed):
            caller(authorization)


def test_a_token_from_before_a_clock_change_is_not_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, now = ServiceTokens(SECRET, issuer="function", audience=AUDIENCE), time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    ahead = tokens.token()
    assert tokens.token() == ahead
    monkeypatch.setattr(time, "time", lambda: now)
    assert caller(f"Bearer {tokens.token()}") == "function"
    assert tokens.token() == tokens.token()
