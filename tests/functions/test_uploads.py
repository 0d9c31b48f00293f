"""/v1/uploads: OpenAI's own client, parts in any shape, and requests that are refused."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy import func, select

from llmariner.files.tables import upload_parts, uploads
from llmariner.tenancy.keys.store import NewKey

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, InProcessClient, assert_error
from .installation import Installation
from .large_upload import measure
from .test_organization_sdk import openai_client

Do = Callable[[Callable[[AsyncOpenAI], Coroutine[Any, Any, Any]]], Any]
Post = Callable[..., HttpResponse]
NEW = {"bytes": 10, "filename": "a.txt", "mime_type": "text/plain", "purpose": "user_data"}
MEDIA_TYPE = "multipart/form-data; boundary=XyZ"


def form(data: bytes, name: str = 'name="data"; filename="upload"', headers: str = "") -> bytes:
    head = f"--XyZ\r\nContent-Disposition: form-data; {name}{headers}\r\n\r\n"
    return head.encode() + data + b"\r\n--XyZ--\r\n"


@pytest.fixture
def post(ask: Ask, admin: dict[str, str]) -> Post:
    """POST a path below /v1/uploads; bytes are a form."""

    def sent(path: str, body: Any = None, caller: dict[str, str] = admin) -> HttpResponse:
        media = {"content-type": MEDIA_TYPE} if isinstance(body, bytes) else {}
        return ask("uploads", HttpRequest("POST", f"/v1/uploads{path}", body, {**caller, **media}))

    return sent


@pytest.fixture
def send(post: Post) -> Callable[[str, bytes], str]:
    """Send a part; returns its id."""

    def sent(upload_id: str, data: bytes) -> str:
        answer = post(f"/{upload_id}/parts", form(data))
        assert answer.status == 200, answer.json
        return str(answer.json["id"])

    return sent


@pytest.fixture
def new(post: Post) -> Callable[..., str]:
    """Create an upload; returns its id."""
    return lambda **fields: str(post("", {**NEW, **fields}).json["id"])


@pytest.fixture
def do(router: Any, installation: Installation, in_process: InProcessClient) -> Do:
    """`do(lambda client: …)`: run a coroutine with OpenAI's client."""
    client = openai_client(router, "unused")
    client.api_key = installation.keys.admin
    return lambda work: in_process.runner.run(work(client))


@pytest.mark.parametrize("size", [0, 10, 2500])
def test_the_sdk_uploads_a_file_in_chunks(size: int, do: Do, tmp_path: Path) -> None:
    data = bytes(number % 251 for number in range(size))
    (tmp_path / "Übung 報告.bin").write_bytes(data)

    async def work(client: AsyncOpenAI) -> None:
        upload = await client.uploads.upload_file_chunked(
            file=tmp_path / "Übung 報告.bin",
            mime_type="application/octet-stream",
            purpose="user_data",
            part_size=1000,
            md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
        )
        assert (upload.status, upload.bytes, upload.filename) == ("completed", size, "Übung 報告.bin")
        assert upload.file is not None
        assert upload.file == await client.files.retrieve(upload.file.id)
        assert (await client.files.content(upload.file.id)).content == data
        await client.files.delete(upload.file.id)

    do(work)


def test_the_sdk_sends_parts_in_parallel_and_in_another_order(do: Do) -> None:
    async def work(client: AsyncOpenAI) -> None:
        upload = await client.uploads.create(
            bytes=40,
            filename="b.txt",
            mime_type="text/plain",
            purpose="assistants",
            expires_after={"anchor": "created_at", "seconds": 7200},
        )
        assert (upload.status, upload.object, upload.file) == ("pending", "upload", None)
        assert upload.expires_at == upload.created_at + 3600
        datas = [b"%d" % number * 10 for number in range(4)]
        sent = [client.uploads.parts.create(upload.id, data=data) for data in reversed(datas)]
        parts = await asyncio.gather(*sent)
        assert {(part.object, part.upload_id) for part in parts} == {("upload.part", upload.id)}
        ids = [part.id for part in reversed(parts)]
        done = await client.uploads.complete(upload.id, part_ids=ids)
        assert done.file is not None
        assert done.file.expires_at == done.file.created_at + 7200
        assert (await client.files.content(done.file.id)).content == b"".join(datas)
        assert await client.uploads.complete(upload.id, part_ids=ids) == done
        await client.files.delete(done.file.id)
        with pytest.raises(openai.ConflictError, match="was deleted since"):
            await client.uploads.complete(upload.id, part_ids=ids)

    do(work)


