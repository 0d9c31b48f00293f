"""Uploads by link and as plain bodies: what is stored, what is refused, and what a request that is cut off leaves."""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import func, select

from llmariner.errors import AuthenticationFailed, PermissionDenied, RateLimited
from llmariner.files.file import NewFile
from llmariner.files.purposes import Purpose
from llmariner.files.tables import files
from llmariner.http.authorization.links import UploadAccess
from llmariner.http.resources.raw_uploads import RawUpload
from llmariner.tenancy.keys.store import NewKey

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, assert_error
from .installation import Installation
from .processes import CHECKOUT, boot_command, process

Create = Callable[..., HttpResponse]
Put = Callable[..., HttpResponse]
DATA = b"0123456789"
NEW = {"filename": "Ergebnis é.txt", "purpose": "user_data"}


@pytest.fixture
def create(ask: Ask, admin: dict[str, str]) -> Create:
    """Make a link."""

    def created(headers: dict[str, str] = admin, **fields: Any) -> HttpResponse:
        return ask("files", HttpRequest("POST", "/v1/files:createUploadLink", {**NEW, **fields}, headers))

    return created


@pytest.fixture
def put(ask: Ask) -> Put:
    """PUT a body to a URL."""

    def sent(url: str, data: bytes = DATA, **headers: str) -> HttpResponse:
        parts = urlsplit(url)
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask("files", HttpRequest("PUT", parts.path, data, said, parts.query))

    return sent


def stored(installation: Installation) -> tuple[int, int]:
    """The number of files of the project, and of objects in the store."""
    with installation.context.database.read() as session:
        count = session.value(select(func.count()).select_from(files))
    return count, sum(1 for _ in installation.context.objects.list("files/"))


def test_a_link_makes_a_file_once(create: Create, put: Put, ask: Ask, admin: dict[str, str]) -> None:
    answer = create(mime_type="text/csv", bytes=10, sha256=hashlib.sha256(DATA).hexdigest().upper())
    link = answer.json
    assert (answer.status, link["object"], link["method"]) == (200, "upload.link", "PUT")
    assert link["expires_at"] == link["created_at"] + 3600
    assert answer.headers["cache-control"] == "no-store"
    made = put(link["url"])
    assert (made.status, made.json["filename"], made.json["bytes"]) == (200, NEW["filename"], 10)
    content = ask("files", HttpRequest("GET", f"/v1/files/{made.json['id']}/content", None, admin))
    assert (content.body, content.headers["content-type"]) == (DATA, "text/csv")
    again = put(link["url"])
    assert_error(again, 409, "link_used")
    assert again.error["file_id"] == made.json["id"]
    # It is a completed upload.
    cancel = ask("uploads", HttpRequest("POST", f"/v1/uploads/{link['id']}/cancel", {}, admin))
    assert_error(cancel, 409, "upload_completed")


REFUSED: dict[str, tuple[dict[str, Any], bytes, dict[str, str], int, str]] = {
    "too short": ({"bytes": 11}, DATA, {}, 400, "size_mismatch"),
    "too long": ({"bytes": 9}, DATA, {}, 413, "request_too_large"),
    "longer than the maximum": ({"max_bytes": 9}, DATA, {}, 413, "request_too_large"),
    "longer than its header": ({"max_bytes": 9}, DATA, {"content_length": ""}, 413, "request_too_large"),
    "another length than its header": ({}, DATA, {"content_length": "11"}, 400, "invalid_body"),
    "another content": ({"sha256": "a" * 64}, DATA, {}, 400, "checksum_mismatch"),
    "no JSON Lines": ({"purpose": "batch"}, DATA, {}, 400, "invalid_jsonl"),
    "no image": ({"purpose": "vision"}, DATA, {}, 400, "unsupported_file"),
    "compressed": ({}, gzip.compress(DATA), {"content_encoding": "gzip"}, 415, "unsupported_media_type"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_not_stored_and_leaves_the_link(
    case: str, create: Create, put: Put, installation: Installation
) -> None:
    fields, data, headers, status, code = REFUSED[case]
    url, before = create(**fields).json["url"], stored(installation)
    for _ in range(2):  # the link is not used up
        assert_error(put(url, data, **headers), status, code)
    assert stored(installation) == before


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"filename": ".."}, "filename"),
        ({"purpose": "batch_output"}, "purpose"),
        ({"bytes": 5, "max_bytes": 5}, "max_bytes"),
        ({"sha256": "x"}, "sha256"),
        ({"expires_in_seconds": 604_801}, "expires_in_seconds"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
    ],
)
def test_invalid_terms_are_refused(fields: dict[str, Any], param: str, create: Create) -> None:
    answer = create(**fields)
    assert answer.status == 400
    assert answer.error["param"] == param


