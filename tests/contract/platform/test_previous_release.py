"""The release before runs on the schema of this one, while this one does: functions are replaced copy by copy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.events import outbox
from llmariner.platform.events.deliveries import Deliveries
from llmariner.usage.ledger import Ledger
from llmariner.usage.reports import UsageQuery, UsageReports

from ..ledgers import expected_rollups, request_events, stored_rollups

CHECKOUT = Path(__file__).parents[3]
VERSIONS = CHECKOUT / "shared/llmariner/platform/database/migrations/versions"
# The last commit of 0.3.0, and the newest revision of its schema. Each release updates them.
PREVIOUS, PREVIOUS_REVISION = "25c7b8a48d8f", "0008"
ROUNDS = 8
# Statements that remove what the previous release reads, or require what it does not write.
CONTRACTS = re.compile(r"\bop\.(drop_\w+|rename_table|alter_column|execute\(\s*\"(DROP|ALTER))|\bDROP (TABLE|COLUMN)\b")


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the previous release, from this repository's history."""
    archive = subprocess.run(
        ["git", "archive", PREVIOUS, "shared"], cwd=CHECKOUT, capture_output=True, check=False, timeout=60
    )
    if archive.returncode:
        pytest.skip(f"this clone does not hold the release before ({PREVIOUS}): git fetch --unshallow")
    folder = tmp_path_factory.mktemp("previous-release")
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True, timeout=60)
    return folder / "shared"


def started(previous: Path, database: Database) -> subprocess.Popen[str]:
    """A process of the previous release that works on this database."""
    program = Path(__file__).with_name("previous_release.py")
    return subprocess.Popen(
        [sys.executable, str(program), database.url, str(ROUNDS)],
        env={**os.environ, "PYTHONPATH": str(previous)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_both_releases_write_and_read_concurrently(previous: Path, new_database: Callable[[], Database]) -> None:
    database = new_database()
    upgrade(database)
    process, ledger, now = started(previous, database), Ledger(database), time.time()
    for number in range(ROUNDS):
        requests = (request_events(f"req_{'f' * 20}{number * 10 + n:08x}", 5, admitted_at=now) for n in range(10))
        ledger.record([event | {"at": now + 1} for events in requests for event in events])
        with database.write() as session:
            outbox.add(session, "t", "now", {"project_id": "proj_1"})
    said, failed = process.communicate(timeout=120)
    assert process.returncode == 0, failed
    seen = json.loads(said)
    assert Path(seen["package"]).is_relative_to(previous)
    assert (seen["granted"], seen["interrupted"], seen["idle"]) == (1, 1, True)
    assert "before" in seen["events"]
    assert 10 * ROUNDS < seen["requests"] <= 20 * ROUNDS + 1
    # Nothing of either is lost or counted twice, and this release reads what the other wrote.
    assert stored_rollups(database) == expected_rollups(database)
    (sums,) = UsageReports(database).sums(UsageQuery("org_1", now - 3600, now + 3600))
    assert sums["requests"] == 20 * ROUNDS + 1
    page = Deliveries(database, ()).page("proj_1", None, after=None, limit=100)
    assert {delivery.event.subject for delivery in page} == {"before", "now"}


@pytest.mark.parametrize(
    "migration", [path.name for path in sorted(VERSIONS.glob("[0-9]*.py")) if path.name[:4] > PREVIOUS_REVISION]
)
def test_a_migration_since_then_only_adds(migration: str) -> None:
    upward = (VERSIONS / migration).read_text().partition("def upgrade")[2].partition("def downgrade")[0]
    found = CONTRACTS.search(upward)
    assert found is None, f"{found}: the release before still needs it; take it away in the release after the next"
    for column in re.findall(r"op\.add_column\((.*?)\)\n", upward, re.DOTALL):
        assert "nullable=False" not in column or "server_default" in column, column


def test_revisions_are_consecutive() -> None:
    numbers = sorted(path.name[:4] for path in VERSIONS.glob("[0-9]*.py"))
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]
