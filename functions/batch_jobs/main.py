"""/v1/batch/jobs: general training jobs of a project, in LLMariner's format. OpenAI's batches are another API."""

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import StreamingResponse

from llmariner.batch_jobs.representation import batch_job_object
from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources.batch_job_output import OutputWatches, read_on
from llmariner.http.schemas.batch_jobs import CreateBatchJob
from llmariner.http.schemas.lists import BatchJobCursor, Limit
from llmariner.tenancy.long_requests import check_still_allowed
from llmariner.tenancy.principal import Caller

Reader = Annotated[Caller, require_scope("api.batch.jobs.read")]
Writer = Annotated[Caller, require_scope("api.batch.jobs.write")]
_JOB = "/v1/batch/jobs/{id}"
_BODY_BYTES = 2 * 1024 * 1024
"""A megabyte of scripts in Base64, and what stands beside them."""


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("batch_jobs", context, body_limit=_BODY_BYTES)
    app.get("/v1/batch/jobs")(list_jobs)
    app.post("/v1/batch/jobs")(create_job)
    app.get(_JOB)(get_job)
    app.delete(_JOB)(delete_job)
    app.post(f"{_JOB}/cancel")(cancel_job)
    app.post(f"{_JOB}/pause")(pause_job)
    app.post(f"{_JOB}/resume")(resume_job)
    app.get(f"{_JOB}/logs")(get_logs)
    app.state.watches = OutputWatches(lambda: context.batch_jobs)
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


def pause_job(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """Keep a job from running until it is resumed."""
    return batch_job_object(context_of(request).batch_jobs.pause(caller, id))


def resume_job(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """Queue a paused job again."""
    return batch_job_object(context_of(request).batch_jobs.resume(caller, id))


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
    watches: OutputWatches = request.app.state.watches
    first = await asyncio.to_thread(context.batch_jobs.log, project_id, id, start)
    headers = {"x-log-start": str(first.start), "x-content-type-options": "nosniff"}
    if follow:
        watches.check_room(project_id)
        allowed = partial(check_still_allowed, context.database, caller, "api.batch.jobs.read")
        parts = watches.follow(project_id, id, first.start, allowed)
    else:
        parts = read_on(first, partial(context.batch_jobs.output, id))
    return StreamingResponse(parts, media_type="text/plain; charset=utf-8", headers=headers)


handle = http_function(build)
