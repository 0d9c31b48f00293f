"""Results of jobs that arrive in parts, each compared with its SHA-256: what is larger than one part of an upload.

They are uploads of the project (`files.uploads`) under the names of results. Their time begins again with each part: on a
slow line all weights of a model take hours. A job has one at a time: that of a process which was ended would hold the
project's room for an hour.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from sqlalchemy import select

from llmariner.errors import Conflict, InvalidRequest, NotFound
from llmariner.files.files import Files
from llmariner.files.purposes import UPLOADED
from llmariner.files.tables import uploads as upload_rows
from llmariner.files.upload import Part, Status, Upload
from llmariner.files.upload_completion import UploadCompletion
from llmariner.files.upload_rows import load_upload, no_such_upload
from llmariner.files.uploads import IncomingPart, Uploads
from llmariner.fine_tuning.results import ResultKind, Results
from llmariner.fine_tuning.worker_tokens import Worker, load_job_of
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.objects import ObjectStore

__all__ = ["ResultPart", "ResultUploads"]


class ResultPart:
    """A part that arrives. `close` discards its bytes unless `save` made a part of them. One thread at a time."""

    def __init__(self, uploads: Uploads, worker: Worker, upload_id: str, sha256: str) -> None:
        self._uploads = uploads
        self._worker = worker
        self._upload_id = upload_id
        self._expected = sha256
        self._digest = hashlib.sha256()
        self._opened = ExitStack()
        self._incoming: IncomingPart | None = None

    def close(self) -> None:
        """Discard what was not saved."""
        self._opened.close()

    def begin(self) -> None:
        """Before the first byte. Raises as `Uploads.receive_part`."""
        self._uploads.renew(self._worker.maker.key_owner, self._upload_id)
        incoming = self._uploads.receive_part(self._worker.maker.key_owner, self._upload_id)
        self._incoming = self._opened.enter_context(incoming)

    def write(self, data: bytes) -> None:
        """The next bytes. Raises as `IncomingPart.write`."""
        self._digest.update(data)
        self._begun.write(data)

    def save(self) -> Part:
        """Make the part. Raises InvalidRequest for bytes with another digest, and as `Uploads.add_part`."""
        if self._digest.hexdigest() != self._expected:
            raise InvalidRequest(
                f"The part has the SHA-256 {self._digest.hexdigest()}, and {self._expected[:64]} is expected. Nothing was "
                "stored: send it again.",
                code="checksum_mismatch",
            )
        return self._uploads.add_part(self._worker.maker.key_owner, self._begun)

    @property
    def _begun(self) -> IncomingPart:
        assert self._incoming is not None
        return self._incoming


class ResultUploads:
    """Of one installation. All methods block, and raise Conflict once a process's attempt has ended."""

    def __init__(self, database: Database, objects: ObjectStore, files: Files, uploads: Uploads) -> None:
        self._database = database
        self._objects = objects
        self._files = files
        self._uploads = uploads

    @property
    def part_bytes(self) -> int:
        """Of each part but the last one."""
        return self._files.settings.upload_part_bytes

    def begin(self, worker: Worker, kind: str, size_bytes: int) -> Upload:
        """An upload for one result, in place of the one before that did not end. Raises as `Uploads.create`."""
        new = Results.new_file(worker.job_id, kind)
        with self._database.read() as session:
            job = load_job_of(session, worker)
        self.cancel(worker, job.project_id)
        return self._uploads.create(worker.maker.key_owner, new, size_bytes, _still_heard(worker))

    def receive_part(self, worker: Worker, upload_id: str, sha256: str) -> ResultPart:
        """Receive a part with this digest. NotFound for an upload that is none of the job."""
        self._check_own(worker, upload_id)
        return ResultPart(self._uploads, worker, upload_id, sha256)

    def complete(self, worker: Worker, upload_id: str, part_ids: Sequence[str], sha256: str) -> str:
        """The id of the file of the parts in this order, whose content has this digest.

        Idempotent. It takes up to minutes. Raises as `UploadCompletion.complete`.
        """
        self._check_own(worker, upload_id)
        completion = UploadCompletion(self._database, self._objects, self._files, self._uploads)
        check = partial(self._check_own, worker, upload_id)
        owner = worker.maker.key_owner
        _, file = completion.complete(owner, upload_id, part_ids, sha256=sha256, check_caller=check)
        return file.id

    def cancel(self, worker: Worker, project_id: str) -> None:
        """Cancel the uploads of a job that have not ended. None of a process that took over from this one meanwhile."""
        c = upload_rows.c
        names = [Results.new_file(worker.job_id, kind).filename for kind in ResultKind]
        results = (c.project_id == project_id) & c.filename.in_(names) & c.purpose.not_in(UPLOADED)
        with self._database.read() as session:
            rows = session.rows(select(c.id).where(results, c.status == Status.PENDING))
        for row in rows:
            try:
                self._uploads.cancel(worker.maker.key_owner, row.id, _still_heard(worker))
            except (Conflict, NotFound):  # it ended meanwhile
                continue

    def _check_own(self, worker: Worker, upload_id: str) -> None:
        with self._database.read() as session:
            job = load_job_of(session, worker)
            upload = load_upload(session, job.project_id, upload_id)
        # No caller can make uploads of their purposes.
        results = [Results.new_file(worker.job_id, kind) for kind in ResultKind]
        if upload.new_file not in results:
            raise no_such_upload(upload_id)


def _still_heard(worker: Worker) -> Callable[[WriteSession], object]:
    """A step of a transaction: it raises Conflict where another process took over, and none does before it ends."""
    return partial(load_job_of, worker=worker, lock=True)
