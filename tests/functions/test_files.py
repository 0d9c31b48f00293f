"""/v1/files: forms in any order and shape, invalid ones, downloads with ranges, and OpenAI's own client."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy import func, select

from llmariner.file_settings import FileSettings
from llmariner.files.files import Files
from llmariner.files.tables import file_usage
from llmariner.tenancy.keys.store import NewKey

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, InProcessClient, assert_error
from .installation import Installation
from .large_upload import measure_form
from .test_organization_sdk import openai_client

Do = Callable[[Callable[[AsyncOpenAI], Coroutine[Any, Any, Any]]], Any]
PURPOSE = 'form-data; name="purpose"', b"user_data"
BOUNDARY = "multipart/form-data; boundary=XyZ"


def a_file(data: bytes = b"hello", name: str = "a.txt", headers: str = "") -> tuple[str, bytes]:
    return f'form-data; name="file"; filename="{name}"{headers}', data


def form(*parts: tuple[str, bytes]) -> bytes:
    """A form of parts: the value of Content-Disposition, with further header lines, and the bytes."""
    lines = [f"--XyZ\r\nContent-Disposition: {head}\r\n\r\n".encode() + data + b"\r\n" for head, data in parts]
    return b"".join(lines) + b"--XyZ--\r\n"


@pytest.fixture
def post(ask: Ask, admin: dict[str, str]) -> Callable[..., HttpResponse]:
    """Send a form: its parts, or its bytes."""

    def sent(*parts: tuple[str, bytes], body: bytes | None = None, **headers: str) -> HttpResponse:
        said = {"content-type": BOUNDARY, **admin, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return ask("files", HttpRequest("POST", "/v1/files", form(*parts) if body is None else body, said))

    return sent


@pytest.fixture
def get(ask: Ask, admin: dict[str, str]) -> Callable[..., HttpResponse]:
    """GET a path below /v1/files."""

    def got(path: str, method: str = "GET", **headers: str) -> HttpResponse:
        said = {**admin, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return ask("files", HttpRequest(method, f"/v1/files{path}", None, said))

    return got


@pytest.fixture
def do(router: Any, installation: Installation, in_process: InProcessClient) -> Do:
    """`do(lambda client: …)`: run a coroutine with OpenAI's client."""
    client = openai_client(router, "unused")
    client.api_key = installation.keys.admin
    return lambda work: in_process.runner.run(work(client))


def test_the_sdk_handles_files(do: Do) -> None:
    async def work(client: AsyncOpenAI) -> None:
        made = await client.files.create(
            file=("Bericht é 報告.txt", io.BytesIO(b"sdk " * 1000)),
            purpose="user_data",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert (made.filename, made.bytes, made.status) == ("Bericht é 報告.txt", 4000, "processed")
        assert made.expires_at == made.created_at + 3600
        assert await client.files.retrieve(made.id) == made
        content = await client.files.content(made.id)
        assert content.content == b"sdk " * 1000
        listed = [file async for file in client.files.list(limit=1, order="asc", purpose="user_data")]
        assert made in listed
        assert (await client.files.wait_for_processing(made.id)).id == made.id
        deleted = await client.files.delete(made.id)
        assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "file")
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(made.id)

    do(work)


def test_the_sdk_gets_the_line_of_an_error(do: Do) -> None:
    async def work(client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="Line 2") as error:
            await client.files.create(file=("x.jsonl", b'{"messages": [{"role": "user"}]}\n{]'), purpose="fine-tune")
        assert error.value.code == "invalid_jsonl"

    do(work)


def test_a_list_is_paged(post: Any, get: Any, ask: Ask, admin: dict[str, str]) -> None:
    ids = [post(("form-data; name=purpose", b"evals"), a_file(b"%d" % n)).json["id"] for n in range(3)]
    seen: list[str] = []
    after = ""
    while True:
        query = f"purpose=evals&limit=2&order=asc{after}"
        page = ask("files", HttpRequest("GET", "/v1/files", None, admin, query)).json
        seen += [file["id"] for file in page["data"]]
        assert page["total_items"] == 3
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert seen == sorted(ids)


