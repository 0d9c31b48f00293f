"""The same with Dex, as an installation configures it, before an issuer that it asks; where there is a Dex to start.

LLMARINER_TEST_DEX names its program. People come from a real issuer behind it, as they would from a company's own.
"""

from __future__ import annotations

import base64
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmariner.cli.failures import CommandError
from llmariner.cli.issuer import Attempt, Issuer, Refused
from llmariner.cli.sign_ins import SignIn
from llmariner.errors import AuthenticationFailed
from llmariner.installation.dex import PATH, configuration
from llmariner.platform.identity.oidc import OidcIssuer
from llmariner.settings import IdentitySettings, environment

from .running import CLIENT, Browser, RunningIssuer

SCOPES = ["openid", "profile", "email", "groups", "offline_access"]
START_SECONDS = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def program() -> str:
    found = environment().get("LLMARINER_TEST_DEX", "")
    if not found:
        pytest.skip("LLMARINER_TEST_DEX names no program")
    return found


class Dex:
    """Dex with our configuration, but for where it listens and remembers."""

    def __init__(self, folder: Path) -> None:
        self.port, self._telemetry = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}{PATH}"
        self._file = folder / "config.yaml"
        self._log = folder / "dex.log"
        self.client_secret = base64.urlsafe_b64encode(folder.name.encode()).decode()

    def configure(self, upstream: str) -> None:
        """With one connector, to the issuer behind it."""
        connector = {
            "type": "oidc",
            "id": "company",
            "name": "Company",
            "config": {
                "issuer": upstream,
                "clientID": "dex",
                "clientSecret": self.client_secret,
                "scopes": ["profile", "email", "groups"],
                "insecureEnableGroups": True,
            },
        }
        made = configuration(self.url, {"connectors.yaml": yaml.safe_dump([connector])})
        document = yaml.safe_load(made["config.yaml"])
        document["storage"] = {"type": "memory"}
        document["web"] = {"http": f"127.0.0.1:{self.port}"}
        document["telemetry"] = {"http": f"127.0.0.1:{self._telemetry}"}
        self._file.write_text(yaml.safe_dump(document))

    def start(self, program: str) -> subprocess.Popen[bytes]:
        """Until it is ready by the probe of its manifest."""
        with self._log.open("wb") as log:
            process = subprocess.Popen([program, "serve", str(self._file)], stdout=log, stderr=log)
        end = time.monotonic() + START_SECONDS
        while not self._is_ready():
            assert process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.1)
        return process

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._telemetry}/healthz/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture(scope="module")
def dex(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dex, RunningIssuer]]:
    folder = tmp_path_factory.mktemp("dex")
    made = Dex(folder)
    client = {
        "client_id": "dex",
        "client_secret": made.client_secret,
        "redirect_uris": [f"{made.url}/callback"],
        "grant_types": ["authorization_code", "refresh_token"],
    }
    upstream = RunningIssuer(folder, clients=(CLIENT, client))
    upstream.accounts = {"alice": {"groups": ["staff"], "name": "Alice"}}
    with upstream:
        made.configure(upstream.url)
        process = made.start(program)
        yield made, upstream
        process.kill()
        process.wait(30)


@pytest.fixture
def there(dex: tuple[Dex, RunningIssuer]) -> Iterator[Issuer]:
    """The command line's side of it."""
    with Issuer(dex[0].url, "llmariner", SCOPES) as issuer:
        yield issuer


@pytest.fixture
def verifier(dex: tuple[Dex, RunningIssuer]) -> OidcIssuer:
    """The platform's side of it."""
    return OidcIssuer(IdentitySettings.load({"LLMARINER_OIDC_ISSUER": dex[0].url}))


@pytest.fixture
def alice() -> Iterator[Browser]:
    made = Browser("alice")
    yield made
    made.close()


@pytest.fixture
def signed_in(there: Issuer, alice: Browser) -> SignIn:
    from llmariner.cli.loopback import Callback

    attempt = Attempt.new()
    with Callback(attempt.state) as callback:
        alice.visit(there.address(attempt, callback.redirect_uri))
        answer = callback.wait(10)
        assert answer is not None
        return there.redeem(attempt, answer, callback.redirect_uri)


def check_alice(verifier: OidcIssuer, sign_in: SignIn) -> None:
    found = verifier.identity(sign_in.token)
    assert (found.email, found.email_verified, found.name) == ("alice@example.org", True, "Alice")
    assert found.groups == frozenset({"staff"})


def test_a_person_signs_in_by_a_random_port_of_their_machine(verifier: OidcIssuer, signed_in: SignIn) -> None:
    check_alice(verifier, signed_in)
    assert signed_in.refresh_token


def test_a_token_is_renewed_and_the_refresh_token_changes(
    there: Issuer, verifier: OidcIssuer, signed_in: SignIn
) -> None:
    renewed = there.renew(signed_in)
    check_alice(verifier, renewed)
    assert renewed.refresh_token != signed_in.refresh_token


def test_another_device_signs_somebody_in(
    there: Issuer, verifier: OidcIssuer, alice: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def show(address: str, code: str, with_code: str) -> None:
        alice.visit(with_code)

    made = there.on_another_device(show)
    check_alice(verifier, made)


def test_a_workload_s_token_is_exchanged_by_its_connector(
    dex: tuple[Dex, RunningIssuer], there: Issuer, verifier: OidcIssuer
) -> None:
    _, upstream = dex
    made = there.exchange(upstream.token(aud="dex", sub="ci", email="ci@example.org"), "id_token", "company")
    assert verifier.identity(made.token).email == "ci@example.org"
    with pytest.raises((Refused, CommandError)):
        there.exchange(upstream.token(aud="other"), "id_token", "company")
    with pytest.raises((Refused, CommandError)):
        there.exchange(upstream.token(aud="dex"), "id_token", "nobody")


def test_a_token_of_the_issuer_behind_it_is_none_of_ours(dex: tuple[Dex, RunningIssuer], verifier: OidcIssuer) -> None:
    with pytest.raises(AuthenticationFailed):
        verifier.identity(dex[1].token())


def test_it_takes_no_password_and_no_return_to_another_machine(there: Issuer, alice: Browser) -> None:
    with pytest.raises(Refused):
        there._token({"grant_type": "password", "username": "admin@example.com", "password": "password"})
    page: Any = alice.visit(there.address(Attempt.new(), "http://evil.example/callback"))
    assert "redirect_uri" in page
