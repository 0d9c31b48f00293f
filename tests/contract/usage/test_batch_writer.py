"""Batches of many gateway instances share a transaction; each one is acknowledged or fails separately."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import event as engine_event

from llmariner.errors import InvalidRequest, Unavailable
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.models.registry import ModelRegistry
from llmariner.models.serving_lookup import RegistryModelLookup
from llmariner.platform.database import Database
from llmariner.usage.batch_writer import BatchWriter
from llmariner.usage.ledger import Ledger

from ..ledgers import (
    assert_rebuilt_equals_stored,
    closing_event,
    event,
    expected_rollups,
    request_events,
    stored_rollups,
)


def record_all(writer: BatchWriter, batches: Sequence[Sequence[dict[str, Any]]]) -> list[Any]:
    async def give() -> list[Any]:
        return await asyncio.gather(*(writer.record(batch) for batch in batches), return_exceptions=True)

    return asyncio.run(give())


def test_concurrent_batches_are_recorded_in_a_few_statements(ledger: Ledger, database: Database) -> None:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    batches = [request_events(f"r{number}", 3, 7, key_id=f"key_{number % 7}") for number in range(100)]
    engine_event.listen(database.engine, "before_cursor_execute", note)
    try:
        assert record_all(BatchWriter(ledger.record, seconds=0.05), [*batches, batches[0]]) == [None] * 101
    finally:
        engine_event.remove(database.engine, "before_cursor_execute", note)
    assert len([each for each in statements if not each.startswith("BEGIN")]) == 6, statements
    assert_rebuilt_equals_stored(database, [f"r{number}" for number in range(100)])
    assert stored_rollups(database) == expected_rollups(database)


@pytest.mark.parametrize(
    ("said", "refusal"),
    [
        ({"kind": "guessed"}, InvalidRequest),
        ({"prompt_tokens": "many"}, Exception),
        ({"completion_tokens": 2**70}, InvalidRequest),
    ],
)
def test_an_invalid_batch_affects_no_other(said: dict[str, Any], refusal: type[Exception], ledger: Ledger) -> None:
    wrong = {**closing_event("wrong", (1, 1, 0)), **said}
    good, refused, late = record_all(
        BatchWriter(ledger.record, seconds=0.05),
        [[closing_event("a", (1, 1, 0))], [wrong], [closing_event("b", (1, 1, 0))]],
    )
    assert (good, late) == (None, None)
    assert isinstance(refused, refusal)
    assert [ledger.request(name) is not None for name in ("a", "wrong", "b")] == [True, False, True]


def test_nobody_gets_an_acknowledgment_before_the_commit(ledger: Ledger) -> None:
    recorded: list[float] = []

    def record(batch: Any) -> None:
        time.sleep(0.1)
        recorded.append(time.monotonic())

    async def give() -> float:
        await BatchWriter(record, seconds=0.05).record([closing_event("a", (1, 1, 0))])
        return time.monotonic()

    assert asyncio.run(give()) >= recorded[0]


def test_a_ledger_failure_is_reported_to_every_caller_as_retryable(ledger: Ledger) -> None:
    away = True

    def record(batch: Any) -> None:
        if away:
            raise Unavailable("The database does not answer.")
        ledger.record(batch)

    writer = BatchWriter(record, seconds=0.01)
    batches = [[closing_event("a", (1, 1, 0))], [closing_event("b", (1, 1, 0))]]
    assert all(isinstance(answer, Unavailable) for answer in record_all(writer, batches))
    away = False
    assert record_all(writer, batches) == [None, None]
    assert ledger.request("b") is not None


def test_a_cancelled_caller_does_not_cancel_its_batch(ledger: Ledger) -> None:
    async def give() -> None:
        writer = BatchWriter(ledger.record, seconds=0.05)
        gone = asyncio.create_task(writer.record([closing_event("gone", (1, 1, 0))]))
        stays = asyncio.create_task(writer.record([closing_event("stays", (1, 1, 0))]))
        await asyncio.sleep(0)
        gone.cancel()
        await stays

    asyncio.run(give())
    assert [ledger.request(name) is not None for name in ("gone", "stays")] == [True, True]


@pytest.mark.parametrize("size", [1000, 2500])
def test_a_large_batch_is_recorded_without_delay(size: int, ledger: Ledger) -> None:
    async def give() -> float:
        began = time.monotonic()
        writer = BatchWriter(lambda batch: None, seconds=60)
        batch = [closing_event(f"r{number}", (1, 1, 0)) for number in range(size // 5)]
        await asyncio.gather(*(writer.record(batch) for _ in range(5)))
        return time.monotonic() - began

    assert asyncio.run(give()) < 30


def test_a_model_with_pending_events_is_not_idle(ledger: Ledger, database: Database) -> None:
    writer = BatchWriter(ledger.record, seconds=0.2)
    registry = ModelRegistry(database)
    registry.create(NewModel("base", SourceRepository.LOCAL, "/base"))
    registry.mark_loaded("base", folder="/base", size_bytes=1, task=Task.GENERATE)
    registry.create(NewModel("ft:base:x", SourceRepository.LOCAL, "/x", base_model_id="base"))
    lookup = RegistryModelLookup(registry, ledger, writer.pending_models)

    async def ask() -> list[float | None]:
        before = await lookup.idle_since(["base", "ft:base:x"])
        telling = asyncio.create_task(writer.record([closing_event("a", (1, 1, 0), model="ft:base:x")]))
        await asyncio.sleep(0)
        meanwhile = await lookup.idle_since(["base", "ft:base:x"])
        await telling
        return [before, meanwhile, await lookup.idle_since(["base", "ft:base:x"])]

    assert asyncio.run(ask()) == [0.0, None, 1099.0]


def test_a_projects_model_is_idle_regardless_of_other_models_of_its_name(ledger: Ledger, database: Database) -> None:
    writer = BatchWriter(ledger.record, seconds=0.2)
    registry = ModelRegistry(database)
    for project_id in ("proj_other", "proj_1"):  # the ledger's events are of `proj_1`
        registry.create(NewModel("own", SourceRepository.LOCAL, "/own", project_id=project_id))
    lookup = RegistryModelLookup(registry, ledger, writer.pending_models)

    async def ask() -> list[float | None]:
        return [await lookup.idle_since([model_id]) for model_id in ("own", "own@proj_1")]

    async def all_along() -> list[list[float | None]]:
        telling = asyncio.create_task(writer.record([event("a", 0, "admitted", (0, 0, 0), model="own")]))
        await asyncio.sleep(0)
        gathered = await ask()
        await telling
        under_way = await ask()
        await writer.record([closing_event("a", (1, 1, 0), model="own")])
        return [gathered, under_way, await ask()]

    assert asyncio.run(all_along()) == [[0.0, None], [0.0, None], [0.0, 1099.0]]


def test_with_a_slow_database_batches_become_larger_and_not_more() -> None:
    sizes: list[int] = []

    def record(batch: Any) -> None:
        sizes.append(len(batch))
        time.sleep(0.2)

    async def give() -> None:
        writer = BatchWriter(record, seconds=0)
        giving = []
        for number in range(10):
            giving.append(asyncio.create_task(writer.record([closing_event(f"r{number}", (1, 1, 0))])))
            await asyncio.sleep(0.01)
        await asyncio.gather(*giving)

    asyncio.run(give())
    assert sum(sizes) == 10
    assert len(sizes) < 5, sizes
