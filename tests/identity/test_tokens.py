"""Verification of tokens: those of a real issuer are accepted, and forged ones rejected."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from llmariner.errors import AuthenticationFailed, Unavailable
from llmariner.gateway.authentication.key_cache import is_jwt
from llmariner.platform.identity import Identity, signing_keys
from llmariner.platform.identity import discovery as documents
from llmariner.platform.identity.discovery import DiscoveryError, fetch_metadata, fetch_signing_keys
from llmariner.platform.identity.oidc import OidcTokenVerifier
from llmariner.platform.identity.signing_keys import COOLDOWN_SECONDS, REFRESH_AFTER_SECONDS, SigningKeys
from llmariner.settings import IdentitySettings

from .forged_tokens import FORGED, sign_unchecked, soon
from .issuer import RunningIssuer, SigningKey

OUTAGE_SECONDS = 3600.0


class Clock:
    """Time that a test lets pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class CountingVerifier:
    """A verifier of an issuer, with a clock of its own and a count of its fetches."""

    def __init__(self, issuer: RunningIssuer, **env: str) -> None:
        self.clock = Clock()
        self.fetches = 0
        self.settings = IdentitySettings.load({"LLMARINER_OIDC_ISSUER": issuer.url, **env})
        self.oidc = OidcTokenVerifier(self.settings, SigningKeys(self._fetch, OUTAGE_SECONDS, self.clock))

    def _fetch(self) -> list[dict[str, Any]]:
        self.fetches += 1
        return fetch_signing_keys(self.settings)

    def verify(self, token: str) -> Identity:
        return self.oidc.verify(token)

    def refusal(self, token: str) -> AuthenticationFailed:
        with pytest.raises(AuthenticationFailed) as refused:
            self.oidc.verify(token)
        return refused.value


@pytest.fixture
def checked(issuer: RunningIssuer) -> CountingVerifier:
    return CountingVerifier(issuer)


@pytest.fixture
def own_issuer(tmp_path: Path) -> Any:
    """One to stop and rotate."""
    with RunningIssuer(tmp_path) as running:
        yield running


def test_a_valid_token_has_its_identity(issuer: RunningIssuer, checked: CountingVerifier) -> None:
    token = issuer.token()
    assert is_jwt(token)
    found = checked.verify(token)
    assert (found.issuer, found.subject, found.name) == (issuer.url, "alice", "Alice")
    assert (found.email, found.email_verified) == ("alice@example.org", True)
    assert found.groups == frozenset({"staff"})
    assert abs(found.expires_at - time.time() - 600) < 5


def test_missing_claims_have_no_defaults(issuer: RunningIssuer, checked: CountingVerifier) -> None:
    found = checked.verify(issuer.token(email=None, email_verified=None, groups=None, name=None))
    assert (found.email, found.email_verified, found.groups, found.name) == (None, False, None, None)


def test_the_groups_claim_is_optional_where_no_groups_are_used(issuer: RunningIssuer) -> None:
    leaving = CountingVerifier(issuer, LLMARINER_OIDC_GROUPS_OMITTED="1")
    assert leaving.verify(issuer.token(groups=None)).groups == frozenset()
    assert leaving.verify(issuer.token()).groups == frozenset({"staff"})


@pytest.mark.parametrize(
    "said",
    [
        "mi\u212ae@example.org",
        "mike\u200b@example.org",
        "mike",
        7,
        ["mike@example.org"],
        "a@b@c",
        "system:serviceaccount:proj_1:ci@example.org",
    ],
)
def test_ambiguous_email_addresses_are_ignored(said: Any, issuer: RunningIssuer, checked: CountingVerifier) -> None:
    assert checked.verify(issuer.token(email=said)).email is None


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ("staff", {"staff"}),
        (["staff", "staff", "", "a\u200bb", "x" * 256, "x" * 257], {"staff", "x" * 256}),
        ([f"g{at}" for at in range(1000)], {f"g{at}" for at in range(1000)}),
        ([], set()),
        ({"staff": True}, None),
        ([{"name": "staff"}], None),
        (["staff", 7], None),
        (7, None),
    ],
)
def test_only_strings_are_accepted_as_groups(
    said: Any, taken: set[str] | None, issuer: RunningIssuer, checked: CountingVerifier
) -> None:
    assert checked.verify(issuer.token(groups=said)).groups == (None if taken is None else frozenset(taken))


