"""Organizations: who creates and sees them, and what remains after deletion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from llmariner.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from llmariner.tenancy.keys.store import NewKey
from llmariner.tenancy.organizations.store import Organization, Summary
from llmariner.tenancy.roles import access_scope
from llmariner.tenancy.roles.scopes import ADMIN_KEY_SCOPES, OWNER_SCOPES

from ..team import Team

AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]


def test_the_creator_of_an_organization_owns_it(team: Team) -> None:
    made = team.organizations.create(team.admin, "  Acme ")
    assert (made.title, made.is_default) == ("Acme", False)
    assert made.id.startswith("org_")
    assert team.organizations.get(made.id) == made
    assert team.caller(team.admin.user_id, made.id).is_owner
    assert [each.title for each in team.organizations.accessible_to(team.admin)] == ["Default Organization", "Acme"]
    assert team.organizations.summarize([made.id, team.admin.organization_id]) == {
        made.id: Summary(0, 1),
        team.admin.organization_id: Summary(1, 1),
    }


@pytest.mark.parametrize("title", ["", "  ", "x" * 201, "a\nb", "a\0b"])
def test_a_title_has_a_length_limit(team: Team, title: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        team.organizations.create(team.admin, title)
    assert refused.value.param == "title"


def test_only_an_owner_of_the_default_organization_creates_others(team: Team) -> None:
    with pytest.raises(PermissionDenied):
        team.organizations.create(team.person("ann@example.org"), "Hers")
    made = team.organizations.create(team.admin, "Acme")
    bob = team.members.add(team.caller(team.admin.user_id, made.id), "bob@example.org", "owner")
    with pytest.raises(PermissionDenied):
        team.organizations.create(team.caller(bob.user_id), "His")
    # The administrator may as a person, from any organization; a key only in its own.
    there = team.caller(team.admin.user_id, made.id)
    team.organizations.create(there, "Third")
    key = team.authenticator.authenticate(team.keys.create_admin(there, NewKey("there", ADMIN_KEY_SCOPES))[1])
    assert key is not None
    with pytest.raises(PermissionDenied):
        team.organizations.create(key, "Fourth")


def test_a_title_is_unique(team: Team, run_concurrently: AtOnce) -> None:
    found = run_concurrently([lambda: team.organizations.create(team.admin, "Acme")] * 4)
    assert [type(each) for each in found].count(Organization) == 1, found
    assert [type(each) for each in found].count(Conflict) == 3, found
    made = next(each for each in found if isinstance(each, Organization))
    with pytest.raises(Conflict):
        team.organizations.rename(team.caller(team.admin.user_id, made.id), "Default Organization")
    assert team.organizations.rename(team.caller(team.admin.user_id, made.id), "Acme Inc").title == "Acme Inc"


def test_the_default_organization_cannot_be_deleted(team: Team) -> None:
    with pytest.raises(InvalidRequest, match="default organization") as refused:
        team.organizations.delete(team.admin)
    assert refused.value.code == "default_organization"


def test_an_organization_with_projects_is_not_deleted_and_the_error_lists_them(team: Team) -> None:
    made = team.organizations.create(team.admin, "Acme")
    there = team.caller(team.admin.user_id, made.id)
    other = Team(team.database, team.owner)
    other.admin = there
    project_id = other.project("Vision")
    with pytest.raises(InvalidRequest, match="Vision") as refused:
        team.organizations.delete(there)
    assert refused.value.details == {"in_the_way": {"projects": [{"id": project_id, "title": "Vision"}]}}
    other.projects.delete(there, project_id)
    team.organizations.delete(there)


def test_a_deleted_organization_has_no_members(team: Team) -> None:
    made = team.organizations.create(team.admin, "Acme")
    there = team.caller(team.admin.user_id, made.id)
    bob = team.members.add(there, "bob@example.org", "owner")
    role = team.roles.create(there, "auditor", ["api.audit.read"])
    invite, token = team.invites.create(there, "eve@example.org")
    key, secret = team.keys.create_admin(there, NewKey("ops", OWNER_SCOPES))
    assert team.authenticates(secret)
    gone = team.organizations.delete(there)
    assert gone == {
        "users": ["admin@localhost", "bob@example.org"],
        "api_keys": [key.id],
        "roles": [role.id],
        "invites": [invite.id],
        "group_roles": [],
        "clusters": [],
        "groups": [],
        "limits": [],
        "budgets": [],
    }
    assert not team.authenticates(secret)
    with pytest.raises(PermissionDenied):
        team.caller(bob.user_id)
    with pytest.raises(NotFound):
        team.invites.accept(token)
    with pytest.raises(NotFound):
        access_scope.caller_in_organization(team.database, team.admin, made.id, "api.organizations.read")
    assert [each.is_default for each in team.organizations.accessible_to(team.admin)] == [True]
    assert team.organizations.get(made.id).title == f"Acme (deleted {made.id})"
    team.organizations.create(team.admin, "Acme")
