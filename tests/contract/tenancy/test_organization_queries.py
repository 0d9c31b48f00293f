"""Queries of the admin API: consecutive pages, without rows of other organizations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmariner.errors import NotFound
from llmariner.platform.database import Database
from llmariner.tenancy.keys.last_use import LastUse
from llmariner.tenancy.keys.store import Keys, NewKey
from llmariner.tenancy.organizations.queries import OrganizationQueries, Page, Paging
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import api_keys, custom_roles, invites, organization_users, project_users, projects, users

NOBODY = "nobody"


@pytest.fixture
def queries(database: Database) -> OrganizationQueries:
    return OrganizationQueries(database)


@pytest.fixture
def add(database: Database, owner: KeyOwner) -> Callable[..., None]:
    """One row, by default in the owner's organization."""

    def added(table: Any, **values: Any) -> None:
        place = {"organization_id": owner.organization_id} if "organization_id" in table.c else {}
        with database.write() as session:
            session.add(table, **{**place, **values})

    return added


@pytest.fixture
def join(add: Callable[..., None], owner: KeyOwner) -> Callable[..., str]:
    """A member of the organization, and of its default project in the role `project`."""

    def joined(name: str, /, *, at: int = 10, project: str | None = None, **values: Any) -> str:
        add(users, **{"id": name, "email": f"{name}@example.org", "created_at": at, **values})
        add(organization_users, user_id=name, role="reader", created_at=at)
        if project is not None:
            add(project_users, user_id=name, project_id=owner.project_id, role=project, created_at=at)
        return name

    return joined


def ids(page: Page) -> tuple[str, bool]:
    """Ids of a page, joined, and whether more follow."""
    return "".join(row.id for row in page[0]), page[1]


def test_pages_are_consecutive_in_both_directions(
    queries: OrganizationQueries, owner: KeyOwner, add: Callable[..., None]
) -> None:
    for name, at in (("a", 20), ("b", 10), ("c", 10), ("d", 5)):
        add(custom_roles, id=f"r{name}", name=name, description="", scopes="", created_at=at)
        add(projects, id=name, title=name, is_default=False, created_at=at)
    here = owner.organization_id

    def page(**paging: Any) -> tuple[str, bool]:
        found = queries.projects(here, Paging(**paging))
        return ids(([row for row in found[0] if row.id != owner.project_id], found[1]))

    # In the order of ids: the default project, proj_…, is the last.
    assert page(limit=3) == ("dc", True)
    assert page(limit=2, after="c") == ("ba", False)
    assert page(limit=1, after="c") == ("b", True)
    assert page(limit=2, order="asc") == ("ab", True)
    assert page(limit=2, order="asc", after="b") == ("cd", True)
    assert page(after="") == ("dcba", False)
    # Ids of missing rows are valid cursors.
    assert page(after=NOBODY) == ("dcba", False)
    assert page(after="bb") == ("ba", False)
    assert page(order="asc", after="bb") == ("cd", False)
    assert [row.id for row in queries.roles(here, None)] == ["rd", "rb", "rc", "ra"]


def test_archived_projects_are_listed_on_request_and_always_found(
    queries: OrganizationQueries, owner: KeyOwner, add: Callable[..., None]
) -> None:
    add(projects, id="old", title="old", is_default=False, created_at=1, archived_at=2)
    live = queries.projects(owner.organization_id, Paging())
    every = queries.projects(owner.organization_id, Paging(), archived=True)
    assert ids(live) == (owner.project_id, False)
    assert ids(every) == (f"{owner.project_id}old", False)
    assert queries.project(owner.organization_id, "old").archived_at == 2


def test_people_service_accounts_and_hidden_users_are_distinguished(
    queries: OrganizationQueries, owner: KeyOwner, join: Callable[..., str]
) -> None:
    here, project = owner.organization_id, owner.project_id
    join("p", at=20, project="member", name="Pia")
    join("h", at=30, project="member", hidden=True)
    join("s", at=40, project="owner", kind="service_account", email="system:serviceaccount:x:s")
    join("o", at=50)
    assert ids(queries.project_users(here, project, Paging())) == (f"{owner.user_id}p", False)
    assert ids(queries.service_accounts(here, project, Paging())) == ("s", False)
    assert ids(queries.people(here, Paging())) == (f"{owner.user_id}po", False)
    assert ids(queries.people(here, Paging(), ("P@Example.org", NOBODY))) == ("p", False)
    assert queries.person_with_email(here, " P@EXAMPLE.org ").id == "p"
    person = queries.project_user(here, project, "p")
    assert (person.name, person.role, person.added_at) == ("Pia", "member", 20)
    assert queries.service_account(here, project, "s").role == "owner"
    found = queries.memberships(here, ["p", "o"])
    assert [(row.id, row.role) for row in found["p"]] == [(project, "member")]
    assert found["o"] == []


