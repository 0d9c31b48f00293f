"""The same with Dex, as an installation configures it, before an issuer that it asks; where there is a Dex to start.

LLMARINER_TEST_DEX names its program. People come from a real issuer behind it, as they would from a company's own.
"""

from __future__ import annotations

import base64
import importlib
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmariner.cli.sign_in.issuer import AuthorizationRequest, IssuerClient, OAuthError
from llmariner.cli.sign_in.token_store import SignIn
from llmariner.cli.support.errors import CommandError
from llmariner.errors import AuthenticationFailed
from llmariner.installation.dex import PATH, render_configuration
from llmariner.platform.identity.oidc import OidcTokenVerifier
from llmariner.settings import IdentitySettings, environment

from .issuer import CLIENT, Browser, RunningIssuer, SigningKey

COMPONENT = Path(__file__).parents[2] / "manifests/components/dex"
SET_BY_THE_COMPONENT: dict[str, str] = yaml.safe_load((COMPONENT / "settings.yaml").read_text())["data"]
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

    def configure(self, upstream: str, storage: dict[str, Any], exchange: str) -> None:
        """With one connector, to the issuer behind it."""
        connector = {
            "type": "oidc",
            "id": "company",
            "name": "Company",
            "config": {
                "issuer": upstream,
                "clientID": "dex",
                "clientSecret": self.client_secret,
                # The last one lets Dex ask again whether the person is still there, at each renewal.
                "scopes": ["profile", "email", "groups", "offline_access"],
                "insecureEnableGroups": True,
            },
        }
        brought = {"connectors.yaml": yaml.safe_dump([connector]), "token-exchange": exchange}
        made = render_configuration(self.url, brought)
        document = yaml.safe_load(made["config.yaml"])
        document["storage"] = storage
        document["web"] = {"http": f"127.0.0.1:{self.port}"}
        document["telemetry"] = {"http": f"127.0.0.1:{self._telemetry}"}
        self._file.write_text(yaml.safe_dump(document))

    @contextmanager
    def started(self, program: str) -> Iterator[None]:
        """From when it is ready, by the probe of its manifest."""
        with self._log.open("wb") as log:
            process = subprocess.Popen([program, "serve", str(self._file)], stdout=log, stderr=log)
        try:
            end = time.monotonic() + START_SECONDS
            while not self._is_ready():
                assert process.poll() is None, self._log.read_text()
                assert time.monotonic() < end, self._log.read_text()
                time.sleep(0.1)
            yield
        finally:
            process.kill()
            process.wait(30)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._telemetry}/healthz/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture(scope="module")
def dex(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dex, RunningIssuer]]:
    with serving(program, tmp_path_factory.mktemp("dex"), {"type": "memory"}) as running:
        yield running


@contextmanager
def serving(
    program: str, folder: Path, storage: dict[str, Any], exchange: str = "off"
) -> Iterator[tuple[Dex, RunningIssuer]]:
    """Dex that remembers there, and the issuer behind it."""
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
        made.configure(upstream.url, storage, exchange)
        with made.started(program):
            yield made, upstream


@pytest.fixture
def there(dex: tuple[Dex, RunningIssuer]) -> Iterator[IssuerClient]:
    """The command line's side of it."""
    with IssuerClient(dex[0].url, "llmariner", SCOPES) as issuer:
        yield issuer


@pytest.fixture
def verifier(dex: tuple[Dex, RunningIssuer]) -> OidcTokenVerifier:
    """The platform's side of it."""
    return OidcTokenVerifier(IdentitySettings.load({"LLMARINER_OIDC_ISSUER": dex[0].url}))


@pytest.fixture
def alice() -> Iterator[Browser]:
    made = Browser("alice")
    yield made
    made.close()


@pytest.fixture
def signed_in(there: IssuerClient, alice: Browser) -> SignIn:
    return alice.signs_in(there)


def check_alice(verifier: OidcTokenVerifier, sign_in: SignIn) -> None:
    found = verifier.verify(sign_in.token)
    assert (found.email, found.email_verified, found.name) == ("alice@example.org", True, "Alice")
    assert found.groups == frozenset({"staff"})


def test_a_person_signs_in_by_a_random_loopback_port(verifier: OidcTokenVerifier, signed_in: SignIn) -> None:
    check_alice(verifier, signed_in)
    assert signed_in.refresh_token


def test_a_token_is_refreshed_and_the_refresh_token_is_rotated(
    there: IssuerClient, verifier: OidcTokenVerifier, signed_in: SignIn
) -> None:
    renewed = there.refresh(signed_in)
    check_alice(verifier, renewed)
    assert renewed.refresh_token != signed_in.refresh_token


def test_a_person_without_groups_gets_a_token_with_an_empty_list(
    dex: tuple[Dex, RunningIssuer], there: IssuerClient, signed_in: SignIn
) -> None:
    """Dex then omits the claim, which alone would change nothing."""
    settings = {"LLMARINER_OIDC_ISSUER": dex[0].url, **SET_BY_THE_COMPONENT}
    verifier = OidcTokenVerifier(IdentitySettings.load({**settings, "LLMARINER_OIDC_INTERNAL_URL": ""}))
    dex[1].set_accounts(alice={"groups": [], "name": "Alice"})
    try:
        renewed = there.refresh(signed_in)
    finally:
        dex[1].set_accounts(alice={"groups": ["staff"], "name": "Alice"})
    assert "groups" not in renewed.claims
    assert verifier.verify(renewed.token).groups == frozenset()


