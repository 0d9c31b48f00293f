"""Files between functions: the sweep, the audit log, other tenants, and an installation without a store."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from llmariner.audit.tables import audit_log
from llmariner.boot import load
from llmariner.context import Context
from llmariner.files.content import new_content_key
from llmariner.files.file import File, NewFile
from llmariner.files.purposes import Purpose
from llmariner.files.references import FileUse
from llmariner.files.tables import files, uploads
from llmariner.files.upload import PART_PREFIX
from llmariner.platform.database.tables import work_leases
from llmariner.platform.events.cloudevents import Event, to_http
from llmariner.platform.objects.folder import FolderObjects

from .conftest import Ask
from .http_calls import HttpRequest, InProcessClient, assert_error
from .installation import Installation
from .processes import CHECKOUT


@pytest.fixture
def file(installation: Installation) -> File:
    store = installation.context.files
    with store.receive(installation.owner, purpose=None, size_bytes=0, limit_bytes=99) as content:
        content.write(f"content {time.time_ns()}".encode())
        return store.save(installation.owner, NewFile("a.txt", Purpose.USER_DATA, "text/plain"), content)


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/content"), ("DELETE", "")])
def test_a_file_of_another_organization_is_unknown(
    method: str, path: str, file: File, ask: Ask, outsider: dict[str, str], admin: dict[str, str]
) -> None:
    theirs = ask("files", HttpRequest(method, f"/v1/files/{file.id}{path}", None, outsider))
    unknown = ask("files", HttpRequest(method, f"/v1/files/file-x{path}", None, outsider))
    assert_error(theirs, 404, "not_found")
    assert theirs.body.replace(file.id.encode(), b"file-x") == unknown.body
    assert ask("files", HttpRequest("GET", f"/v1/files/{file.id}", None, admin)).status == 200


def test_an_object_that_is_replaced_under_a_request_is_not_sent_as_the_one_before(
    ask: Ask, admin: dict[str, str], installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The headers of the response have size and `ETag` of the object before."""
    bucket = FolderObjects(Path(installation.environment["LLMARINER_OBJECTS_FOLDER"]).parent / "external" / "walk")
    put(bucket, "data/y.txt", b"0123456789")
    body = {"object_path": "s3://walk/data/y.txt", "purpose": "assistants"}
    made = ask("files", HttpRequest("POST", "/v1/files:createFromObjectPath", body, admin)).json
    files = installation.context.files
    version = files.version

    def version_before(file: File) -> tuple[int, str | None]:
        before = version(file)
        put(bucket, "data/y.txt", b"9876543210")
        return before

    monkeypatch.setattr(files, "version", version_before)
    answer = ask("files", HttpRequest("GET", f"/v1/files/{made['id']}/content", None, admin))
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")


def put(objects: FolderObjects, key: str, data: bytes) -> None:
    with objects.writer(key) as writer:
        writer.write(data)
        writer.commit()


def test_a_file_of_an_object_outside_the_store(ask: Ask, admin: dict[str, str], installation: Installation) -> None:
    bucket = FolderObjects(Path(installation.environment["LLMARINER_OBJECTS_FOLDER"]).parent / "external" / "walk")
    put(bucket, "data/x.txt", b"0123456789")
    body = {"object_path": "s3://walk/data/x.txt", "purpose": "assistants"}
    made = ask("files", HttpRequest("POST", "/v1/files:createFromObjectPath", body, admin)).json
    assert (made["filename"], made["bytes"], made["object_store_path"]) == ("x.txt", 10, body["object_path"])
    path = f"/v1/files/{made['id']}/content"
    part = ask("files", HttpRequest("GET", path, None, {**admin, "range": "bytes=3-5"}))
    assert (part.status, part.body, part.headers["content-type"]) == (206, b"345", "text/plain")
    bucket.delete(["data/x.txt"])
    assert_error(ask("files", HttpRequest("GET", path, None, admin)), 404, "not_found")


def test_a_deletion_is_in_the_audit_log(
    file: File, ask: Ask, admin: dict[str, str], installation: Installation
) -> None:
    answer = ask("files", HttpRequest("DELETE", f"/v1/files/{file.id}", None, admin))
    assert answer.json == {"id": file.id, "object": "file", "deleted": True}
    with installation.context.database.read() as session:
        rows = session.rows(select(audit_log).where(audit_log.c.type == "file.deleted"))
    [entry] = [row for row in rows if json.loads(row.payload)["id"] == file.id]
    assert entry.project_id == installation.owner.project_id
    assert json.loads(entry.payload)["data"] == {"filename": "a.txt", "purpose": "user_data"}
    assert json.loads(entry.actor)["api_key"]["user"]["id"] == installation.owner.user_id


