"""The audit log: one intact chain under concurrent writers, and every change is detected by `verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Update, func, select, update

from llmariner.audit import log
from llmariner.audit.log import GENESIS, append_entry, verify
from llmariner.audit.tables import audit_heads, audit_log
from llmariner.platform.database import Database, WriteSession

AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]


@dataclass(frozen=True)
class Actor:
    """The fields of a caller that the log reads."""

    user_id: str = "user_1"
    email: str = "ada@example.org"
    key_id: str | None = None


def act(database: Database, *names: str, organization: str = "org_1", actor: Actor | None = None) -> None:
    """One entry per name, each in a transaction of its own."""
    for name in names:
        with database.write() as session:
            append_entry(session, actor or Actor(), "project.created", {"id": name}, organization_id=organization)


def rows(database: Database, organization: str = "org_1") -> list[Any]:
    chain = select(audit_log).where(audit_log.c.organization_id == organization).order_by(audit_log.c.sequence)
    with database.read() as session:
        return list(session.rows(chain))


def change(database: Database, *statements: Any) -> None:
    """Change rows without the log."""
    with database.write() as session:
        for statement in statements:
            session.run(statement)


def test_an_entry_has_its_data_and_the_hash_of_the_previous_one(database: Database) -> None:
    with database.write() as session:
        first = append_entry(session, Actor(), "project.created", {"id": "proj_ä"}, organization_id="org_1")
        second = append_entry(
            session, Actor(), "project.archived", {"id": "p"}, organization_id="org_1", project_id="p", source="::1"
        )
    one, two = rows(database)
    assert (one.id, one.type, one.project_id, one.payload) == (first, "project.created", None, '{"id":"proj_ä"}')
    assert (two.id, two.type, two.project_id) == (second, "project.archived", "p")
    assert '"ip_address":"::1"' in two.actor
    assert (one.previous_hash, two.previous_hash) == (GENESIS, one.hash)
    assert len({GENESIS, one.hash, two.hash}) == 3


def test_an_unmodified_chain_is_intact(database: Database) -> None:
    assert verify(database, "org_1") == log.VerificationResult(0, GENESIS, None, "")
    act(database, *"abcde")
    verdict = verify(database, "org_1")
    assert verdict.intact
    assert (verdict.entries, verdict.head) == (5, rows(database)[-1].hash)


def test_organizations_have_separate_chains(database: Database) -> None:
    act(database, "a", "b")
    act(database, "c", organization="org_2")
    change(database, update(audit_log).where(audit_log.c.organization_id == "org_2").values(payload="{}"))
    assert verify(database, "org_1").intact
    assert verify(database, "org_2").entries == 0


def test_a_rolled_back_mutation_leaves_no_entry(database: Database) -> None:
    act(database, "a")

    def fail() -> None:
        with database.write() as session:
            append_entry(session, Actor(), "project.created", {"id": "b"}, organization_id="org_1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    act(database, "c")
    assert [row.payload for row in rows(database)] == ['{"id":"a"}', '{"id":"c"}']
    assert verify(database, "org_1").intact


def test_concurrent_writers_make_one_chain(database: Database, run_concurrently: AtOnce) -> None:
    def write(name: str, organization: str) -> None:
        act(database, *(f"{name}{number}" for number in range(10)), organization=organization)

    calls = [(name, organization) for name in "abc" for organization in ("org_1", "org_2")]
    assert run_concurrently([lambda call=call: write(*call) for call in calls]) == [None] * 6  # type: ignore[misc]
    for organization in ("org_1", "org_2"):
        assert verify(database, organization).entries == 30
        assert len({row.previous_hash for row in rows(database, organization)}) == 30


def test_a_chain_is_intact_during_concurrent_writes(database: Database, run_concurrently: AtOnce) -> None:
    seen: list[log.VerificationResult] = []

    def look() -> None:
        seen.extend(verify(database, "org_1") for _ in range(40))

    assert run_concurrently([lambda: act(database, *"abcdefghijklmnopqrstuvwxyz"), look, look]) == [None] * 3
    assert [verdict.reason for verdict in seen if not verdict.intact] == []


def test_long_chains_are_verified_in_batches(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_BATCH_SIZE", 3)
    act(database, *"abcdefg")
    assert verify(database, "org_1").entries == 7
    change(database, values(database, 5, payload='{"id":"x"}'))
    assert (verify(database, "org_1").entries, verify(database, "org_1").broken_at) == (5, rows(database)[5].id)


def values(database: Database, index: int, **changed: Any) -> Update:
    """A statement that changes one entry."""
    return update(audit_log).where(audit_log.c.id == rows(database)[index].id).values(**changed)


CHANGES: dict[str, dict[str, Any]] = {
    "what was done": {"payload": '{"id":"z"}'},
    "who did it": {"actor": "{}"},
    "when": {"at": 1.0},
    "the kind of act": {"type": "project.deleted"},
    "the project": {"project_id": "proj_other"},
    "the id": {"id": "audit_log_other"},
    "the link": {"hash": "f" * 64},
    "the link to the one before": {"previous_hash": "f" * 64},
}


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("index", [0, 2, 4])
def test_a_changed_entry_is_detected(database: Database, changed: dict[str, Any], index: int) -> None:
    act(database, *"abcde")
    change(database, values(database, index, **changed))
    verdict = verify(database, "org_1")
    assert not verdict.intact
    assert (verdict.entries, verdict.broken_at) == (index, rows(database)[index].id)


@pytest.mark.parametrize("index", [0, 2])
def test_a_removed_entry_is_detected_at_the_next_one(database: Database, index: int) -> None:
    act(database, *"abcde")
    change(database, audit_log.delete().where(audit_log.c.id == rows(database)[index].id))
    verdict = verify(database, "org_1")
    assert (verdict.entries, verdict.broken_at) == (index, rows(database)[index].id)
    assert "removed" in verdict.reason


@pytest.mark.parametrize("left", [4, 0])
def test_a_truncated_chain_is_detected(database: Database, left: int) -> None:
    act(database, *"abcde")
    change(database, audit_log.delete().where(audit_log.c.sequence >= rows(database)[left].sequence))
    verdict = verify(database, "org_1")
    assert not verdict.intact
    assert (verdict.entries, verdict.broken_at) == (left, None)


@pytest.mark.parametrize("length", [1, 3])
def test_a_changed_entry_count_is_detected(database: Database, length: int) -> None:
    act(database, *"ab")
    change(database, update(audit_heads).values(length=length))
    assert not verify(database, "org_1").intact


def test_an_entry_inserted_behind_the_log_is_detected(database: Database) -> None:
    act(database, *"ab")
    forged = dict(rows(database)[-1]._mapping)
    forged |= {"id": "audit_log_forged", "previous_hash": forged["hash"]}
    forged["hash"] = log._hash(forged["previous_hash"], forged)
    del forged["sequence"]
    change(database, audit_log.insert().values(forged))
    assert not verify(database, "org_1").intact


def test_two_swapped_entries_are_detected(database: Database) -> None:
    act(database, *"abc")
    first, second = (row.sequence for row in rows(database)[1:])
    spare = select(func.max(audit_log.c.sequence) + 100).scalar_subquery()
    change(
        database,
        update(audit_log).where(audit_log.c.sequence == first).values(sequence=spare),
        update(audit_log).where(audit_log.c.sequence == second).values(sequence=first),
    )
    assert verify(database, "org_1").entries == 1


def forge(session: WriteSession) -> None:
    """An attack with write access to every row: another first entry, and new hashes of all that follow."""
    previous = GENESIS
    for row in session.rows(select(audit_log).order_by(audit_log.c.sequence)):
        entry = {**row._mapping, "payload": '{"id":"forged"}'}
        link = log._hash(previous, entry)
        session.run(
            update(audit_log)
            .where(audit_log.c.id == row.id)
            .values(payload=entry["payload"], previous_hash=previous, hash=link)
        )
        previous = link
    session.run(update(audit_heads).values(hash=previous))


def test_an_external_head_detects_a_chain_forged_completely(database: Database) -> None:
    act(database, *"ab")
    kept = verify(database, "org_1").head
    act(database, *"cd")
    assert verify(database, "org_1", known_head=kept).intact
    with database.write() as session:
        forge(session)
    assert verify(database, "org_1").intact
    found = verify(database, "org_1", known_head=kept)
    assert not found.intact
    assert kept[:12] in found.reason