VERIFIED = [(True, True), ("true", True), (False, False), ("false", False), ("1", False), (None, False), (1, False)]


@pytest.mark.parametrize(("said", "taken"), VERIFIED)
def test_an_email_is_verified_only_by_the_issuers_claim(
    said: Any, taken: bool, issuer: RunningIssuer, checked: CountingVerifier
) -> None:
    assert checked.verify(issuer.token(email_verified=said)).email_verified is taken
    trusting = CountingVerifier(issuer, LLMARINER_OIDC_TRUST_EMAIL="1")
    assert trusting.verify(issuer.token(email_verified=said)).email_verified


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_token_is_rejected(forgery: str, issuer: RunningIssuer, checked: CountingVerifier) -> None:
    make, reason = FORGED[forgery]
    refused = checked.refusal(make(issuer))
    assert re.search(reason, refused.message), refused.message
    assert "llma auth login" in refused.message
    assert refused.status == 401
    assert refused.code == ("token_expired" if forgery == "expired" else "invalid_token")
    assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'


JUNK: list[Any] = [None, True, 0, -1, 1.5, 10**400, "", "x", "\ud800", [], ["x"], [[]], {}, {"x": []}, "\x00" * 3]


@pytest.mark.parametrize("name", ["alg", "kid", "typ", "crit", "jwk", "x5c", "zip", "b64"])
def test_malformed_headers_are_rejected(name: str, issuer: RunningIssuer, checked: CountingVerifier) -> None:
    for junk in JUNK:
        header = {"alg": "RS256", "kid": issuer.key.kid, "typ": "JWT", name: junk}
        checked.refusal(sign_unchecked(header, issuer.claims(), b"key"))


@pytest.mark.parametrize(
    "name", ["iss", "sub", "aud", "exp", "iat", "nbf", "azp", "client_id", "auth_time", "email", "name", "groups"]
)
def test_malformed_claims_are_rejected(name: str, issuer: RunningIssuer, checked: CountingVerifier) -> None:
    """Signed by the issuer: any claims must be handled without a crash."""
    for junk in JUNK:
        claims = {**issuer.claims(), name: junk}
        with contextlib.suppress(AuthenticationFailed):
            found = checked.verify(signed_by_hand(issuer, claims))
            said = [found.subject, found.email or "", found.name or "", *(found.groups or ())]
            assert all(isinstance(text, str) and text.isprintable() for text in said)
            assert 0 <= found.signed_in_at <= time.time()


def signed_by_hand(issuer: RunningIssuer, claims: dict[str, Any]) -> str:
    """With the issuer's key, and none of the checks of the library that makes tokens."""
    head = {"alg": "RS256", "kid": issuer.key.kid}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, claims)]
    signature = issuer.key.private.sign(b".".join(parts), padding.PKCS1v15(), hashes.SHA256())
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def test_small_clock_skew_is_tolerated(issuer: RunningIssuer, checked: CountingVerifier) -> None:
    for claims in (soon(exp=-20), soon(nbf=20), soon(iat=20)):
        assert checked.verify(issuer.token(**claims)).subject == "alice"


def test_configured_algorithms_are_accepted(issuer: RunningIssuer) -> None:
    agreed = CountingVerifier(issuer, LLMARINER_OIDC_ALGORITHMS="RS512 PS256")
    assert agreed.verify(issuer.key.sign(issuer.claims(), algorithm="RS512")).subject == "alice"
    assert agreed.verify(issuer.key.sign(issuer.claims(), algorithm="PS256")).subject == "alice"
    assert "algorithm" in agreed.refusal(issuer.token()).message


def test_a_token_of_a_configured_client_is_accepted(issuer: RunningIssuer) -> None:
    console = CountingVerifier(issuer, LLMARINER_OIDC_CLIENTS="console")
    assert console.verify(issuer.token(aud="console")).subject == "alice"
    assert console.verify(issuer.token(aud=["llmariner", "urn:api"], azp="console")).subject == "alice"
    api = CountingVerifier(issuer, LLMARINER_OIDC_AUDIENCES="urn:api")
    assert api.verify(issuer.token(aud="urn:api", client_id="llmariner")).subject == "alice"
    assert "audience" in api.refusal(issuer.token()).message


