"""People on a cluster: sign-in, requests, usage, audit log, and rejection of forged tokens."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.cli.sign_in.issuer import IssuerClient
from llmariner.cli.sign_in.token_store import SignIn, SignInFile

from ...lab.wait import until
from ...platform.installed import Installed
from ..engines import scripted, service
from ..platform_client import Answer, PlatformClient
from .issuers import CONSOLE, TrustedIssuer, start_trusted_issuer

if TYPE_CHECKING:
    from identity.terminal import Terminal

_forged_tokens, _issuer, _terminal = (
    importlib.import_module(f"....identity.{name}", __package__) for name in ("forged_tokens", "issuer", "terminal")
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

_SCOPES = ["openid", "profile", "email", "groups", "offline_access"]
_GROUP_ROLES = "/organization/sign_in/group_roles"
# New accounts: those of an earlier run belong to the issuer of that run.
_ALICE, _OLGA = (f"{name}-{uuid.uuid4().hex[:6]}" for name in ("alice", "olga"))
# Of a change anywhere until it counts everywhere.
_EVERYWHERE_SECONDS = 5


@pytest.fixture(scope="module")
def trusted_issuer(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrustedIssuer]:
    """The platform with an issuer: alice is in the group `staff` of the project, olga in `owners` of the organization."""
    with start_trusted_issuer(installed, tmp_path_factory.mktemp("issuer")) as trusted_issuer:
        trusted_issuer.company.set_accounts(**{_ALICE: {"groups": ["staff"]}, _OLGA: {"groups": ["owners"]}})
        try:
            _role(installed, "owners", "owner")
            _role(installed, "staff", "member", _project(installed))
            yield trusted_issuer
        finally:
            for each in installed.call("GET", _GROUP_ROLES)[1]["data"]:
                installed.call("DELETE", f"{_GROUP_ROLES}/{each['id']}")
            for person in _people(installed).values():
                installed.call("DELETE", f"/organization/users/{person}")


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folders of signed-in users."""
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(scope="module")
def alice(installed: Installed, trusted_issuer: TrustedIssuer, homes: Path) -> Terminal:
    """Signed in by a browser."""
    opened = _terminal.RecordingBrowser(homes)
    terminal: Terminal = _terminal.Terminal(homes / "alice", installed.base_url, opened.command)
    browser = _issuer.Browser(_ALICE)
    with contextlib.closing(browser), terminal.starts("auth", "login") as login:
        page = browser.visit(opened.address())
        said = login.communicate(timeout=60)
    assert login.returncode == 0, said
    assert "You are signed in" in page
    return terminal


@pytest.fixture(scope="module")
def olga(installed: Installed, trusted_issuer: TrustedIssuer, homes: Path) -> Terminal:
    """Signed in by another device."""
    terminal: Terminal = _terminal.Terminal(homes / "olga", installed.base_url)
    with contextlib.closing(_issuer.Browser(_OLGA)) as device, terminal.starts("auth", "login", "--no-open") as login:
        assert login.stderr is not None
        shown = login.stderr.readline() + login.stderr.readline()
        device.visit(str(re.findall(r"https?://[^\s)]+", shown)[-1]))
        said = login.communicate(timeout=120)
    assert login.returncode == 0, said
    return terminal


@pytest.fixture(scope="module")
def administrator(installed: Installed) -> Iterator[PlatformClient]:
    with contextlib.closing(PlatformClient(installed)) as client:
        yield client


@pytest.fixture(scope="module")
def model(administrator: PlatformClient) -> Iterator[str]:
    """A model that is awake, and costs a dollar a request."""
    name = f"people-{uuid.uuid4().hex[:6]}"
    installed = administrator.installed
    with scripted(installed.lab, service(name)):
        administrator.adopted(name)
        assert administrator.whole(name, wait=120, max_tokens=2).status == 200
        price = {"model": name, "prompt": 0, "completion": 0, "request": 1}
        assert installed.call("POST", "/prices", price)[0] == 200
        time.sleep(_EVERYWHERE_SECONDS)
        yield name


@pytest.fixture
def ask(installed: Installed, model: str) -> Iterator[Callable[[str], Answer]]:
    """Ask the model with a token."""
    with contextlib.closing(PlatformClient(installed)) as client:

        def ask(token: str) -> Answer:
            client.key = token
            return client.whole(model, wait=30, max_tokens=3)

        yield ask