@pytest.mark.parametrize("parts", [(PURPOSE, a_file()), (a_file(), PURPOSE)])
def test_the_purpose_stands_before_or_after_the_file(parts: Any, post: Any, get: Any) -> None:
    answer = post(*parts)
    assert answer.status == 200, answer.body
    made = answer.json
    assert (made["object"], made["bytes"], made["filename"], made["purpose"]) == ("file", 5, "a.txt", "user_data")
    assert get(f"/{made['id']}").json == made
    assert get(f"/{made['id']}/content").body == b"hello"


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024 - 1, 1024 * 1024, 3 * 1024 * 1024 + 7])
def test_content_of_any_size_is_unchanged(size: int, post: Any, get: Any) -> None:
    data = (bytes(range(256)) + b"\r\n--XyZ-\r\n--Xy") * (size // 270 + 1)
    made = post(PURPOSE, a_file(data[:size])).json
    assert made["bytes"] == size
    assert get(f"/{made['id']}/content").body == data[:size]


def send_in_pieces(
    installation: Installation,
    in_process: InProcessClient,
    body: bytes,
    pieces: int,
    *,
    end: bool = True,
    key: str = "",
    before_end: Callable[[], None] = lambda: None,
) -> tuple[int, bytes]:
    """Status and body of the answer to a form that arrives in pieces; `end` False: the client leaves before the last."""
    step = len(body) // pieces + 1
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": body[at : at + step], "more_body": at + step < len(body)}
        for at in range(0, len(body), step)
    ]
    if not end:
        messages[-1] = {"type": "http.disconnect"}
    got: list[Any] = []

    async def receive() -> Any:
        if messages:
            if len(messages) == 1:
                await asyncio.to_thread(before_end)
            return messages.pop(0)
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        got.append(message)

    said = {"authorization": f"Bearer {key or installation.keys.admin}", "content-type": BOUNDARY}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/files",
        "raw_path": b"/v1/files",
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in said.items()],
        "client": ("127.0.0.1", 1),
    }
    in_process.runner.run(installation.application("files")(scope, receive, send))
    return got[0]["status"], b"".join(message.get("body", b"") for message in got[1:])


def test_a_form_that_arrives_byte_by_byte_is_read(installation: Installation, in_process: InProcessClient) -> None:
    body = form(PURPOSE, a_file(b"x\r\n--XyZ\n" * 9))
    status, answer = send_in_pieces(installation, in_process, body, len(body))
    assert status == 200, answer
    assert b'"bytes":81' in answer.replace(b" ", b"")


def test_a_key_that_is_revoked_while_a_form_arrives_makes_no_file(
    installation: Installation, in_process: InProcessClient
) -> None:
    before, keys, owner = stored(installation), installation.context.keys, installation.owner
    made, secret = keys.create(owner, NewKey("revoked meanwhile", frozenset({"api.files.write"})))
    status, answer = send_in_pieces(
        installation,
        in_process,
        form(PURPOSE, a_file(b"x" * 3_000_000)),
        9,
        key=secret,
        before_end=lambda: keys.revoke(owner, made.id),
    )
    assert (status, b"revoked or expired during the request" in answer) == (401, True), answer
    assert stored(installation) == before


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_client_that_leaves_half_way_leaves_nothing(
    size: int, installation: Installation, in_process: InProcessClient
) -> None:
    before = stored(installation)
    status, answer = send_in_pieces(installation, in_process, form(PURPOSE, a_file(b"x" * size)), 9, end=False)
    assert (status, b"ends before its last boundary" in answer) == (400, True)
    assert stored(installation) == before


def stored(installation: Installation) -> list[str]:
    """The keys of objects, and the unfinished files of their folder."""
    folder = installation.environment["LLMARINER_OBJECTS_FOLDER"]
    return sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())