def test_a_token_without_a_key_id_is_accepted_if_there_is_one_key(
    issuer: RunningIssuer, checked: CountingVerifier
) -> None:
    assert checked.verify(issuer.key.sign(issuer.claims(), kid=None)).subject == "alice"


def test_a_key_verifies_only_its_published_use() -> None:
    one, other = (SigningKey().jwk(private=False) for _ in range(2))

    def found(*published: dict[str, Any], kid: str | None = one["kid"], algorithm: str = "RS256") -> bool:
        return SigningKeys(lambda: list(published), OUTAGE_SECONDS, Clock()).key(kid, algorithm) is not None

    assert found(one)
    assert found(one, algorithm="PS512")
    assert found({**one, "alg": "RS256"})
    assert not found({**one, "alg": "RS512"})
    assert not found({**one, "use": "enc"})
    assert not found(one, algorithm="ES256")
    assert found(one, {**other, "use": "enc"}, kid=None)
    assert not found(one, other, kid=None)
    assert not found(one, {**other, "kid": one["kid"]})


def test_keys_are_fetched_once_and_then_every_five_minutes(issuer: RunningIssuer, checked: CountingVerifier) -> None:
    for _ in range(5):
        checked.verify(issuer.token())
    assert checked.fetches == 1
    checked.clock.now += REFRESH_AFTER_SECONDS + 1
    checked.verify(issuer.token())
    assert checked.fetches == 2


def test_unknown_key_ids_do_not_fetch_within_the_cooldown(issuer: RunningIssuer, checked: CountingVerifier) -> None:
    checked.verify(issuer.token())
    checked.clock.now += COOLDOWN_SECONDS + 1
    for _ in range(20):
        checked.refusal(SigningKey().sign(issuer.claims()))
    assert checked.fetches == 2


def test_a_rotated_key_is_fetched_and_the_old_one_rejected(own_issuer: RunningIssuer) -> None:
    checked = CountingVerifier(own_issuer)
    before = own_issuer.token()
    checked.verify(before)
    own_issuer.rotate()
    assert checked.verify(before).subject == "alice"  # nobody knows yet
    checked.clock.now += COOLDOWN_SECONDS + 1
    assert checked.verify(own_issuer.token()).subject == "alice"
    assert "no such key" in checked.refusal(before).message


def test_cached_keys_are_valid_for_a_bounded_time_without_the_issuer(own_issuer: RunningIssuer) -> None:
    checked = CountingVerifier(own_issuer)
    token = own_issuer.token(**soon(exp=86400))
    checked.verify(token)
    own_issuer.stop()
    checked.clock.now += OUTAGE_SECONDS - 1
    assert checked.verify(token).subject == "alice"
    with pytest.raises(Unavailable, match="issuer of tokens does not answer"):  # it may have rotated
        checked.verify(SigningKey().sign(own_issuer.claims()))
    checked.clock.now += 2
    with pytest.raises(Unavailable, match="API keys continue to work") as unavailable:
        checked.verify(token)
    assert unavailable.value.status == 503
    own_issuer.start()
    checked.clock.now += COOLDOWN_SECONDS + 1
    assert checked.verify(token).subject == "alice"


