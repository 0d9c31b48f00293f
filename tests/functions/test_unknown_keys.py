"""Lookups of invalid keys and tokens are limited per minute, and do not delay valid ones."""

from __future__ import annotations

from typing import Any

import pytest

from llmariner.boot import load
from llmariner.context import Context
from llmariner.tenancy.principal import Caller

from .http_calls import HttpRequest, HttpResponse, InProcessClient, assert_error
from .installation import Installation
from .processes import CHECKOUT

TOKEN = "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.e30.c2ln"  # of nobody


class FailedLookups:
    """A function that looks up three keys of one address in vain, and counts."""

    def __init__(self, installation: Installation, in_process: InProcessClient, **env: str) -> None:
        few = {"LLMARINER_UNKNOWN_KEYS_PER_MINUTE": "3", **env}
        self.context = Context({**installation.environment, **few})
        self.context.__dict__["database"] = installation.context.database
        self._application: Any = load(CHECKOUT / "functions/users")
        self._application.use_context(self.context)
        self._in_process = in_process
        self.looked_up = 0
        self._look_up: Any = self.context.authenticator.authenticate
        self.context.authenticator.authenticate = self._counted  # type: ignore[method-assign]

    def _counted(self, secret: str, organization: str | None = None, project: str | None = None) -> Caller | None:
        self.looked_up += 1
        found: Caller | None = self._look_up(secret, organization, project)
        return found

    def __call__(self, secret: str, **headers: str) -> HttpResponse:
        head = {"authorization": f"Bearer {secret}", **{name.replace("_", "-"): said for name, said in headers.items()}}
        return self._in_process.send(self._application, HttpRequest("GET", "/v1/users:getSelf", None, head))


@pytest.fixture
def asked(installation: Installation, in_process: InProcessClient) -> FailedLookups:
    return FailedLookups(installation, in_process)


def test_failed_key_lookups_are_limited(asked: FailedLookups, installation: Installation) -> None:
    assert asked(installation.keys.admin).status == 200
    assert [asked(f"sk-{at}").status for at in range(5)] == [401, 401, 401, 429, 429]
    assert asked.looked_up == 4
    refused = asked(installation.keys.outsider)  # may be good: nobody looks
    assert_error(refused, 429, "too_many_failed_authentications")
    assert int(refused.headers["retry-after"]) >= 1
    assert asked(installation.keys.admin).status == 200


def test_a_revoked_key_counts_as_an_unknown_key(asked: FailedLookups, installation: Installation) -> None:
    good, secret = True, installation.keys.admin
    look_up = asked.context.authenticator.authenticate
    asked.context.authenticator.authenticate = lambda *said: look_up(*said) if good else None  # type: ignore[method-assign]
    assert asked(secret).status == 200
    good = False
    assert [asked(secret).status for _ in range(4)] == [401, 401, 401, 429]


def test_failed_token_verifications_are_limited(asked: FailedLookups) -> None:
    assert [asked(TOKEN).status for _ in range(4)] == [401, 401, 401, 429]


def test_addresses_behind_a_trusted_proxy_are_limited_separately(
    installation: Installation, in_process: InProcessClient
) -> None:
    asked = FailedLookups(installation, in_process, LLMARINER_TRUSTED_PROXIES="127.0.0.1")
    for at in range(4):
        status = asked(f"sk-{at}", x_forwarded_for="192.0.2.1").status
    assert status == 429
    assert asked("sk-x", x_forwarded_for="192.0.2.2").status == 401


def test_an_untrusted_proxy_is_one_address(asked: FailedLookups) -> None:
    found = [asked(f"sk-{at}", x_forwarded_for=f"192.0.2.{at}").status for at in range(31)]
    assert found == [401] * 30 + [429]
    assert asked("sk-x").status == 401
