"""Access to organizations and projects: people by membership, keys by their project, and NotFound for everything else."""

from __future__ import annotations

import pytest

from llmariner.errors import NotFound, PermissionDenied
from llmariner.tenancy.keys.store import KeyOwner, NewKey
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.access_scope import caller_in_organization, caller_in_project, can_view_all_projects
from llmariner.tenancy.roles.scopes import ORGANIZATION_ROLES, OWNER_SCOPES, PROJECT_ROLES

from ..team import Team

READ = "api.organizations.projects.read"


def key_of(team: Team, user_id: str, project_id: str, organization_id: str, scopes: frozenset[str]) -> Caller:
    _, secret = team.keys.create(KeyOwner(user_id, project_id, organization_id), NewKey("k", scopes))
    caller = team.authenticator.authenticate(secret)
    assert caller is not None
    return caller


def test_a_person_has_separate_permissions_in_each_project(team: Team) -> None:
    project_id = team.project()
    ann = team.person("ann@example.org", **{team.owner.project_id: "viewer"})
    acme = team.organizations.create(team.admin, "Acme")
    team.members.add(team.caller(team.admin.user_id, acme.id), "ann@example.org", "owner")
    there = caller_in_organization(team.database, ann, acme.id, "api.organizations.write")
    assert (there.is_owner, there.project_id, there.scopes) == (True, None, OWNER_SCOPES)
    here = caller_in_organization(team.database, ann, ann.organization_id, "api.organizations.read")
    assert (here.organization_role, here.project_id) == ("reader", team.owner.project_id)
    viewer = caller_in_project(team.database, ann, ann.organization_id, team.owner.project_id, READ)
    assert (viewer.project_role, viewer.project_id) == ("viewer", team.owner.project_id)
    with pytest.raises(PermissionDenied):
        caller_in_organization(team.database, ann, ann.organization_id, "api.organizations.write")
    with pytest.raises(PermissionDenied):
        caller_in_project(team.database, ann, ann.organization_id, team.owner.project_id, "api.limits.write")
    for organization_id, hidden in (
        (ann.organization_id, project_id),
        (ann.organization_id, "proj_nobody"),
        (acme.id, project_id),
        ("org_nobody", project_id),
    ):
        with pytest.raises(NotFound):
            caller_in_project(team.database, ann, organization_id, hidden, READ)


def test_an_owner_sees_every_project_of_the_organization(team: Team) -> None:
    project_id = team.project()
    ann = team.person("ann@example.org", "owner")
    there = caller_in_project(team.database, ann, ann.organization_id, project_id, "api.limits.write")
    assert there.project_role == "owner"
    assert can_view_all_projects(there)
    team.projects.archive(team.admin, project_id)
    with pytest.raises(NotFound):
        caller_in_project(team.database, ann, ann.organization_id, project_id, READ)
    assert caller_in_project(team.database, ann, ann.organization_id, project_id, READ, include_archived=True)


def test_a_custom_role_with_the_scope_sees_every_project(team: Team) -> None:
    project_id = team.project()
    seeing = team.person("see@example.org", team.roles.create(team.admin, "seeing", [READ]).id)
    blind = team.person("dim@example.org", team.roles.create(team.admin, "blind", ["api.audit.read"]).id)
    assert caller_in_project(team.database, seeing, seeing.organization_id, project_id, READ).project_role is None
    with pytest.raises(NotFound):
        caller_in_project(team.database, blind, blind.organization_id, project_id, READ)


def test_a_key_sees_every_project_only_with_the_scope_of_its_own(team: Team) -> None:
    project_id = team.project()
    role = team.roles.create(team.admin, "steward", [READ, "api.limits.write"])
    ann = team.person("ann@example.org", role.id, **{team.owner.project_id: "member"})
    place = team.owner.project_id, ann.organization_id
    blind = key_of(team, ann.user_id, *place, frozenset({"api.limits.write"}))
    with pytest.raises(NotFound):
        caller_in_project(team.database, blind, ann.organization_id, project_id, "api.limits.write")
    assert not can_view_all_projects(blind)
    person = caller_in_project(team.database, ann, ann.organization_id, project_id, "api.limits.write")
    assert can_view_all_projects(person)


def test_a_members_key_reaches_only_its_project(team: Team) -> None:
    project_id = team.project()
    ann = team.person("ann@example.org", **{project_id: "member", team.owner.project_id: "member"})
    scopes = PROJECT_ROLES["member"] | ORGANIZATION_ROLES["reader"]
    key = key_of(team, ann.user_id, project_id, ann.organization_id, scopes)
    assert caller_in_project(team.database, key, ann.organization_id, project_id, READ).project_role == "member"
    with pytest.raises(NotFound):
        caller_in_project(team.database, key, ann.organization_id, team.owner.project_id, READ)
    acme = team.organizations.create(team.admin, "Acme")
    team.members.add(team.caller(team.admin.user_id, acme.id), "ann@example.org", "owner")
    with pytest.raises(NotFound):
        caller_in_organization(team.database, key, acme.id, "api.organizations.read")


def test_a_key_has_only_its_scopes_in_other_projects(team: Team) -> None:
    project_id = team.project()
    key = key_of(team, team.admin.user_id, team.owner.project_id, team.owner.organization_id, frozenset({READ}))
    assert caller_in_project(team.database, key, key.organization_id, project_id, READ).scopes == {READ}
    with pytest.raises(PermissionDenied):
        caller_in_project(team.database, key, key.organization_id, project_id, "api.organizations.projects.write")


def test_an_operators_key_reaches_the_organizations_that_they_created(team: Team) -> None:
    key = key_of(team, team.admin.user_id, team.owner.project_id, team.owner.organization_id, OWNER_SCOPES)
    acme = team.organizations.create(key, "Acme")
    there = caller_in_organization(team.database, key, acme.id, "api.organizations.write")
    assert (there.organization_id, there.is_owner, there.key_id) == (acme.id, True, key.key_id)
    assert [each.title for each in team.organizations.accessible_to(key)] == ["Default Organization", "Acme"]
    # A key of another organization's owner may not.
    admin_there = team.caller(team.admin.user_id, acme.id)
    _, secret = team.keys.create_admin(admin_there, NewKey("ops", OWNER_SCOPES))
    theirs = team.authenticator.authenticate(secret)
    assert theirs is not None
    assert [each.title for each in team.organizations.accessible_to(theirs)] == ["Acme"]
    with pytest.raises(NotFound):
        caller_in_organization(team.database, theirs, team.owner.organization_id, "api.organizations.read")
