"""Which tokens are taken: those of a real issuer, and no forgery, however well made."""

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


class Checked:
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
def checked(issuer: RunningIssuer) -> Checked:
    return Checked(issuer)


@pytest.fixture
def own_issuer(tmp_path: Path) -> Any:
    """One to stop and rotate."""
    with RunningIssuer(tmp_path) as running:
        yield running


def test_a_good_token_says_who_it_is(issuer: RunningIssuer, checked: Checked) -> None:
    token = issuer.token()
    assert is_jwt(token)
    found = checked.verify(token)
    assert (found.issuer, found.subject, found.name) == (issuer.url, "alice", "Alice")
    assert (found.email, found.email_verified) == ("alice@example.org", True)
    assert found.groups == frozenset({"staff"})
    assert abs(found.expires_at - time.time() - 600) < 5


def test_what_a_token_leaves_out_is_not_made_up(issuer: RunningIssuer, checked: Checked) -> None:
    found = checked.verify(issuer.token(email=None, email_verified=None, groups=None, name=None))
    assert (found.email, found.email_verified, found.groups, found.name) == (None, False, None, None)


def test_an_issuer_may_leave_the_groups_out_where_there_are_none(issuer: RunningIssuer) -> None:
    leaving = Checked(issuer, LLMARINER_OIDC_GROUPS_OMITTED="1")
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
def test_an_e_mail_that_would_be_another_s_is_none(said: Any, issuer: RunningIssuer, checked: Checked) -> None:
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
def test_groups_are_names_and_nothing_else_is_taken_for_some(
    said: Any, taken: set[str] | None, issuer: RunningIssuer, checked: Checked
) -> None:
    assert checked.verify(issuer.token(groups=said)).groups == (None if taken is None else frozenset(taken))


VERIFIED = [(True, True), ("true", True), (False, False), ("false", False), ("1", False), (None, False), (1, False)]


@pytest.mark.parametrize(("said", "taken"), VERIFIED)
def test_an_e_mail_is_verified_only_where_the_issuer_says_so(
    said: Any, taken: bool, issuer: RunningIssuer, checked: Checked
) -> None:
    assert checked.verify(issuer.token(email_verified=said)).email_verified is taken
    trusting = Checked(issuer, LLMARINER_OIDC_TRUST_EMAIL="1")
    assert trusting.verify(issuer.token(email_verified=said)).email_verified


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_token_is_refused(forgery: str, issuer: RunningIssuer, checked: Checked) -> None:
    make, reason = FORGED[forgery]
    refused = checked.refusal(make(issuer))
    assert re.search(reason, refused.message), refused.message
    assert "llma auth login" in refused.message
    assert refused.status == 401
    assert refused.code == ("token_expired" if forgery == "expired" else "invalid_token")
    assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'


JUNK: list[Any] = [None, True, 0, -1, 1.5, 10**400, "", "x", "\ud800", [], ["x"], [[]], {}, {"x": []}, "\x00" * 3]


@pytest.mark.parametrize("name", ["alg", "kid", "typ", "crit", "jwk", "x5c", "zip", "b64"])
def test_no_header_however_odd_is_more_than_refused(name: str, issuer: RunningIssuer, checked: Checked) -> None:
    for junk in JUNK:
        header = {"alg": "RS256", "kid": issuer.key.kid, "typ": "JWT", name: junk}
        checked.refusal(sign_unchecked(header, issuer.claims(), b"key"))


@pytest.mark.parametrize(
    "name", ["iss", "sub", "aud", "exp", "iat", "nbf", "azp", "client_id", "auth_time", "email", "name", "groups"]
)
def test_no_claim_however_odd_is_more_than_refused(name: str, issuer: RunningIssuer, checked: Checked) -> None:
    """Signed by the issuer: what it says is its affair, and no reason to break."""
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


def test_clocks_may_differ_a_little(issuer: RunningIssuer, checked: Checked) -> None:
    for claims in (soon(exp=-20), soon(nbf=20), soon(iat=20)):
        assert checked.verify(issuer.token(**claims)).subject == "alice"


def test_other_algorithms_are_taken_where_they_are_agreed_on(issuer: RunningIssuer) -> None:
    agreed = Checked(issuer, LLMARINER_OIDC_ALGORITHMS="RS512 PS256")
    assert agreed.verify(issuer.key.sign(issuer.claims(), algorithm="RS512")).subject == "alice"
    assert agreed.verify(issuer.key.sign(issuer.claims(), algorithm="PS256")).subject == "alice"
    assert "algorithm" in agreed.refusal(issuer.token()).message


def test_a_token_of_a_client_that_was_named_is_taken(issuer: RunningIssuer) -> None:
    console = Checked(issuer, LLMARINER_OIDC_CLIENTS="console")
    assert console.verify(issuer.token(aud="console")).subject == "alice"
    assert console.verify(issuer.token(aud=["llmariner", "urn:api"], azp="console")).subject == "alice"
    api = Checked(issuer, LLMARINER_OIDC_AUDIENCES="urn:api")
    assert api.verify(issuer.token(aud="urn:api", client_id="llmariner")).subject == "alice"
    assert "audience" in api.refusal(issuer.token()).message


