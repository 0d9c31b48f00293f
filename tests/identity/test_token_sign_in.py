"""People at the platform's functions, with tokens of a real issuer."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmariner.boot import load
from llmariner.context import Context
from llmariner.platform.database.migrate import upgrade
from llmariner.tenancy.organizations.bootstrap import create_bootstrap_key, ensure_first_owner

from .issuer import RunningIssuer

CHECKOUT = Path(__file__).parents[2]
_http_calls = importlib.import_module("..functions.http_calls", __package__)
GROUP_ROLES = "/v1/organization/sign_in/group_roles"


class Platform:
    """Functions over one database, with an issuer or without one."""

    def __init__(self, folder: Path, issuer: str) -> None:
        self.context = Context({
            "LLMARINER_DATABASE_URL": f"sqlite:///{folder / 'platform.db'}",
            "LLMARINER_PEPPER": "0123456789abcdef" * 4,
            "LLMARINER_SERVICE_SECRET": "fedcba9876543210" * 4,
            "LLMARINER_OIDC_ISSUER": issuer,
        })  # fmt: skip
        upgrade(self.context.database)
        self.owner = ensure_first_owner(self.context.database)
        _, self.admin_key = create_bootstrap_key(self.context.keys, self.owner, "admin")
        self._caller = _http_calls.InProcessClient()

    def ask(self, method: str, path: str, bearer: str, body: Any = None, **headers: str) -> Any:
        function = "organization_sign_in" if "sign_in" in path else path.split("/")[2]
        application = load(CHECKOUT / "functions" / function)
        application.use_context(self.context)
        said = {"authorization": f"Bearer {bearer}"} if bearer else {}
        said |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self._caller.send(application, _http_calls.HttpRequest(method, path, body, said))

    def close(self) -> None:
        self.context.database.close()
        self._caller.runner.close()


@pytest.fixture
def platform(tmp_path: Path, issuer: RunningIssuer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    monkeypatch.setattr("llmariner.tenancy.sign_in.token_sign_in._CACHE_SECONDS", 0.0)
    made = Platform(tmp_path, issuer.url)
    yield made
    made.close()


@pytest.fixture
def keyed_platform(tmp_path: Path) -> Iterator[Platform]:
    """One without an issuer."""
    made = Platform(tmp_path, "")
    yield made
    made.close()


Map = Callable[..., Any]


@pytest.fixture
def map_group(platform: Platform) -> Map:
    def map_group(**body: Any) -> Any:
        return platform.ask("POST", GROUP_ROLES, platform.admin_key, body)

    return map_group


def test_the_sign_in_configuration_is_public(platform: Platform, issuer: RunningIssuer) -> None:
    answer = platform.ask("GET", "/v1/auth/configuration", "")
    assert answer.status == 200
    assert (answer.json["issuer"], answer.json["client_id"]) == (issuer.url, "llmariner")
    assert {"openid", "email", "groups", "offline_access"} <= set(answer.json["scopes"])


def test_without_an_issuer_tokens_are_rejected(keyed_platform: Platform, issuer: RunningIssuer) -> None:
    assert keyed_platform.ask("GET", "/v1/auth/configuration", "").json["issuer"] is None
    refused = keyed_platform.ask("GET", "/v1/api_keys", issuer.token())
    _http_calls.assert_error(refused, 401, "invalid_token")
    assert "use an API key" in refused.error["message"]
    for method, path in (("POST", GROUP_ROLES), ("DELETE", "/v1/organization/sign_in/users/u")):
        body = {"group": "g", "role": "reader"} if method == "POST" else None
        refused = keyed_platform.ask(method, path, keyed_platform.admin_key, body)
        assert (refused.status, "LLMARINER_OIDC_ISSUER" in refused.error["message"]) == (400, True)


def test_a_group_member_works_in_the_project_and_creates_a_key(
    platform: Platform, issuer: RunningIssuer, map_group: Map
) -> None:
    assert map_group(group="staff", role="member", project_id=platform.owner.project_id).status == 200
    token = issuer.token()
    answer = platform.ask("POST", "/v1/api_keys", token, {"name": "mine"})
    assert answer.status == 200
    assert answer.json["user"]["email"] == "alice@example.org"
    assert platform.ask("GET", "/v1/api_keys", answer.json["secret"]).status == 200
    forbidden = platform.ask("GET", GROUP_ROLES, token)
    _http_calls.assert_error(forbidden, 403, "insufficient_permissions")


def test_a_missing_scope_error_names_roles_and_not_keys(
    platform: Platform, issuer: RunningIssuer, map_group: Map
) -> None:
    map_group(group="staff", role="viewer", project_id=platform.owner.project_id)
    refused = platform.ask("POST", "/v1/api_keys", issuer.token(), {"name": "mine"})
    _http_calls.assert_error(refused, 403, "insufficient_permissions")
    assert "None of your roles" in refused.error["message"]


def test_a_person_without_membership_is_rejected_with_a_contact(platform: Platform, issuer: RunningIssuer) -> None:
    refused = platform.ask("GET", "/v1/api_keys", issuer.token())
    _http_calls.assert_error(refused, 403, "insufficient_permissions")
    assert "Ask one of its owners" in refused.error["message"]


def test_a_rejected_token_has_a_next_step(platform: Platform, issuer: RunningIssuer) -> None:
    for token, code in ((issuer.token(aud="other"), "invalid_token"), (issuer.token(exp=5), "token_expired")):
        refused = platform.ask("GET", "/v1/api_keys", token)
        _http_calls.assert_error(refused, 401, code)
        assert "llma auth login" in refused.error["message"]
        assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_headers_select_a_project_and_a_foreign_one_is_rejected(
    platform: Platform, issuer: RunningIssuer, map_group: Map
) -> None:
    map_group(group="staff", role="member", project_id=platform.owner.project_id)

    def asked(**headers: str) -> Any:
        return platform.ask("GET", "/v1/api_keys", issuer.token(), **headers)

    assert asked(openai_organization="Default Organization", openai_project="Default Project").status == 200
    assert asked(openai_organization=platform.owner.organization_id).status == 200
    for header in ("openai_organization", "openai_project"):
        _http_calls.assert_error(asked(**{header: "Others"}), 403, "insufficient_permissions")


def test_group_roles_are_created_listed_and_deleted(platform: Platform, issuer: RunningIssuer, map_group: Map) -> None:
    made = map_group(group="staff", role="owner").json
    assert made["issuer"] == issuer.url
    assert platform.ask("GET", GROUP_ROLES, issuer.token()).json["data"] == [made]
    _http_calls.assert_error(map_group(group="staff", role="reader"), 409, "conflict")
    # The first owner is another person, so this one does not have to stay.
    assert platform.ask("DELETE", f"{GROUP_ROLES}/{made['id']}", issuer.token()).json["deleted"]
    assert platform.ask("GET", GROUP_ROLES, issuer.token()).status == 403
    assert platform.ask("DELETE", f"{GROUP_ROLES}/{made['id']}", platform.admin_key).status == 404
    assert platform.ask("GET", GROUP_ROLES, platform.admin_key).json["data"] == []


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"group": "staff", "role": "king"}, 400, "role"),
        ({"group": "staff", "role": "member"}, 400, "role"),
        ({"group": "", "role": "owner"}, 400, "group"),
        ({"group": "staff", "role": "member", "project_id": "proj_x"}, 404, "project_id"),
        ({"role": "owner"}, 400, "group"),
    ],
)
def test_an_invalid_mapping_is_rejected(body: Any, status: int, param: str, map_group: Map) -> None:
    refused = map_group(**body)
    assert (refused.status, refused.error["param"]) == (status, param)


def test_an_owner_unlinks_a_person_with_a_new_subject(
    platform: Platform, issuer: RunningIssuer, map_group: Map
) -> None:
    map_group(group="staff", role="member", project_id=platform.owner.project_id)
    alice = platform.ask("POST", "/v1/api_keys", issuer.token(), {"name": "mine"}).json["user"]["internal_id"]
    moved = issuer.token(sub="alice-2")
    refused = platform.ask("GET", "/v1/api_keys", moved)
    _http_calls.assert_error(refused, 403, "account_linked")
    assert f"DELETE /v1/organization/sign_in/users/{alice}" in refused.error["message"]
    assert platform.ask("DELETE", f"/v1/organization/sign_in/users/{alice}", platform.admin_key).status == 200
    assert platform.ask("GET", "/v1/api_keys", issuer.token(sub="alice-2")).status == 200
