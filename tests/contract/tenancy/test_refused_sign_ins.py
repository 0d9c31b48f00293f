"""Refused sign-ins are recorded in the audit log, and repeated attempts cannot fill it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.audit import log
from llmariner.audit.tables import audit_log
from llmariner.errors import AuthenticationFailed, Unavailable
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.tenancy.organizations.bootstrap import ensure_first_owner
from llmariner.tenancy.sign_in import refused_sign_ins
from llmariner.tenancy.sign_in.refused_sign_ins import MAX_ENTRIES_PER_MINUTE, RefusedSignIns, UnauthenticatedSubject

AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]
FORGED = AuthenticationFailed("It was forged.", code="invalid_token")
EXPIRED = AuthenticationFailed("It has expired.", code="token_expired")


def failures(database: Database, organization_id: str) -> list[tuple[str | None, str | None, dict[str, Any]]]:
    """Source, e-mail and payload of each entry, oldest first."""
    query = select(audit_log).where(audit_log.c.type == "login.failed", audit_log.c.organization_id == organization_id)
    with database.read() as session:
        rows = session.rows(query.order_by(audit_log.c.sequence))
    sessions = [json.loads(row.actor)["session"] for row in rows]
    return [
        (at["ip_address"], at["user"]["email"], json.loads(row.payload)) for at, row in zip(sessions, rows, strict=True)
    ]


def test_a_rejection_is_recorded_at_once_and_further_ones_per_minute(database: Database, owner: KeyOwner) -> None:
    refused = RefusedSignIns(database)
    began = int(time.time())
    for error in (FORGED, FORGED, FORGED, EXPIRED):
        refused.record(error, source="192.0.2.1")
    [(source, email, reported)] = failures(database, owner.organization_id)
    assert (source, email, reported["error_code"], reported["error_message"]) == ("192.0.2.1", None, *_said(FORGED))
    assert reported["count"] == 1
    assert began <= reported["since"] == reported["until"]
    refused.flush()
    assert len(failures(database, owner.organization_id)) == 1, "its minute is not over"
    RefusedSignIns(database).record(FORGED, source="192.0.2.1")
    assert len(failures(database, owner.organization_id)) == 1, "another process recorded it in this minute"
    refused.flush(closing=True)
    assert [reported["count"] for _, _, reported in failures(database, owner.organization_id)] == [1, 3], (
        "the process ends"
    )


def test_the_number_of_further_rejections_is_recorded_after_a_minute(
    database: Database, owner: KeyOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = RefusedSignIns(database)
    for error in (FORGED, FORGED, FORGED, EXPIRED):
        refused.record(error, source="192.0.2.1")
    monkeypatch.setattr(refused_sign_ins, "_MINUTE", 0.0)
    refused.flush()
    rest = failures(database, owner.organization_id)[-1][2]
    assert (rest["count"], rest["error_code"], rest["error_message"]) == (3, "invalid_token", EXPIRED.message)
    refused.flush()
    assert len(failures(database, owner.organization_id)) == 2
    assert log.verify(database, owner.organization_id).intact


def test_further_rejections_are_recorded_without_another_attempt(
    database: Database, owner: KeyOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused_sign_ins, "_MINUTE", 0.5)
    refused = RefusedSignIns(database)
    for _ in range(3):
        refused.record(FORGED, source="192.0.2.1")
    deadline = time.monotonic() + 20
    while len(found := failures(database, owner.organization_id)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [reported["count"] for _, _, reported in found] == [1, 2]


def test_entries_of_many_sources_and_processes_are_bounded(
    database: Database, owner: KeyOwner, run_concurrently: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = [RefusedSignIns(database) for _ in range(3)]

    def attack(number: int) -> None:
        for host in range(60):
            processes[number].record(FORGED, source=f"10.{number}.0.{host}")

    run_concurrently([lambda number=number: attack(number) for number in range(3)])  # type: ignore[misc]
    assert len(failures(database, owner.organization_id)) == MAX_ENTRIES_PER_MINUTE
    monkeypatch.setattr(refused_sign_ins, "_MINUTE", 0.0)
    for process in processes:
        process.flush()
    found = failures(database, owner.organization_id)
    assert sum(reported["count"] for _, _, reported in found) == 180
    assert len(found) <= MAX_ENTRIES_PER_MINUTE * 4
    assert any(source is None for source, _, _ in found), "the excess is recorded as one"


def test_the_number_of_tracked_sources_is_bounded(database: Database, owner: KeyOwner) -> None:
    refused = RefusedSignIns(database)
    for host in range(1000):
        refused.record(FORGED, source=f"10.0.{host // 256}.{host % 256}")
    assert len(refused._pending) <= 101
    assert len(refused._written_at) <= MAX_ENTRIES_PER_MINUTE


def test_each_organization_has_its_own_entries_and_existing_users_are_named(
    database: Database, owner: KeyOwner, other_owner: KeyOwner
) -> None:
    refused = RefusedSignIns(database)
    ann = UnauthenticatedSubject("user_ann", "ann@example.org")
    refused.record(FORGED, source="192.0.2.1", subject=ann, organization_id=other_owner.organization_id)
    refused.record(FORGED, source=None)
    refused.record(FORGED, source="192.0.2.1", organization_id=other_owner.organization_id)
    refused.record(
        FORGED,
        source="192.0.2.1",
        subject=UnauthenticatedSubject("user_bob"),
        organization_id=other_owner.organization_id,
    )
    found = [
        (source, email, reported.get("id"))
        for source, email, reported in failures(database, other_owner.organization_id)
    ]
    people = [("ann@example.org", "user_ann"), (None, None), (None, "user_bob")]
    assert found == [("192.0.2.1", *who) for who in people], "nobody is taken for another one"
    [(source, email, reported)] = failures(database, owner.organization_id)
    assert (source, email, reported.get("id")) == (None, None, None)


def test_without_the_database_rejections_are_recorded_later(
    database: Database, owner: KeyOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = RefusedSignIns(database)

    def away() -> Any:
        raise Unavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(database, "write", away)
        refused.record(FORGED, source="192.0.2.1")
    assert not failures(database, owner.organization_id)
    refused.flush()
    assert len(failures(database, owner.organization_id)) == 1


def test_pending_rejections_are_recorded_when_the_database_closes(new_database: Callable[[], Database]) -> None:
    database = new_database()
    upgrade(database)
    organization_id = ensure_first_owner(database).organization_id
    refused = RefusedSignIns(database)
    for _ in range(5):
        refused.record(FORGED, source="192.0.2.1")
    assert [reported["count"] for _, _, reported in failures(database, organization_id)] == [1]
    database.close()
    assert sum(reported["count"] for _, _, reported in failures(database, organization_id)) == 5


def test_a_process_with_a_closed_database_exits_silently(tmp_path: Path) -> None:
    program = (
        "from llmariner.errors import AuthenticationFailed\n"
        "from llmariner.platform.database import Database\n"
        "from llmariner.platform.database.migrate import upgrade\n"
        "from llmariner.settings import DatabaseSettings\n"
        "from llmariner.tenancy.organizations.bootstrap import ensure_first_owner\n"
        "from llmariner.tenancy.sign_in.refused_sign_ins import RefusedSignIns\n"
        f"database = Database(DatabaseSettings('sqlite:///{tmp_path}/platform.db'))\n"
        "upgrade(database), ensure_first_owner(database)\n"
        "refused = RefusedSignIns(database)\n"
        "for _ in range(2): refused.record(AuthenticationFailed('no'), source='192.0.2.1')\n"
        "database.close()\n"
        f"import shutil; shutil.rmtree('{tmp_path}')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout + done.stderr == ""


def _said(error: AuthenticationFailed) -> tuple[str | None, str]:
    return error.code, error.message