def test_a_file_in_use_is_not_deleted(file: File, ask: Ask, admin: dict[str, str], installation: Installation) -> None:
    class Job:
        def in_use_by(self, *_: Any) -> list[FileUse]:
            return [FileUse("the batch batch_1")]

        def on_file_deleted(self, *_: Any) -> None:
            raise AssertionError("deleted")

    store = installation.context.files
    before = store._references
    store._references = [Job()]
    try:
        answer = ask("files", HttpRequest("DELETE", f"/v1/files/{file.id}", None, admin))
    finally:
        store._references = before
    assert_error(answer, 409, "file_in_use")
    assert answer.error["in_use_by"] == ["the batch batch_1"]
    assert answer.headers["x-should-retry"] == "false"


def sweep(installation: Installation, in_process: InProcessClient, environment: dict[str, str]) -> int:
    """The status of a delivery of the tick."""
    application: Any = load(CHECKOUT / "eventing/sweep")
    application.use_context(Context(environment))
    headers, body = to_http(Event("evt_tick", "ai.llmariner.platform.tick.v1", "platform", 1.5, {"every_seconds": 30}))
    return in_process.send(application, HttpRequest("POST", "/", body, headers)).status


def test_the_sweep_deletes_expired_files(file: File, installation: Installation, in_process: InProcessClient) -> None:
    with installation.context.database.write() as session:
        session.run(update(files).where(files.c.id == file.id).values(expires_at=int(time.time()) - 1))
    assert sweep(installation, in_process, installation.environment) == 204
    with installation.context.database.read() as session:
        assert session.first(select(files.c.id).where(files.c.id == file.id)) is None
    assert installation.context.objects.info(str(file.content_key)) is None


def test_the_sweep_collects_objects_without_a_file(
    file: File, installation: Installation, in_process: InProcessClient
) -> None:
    database, objects = installation.context.database, installation.context.objects
    lost = new_content_key()
    with objects.writer(lost) as writer:
        writer.commit()
    for key in (lost, str(file.content_key)):
        os.utime(Path(installation.environment["LLMARINER_OBJECTS_FOLDER"]) / key, (1, 1))
    with database.write() as session:  # it runs every six hours only
        session.run(work_leases.delete().where(work_leases.c.name == "file_garbage"))
    assert sweep(installation, in_process, installation.environment) == 204
    assert objects.info(lost) is None
    assert objects.info(str(file.content_key)) is not None


def test_the_sweep_ends_expired_uploads_and_collects_lost_parts(
    installation: Installation, in_process: InProcessClient
) -> None:
    context, owner = installation.context, installation.owner
    upload = context.uploads.create(owner, NewFile("a.txt", Purpose.USER_DATA, "text/plain"), 4)
    with context.uploads.receive_part(owner, upload.id) as incoming:
        incoming.write(b"part")
        part = context.uploads.add_part(owner, incoming)
    lost = f"{PART_PREFIX}upload_lost/part_lost"
    with context.objects.writer(lost) as writer:
        writer.commit()
    os.utime(Path(installation.environment["LLMARINER_OBJECTS_FOLDER"]) / lost, (1, 1))
    with context.database.write() as session:
        session.run(work_leases.delete().where(work_leases.c.name == "file_garbage"))
        session.run(update(uploads).where(uploads.c.id == upload.id).values(expires_at=int(time.time()) - 1))
    assert sweep(installation, in_process, installation.environment) == 204
    with context.database.read() as session:
        assert session.value(select(uploads.c.status).where(uploads.c.id == upload.id)) == "expired"
    assert [context.objects.info(key) for key in (part.key, lost)] == [None, None]


def test_an_installation_without_a_store_has_no_files(
    installation: Installation, in_process: InProcessClient, admin: dict[str, str]
) -> None:
    environment = {**installation.environment, "LLMARINER_OBJECTS_FOLDER": ""}
    application: Any = load(CHECKOUT / "functions/files")
    application.use_context(Context(environment))
    answer = in_process.send(application, HttpRequest("GET", "/v1/files", None, admin))
    assert_error(answer, 503, "no_object_store")
    assert sweep(installation, in_process, environment) == 204
