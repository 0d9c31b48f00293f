"""GET /v1/files/{id}/content: ranges, conditions, headers, and clients that leave."""

from __future__ import annotations

import asyncio
import http.client
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmariner.files.file import File, NewFile
from llmariner.files.purposes import Purpose
from llmariner.platform.objects.folder import FolderObjects

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, InProcessClient, assert_error
from .installation import Installation
from .processes import CHECKOUT, boot_command, process

Get = Callable[..., HttpResponse]
DATA = b"0123456789"
TOTAL = len(DATA)


def made(installation: Installation, data: bytes, name: str = "data.bin", media_type: str = "text/html") -> File:
    """A file of the administrator's project."""
    files = installation.context.files
    with files.receive(installation.owner, purpose=None, size_bytes=0, limit_bytes=1 << 30) as content:
        content.write(data)
        return files.save(installation.owner, NewFile(name, Purpose.USER_DATA, media_type), content)


@pytest.fixture(scope="module")
def file(installation: Installation) -> File:
    return made(installation, DATA)


@pytest.fixture
def get(ask: Ask, admin: dict[str, str], file: File) -> Get:
    """GET, or another method, with headers."""

    def got(method: str = "GET", file_id: str = file.id, **headers: str) -> HttpResponse:
        said = {**admin, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return ask("files", HttpRequest(method, f"/v1/files/{file_id}/content", None, said))

    return got


RANGES: dict[str, tuple[int, bytes, str | None]] = {
    "bytes=0-": (206, DATA, "bytes 0-9/10"),
    "bytes=2-4": (206, b"234", "bytes 2-4/10"),
    "bytes=9-9": (206, b"9", "bytes 9-9/10"),
    "bytes=7-99": (206, b"789", "bytes 7-9/10"),
    "bytes=-3": (206, b"789", "bytes 7-9/10"),
    "bytes=-99": (206, DATA, "bytes 0-9/10"),
    "Bytes = 2 - 4": (206, b"234", "bytes 2-4/10"),
    # Invalid, of another unit, or more than one: ignored.
    "bytes=4-2": (200, DATA, None),
    "bytes=-": (200, DATA, None),
    "bytes=a-b": (200, DATA, None),
    "bytes=--3": (200, DATA, None),
    "bytes=²-": (200, DATA, None),
    f"bytes={'9' * 40}-": (200, DATA, None),
    "items=0-1": (200, DATA, None),
    "bytes=0-1,3-4": (200, DATA, None),
}


@pytest.mark.parametrize("text", RANGES)
def test_a_range_of_bytes(text: str, get: Get) -> None:
    answer = get(range=text)
    status, body, said = RANGES[text]
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers.get("content-range") == said
    assert answer.headers["content-length"] == str(len(body))


@pytest.mark.parametrize("text", ["bytes=10-", "bytes=10-12", "bytes=99999999999999-", "bytes=-0"])
def test_a_range_without_bytes_is_not_satisfiable(text: str, get: Get) -> None:
    answer = get(range=text)
    assert_error(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{TOTAL}"


def test_conditions_compare_the_entity_tag(get: Get, file: File) -> None:
    tag = get().headers["etag"]
    assert tag == f'"{file.id}"'
    assert get(range="bytes=0-1", if_range=tag).status == 206
    assert get(range="bytes=0-1", if_range='"other"').status == 200
    assert get(range="bytes=0-1", if_range="Wed, 21 Oct 2015 07:28:00 GMT").status == 200
    for listed in (tag, f'"x", W/{tag}', "*"):
        answer = get(if_none_match=listed)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
    assert get(if_none_match='"x"').status == 200


def test_headers_keep_content_from_being_executed(get: Get) -> None:
    headers = get().headers
    assert headers["content-type"] == "text/html"
    assert headers["content-disposition"] == 'attachment; filename="data.bin"'
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("sandbox")
    assert headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Bericht é.txt", "attachment; filename=\"Bericht _.txt\"; filename*=UTF-8''Bericht%20%C3%A9.txt"),
        ('a"b.txt', "attachment; filename=\"a_b.txt\"; filename*=UTF-8''a%22b.txt"),
        ("100%.txt", "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt"),
        ("報告", "attachment; filename=\"__\"; filename*=UTF-8''%E5%A0%B1%E5%91%8A"),
    ],
)
def test_a_file_name_is_encoded(name: str, said: str, installation: Installation, get: Get) -> None:
    answer = get(file_id=made(installation, b"x", name).id)
    assert answer.headers["content-disposition"] == said


def test_an_empty_file_has_empty_content(installation: Installation, get: Get) -> None:
    file = made(installation, b"")
    answer = get(file_id=file.id)
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")
    assert_error(get(file_id=file.id, range="bytes=0-"), 416, "range_not_satisfiable")


def test_head_reads_no_content(get: Get, installation: Installation, file: File) -> None:
    class Unread(FolderObjects):
        def read(self, *_: Any) -> Any:
            raise AssertionError("read for HEAD")

    files = installation.context.files
    before = files._objects
    files._objects = Unread(before._root)  # type: ignore[attr-defined]
    try:
        answer = get("HEAD")
    finally:
        files._objects = before
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", str(TOTAL))


def test_content_whose_object_is_lost_is_not_found(get: Get, installation: Installation) -> None:
    file = made(installation, b"lost content")
    installation.context.objects.delete([str(file.content_key)])
    assert_error(get(file_id=file.id), 404, "not_found")


class Endless(FolderObjects):
    """Content that continues until its reader is closed."""

    closed = 0
    parts = 0

    def read(self, *_: Any) -> Any:
        return self

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.parts += 1
        return b"x" * 1000

    def close(self) -> None:
        self.closed += 1


def test_a_client_that_leaves_ends_the_reading(installation: Installation, in_process: InProcessClient) -> None:
    file = made(installation, b"endless content")
    files = installation.context.files
    before = files._objects
    endless = files._objects = Endless(before._root)  # type: ignore[attr-defined]
    left = asyncio.Event()
    messages: list[Any] = [{"type": "http.request", "body": b"", "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 5:
            left.set()

    path = f"/v1/files/{file.id}/content"
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"authorization", f"Bearer {installation.keys.admin}".encode())],
        "client": ("127.0.0.1", 1),
    }
    try:
        in_process.runner.run(installation.application("files")(scope, receive, send))
    finally:
        files._objects = before
    assert endless.closed
    assert endless.parts < 20
    assert sent[-1]["more_body"]


def test_a_reader_that_fails_breaks_the_connection(installation: Installation, tmp_path: Any) -> None:
    """A client must see that the content is incomplete: fewer bytes than the content-length."""
    file = made(installation, b"y" * 3_000_000)
    path = installation.context.objects._path(str(file.content_key))  # type: ignore[attr-defined]
    os.truncate(path, 2_000_000)
    with process(boot_command(CHECKOUT / "functions/files"), installation.environment, tmp_path / "log") as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        said = {"authorization": f"Bearer {installation.keys.admin}"}
        connection.request("GET", f"/v1/files/{file.id}/content", headers=said)
        response = connection.getresponse()
        assert response.getheader("content-length") == "3000000"
        with pytest.raises(http.client.IncompleteRead):
            response.read()
        connection.close()
