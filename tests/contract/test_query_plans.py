"""No query of files, uploads and vector stores, of ingestion and of the sweeps reads a whole table of many rows."""

from __future__ import annotations

import time
from pathlib import Path

from sqlalchemy import update

from llmariner.files import garbage
from llmariner.files.purposes import Purpose
from llmariner.platform.database import Database
from llmariner.platform.vectors import AttributeValue, VectorIndex
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects
from llmariner.vector_stores.embedder import Embedder
from llmariner.vector_stores.ingest.attributes_step import apply_attributes, continue_attributes
from llmariner.vector_stores.ingest.claims import continue_later
from llmariner.vector_stores.ingest.rebuild import continue_rebuilds, request_rebuild
from llmariner.vector_stores.ingest.removal import purge, remove_unless_live
from llmariner.vector_stores.ingest.repair import repair, repair_some
from llmariner.vector_stores.pages import Paging
from llmariner.vector_stores.query import SearchQuery
from llmariner.vector_stores.search import VectorStoreSearch
from llmariner.vector_stores.store import FileStatus, NewStoreFile

from .files.upload_steps import Desk
from .filled_tables import GROWING, empty_tables, fill_files, fill_vector_stores, row_id
from .query_plans import full_scans, statement_plans
from .stored_files import Shelf, member_of
from .vector_stores.ingestion import Ingestion
from .vector_stores.token_path import TokenPath

ROWS = 20_000
"""Of each table. The plans are the same with 100,000, and filling them takes longer."""
ATTRIBUTES: dict[str, AttributeValue] = {"year": 2026}


def use_files(desk: Desk) -> None:
    """What the routes of files and uploads do."""
    project, files, uploads = desk.owner.project_id, desk.files, desk.uploads
    _, file = desk.uploaded(b"hello ", b"world")
    desk.uploaded(b"hello world")
    uploads.cancel(desk.owner, desk.create(1).id)
    for purpose in (None, Purpose.BATCH):
        for after in (None, file.id):
            files.page(project, purpose=purpose, after=after, limit=20, order="asc")
            files.page(project, purpose=purpose, after=after, limit=20, order="desc")
        files.count(project, purpose=purpose)
    files.get_many(project, [file.id, row_id("file-", 5)])
    files.delete(member_of(desk.owner), file.id)


def sweep_files(desk: Desk) -> None:
    """What the sweep does."""
    files, uploads = desk.files, desk.uploads
    files.expire()
    files.delete_orphans(seconds=0)
    uploads.expire()
    uploads.prune()
    files.referenced([row_id("files/content_", number) for number in range(50)])
    uploads.referenced([f"parts/{row_id('upload_', number)}/{row_id('part_', number)}" for number in range(50)])
    garbage.collect_garbage(files, desk.objects, seconds=5)
    garbage.collect_parts(uploads, desk.objects, seconds=5)


def ingest(ingestion: Ingestion) -> None:
    """Files are added, parsed, embedded and indexed, and found by a search; the index is made again."""
    shelf, database, index = ingestion.shelf, ingestion.database, ingestion.index
    store_id = ingestion.store("The red pump moves water.", "A valve closes the pipe.")
    batch = shelf.batches.create(shelf.caller, store_id, [NewStoreFile(ingestion.file("Cats sleep all day."))])
    shelf.batches.cancel(shelf.caller, store_id, batch.id)
    ingestion.run()
    search = VectorStoreSearch(database, index, Embedder(ingestion.token_path.client))
    shelf.pass_time(store_id, 100)
    assert search.search(shelf.caller, [store_id], SearchQuery(("valve",))).results
    request_rebuild(database, shelf.caller, store_id)
    ingestion.run()
    row = ingestion.row(store_id)
    apply_attributes(database, index, row.id)
    remove_unless_live(database, index, row.id)
    repair(database, index, project_id=shelf.project_id, store_id=store_id)


def use_vector_stores(ingestion: Ingestion) -> None:
    """What the routes of vector stores do otherwise."""
    shelf, project = ingestion.shelf, ingestion.shelf.project_id
    file_id = ingestion.file("The red pump moves water.")
    store_id = shelf.store(file_id, name="manuals", expires_after_days=1).id
    ingestion.run()
    for paging in (Paging(), Paging(order="asc"), Paging(after=store_id), Paging(before=store_id)):
        shelf.stores.page(project, paging)
        shelf.stores.page(project, paging, "manuals")
    for paging in (Paging(), Paging(order="asc"), Paging(after=file_id), Paging(before=file_id)):
        shelf.files.page(project, store_id, paging)
        shelf.files.page(project, store_id, paging, status=FileStatus.FAILED)
        shelf.files.page(project, store_id, paging, batch_id="vsfb_1")
    shelf.stores.update(shelf.caller, store_id, {"name": "books"})
    shelf.files.set_attributes(shelf.caller, store_id, file_id, ATTRIBUTES)
    assert list(shelf.files.texts(project, store_id, file_id))
    shelf.files.remove(shelf.caller, store_id, file_id)
    shelf.stores.delete(shelf.caller, store_id)
    shelf.delete_file(file_id)


def sweep_vector_stores(ingestion: Ingestion) -> None:
    """What the upkeep of vector stores does."""
    shelf, database, index = ingestion.shelf, ingestion.database, ingestion.index
    store_id = shelf.store(ingestion.file("Cats sleep all day."), expires_after_days=1).id
    ingestion.make_due(store_id)
    assert continue_later(database) == 1
    shelf.pass_time(store_id, 2 * 86400)
    assert shelf.stores.expire() > 0
    continue_attributes(database, until=time.monotonic() + 5)
    continue_rebuilds(database, until=time.monotonic() + 5)
    assert purge(database, index, until=time.monotonic() + 5) > 0
    repair_some(database, index, until=time.monotonic() + 5)
    with database.write() as session:
        session.run(update(projects).where(projects.c.id == shelf.project_id).values(archived_at=1))
    assert shelf.stores.delete_orphans(archived_days=30) > 0


def check_plans(database: Database, work: object, on: Desk | Ingestion, *, at_least: int) -> None:
    assert callable(work)
    plans = statement_plans(database, lambda: work(on))
    assert len(plans) >= at_least
    scanned = [f"{statement[:2000]}\n{plan}" for statement, plan in plans if full_scans(plan, GROWING)]
    assert not scanned, "\n\n".join(scanned)


def test_no_query_reads_a_whole_table(
    database: Database, owner: KeyOwner, vectors: VectorIndex, tmp_path: Path
) -> None:
    token_path = TokenPath()
    try:
        fill_files(database, ROWS)
        fill_vector_stores(database, ROWS)
        desk = Desk.open(database, tmp_path / "objects", owner)
        ingestion = Ingestion(Shelf(database, owner), vectors, token_path, tmp_path)
        check_plans(database, use_files, desk, at_least=25)
        check_plans(database, sweep_files, desk, at_least=20)
        check_plans(database, ingest, ingestion, at_least=45)
        check_plans(database, use_vector_stores, ingestion, at_least=50)
        check_plans(database, sweep_vector_stores, ingestion, at_least=30)
    finally:
        token_path.close()
        empty_tables(database)
