"""Reports of compute: exact, and each tenant's own."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from llmariner.models.model import NewModel, SourceRepository
from llmariner.models.registry import ModelRegistry
from llmariner.platform.database import Database
from llmariner.showback.allocations import Allocations
from llmariner.showback.reports import ComputeQuery, compute_sums
from llmariner.showback.tables import allocations
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.usage.ledger import Ledger

from ..ledgers import closing_event
from .steps import DAY, NOON, allocation

MIDNIGHT = int(NOON // DAY * DAY)


def of_a_day(database: Database, organization_id: str | None, *groups: str) -> list[dict[str, Any]]:
    query = ComputeQuery(organization_id, MIDNIGHT, MIDNIGHT + DAY, DAY, MIDNIGHT + DAY, groups)
    return compute_sums(database, query)


def test_a_job_without_an_owner_is_in_the_report_of_the_installation_alone(
    database: Database, store: Allocations, owner: KeyOwner, other_owner: KeyOwner
) -> None:
    store.begin(allocation(owner, "a", NOON, project_id=None, workload_id="job-of-an-operator"))
    store.end("a", round((NOON + 10) * 1000))
    found = {each: of_a_day(database, each) for each in (owner.organization_id, other_owner.organization_id, None)}
    assert [len(rows) for rows in found.values()] == [0, 0, 1]


def test_terabytes_count_and_absurd_amounts_break_no_report(
    database: Database, store: Allocations, owner: KeyOwner
) -> None:
    store.begin(allocation(owner, "a", MIDNIGHT, amounts={"memory": 3 * 2**40}))
    with database.read() as session:
        assert session.value(select(allocations.c.memory_mib)) == 3 * 2**20
    for id_ in "bcd":  # their sum has more than 63 bits
        store.begin(allocation(owner, id_, MIDNIGHT, amounts=dict.fromkeys(("gpu", "cpu", "memory"), 2**62)))
    (row,) = of_a_day(database, owner.organization_id)
    assert row["mib_ms"] == DAY * 1000 * (3 * 2**20 + 3 * 2**36)
    assert row["millicore_ms"] == DAY * 1000 * 3 * 2**36


def test_tokens_of_adapters_count_for_their_base_by_the_project_that_has_them(
    database: Database,
    store: Allocations,
    registry: ModelRegistry,
    owner: KeyOwner,
    other_owner: KeyOwner,
    ledger: Ledger,
) -> None:
    """Each project has an adapter `tuned`: one of the shared `m`, one of the shared `n`."""
    new = {"source_repository": SourceRepository.LOCAL, "model_file_location": "/m"}
    for name, base, project in (
        ("m", None, None),
        ("n", None, None),
        ("tuned", "n", other_owner.project_id),
        ("tuned", "m", owner.project_id),
    ):
        registry.create(NewModel(id=name, base_model_id=base, project_id=project, **new))  # type: ignore[arg-type]
    for number, (whose, model, tokens) in enumerate(
        ((owner, "tuned", 10), (owner, "m", 10), (other_owner, "tuned", 60), (other_owner, "m", 20))
    ):
        place = {"project_id": whose.project_id, "organization_id": whose.organization_id}
        times = {"admitted_at": NOON + number, "at": NOON + number + 1}
        ledger.record([closing_event(f"req_{number}", (tokens, 0, 0), model=model, **place, **times)])
    for name in ("m", "n"):
        store.begin(allocation(owner, name, NOON, kind="model", workload_id=name, project_id=None, amounts={"gpu": 1}))
        store.end(name, round((NOON + 100) * 1000))
    rows = of_a_day(database, None, "workload_id", "project_id")
    found = {(row["workload_id"], row["project_id"]): row["gpu_ms"] for row in rows}
    assert found == {
        ("m", owner.project_id): 50_000,
        ("m", other_owner.project_id): 50_000,
        ("n", other_owner.project_id): 100_000,
    }