def test_the_sdk_cancels(do: Do) -> None:
    async def work(client: AsyncOpenAI) -> None:
        upload = await client.uploads.create(**NEW)  # type: ignore[arg-type]
        assert (await client.uploads.cancel(upload.id)).status == "cancelled"
        with pytest.raises(openai.ConflictError) as refused:
            await client.uploads.parts.create(upload.id, data=b"x")
        assert refused.value.code == "upload_cancelled"

    do(work)


REFUSED_CREATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "negative": ({"bytes": -1}, "bytes"),
    "too big": ({"bytes": 8 * 1024**3 + 1}, "bytes"),
    "far too big": ({"bytes": 10**30}, "bytes"),
    "a text": ({"bytes": "10"}, "bytes"),
    "a fraction": ({"bytes": 1.5}, "bytes"),
    "true": ({"bytes": True}, "bytes"),
    "no name": ({"filename": "/../"}, "filename"),
    "a long name": ({"filename": "x" * 300}, "filename"),
    "an unknown purpose": ({"purpose": "fun"}, "purpose"),
    "a purpose of the platform": ({"purpose": "batch_output"}, "purpose"),
    "another anchor": ({"expires_after": {"anchor": "now", "seconds": 3600}}, "expires_after.anchor"),
    "too soon": ({"expires_after": {"anchor": "created_at", "seconds": 3599}}, "expires_after.seconds"),
    "no seconds": ({"expires_after": {"anchor": "created_at"}}, "expires_after.seconds"),
}


@pytest.mark.parametrize("case", REFUSED_CREATIONS)
def test_a_creation_is_refused(case: str, post: Post) -> None:
    fields, param = REFUSED_CREATIONS[case]
    answer = post("", {**NEW, **fields})
    assert_error(answer, 400, answer.error["code"])
    assert answer.error["param"] == param


def test_a_name_is_its_last_part_without_control_characters(post: Post) -> None:
    answer = post("", {**NEW, "filename": "../../etc/pass\x00wd\u202e.txt", "mime_type": "text/plain\r\nx: y"})
    assert (answer.status, answer.json["filename"]) == (200, "passwd.txt")


REFUSED_PARTS = {
    "no form": (b"hello", "invalid_form", None),
    "cut off": (form(b"hello")[:-12], "invalid_form", None),
    "nothing": (b"--XyZ--\r\n", "missing_required_parameter", "data"),
    "no file": (form(b"hello", 'name="data"'), None, "data"),
    "another field": (form(b"hello", 'name="file"; filename="x"'), "unknown_parameter", "file"),
    "an unknown field": (form(b"hello", 'name="more"'), "unknown_parameter", "more"),
    "empty": (form(b""), "empty_part", "data"),
    "more than the upload": (form(b"x" * 11), "request_too_large", "data"),
    "two": (form(b"hello")[:-9] + form(b"world"), "duplicate_parameter", "data"),
    "another length": (form(b"hello", headers="\r\nContent-Length: 4"), "size_mismatch", "data"),
    "another MD5": (form(b"hello", headers="\r\nContent-MD5: " + "A" * 22 + "=="), "checksum_mismatch", "data"),
}


@pytest.mark.parametrize("case", REFUSED_PARTS)
def test_a_refused_part_leaves_nothing(case: str, post: Post, new: Any, installation: Installation) -> None:
    body, code, param = REFUSED_PARTS[case]
    upload = new()
    answer = post(f"/{upload}/parts", body)
    assert_error(answer, 413 if code == "request_too_large" else 400, code)
    assert answer.error["param"] == param
    assert parts_and_objects(installation, upload) == (0, [])


def test_a_part_that_announces_too_much_is_refused_before_its_bytes(ask: Ask, admin: dict[str, str], new: Any) -> None:
    headers = {**admin, "content-type": MEDIA_TYPE, "content-length": str(65 * 1024 * 1024)}
    answer = ask("uploads", HttpRequest("POST", f"/v1/uploads/{new()}/parts", form(b"x"), headers))
    assert_error(answer, 413, "request_too_large")
    assert "more parts" in answer.error["message"]


def test_a_part_is_json_neither_in_its_type_nor_in_its_body(ask: Ask, admin: dict[str, str], new: Any) -> None:
    request = HttpRequest("POST", f"/v1/uploads/{new()}/parts", {"data": "hello"}, admin)
    assert_error(ask("uploads", request), 415, "unsupported_media_type")


REFUSED_COMPLETIONS = {
    "no list": ({"part_ids": "part_1"}, "invalid_value", "part_ids"),
    "a number": ({"part_ids": [1]}, "invalid_value", "part_ids.0"),
    "nothing": ({}, "missing_required_parameter", "part_ids"),
    "none": ({"part_ids": []}, "size_mismatch", "part_ids"),
    "an unknown part": ({"part_ids": ["part_\u0000"]}, "part_not_found", "part_ids[0]"),
    "no MD5": ({"part_ids": ["part_1"], "md5": "?"}, "invalid_value", "md5"),
}


