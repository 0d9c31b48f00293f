"""`llma auth login` and the commands after it, against a real issuer and the platform's functions."""

from __future__ import annotations

import importlib
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx2
import pytest
import yaml

from llmariner.tenancy.groups.group_roles import GroupRoles

if TYPE_CHECKING:
    from cli.conftest import Llma

_issuer = importlib.import_module("..identity.issuer", __package__)
_served_platform = importlib.import_module("..identity.served_platform", __package__)


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Its tokens are good for ten minutes; alice is of the group `staff`."""
    running = _issuer.RunningIssuer(tmp_path_factory.mktemp("issuer"))
    running.accounts = {"alice": {"groups": ["staff"], "name": "Alice"}, "ci": {"groups": ["staff"]}}
    with running:
        yield running


@pytest.fixture(scope="module")
def served(issuer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A platform whose default project the group `staff` is in."""
    with _served_platform.ServedPlatform(tmp_path_factory.mktemp("platform"), issuer.url) as running:
        mappings = GroupRoles(running.context.database)
        owner = running.context.authenticator.caller_for_user(running.owner.user_id)
        mappings.create(owner, issuer=issuer.url, group="staff", role="member", project_id=running.owner.project_id)
        yield running


@pytest.fixture
def llma_there(bare_llma: Llma, served: Any, monkeypatch: pytest.MonkeyPatch) -> Llma:
    """Run a command line for that platform, with no key."""
    monkeypatch.setenv("LLMARINER_BASE_URL", served.url)
    return bare_llma


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Says what happens where `llma` opens a browser: a function of the address, in a thread of its own."""
    threads: list[threading.Thread] = []
    failed: list[BaseException] = []

    def opens(visit: Callable[[str], Any]) -> None:
        def in_thread(address: str) -> None:
            try:
                visit(address)
            except BaseException as error:
                failed.append(error)

        def opened(address: str) -> bool:
            threads.append(threading.Thread(target=in_thread, args=(address,)))
            threads[-1].start()
            return True

        monkeypatch.setattr("webbrowser.open", opened)

    yield opens
    for thread in threads:
        thread.join(30)
    assert failed == []


@pytest.fixture
def person() -> Iterator[Any]:
    made = _issuer.Browser("alice")
    yield made
    made.close()


@pytest.fixture
def signed_in(llma_there: Llma, browser: Callable[..., None], person: Any) -> Llma:
    browser(person.visit)
    result = llma_there("auth", "login")
    assert result.code == 0, result.err
    return llma_there


def token_file(home: Path) -> Path:
    return home / ".config/llmariner/token.yaml"


def stored(home: Path) -> dict[str, str]:
    (entry,) = yaml.safe_load(token_file(home).read_text()).values()
    return dict(entry)


def change(home: Path, **values: str) -> None:
    (server,) = content = yaml.safe_load(token_file(home).read_text())
    content[server] |= values
    token_file(home).write_text(yaml.safe_dump(content))


def expired(issuer: Any) -> str:
    """A token of alice's that ended a moment ago."""
    now = int(time.time())
    return str(issuer.token(iat=now - 60, exp=now - 1))


def test_a_browser_sign_in_grants_membership_at_once(
    llma_there: Llma, browser: Callable[..., None], person: Any, home: Path, served: Any
) -> None:
    pages: SimpleQueue[str] = SimpleQueue()
    browser(lambda address: pages.put(person.visit(address)))
    result = llma_there("auth", "login")
    assert (result.code, result.out) == (0, f"Signed in to {served.url} as alice@example.org.\n")
    assert llma_there("auth", "api-keys", "list").code == 0
    assert stat.S_IMODE(token_file(home).stat().st_mode) == 0o600
    assert stored(home)["refresh_token"]
    assert stored(home)["token"] not in result.out + result.err
    seen = pages.get(timeout=30)
    assert "You are signed in" in seen
    assert "alice@example.org" in seen


def test_every_attempt_has_its_own_state_nonce_and_verifier(
    llma_there: Llma, browser: Callable[..., None], person: Any, issuer: Any
) -> None:
    asked: list[dict[str, str]] = []

    def visit(address: str) -> None:
        asked.append({name: values[0] for name, values in parse_qs(urlsplit(address).query).items()})
        person.visit(address)

    browser(visit)
    for _ in range(2):
        assert llma_there("auth", "login").code == 0
    first, second = asked
    for name in ("state", "nonce", "code_challenge", "redirect_uri"):
        assert first[name] != second[name]
    assert all(len(first[name]) >= 43 for name in ("state", "nonce", "code_challenge"))
    assert first["code_challenge_method"] == "S256"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/callback", first["redirect_uri"])
    assert "offline_access" in first["scope"].split()


