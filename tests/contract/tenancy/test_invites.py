"""Invitations: the token admits one person, with the granted roles, until it expires."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from sqlalchemy import select, update

from llmariner.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from llmariner.platform.database import metadata
from llmariner.tenancy.invitations.store import MAX_LIFETIME_SECONDS, ProjectGrant
from llmariner.tenancy.tables import invites, users

from ..team import Team

AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]


def test_a_valid_token_grants_the_invited_roles(team: Team) -> None:
    project_id = team.project()
    promised = [ProjectGrant(project_id, "viewer"), ProjectGrant(team.owner.project_id)]
    invite, token = team.invites.create(team.admin, "Ann@Example.org", "reader", promised, expires_in=60)
    assert token.startswith("inv-")
    assert (invite.email, invite.role, invite.projects) == ("ann@example.org", "reader", tuple(promised))
    assert invite.expires_at == invite.created_at + 60
    assert invite.invited_by == team.admin.user_id
    accepted = team.invites.accept(token)
    user_id = accepted.user_id
    assert accepted.invite.accepted_at is not None
    caller = team.caller(user_id, None, project_id)
    assert (caller.email, caller.organization_role, caller.project_role) == ("ann@example.org", "reader", "viewer")
    assert team.caller(user_id, None, team.owner.project_id).project_role == "member"
    with pytest.raises(NotFound):
        team.invites.accept(token)
    with pytest.raises(Conflict):
        team.invites.revoke(team.admin, invite.id)


def test_the_token_is_not_stored(team: Team) -> None:
    _, token = team.invites.create(team.admin, "ann@example.org")
    with team.database.read() as session:
        held = repr([list(session.rows(table.select())) for table in metadata.sorted_tables])
    assert token not in held
    assert token[4:] not in held


def test_one_of_concurrent_acceptances_succeeds(team: Team, run_concurrently: AtOnce) -> None:
    _, token = team.invites.create(team.admin, "ann@example.org")
    found = run_concurrently([lambda: team.invites.accept(token)] * 4)
    assert [type(each) for each in found].count(NotFound) == 3, found
    with team.database.read() as session:
        assert len(session.rows(select(users.c.id).where(users.c.email == "ann@example.org"))) == 1


def test_a_token_ends_with_its_expiry_or_revocation(team: Team) -> None:
    first, expired = team.invites.create(team.admin, "ann@example.org")
    with team.database.write() as session:
        session.run(update(invites).where(invites.c.id == first.id).values(expires_at=int(time.time())))
    second, revoked = team.invites.create(team.admin, "ann@example.org")
    team.invites.revoke(team.admin, second.id)
    for token in (expired, revoked, "inv-unknown", ""):
        with pytest.raises(NotFound):
            team.invites.accept(token)
    for attempt in (
        lambda: team.invites.get(team.admin.organization_id, second.id),
        lambda: team.invites.revoke(team.admin, second.id),
    ):
        with pytest.raises(NotFound):
            attempt()
    assert [each.id for each in team.invites.all(team.admin.organization_id)] == [first.id]


def test_nobody_is_invited_twice_or_as_an_existing_member(team: Team, run_concurrently: AtOnce) -> None:
    team.person("bob@example.org")
    with pytest.raises(Conflict, match="member"):
        team.invites.create(team.admin, "BOB@example.org")
    found = run_concurrently([lambda: team.invites.create(team.admin, "ann@example.org")] * 4)
    assert [type(each) for each in found].count(Conflict) == 3, found


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"email": "ann"}, "email"),
        ({"role": "boss"}, "role"),
        ({"expires_in": 0}, "expires_in_seconds"),
        ({"expires_in": MAX_LIFETIME_SECONDS + 1}, "expires_in_seconds"),
        ({"projects": [ProjectGrant("proj_nobody")]}, "projects[0].id"),
        ({"projects": [ProjectGrant("proj_1")] * 2}, "projects"),
    ],
)
def test_invalid_invitations_are_reported_by_field(team: Team, values: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        team.invites.create(team.admin, **{"email": "ann@example.org", **values})
    assert refused.value.param == param


def test_nobody_invites_with_more_than_they_hold(team: Team) -> None:
    people = frozenset({"api.organizations.users.read", "api.organizations.users.write"})
    deputy = team.person("dee@example.org", team.roles.create(team.admin, "deputy", people).id)
    with pytest.raises(PermissionDenied):
        team.invites.create(deputy, "ann@example.org", "owner")


def test_a_project_deleted_in_the_meantime_is_skipped(team: Team) -> None:
    project_id = team.project()
    _, token = team.invites.create(team.admin, "ann@example.org", "reader", [ProjectGrant(project_id)])
    team.projects.archive(team.admin, project_id)
    assert team.caller(team.invites.accept(token).user_id).project_id is None


def test_another_organizations_invitation_is_not_found(team: Team) -> None:
    elsewhere = team.caller(team.admin.user_id, team.organizations.create(team.admin, "Acme").id)
    invite, _ = team.invites.create(team.admin, "ann@example.org")
    with pytest.raises(NotFound):
        team.invites.revoke(elsewhere, invite.id)
    assert team.invites.all(elsewhere.organization_id) == []