def test_a_persons_last_use_of_any_key_is_returned(
    queries: OrganizationQueries, owner: KeyOwner, keys: Keys, join: Callable[..., str], database: Database
) -> None:
    user = join("p", project="member")
    made = [
        keys.create(KeyOwner(user, owner.project_id, owner.organization_id), NewKey(n, frozenset()))[0] for n in "ab"
    ]
    assert queries.person(owner.organization_id, user).last_used_at is None
    LastUse(database).record({made[0].id: 7, made[1].id: 5})
    assert queries.person(owner.organization_id, user).last_used_at == 7


def test_keys_are_filtered_by_whether_their_owner_still_exists(
    queries: OrganizationQueries, owner: KeyOwner, keys: Keys, join: Callable[..., str], database: Database
) -> None:
    here, project = owner.organization_id, owner.project_id
    of = {name: KeyOwner(join(name, project="member"), project, here) for name in ("in", "out")}
    made = {name: keys.create(whose, NewKey(name, frozenset()))[0].id for name, whose in of.items()}
    made["own"] = keys.create(owner, NewKey("own", frozenset()))[0].id
    gone = keys.create(owner, NewKey("gone", frozenset()))[0].id
    keys.revoke(owner, gone)
    with database.write() as session:
        session.run(project_users.delete().where(project_users.c.user_id.in_(["out", owner.user_id])))

    def listed(access: Any) -> set[str]:
        return {row.id for row in queries.project_keys(here, project, Paging(), access)[0]}

    # An organization's owner is a member of all its projects.
    assert listed("active") == {made["in"], made["own"]}
    assert listed("inactive") == {made["out"]}
    assert listed("any") == set(made.values())
    for lost in (gone, NOBODY):
        with pytest.raises(NotFound):
            queries.project_key(here, project, lost)


def test_admin_keys_are_a_separate_kind(
    queries: OrganizationQueries, owner: KeyOwner, keys: Keys, add: Callable[..., None]
) -> None:
    key, _ = keys.create(owner, NewKey("project's", frozenset()))
    row = {"prefix": "x", "scopes": "", "created_at": 1, "excluded_from_rate_limiting": False, "revision": 1}
    add(api_keys, id="adm", name="adm", user_id=owner.user_id, kind="admin", digest="d", **row)
    here = owner.organization_id
    assert ids(queries.admin_keys(here, Paging())) == ("adm", False)
    assert queries.admin_key(here, "adm").organization_role == "owner"
    assert ids(queries.project_keys(here, owner.project_id, Paging())) == (key.id, False)
    with pytest.raises(NotFound):
        queries.admin_key(here, key.id)


def test_revoked_invitations_are_not_listed(
    queries: OrganizationQueries, owner: KeyOwner, add: Callable[..., None]
) -> None:
    row = {"email": "x@example.org", "role": "reader", "projects": "[]", "invited_by": owner.user_id, "expires_at": 9}
    add(invites, id="open", digest="a", created_at=1, **row)
    add(invites, id="back", digest="b", created_at=2, revoked_at=3, **row)
    assert ids(queries.invites(owner.organization_id, Paging())) == ("open", False)
    with pytest.raises(NotFound):
        queries.invite(owner.organization_id, "back")


def test_nothing_of_another_organization_is_returned(
    queries: OrganizationQueries,
    owner: KeyOwner,
    other_owner: KeyOwner,
    keys: Keys,
    join: Callable[..., str],
    add: Callable[..., None],
) -> None:
    join("p", project="member")
    key, _ = keys.create(owner, NewKey("k", frozenset()))
    row = {"email": "x@example.org", "role": "reader", "projects": "[]", "invited_by": owner.user_id, "expires_at": 9}
    add(invites, id="inv", digest="a", created_at=1, **row)
    there, project = other_owner.organization_id, owner.project_id
    asked: list[Callable[[], object]] = [
        lambda: queries.project(there, project),
        lambda: queries.project_users(there, project, Paging()),
        lambda: queries.project_user(there, project, "p"),
        lambda: queries.service_accounts(there, project, Paging()),
        lambda: queries.project_keys(there, project, Paging()),
        lambda: queries.project_key(there, project, key.id),
        lambda: queries.person(there, "p"),
        lambda: queries.person_with_email(there, "p@example.org"),
        lambda: queries.invite(there, "inv"),
    ]
    for ask in asked:
        with pytest.raises(NotFound):
            ask()
    assert ids(queries.projects(there, Paging())) == (other_owner.project_id, False)
    assert ids(queries.projects(there, Paging(after=project))) == (other_owner.project_id, False)
    assert queries.memberships(there, ["p"]) == {"p": []}
