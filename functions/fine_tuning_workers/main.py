"""/v1/fine_tuning/workers: what the processes of fine-tuning jobs ask and report, each with the token of its job."""

import re
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse

from llmariner.audit.request_context import client_address
from llmariner.context import Context
from llmariner.fine_tuning.worker_tokens import PROCESS_HEADER, Worker
from llmariner.http.authorization.authentication import context_of
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.forms import run_to_end
from llmariner.http.raw_bodies import read_raw_body
from llmariner.http.resources.completions import Completions
from llmariner.http.schemas.fine_tuning import CompleteResult, GradeAnswer, UploadResult, WorkerReport

_PREFIX = "/v1/fine_tuning/workers/"
_WORKER = f"{_PREFIX}{{id}}"
_PARTS = re.compile(f"{_PREFIX}[^/]+/uploads/[^/]+/parts/[^/]+")


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("fine_tuning_workers", context, streamed_bodies=_PARTS)
    app.state.completions = Completions()
    app.get(f"{_WORKER}/plan")(get_plan)
    app.get(f"{_WORKER}/links/{{name}}")(create_link)
    app.post(f"{_WORKER}/reports")(report)
    app.post(f"{_WORKER}/uploads")(create_upload)
    app.put(f"{_WORKER}/uploads/{{upload_id}}/parts/{{sha256}}")(add_part)
    app.post(f"{_WORKER}/uploads/{{upload_id}}/complete")(complete_upload)
    app.post(f"{_WORKER}/grades")(grade_answer)
    app.get(f"{_WORKER}/weights")(list_weights)
    app.get(f"{_WORKER}/weights/{{name}}", response_model=None)(get_weights)
    return app


def get_plan(request: Request, id: str) -> dict[str, Any]:
    """What the process is to do."""
    return context_of(request).fine_tuning.workers.plan(_worker(request, id))


def create_link(request: Request, id: str, name: str) -> dict[str, Any]:
    """A new URL of a file of the plan, by the name of its field there."""
    return {"url": context_of(request).fine_tuning.workers.link(_worker(request, id), name)}


def report(request: Request, id: str, body: WorkerReport) -> dict[str, Any]:
    """Record what happened."""
    worker = _worker(request, id)
    return {"action": context_of(request).fine_tuning.workers.report(worker, body.records)}


def create_upload(request: Request, id: str, body: UploadResult) -> dict[str, Any]:
    """A URL by which the process uploads one file, or an upload for the parts of a large one."""
    worker, fine_tuning = _worker(request, id), context_of(request).fine_tuning
    uploads = fine_tuning.result_uploads
    if body.in_parts and body.bytes > uploads.part_bytes:
        return {"upload_id": uploads.begin(worker, body.kind, body.bytes).id, "part_bytes": uploads.part_bytes}
    return {"url": fine_tuning.workers.upload_link(worker, body.kind, body.bytes, body.sha256), "method": "PUT"}


async def add_part(request: Request, id: str, upload_id: str, sha256: str) -> dict[str, Any]:
    """Store the body as a part of an upload, if it has this SHA-256."""
    worker = await run_to_end(partial(_worker, request, id))
    uploads = context_of(request).fine_tuning.result_uploads
    part = await run_to_end(partial(uploads.receive_part, worker, upload_id, sha256))
    try:
        await run_to_end(part.begin)
        await read_raw_body(request, part.write, max_bytes=uploads.part_bytes)
        return {"id": (await run_to_end(part.save)).id}
    finally:
        await run_to_end(part.close)


async def complete_upload(request: Request, id: str, upload_id: str, body: CompleteResult) -> dict[str, Any]:
    """Make a file of the parts, in the order of the request."""
    worker = await run_to_end(partial(_worker, request, id))
    uploads = context_of(request).fine_tuning.result_uploads
    complete = partial(uploads.complete, worker, upload_id, body.part_ids, body.sha256)
    return {"id": await request.app.state.completions.run(worker.maker.key_owner.project_id, complete)}


def grade_answer(
    request: Request,
    id: str,
    body: GradeAnswer,
    step: Annotated[int | None, Query(ge=0, lt=2**53)] = None,
    place: Annotated[str, Query(max_length=64, pattern="^[a-z0-9.]*$")] = "",
) -> dict[str, Any]:
    """The reward of an answer, by the grader of the job's method or gate.

    With its place in a step, which a process of the release before does not say, it is graded once.
    """
    grades, worker = context_of(request).fine_tuning.grades, _worker(request, id)
    found = grades.grade_of_job(
        worker, body.item, body.output_text, grader=body.grader, place=None if step is None else (step, place)
    )
    return {"reward": found.reward, "errors": dict(found.errors)}


def list_weights(request: Request, id: str) -> dict[str, Any]:
    """The files of the base model that the process reads."""
    files = context_of(request).fine_tuning.base_weights.files(_worker(request, id))
    return {"data": [asdict(each) for each in files]}


def get_weights(
    request: Request,
    id: str,
    name: str,
    start: int = 0,
    version: str = "",
    signed: bool = True,
) -> Response | dict[str, Any]:
    """A piece of one of these files: its bytes, or as JSON the URL that gives them to a request with these headers."""
    weights = context_of(request).fine_tuning.base_weights
    piece = weights.piece(_worker(request, id), name, start, version, signed=signed)
    if piece.url is not None:
        return {"url": piece.url, "headers": dict(piece.headers), "bytes": piece.size}
    headers = {"content-length": str(piece.size)}
    return StreamingResponse(piece.parts, media_type="application/octet-stream", headers=headers)


def _worker(request: Request, job_id: str) -> Worker:
    """The process that asks. Raises AuthenticationFailed, and RateLimited after too many wrong tokens of an address.

    A token that the installation signed is no guess, and all processes of a machine have one address.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    context, token = context_of(request), token if scheme.lower() == "bearer" else ""
    tokens, process = context.fine_tuning.worker_tokens, request.headers.get(PROCESS_HEADER, "")
    if tokens.is_signed(token):
        return tokens.open(token, job_id, process)
    return context.secret_lookups.look_up(
        token,
        lambda: tokens.open(token, job_id, process),
        client_address.get(),
        untrusted_proxy=bool(request.state.untrusted_proxy),
    )


handle = http_function(build)