@pytest.mark.parametrize("case", REFUSED_COMPLETIONS)
def test_a_completion_is_refused(case: str, post: Post, new: Any) -> None:
    body, code, param = REFUSED_COMPLETIONS[case]
    answer = post(f"/{new()}/complete", body)
    assert_error(answer, 400, code)
    assert answer.error["param"] == param


def test_an_error_in_the_content_names_the_line_and_a_field_of_the_request(post: Post, new: Any, send: Any) -> None:
    upload = new(purpose="fine-tune", bytes=11)
    answer = post(f"/{upload}/complete", {"part_ids": [send(upload, b"{}\nnot json")]})
    assert_error(answer, 400, "invalid_jsonl")
    assert answer.error["param"] == "part_ids"
    assert "Line 1" in answer.error["message"]


def test_a_large_upload_of_zeros_takes_little_memory_and_disk(tmp_path: Path) -> None:
    measured = measure(tmp_path, 130 * 1024 * 1024)
    assert measured["peak_memory"] < 160, measured
    assert measured["peak_disk"] < 32, measured


def test_an_upload_of_another_organization_is_unknown(
    post: Post, new: Any, send: Any, outsider: dict[str, str]
) -> None:
    upload = new()
    part = send(upload, b"0123456789")
    for path, body in (("parts", form(b"x")), ("complete", {"part_ids": [part]}), ("cancel", None)):
        theirs, unknown = (post(f"/{id_}/{path}", body, outsider) for id_ in (upload, "upload_x"))
        assert_error(theirs, 404, "not_found")
        assert theirs.error["message"].replace(upload, "upload_x") == unknown.error["message"]
    assert post(f"/{upload}/complete", {"part_ids": [part]}).json["status"] == "completed"


def test_a_completion_that_is_under_way_asks_for_a_retry(
    post: Post, new: Any, send: Any, installation: Installation
) -> None:
    upload = new()
    part = send(upload, b"0123456789")

    with installation.context.database.write() as session:
        held = {"claim": "claim_x", "claimed_until": session.now() + 50}
        session.run(uploads.update().where(uploads.c.id == upload).values(**held))
    answer = post(f"/{upload}/complete", {"part_ids": [part]})
    assert_error(answer, 409, "upload_in_progress")
    assert answer.headers["retry-after"] == "5"


def test_a_key_that_is_revoked_while_a_part_arrives_makes_no_part(
    post: Post, new: Any, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, owner, receive = installation.context.keys, installation.owner, installation.context.uploads.receive_part
    made, secret = keys.create(owner, NewKey("revoked meanwhile", frozenset({"api.files.write"})))
    upload = new()

    def revoke_and_receive(*of: Any) -> Any:
        keys.revoke(owner, made.id)
        return receive(*of)

    monkeypatch.setattr(installation.context.uploads, "receive_part", revoke_and_receive)
    refused = post(f"/{upload}/parts", form(b"0123456789"), {"authorization": f"Bearer {secret}"})
    assert_error(refused, 401, "invalid_api_key")
    assert parts_and_objects(installation, upload) == (0, [])


def test_a_key_that_is_revoked_during_a_completion_makes_no_file(
    post: Post, new: Any, send: Any, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A completion waits and works for minutes, long after its caller was authenticated."""
    context, keys, owner = installation.context, installation.context.keys, installation.owner
    made, secret = keys.create(owner, NewKey("revoked meanwhile", frozenset({"api.files.write"})))
    upload = new()
    part, join = send(upload, b"0123456789"), context.objects.concatenate
    before = {each.key for each in context.objects.list("files/")}

    def revoke_and_join(key: str, parts: Any) -> Any:
        keys.revoke(owner, made.id)
        return join(key, parts)

    with monkeypatch.context() as patched:
        patched.setattr(context.objects, "concatenate", revoke_and_join)
        refused = post(f"/{upload}/complete", {"part_ids": [part]}, {"authorization": f"Bearer {secret}"})
    assert_error(refused, 401, "invalid_api_key")
    assert {each.key for each in context.objects.list("files/")} == before
    assert post(f"/{upload}/complete", {"part_ids": [part]}).json["status"] == "completed"


def parts_and_objects(installation: Installation, upload_id: str) -> tuple[int, list[str]]:
    """The number of rows of parts of an upload, and the keys of their objects."""
    context = installation.context
    with context.database.read() as session:
        count = select(func.count()).select_from(upload_parts).where(upload_parts.c.upload_id == upload_id)
        parts = int(session.value(count))
    return parts, [each.key for each in context.objects.list(f"uploads/{upload_id}/")]
