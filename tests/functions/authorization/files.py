"""Calls of the routes of files and uploads."""

from __future__ import annotations

from llmariner.files.file import NewFile
from llmariner.files.purposes import Purpose
from llmariner.tenancy.principal import KeyOwner

from .route_calls import CallFactory, RouteCall, no_object
from .world import Tenant, World

__all__ = ["FILES", "a_file"]

NEW_UPLOAD = {"bytes": 6, "filename": "walked.txt", "mime_type": "text/plain", "purpose": "user_data"}


def a_file(world: World, tenant: Tenant) -> RouteCall:
    """A file of the tenant's project."""
    owner, files = _owner(tenant), world.context.files
    name = f"{tenant.tag}-{world.number()}.txt"
    with files.receive(owner, purpose=None, size_bytes=0, limit_bytes=99) as content:
        content.write(name.encode())
        file = files.save(owner, NewFile(name, Purpose.USER_DATA, "text/plain"), content)
    return RouteCall({"id": file.id})


def a_file_to_link(world: World, tenant: Tenant) -> RouteCall:
    """A file of the tenant's project, and a body that makes a link to it."""
    return RouteCall(a_file(world, tenant).path, {"expires_in_seconds": 60})


def new_file(_world: World, _place: Tenant) -> RouteCall:
    """A form with a file."""
    parts = ('name="purpose"\r\n\r\nuser_data', 'name="file"; filename="walked.txt"\r\n\r\nwalked')
    form = "".join(f"--x\r\ncontent-disposition: form-data; {part}\r\n" for part in parts) + "--x--\r\n"
    return RouteCall(body=form.encode(), headers={"content-type": "multipart/form-data; boundary=x"})


def new_upload_link(_world: World, _place: Tenant) -> RouteCall:
    """A body that makes a link to upload."""
    return RouteCall(body={"filename": "walked.txt", "purpose": "user_data"})


def new_raw_file(_world: World, _place: Tenant) -> RouteCall:
    """A file that is the body."""
    return RouteCall(body=b"walked", query="filename=walked.txt&purpose=user_data")


def a_new_upload(_world: World, _place: Tenant) -> RouteCall:
    """A body that creates an upload."""
    return RouteCall(body=NEW_UPLOAD)


def an_upload(world: World, tenant: Tenant) -> RouteCall:
    """A pending upload of the tenant's project."""
    owner, new = _owner(tenant), NewFile("walked.txt", Purpose.USER_DATA, "text/plain")
    return RouteCall({"id": world.context.uploads.create(owner, new, 6).id})


def a_new_part(world: World, tenant: Tenant) -> RouteCall:
    """A form with a part of an upload of the tenant's project."""
    form = '--x\r\ncontent-disposition: form-data; name="data"; filename="upload"\r\n\r\nwalked\r\n--x--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    return RouteCall(an_upload(world, tenant).path, form.encode(), headers=headers)


def an_upload_with_its_part(world: World, tenant: Tenant) -> RouteCall:
    """An upload of the tenant's project, and a body that completes it."""
    path, uploads = an_upload(world, tenant).path, world.context.uploads
    with uploads.receive_part(_owner(tenant), path["id"]) as incoming:
        incoming.write(b"walked")
        part = uploads.add_part(_owner(tenant), incoming)
    return RouteCall(path, {"part_ids": [part.id]})


def _owner(tenant: Tenant) -> KeyOwner:
    return KeyOwner(tenant.user_id, tenant.project_id, tenant.organization_id)


FILES: dict[str, CallFactory] = {
    "GET /v1/files": no_object,
    "POST /v1/files": new_file,
    "POST /v1/files:createUploadLink": new_upload_link,
    "PUT /v1/files:upload": new_raw_file,
    "GET /v1/files/{id}": a_file,
    "DELETE /v1/files/{id}": a_file,
    "GET /v1/files/{id}/content": a_file,
    "POST /v1/files/{id}/links": a_file_to_link,
    "POST /v1/uploads": a_new_upload,
    "POST /v1/uploads/{id}/cancel": an_upload,
    "POST /v1/uploads/{id}/complete": an_upload_with_its_part,
    "POST /v1/uploads/{id}/parts": a_new_part,
}
