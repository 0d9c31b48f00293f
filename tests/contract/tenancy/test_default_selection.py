"""The default organization and project of a user: later changes by others do not alter them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from llmariner.errors import AuthenticationFailed, PermissionDenied
from llmariner.tenancy.groups.group_roles import GroupRoles
from llmariner.tenancy.sign_in.token_sign_in import TokenSignIn
from llmariner.tenancy.tables import organization_users, organizations, project_users, projects

from ..team import Team
from .sign_in_fixtures import ISSUER, Tokens, assert_no_membership

pytestmark = pytest.mark.usefixtures("uncached_sign_ins")


def made_at(team: Team, table: Any, id_: str, at: int) -> None:
    with team.database.write() as session:
        session.run(update(table).where(table.c.id == id_).values(created_at=at))


def joined_at(team: Team, user_id: str, at: int, **place: str) -> None:
    table = project_users if "project_id" in place else organization_users
    [(column, id_)] = place.items()
    with team.database.write() as session:
        there = (table.c.user_id == user_id) & (table.c[column] == id_)
        session.run(update(table).where(there).values(created_at=at))


def test_a_user_added_to_an_older_organization_keeps_their_default(team: Team) -> None:
    hostile, own = (team.organizations.create(team.admin, title) for title in ("Hostile", "Own"))
    made_at(team, organizations, hostile.id, 5)
    ann = team.members.add(team.caller(team.owner.user_id, own.id), "ann@example.org", "reader")
    joined_at(team, ann.user_id, 10, organization_id=own.id)
    team.members.add(team.caller(team.owner.user_id, hostile.id), "ann@example.org", "reader")
    assert team.caller(ann.user_id).organization_id == own.id
    assert team.caller(ann.user_id, hostile.id).organization_id == hostile.id


def test_a_user_added_to_an_older_project_keeps_their_default(team: Team) -> None:
    older, own = team.project("Older"), team.project("Own")
    made_at(team, projects, older, 5)
    ann = team.person("ann@example.org", **{own: "member"})
    joined_at(team, ann.user_id, 10, project_id=own)
    team.members.add_to_project(team.admin, older, ann.user_id, "member")
    assert team.caller(ann.user_id).project_id == own
    team.members.add_to_project(team.admin, team.owner.project_id, ann.user_id, "member")
    assert team.caller(ann.user_id).project_id == team.owner.project_id


def test_adding_and_removing_a_user_does_not_affect_their_groups_elsewhere(team: Team) -> None:
    tokens = Tokens()
    people = TokenSignIn(team.database, tokens, team.authenticator)
    assert_no_membership(people, tokens.issue())
    acme = team.organizations.create(team.admin, "Acme")
    GroupRoles(team.database).create(team.admin, issuer=ISSUER, group="staff", role="reader", project_id=None)
    there = team.caller(team.owner.user_id, acme.id)
    token = tokens.issue(groups=frozenset({"staff"}), issued_at=2000)
    team.members.remove(there, team.members.add(there, "alice@example.org", "reader").user_id)
    assert people.authenticate(token).organization_id == team.owner.organization_id


def test_a_title_that_looks_like_another_id_selects_nothing(team: Team) -> None:
    """Such titles can't be created any more; an older database may contain one."""
    own, other = team.project("Own"), team.project("Other")
    ann = team.person("ann@example.org", **{own: "member"})
    _, secret = team.key(ann, project_id=own)
    with team.database.write() as session:
        session.run(update(projects).where(projects.c.id == own).values(title=other))
    with pytest.raises(AuthenticationFailed):
        team.authenticator.authenticate(secret, project=other)
    with pytest.raises(PermissionDenied):
        team.caller(ann.user_id, project=other)
    assert team.authenticator.authenticate(secret, project=own) is not None
