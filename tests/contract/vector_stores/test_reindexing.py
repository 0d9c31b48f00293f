"""A completed file stays what it is while its index is made again, whatever became of its adder and the engine answers."""

from __future__ import annotations

import pytest

from llmariner.tenancy.tables import organization_users, project_users
from llmariner.vector_stores.ingest.claims import MAX_ATTEMPTS, continue_later
from llmariner.vector_stores.ingest.removal import purge
from llmariner.vector_stores.ingest.repair import repair

from .ingestion import Ingestion
from .test_index_maintenance import collection, place


@pytest.fixture
def store_id(ingestion: Ingestion) -> str:
    """A store with a completed file, of which the index lost the chunks."""
    made = ingestion.store("The red pump.")
    ingestion.run()
    ingestion.index.delete_store(collection(ingestion), ingestion.shelf.project_id, made)
    return made


def remove_members(ingestion: Ingestion) -> None:
    with ingestion.database.write() as session:
        session.run(project_users.delete())
        session.run(organization_users.delete())


def test_a_repair_needs_nobody_who_added_the_file(ingestion: Ingestion, store_id: str) -> None:
    remove_members(ingestion)
    assert repair(ingestion.database, ingestion.index, **place(ingestion, store_id)) == 1
    ingestion.run()
    row = ingestion.row(store_id)
    assert (row.status, ingestion.indexed(store_id)) == ("completed", {row.id: 1})


@pytest.mark.parametrize("status", [401, 403, 404, 400, 502])
def test_whatever_the_token_path_answers_a_completed_file_does_not_fail(
    ingestion: Ingestion, store_id: str, status: int
) -> None:
    assert repair(ingestion.database, ingestion.index, **place(ingestion, store_id)) == 1
    ingestion.token_path.errors = [(status, None, "")] * 200
    for _ in range(MAX_ATTEMPTS + 3):
        ingestion.run()
        assert ingestion.row(store_id).status == "in_progress"
        assert purge(ingestion.database, ingestion.index) == 0
        ingestion.make_due(store_id)
        continue_later(ingestion.database)
    assert "No." in ingestion.row(store_id).error_message
    ingestion.token_path.errors = []
    ingestion.run()
    row = ingestion.row(store_id)
    assert (row.status, row.error_code, ingestion.indexed(store_id)) == ("completed", None, {row.id: 1})


def test_a_refusal_of_the_caller_is_tried_again_for_a_new_file(ingestion: Ingestion) -> None:
    store_id = ingestion.store("text")
    ingestion.token_path.errors = [(401, "invalid_api_key", "")]
    ingestion.run()
    assert ingestion.row(store_id).status == "in_progress"
    ingestion.make_due(store_id)
    continue_later(ingestion.database)
    ingestion.run()
    assert ingestion.row(store_id).status == "completed"
