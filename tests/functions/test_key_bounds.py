"""A restricted key can't gain rights by creating, changing or rotating keys."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from llmariner.tenancy.keys.store import KeyOwner, NewKey
from llmariner.tenancy.members.memberships import Members
from llmariner.tenancy.roles.scopes import OWNER_SCOPES, PROJECT_ROLES

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, assert_error
from .installation import Installation

WRITE = "api.organizations.projects.api_keys.write"
Headers = dict[str, str]
Made = tuple[str, Headers]
_numbers = itertools.count()


@pytest.fixture
def make(installation: Installation) -> Callable[..., Made]:
    """Id and headers of a new key of the administrator, or of `owner`."""

    def made(owner: KeyOwner | None = None, scopes: frozenset[str] = OWNER_SCOPES, **values: Any) -> Made:
        new = NewKey(f"bounds {next(_numbers)}", scopes, **values)
        key, secret = installation.context.keys.create(owner or installation.owner, new)
        return key.id, {"authorization": f"Bearer {secret}"}

    return made


@pytest.fixture
def lead(installation: Installation) -> KeyOwner:
    """An owner of the default project who does not own the organization."""
    owner = installation.owner
    caller = installation.context.authenticator.caller_for_user(owner.user_id, owner.organization_id, owner.project_id)
    members = Members(installation.context.database)
    user_id = members.add(caller, f"lead{next(_numbers)}@example.org", "reader").user_id
    members.add_to_project(caller, owner.project_id, user_id, "owner")
    return KeyOwner(user_id, owner.project_id, owner.organization_id)


@pytest.fixture
def call(ask: Ask) -> Callable[..., HttpResponse]:
    def called(route: str, by: Headers, body: Any = None) -> HttpResponse:
        method, _, path = route.partition(" ")
        return ask("api_keys", HttpRequest(method, f"/v1/api_keys{path}", body, by))

    return called


Call = Callable[..., HttpResponse]


def test_a_restricted_key_gets_no_secret_of_a_key_with_more_scopes(make: Callable[..., Made], call: Call) -> None:
    _, small = make(scopes=frozenset({WRITE}))
    full, _ = make()
    same, _ = make(scopes=frozenset({WRITE}))
    refused = call(f"POST /{full}:rotate", small, {})
    assert_error(refused, 403, "insufficient_permissions")
    assert "api.audit.read" in refused.error["message"]
    assert call(f"POST /{same}:rotate", small, {}).status == 200


def test_a_project_owner_gets_no_secret_of_an_organization_owner(
    make: Callable[..., Made], call: Call, lead: KeyOwner
) -> None:
    _, by = make(lead, PROJECT_ROLES["owner"])
    owners, _ = make()
    assert_error(call(f"POST /{owners}:rotate", by, {}), 403, "insufficient_permissions")
    assert_error(call(f"DELETE /{owners}", by), 403, "insufficient_permissions")


def test_every_key_can_rotate_itself(make: Callable[..., Made], call: Call) -> None:
    key, by = make(allowed_models=("tiny",), allowed_sources=("127.0.0.0/8",), expires_in=60)
    assert call(f"POST /{key}:rotate", by, {"overlap_seconds": 60}).status == 200


BOUND: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "allowed_models": ({"allowed_models": ("tiny", "vectors")}, ["tiny"], ["tiny", "theirs"]),
    "allowed_sources": ({"allowed_sources": ("127.0.0.0/8", "2001:db8::/32")}, ["127.1.0.0/16"], ["10.0.0.0/8"]),
}


@pytest.mark.parametrize(("values", "less", "more"), BOUND.values(), ids=BOUND)
def test_a_restricted_key_creates_restricted_keys_only(
    values: dict[str, Any], less: Any, more: Any, make: Callable[..., Made], call: Call
) -> None:
    [(field, own)] = values.items()
    key, by = make(**values)

    def new(**said: Any) -> dict[str, Any]:
        return {"name": f"bounds {next(_numbers)}", **said}

    assert call("POST", by, new()).json[field] == list(own)
    assert call("POST", by, new(**{field: less})).json[field] == less
    refused = call("POST", by, new(**{field: more}))
    assert (refused.status, refused.error["param"]) == (403, field)
    for asked in (None, more):
        changed = call(f"PATCH /{key}", by, {field: asked})
        assert (changed.status, changed.error["param"]) == (403, field)
    assert call(f"PATCH /{key}", by, {"name": f"renamed {next(_numbers)}"}).status == 200
    free, _ = make()
    assert_error(call(f"POST /{free}:rotate", by, {}), 403, "insufficient_permissions")


def test_an_expiring_key_creates_no_key_that_outlives_it(make: Callable[..., Made], call: Call) -> None:
    key, by = make(expires_in=3600)
    end = int(time.time()) + 3600
    made = call("POST", by, {"name": f"bounds {next(_numbers)}"}).json
    assert abs(made["expires_at"] - end) <= 5
    longer = {"name": f"bounds {next(_numbers)}", "expires_in_seconds": 7200}
    assert call("POST", by, longer).error["param"] == "expires_at"
    for asked in (None, end + 3600):
        assert call(f"PATCH /{key}", by, {"expires_at": asked}).error["param"] == "expires_at"
    assert call(f"PATCH /{key}", by, {"expires_at": end - 1800}).status == 200


def test_an_expiring_admin_key_creates_permanent_service_accounts(ask: Ask, admin: Headers) -> None:
    body = {"name": f"bounds {next(_numbers)}", "expires_in_seconds": 60}
    made = ask("organization_admin_api_keys", HttpRequest("POST", "/v1/organization/admin_api_keys", body, admin)).json
    by = {"authorization": f"Bearer {made['value']}"}
    projects = "/v1/organization/projects"
    named = {"name": f"bounds {next(_numbers)}"}
    project = ask("organization_projects", HttpRequest("POST", projects, named, by)).json["id"]
    account = ask(
        "organization_projects", HttpRequest("POST", f"{projects}/{project}/service_accounts", named, by)
    ).json
    assert account["api_key"]["expires_at"] is None
