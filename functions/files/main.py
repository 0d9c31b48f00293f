"""/v1/files: the files of a project, in OpenAI's format with LLMariner's fields."""

import asyncio
import re
from functools import partial
from hashlib import sha256
from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.responses import RedirectResponse

from llmariner.context import Context
from llmariner.files.expiry import check_expiry_seconds
from llmariner.files.file import NewFile
from llmariner.files.names import clean_file_name, media_type
from llmariner.files.purposes import parse_purpose, parse_upload_purpose
from llmariner.files.representation import file_object
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.authorization.links import (
    ContentAccess,
    UploadAccess,
    hide_links_in_access_logs,
    require_scope_or_link,
    require_scope_or_upload_link,
)
from llmariner.http.content import attachment, content_response
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.forms import declared_file_bytes, read_form, run_to_end
from llmariner.http.middleware.stack import HEAD_REQUEST
from llmariner.http.raw_bodies import declared_bytes, read_raw_body
from llmariner.http.resources.file_links import file_link_object, upload_link_object
from llmariner.http.resources.files import FileForm
from llmariner.http.resources.raw_uploads import RawUpload
from llmariner.http.schemas.bodies import Body
from llmariner.http.schemas.lists import FileCursor, Order, list_response
from llmariner.tenancy.long_requests import check_still_allowed
from llmariner.tenancy.principal import Caller

Reader = Annotated[Caller, require_scope("api.files.read")]
Writer = Annotated[Caller, require_scope("api.files.write")]
ContentReader = Annotated[ContentAccess, require_scope_or_link("api.files.read")]
ContentWriter = Annotated[UploadAccess, require_scope_or_upload_link("api.files.write")]
_WRITE = "api.files.write"
_FILE = "/v1/files/{file_id}"
_HINT = "Send it in parts: POST /v1/uploads."


class LinkFile(Body):
    """POST /v1/files:createFromObjectPath."""

    object_path: str
    purpose: str


class CreateLink(Body):
    """POST /v1/files/{file_id}/links."""

    expires_in_seconds: int = 3600


class ExpiresAfter(Body):
    """When the file expires."""

    anchor: str
    seconds: int


class CreateUploadLink(Body):
    """POST /v1/files:createUploadLink."""

    filename: str
    purpose: str
    mime_type: str | None = None
    bytes: int | None = None
    max_bytes: int | None = None
    sha256: str | None = None
    expires_after: ExpiresAfter | None = None
    expires_in_seconds: int = 3600


def build(context: Context) -> Application:
    """The application with its routes."""
    hide_links_in_access_logs()
    app = create_app("files", context, streamed_bodies=re.compile("/v1/files(:upload)?"))
    app.get("/v1/files")(list_files)
    app.post("/v1/files")(create_file)
    app.post("/v1/files:createFromObjectPath")(link_file)
    app.post("/v1/files:createUploadLink")(create_upload_link)
    app.put("/v1/files:upload")(upload_content)
    app.get(_FILE)(get_file)
    app.delete(_FILE)(delete_file)
    app.get(f"{_FILE}/content")(get_content)
    app.post(f"{_FILE}/links")(create_link)
    return app


def list_files(
    request: Request,
    caller: Reader,
    purpose: str | None = None,
    after: FileCursor = None,
    limit: Annotated[int, Query(ge=0, le=10_000)] = 10_000,
    order: Order = "desc",
) -> dict[str, Any]:
    """The project's files, by default newest first; `limit` 0 asks for the default."""
    files, project_id = context_of(request).files, caller.key_owner.project_id
    wanted = None if purpose is None else parse_purpose(purpose)
    limit = limit or 10_000
    found = files.page(project_id, purpose=wanted, after=after, limit=limit + 1, order=order)
    page = list_response([file_object(file) for file in found[:limit]], has_more=len(found) > limit)
    return {**page, "total_items": files.count(project_id, purpose=wanted)}


async def create_file(request: Request, caller: Writer) -> dict[str, Any]:
    """Store the file of a form. The fields and the file may stand in any order."""
    files = context_of(request).files
    form = FileForm(files, caller.key_owner, size_bytes=declared_file_bytes(request))
    try:
        await read_form(request, form, max_file_bytes=files.settings.form_bytes, hint=_HINT)
        await run_to_end(partial(check_still_allowed, context_of(request).database, caller, _WRITE))
        return file_object(await run_to_end(form.save))
    finally:
        await run_to_end(form.close)


