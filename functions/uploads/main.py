"""/v1/uploads: files that are sent in parts, in OpenAI's format."""

import re
from functools import partial
from typing import Annotated, Any

from fastapi import Request

from llmariner.context import Context
from llmariner.files.expiry import check_expiry_seconds
from llmariner.files.file import NewFile
from llmariner.files.names import clean_file_name, media_type
from llmariner.files.purposes import parse_upload_purpose
from llmariner.files.upload import part_object, upload_object
from llmariner.files.upload_completion import UploadCompletion
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.forms import read_form, run_to_end
from llmariner.http.resources.completions import Completions
from llmariner.http.resources.uploads import PartForm
from llmariner.http.schemas.bodies import Body, rename_error_fields
from llmariner.tenancy.long_requests import check_still_allowed
from llmariner.tenancy.principal import Caller

Writer = Annotated[Caller, require_scope("api.files.write")]
_WRITE = "api.files.write"
_UPLOAD = "/v1/uploads/{upload_id}"
_HINT = "Split it into more parts."


class ExpiresAfter(Body):
    """When the file expires."""

    anchor: str
    seconds: int


class CreateUpload(Body):
    """POST /v1/uploads."""

    bytes: int
    filename: str
    mime_type: str
    purpose: str
    expires_after: ExpiresAfter | None = None


class CompleteUpload(Body):
    """POST /v1/uploads/{upload_id}/complete."""

    part_ids: list[str]
    md5: str | None = None


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("uploads", context, streamed_bodies=re.compile("/v1/uploads/[^/]+/parts"))
    app.state.completions = Completions()
    app.post("/v1/uploads")(create_upload)
    app.post(f"{_UPLOAD}/parts")(add_part)
    app.post(f"{_UPLOAD}/complete")(complete_upload)
    app.post(f"{_UPLOAD}/cancel")(cancel_upload)
    return app


def create_upload(request: Request, caller: Writer, body: CreateUpload) -> dict[str, Any]:
    """Create an upload, which takes parts for an hour."""
    filename, purpose = clean_file_name(body.filename, param="filename"), parse_upload_purpose(body.purpose)
    said = body.expires_after
    expiry = None if said is None else check_expiry_seconds(said.anchor, said.seconds)
    new = NewFile(filename, purpose, media_type(body.mime_type, filename), expiry)
    return upload_object(context_of(request).uploads.create(caller.key_owner, new, body.bytes))


async def add_part(request: Request, caller: Writer, upload_id: str) -> dict[str, Any]:
    """Store the bytes of a form as a part. Parts may arrive in parallel and in any order."""
    context = context_of(request)
    await run_to_end(partial(context.uploads.check_of_caller, caller.key_owner, upload_id))
    form = PartForm(context.uploads, caller.key_owner, upload_id)
    try:
        await read_form(request, form, max_file_bytes=context.files.settings.upload_part_bytes, hint=_HINT)
        await run_to_end(partial(check_still_allowed, context.database, caller, _WRITE))
        return part_object(await run_to_end(form.save))
    finally:
        await run_to_end(form.close)


async def complete_upload(request: Request, caller: Writer, upload_id: str, body: CompleteUpload) -> dict[str, Any]:
    """Make a file of the parts, in the order of the request."""
    context = context_of(request)
    await run_to_end(partial(context.uploads.check_of_caller, caller.key_owner, upload_id))
    completion = UploadCompletion(context.database, context.objects, context.files, context.uploads)
    check = partial(check_still_allowed, context.database, caller, _WRITE)
    complete = partial(completion.complete, caller.key_owner, upload_id, body.part_ids, body.md5, check_caller=check)
    with rename_error_fields(file="part_ids"):
        upload, file = await request.app.state.completions.run(caller.key_owner.project_id, complete)
    return upload_object(upload, file)


def cancel_upload(request: Request, caller: Writer, upload_id: str) -> dict[str, Any]:
    """Cancel an upload and delete its parts."""
    uploads = context_of(request).uploads
    uploads.check_of_caller(caller.key_owner, upload_id)
    return upload_object(uploads.cancel(caller.key_owner, upload_id))


handle = http_function(build)
