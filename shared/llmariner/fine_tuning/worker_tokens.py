"""Tokens of the processes of jobs: each is good for one attempt of one job, its data and its reports, and nothing else.

A token gives no right of its own. Each use reads what the user and the API key that created the job may do now.

An attempt may have several processes, one after another: a cluster replaces a pod whose node it has lost, and the process on
that node may continue. Each chooses an id, and the last one that asked for the plan is the one that is heard.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from llmariner.errors import AuthenticationFailed, Conflict, InvalidRequest
from llmariner.files.link_tokens import maker_claims, read_maker
from llmariner.fine_tuning.job import Status
from llmariner.fine_tuning.jobs import select_jobs
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.gateway.authentication.signed_tokens import NotSigned, SignedTokens
from llmariner.platform.database import Database, ReadSession
from llmariner.settings import Secret
from llmariner.tenancy.principal import Caller, maker_of

__all__ = ["PROCESS_HEADER", "Worker", "WorkerTokens", "load_attempt", "load_job_of"]

PROCESS_HEADER = "x-llmariner-process"
"""Of the id of a process."""
_AUDIENCE = "fine_tuning_worker"
_SCOPE = "api.fine_tuning.jobs.write"
_PROCESS = re.compile(r"[0-9a-f]{32}", re.ASCII)
_SECONDS = 14 * 86400
"""It waits in line with the job, for days perhaps. The attempt's end ends it before."""


@dataclass(frozen=True)
class Worker:
    """The process of an attempt. `maker`: who created the job, with the right to do so and no other.

    `process`: the id that it has chosen; "": it is of the release before, which has none.
    """

    job_id: str
    attempt: int
    maker: Caller
    process: str = ""


class WorkerTokens:
    """`secrets`: the first signs, each of them verifies."""

    def __init__(self, database: Database, secrets: Sequence[Secret]) -> None:
        self._database = database
        self._tokens = SignedTokens([secret.reveal().encode() for secret in secrets], _AUDIENCE)

    def issue(self, job: Row[Any]) -> str:
        """A token for the present attempt of a job, a row of `fine_tuning_jobs`."""
        return self._tokens.sign({"job": job.id, "attempt": job.attempt, "exp": int(time.time()) + _SECONDS})

    def is_signed(self, token: str) -> bool:
        """Whether the installation made a token, so that it is no guess."""
        return self._tokens.is_signed(token)

    def open(self, token: str, job_id: str, process: str = "") -> Worker:
        """The process with this token, which says that it has this id.

        Raises AuthenticationFailed for a text that is no token of that job, Conflict once the attempt has ended,
        PermissionDenied where its maker may not train any more, InvalidRequest for no id.
        """
        claims = self._claims(token)
        if claims["job"] != job_id or claims["exp"] <= time.time():
            raise _invalid()
        if process and not _PROCESS.fullmatch(process):
            raise InvalidRequest("The id of a process has 32 hexadecimal digits.", code="invalid_value")
        with self._database.read() as session:
            job = load_attempt(session, job_id, claims["attempt"])
        made = maker_claims(maker_of(job))
        place = {"organization_id": job.organization_id, "project_id": job.project_id}
        maker = read_maker(self._database, made, **place, scope=_SCOPE)
        return Worker(job_id, claims["attempt"], maker, process)

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            return self._tokens.verified(token)
        except NotSigned:
            raise _invalid() from None


def load_attempt(session: ReadSession, job_id: str, attempt: int, *, lock: bool = False) -> Row[Any]:
    """The row of a job. Raises Conflict unless this is its present attempt, and it has not ended nor is paused.

    `lock`: until the transaction ends.
    """
    query = select_jobs().where(fine_tuning_jobs.c.id == job_id)
    job = session.first(query.with_for_update(of=fine_tuning_jobs) if lock else query)
    if job is None or job.attempt != attempt or Status(job.status).is_final or job.status == Status.PAUSED:
        raise Conflict("This attempt of the job has ended: end the process.", code="attempt_ended")
    return job


def load_job_of(session: ReadSession, worker: Worker, *, lock: bool = False) -> Row[Any]:
    """As `load_attempt`, of a process. Raises Conflict for one after which another has begun."""
    job = load_attempt(session, worker.job_id, worker.attempt, lock=lock)
    if worker.process and job.process not in (None, worker.process):
        raise Conflict("Another process has taken over this attempt of the job: end the process.", code="attempt_ended")
    return job


def _invalid() -> AuthenticationFailed:
    return AuthenticationFailed("The token is not one of this job.")
