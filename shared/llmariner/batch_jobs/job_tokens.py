"""Tokens of the pods of batch jobs: each is good for naming the files that one job leaves, and nothing else.

A token gives no right of its own. Each use reads what the user and the API key that created the job may do now.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select

from llmariner.batch_jobs.port_ids import split_port_id
from llmariner.batch_jobs.tables import batch_jobs
from llmariner.errors import AuthenticationFailed, Conflict
from llmariner.files.link_tokens import maker_claims, read_maker
from llmariner.gateway.authentication.signed_tokens import NotSigned, SignedTokens
from llmariner.platform.database import Database, ReadSession
from llmariner.settings import Secret
from llmariner.tenancy.principal import Caller, maker_of

__all__ = ["JobPod", "JobTokens", "check_placement", "load_unfinished"]

_AUDIENCE = "batch_job_pod"
_SCOPE = "api.files.write"
_SECONDS = 14 * 86400
"""It waits in line with the job, for days perhaps. The job's end ends it before."""


@dataclass(frozen=True)
class JobPod:
    """A pod of a job. `maker`: who created the job, with the right to make files and no other.

    `placement`: the number of the placement that the pod belongs to.
    """

    job_id: str
    maker: Caller
    placement: int = 0


class JobTokens:
    """`secrets`: the first signs, each of them verifies."""

    def __init__(self, database: Database, secrets: Sequence[Secret]) -> None:
        self._database = database
        self._tokens = SignedTokens([secret.reveal().encode() for secret in secrets], _AUDIENCE)

    def issue(self, job_id: str) -> str:
        """A token of a job, by the id that it has where it runs now: it ends when the job is placed again."""
        return self._tokens.sign({"job": job_id, "exp": int(time.time()) + _SECONDS})

    def is_signed(self, token: str) -> bool:
        """Whether the installation made a token, so that it is no guess."""
        return self._tokens.is_signed(token)

    def open(self, token: str, job_id: str) -> JobPod:
        """The pod with this token. `job_id`: as for `issue`.

        Raises AuthenticationFailed for a text that is no token of that job, Conflict once the job has ended,
        PermissionDenied where its maker may not make files any more.
        """
        claims = self._claims(token)
        if claims["job"] != job_id or claims["exp"] <= time.time():
            raise _invalid()
        with self._database.read() as session:
            row_id, placement = split_port_id(job_id)
            job = load_unfinished(session, row_id)
        check_placement(job, placement)
        place = {"organization_id": job.organization_id, "project_id": job.project_id}
        maker = read_maker(self._database, maker_claims(maker_of(job)), **place, scope=_SCOPE)
        return JobPod(row_id, maker, placement)

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            return self._tokens.verified(token)
        except NotSigned:
            raise _invalid() from None


def load_unfinished(session: ReadSession, job_id: str, *, lock: bool = False) -> Row[Any]:
    """The row of a job. Raises Conflict where it has ended, or is canceled or deleted."""
    query = select(batch_jobs).where(batch_jobs.c.id == job_id)
    job = session.first(query.with_for_update() if lock else query)
    ended = job is None or job.finished_at is not None or job.deleted_at is not None
    if job is None or ended or job.cancel_requested_at is not None:
        raise Conflict("The job has ended: it can leave no more files.", code="job_ended")
    return job


def check_placement(job: Row[Any], placement: int) -> None:
    """Raises Conflict for what an earlier placement of a job asks for, such as on a cluster that was away."""
    if job.placement != placement:
        raise Conflict("The job runs elsewhere now: what began here can leave no files.", code="job_moved")


def _invalid() -> AuthenticationFailed:
    return AuthenticationFailed("The token is not one of this job.")
