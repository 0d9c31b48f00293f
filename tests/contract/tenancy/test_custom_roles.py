"""Custom roles: allowed scopes, who may create them, and what prevents deletion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from llmariner.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from llmariner.tenancy.invitations.store import ProjectGrant
from llmariner.tenancy.roles.scopes import ALL_SCOPES, ORGANIZATION_ROLES, OWNER_SCOPES
from llmariner.tenancy.tables import group_roles

from ..team import Team

AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]


def test_a_custom_role_applies_at_once(team: Team) -> None:
    role = team.roles.create(team.admin, " auditor ", ["api.audit.read"], description="Reads the log.")
    assert (role.name, set(role.scopes), role.project_id) == ("auditor", {"api.audit.read"}, None)
    assert team.roles.all(team.admin.organization_id) == [role]
    ann = team.person("ann@example.org", role.id)
    assert ann.scopes == {"api.audit.read"}
    before, _ = team.keys.changed_since(0)
    changed = team.roles.update(team.admin, role.id, scopes=["api.audit.read", "api.prices.read"], name="books")
    assert (changed.name, changed.description) == ("books", "Reads the log.")
    assert team.caller(ann.user_id).scopes == {"api.audit.read", "api.prices.read"}
    assert team.keys.changed_since(before)[1] == [ann.user_id]


@pytest.mark.parametrize("scopes", [[], ["api.nothing.read"], ["api.k8s.namespaced.write"], ["api.audit"]])
def test_a_role_has_existing_scopes(team: Team, scopes: list[str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        team.roles.create(team.admin, "x", scopes)
    assert refused.value.param == "scopes"


def test_a_project_role_has_scopes_that_its_owner_may_grant(team: Team) -> None:
    project_id = team.project()
    with pytest.raises(InvalidRequest, match=r"api\.audit\.read"):
        team.roles.create(team.admin, "x", ["api.audit.read"], project_id=project_id)
    role = team.roles.create(team.admin, "x", ["api.inference.write"], project_id=project_id)
    assert team.roles.all(team.admin.organization_id) == []
    assert team.roles.all(team.admin.organization_id, project_id=project_id) == [role]
    with pytest.raises(NotFound):
        team.roles.create(team.admin, "x", ["api.inference.write"], project_id="proj_nobody")


def test_a_name_is_unique_where_it_is_used(team: Team, run_concurrently: AtOnce) -> None:
    project_id = team.project()
    found = run_concurrently([lambda: team.roles.create(team.admin, "x", ["api.audit.read"])] * 4)
    assert sorted(type(each).__name__ for each in found) == ["Conflict"] * 3 + ["CustomRole"], found
    team.roles.create(team.admin, "x", ["api.model.read"], project_id=project_id)
    for name in ("owner", "Member", "viewer", "tenant_system"):
        with pytest.raises(Conflict):
            team.roles.create(team.admin, name, ["api.audit.read"])
    for name in ("", "x" * 257):
        with pytest.raises(InvalidRequest):
            team.roles.create(team.admin, name, ["api.audit.read"])
    with pytest.raises(InvalidRequest):
        team.roles.create(team.admin, "long", ["api.audit.read"], description="x" * 2001)


def test_nobody_creates_a_role_above_their_own_permissions(team: Team) -> None:
    people = frozenset({"api.organizations.users.read", "api.organizations.users.write"})
    deputy = team.person("dee@example.org", team.roles.create(team.admin, "deputy", people).id)
    made = team.roles.create(deputy, "less", ["api.organizations.users.read"])
    with pytest.raises(PermissionDenied, match=r"api\.audit\.read"):
        team.roles.create(deputy, "more", ["api.audit.read"])
    with pytest.raises(PermissionDenied):
        team.roles.update(deputy, made.id, scopes=["api.audit.read"])
    above = team.roles.create(team.admin, "above", ["api.audit.read"])
    with pytest.raises(PermissionDenied):
        team.roles.update(deputy, above.id, scopes=["api.organizations.users.read"])


def test_a_role_in_use_is_not_deleted_and_the_error_names_its_users(team: Team) -> None:
    project_id = team.project()
    role = team.roles.create(team.admin, "chats", ["api.inference.write"], project_id=project_id)
    ann = team.person("ann@example.org", **{project_id: role.id})
    invite, _ = team.invites.create(team.admin, "bob@example.org", "reader", [ProjectGrant(project_id, role.id)])
    with team.database.write() as session:
        group = {"id": "group_1", "organization_id": team.admin.organization_id, "project_id": project_id}
        session.add(group_roles, **group, issuer="https://i", group_name="devs", role=role.id, created_at=1)
    with pytest.raises(InvalidRequest, match=r"ann@example.org") as refused:
        team.roles.delete(team.admin, role.id)
    assert refused.value.details == {
        "in_the_way": {"users": ["ann@example.org"], "invites": ["bob@example.org"], "groups": ["devs"]}
    }
    team.members.set_role_in_project(team.admin, project_id, ann.user_id, "viewer")
    team.invites.revoke(team.admin, invite.id)
    with pytest.raises(InvalidRequest):
        team.roles.delete(team.admin, role.id)
    with team.database.write() as session:
        session.run(group_roles.delete())
    team.roles.delete(team.admin, role.id)
    with pytest.raises(NotFound):
        team.roles.get(team.admin.organization_id, role.id)


def test_another_organizations_role_is_not_found(team: Team) -> None:
    elsewhere = team.caller(team.admin.user_id, team.organizations.create(team.admin, "Acme").id)
    role = team.roles.create(team.admin, "x", ["api.audit.read"])
    for attempt in (
        lambda: team.roles.get(elsewhere.organization_id, role.id),
        lambda: team.roles.update(elsewhere, role.id, name="y"),
        lambda: team.roles.delete(elsewhere, role.id),
    ):
        with pytest.raises(NotFound):
            attempt()
    with pytest.raises(InvalidRequest, match="Unknown role"):
        team.members.add(replace(elsewhere), "ann@example.org", role.id)


def test_default_roles_have_at_most_an_owners_scopes() -> None:
    assert ORGANIZATION_ROLES["reader"] < ORGANIZATION_ROLES["owner"]


def test_the_number_of_roles_is_bounded(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmariner.tenancy.roles.custom_roles._MAX_ROLES", 2)
    first = team.roles.create(team.admin, "first", ["api.files.read"])
    team.roles.create(team.admin, "second", ["api.files.read"])
    with pytest.raises(InvalidRequest) as full:
        team.roles.create(team.admin, "third", ["api.files.read"])
    assert full.value.code == "too_many_roles"
    team.roles.create(team.admin, "third", ["api.files.read"], project_id=team.owner.project_id)
    team.roles.update(team.admin, first.id, name="renamed")
    team.roles.delete(team.admin, first.id)
    team.roles.create(team.admin, "third", ["api.files.read"])


@pytest.mark.parametrize("scope", sorted(ALL_SCOPES - OWNER_SCOPES))
def test_no_organization_role_grants_what_owners_lack(scope: str, team: Team) -> None:
    """Members of the default organization, the operators, can't delegate its scopes, either."""
    acme = team.organizations.create(team.admin, "Acme")
    for owner in (team.admin, team.caller(team.admin.user_id, acme.id)):
        mine = team.roles.create(owner, "mine", ["api.files.read"])
        for project_id in (None, team.owner.project_id if owner is team.admin else None):
            with pytest.raises(InvalidRequest, match=scope):
                team.roles.create(owner, "more", [scope], project_id=project_id)
        with pytest.raises(InvalidRequest, match=scope):
            team.roles.update(owner, mine.id, scopes=[scope])