def test_sign_in_by_device_code(
    there: IssuerClient, verifier: OidcTokenVerifier, alice: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def show(address: str, code: str, with_code: str) -> None:
        alice.visit(with_code)

    made = there.device_sign_in(show)
    check_alice(verifier, made)


def test_token_exchange_is_off_by_default(dex: tuple[Dex, RunningIssuer], there: IssuerClient) -> None:
    """Dex does not look at whom a token was made for, so another application's would do."""
    with pytest.raises(OAuthError, match="unsupported_grant_type"):
        there.exchange_token(dex[1].token(aud="another application"), "id_token", "company")


def test_a_workloads_token_is_exchanged_by_an_enabled_connector(program: str, tmp_path: Path) -> None:
    with serving(program, tmp_path, {"type": "memory"}, "on") as (running, upstream):
        verifier = OidcTokenVerifier(IdentitySettings.load({"LLMARINER_OIDC_ISSUER": running.url}))
        with IssuerClient(running.url, "llmariner", SCOPES) as there:
            made = there.exchange_token(upstream.token(sub="ci", email="ci@example.org"), "id_token", "company")
            assert verifier.verify(made.token).email == "ci@example.org"
            for token, connector in (
                (upstream.token(), "nobody"),
                (upstream.token(exp=5), "company"),
                (SigningKey().sign(upstream.claims()), "company"),
            ):
                with pytest.raises((OAuthError, CommandError)):
                    there.exchange_token(token, "id_token", connector)


def test_the_upstream_issuers_token_is_not_accepted(
    dex: tuple[Dex, RunningIssuer], verifier: OidcTokenVerifier
) -> None:
    with pytest.raises(AuthenticationFailed):
        verifier.verify(dex[1].token())


def test_passwords_and_remote_redirects_are_rejected(there: IssuerClient, alice: Browser) -> None:
    with pytest.raises(OAuthError):
        there._token({"grant_type": "password", "username": "admin@example.com", "password": "password"})
    page: Any = alice.visit(there.authorization_url(AuthorizationRequest.new(), "http://evil.example/callback"))
    assert "redirect_uri" in page


VERBS = {"POST": "create", "PUT": "update", "DELETE": "delete"}


@pytest.fixture
def api_server(tmp_path: Path) -> Iterator[Any]:
    """Kubernetes with the kinds that the component defines."""
    schemas, server = (
        importlib.import_module(f"..kubernetes_api.{name}", __package__) for name in ("schemas", "server")
    )
    upstream = schemas.folder()
    crds = tmp_path / "crds"
    (crds / "dex").mkdir(parents=True)
    for each in upstream.iterdir():
        (crds / each.name).symlink_to(each)
    for number, definition in enumerate(yaml.safe_load_all((COMPONENT / "definitions.yaml").read_text())):
        for version in definition["spec"]["versions"]:
            version["schema"]["openAPIV3Schema"]["properties"] = {}  # which this server wants said
        (crds / "dex" / f"{number}.yaml").write_text(yaml.safe_dump(definition, default_flow_style=False))
    with server.ApiServer(schemas.Schemas(crds), crds) as running:
        yield running


def test_the_components_kinds_and_permissions_suffice_for_the_storage(
    program: str, api_server: Any, tmp_path: Path, alice: Browser
) -> None:
    asked: list[tuple[str, str]] = []
    answer = api_server.api.answer

    def noting(request: Any) -> Any:
        asked.append((request.method, request.path))
        return answer(request)

    api_server.api.answer = noting
    kubeconfig = api_server.kubeconfig(tmp_path / "kubeconfig")
    storage = {"type": "kubernetes", "config": {"kubeConfigFile": str(kubeconfig), "crdHandling": "check"}}
    with serving(program, tmp_path, storage) as (running, _), IssuerClient(running.url, "llmariner", SCOPES) as there:
        verifier = OidcTokenVerifier(IdentitySettings.load({"LLMARINER_OIDC_ISSUER": running.url}))
        signed_in = alice.signs_in(there)
        check_alice(verifier, there.refresh(signed_in))
    (rule,) = next(
        each["rules"] for each in yaml.safe_load_all((COMPONENT / "dex.yaml").read_text()) if each["kind"] == "Role"
    )
    used = {used_right(method, path) for method, path in asked if "/dex.coreos.com/" in path}
    allowed = {(verb, resource) for verb in rule["verbs"] for resource in rule["resources"]}
    assert used - allowed == set()
    assert {("create", "signingkeies"), ("create", "refreshtokens"), ("update", "refreshtokens")} <= used
    assert {path for _, path in asked if "/dex.coreos.com/" not in path} <= {"/version"}


def used_right(method: str, path: str) -> tuple[str, str]:
    """Verb and resource of a request for objects in a namespace."""
    resource, *name = path.partition("/namespaces/")[2].split("/")[1:]
    return VERBS.get(method) or ("get" if name else "list"), resource
