"""Pages of the audit log: OpenAI's filters, cursors and form of actors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import update

from llmariner.audit.log import append_entry
from llmariner.audit.queries import Filter, list_entries
from llmariner.audit.tables import audit_log
from llmariner.identifiers import new_id
from llmariner.platform.database import Database


@dataclass(frozen=True)
class Actor:
    """The fields of a caller that the log reads."""

    user_id: str
    email: str
    key_id: str | None = None


ADA = Actor("user_ada", "ada@example.org")
KEY = Actor("user_bo", "bo_%@example.org", "key_1")
ROBOT = Actor("user_robot", "system:serviceaccount:proj_1:ci", "key_2")
ACTS: list[tuple[str, Actor | None, str, str, str | None]] = [
    ("a", ADA, "project.created", "proj_1", "proj_1"),
    ("b", KEY, "project.updated", "proj_1", "proj_1"),
    ("c", KEY, "api_key.created", "key_9", "proj_2"),
    ("d", ROBOT, "user.added", "user_x", None),
    ("e", None, "login.failed", "user_ada", None),
]


@pytest.fixture
def acted(database: Database) -> dict[str, str]:
    """The ids of the entries by the letters of ACTS; one a second, from 100 on. Another organization has one, too."""
    ids: dict[str, str] = {}
    with database.write() as session:
        for number, (letter, actor, type_, target, project) in enumerate(ACTS):
            payload = {"id": target, "data": {"name": letter}}
            ids[letter] = append_entry(session, actor, type_, payload, organization_id="org_1", project_id=project)
            session.run(update(audit_log).where(audit_log.c.id == ids[letter]).values(at=100.0 + number))
        ids["z"] = append_entry(session, ADA, "project.created", {"id": "proj_1"}, organization_id="org_2")
    return ids


def letters(database: Database, acted: dict[str, str], chosen: Filter = Filter(), **paging: Any) -> str:  # noqa: B008
    """The entries of a page, in its order."""
    named = {entry_id: letter for letter, entry_id in acted.items()}
    return "".join(named[entry.id] for entry in list_entries(database, "org_1", chosen, **paging))


FILTERS = {
    "nothing": (Filter(), "edcba"),
    "types": (Filter(types=("project.created", "user.added")), "da"),
    "a type that never was": (Filter(types=("role.created",)), ""),
    "projects": (Filter(project_ids=("proj_1",)), "ba"),
    "a person": (Filter(actor_ids=("user_ada",)), "a"),
    "a key": (Filter(actor_ids=("key_1",)), "cb"),
    "the user of a key": (Filter(actor_ids=("user_bo",)), "cb"),
    "a service account": (Filter(actor_ids=("user_robot",)), "d"),
    "a part of an id": (Filter(actor_ids=("user_ad", "user__da", "%")), ""),
    "an e-mail with wildcards": (Filter(actor_emails=("bo_%@example.org",)), "cb"),
    "an e-mail that a wildcard would find": (Filter(actor_emails=("___@example.org", "%")), ""),
    "a quote": (Filter(actor_emails=('"', "\\")), ""),
    "targets": (Filter(resource_ids=("proj_1", "key_9")), "cba"),
    "an actor is no target": (Filter(resource_ids=("key_1",)), ""),
    "later than": (Filter(after=102), "ed"),
    "since": (Filter(since=102), "edc"),
    "earlier than": (Filter(before=102), "ba"),
    "until": (Filter(until=102), "cba"),
    "several at once": (Filter(project_ids=("proj_1",), actor_ids=("key_1",), since=100), "b"),
}


@pytest.mark.parametrize(("chosen", "expected"), FILTERS.values(), ids=FILTERS)
def test_a_filter_selects_matching_entries(
    database: Database, acted: dict[str, str], chosen: Filter, expected: str
) -> None:
    assert letters(database, acted, chosen) == expected


def test_pages_are_consecutive_in_both_directions(database: Database, acted: dict[str, str]) -> None:
    assert letters(database, acted, limit=2) == "ed"
    assert letters(database, acted, limit=2, after=acted["d"]) == "cb"
    assert letters(database, acted, limit=2, after=acted["b"]) == "a"
    assert letters(database, acted, limit=2, before=acted["a"]) == "cb"
    assert letters(database, acted, limit=2, before=acted["d"]) == "e"
    assert letters(database, acted, after=acted["e"], before=acted["a"]) == "dcb"
    assert letters(database, acted, limit=0) == ""


@pytest.mark.parametrize("cursor", ["audit_log_nobody", ""])
def test_an_id_without_a_time_has_no_next_page(database: Database, acted: dict[str, str], cursor: str) -> None:
    named = acted.get(cursor, cursor)
    assert (letters(database, acted, after=named), letters(database, acted, before=named)) == ("", "")


def test_another_organizations_entry_is_a_cursor_by_its_time(database: Database, acted: dict[str, str]) -> None:
    assert letters(database, acted, limit=2, after=new_id("audit_log")) == "ed"
    assert letters(database, acted, before=new_id("audit_log")) == ""
    assert letters(database, acted, after=f"audit_log_{'0' * 22}") == ""


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "a person": ("a", {"type": "session", "session": {"user": {"id": "user_ada", "email": ADA.email}}}),
    "a person's key": (
        "b",
        {
            "type": "api_key",
            "api_key": {"id": "key_1", "type": "user", "user": {"id": "user_bo", "email": KEY.email}},
        },
    ),
    "a service account's key": (
        "d",
        {
            "type": "api_key",
            "api_key": {"id": "key_2", "type": "service_account", "service_account": {"id": "user_robot"}},
        },
    ),
    "the platform": ("e", {"type": "session", "session": {"user": {"id": "platform", "email": None}}}),
}


@pytest.mark.parametrize(("letter", "expected"), SHAPES.values(), ids=SHAPES)
def test_actors_have_openais_format(
    database: Database, acted: dict[str, str], letter: str, expected: dict[str, Any]
) -> None:
    [found] = [entry for entry in list_entries(database, "org_1", Filter()) if entry.id == acted[letter]]
    kind = expected["type"]
    assert found.actor["type"] == kind
    assert {name: value for name, value in found.actor[kind].items() if name != "ip_address"} == expected[kind]