def test_a_person_signs_in_with_the_roles_of_their_groups(installed: Installed, alice: Terminal) -> None:
    said = alice.says("auth", "status")
    assert f"{_ALICE}@example.org" in said
    assert "reader of Default Organization" in said
    assert "member of Default Project" in said
    assert f"{_ALICE}@example.org" in _people(installed), "made just in time"


def test_sign_in_by_device_code(olga: Terminal) -> None:
    assert "owner of Default Organization" in olga.says("auth", "status")


def test_usage_of_a_signed_in_person_is_reported(
    installed: Installed, alice: Terminal, olga: Terminal, model: str, ask: Callable[[str], Answer]
) -> None:
    began = int(time.time()) - 1
    answer = ask(_token(alice))
    assert answer.status == 200, answer.body
    tokens = answer.usage["completion_tokens"]
    own, owners = _api(installed, _token(alice)), _api(installed, _token(olga))
    until("her own usage", lambda: None if model in str(own("/api_usages")) else "not reported yet", seconds=60)
    person = _people(installed)[f"{_ALICE}@example.org"]
    query = f"start_time={began}&bucket_width=1d&group_by[]=user_id&models[]={model}&user_ids[]={person}"
    rows = [row for each in owners(f"/organization/usage/completions?{query}")["data"] for row in each["results"]]
    found = [(row["num_model_requests"], row["output_tokens"], row["user_id"]) for row in rows]
    assert found == [(1, tokens, person)]
    lines = [line for each in owners(f"/organization/costs?start_time={began}")["data"] for line in each["results"]]
    assert sum(line["amount"]["value"] for line in lines) >= 1
    assert model in olga.says("admin", "usage")
    assert f"{_ALICE}@example.org" in olga.says("admin", "usage", "show", "--days", "1", "--by", "user")
    assert str(tokens) in olga.says("admin", "usage", "why", answer.request_id)
    assert alice.says("admin", "usage", "why", answer.request_id), "her own request"


def test_the_audit_log_records_sign_ins_and_mutations(alice: Terminal, olga: Terminal) -> None:
    came = olga.says("admin", "audit", "list", "--type", "login.succeeded")
    assert f"{_ALICE}@example.org" in came
    assert f"{_OLGA}@example.org" in came
    name = f"people-{uuid.uuid4().hex[:6]}"
    alice.says("auth", "api-keys", "create", name)
    alice.says("auth", "api-keys", "delete", name)
    acts = olga.says("admin", "audit", "list", "--actor", f"{_ALICE}@example.org")
    assert "api_key.created" in acts
    assert "api_key.deleted" in acts
    said = olga.says("admin", "audit", "verify")
    assert "The log is whole" in said
    print(f"\n{said}")
    alice.says("admin", "audit", "list", code=3)


def test_forged_tokens_are_rejected(
    installed: Installed, trusted_issuer: TrustedIssuer, alice: Terminal, ask: Callable[[str], Answer]
) -> None:
    """Made with the issuer's own key, of a function and of the token path."""
    signer = trusted_issuer.signer()
    found = _claims(alice)
    good = signer.token(sub=found["sub"], email=found["email"], groups=found.get("groups"))
    assert _status(installed, good) == 200, "it is the key that the issuer signs with"
    admitted = {}
    for name, (make, reason) in _forged_tokens.FORGED.items():
        token = make(signer)
        status, said = _asked(installed, token)
        answer = ask(token)
        if (status, answer.status) != (401, 401) or not re.search(reason, said["error"]["message"]):
            admitted[name] = (status, said, answer.status)
    print(f"\n{len(_forged_tokens.FORGED)} forgeries, refused by a function and on the token path")
    assert not admitted


def test_another_applications_token_is_rejected(
    installed: Installed, trusted_issuer: TrustedIssuer, ask: Callable[[str], Answer]
) -> None:
    with (
        contextlib.closing(_issuer.Browser(_ALICE)) as browser,
        IssuerClient(trusted_issuer.url, CONSOLE, _SCOPES) as issuer,
    ):
        token = str(browser.signs_in(issuer).token)
    assert (_status(installed, token), ask(token).status) == (401, 401)


def test_a_cached_token_expires(trusted_issuer: TrustedIssuer, alice: Terminal, ask: Callable[[str], Answer]) -> None:
    """Without the leeway for clocks that differ: it was good here before."""
    found = _claims(alice)
    known = {name: found[name] for name in ("sub", "email", "groups")}
    token = trusted_issuer.signer().token(**known, **_forged_tokens.soon(exp=4))
    assert ask(token).status == 200
    time.sleep(4.1)
    assert ask(token).status == 401


