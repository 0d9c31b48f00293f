"""Reconciliation of a group's members: in batches, concurrent with sign-ins, idempotent for repeated events."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from llmariner.audit import log
from llmariner.context import Context
from llmariner.errors import NotFound
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.events import tables
from llmariner.platform.events.outbox import event_from_row
from llmariner.tenancy.groups.group_roles import GROUP_ROLE_CHANGED, GroupRoles
from llmariner.tenancy.groups.membership_sync import reconcile_group
from llmariner.tenancy.groups.store import Groups
from llmariner.tenancy.organizations.queries import Paging
from llmariner.tenancy.sign_in import token_sign_in as sign_in
from llmariner.tenancy.sign_in.token_sign_in import TokenSignIn
from llmariner.tenancy.tables import organization_users, project_users, user_groups, users

from ..team import Team
from .sign_in_fixtures import ISSUER, Tokens

AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]
CHECKOUT = Path(__file__).resolve().parents[3]
PEOPLE = 60


@pytest.fixture
def people(team: Team, monkeypatch: pytest.MonkeyPatch) -> tuple[TokenSignIn, Tokens]:
    monkeypatch.setattr(sign_in, "_CACHE_SECONDS", 0.0)
    tokens = Tokens()
    return TokenSignIn(team.database, tokens, team.authenticator), tokens


def staff(database: Database, number: int = PEOPLE) -> None:
    """People whose newest token has the group 'staff'."""
    with database.write() as session:
        session.insert_many_if_absent(
            users,
            [
                {
                    "id": f"user_{at:04}",
                    "email": f"p{at}@example.org",
                    "created_at": 1,
                    "issuer": ISSUER,
                    "subject": f"s{at}",
                    "groups": '["staff"]',
                    "groups_at": 1000,
                }
                for at in range(number)
            ],
        )
        rows = [{"user_id": f"user_{at:04}", "name": "staff", "issuer": ISSUER} for at in range(number)]
        session.insert_many_if_absent(user_groups, rows)


def members(database: Database, table: Any = organization_users) -> int:
    with database.read() as session:
        query = select(func.count()).select_from(table).where(table.c.of_group.is_(True))
        return int(session.value(query))


def changes(database: Database) -> list[Any]:
    with database.read() as session:
        query = select(tables.events).where(tables.events.c.type == GROUP_ROLE_CHANGED)
        return [event_from_row(row) for row in session.rows(query.order_by(tables.events.c.time))]


def test_creating_a_group_role_changes_no_membership_itself(team: Team) -> None:
    staff(team.database)
    GroupRoles(team.database).create(team.admin, issuer=ISSUER, group="staff", role="reader", project_id=None)
    assert members(team.database) == 0
    [event] = changes(team.database)
    assert (event.data["issuer"], event.data["group"], event.data["after"]) == (ISSUER, "staff", "")


def test_a_delivery_continues_where_the_previous_one_stopped(team: Team) -> None:
    staff(team.database)
    project_id = team.owner.project_id
    GroupRoles(team.database).create(team.admin, issuer=ISSUER, group="staff", role="member", project_id=project_id)
    after, reached = "", list[int]()
    while after or not reached:
        after = reconcile_group(team.database, ISSUER, "staff", after, seconds=0)
        reached.append(members(team.database, project_users))
    assert reached == [25, 50, PEOPLE]
    assert log.verify(team.database, team.owner.organization_id).intact


def test_the_consumer_emits_an_event_for_the_remaining_members(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    staff(team.database)
    GroupRoles(team.database).create(team.admin, issuer=ISSUER, group="staff", role="reader", project_id=None)
    main = runpy.run_path(str(CHECKOUT / "eventing/group_settlement/main.py"))
    context = Context({"LLMARINER_DATABASE_URL": str(team.database.url)})
    consume = main["consume"]
    monkeypatch.setitem(consume.__globals__, "reconcile_group", lambda *said: reconcile_group(*said, seconds=0))
    for at in range(3):
        consume(context, changes(team.database)[at])
    assert members(team.database) == PEOPLE
    assert [event.data["after"] for event in changes(team.database)] == ["", "user_0024", "user_0049"]
    for _ in range(
        2
    ):  # redelivered: it continues without a second event, else each delivery would double those to come
        consume(context, changes(team.database)[0])
    assert members(team.database) == PEOPLE
    assert len(changes(team.database)) == 3
    context.database.close()


def test_unchanged_memberships_are_not_written_again(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    staff(team.database, 5)
    GroupRoles(team.database).create(team.admin, issuer=ISSUER, group="staff", role="reader", project_id=None)
    reconcile_group(team.database, ISSUER, "staff")

    def fail() -> None:
        raise AssertionError("wrote")

    monkeypatch.setattr(team.database, "write", fail)
    assert reconcile_group(team.database, ISSUER, "staff") == ""


def test_a_member_who_left_a_group_in_the_previous_release_gets_nothing(team: Team) -> None:
    """That release stores a token's groups in a column and does not use the table."""
    staff(team.database, 3)
    with team.database.write() as session:
        left = {"groups": json.dumps(["others", "x" * 300]), "groups_at": 2000}
        session.run(update(users).where(users.c.id == "user_0001").values(**left))
    GroupRoles(team.database).create(team.admin, issuer=ISSUER, group="staff", role="owner", project_id=None)
    reconcile_group(team.database, ISSUER, "staff")
    with team.database.read() as session:
        given = select(organization_users.c.user_id).where(organization_users.c.of_group.is_(True))
        assert {row.user_id for row in session.rows(given)} == {"user_0000", "user_0002"}
        known = select(user_groups.c.name).where(user_groups.c.user_id == "user_0001")
        assert [row.name for row in session.rows(known)] == ["others"]


