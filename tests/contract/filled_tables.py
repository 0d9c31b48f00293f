"""Tables of files, vector stores and jobs with many rows, so that a plan shows whether a query reads all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from sqlalchemy import text

from llmariner.platform.database import Database

from .query_plans import numbers

__all__ = [
    "GROWING",
    "JOB_TABLES",
    "empty_tables",
    "fill_batch_jobs",
    "fill_files",
    "fill_fine_tuning",
    "fill_vector_stores",
    "row_id",
]

GROWING = (
    "file_contents",
    "files",
    "uploads",
    "upload_parts",
    "vector_stores",
    "vector_store_file_batches",
    "vector_store_files",
    "vector_store_chunks",
)
"""The tables that grow with use. `file_usage` has one row for each project."""
JOB_TABLES = (
    "batch_jobs",
    "batch_job_files",
    "batch_job_results",
    "fine_tuning_jobs",
    "fine_tuning_files",
    "fine_tuning_metadata",
    "fine_tuning_events",
    "fine_tuning_grades",
    "fine_tuning_checkpoints",
    "fine_tuning_permissions",
    "fine_tuning_runs",
)
"""Those that grow with jobs."""

_PROJECTS, _FIRST = 100, 10_000_000
_PLACE = {"organization_id": "'org_1'", "project_id": f"'proj_' || (n % {_PROJECTS})"}


def row_id(prefix: str, number: int) -> str:
    """The id of the row of that number, of the rows with that prefix."""
    return f"{prefix}{_FIRST + number}"


def _id(prefix: str, number: str = "n") -> str:
    return f"'{prefix}' || ({_FIRST} + {number})"


def _few(value: str, otherwise: str = "NULL") -> str:
    """One row in 10,000 has the value."""
    return f"CASE WHEN n % 10000 = 7 THEN {value} ELSE {otherwise} END"


def fill_files(database: Database, rows: int) -> None:
    """Files of 100 projects, their contents, and uploads that have ended, each with a part; a few are due for the sweep."""
    now = int(time.time())
    same = {**_PLACE, "size_bytes": "1", "created_at": f"{now} - n"}
    kind = {
        "filename": "'a.txt'",
        "purpose": "CASE n % 3 WHEN 0 THEN 'batch' ELSE 'assistants' END",
        "content_type": "'a/b'",
    }
    _fill(database, "file_contents", rows, {**same, "key": _id("files/content_"), "sha256": _id("sha")})
    expiry = _few(str(now - 5), f"CASE WHEN n % 2 = 0 THEN {now} + 1000 + n END")
    _fill(
        database,
        "files",
        rows,
        {**same, **kind, "id": _id("file-"), "content_key": _id("files/content_"), "expires_at": expiry},
    )
    ended = {"status": _few("'pending'", "'completed'"), "ended_at": _few("NULL", f"{now} - 600000 + n")}
    ended["expires_at"] = f"{now} - n"
    _fill(database, "uploads", rows, {**same, **kind, **ended, "id": _id("upload_")})
    _fill(database, "upload_parts", rows, {**same, "id": _id("part_"), "upload_id": _id("upload_")})


def fill_vector_stores(database: Database, rows: int) -> None:
    """Vector stores of 100 projects, half expired, each with a batch, a file and a chunk; sweeps are due for a few."""
    now = int(time.time())
    same = {**_PLACE, "created_at": f"{now} - n"}
    over = {
        "expires_at": f"CASE WHEN n % 2 = 0 THEN {now} - n END",
        "expired_at": _few("NULL", f"CASE WHEN n % 2 = 0 THEN {now} - n END"),
    }
    named = {
        "name": _id("store "),
        "unique_name": _id("store "),
        "description": "''",
        "metadata": "'{}'",
        "last_active_at": "1",
    }
    model = {"embedding_model": "'m'", "dimension": "8"}
    gone = {"deleted_at": _few(f"{now} - 9000"), "rebuild_requested_at": "CASE WHEN n % 5000 = 3 THEN 5.0 END"}
    _fill(database, "vector_stores", rows, {**same, **over, **named, **model, **gone, "id": _id("vs_")})
    of_store = {**same, "vector_store_id": _id("vs_")}
    _fill(database, "vector_store_file_batches", rows, {**of_store, "id": _id("vsfb_")})
    progress = {
        "status": "CASE WHEN n % 1000 = 1 THEN 'in_progress' WHEN n % 10 = 3 THEN 'failed' ELSE 'completed' END",
        "step": "CASE WHEN n % 1000 = 1 THEN 'embed' ELSE 'done' END",
        "retry_at": f"CASE WHEN n % 1000 = 1 THEN {now} + 500.0 WHEN n % 10 = 3 AND n % 10000 <> 3 THEN {now} END",
        "deleted_at": f"CASE WHEN n % 10000 = 9 THEN {now} - 9000 WHEN n % 10 = 9 THEN {now} END",
        **dict.fromkeys(("next_chunk", "chunk_count", "usage_bytes"), "1"),
        "attempts": "0",
    }
    added = {"file_id": _id("file-"), "user_id": "'user_1'", "batch_id": _id("vsfb_"), "attributes": "'{}'"}
    added["chunking_strategy"] = "'{}'"
    _fill(database, "vector_store_files", rows, {**of_store, **progress, **added, "id": _id("vsf_")})
    place = {**of_store, "vector_store_file_id": _id("vsf_"), "chunk_index": "0", "text": "'a'", "tokens": "1"}
    del place["created_at"]
    spans = {"start_offset": "0", "end_offset": "1", "headings": "'[]'"}
    _fill(database, "vector_store_chunks", rows, {**place, **spans, "id": _id("vsf_") + " || '-0'"})


def fill_batch_jobs(database: Database, rows: int) -> None:
    """Jobs of 100 projects that have ended, but for a few, each with a file and a result."""
    words = dict.fromkeys(("user_id", "image", "command"), "'x'")
    words |= {"envs": "'{}'", "scripts": "'{}'", "script_names": "'[]'", "data_files": "'[]'"}
    ends = {"status": _few("'queued'", "'succeeded'"), "finished_at": _few("NULL", "1")}
    columns = {**_PLACE, **words, **ends, "environment": "'x'", "created_at": "1", "deleted_at": "NULL"}
    _fill(database, "batch_jobs", rows, {**columns, "id": _id("bj-")})
    of_job = {**_PLACE, "batch_job_id": _id("bj-"), "file_id": _id("file-")}
    _fill(database, "batch_job_files", rows, of_job)
    _fill(database, "batch_job_results", rows, {**of_job, "name": "'model.bin'", "size_bytes": "1"})


def fill_fine_tuning(database: Database, rows: int) -> None:
    """Jobs of 100 projects that have ended, but for a few, each with a row of every other table."""
    words = dict.fromkeys(("user_id", "model", "training_file", "requested", "metadata"), "'x'")
    kind = {"model_id": "'model_' || (n % 10)", "method": "'supervised'", "stage": "'train'"}
    counts = ("model_bytes", "model_created_at", "seed", "attempt", "failures", "checked_bytes", "checked_lines")
    numbers_ = dict.fromkeys((*counts, "step", "trained_tokens", "created_at"), "1")
    ends = {"status": _few("'queued'", "'succeeded'"), "finished_at": _few("NULL", "1")}
    ends["released"] = _few("FALSE", "TRUE")
    columns = {**_PLACE, **words, **kind, **numbers_, **ends, "output_model": _id("ft:x:"), "id": _id("ftjob-")}
    _fill(database, "fine_tuning_jobs", rows, columns)
    of_job = {**_PLACE, "job_id": _id("ftjob-")}
    _fill(database, "fine_tuning_files", rows, {**of_job, "file_id": _id("file-")})
    _fill(database, "fine_tuning_metadata", rows, {**of_job, "name": "'team'", "value": "'t' || (n % 50)"})
    event = {"created_at": "1", "level": "'info'", "message": "'x'", "step": "n", "data": "'{}'"}
    _fill(database, "fine_tuning_events", rows, {**of_job, **event, "id": _id("ftevent-")})
    made = {"created_at": "1", "step": "n", "file_id": _id("file-"), "model": _id("ft:x:"), "metrics": "'{}'"}
    graded = {"grader": "'gate'", "step": "n", "place": "'1'", "digest": "'x'", "reward": "1.0", "errors": "'{}'"}
    _fill(database, "fine_tuning_grades", rows, {**of_job, **graded})
    _fill(database, "fine_tuning_checkpoints", rows, {**of_job, **made, "id": _id("ftckpt_")})
    given = {**_PLACE, "model": _id("ft:x:"), "location": "'x'", "created_at": "1", "id": _id("cp_")}
    _fill(database, "fine_tuning_permissions", rows, given)


def empty_tables(database: Database, tables: Sequence[str] = GROWING) -> None:
    """Delete all rows of them, given with those before that others refer to."""
    with database.write() as session:
        if database.engine.dialect.name == "postgresql":
            session.run(text(f"TRUNCATE {', '.join(tables)}"))
        else:
            for table in reversed(tables):
                session.run(text(f"DELETE FROM {table}"))


def _fill(database: Database, table: str, rows: int, columns: Mapping[str, str]) -> None:
    """Insert rows. `columns`: an SQL expression of the row's number `n` for each column."""
    names, values = ", ".join(columns), ", ".join(columns.values())
    with database.write() as session:
        if database.engine.dialect.name == "postgresql":
            session.run(text("SET LOCAL session_replication_role = replica"))  # without a look-up for each foreign key
        session.run(text(f"INSERT INTO {table} ({names}) SELECT {values} FROM {numbers(database, rows)}"))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"ANALYZE {table}")
