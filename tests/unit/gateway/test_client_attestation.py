"""The client's address in calls between functions: signed by the platform, for two minutes, and for nothing else."""

from __future__ import annotations

import time
from typing import Any

import pytest

from llmariner.file_search.chat import _MAX_WAIT_SECONDS, _WORK_SECONDS
from llmariner.gateway.authentication.client_attestation import attest_client, attested_client
from llmariner.gateway.authentication.service_tokens import ServiceTokens
from llmariner.gateway.authentication.signed_tokens import sign, verified_claims

SECRET = "s" * 64


@pytest.mark.parametrize("client", [("10.1.2.3", False), ("2001:db8::1", True), (None, False)])
def test_an_address_comes_through(client: tuple[str | None, bool]) -> None:
    assert attested_client(attest_client(client, SECRET), SECRET) == client


def test_an_address_holds_for_the_longest_search() -> None:
    claims = verified_claims(attest_client(("10.1.2.3", False), SECRET).decode(), SECRET.encode())
    assert claims["exp"] - claims["iat"] > _MAX_WAIT_SECONDS + _WORK_SECONDS


def test_nobody_else_signs_an_address() -> None:
    genuine = attest_client(("10.1.2.3", False), SECRET)
    assert attested_client(genuine, "t" * 64) is None
    for forged in (
        b"",
        b"10.1.2.3",
        b"a.b.c",
        b"\xff.\xff.\xff",
        genuine[:-1],
        genuine + b"x",
        genuine.replace(b".", b""),
    ):
        assert attested_client(forged, SECRET) is None


@pytest.mark.parametrize(
    "changed",
    [{"aud": "token_path"}, {"exp": -60}, {"iat": 600}, {"exp": None}, {"iat": "x"}],
)
def test_another_purpose_or_time_does_not_count(changed: dict[str, Any]) -> None:
    """Numbers are seconds from now."""
    now = int(time.time())
    changed = {name: now + value if isinstance(value, int) else value for name, value in changed.items()}
    claims = {"aud": "client_address", "iat": now, "exp": now + 60, "untrusted_proxy": False, "address": "10.1.2.3"}
    assert attested_client(sign(claims, SECRET.encode()).encode(), SECRET) == ("10.1.2.3", False)
    assert attested_client(sign({**claims, **changed}, SECRET.encode()).encode(), SECRET) is None
    assert (
        attested_client(ServiceTokens(SECRET, issuer="x", audience="client_address").token().encode(), SECRET) is None
    )