LONG = "a" * 256
INVALID: dict[str, tuple[bytes, str, str | None]] = {
    "no file": (form(PURPOSE), "file", "missing_required_parameter"),
    "no purpose": (form(a_file()), "purpose", "missing_required_parameter"),
    "an empty form": (b"--XyZ--\r\n", "file", "missing_required_parameter"),
    "an unknown field": (form(PURPOSE, ("form-data; name=color", b"red"), a_file()), "color", "unknown_parameter"),
    "an unknown purpose": (form(("form-data; name=purpose", b"fun"), a_file()), "purpose", "invalid_value"),
    "an output purpose": (form(("form-data; name=purpose", b"batch_output"), a_file()), "purpose", "invalid_value"),
    "two purposes": (form(PURPOSE, PURPOSE, a_file()), "purpose", "duplicate_parameter"),
    "two files": (form(PURPOSE, a_file(), a_file()), "file", "duplicate_parameter"),
    "a file without a name": (form(PURPOSE, ("form-data; name=file", b"x")), "file", None),
    "an empty name": (form(PURPOSE, a_file(name="")), "file", None),
    "a name of dots": (form(PURPOSE, a_file(name="../..")), "file", None),
    "a long name": (form(PURPOSE, a_file(name=LONG)), "file", None),
    "a purpose that is a file": (form(('form-data; name=purpose; filename="x"', b"y"), a_file()), "purpose", None),
    "a long field": (form(("form-data; name=purpose", b"x" * 9999), a_file()), "purpose", None),
    "an anchor alone": (
        form(PURPOSE, ('form-data; name="expires_after[anchor]"', b"created_at"), a_file()),
        "expires_after[seconds]",
        "missing_required_parameter",
    ),
    "another anchor": (
        form(
            PURPOSE,
            ('form-data; name="expires_after[anchor]"', b"last_active_at"),
            ('form-data; name="expires_after[seconds]"', b"3600"),
            a_file(),
        ),
        "expires_after[anchor]",
        "invalid_value",
    ),
    **{
        f"{seconds!r} seconds": (
            form(
                PURPOSE,
                ('form-data; name="expires_after[anchor]"', b"created_at"),
                ('form-data; name="expires_after[seconds]"', seconds),
                a_file(),
            ),
            "expires_after[seconds]",
            "invalid_value",
        )
        for seconds in (b"3599", b"2592001", b"-1", b"1e4", b" 3600", "٣٦٠٠".encode(), b"9" * 99, b"")
    },
    "lines that are none": (form(("form-data; name=purpose", b"batch"), a_file(b"{]")), "file", "invalid_jsonl"),
    "lines before their purpose": (
        form(a_file(b"{]"), ("form-data; name=purpose", b"batch")),
        "file",
        "invalid_jsonl",
    ),
    "no image": (form(("form-data; name=purpose", b"vision"), a_file(b"GIF8")), "file", "unsupported_file"),
    "another length": (
        form(PURPOSE, a_file(headers="\r\nContent-Length: 6")),
        "file",
        "size_mismatch",
    ),
    "another MD5": (
        form(PURPOSE, a_file(headers=f"\r\nContent-MD5: {base64.b64encode(bytes(16)).decode()}")),
        "file",
        "checksum_mismatch",
    ),
    "no MD5": (form(PURPOSE, a_file(headers="\r\nContent-MD5: abc")), "file", None),
    "an MD5 that is not ASCII": (form(PURPOSE, a_file(headers="\r\nContent-MD5: \u00e9")), "file", None),
}
MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "no boundary": b"hello",
    "another boundary": form(PURPOSE, a_file()).replace(b"XyZ", b"Abc"),
    "no end": form(PURPOSE, a_file())[:-7],
    "no name": form(("form-data", b"x")),
    "an attachment": form(('attachment; name="file"; filename="x"', b"x")),
    "no disposition": b"--XyZ\r\nContent-Type: text/plain\r\n\r\nx\r\n--XyZ--\r\n",
    "two dispositions": form(('form-data; name="file"\r\nContent-Disposition: form-data', b"x")),
    "an encoded part": form(PURPOSE, a_file(headers="\r\nContent-Transfer-Encoding: base64")),
    "a field that is not UTF-8": form(("form-data; name=purpose", b"\xff"), a_file()),
    "a name that is not UTF-8": form(PURPOSE, a_file()).replace(b"a.txt", b"\xff.txt"),
    "many headers": b"--XyZ\r\n" + b"a: b\r\n" * 99 + b"\r\nx\r\n--XyZ--\r\n",
    "a long header": form((f'form-data; name="purpose"; x="{"y" * 9000}"', b"evals")),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_form_is_refused(case: str, post: Any, installation: Installation) -> None:
    before = stored(installation)
    body, param, code = INVALID[case]
    answer = post(body=body)
    assert_error(answer, 400, code)
    assert answer.error["param"] == param
    assert stored(installation) == before


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_form_is_refused(case: str, post: Any, installation: Installation) -> None:
    before = stored(installation)
    assert_error(post(body=MALFORMED[case]), 400, "invalid_form")
    assert stored(installation) == before


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "multipart/mixed; boundary=XyZ", "multipart/form-data"]
)
def test_another_media_type_is_refused(kind: str, post: Any) -> None:
    assert_error(post(PURPOSE, a_file(), content_type=kind), 415, "unsupported_media_type")


