"""Registered groups: one role per organization and project, granted only by callers that hold its scopes."""

from __future__ import annotations

import pytest

from llmariner.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from llmariner.tenancy.groups.group_roles import GroupRoles
from llmariner.tenancy.groups.store import Groups
from llmariner.tenancy.organizations.projects import NewProject

from ..team import Team

ISSUER = "https://issuer.example"


@pytest.fixture
def groups(team: Team) -> Groups:
    return Groups(team.database)


def test_a_group_with_a_role_is_registered(team: Team, groups: Groups) -> None:
    mappings = GroupRoles(team.database)
    for project_id, role in ((None, "reader"), (team.owner.project_id, "member")):
        mappings.create(team.admin, issuer=ISSUER, group="staff", role=role, project_id=project_id)
    [group] = groups.of_organization(team.owner.organization_id)
    assert (group.name, group.issuer) == ("staff", ISSUER)
    held = groups.role(group, None)
    assert held is not None
    assert held.role == "reader"
    assert [row.role for row in groups.in_project(team.owner.organization_id, team.owner.project_id)] == ["member"]


def test_a_new_role_replaces_the_previous_one(team: Team, groups: Groups) -> None:
    group = groups.create(team.admin, ISSUER, "staff")
    for role in ("owner", "reader"):
        groups.grant_role(team.admin, group.id, role, None)
    assert [row.role for row in GroupRoles(team.database).of_organization(team.owner.organization_id)] == ["reader"]
    groups.revoke_role(team.admin, group.id, None)
    assert groups.role(group, None) is None
    with pytest.raises(NotFound):
        groups.revoke_role(team.admin, group.id, None)


def test_a_renamed_group_keeps_its_roles_and_a_deleted_one_loses_them(team: Team, groups: Groups) -> None:
    group = groups.create(team.admin, ISSUER, "staff")
    groups.grant_role(team.admin, group.id, "reader", None)
    groups.grant_role(team.admin, group.id, "viewer", team.owner.project_id)
    groups.create(team.admin, ISSUER, "taken")
    with pytest.raises(Conflict):
        groups.rename(team.admin, group.id, "taken")
    renamed = groups.rename(team.admin, group.id, "people")
    mappings = GroupRoles(team.database)
    assert {row.group_name for row in mappings.of_organization(team.owner.organization_id)} == {"people"}
    assert groups.role(renamed, team.owner.project_id) is not None
    assert len(groups.delete(team.admin, group.id)) == 2
    assert mappings.of_organization(team.owner.organization_id) == []


def test_an_invalid_name_or_role_is_rejected(team: Team, groups: Groups) -> None:
    for name in ("", "x" * 257, "a\nb"):
        with pytest.raises(InvalidRequest):
            groups.create(team.admin, ISSUER, name)
    group = groups.create(team.admin, ISSUER, "staff")
    with pytest.raises(InvalidRequest):
        groups.grant_role(team.admin, group.id, "emperor", None)
    with pytest.raises(NotFound):
        groups.grant_role(team.admin, group.id, "viewer", "proj_nobody")
    with pytest.raises(NotFound):
        groups.get("org_other", group.id)


def test_nobody_grants_a_group_more_than_they_hold(team: Team, groups: Groups) -> None:
    people = ["api.organizations.users.read", "api.organizations.users.write"]
    deputy = team.person("dee@example.org", team.roles.create(team.admin, "deputy", people).id)
    group = groups.create(team.admin, ISSUER, "staff")
    for role in ("owner", "reader"):
        with pytest.raises(PermissionDenied):
            groups.grant_role(deputy, group.id, role, None)
    with pytest.raises(PermissionDenied):
        groups.grant_role(deputy, group.id, "owner", team.owner.project_id)
    assert groups.role(group, None) is None


def test_groups_are_deleted_with_their_organization_and_roles_with_their_project(team: Team, groups: Groups) -> None:
    project = team.projects.create(team.admin, NewProject("Theirs"))
    group = groups.create(team.admin, ISSUER, "staff")
    given = groups.grant_role(team.admin, group.id, "viewer", project.id)
    assert team.projects.delete(team.admin, project.id)["group_roles"] == [given.id]
    assert groups.role(group, project.id) is None
    made = team.organizations.create(team.admin, "Another")
    there = team.caller(team.admin.user_id, made.id, None)
    theirs = groups.create(there, ISSUER, "staff")
    assert team.organizations.delete(there)["groups"] == [theirs.id]
    assert list(groups.of_organization(made.id)) == []
