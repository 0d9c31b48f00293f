"""/v1/fine_tuning/jobs: the fine-tuning jobs of a project, in OpenAI's format with upstream's fields."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from llmariner.context import Context
from llmariner.errors import PermissionDenied
from llmariner.fine_tuning.representation import checkpoint_object, event_object, job_object
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.event_streams import event_stream
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.fine_tuning import CreateFineTuningJob
from llmariner.http.schemas.lists import (
    FineTuningCheckpointCursor,
    FineTuningEventCursor,
    FineTuningJobCursor,
    Limit,
    metadata_filter,
)
from llmariner.tenancy.long_requests import check_still_allowed
from llmariner.tenancy.principal import Caller

Reader = Annotated[Caller, require_scope("api.fine_tuning.jobs.read")]
Writer = Annotated[Caller, require_scope("api.fine_tuning.jobs.write")]
_JOBS = "/v1/fine_tuning/jobs"
_JOB = f"{_JOBS}/{{id}}"
_HEARTBEAT_SECONDS = 15.0
_FILE_SCOPES = ("api.files.read", "api.files.write")


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("fine_tuning_jobs", context)
    app.get(_JOBS)(list_jobs)
    app.post(_JOBS)(create_job)
    app.get(_JOB)(get_job)
    app.post(f"{_JOB}/cancel")(cancel_job)
    app.post(f"{_JOB}/pause")(pause_job)
    app.post(f"{_JOB}/resume")(resume_job)
    app.get(f"{_JOB}/events", response_model=None)(list_events)
    app.get(f"{_JOB}/checkpoints")(list_checkpoints)
    return app


def list_jobs(request: Request, caller: Reader, after: FineTuningJobCursor = None, limit: Limit = 20) -> dict[str, Any]:
    """The project's jobs, newest first. Filters: `metadata[name]=value`, or `metadata=null`."""
    jobs, project_id = context_of(request).fine_tuning.jobs, caller.key_owner.project_id
    metadata = metadata_filter(request)
    found, more = jobs.page(project_id, after=after, limit=limit, metadata=metadata)
    return {**_list([job_object(job) for job in found], more), "total_items": jobs.count(project_id, metadata)}


def create_job(request: Request, caller: Writer, body: CreateFineTuningJob) -> dict[str, Any]:
    """Create a job; its files are checked next."""
    _check_reach(caller)
    return job_object(context_of(request).fine_tuning.jobs.create(caller, body.to_new()))


def get_job(request: Request, caller: Reader, id: str) -> dict[str, Any]:
    """One job."""
    return job_object(context_of(request).fine_tuning.jobs.get(caller.key_owner.project_id, id))


def cancel_job(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """End a job. One that has ended is returned as it is."""
    return job_object(context_of(request).fine_tuning.jobs.cancel(caller, id))


def pause_job(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """Pause a job."""
    return job_object(context_of(request).fine_tuning.jobs.pause(caller, id))


def resume_job(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """Let a paused job continue."""
    return job_object(context_of(request).fine_tuning.jobs.resume(caller, id))


async def list_events(
    request: Request,
    caller: Reader,
    id: str,
    after: FineTuningEventCursor = None,
    limit: Limit = 20,
    stream: bool = False,
) -> dict[str, Any] | StreamingResponse:
    """A job's events, newest first. `stream`: oldest first, as server-sent events, until the job ends."""
    context, project_id = context_of(request), caller.key_owner.project_id
    history = context.fine_tuning.history
    found, more = await asyncio.to_thread(history.events, project_id, id, after=after, limit=limit)
    if not stream:
        return _list([event_object(event) for event in found], more)
    allowed = partial(check_still_allowed, context.database, caller, "api.fine_tuning.jobs.read")
    return event_stream(_follow(context, id, after), allowed)


async def _follow(context: Context, job_id: str, after: str | None) -> AsyncGenerator[list[dict[str, Any]]]:
    async with aclosing(context.fine_tuning.event_feed.follow(job_id, after, _HEARTBEAT_SECONDS)) as parts:
        async for part in parts:
            yield [event_object(event) for event in part]


def list_checkpoints(
    request: Request, caller: Reader, id: str, after: FineTuningCheckpointCursor = None, limit: Limit = 10
) -> dict[str, Any]:
    """A job's checkpoints, newest first."""
    history = context_of(request).fine_tuning.history
    found, more = history.checkpoints(caller.key_owner.project_id, id, after=after, limit=limit)
    page = _list([checkpoint_object(checkpoint) for checkpoint in found], more)
    first, last = (found[0].id, found[-1].id) if found else (None, None)
    return {**page, "first_id": first, "last_id": last}


def _list(data: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    return {"object": "list", "data": data, "has_more": more}


def _check_reach(caller: Caller) -> None:
    """Raises PermissionDenied for a key by which a job could not read its files, or write its results."""
    assert caller.key_owner  # InvalidRequest without a project comes first
    if missing := [scope for scope in _FILE_SCOPES if scope not in caller.scopes]:
        raise PermissionDenied(
            f"A fine-tuning job reads and writes files for you, and this key lacks the scope '{missing[0]}'. Use a key "
            "that has it.",
            code="missing_scope",
        )
    if caller.allowed_sources is not None:
        raise PermissionDenied(
            "A fine-tuning job reads its files from where it runs, and this key is bound to certain networks. Use a key "
            "that is not.",
            code="source_not_allowed",
        )


handle = http_function(build)