def test_a_matching_length_and_md5_are_accepted(post: Any) -> None:
    digest = base64.b64encode(hashlib.md5(b"hello", usedforsecurity=False).digest()).decode()
    answer = post(PURPOSE, a_file(headers=f"\r\nContent-Length: 5\r\nContent-MD5: {digest}"))
    assert answer.status == 200, answer.body


@pytest.fixture
def small(installation: Installation) -> Any:
    """Files of at most 4 bytes by form, and 6 bytes per project beyond what is there."""
    context, files = installation.context, installation.context.files
    with context.database.read() as session:
        used = session.value(select(func.max(file_usage.c.bytes))) or 0
    context.__dict__["files"] = Files(
        context.database, context.objects, FileSettings(form_bytes=4, project_bytes=used + 6)
    )
    yield
    context.__dict__["files"] = files


def test_a_form_of_the_maximum_size_takes_little_memory_and_disk(tmp_path: Path) -> None:
    measured = measure_form(tmp_path, FileSettings().form_bytes)
    assert measured["peak_memory"] < 160, measured
    assert measured["peak_disk"] < 32, measured


@pytest.mark.usefixtures("small")
def test_a_file_over_the_limit_is_refused(post: Any, installation: Installation) -> None:
    before = stored(installation)
    assert_error(post(PURPOSE, a_file(b"12345")), 413, "request_too_large")
    assert_error(post(PURPOSE, a_file(b"1234" + b"x" * 100_000)), 413, "request_too_large")
    assert_error(post(body=b"--XyZ" + b"\r\n" * 70_000), 413, "request_too_large")
    assert stored(installation) == before


@pytest.mark.usefixtures("small")
def test_a_full_quota_is_not_to_be_retried(post: Any) -> None:
    assert post(PURPOSE, a_file(b"1234")).status == 200
    answer = post(PURPOSE, a_file(b"5678"))
    assert_error(answer, 429, "storage_quota_exceeded")
    assert answer.headers["x-should-retry"] == "false"


NAMES = {
    "/etc/passwd": "passwd",
    "../../x.txt": "x.txt",
    "C:\\\\dir\\\\x.txt": "x.txt",
    "报告 (1).pdf": "报告 (1).pdf",
    "👩‍👩‍👧.txt": "👩‍👩‍👧.txt",
    "a\x07b\x1fc.txt": "abc.txt",
    "gpj\u202e.exe": "gpj.exe",
    "a%22b.txt": "a%22b.txt",
    'x";y.txt': "x",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_cleaned(name: str, post: Any) -> None:
    assert post(PURPOSE, a_file(name=name)).json["filename"] == NAMES[name]


def test_an_extended_name_counts(post: Any) -> None:
    head = 'form-data; name="file"; filename="fallback"; filename*=UTF-8\'\'na%C3%AFve%2F%E2%82%AC.txt'
    assert post(PURPOSE, (head, b"x")).json["filename"] == "€.txt"


@pytest.mark.parametrize(
    "note", ["\"; filename*=utf-8''evil.txt\"", '"a\\"; filename*=utf-8\'\'evil.txt"', "\"; filename*=utf-8''evil.txt"]
)
def test_an_extended_name_within_a_quoted_value_is_text(note: str, post: Any) -> None:
    head = f'form-data; name="file"; filename="good.txt"; note={note}'
    assert post(PURPOSE, (head, b"x")).json["filename"] == "good.txt"


def test_a_compressed_form_is_refused(post: Any, installation: Installation) -> None:
    before = stored(installation)
    answer = post(body=gzip.compress(form(PURPOSE, a_file())), content_encoding="gzip")
    assert_error(answer, 415, "unsupported_media_type")
    assert answer.headers["accept-encoding"] == "identity"
    assert stored(installation) == before