def test_a_link_ends_with_its_key_and_takes_nothing_else(
    create: Create, put: Put, ask: Ask, installation: Installation
) -> None:
    keys, owner = installation.context.keys, installation.owner
    key, secret = keys.create(owner, NewKey("uploader", frozenset({"api.files.write"})))
    url = create({"authorization": f"Bearer {secret}"}).json["url"]
    query = urlsplit(url).query
    assert ask("files", HttpRequest("POST", "/v1/files", b"", {}, query)).status == 401
    keys.update(owner, key.id, allowed_sources=("10.0.0.0/8",))
    assert_error(put(url), 403, "source_not_allowed")
    keys.revoke(owner, key.id)
    assert_error(put(url), 403, "link_revoked")
    assert_error(put(url[:-9]), 403, "invalid_link")


@pytest.mark.parametrize("by_link", [True, False])
def test_a_right_that_ends_while_the_body_arrives_makes_no_file(by_link: bool, installation: Installation) -> None:
    context, owner = installation.context, installation.owner
    key, secret = context.keys.create(owner, NewKey(f"leaving {by_link}", frozenset({"api.files.write"})))
    caller, links = context.authenticator.authenticate(secret), context.upload_links
    assert caller is not None
    terms = links.terms(NewFile("a.txt", Purpose.USER_DATA, "text/plain"))
    link = links.open(links.create(caller, terms, 60).token) if by_link else None
    before = stored(installation)
    upload = RawUpload(context, UploadAccess(caller, link), terms, size_bytes=0)
    upload.begin()
    upload.write(DATA)
    context.keys.revoke(owner, key.id)
    with pytest.raises(PermissionDenied if by_link else AuthenticationFailed):
        upload.save()
    upload.close()
    assert stored(installation) == before


def test_a_link_receives_few_bodies_at_a_time(installation: Installation) -> None:
    """Else its holder keeps the quota of the project, and the disk, with bodies that do not end."""
    context = installation.context
    caller, links = context.authenticator.caller_for_user(installation.owner.user_id), context.upload_links
    terms = links.terms(NewFile("a.txt", Purpose.USER_DATA, "text/plain"))
    token = links.create(caller, terms, 60).token

    def begin(of: str) -> RawUpload:
        upload = RawUpload(context, UploadAccess(caller, links.open(of)), terms, size_bytes=terms.max_bytes)
        upload.begin()
        return upload

    unended = [begin(token) for _ in range(4)]
    with pytest.raises(RateLimited) as refused:
        begin(token)
    assert (refused.value.code, refused.value.headers) == ("link_in_use", {"retry-after": "5"})
    begin(links.create(caller, terms, 60).token).close()
    for upload in unended:
        upload.close()
        begin(token).close()


def test_a_key_sends_a_file_as_a_plain_body(put: Put, ask: Ask, admin: dict[str, str]) -> None:
    url = "/v1/files:upload?filename=a.txt&purpose=user_data&mime_type=text/markdown"
    made = put(url, **admin)
    assert (made.status, made.json["filename"], made.json["bytes"]) == (200, "a.txt", 10)
    for missing, param in (("?purpose=user_data", "filename"), ("?filename=a.txt", "purpose"), ("", "filename")):
        answer = put(f"/v1/files:upload{missing}", **admin)
        assert (answer.status, answer.error["param"]) == (400, param)
    assert put(url, b"", **admin).json["bytes"] == 0


def test_curl_uploads_and_what_is_cut_off_leaves_nothing(
    create: Create, installation: Installation, admin: dict[str, str], tmp_path: Path
) -> None:
    source = tmp_path / "data.bin"
    source.write_bytes(DATA * 500_000)
    digest = hashlib.sha256(DATA * 500_000).hexdigest()
    with process(boot_command(CHECKOUT / "functions/files"), installation.environment, tmp_path / "log") as port:
        # The longest name makes the longest URL.
        url = create({**admin, "host": f"127.0.0.1:{port}"}, filename="😀" * 251 + ".bin", sha256=digest).json["url"]
        before = stored(installation)
        target = url.partition("/v1")[2]
        for length in (b"content-length: 5000000", b"transfer-encoding: chunked"):
            with socket.create_connection(("127.0.0.1", port), 30) as connection:
                head = b"PUT /v1" + target.encode() + b" HTTP/1.1\r\nhost: x\r\n" + length + b"\r\n\r\n"
                connection.sendall(head + (b"10\r\n" if b"chunked" in length else b"") + DATA)
        sent = subprocess.run(
            ["curl", "-sS", "-T", str(source), url], capture_output=True, timeout=60, check=True
        ).stdout
        assert (json.loads(sent)["bytes"], json.loads(sent)["filename"]) == (5_000_000, "😀" * 251 + ".bin")
        deadline = time.monotonic() + 30
        while stored(installation) != (before[0] + 1, before[1] + 1) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert stored(installation) == (before[0] + 1, before[1] + 1)
        unfinished = Path(installation.environment["LLMARINER_OBJECTS_FOLDER"]) / ".unfinished"
        while list(unfinished.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert list(unfinished.iterdir()) == []