def link_file(request: Request, caller: Writer, body: LinkFile) -> dict[str, Any]:
    """Make a file of an object that the project has in a store outside the platform's, without a copy."""
    purpose = parse_upload_purpose(body.purpose)
    return file_object(context_of(request).files.link(caller.key_owner, purpose, body.object_path))


def create_upload_link(request: Request, response: Response, caller: Writer, body: CreateUploadLink) -> dict[str, Any]:
    """Make a URL by which anybody may make one file, once. The response is as secret as a key."""
    links, said = context_of(request).upload_links, body.expires_after
    expiry = None if said is None else check_expiry_seconds(said.anchor, said.seconds)
    new = _new_file(body.filename, body.purpose, body.mime_type, expiry)
    terms = links.terms(new, size_bytes=body.bytes, max_bytes=body.max_bytes, sha256=body.sha256)
    response.headers["cache-control"] = "no-store"
    link = links.create(caller, terms, body.expires_in_seconds)
    return upload_link_object(request, link, context_of(request).files.settings.public_url)


async def upload_content(
    request: Request, access: ContentWriter, filename: str = "", purpose: str = "", mime_type: str | None = None
) -> dict[str, Any]:
    """Store the body as a file: by a link, which says what it is, or with a key and the parameters."""
    context = context_of(request)
    if access.link is not None:
        terms = access.link.terms
    else:
        terms = context.upload_links.terms(_new_file(filename, purpose, mime_type))
    upload = RawUpload(context, access, terms, size_bytes=declared_bytes(request) or 0)
    try:
        await run_to_end(upload.begin)
        await read_raw_body(request, upload.write, max_bytes=terms.max_bytes)
        return file_object(await run_to_end(upload.save))
    finally:
        await run_to_end(upload.close)


def _new_file(filename: str, purpose: str, mime_type: str | None, expiry: int | None = None) -> NewFile:
    name = clean_file_name(filename, param="filename")
    return NewFile(name, parse_upload_purpose(purpose), media_type(mime_type, name), expiry)


def get_file(request: Request, caller: Reader, file_id: str) -> dict[str, Any]:
    """One file."""
    return file_object(context_of(request).files.get(caller.key_owner.project_id, file_id))


def delete_file(request: Request, caller: Writer, file_id: str) -> dict[str, Any]:
    """Delete a file. 409 while something runs that needs it."""
    context_of(request).files.delete(caller, file_id)
    return {"id": file_id, "object": "file", "deleted": True}


def create_link(request: Request, response: Response, caller: Reader, file_id: str, body: CreateLink) -> dict[str, Any]:
    """Make a URL at which anybody may read the file for a time. The response is as secret as a key."""
    response.headers["cache-control"] = "no-store"
    link = context_of(request).file_links.create(caller, file_id, body.expires_in_seconds)
    return file_link_object(request, link, context_of(request).files.settings.public_url)


async def get_content(request: Request, access: ContentReader, file_id: str) -> Response:
    """The bytes of a file, for a caller or by a link."""
    respond = _linked_content if access.by_link else _content
    return await asyncio.to_thread(respond, request, access.caller, file_id)


def _linked_content(request: Request, maker: Caller, file_id: str) -> Response:
    """The bytes by a link: from the store itself, where it gives out URLs for its objects."""
    files = context_of(request).files
    # A presigned URL is for GET, and not for HEAD.
    if HEAD_REQUEST not in request.scope:
        file = files.get(maker.key_owner.project_id, file_id)
        if url := files.signed_download(file, attachment(file.filename)):
            headers = {"cache-control": "no-store", "referrer-policy": "no-referrer"}
            return RedirectResponse(url, 302, headers)
    response = _content(request, maker, file_id)
    response.headers["referrer-policy"] = "no-referrer"
    return response


def _content(request: Request, caller: Caller, file_id: str) -> Response:
    files = context_of(request).files
    file = files.get(caller.key_owner.project_id, file_id)
    size_bytes, version = files.version(file)
    return content_response(
        request,
        size_bytes=size_bytes,
        entity_tag=_entity_tag(file.id, version),
        content_type=file.content_type,
        file_name=file.filename,
        read=lambda start, size: files.read(file, start, size, version=version),
    )


def _entity_tag(file_id: str, version: str | None) -> str:
    """The ETag of a content. The version is another store's text: its digest has no character that a header may not have."""
    return f'"{file_id}"' if version is None else f'"{file_id}.{sha256(version.encode()).hexdigest()[:32]}"'


handle = http_function(build)