def with_changed(address: str, **changed: str) -> str:
    """The redirect that an attacker would rather see."""
    parts = urlsplit(address)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()} | changed
    return parts._replace(query="&".join(f"{name}={value}" for name, value in query.items())).geturl()


def redirect_of(person: Any, address: str) -> str:
    """The redirect to us that ends a sign-in, not followed."""
    found: list[str] = []
    client = person._client
    real = client.get

    def get(url: str) -> Any:
        if "/callback" in url:
            found.append(url)
            return httpx2.Response(200, text="")
        return real(url)

    client.get = get
    person.visit(address)
    client.get = real
    return found[0]


def get(url: str) -> int:
    return httpx2.get(url, trust_env=False).status_code


def page(url: str) -> str:
    return httpx2.get(url, trust_env=False).text


def test_an_unexpected_redirect_is_ignored(llma_there: Llma, browser: Callable[..., None], person: Any) -> None:
    statuses: SimpleQueue[int] = SimpleQueue()

    def visit(address: str) -> None:
        redirect = redirect_of(person, address)
        callback = redirect.partition("?")[0]
        for each in (
            with_changed(redirect, state="forged"),
            f"{callback}?code=stolen",
            callback,
            callback.replace("/callback", "/"),
            redirect,
        ):
            statuses.put(get(each))

    browser(visit)
    assert llma_there("auth", "login").code == 0
    assert [statuses.get(timeout=30) for _ in range(5)] == [404, 404, 404, 404, 200]


def test_a_code_of_another_attempt_is_rejected(
    llma_there: Llma, browser: Callable[..., None], person: Any, home: Path
) -> None:
    """As an attacker would slip in their own account: the code fits neither our verifier nor our nonce."""
    codes: list[str] = []

    def note(address: str) -> None:
        redirect = redirect_of(person, address)
        codes.append(parse_qs(urlsplit(redirect).query)["code"][0])
        get(redirect.partition("?")[0] + "?" + with_changed(redirect, error="access_denied").partition("?")[2])

    browser(note)
    assert llma_there("auth", "login").code == 3
    pages: SimpleQueue[str] = SimpleQueue()
    browser(lambda address: pages.put(page(with_changed(redirect_of(person, address), code=codes[0]))))
    result = llma_there("auth", "login")
    assert result.code == 3
    assert "invalid_grant" in result.err
    assert "You are not signed in" in pages.get(timeout=30), "said when it is known"
    assert not token_file(home).exists()


def test_a_response_of_another_issuer_is_rejected(
    llma_there: Llma, browser: Callable[..., None], person: Any, home: Path
) -> None:
    browser(lambda address: get(with_changed(redirect_of(person, address), iss="https://evil.example")))
    result = llma_there("auth", "login")
    assert (result.code, "is not who answered" in result.err) == (5, True)
    assert not token_file(home).exists()


def test_a_cancelled_sign_in_is_reported(llma_there: Llma, browser: Callable[..., None]) -> None:
    def refuse(address: str) -> None:
        query = parse_qs(urlsplit(address).query)
        get(f"{query['redirect_uri'][0]}?error=access_denied&state={query['state'][0]}")

    browser(refuse)
    result = llma_there("auth", "login")
    assert result.code == 3
    assert "access_denied" in result.err


def test_a_person_without_membership_is_informed_at_once(
    llma_there: Llma, browser: Callable[..., None], home: Path
) -> None:
    uninvited = _issuer.Browser("mallory")
    browser(uninvited.visit)
    result = llma_there("auth", "login")
    uninvited.close()
    assert (result.code, "as mallory@example.org" in result.out) == (0, True)
    assert "Ask one of its owners" in result.err
    assert stored(home)["token"], "kept: an owner may let them in meanwhile"


