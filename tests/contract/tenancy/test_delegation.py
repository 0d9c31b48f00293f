"""Callers cannot change memberships, group roles, service accounts, keys and invitations with permissions they lack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from llmariner.errors import Conflict, PermissionDenied
from llmariner.tenancy.groups.group_roles import GroupRoles
from llmariner.tenancy.groups.store import Groups
from llmariner.tenancy.invitations.store import ProjectGrant
from llmariner.tenancy.keys.store import KeyOwner, KeySelector, NewKey
from llmariner.tenancy.organizations.projects import NewProject
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.delegation import held_scopes
from llmariner.tenancy.roles.scopes import ORGANIZATION_ROLES, PROJECT_ROLES
from llmariner.tenancy.sign_in.token_sign_in import TokenSignIn

from ..team import Team
from .sign_in_fixtures import Tokens

ISSUER = "https://issuer.example"
PEOPLE = frozenset({"api.organizations.users.read", "api.organizations.users.write"})
MEMBERS = frozenset({"api.organizations.projects.users.read", "api.organizations.projects.users.write"})


@pytest.fixture
def deputy(team: Team) -> Caller:
    """A member who manages the organization's people, and otherwise has a reader's permissions."""
    role = team.roles.create(team.admin, "deputy", PEOPLE | MEMBERS | ORGANIZATION_ROLES["reader"])
    return team.person("dee@example.org", role.id)


@pytest.fixture
def auditor(team: Team) -> Caller:
    """A member with permissions that the deputy lacks."""
    return team.person("ann@example.org", team.roles.create(team.admin, "auditor", ["api.audit.read"]).id)


def refused(*attempts: Callable[[], Any]) -> None:
    for attempt in attempts:
        with pytest.raises(PermissionDenied):
            attempt()


def test_a_member_with_more_permissions_is_neither_demoted_nor_removed(
    team: Team, deputy: Caller, auditor: Caller
) -> None:
    refused(
        lambda: team.members.set_role(deputy, auditor.user_id, "reader"),
        lambda: team.members.remove(deputy, auditor.user_id),
    )
    reader = team.person("bob@example.org")
    team.members.remove(deputy, reader.user_id)
    team.members.set_role(team.admin, auditor.user_id, "reader")
    team.members.remove(deputy, auditor.user_id)


def test_a_project_member_with_more_permissions_is_not_changed(team: Team) -> None:
    project_id = team.project()
    steward = team.roles.create(team.admin, "steward", MEMBERS, project_id=project_id)
    usher = team.person("dee@example.org", **{project_id: steward.id})
    usher = team.caller(usher.user_id, None, project_id)
    lead = team.person("lead@example.org", **{project_id: "owner"})
    other = team.person("bob@example.org", **{project_id: steward.id})
    refused(
        lambda: team.members.set_role_in_project(usher, project_id, lead.user_id, steward.id),
        lambda: team.members.remove_from_project(usher, project_id, lead.user_id),
    )
    team.members.remove_from_project(usher, project_id, other.user_id)
    theirs = team.caller(lead.user_id, None, project_id)
    team.members.remove_from_project(theirs, project_id, usher.user_id)


def test_a_project_member_with_more_permissions_is_not_removed_from_the_organization(
    team: Team, deputy: Caller
) -> None:
    project_id = team.project()
    lead = team.person("lead@example.org", **{project_id: "owner"})
    key_id, secret = team.key(team.caller(lead.user_id, None, project_id), "lead's", project_id)
    sent, _ = team.invites.create(team.admin, "next@example.org", "reader", [ProjectGrant(project_id, "owner")])
    refused(
        lambda: team.members.remove(deputy, lead.user_id),
        lambda: team.invites.revoke(deputy, sent.id),
    )
    assert team.authenticates(secret)
    team.projects.archive(team.admin, project_id)
    assert team.members.remove(deputy, lead.user_id)["api_keys"] == [key_id]


def test_a_service_account_with_more_permissions_is_not_deleted(team: Team, deputy: Caller) -> None:
    project_id = team.owner.project_id
    account = team.accounts.create(team.admin, project_id, "ci", role="owner", organization_role="owner")
    usher = replace(deputy, project_id=project_id)
    refused(
        lambda: team.accounts.update(usher, project_id, account.id, name="mine"),
        lambda: team.accounts.update(usher, project_id, account.id, role="viewer"),
        lambda: team.accounts.delete(usher, project_id, account.id),
    )
    team.accounts.delete(team.admin, project_id, account.id)


def test_a_group_role_with_more_permissions_is_neither_deleted_nor_moved(team: Team, deputy: Caller) -> None:
    groups, mappings = Groups(team.database), GroupRoles(team.database)
    group = groups.create(team.admin, ISSUER, "admins")
    given = groups.grant_role(team.admin, group.id, "owner", None)
    groups.grant_role(team.admin, group.id, "member", team.owner.project_id)
    refused(
        lambda: groups.rename(deputy, group.id, "friends of the deputy"),
        lambda: groups.revoke_role(deputy, group.id, None),
        lambda: groups.revoke_role(deputy, group.id, team.owner.project_id),
        lambda: groups.grant_role(deputy, group.id, "reader", None),
        lambda: groups.delete(deputy, group.id),
        lambda: mappings.delete(deputy, given.id),
    )
    readers = groups.create(deputy, ISSUER, "readers")
    groups.grant_role(deputy, readers.id, "reader", None)
    groups.rename(deputy, readers.id, "guests")
    groups.delete(deputy, readers.id)


def test_a_group_role_does_not_replace_a_membership_with_more_permissions(team: Team, deputy: Caller) -> None:
    """People with memberships from groups only leave the organization and its projects with the last of these."""
    groups, mappings, project_id = Groups(team.database), GroupRoles(team.database), team.project()
    given = mappings.create(team.admin, issuer=ISSUER, group="staff", role="reader", project_id=None)
    [group] = groups.of_organization(team.owner.organization_id)
    tokens = Tokens()
    lead = TokenSignIn(team.database, tokens, team.authenticator).authenticate(
        tokens.issue(groups=frozenset({"staff"}))
    )
    team.members.add_to_project(team.admin, project_id, lead.user_id, "owner")
    refused(
        lambda: mappings.delete(deputy, given.id),
        lambda: groups.revoke_role(deputy, group.id, None),
        lambda: groups.rename(deputy, group.id, "nobody"),
        lambda: groups.delete(deputy, group.id),
    )
    team.members.remove_from_project(team.admin, project_id, lead.user_id)
    mappings.delete(deputy, given.id)


def test_a_role_with_more_permissions_is_neither_renamed_nor_deleted(team: Team, deputy: Caller) -> None:
    strong = team.roles.create(team.admin, "strong", ["api.audit.read"])
    project_id = team.project()
    there = team.roles.create(team.admin, "there", ["api.model.write"], project_id=project_id)
    refused(
        lambda: team.roles.update(deputy, strong.id, name="harmless"),
        lambda: team.roles.update(deputy, strong.id, description="Gives nothing."),
        lambda: team.roles.update(deputy, there.id, name="harmless"),
        lambda: team.roles.delete(deputy, strong.id),
        lambda: team.roles.delete(deputy, there.id),
    )
    weak = team.roles.create(deputy, "weak", ["api.organizations.users.read"])
    assert team.roles.update(deputy, weak.id, name="weaker").name == "weaker"
    team.roles.delete(deputy, weak.id)


def test_a_key_with_more_permissions_is_neither_changed_nor_revoked(team: Team) -> None:
    project_id = team.owner.project_id
    usher = team.person("dee@example.org", **{project_id: "owner"})
    usher = team.caller(usher.user_id, None, project_id)
    member = team.person("bob@example.org", **{project_id: "member"})
    above, _ = team.key(team.admin, "above", project_id)
    beside, _ = team.key(team.caller(member.user_id, None, project_id), "beside", project_id)
    view = KeySelector(team.owner.organization_id, project_id)
    refused(
        lambda: team.keys.update(view, above, scopes=frozenset({"api.files.read"}), actor=usher),
        lambda: team.keys.revoke(view, above, actor=usher),
        lambda: team.keys.rotate(view, above, overlap=0, actor=usher),
    )
    team.keys.revoke(view, beside, actor=usher)
    team.keys.revoke(view, above, actor=team.admin)


def test_a_restricted_key_revokes_other_keys_of_its_user(team: Team) -> None:
    wide, _ = team.key(team.admin, "wide")
    place = KeyOwner(team.admin.user_id, team.owner.project_id, team.owner.organization_id)
    narrow, secret = team.keys.create(place, NewKey("narrow", frozenset({"api.organizations.projects.api_keys.write"})))
    caller = team.authenticator.authenticate(secret)
    assert caller is not None
    team.keys.revoke(place, wide, actor=caller)
    assert [each.id for each in team.keys.of_project(place)] == [narrow.id]


def test_a_restricted_key_does_not_extend_other_keys_of_its_user(team: Team) -> None:
    ann = team.person("ann@example.org", **{team.owner.project_id: "owner"})
    place = KeyOwner(ann.user_id, team.owner.project_id, ann.organization_id)
    writes = frozenset({"api.organizations.projects.api_keys.write"})
    bound = NewKey("wide", ann.scopes, expires_in=60, allowed_models=("m",), allowed_sources=("192.0.2.0/24",))
    wide, _ = team.keys.create(place, bound)
    equal, _ = team.keys.create(place, NewKey("equal", writes))
    _, secret = team.keys.create(place, NewKey("narrow", writes))
    narrow = team.authenticator.authenticate(secret)
    view = KeySelector(ann.organization_id, place.project_id, ann.user_id)
    refused(
        lambda: team.keys.update(view, wide.id, expires_at=None, actor=narrow),
        lambda: team.keys.update(view, wide.id, allowed_models=None, actor=narrow),
        lambda: team.keys.update(view, wide.id, allowed_sources=None, actor=narrow),
        lambda: team.keys.update(view, wide.id, name="mine", actor=narrow),
    )
    assert team.keys.update(view, equal.id, name="like it", actor=narrow).name == "like it"
    assert team.keys.update(view, wide.id, allowed_sources=None, actor=ann).allowed_sources is None


def test_a_key_with_a_shared_secret_does_not_gain_permissions_with_its_user(team: Team) -> None:
    project_id = team.owner.project_id
    boss = team.person("boss@example.org", "owner")
    key_id, _ = team.key(boss, "boss's", project_id)
    kept, _ = team.key(boss, "kept", project_id)
    lead = team.person("lead@example.org", **{project_id: "owner"})
    team.members.set_role(team.admin, boss.user_id, "reader")
    team.members.add_to_project(team.admin, project_id, boss.user_id, "member")
    view = KeySelector(boss.organization_id, project_id)
    _, handed_over = team.keys.rotate(view, key_id, overlap=0, actor=lead)
    _, mine = team.keys.rotate(view, kept, overlap=0, actor=team.caller(boss.user_id))
    team.members.set_role(team.admin, boss.user_id, "owner")
    for secret, rises in ((handed_over, False), (mine, True)):
        found = team.authenticator.authenticate(secret)
        assert found is not None
        assert "api.model.write" in found.scopes
        assert ("api.organizations.write" in found.scopes) is rises


def test_key_names_of_one_organization_do_not_affect_another(team: Team) -> None:
    acme = team.organizations.create(team.admin, "Acme")
    theirs = team.caller(team.admin.user_id, acme.id)
    project_id = team.projects.create(theirs, NewProject("Theirs")).id
    ann = team.person("ann@example.org", **{team.owner.project_id: "member"})
    team.members.add(theirs, "ann@example.org", "reader")
    team.members.add_to_project(theirs, project_id, ann.user_id, "member")
    team.key(ann, "payroll")
    there, _ = team.key(team.caller(ann.user_id, acme.id), "key", project_id)
    view = KeySelector(acme.id, project_id)
    assert team.keys.update(view, there, name="payroll", actor=theirs).name == "payroll"
    team.keys.update(view, there, name="ci", actor=theirs)
    team.key(ann, "ci")
    with pytest.raises(Conflict):
        team.key(ann, "payroll")


def test_permissions_in_one_project_grant_nothing_elsewhere(team: Team, deputy: Caller) -> None:
    mine, other = team.project("Mine"), team.project("Other")
    team.members.add_to_project(team.admin, mine, deputy.user_id, "owner")
    lead = team.caller(deputy.user_id, None, mine)
    assert PROJECT_ROLES["owner"] <= lead.scopes
    with team.database.read() as session:
        assert "api.model.write" not in held_scopes(session, lead, lead.organization_id, None)
    refused(
        lambda: team.roles.create(lead, "everywhere", ["api.model.write"]),
        lambda: team.members.add_to_project(lead, other, deputy.user_id, "owner"),
        lambda: Groups(team.database).grant_role(
            lead, Groups(team.database).create(lead, ISSUER, "devs").id, "member", other
        ),
    )
    everywhere = team.roles.create(team.admin, "everywhere", ["api.model.write"])
    refused(
        lambda: team.members.set_role(lead, deputy.user_id, everywhere.id),
        lambda: team.invites.create(lead, "eve@example.org", everywhere.id),
    )
    assert team.roles.create(lead, "here", ["api.model.write"], project_id=mine).project_id == mine
