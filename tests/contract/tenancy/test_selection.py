"""Selection of an organization and project by headers: ids before titles, and no title that looks like an id."""

from __future__ import annotations

import pytest

from llmariner.errors import AuthenticationFailed, Conflict, InvalidRequest, PermissionDenied
from llmariner.tenancy.members.users import Users
from llmariner.tenancy.tables import organizations, projects

from ..team import Team
from .sign_in_fixtures import add_user, join


def test_an_id_takes_precedence_over_another_title(team: Team) -> None:
    victim = team.project("Victim")
    with team.database.write() as session:  # as one of before may be titled
        row = {"id": "proj_0", "organization_id": team.owner.organization_id, "title": victim}
        session.add(projects, **row, is_default=False, created_at=0)
        session.add(organizations, id="org_0", title=team.owner.organization_id, is_default=False, created_at=0)
    assert team.caller(team.admin.user_id, team.owner.organization_id, victim).project_id == victim
    ann = team.person("ann@example.org", proj_0="owner")
    with pytest.raises(PermissionDenied):
        team.caller(ann.user_id, None, victim)
    assert team.caller(ann.user_id, None, "proj_0").project_id == "proj_0"


def test_a_project_title_that_is_another_id_does_not_move_a_key(team: Team) -> None:
    victim = team.project("Victim")
    with team.database.write() as session:
        row = {"id": "proj_0", "organization_id": team.owner.organization_id, "title": victim}
        session.add(projects, **row, is_default=False, created_at=0)
    _, secret = team.key(team.admin, project_id="proj_0")
    assert team.authenticator.authenticate(secret, None, "proj_0") is not None
    with pytest.raises(AuthenticationFailed):
        team.authenticator.authenticate(secret, None, victim)


def test_no_title_looks_like_an_id(team: Team) -> None:
    victim = team.project("Victim")
    for attempt in (
        lambda: team.project(victim),
        lambda: team.projects.rename(team.admin, victim, team.owner.project_id),
        lambda: team.organizations.create(team.admin, team.owner.organization_id),
        lambda: team.organizations.rename(team.admin, team.owner.organization_id),
        lambda: team.roles.create(team.admin, victim.replace("proj", "role"), ["api.model.read"]),
    ):
        with pytest.raises(InvalidRequest, match="look like an id"):
            attempt()


def test_titles_that_look_alike_are_duplicates(team: Team) -> None:
    team.project("Vision")
    team.organizations.create(team.admin, "Acme")
    team.roles.create(team.admin, "chats", ["api.model.read"])
    for attempt in (
        lambda: team.project("\uff36ision"),
        lambda: team.organizations.create(team.admin, "Acme\ufe0f"),
        lambda: team.roles.create(team.admin, "chat\uff53", ["api.model.read"]),
    ):
        with pytest.raises(Conflict):
            attempt()
    again = team.project("Third")
    assert team.projects.rename(team.admin, again, "Third\ufe0f").title == "Third\ufe0f"


def test_a_users_id_takes_precedence_over_another_name(team: Team) -> None:
    ann = team.person("ann@example.org")
    join(team.database, team.owner, add_user(team.database, ann.user_id, created_at=0))
    assert Users(team.database).find_id(team.owner.organization_id, ann.user_id) == ann.user_id