def test_a_sign_in_times_out(llma_there: Llma, browser: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmariner.cli.sign_in.commands._WAIT_SECONDS", 0.2)
    browser(lambda address: None)
    result = llma_there("auth", "login")
    assert (result.code, "--no-open" in result.err) == (3, True)


def test_without_a_browser_the_url_is_printed(llma_there: Llma, person: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def none(address: str) -> bool:
        threads.append(threading.Thread(target=person.visit, args=(address,)))
        threads[0].start()
        return False

    monkeypatch.setattr("webbrowser.open", none)
    result = llma_there("auth", "login")
    threads[0].join(30)
    assert (result.code, "Open this address" in result.err) == (0, True)


def test_sign_in_by_device_code(llma_there: Llma, person: Any, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import llmariner.cli.sign_in.commands as module

    shown: list[str] = []
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def show(address: str, code: str, with_code: str) -> None:
        shown.extend([address, code])
        person.visit(with_code)

    monkeypatch.setattr(module, "_show_code", show)
    monkeypatch.setattr("webbrowser.open", lambda address: pytest.fail("opened"))
    result = llma_there("auth", "login", "--no-open")
    assert (result.code, result.out) == (0, f"Signed in to {served.url} as alice@example.org.\n")
    assert shown[0].endswith("/device")
    assert len(shown[1]) >= 8


def test_a_workload_exchanges_its_token_and_repeats_it_after_expiry(
    llma_there: Llma, issuer: Any, tmp_path: Path, home: Path
) -> None:
    file = tmp_path / "workload.token"
    file.write_text(issuer.workload_key.sign({"sub": "ci", "aud": issuer.url, "exp": int(time.time()) + 60}) + "\n")
    result = llma_there("auth", "login", "--token-file", str(file))
    assert result.code == 0, result.err
    assert "as ci@example.org" in result.out
    assert llma_there("auth", "api-keys", "list").code == 0
    change(home, token=expired(issuer))
    assert llma_there("auth", "api-keys", "list").code == 0
    assert stored(home)["token"] != expired(issuer)
    file.write_text(_issuer.SigningKey().sign({"sub": "ci", "aud": issuer.url, "exp": int(time.time()) + 60}))
    change(home, token=expired(issuer))
    result = llma_there("auth", "api-keys", "list")
    assert (result.code, "does not take the token" in result.err) == (3, True)
    file.unlink()
    assert "cannot read the token" in llma_there("auth", "login", "--token-file", str(file)).err


def test_a_token_is_refreshed_before_its_expiry_and_only_once(signed_in: Llma, home: Path, issuer: Any) -> None:
    before = stored(home)
    ended = expired(issuer)
    change(home, token=ended)
    assert signed_in("auth", "api-keys", "list").code == 0
    after = stored(home)
    assert after["token"] != ended
    assert after["refresh_token"] != before["refresh_token"]  # this issuer gives a new one with each use
    assert signed_in("auth", "api-keys", "list").code == 0
    assert stored(home) == after


def test_concurrent_commands_use_a_refresh_token_once(signed_in: Llma, home: Path, issuer: Any, served: Any) -> None:
    """A second use would end the whole sign-in (RFC 9700, 4.14.2)."""
    from llmariner.cli.sign_in.token_refresh import ensure_fresh
    from llmariner.cli.sign_in.token_store import SignInFile

    change(home, token=expired(issuer))
    file = SignInFile(token_file(home))
    old = file.get(served.url)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(ensure_fresh(file, served.url, old))) for _ in range(4)]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({each.refresh_token for each in found}) == 1
    change(home, token=expired(issuer))
    assert signed_in("auth", "api-keys", "list").code == 0  # the issuer saw no second use


def test_a_sign_in_revoked_by_the_issuer_has_a_next_step(signed_in: Llma, home: Path, issuer: Any) -> None:
    change(home, token=expired(issuer), refresh_token="gone")
    result = signed_in("auth", "api-keys", "list")
    assert result.code == 3
    assert "your sign-in has ended" in result.err
    assert "llma auth login" in result.err


def test_a_sign_in_without_refresh_has_a_next_step(signed_in: Llma, home: Path, issuer: Any) -> None:
    change(home, token=expired(issuer), refresh_token="")
    result = signed_in("models", "list")
    assert (result.code, "nothing to renew it with" in result.err) == (3, True)


def test_a_token_is_sent_to_no_other_server(signed_in: Llma, platform: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    platform.respond("GET /models", {"object": "list", "data": []})
    assert signed_in("--endpoint", platform.url, "models", "list").code == 0
    assert "authorization" not in platform.requests[-1].headers


def test_an_environment_key_takes_precedence_over_the_sign_in(
    signed_in: Llma, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMARINER_API_KEY", served.admin_key)
    assert signed_in("auth", "token", "-o", "json").json["source"] == "LLMARINER_API_KEY"


def test_sign_out_revokes_the_token_at_the_issuer(signed_in: Llma, home: Path, issuer: Any) -> None:
    before = stored(home)
    result = signed_in("auth", "logout", "-o", "json").json
    assert (result["signed_out"], result["revoked"]) == (True, True)
    assert yaml.safe_load(token_file(home).read_text()) == {}
    form = {"grant_type": "refresh_token", "refresh_token": before["refresh_token"], "client_id": "llmariner"}
    answer = httpx2.post(f"{issuer.url}/token", data=form, trust_env=False)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert "Nobody is signed in" in signed_in("auth", "logout").out
    assert signed_in("auth", "api-keys", "list").code == 3


def test_sign_out_works_while_the_issuer_is_down(signed_in: Llma, home: Path) -> None:
    change(home, issuer="http://127.0.0.1:9")
    result = signed_in("auth", "logout")
    assert (result.code, "Warning" in result.err) == (0, True)
    assert yaml.safe_load(token_file(home).read_text()) == {}


def test_a_platform_without_an_issuer_is_reported(
    llma_there: Llma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _served_platform.ServedPlatform(tmp_path, "") as keyed:
        result = llma_there("--endpoint", keyed.url, "auth", "login")
    assert (result.code, "it has no issuer of tokens" in result.err) == (1, True)


def test_an_older_platform_is_reported_as_one_without_an_issuer(llma: Llma, platform: Any) -> None:
    result = llma("auth", "login")
    assert (result.code, "it has no issuer of tokens" in result.err) == (1, True)


@pytest.mark.parametrize("issuer_url", ["http://issuer.example", "https://127.0.0.1:9", "nonsense"])
def test_an_issuer_without_tls_or_unreachable_is_rejected(issuer_url: str, llma: Llma, platform: Any) -> None:
    found = {"object": "auth.configuration", "issuer": issuer_url, "client_id": "llmariner", "scopes": ["openid"]}
    platform.respond("GET /auth/configuration", found)
    result = llma("auth", "login")
    assert result.code == (6 if issuer_url.startswith("https") else 3)
    assert "authorization" not in platform.requests[-1].headers


def test_status_shows_the_user_and_roles(signed_in: Llma, issuer: Any) -> None:
    result = signed_in("auth", "status")
    assert result.code == 0, result.err
    for words in ("alice@example.org", "reader of Default Organization", "member of Default Project", issuer.url):
        assert words in result.out
    assert re.search(r"\(\d min, renewed by itself\)", result.out)
    document = signed_in("auth", "status", "-o", "json").json
    assert (document["credential"], document["renewable"]) == ("sign_in", True)
    assert document["expires_at"] == pytest.approx(time.time() + 600, abs=60)


def test_status_with_a_key_shows_its_owner(llma_there: Llma, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMARINER_API_KEY", served.admin_key)
    result = llma_there("auth", "status")
    assert (result.code, "owner of Default Organization" in result.out) == (0, True)
    assert served.admin_key not in result.out + result.err


def test_status_without_a_sign_in_has_a_next_step(llma_there: Llma) -> None:
    result = llma_there("auth", "status")
    assert (result.code, "llma auth login" in result.err) == (3, True)


def test_a_token_with_another_nonce_is_rejected(person: Any, issuer: Any) -> None:
    """The code and its verifier are correct, but the token was made for another request, as in a replay."""
    from llmariner.cli.sign_in.issuer import AuthorizationRequest, IssuerClient
    from llmariner.cli.support.errors import CommandError

    redirect_uri = "http://127.0.0.1:9/callback"
    with IssuerClient(issuer.url, "llmariner", ["openid", "email"]) as there:
        attempt = AuthorizationRequest.new()
        answer = dict(parse_qsl(urlsplit(redirect_of(person, there.authorization_url(attempt, redirect_uri))).query))
        other = AuthorizationRequest(attempt.state, "another nonce", attempt.code_verifier)
        with pytest.raises(CommandError, match="another attempt"):
            there.exchange_code(other, answer, redirect_uri)
