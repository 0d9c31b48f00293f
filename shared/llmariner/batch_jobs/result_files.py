"""Makes files of a project of what a batch job left in its folder `output`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sqlalchemy import Row, select

from llmariner.batch_jobs.tables import batch_job_results, batch_jobs
from llmariner.errors import Conflict, InsufficientQuota, PermissionDenied, PlatformError, Unavailable
from llmariner.files.content import IncomingContent
from llmariner.files.file import File, NewFile
from llmariner.files.files import Finish
from llmariner.files.link_tokens import maker_claims, read_maker
from llmariner.files.names import clean_file_name, media_type
from llmariner.files.purposes import Purpose
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.jobs import Jobs, ResultFile
from llmariner.tenancy.principal import KeyOwner, maker_of

__all__ = ["ResultStore", "ResultWriter", "results_of"]

_SCOPE = "api.files.write"
_MAX_PROBLEMS = 5


class ResultStore(Protocol):
    """The part of `files.Files` that this uses."""

    def receive(
        self, owner: KeyOwner, *, purpose: Purpose | None, size_bytes: int, limit_bytes: int
    ) -> IncomingContent:
        """Begin a new file's content."""

    def save(self, owner: KeyOwner, new: NewFile, content: IncomingContent, finish: Finish) -> File:
        """Make a file of received content."""


class ResultWriter:
    """See the module. All methods block."""

    def __init__(self, database: Database, files: Callable[[], ResultStore]) -> None:
        self._database = database
        self._files = files

    def keep(self, port: Jobs, job: Row[Any], *, seconds: float) -> str | None:
        """Make a file of each result of an ended job, in the name of who created it; returns what was not kept and why.

        None: the time is over before all are made, at least one by this call; the next call continues. Idempotent: each
        file and its row are made together. Raises Unavailable where the store or the database does not answer: then the
        results wait for the next call.
        """
        until, made = time.monotonic() + seconds, False
        found = port.results(job.id)
        if not found.files:
            return found.left_out
        with self._database.read() as session:
            kept = {row.name for row in results_of(session, [job.id])}
        problems = [found.left_out] if found.left_out else []
        place = {"organization_id": job.organization_id, "project_id": job.project_id}
        try:
            owner = read_maker(self._database, maker_claims(maker_of(job)), **place, scope=_SCOPE).key_owner
            store = self._files()
        except (PermissionDenied, Unavailable) as error:
            if isinstance(error, Unavailable) and error.code != "no_object_store":
                raise
            return " ".join([*problems, f"No file was kept: {error.message}"])
        for each in found.files:
            if each.name in kept:
                continue
            if made and time.monotonic() > until:
                return None
            try:
                _keep_one(port, job, owner, each, store)
                made = True
            except Unavailable:
                raise
            except PlatformError as error:
                problems.append(f"'{each.name}' was not kept: {error.message}")
                if len(problems) == _MAX_PROBLEMS or isinstance(error, InsufficientQuota):
                    problems.append("Nor were those after it.")
                    break
        return " ".join(problems)


def _keep_one(port: Jobs, job: Row[Any], owner: KeyOwner, result: ResultFile, store: ResultStore) -> None:
    def note(session: WriteSession, file: File) -> None:
        this = select(batch_jobs.c.id).where(batch_jobs.c.id == job.id, batch_jobs.c.deleted_at.is_(None))
        if session.first(this.with_for_update()) is None:
            raise Conflict("The job was deleted meanwhile.")
        place = {"organization_id": file.organization_id, "project_id": file.project_id}
        row = {
            "batch_job_id": job.id,
            "name": result.name,
            "file_id": file.id,
            "size_bytes": file.size_bytes,
            **place,
        }
        if not session.insert_if_absent(batch_job_results, [row]):
            raise Conflict("Another process has kept it.")

    name = clean_file_name(result.name)
    new = NewFile(name, Purpose.BATCH_JOB_OUTPUT, media_type(None, name))
    receiving = store.receive(owner, purpose=new.purpose, size_bytes=result.size_bytes, limit_bytes=result.size_bytes)
    with receiving as content:
        for part in port.read_result(job.id, result.name):
            content.write(part)
        try:
            store.save(owner, new, content, note)
        except Conflict:
            return


def results_of(session: ReadSession, job_ids: Sequence[str]) -> Sequence[Row[Any]]:
    """The rows of the results of jobs, by name."""
    c = batch_job_results.c
    return session.rows(select(batch_job_results).where(c.batch_job_id.in_(job_ids)).order_by(c.batch_job_id, c.name))
