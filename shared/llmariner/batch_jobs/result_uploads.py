"""Files that the pod of a batch job leaves: it names them, and uploads each by a link.

Until the job has ended, the row of a file that was named has the id of its link in place of the file's. A pod that begins
again names its files again: those of the one before are deleted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, select, update

from llmariner.batch_jobs.job_tokens import JobPod, check_placement, load_unfinished
from llmariner.batch_jobs.tables import batch_job_results, batch_jobs
from llmariner.errors import Conflict, InvalidRequest, NotFound
from llmariner.files.file import NewFile
from llmariner.files.files import Files
from llmariner.files.names import clean_file_name, media_type
from llmariner.files.purposes import Purpose
from llmariner.files.tables import files, uploads
from llmariner.files.upload_links import UploadLink, UploadLinks, withdraw_link
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.jobs import MAX_RESULT_FILES, MAX_RESULT_NAME, ResultFile

__all__ = ["ResultUploads", "discard_results", "settle_uploads"]

_LINK_SECONDS = 7 * 86400
"""At most, as long as any link: on a slow line many files take hours, and the end of the job ends its links."""
_MAX_SAID = 2000
_NAMED = 5
_MAX_NAMED = 40
"""A job starts again 20 times at most by its own fault; a node that fails adds to that."""


@dataclass(frozen=True)
class ResultUploads:
    """See the module. `url`: of the function that takes uploads, as the pods of a cluster reach it (None: of this one).

    `disk_bytes`: the most of one job.
    """

    database: Database
    files: Callable[[], Files]
    links: Callable[[], UploadLinks]
    url: Callable[[str | None], str]
    disk_bytes: int

    def begin(self, pod: JobPod, named: Sequence[ResultFile], left_out: str) -> list[tuple[str, str]]:
        """The names and URLs (for PUT) of the files that a job leaves, in place of what it left before.

        `left_out`: what is not among them and why, for users. Raises InvalidRequest, Conflict once the job has ended or its
        pods have named files too often: each time makes links and entries of the audit log.
        """
        self._check(named)
        self.database.transact(lambda session: _count(session, pod.job_id))
        made = [(each, self._link(pod, each)) for each in named]

        def replace(session: WriteSession) -> tuple[str | None, list[str]]:
            job = load_unfinished(session, pod.job_id, lock=True)
            check_placement(job, pod.placement)
            before = discard_results(session, job.id)
            for each, link in made:
                session.add(batch_job_results, **_row(job, each, link.id))
            said = left_out[:_MAX_SAID] or None
            session.run(update(batch_jobs).where(batch_jobs.c.id == job.id).values(results_error=said))
            return job.cluster_id, before

        cluster_id, replaced = self.database.transact(replace)
        for file_id in replaced:
            with contextlib.suppress(NotFound):
                self.files().delete(pod.maker, file_id)
        url = self.url(cluster_id)
        return [(each.name, url + link.path) for each, link in made]

    def _link(self, pod: JobPod, each: ResultFile) -> UploadLink:
        terms = self.links().terms(_new_file(each.name), size_bytes=each.size_bytes)
        return self.links().create(pod.maker, terms, min(_LINK_SECONDS, self.links().longest_seconds))

    def _check(self, named: Sequence[ResultFile]) -> None:
        if len(named) > MAX_RESULT_FILES:
            raise InvalidRequest(f"A job leaves {MAX_RESULT_FILES} files at most.", param="files")
        if len({each.name for each in named}) < len(named):
            raise InvalidRequest("'files' names a file twice: name each once.", param="files")
        for each in named:
            parts = each.name.split("/")
            if len(each.name) > MAX_RESULT_NAME or not each.name.isprintable() or {"", ".", ".."} & set(parts):
                raise InvalidRequest(
                    f"'{each.name[:100]!a}' is no path below a folder, of up to {MAX_RESULT_NAME} characters.",
                    param="files.name",
                )
        if sum(each.size_bytes for each in named) > self.disk_bytes:
            raise InvalidRequest(f"The files of a job have {self.disk_bytes} bytes at most.", param="files.bytes")


def _count(session: WriteSession, job_id: str) -> None:
    job, c = load_unfinished(session, job_id, lock=True), batch_jobs.c
    if job.results_named >= _MAX_NAMED:
        raise Conflict(
            f"The pods of this job have named their files {_MAX_NAMED} times, which is the most. What was uploaded last is "
            "kept.",
            code="too_many_attempts",
        )
    session.run(update(batch_jobs).where(c.id == job_id).values(results_named=c.results_named + 1))


def discard_results(session: WriteSession, job_id: str) -> list[str]:
    """Let a job have no results; returns the ids of the files that it had, which are to be deleted.

    The sweep of files deletes them if nobody does before, and no link that was not used makes another one.
    """
    settle_uploads(session, job_id)
    of_job = batch_job_results.c.batch_job_id == job_id
    ids = [row.file_id for row in session.rows(select(batch_job_results.c.file_id).where(of_job))]
    session.run(delete(batch_job_results).where(of_job))
    if ids:
        session.run(update(files).where(files.c.id.in_(ids)).values(expires_at=int(session.now())))
    return ids


def settle_uploads(session: WriteSession, job_id: str) -> str:
    """Let the rows of a job's results have their files; returns which were not uploaded. Idempotent.

    Their links are withdrawn: a pod that comes back later makes no file.
    """
    c = batch_job_results.c
    missing: list[str] = []
    linked = select(batch_job_results, uploads.c.file_id.label("uploaded"), files.c.id.label("present"))
    linked = linked.join(uploads, uploads.c.id == c.file_id, isouter=True)
    linked = linked.join(files, files.c.id == uploads.c.file_id, isouter=True)
    for row in session.rows(linked.where(c.batch_job_id == job_id, c.file_id.like("upload%")).order_by(c.name)):
        this = (c.batch_job_id == job_id, c.name == row.name)
        made = row.present
        if not row.uploaded:
            made = withdraw_link(session, row.file_id, _new_file(row.name), row, _LINK_SECONDS)
            missing += [row.name] if made is None else []
        if made is not None:
            session.run(update(batch_job_results).where(*this).values(file_id=made))
        else:
            session.run(delete(batch_job_results).where(*this))
    if not missing:
        return ""
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return f"Not uploaded: {', '.join(map(ascii, missing[:_NAMED]))}{more}."


def _new_file(path: str) -> NewFile:
    name = clean_file_name(path, param="files.name")
    return NewFile(name, Purpose.BATCH_JOB_OUTPUT, media_type(None, name))


def _row(job: Row[Any], each: ResultFile, file_id: str) -> dict[str, Any]:
    place = {"organization_id": job.organization_id, "project_id": job.project_id}
    return {"batch_job_id": job.id, "name": each.name, "file_id": file_id, "size_bytes": each.size_bytes, **place}
