"""/v1/batch/jobs/{id}/exec: programs in running jobs. A function of its own, since on a cluster no other may start them."""

from functools import partial
from typing import Annotated

from fastapi import Request
from fastapi.responses import StreamingResponse

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources.batch_job_programs import ProgramStreams
from llmariner.http.schemas.batch_jobs import ExecInBatchJob
from llmariner.tenancy.long_requests import check_still_allowed
from llmariner.tenancy.principal import Caller

EXEC = "api.batch.jobs.exec"
Executor = Annotated[Caller, require_scope(EXEC)]
_BODY_BYTES = 2 * 1024 * 1024
"""A megabyte of standard input in Base64."""


def build(context: Context) -> Application:
    """The application with its route."""
    app = create_app("batch_jobs_exec", context, body_limit=_BODY_BYTES)
    app.post("/v1/batch/jobs/{id}/exec")(exec_in_job)
    app.state.programs = ProgramStreams()
    return app


async def exec_in_job(request: Request, caller: Executor, id: str, body: ExecInBatchJob) -> StreamingResponse:
    """Start a program in a running job: its output as server-sent events, and its exit code."""
    context, programs = context_of(request), request.app.state.programs
    begin = partial(context.batch_jobs.exec, caller, id, body.command, body.input())
    allowed = partial(check_still_allowed, context.database, caller, EXEC)
    events = await programs.start(begin, allowed, caller.organization_id)
    return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})


handle = http_function(build)
