"""Background work counts to the user, project and key that caused it, and ends with their rights."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from llmariner.errors import AuthenticationFailed, PermissionDenied
from llmariner.gateway.authentication.service_tokens import ServiceTokens
from llmariner.gateway.authentication.signed_tokens import sign
from llmariner.settings import Secret
from llmariner.tenancy.background_work import TOKEN_SECONDS, BackgroundTokens, Originator, authorize
from llmariner.tenancy.keys.store import KeyOwner, NewKey

from ..team import Team

SECRET = "s" * 64
TOKENS = BackgroundTokens(Secret(SECRET))
ONE = Originator("user_1", "proj_1", "org_1", "key_1")


def signed(**changed: Any) -> str:
    now = int(time.time())
    claims = {"aud": "token_path", "iat": now, "exp": now + 60, "originator": vars(ONE), **changed}
    return sign(claims, SECRET.encode())


def test_a_token_names_its_originator_for_some_minutes() -> None:
    found = TOKENS.verify(TOKENS.issue(ONE))
    assert found is not None
    assert found[0] == ONE
    assert found[1] == pytest.approx(time.time() + TOKEN_SECONDS, abs=5)


@pytest.mark.parametrize("foreign", ["", "a.b.c", "sk-key", sign({"aud": "token_path"}, b"x" * 64)])
def test_a_token_that_the_platform_did_not_sign_is_left_to_others(foreign: str) -> None:
    assert TOKENS.verify(foreign) is None


WRONG: dict[str, Callable[[], str]] = {
    "another audience": lambda: signed(aud="internal_gateway"),
    "expired": lambda: signed(exp=int(time.time()) - 1),
    "from the future": lambda: signed(iat=int(time.time()) + 60),
    "no originator": lambda: signed(originator=None),
    "an originator with other fields": lambda: signed(originator={"user_id": "x", "role": "owner"}),
    "a call between functions": lambda: ServiceTokens(SECRET, issuer="function", audience="internal_gateway").token(),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_token_for_another_purpose_is_refused(wrong: Callable[[], str]) -> None:
    with pytest.raises(AuthenticationFailed):
        TOKENS.verify(wrong())


def test_a_person_and_a_key_may_use_models_and_nothing_else(team: Team) -> None:
    person = Originator.of(team.admin)
    assert authorize(team.database, person) == (None, frozenset({"api.inference.write"}))
    key, _ = team.keys.create(team.owner, NewKey("stores", frozenset({"api.vector_stores.write"})))
    found, scopes = authorize(team.database, Originator(key.user_id, key.project_id or "", key.organization_id, key.id))
    assert found is not None
    assert (found.id, scopes) == (key.id, frozenset({"api.inference.write"}))


def test_the_work_ends_when_its_user_leaves(team: Team) -> None:
    project = team.project()
    person = team.person("ann@example.org", **{project: "member"})
    work = Originator(person.user_id, project, person.organization_id)
    authorize(team.database, work)
    team.members.remove_from_project(team.admin, project, person.user_id)
    with pytest.raises(PermissionDenied, match="any more"):
        authorize(team.database, work)


def test_the_work_ends_when_its_project_is_archived(team: Team) -> None:
    project = team.project()
    work = Originator(team.admin.user_id, project, team.admin.organization_id)
    authorize(team.database, work)
    team.projects.archive(team.admin, project)
    with pytest.raises(PermissionDenied, match="archived"):
        authorize(team.database, work)


def test_the_work_ends_when_its_key_is_revoked(team: Team) -> None:
    owner = KeyOwner(team.owner.user_id, team.owner.project_id, team.owner.organization_id)
    key, _ = team.keys.create(owner, NewKey("ci", team.admin.scopes))
    work = Originator(owner.user_id, owner.project_id, owner.organization_id, key.id)
    authorize(team.database, work)
    team.keys.revoke(owner, key.id)
    with pytest.raises(PermissionDenied, match="revoked"):
        authorize(team.database, work)
    with pytest.raises(PermissionDenied, match="revoked"):
        authorize(team.database, Originator(owner.user_id, owner.project_id, owner.organization_id, "key_unknown"))
