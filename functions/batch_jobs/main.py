"""/v1/batch/jobs: general training jobs of a project, in LLMariner's format. OpenAI's batches are another API."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any, TypeAlias

from fastapi import Query, Request
from fastapi.responses import StreamingResponse

from llmariner.batch_jobs.representation import batch_job_object
from llmariner.context import Context
from llmariner.errors import PlatformError
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.batch_jobs import CreateBatchJob
from llmariner.http.schemas.lists import BatchJobCursor, Limit
from llmariner.platform.jobs import LogPart
from llmariner.tenancy.long_requests import check_still_allowed
from llmariner.tenancy.principal import Caller

Reader = Annotated[Caller, require_scope("api.batch.jobs.read")]
Writer = Annotated[Caller, require_scope("api.batch.jobs.write")]
Output: TypeAlias = tuple[LogPart, bool]
"""Output, and whether the job had ended before it was read."""
_JOB = "/v1/batch/jobs/{id}"
_BODY_BYTES = 2 * 1024 * 1024
"""A megabyte of scripts in Base64, and what stands beside them."""
_FOLLOW_SECONDS = 0.5
_MAX_FOLLOW_SECONDS = 3500.0
_CHECK_SECONDS = 10.0
"""How often a caller who follows an output must still be allowed to."""


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("batch_jobs", context, body_limit=_BODY_BYTES)
    app.get("/v1/batch/jobs")(list_jobs)
    app.post("/v1/batch/jobs")(create_job)
    app.get(_JOB)(get_job)
    app.delete(_JOB)(delete_job)
    app.post(f"{_JOB}/cancel")(cancel_job)
    app.get(f"{_JOB}/logs")(get_logs)
    return app


def list_jobs(request: Request, caller: Reader, after: BatchJobCursor = None, limit: Limit = 20) -> dict[str, Any]:
    """The project's jobs, newest first."""
    jobs, project_id = context_of(request).batch_jobs, caller.key_owner.project_id
    found, more = jobs.page(project_id, after=after, limit=limit)
    return {
        "object": "list",
        "jobs": [batch_job_object(job) for job in found],
        "has_more": more,
        "total_items": jobs.count(project_id),
    }


def create_job(request: Request, caller: Writer, body: CreateBatchJob) -> dict[str, Any]:
    """Queue a job."""
    return batch_job_object(context_of(request).batch_jobs.create(caller, body.to_new()))


def get_job(request: Request, caller: Reader, id: str) -> dict[str, Any]:
    """One job."""
    return batch_job_object(context_of(request).batch_jobs.get(caller.key_owner.project_id, id))


def cancel_job(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """Ask for the end of a job. One that has ended is returned as it is."""
    return batch_job_object(context_of(request).batch_jobs.cancel(caller, id))


def delete_job(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """Delete a job and its log; it ends if it runs."""
    return batch_job_object(context_of(request).batch_jobs.delete(caller, id))


async def get_logs(
    request: Request,
    caller: Reader,
    id: str,
    follow: bool = False,
    start: Annotated[int, Query(ge=0, le=2**53)] = 0,
) -> StreamingResponse:
    """A job's output as text, from byte `start` of all output on. `follow`: until the job ends."""
    context, project_id = context_of(request), caller.key_owner.project_id
    first = await asyncio.to_thread(context.batch_jobs.log, project_id, id, start)
    allowed = partial(check_still_allowed, context.database, caller, "api.batch.jobs.read")
    read = partial(context.batch_jobs.log, project_id, id)
    headers = {"x-log-start": str(first[0].start), "x-content-type-options": "nosniff"}
    parts = _follow(first, read, allowed) if follow else _read_on(first, read)
    return StreamingResponse(parts, media_type="text/plain; charset=utf-8", headers=headers)


async def _read_on(first: Output, read: Callable[[int], Output]) -> AsyncIterator[bytes]:
    """The output that there is now."""
    part, _ = first
    while part.data:
        yield part.data
        part, _ = await asyncio.to_thread(read, part.end)


async def _follow(first: Output, read: Callable[[int], Output], allowed: Callable[[], None]) -> AsyncIterator[bytes]:
    """The output until the job ends or is deleted, or the caller may not read it any more: the response has begun."""
    part, has_ended = first
    began = checked = time.monotonic()
    while part.data or not has_ended:
        if part.data:
            yield part.data
        else:
            await asyncio.sleep(_FOLLOW_SECONDS)
        if (now := time.monotonic()) - began > _MAX_FOLLOW_SECONDS:
            return
        try:
            if now - checked > _CHECK_SECONDS:
                await asyncio.to_thread(allowed)
                checked = now
            part, has_ended = await asyncio.to_thread(read, part.end)
        except PlatformError:
            return


handle = http_function(build)