@pytest.mark.parametrize("name", ["staff", 'a "b" \\ %_ä'])
def test_a_member_who_joined_a_group_in_the_previous_release_loses_its_grants(team: Team, name: str) -> None:
    staff(team.database, 30)
    with team.database.write() as session:
        session.run(user_groups.delete().where(user_groups.c.user_id != "user_0001"))
        session.run(user_groups.update().values(name=name))
        session.run(update(users).where(users.c.groups.is_not(None)).values(groups=json.dumps(["other", name])))
    mappings = GroupRoles(team.database)
    made = mappings.create(team.admin, issuer=ISSUER, group=name, role="reader", project_id=None)
    reconcile_group(team.database, ISSUER, name)
    assert members(team.database) == 30
    with team.database.write() as session:
        session.run(user_groups.delete())
    mappings.delete(team.admin, made.id)
    reconcile_group(team.database, ISSUER, name)
    assert members(team.database) == 0


def test_sign_ins_during_the_reconciliation_of_a_group(
    team: Team, people: tuple[TokenSignIn, Tokens], run_concurrently: AtOnce
) -> None:
    signing_in, tokens = people
    staff(team.database)
    given = [
        tokens.issue(subject=f"s{at}", email=f"p{at}@example.org", groups=frozenset({"staff"}), signed_in_at=2000 + at)
        for at in range(PEOPLE)
    ]
    mappings = GroupRoles(team.database)
    made = mappings.create(team.admin, issuer=ISSUER, group="staff", role="reader", project_id=None)

    def come(first: int) -> list[str]:
        return [signing_in.authenticate(token).user_id for token in given[first::3]]

    def settle() -> str:
        return reconcile_group(team.database, ISSUER, "staff") + reconcile_group(team.database, ISSUER, "staff")

    found = run_concurrently([settle, *(lambda first=first: come(first) for first in range(3))])
    assert not [each for each in found if isinstance(each, Exception)], found
    assert members(team.database) == PEOPLE
    mappings.delete(team.admin, made.id)
    reconcile_group(team.database, ISSUER, "staff")
    assert members(team.database) == 0
    assert log.verify(team.database, team.owner.organization_id).intact


def test_a_groups_members_are_paged_in_the_database(team: Team) -> None:
    staff(team.database, 3)
    groups = Groups(team.database)
    group = groups.create(team.admin, ISSUER, "staff")
    groups.grant_role(team.admin, group.id, "reader", None)
    reconcile_group(team.database, ISSUER, "staff")
    rows, more = groups.members(group, Paging(limit=2, order="asc"))
    assert ([row.id for row in rows], more) == (["user_0000", "user_0001"], True)
    rows, more = groups.members(group, Paging(after="user_0001", limit=2, order="asc"))
    assert ([row.id for row in rows], more) == (["user_0002"], False)
    assert groups.member(group, "user_0001").email == "p1@example.org"
    for user_id in (team.admin.user_id, "user_nobody"):
        with pytest.raises(NotFound):
            groups.member(group, user_id)


def test_groups_of_an_older_database_are_preserved(new_database: Callable[[], Database]) -> None:
    database = new_database()
    upgrade(database, "0011")
    said = {"staff": 1, "x" * 300: 2, "ä": 3}
    with database.write() as session:
        row = {"id": "user_1", "email": "a@example.org", "created_at": 1, "issuer": ISSUER, "subject": "1"}
        session.run(users.insert().values(**row, groups=json.dumps(list(said))))
    upgrade(database)
    with database.read() as session:
        rows = session.rows(select(user_groups).order_by(user_groups.c.name))
    assert [(row.user_id, row.name, row.issuer) for row in rows] == [
        ("user_1", "staff", ISSUER),
        ("user_1", "ä", ISSUER),
    ]


def test_one_owner_remains_when_all_owners_lose_their_group(team: Team) -> None:
    acme = team.organizations.create(team.admin, "Acme")
    founder = team.caller(team.owner.user_id, acme.id)
    staff(team.database, 3)
    mappings = GroupRoles(team.database)
    made = mappings.create(founder, issuer=ISSUER, group="staff", role="owner", project_id=None)
    reconcile_group(team.database, ISSUER, "staff")
    chief = team.caller("user_0000", acme.id)
    team.members.remove(chief, founder.user_id)
    mappings.delete(chief, made.id)
    reconcile_group(team.database, ISSUER, "staff")
    [left] = team.members.all(acme.id)
    assert left.role == "owner"
