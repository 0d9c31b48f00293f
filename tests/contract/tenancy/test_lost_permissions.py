"""A request that waits for another mutation is refused if its caller lost permissions in the meantime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmariner.errors import Conflict
from llmariner.tenancy.groups.group_roles import GroupRoles
from llmariner.tenancy.groups.store import Groups
from llmariner.tenancy.keys.store import KeyOwner, KeySelector, NewKey
from llmariner.tenancy.organizations.projects import NewProject
from llmariner.tenancy.principal import Caller

from ..team import Team

ISSUER = "https://issuer.example"


def acts(team: Team, by: Caller) -> dict[str, Callable[[], Any]]:
    """One mutation of each kind."""
    project_id, groups = team.owner.project_id, Groups(team.database)
    place = KeyOwner(by.user_id, project_id, by.organization_id)
    theirs, _ = team.key(team.admin, f"theirs {by.user_id} {by.key_id}", project_id)
    return {
        "a member": lambda: team.members.add(by, "eve@example.org", "owner"),
        "an invitation": lambda: team.invites.create(by, "eve@example.org", "owner"),
        "a role": lambda: team.roles.create(by, "backdoor", ["api.audit.read"]),
        "a service account": lambda: team.accounts.create(by, project_id, "backdoor", organization_role="owner"),
        "a key": lambda: team.keys.create(place, NewKey("late", by.scopes), actor=by),
        "an admin key": lambda: team.keys.create_admin(by, NewKey("late admin", by.scopes)),
        "a key's secret": lambda: team.keys.rotate(KeySelector(by.organization_id), theirs, overlap=0, actor=by),
        "a key's scopes": lambda: team.keys.update(KeySelector(by.organization_id), theirs, name="mine", actor=by),
        "a key's end": lambda: team.keys.revoke(KeySelector(by.organization_id), theirs, actor=by),
        "a group": lambda: groups.create(by, ISSUER, "everybody"),
        "a group's role": lambda: GroupRoles(team.database).create(
            by, issuer=ISSUER, group="everybody", role="owner", project_id=None
        ),
        "a project": lambda: team.projects.create(by, NewProject("late")),
        "a title": lambda: team.organizations.rename(by, "Ours"),
    }


def nothing_is_done(team: Team, by: Caller) -> None:
    for what, act in acts(team, by).items():
        with pytest.raises(Conflict) as refused:
            act()
        assert refused.value.code == "rights_changed", what


def test_a_removed_members_pending_mutation_changes_nothing(team: Team) -> None:
    boss = team.person("boss@example.org", "owner")
    team.members.remove(team.admin, boss.user_id)
    nothing_is_done(team, boss)


def test_a_demoted_owners_pending_mutation_is_rejected(team: Team) -> None:
    boss = team.person("boss@example.org", "owner")
    team.members.set_role(team.admin, boss.user_id, "reader")
    nothing_is_done(team, boss)


def test_a_revoked_or_restricted_key_creates_no_other(team: Team) -> None:
    view = KeySelector(team.owner.organization_id)
    revoked, secret = team.key(team.admin, "revoked")
    narrowed, other = team.key(team.admin, "narrowed")
    by_revoked, by_narrowed = team.authenticator.authenticate(secret), team.authenticator.authenticate(other)
    assert by_revoked is not None
    assert by_narrowed is not None
    team.keys.revoke(view, revoked)
    team.keys.update(view, narrowed, scopes=frozenset({"api.files.read"}))
    nothing_is_done(team, by_revoked)
    nothing_is_done(team, by_narrowed)


def test_a_key_created_late_is_invalid_when_its_user_returns(team: Team) -> None:
    project_id = team.owner.project_id
    bob = team.person("bob@example.org", **{project_id: "member"})
    team.members.remove(team.admin, bob.user_id)
    with pytest.raises(Conflict):
        team.keys.create(KeyOwner(bob.user_id, project_id, bob.organization_id), NewKey("late", bob.scopes), actor=bob)
    team.members.add(team.admin, "bob@example.org", "reader")
    team.members.add_to_project(team.admin, project_id, bob.user_id, "member")
    assert [each.name for each in team.keys.matching(KeySelector(bob.organization_id, project_id, bob.user_id))] == []


def test_a_caller_with_extended_permissions_continues(team: Team) -> None:
    boss = team.person("boss@example.org", team.roles.create(team.admin, "lead", ["api.organizations.users.write"]).id)
    team.members.set_role(team.admin, boss.user_id, "owner")
    assert team.members.add(boss, "bob@example.org", "reader").role == "reader"