def test_an_unresponsive_issuer_blocks_one_thread_and_others_briefly(
    issuer: RunningIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can make a token that names an unknown key."""
    monkeypatch.setattr(signing_keys, "MAX_WAIT_SECONDS", 0.2)
    fetches, answers, clock = [], threading.Event(), Clock()

    def fetch() -> list[dict[str, Any]]:
        fetches.append(clock.now)
        assert len(fetches) == 1 or answers.wait(60)
        return [issuer.key.jwk(private=False)]

    keys = SigningKeys(fetch, OUTAGE_SECONDS, clock)
    assert keys.key(issuer.key.kid, "RS256") is not None
    clock.now += COOLDOWN_SECONDS + 1
    with ThreadPoolExecutor(8) as pool:
        lookup = pool.submit(keys.key, "unknown", "RS256")
        while len(fetches) == 1:
            time.sleep(0.01)
        for _ in range(3):
            waiting = [pool.submit(keys.key, "unknown", "RS256") for _ in range(6)]
            assert all("not yet" in str(each.exception(10)) for each in waiting)
        assert pool.submit(keys.key, issuer.key.kid, "RS256").result(10) is not None
        clock.now += COOLDOWN_SECONDS + 1
        answers.set()
        assert lookup.result(10) is None
    assert keys.key("unknown", "RS256") is None  # the pause counts from the end
    assert len(fetches) == 2


def test_a_process_without_keys_reports_unavailable_and_recovers(own_issuer: RunningIssuer) -> None:
    own_issuer.stop()
    checked = CountingVerifier(own_issuer)
    for _ in range(3):
        with pytest.raises(Unavailable):
            checked.verify(own_issuer.token())
    assert checked.fetches == 1
    own_issuer.start()
    checked.clock.now += COOLDOWN_SECONDS + 1
    assert checked.verify(own_issuer.token()).subject == "alice"


def test_a_mismatched_issuer_name_is_rejected(issuer: RunningIssuer) -> None:
    settings = IdentitySettings.load({"LLMARINER_OIDC_ISSUER": issuer.url.replace("127.0.0.1", "localhost")})
    with pytest.raises(DiscoveryError, match="LLMARINER_OIDC_ISSUER must be exactly that"):
        fetch_metadata(settings)


def test_the_issuer_may_have_an_internal_address(issuer: RunningIssuer) -> None:
    """The issuer has its public name and an internal address; its published endpoints have the public name."""
    settings = IdentitySettings.load({
        "LLMARINER_OIDC_ISSUER": issuer.url,
        "LLMARINER_OIDC_INTERNAL_URL": issuer.url.replace("127.0.0.1", "localhost"),
    })  # fmt: skip
    assert [key["kid"] for key in fetch_signing_keys(settings)] == [issuer.key.kid]


def test_the_published_keys_have_no_private_part(issuer: RunningIssuer) -> None:
    """The issuer itself: the key of other tests must be the private part of the published one."""
    (key,) = fetch_signing_keys(IdentitySettings.load({"LLMARINER_OIDC_ISSUER": issuer.url}))
    assert key["n"] == issuer.key.jwk(private=False)["n"]
    assert "d" not in key
    assert httpx2.get(f"{issuer.url}/.well-known/openid-configuration", trust_env=False).json()["issuer"] == issuer.url


WRONG = {
    "LLMARINER_OIDC_ISSUER": ["http://issuer.example", "issuer.example", "ftp://issuer.example"],
    "LLMARINER_OIDC_ALGORITHMS": ["none", "HS256", "RS256 HS256", "rs256"],
    "LLMARINER_OIDC_LEEWAY_SECONDS": ["-1", "301", "soon"],
    "LLMARINER_OIDC_NEWCOMERS": ["owner"],
    "LLMARINER_OIDC_INTERNAL_URL": ["dex"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_unsafe_settings_are_rejected(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        IdentitySettings.load({name: value})


def test_an_issuer_without_tls_is_accepted_on_loopback_or_in_tests_only() -> None:
    for url in ("http://127.0.0.1:5556/dex", "http://localhost/dex", "http://api.llmariner.localhost/v1/dex"):
        assert IdentitySettings.load({"LLMARINER_OIDC_ISSUER": url}).issuer == url
    plain = {"LLMARINER_OIDC_ISSUER": "http://api.test/v1/dex", "LLMARINER_OIDC_PLAIN_HTTP": "1"}
    assert IdentitySettings.load(plain).issuer == "http://api.test/v1/dex"


def test_a_slow_discovery_document_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "TIMEOUT_SECONDS", 0.5)
    over = threading.Event()

    def drip(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
            while not over.wait(0.05):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        dripping = pool.submit(drip, listening)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(DiscoveryError, match="took longer"):
            fetch_metadata(IdentitySettings.load({"LLMARINER_OIDC_ISSUER": url}))
        over.set()
        dripping.result(10)