def test_leaving_the_group_revokes_access_with_the_next_token(
    trusted_issuer: TrustedIssuer, alice: Terminal, homes: Path, installed: Installed, ask: Callable[[str], Answer]
) -> None:
    before = _sign_in(homes, installed)
    assert ask(before.token).status == 200
    trusted_issuer.company.set_accounts(**{_ALICE: {"groups": []}})
    try:
        with IssuerClient(trusted_issuer.url, "llmariner", _SCOPES) as issuer:
            after = issuer.refresh(before)
        assert _status(installed, after.token) == 403
        seconds = _refused_after(lambda: ask(before.token), {403})
        print(f"\nthe token from before is refused after {seconds:.1f} s")
        time.sleep(_EVERYWHERE_SECONDS + 1)
        assert ask(before.token).status == 403, "what an older token says of groups is no news"
        assert _status(installed, before.token) == 403
    finally:
        trusted_issuer.company.set_accounts(**{_ALICE: {"groups": ["staff"]}})
        with IssuerClient(trusted_issuer.url, "llmariner", _SCOPES) as issuer:
            again = issuer.refresh(after)
    SignInFile.from_environment({"XDG_CONFIG_HOME": str(homes / "alice" / ".config")}).put(installed.base_url, again)
    assert _status(installed, again.token) == 200
    assert "member of Default Project" in alice.says("auth", "status")


def test_a_deleted_group_role_is_revoked_everywhere(
    installed: Installed, alice: Terminal, ask: Callable[[str], Answer]
) -> None:
    token = _token(alice)
    made = _role(installed, "staff", "owner")
    try:
        _until(lambda: "owner of Default Organization" in alice.says("auth", "status"))
    finally:
        assert installed.call("DELETE", f"{_GROUP_ROLES}/{made}")[0] == 200
    _until(lambda: "owner of Default Organization" not in alice.says("auth", "status"))
    assert ask(token).status == 200
    listed = installed.call("GET", _GROUP_ROLES)[1]["data"]
    (mapped,) = [each["id"] for each in listed if each["group"] == "staff"]
    assert installed.call("DELETE", f"{_GROUP_ROLES}/{mapped}")[0] == 200
    seconds = _refused_after(lambda: ask(token), {403})
    print(f"\non the token path it ends after {seconds:.1f} s")
    _role(installed, "staff", "member", _project(installed))
    _until(lambda: ask(token).status == 200)


def _refused_after(ask: Callable[[], Answer], statuses: set[int]) -> float:
    """Seconds until a request is refused; at most those that a change may take."""
    began = time.monotonic()
    while (answer := ask()).status not in statuses:
        assert answer.status == 200, answer.body
        assert time.monotonic() - began < _EVERYWHERE_SECONDS, "not refused"
        time.sleep(0.2)
    return time.monotonic() - began


def _until(done: Callable[[], bool]) -> None:
    until("it counts", lambda: None if done() else "not yet", seconds=3 * _EVERYWHERE_SECONDS)


def _role(installed: Installed, group: str, role: str, project: str | None = None) -> str:
    body = {"group": group, "role": role, **({"project_id": project} if project else {})}
    status, answer = installed.call("POST", _GROUP_ROLES, body)
    assert status == 200, answer
    return str(answer["id"])


def _project(installed: Installed) -> str:
    """The administrator's, which is the default one."""
    return str(installed.call("GET", "/users:getSelf")[1]["project_role_bindings"][0]["project_id"])


def _people(installed: Installed) -> dict[str, str]:
    """Ids of signed-in users by email."""
    listed = installed.call("GET", "/organization/users?limit=100")[1]["data"]
    return {each["email"]: each["id"] for each in listed if each["email"].endswith("@example.org")}


def _token(terminal: Terminal) -> str:
    return str(terminal.says("auth", "token", "--show").split()[0])


def _claims(terminal: Terminal) -> dict[str, Any]:
    return SignIn("", "", _token(terminal)).claims


def _sign_in(homes: Path, installed: Installed) -> SignIn:
    found = SignInFile.from_environment({"XDG_CONFIG_HOME": str(homes / "alice" / ".config")}).get(installed.base_url)
    assert found is not None
    return found


def _api(installed: Installed, token: str) -> Callable[[str], dict[str, Any]]:
    def get(path: str) -> dict[str, Any]:
        status, answer = _asked(installed, token, path)
        assert status == 200, answer
        return answer

    return get


def _status(installed: Installed, token: str) -> int:
    return _asked(installed, token)[0]


def _asked(installed: Installed, token: str, path: str = "/users:getSelf") -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{installed.base_url}{path}", headers={"authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"{}")