def test_a_token_that_names_no_key_is_taken_where_there_is_one(issuer: RunningIssuer, checked: Checked) -> None:
    assert checked.verify(issuer.key.sign(issuer.claims(), kid=None)).subject == "alice"


def test_a_key_signs_what_it_was_published_for() -> None:
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


def test_keys_are_fetched_once_and_then_every_five_minutes(issuer: RunningIssuer, checked: Checked) -> None:
    for _ in range(5):
        checked.verify(issuer.token())
    assert checked.fetches == 1
    checked.clock.now += REFRESH_AFTER_SECONDS + 1
    checked.verify(issuer.token())
    assert checked.fetches == 2


def test_unknown_keys_do_not_make_us_ask_more_often_than_the_cooldown(issuer: RunningIssuer, checked: Checked) -> None:
    checked.verify(issuer.token())
    checked.clock.now += COOLDOWN_SECONDS + 1
    for _ in range(20):
        checked.refusal(SigningKey().sign(issuer.claims()))
    assert checked.fetches == 2


def test_a_key_rotated_in_between_is_found_and_the_old_one_is_refused(own_issuer: RunningIssuer) -> None:
    checked = Checked(own_issuer)
    before = own_issuer.token()
    checked.verify(before)
    own_issuer.rotate()
    assert checked.verify(before).subject == "alice"  # nobody knows yet
    checked.clock.now += COOLDOWN_SECONDS + 1
    assert checked.verify(own_issuer.token()).subject == "alice"
    assert "no such key" in checked.refusal(before).message


def test_known_keys_outlive_the_issuer_for_a_bounded_time(own_issuer: RunningIssuer) -> None:
    checked = Checked(own_issuer)
    token = own_issuer.token(**soon(exp=86400))
    checked.verify(token)
    own_issuer.stop()
    checked.clock.now += OUTAGE_SECONDS - 1
    assert checked.verify(token).subject == "alice"
    with pytest.raises(Unavailable, match="issuer of tokens does not answer"):  # it may have rotated
        checked.verify(SigningKey().sign(own_issuer.claims()))
    checked.clock.now += 2
    with pytest.raises(Unavailable, match="API keys go on working") as unavailable:
        checked.verify(token)
    assert unavailable.value.status == 503
    own_issuer.start()
    checked.clock.now += COOLDOWN_SECONDS + 1
    assert checked.verify(token).subject == "alice"


def test_an_issuer_that_does_not_answer_holds_one_thread_and_no_other_for_long(
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
        asking = pool.submit(keys.key, "unknown", "RS256")
        while len(fetches) == 1:
            time.sleep(0.01)
        for _ in range(3):
            waiting = [pool.submit(keys.key, "unknown", "RS256") for _ in range(6)]
            assert all("not yet" in str(each.exception(10)) for each in waiting)
        assert pool.submit(keys.key, issuer.key.kid, "RS256").result(10) is not None
        clock.now += COOLDOWN_SECONDS + 1
        answers.set()
        assert asking.result(10) is None
    assert keys.key("unknown", "RS256") is None  # the pause counts from the end
    assert len(fetches) == 2


def test_a_process_that_never_saw_the_issuer_says_so_and_recovers(own_issuer: RunningIssuer) -> None:
    own_issuer.stop()
    checked = Checked(own_issuer)
    for _ in range(3):
        with pytest.raises(Unavailable):
            checked.verify(own_issuer.token())
    assert checked.fetches == 1
    own_issuer.start()
    checked.clock.now += COOLDOWN_SECONDS + 1
    assert checked.verify(own_issuer.token()).subject == "alice"


def test_an_issuer_with_another_name_is_not_believed(issuer: RunningIssuer) -> None:
    settings = IdentitySettings.load({"LLMARINER_OIDC_ISSUER": issuer.url.replace("127.0.0.1", "localhost")})
    with pytest.raises(DiscoveryError, match="LLMARINER_OIDC_ISSUER must be exactly that"):
        fetch_metadata(settings)


def test_functions_may_reach_the_issuer_by_another_address(issuer: RunningIssuer) -> None:
    """The issuer bears its public name, and is asked inside; what it publishes bears the public name, too."""
    settings = IdentitySettings.load({
        "LLMARINER_OIDC_ISSUER": issuer.url,
        "LLMARINER_OIDC_INTERNAL_URL": issuer.url.replace("127.0.0.1", "localhost"),
    })  # fmt: skip
    assert [key["kid"] for key in fetch_signing_keys(settings)] == [issuer.key.kid]


def test_the_published_keys_hold_no_private_part(issuer: RunningIssuer) -> None:
    """Of the issuer itself: what the other tests sign with must be what it publishes the other half of."""
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
def test_a_setting_that_would_open_a_door_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        IdentitySettings.load({name: value})


def test_an_issuer_in_clear_is_only_this_machine_or_a_test() -> None:
    for url in ("http://127.0.0.1:5556/dex", "http://localhost/dex", "http://api.llmariner.localhost/v1/dex"):
        assert IdentitySettings.load({"LLMARINER_OIDC_ISSUER": url}).issuer == url
    plain = {"LLMARINER_OIDC_ISSUER": "http://api.test/v1/dex", "LLMARINER_OIDC_PLAIN_HTTP": "1"}
    assert IdentitySettings.load(plain).issuer == "http://api.test/v1/dex"


def test_a_document_that_comes_byte_by_byte_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
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
