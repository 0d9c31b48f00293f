"""Memberships: adding, removing, what is removed with them, and that nobody grants more than they hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.audit.tables import audit_log
from llmariner.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from llmariner.tenancy.keys.store import NewKey
from llmariner.tenancy.members.memberships import Member
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.scopes import ORGANIZATION_ROLES, OWNER_SCOPES
from llmariner.tenancy.tables import users

from ..team import Team

AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]


def test_a_person_is_identified_by_email_case_insensitively(team: Team) -> None:
    made = team.members.add(team.admin, " Ann@Example.ORG ", "reader")
    assert (made.email, made.role, made.project_id) == ("ann@example.org", "reader", None)
    with pytest.raises(Conflict):
        team.members.add(team.admin, "ANN@example.org", "owner")
    elsewhere = team.caller(team.admin.user_id, team.organizations.create(team.admin, "Acme").id)
    assert team.members.add(elsewhere, "ANN@EXAMPLE.org", "reader").user_id == made.user_id
    emails = [each.email for each in team.members.all(team.admin.organization_id)]
    assert emails == ["admin@localhost", "ann@example.org"]


@pytest.mark.parametrize("email", ["", "ann", "@", "a@", "@b", "a b@c", "a@b@c", "x" * 250 + "@example.org", "a\0@b"])
def test_an_invalid_email_is_rejected(team: Team, email: str) -> None:
    with pytest.raises(InvalidRequest, match="e-mail"):
        team.members.add(team.admin, email, "reader")


def test_a_role_must_exist(team: Team) -> None:
    for role in ("", "member", "viewer", "OWNER", "role_1"):
        with pytest.raises(InvalidRequest, match="Unknown role"):
            team.members.add(team.admin, "ann@example.org", role)
    ann = team.person("ann@example.org")
    with pytest.raises(InvalidRequest, match="Unknown role"):
        team.members.add_to_project(team.admin, team.owner.project_id, ann.user_id, "reader")
    project_id = team.project()
    there = team.roles.create(team.admin, "there", ["api.model.read"], project_id=project_id)
    with pytest.raises(InvalidRequest, match="Unknown role"):
        team.members.add_to_project(team.admin, team.owner.project_id, ann.user_id, there.id)
    assert team.members.add_to_project(team.admin, project_id, ann.user_id, there.id).role == there.id


def test_one_of_concurrent_additions_of_a_person_succeeds(team: Team, run_concurrently: AtOnce) -> None:
    found = run_concurrently([lambda: team.members.add(team.admin, "ann@example.org", "reader")] * 4)
    assert sorted(type(each).__name__ for each in found) == ["Conflict"] * 3 + ["Member"], found


def test_a_removed_members_keys_are_revoked(team: Team) -> None:
    project_id = team.project()
    ann = team.person("ann@example.org", **{project_id: "member", team.owner.project_id: "viewer"})
    key_id, secret = team.key(ann, project_id=project_id)
    assert team.authenticates(secret)
    before, _ = team.keys.changed_since(0)
    gone = team.members.remove(team.admin, ann.user_id)
    assert gone["api_keys"] == [key_id]
    assert set(gone["projects"]) == {project_id, team.owner.project_id}
    assert not team.authenticates(secret)
    assert {key_id, ann.user_id} <= set(team.keys.changed_since(before)[1])
    with pytest.raises(NotFound):
        team.members.remove(team.admin, ann.user_id)
    # A returning member's old keys stay revoked.
    team.members.add(team.admin, "ann@example.org", "reader")
    team.members.add_to_project(team.admin, project_id, ann.user_id, "member")
    assert not team.authenticates(secret)


def test_leaving_one_organization_keeps_other_memberships(team: Team) -> None:
    elsewhere = team.caller(team.admin.user_id, team.organizations.create(team.admin, "Acme").id)
    ann = team.person("ann@example.org")
    team.members.add(elsewhere, "ann@example.org", "owner")
    theirs = team.caller(ann.user_id, elsewhere.organization_id)
    key, secret = team.keys.create_admin(theirs, NewKey("ops", OWNER_SCOPES))
    team.members.remove(team.admin, ann.user_id)
    assert team.authenticates(secret)
    assert team.members.remove(elsewhere, ann.user_id) == {
        "projects": [],
        "api_keys": [key.id],
        "limits": [],
        "budgets": [],
    }


def test_leaving_a_project_revokes_its_keys(team: Team) -> None:
    project_id = team.project()
    ann = team.person("ann@example.org", **{project_id: "member", team.owner.project_id: "member"})
    _, there = team.key(ann, "there", project_id)
    _, here = team.key(ann, "here", team.owner.project_id)
    team.members.remove_from_project(team.admin, project_id, ann.user_id)
    assert (team.authenticates(there), team.authenticates(here)) == (False, True)
    with pytest.raises(NotFound):
        team.members.remove_from_project(team.admin, project_id, ann.user_id)


def test_an_organization_owner_needs_no_project_membership(team: Team) -> None:
    project_id = team.project()
    _, secret = team.key(team.admin, project_id=project_id)
    assert team.members.remove_from_project(team.admin, project_id, team.admin.user_id) == {"api_keys": []}
    assert team.authenticates(secret)


def test_the_last_owner_cannot_be_removed(team: Team) -> None:
    for attempt in (
        lambda: team.members.remove(team.admin, team.admin.user_id),
        lambda: team.members.set_role(team.admin, team.admin.user_id, "reader"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            attempt()
        assert refused.value.code == "last_owner"
    # A service account cannot admit people.
    team.accounts.create(team.admin, team.owner.project_id, "ci", organization_role="owner")
    with pytest.raises(InvalidRequest):
        team.members.remove(team.admin, team.admin.user_id)
    team.person("ann@example.org", "owner")
    team.members.remove(team.admin, team.admin.user_id)


def test_two_last_owners_cannot_remove_one_another(team: Team, run_concurrently: AtOnce) -> None:
    ann = team.person("ann@example.org", "owner")
    found = run_concurrently(
        [
            lambda: team.members.remove(team.admin, ann.user_id),
            lambda: team.members.remove(ann, team.admin.user_id),
            lambda: team.members.set_role(team.admin, ann.user_id, "reader"),
            lambda: team.members.set_role(ann, team.admin.user_id, "reader"),
        ]
    )
    owners = [each for each in team.members.all(team.admin.organization_id) if each.role == "owner"]
    assert len(owners) == 1, found
    assert any(isinstance(each, InvalidRequest | Conflict) for each in found), found


def test_a_changed_role_is_emitted_as_one_removal_and_one_addition(team: Team) -> None:
    project_id = team.owner.project_id
    ann = team.person("ann@example.org", **{project_id: "member"})
    assert team.members.set_role_in_project(team.admin, project_id, ann.user_id, "viewer").role == "viewer"
    assert team.members.set_role_in_project(team.admin, project_id, ann.user_id, "viewer").role == "viewer"
    with team.database.read() as session:
        query = select(audit_log.c.type, audit_log.c.payload).where(audit_log.c.type.like("role.assignment.%"))
        rows = session.rows(query.order_by(audit_log.c.sequence))
    assert [(row.type.rpartition(".")[2], json.loads(row.payload)["id"]) for row in rows] == [
        ("created", "member"),
        ("deleted", "member"),
        ("created", "viewer"),
    ]
    assert json.loads(rows[0].payload)["principal_id"] == ann.user_id


def test_only_organization_members_can_join_its_projects(team: Team) -> None:
    with pytest.raises(InvalidRequest, match="member of the organization"):
        team.members.add_to_project(team.admin, team.owner.project_id, "user_nobody", "member")
    ann = team.person("ann@example.org", **{team.owner.project_id: "member"})
    with pytest.raises(Conflict):
        team.members.add_to_project(team.admin, team.owner.project_id, ann.user_id, "viewer")


@pytest.fixture
def deputy(team: Team) -> Caller:
    """A user whose custom role permits managing people, and who owns nothing."""
    people = {f"api.organizations.users.{capability}" for capability in ("read", "write")}
    role = team.roles.create(team.admin, "deputy", people | ORGANIZATION_ROLES["reader"])
    return team.person("dee@example.org", role.id)


def test_nobody_grants_more_than_they_hold(team: Team, deputy: Caller) -> None:
    assert team.members.add(deputy, "ann@example.org", "reader").role == "reader"
    for role in ("owner", "tenant_system"):
        with pytest.raises(PermissionDenied):
            team.members.add(deputy, "bob@example.org", role)
    with pytest.raises(PermissionDenied):
        team.members.set_role(deputy, deputy.user_id, "owner")
    with pytest.raises(PermissionDenied, match=r"api\.files\.write"):
        team.members.add_to_project(deputy, team.owner.project_id, deputy.user_id, "member")
    strong = team.roles.create(team.admin, "strong", ["api.audit.read"])
    with pytest.raises(PermissionDenied, match=r"api\.audit\.read"):
        team.members.set_role(deputy, deputy.user_id, strong.id)


def test_only_owners_demote_owners(team: Team, deputy: Caller) -> None:
    ann = team.person("ann@example.org", "owner")
    with pytest.raises(PermissionDenied):
        team.members.remove(deputy, ann.user_id)
    with pytest.raises(PermissionDenied):
        team.members.set_role(deputy, ann.user_id, "reader")
    team.members.remove(team.admin, ann.user_id)


def test_a_restricted_key_of_an_owner_creates_no_owners(team: Team) -> None:
    _, secret = team.keys.create(team.owner, NewKey("narrow", frozenset({"api.organizations.users.write"})))
    key = team.authenticator.authenticate(secret)
    assert key is not None
    with pytest.raises(PermissionDenied):
        team.members.add(key, "ann@example.org", "owner")


def test_a_project_owner_grants_project_roles(team: Team) -> None:
    project_id = team.project()
    lead = team.caller(team.person("ann@example.org", **{project_id: "owner"}).user_id, None, project_id)
    bob = team.person("bob@example.org")
    assert team.members.add_to_project(lead, project_id, bob.user_id, "owner").role == "owner"
    wide = team.roles.create(team.admin, "wide", ["api.audit.read"])
    with pytest.raises(PermissionDenied):
        team.members.set_role_in_project(lead, project_id, bob.user_id, wide.id)


def test_hidden_users_are_excluded(team: Team) -> None:
    ann = team.person("ann@example.org", **{team.owner.project_id: "member"})
    with team.database.write() as session:
        session.run(users.update().where(users.c.id == ann.user_id).values(hidden=True))
    emails = [each.email for each in team.members.all(team.admin.organization_id)]
    assert emails == ["admin@localhost"]
    assert [each.email for each in team.members.of_project(team.admin.organization_id, team.owner.project_id)] == emails


def test_a_member_is_found_by_id_only_in_their_organizations(team: Team) -> None:
    elsewhere = team.organizations.create(team.admin, "Acme").id
    ann = team.person("ann@example.org")
    assert isinstance(team.members.get(team.admin.organization_id, ann.user_id), Member)
    with pytest.raises(NotFound):
        team.members.get(elsewhere, ann.user_id)
